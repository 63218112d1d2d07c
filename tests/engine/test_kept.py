"""Which checkpoints stay, and what a damaged one leads to."""

import logging
from types import SimpleNamespace

import pytest
import torch

from xmodaler_ssattn.engine.kept import KeepCheckpoints, choose_intact, damage, obsolete
from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.sealed import save_sealed

EPOCH_1, WITHIN_2, EPOCH_2, WITHIN_3 = (
    "model_Epoch_00001_Iter_0000002.pth",
    "model_Iter_0000004.pth",
    "model_Epoch_00002_Iter_0000005.pth",
    "model_Iter_0000007.pth",
)
ALL = (EPOCH_1, WITHIN_2, EPOCH_2, WITHIN_3)


def write(folder, names, last):
    for name in names:
        save_sealed(folder / name, {"model": {"w": torch.ones(3)}, "iteration": 1})
    (folder / "last_checkpoint").write_text(last)


@pytest.mark.parametrize(
    ("last", "every", "pointer", "removed"),
    [
        (1, 0, WITHIN_3, [EPOCH_1, WITHIN_2, EPOCH_2]),
        (2, 0, WITHIN_3, [EPOCH_1, WITHIN_2]),
        (2, 1, WITHIN_3, [WITHIN_2]),  # every epoch
        (1, 2, WITHIN_3, [EPOCH_1, WITHIN_2]),  # every second epoch
        (9, 0, WITHIN_3, []),
        (0, 0, WITHIN_3, []),  # all
        (1, 0, EPOCH_2, [EPOCH_1, WITHIN_2]),  # a later one may be of a run that was set back: it is left alone
        (1, 0, "model_final.pth", list(ALL)),
        (2, 0, "model_final.pth", [EPOCH_1, WITHIN_2, EPOCH_2]),
    ],
)
def test_the_last_ones_and_the_milestones_stay(tmp_path, last, every, pointer, removed):
    write(tmp_path, (*ALL, "model_final.pth", "model_best.pth"), pointer)
    assert [path.name for path in obsolete(tmp_path, last, every)] == removed


def test_without_a_last_checkpoint_nobody_knows_what_is_needed(tmp_path):
    write(tmp_path, ALL, EPOCH_1)
    (tmp_path / "last_checkpoint").unlink()
    assert obsolete(tmp_path, 1, 0) == []


def test_the_hook_removes_after_each_new_checkpoint_but_not_before_there_are_best_weights(tmp_path):
    hook = KeepCheckpoints(tmp_path, 1, 0, best=True)
    hook.trainer = SimpleNamespace()
    hook.after_step()  # no checkpoint yet
    write(tmp_path, ALL, WITHIN_3)
    hook.after_step()
    assert len(list(tmp_path.glob("model_*"))) == 4
    (tmp_path / "model_best.pth").touch()
    hook.after_step()
    assert sorted(path.name for path in tmp_path.glob("model_*")) == [WITHIN_3, "model_best.pth"]


def flip(path, place=-300):
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def test_of_a_damaged_checkpoint_the_one_before_is_used_and_both_are_named(tmp_path, caplog):
    write(tmp_path, ALL, WITHIN_3)
    choose_intact(tmp_path, "refuse")  # nothing is damaged
    flip(tmp_path / WITHIN_3)
    flip(tmp_path / EPOCH_2)
    with pytest.raises(UserError, match=rf"{WITHIN_3} has changed since.*'refuse'.*continues from {WITHIN_2}"):
        choose_intact(tmp_path, "refuse")
    assert (tmp_path / "last_checkpoint").read_text() == WITHIN_3
    with caplog.at_level(logging.WARNING, logger="xmodaler_ssattn"):
        logging.getLogger("xmodaler_ssattn").addHandler(caplog.handler)
        choose_intact(tmp_path, "previous")
        logging.getLogger("xmodaler_ssattn").removeHandler(caplog.handler)
    assert WITHIN_3 in caplog.text and WITHIN_2 in caplog.text
    assert (tmp_path / "last_checkpoint").read_text() == WITHIN_2


def test_without_an_intact_one_before_it_is_an_error(tmp_path):
    choose_intact(tmp_path, "previous")  # no checkpoint: nothing to do
    write(tmp_path, [EPOCH_1], EPOCH_1)
    flip(tmp_path / EPOCH_1)
    with pytest.raises(UserError, match="There is no intact checkpoint before it"):
        choose_intact(tmp_path, "previous")


def test_a_checkpoint_without_a_seal_is_compared_with_the_checksums_of_its_tensors(tmp_path):
    path = tmp_path / EPOCH_1
    torch.save({"model": {"w": torch.zeros(3000)}}, path)
    assert damage(path) == ""
    content = bytearray(path.read_bytes())
    content[content.index(bytes(4000)) + 2000] ^= 1
    path.write_bytes(content)
    assert "wrong checksum" in damage(path)
