"""Checkpoint files: whole or not there, plain data only, and every mismatch named."""

import os
import pickle

import pytest
import torch
from torch import nn

from xmodaler_ssattn.runtime import CheckpointError, XmodalerCheckpointer


def model(out: int = 2) -> nn.Module:
    torch.manual_seed(out)
    return nn.ModuleDict({"a": nn.Linear(3, out), "b": nn.Linear(2, 2)})


def test_weights_and_extra_values_come_back(tmp_path):
    saved = model()
    XmodalerCheckpointer(saved, str(tmp_path)).save("model_final", iteration=7)
    loaded = model(3)
    loaded["a"] = nn.Linear(3, 2)
    checkpointer = XmodalerCheckpointer(loaded, str(tmp_path))
    assert checkpointer.has_checkpoint()
    assert checkpointer.resume_or_load("", resume=True)["iteration"] == 7
    assert all(torch.equal(value, loaded.state_dict()[key]) for key, value in saved.state_dict().items())
    assert not any(checkpointer.incompatible)


@pytest.mark.parametrize("broken", ["torch.save", "os.replace"])
def test_a_save_that_fails_leaves_the_old_file_and_no_other(tmp_path, monkeypatch, broken):
    checkpointer = XmodalerCheckpointer(model(), str(tmp_path))
    checkpointer.save("model_final", iteration=1)
    before = (tmp_path / "model_final.pth").read_bytes()

    def fail(*args, **kwargs):
        if broken == "torch.save":
            args[1].write(b"half a file")
        raise OSError("no space left on device")

    owner = torch if broken == "torch.save" else os
    with monkeypatch.context() as patch, pytest.raises(OSError, match="no space left"):
        patch.setattr(owner, broken.split(".")[1], fail)
        checkpointer.save("model_final", iteration=2)
    assert (tmp_path / "model_final.pth").read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == ["last_checkpoint", "model_final.pth"]


def test_a_finished_file_is_as_readable_as_others(tmp_path):
    XmodalerCheckpointer(model(), str(tmp_path)).save("m")
    (tmp_path / "other").touch()
    assert (tmp_path / "m.pth").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_only_the_first_process_writes(tmp_path):
    XmodalerCheckpointer(model(), str(tmp_path), save_to_disk=False).save("m")
    assert not list(tmp_path.iterdir())


class Evil:
    def __reduce__(self):
        return os.mkdir, ("ran",)


@pytest.mark.parametrize("name", ["evil.pth", "evil.pkl"])
def test_a_checkpoint_with_code_is_refused_and_nothing_runs(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    content = {"model": {}, "extra": Evil()}
    torch.save(content, name) if name.endswith("pth") else (tmp_path / name).write_bytes(pickle.dumps(content))
    with pytest.raises(CheckpointError, match=rf"{name} is refused: it asks for (posix|nt)\.mkdir, which could run"):
        XmodalerCheckpointer(model()).load(name)
    assert not (tmp_path / "ran").exists()


def test_missing_damaged_and_foreign_files_are_named(tmp_path):
    checkpointer = XmodalerCheckpointer(model(), str(tmp_path))
    with pytest.raises(CheckpointError, match="There is no checkpoint nowhere"):
        checkpointer.load("nowhere.pth")
    checkpointer.save("whole")
    content = (tmp_path / "whole.pth").read_bytes()
    (tmp_path / "half.pth").write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match=r"half\.pth is damaged or incomplete"):
        checkpointer.load(str(tmp_path / "half.pth"))
    torch.save([1], tmp_path / "list.pth")
    with pytest.raises(CheckpointError, match=r"list\.pth: expected a dict of tensors, got a list"):
        checkpointer.load(str(tmp_path / "list.pth"))
    assert checkpointer.load("") == {}


def test_weights_alone_without_a_wrapping_dict_are_accepted(tmp_path):
    torch.save(model().state_dict(), tmp_path / "bare.pth")
    target = model(2)
    target["a"].weight.data.zero_()
    XmodalerCheckpointer(target).load(str(tmp_path / "bare.pth"))
    assert torch.equal(target["a"].weight, model()["a"].weight)


def test_what_does_not_fit_is_reported_once_each_and_the_rest_is_loaded(tmp_path, caplog):
    other = model(4)
    other["c"] = nn.Linear(1, 1)
    torch.save({"model": other.state_dict()}, tmp_path / "other.pth")
    target = model()
    target["d"] = nn.Linear(1, 1, bias=False)
    checkpointer = XmodalerCheckpointer(target, str(tmp_path))
    checkpointer.load(str(tmp_path / "other.pth"))
    assert torch.equal(target["b"].weight, other["b"].weight)
    assert checkpointer.incompatible.missing_keys == ["d.weight"]
    assert sorted(checkpointer.incompatible.unexpected_keys) == ["c.bias", "c.weight"]
    assert [entry[0] for entry in checkpointer.incompatible.incorrect_shapes] == ["a.weight", "a.bias"]
    assert "a.weight: shape (4, 3) in the file, (2, 3) in the model, left out" in caplog.text
    assert "not in the file, not changed: d.weight" in caplog.text
    checkpointer.tag_last_checkpoint("other.pth")
    with pytest.raises(CheckpointError, match=r"(?s)Cannot resume from .*MODEL\.WEIGHTS"):
        checkpointer.resume_or_load("", resume=True)
