"""What a run is tied to, on either host: its settings and data when resumed, its word list wherever it is loaded."""

import logging
from pathlib import Path

import pytest
import torch
import yaml

from xmodaler_ssattn import host
from xmodaler_ssattn.cli.captioning import load_captioner
from xmodaler_ssattn.cli.configuring import load_config
from xmodaler_ssattn.cli.main import main
from xmodaler_ssattn.engine import resume
from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.modeling.word_list import STATE, from_state, words_sha256

CONFIG = str(Path(__file__).parents[2] / "configs" / "sample" / "ss_attn.yaml")
# 32 training pictures in batches of 8: 4 steps per epoch.
SMALL = {
    "DATALOADER.SAMPLE_SCENES": 40,
    "DATALOADER.TRAIN_BATCH_SIZE": 8,
    "DATALOADER.NUM_WORKERS": 0,
    "MODEL.VISUAL_EMBED.IN_DIM": 32,
    "MODEL.DECODER_DIM": 16,
    "SOLVER.EPOCH": 1,
    "SOLVER.EVAL_PERIOD": 2,
    "INFERENCE.METRICS": "['CIDEr']",
    "INFERENCE.FINAL_METRICS": "[]",
}


def words_of(out: Path, **changes) -> list[str]:
    merged = SMALL | {key.replace("__", "."): value for key, value in changes.items()} | {"OUTPUT_DIR": out}
    return [str(word) for pair in merged.items() for word in pair]


def train(data: Path, out: Path, *flags, **changes) -> int:
    return main(
        ["train", "--config-file", CONFIG, "--data", str(data), "--device", "cpu", *flags, *words_of(out, **changes)]
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("scenes") / "data"


@pytest.fixture(scope="module")
def run(data, tmp_path_factory) -> Path:
    """One epoch of four steps."""
    out = tmp_path_factory.mktemp("run") / "out"
    assert train(data, out) == 0
    return out


@pytest.fixture
def other_words(data, tmp_path) -> Path:
    """A list of the same length, in another order; UNK stays last."""
    words = (data / "vocabulary.txt").read_text(encoding="utf-8").split()
    path = tmp_path / "other.txt"
    path.write_text("\n".join([*words[-2::-1], words[-1]]) + "\n", encoding="utf-8")
    return path


# --- resuming ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("changes", "named"),
    [
        # 8 images per step make 4 steps per epoch, 4 would make 8: step 4 would be the middle of the first epoch.
        ({"DATALOADER__TRAIN_BATCH_SIZE": 4}, "times processes): 8 in the checkpoint, 4 now"),
        ({"DATALOADER__SEQ_PER_SAMPLE": 2}, "DATALOADER.SEQ_PER_SAMPLE: 5 in the checkpoint, 2 now"),
        # The optimiser's own rates come back from the file: another rate would have no effect.
        ({"SOLVER__BASE_LR": 0.5}, "0.5 now"),
        ({"LOSSES__GROUNDING__MU": 0.25}, "LOSSES.GROUNDING.MU: 1.0 in the checkpoint, 0.25 now"),
        ({"MODEL__DECODER_DIM": 24}, "MODEL.DECODER_DIM: 16 in the checkpoint, 24 now"),
        ({"SOLVER__NAME": "Adam"}, "SOLVER.NAME: 'FusedAdam' in the checkpoint, 'Adam' now"),
    ],
)
def test_another_run_is_not_resumed_and_both_values_are_named(data, run, changes, named, capsys):
    before = (run / "config.yaml").read_text()
    assert train(data, run, "--resume", **{"SOLVER__EPOCH": 2} | changes) == 2
    assert named in capsys.readouterr().err
    assert (run / "config.yaml").read_text() == before  # nothing in the folder has changed


def test_everything_that_differs_is_in_one_message(data, run, capsys):
    assert train(data, run, "--resume", SOLVER__EPOCH=2, SOLVER__BASE_LR=0.5, DATALOADER__TRAIN_BATCH_SIZE=4) == 2
    message = capsys.readouterr().err
    assert "SOLVER.BASE_LR" in message and "images per step" in message and "MODEL.WEIGHTS" in message


def test_a_run_with_more_completed_epochs_than_requested_is_not_resumed(data, tmp_path, capsys):
    assert train(data, tmp_path, SOLVER__EPOCH=2) == 0
    assert train(data, tmp_path, "--resume", SOLVER__EPOCH=1) == 2
    message = capsys.readouterr().err
    assert "SOLVER.EPOCH is 1" in message and "2 completed epochs" in message


def test_other_annotations_under_the_same_name_are_not_resumed(data, run, tmp_path, capsys):
    import shutil

    other = tmp_path / "data"
    shutil.copytree(data, other)
    assert train(other, run, "--resume", SOLVER__EPOCH=1) == 0  # the same content in another place
    capsys.readouterr()
    text = (other / "train.json").read_text(encoding="utf-8")
    (other / "train.json").write_text(text + "\n", encoding="utf-8")
    assert train(other, run, "--resume", SOLVER__EPOCH=2) == 2
    assert "train.json has changed since it was written" in capsys.readouterr().err
    (other / "checksums.json").write_text("{}")  # changed on purpose
    assert train(other, run, "--resume", SOLVER__EPOCH=2) == 2
    assert "training annotations (sha256 of train.json)" in capsys.readouterr().err


def test_a_checkpoint_from_before_the_comparison_falls_back_to_the_config_beside_it(data, run, tmp_path, capsys):
    for name in ("config.yaml", "last_checkpoint", "model_final.pth"):
        (tmp_path / name).write_bytes((run / name).read_bytes())
    checkpoint = torch.load(tmp_path / "model_final.pth", weights_only=True)
    del checkpoint["trainer"]["hooks"]
    torch.save(checkpoint, tmp_path / "model_final.pth")
    assert train(data, tmp_path, "--resume", SOLVER__EPOCH=2, DATALOADER__TRAIN_BATCH_SIZE=4) == 2
    assert "DATALOADER.TRAIN_BATCH_SIZE: 8 in the checkpoint, 4 now" in capsys.readouterr().err
    assert train(data, tmp_path, "--resume", SOLVER__EPOCH=2) == 0


def test_settings_that_do_not_change_the_training_may_differ_and_are_logged(caplog):
    stored = {"settings": {"SEED": 1, "INFERENCE.METRICS": ["CIDEr"], "LOSSES.NAMES": ["a"]}, "facts": {}}
    now = {"settings": {"SEED": 2, "INFERENCE.METRICS": ["F1"], "LOSSES.NAMES": ["a"], "NEW.KEY": 1}, "facts": {}}
    with caplog.at_level(logging.INFO):
        resume.check_same_run(stored, now, "the checkpoint")
    assert "different SEED: 1 in the checkpoint, 2 now" in caplog.text and "INFERENCE.METRICS" in caplog.text


class FakeTrainer:
    """32 images in batches of 4; ``iter`` is the last iteration that was done."""

    def __init__(self, cfg, images=32, iter=7):
        self.cfg, self.iter, self.iters_per_epoch = cfg, iter, images // 4
        self.max_iter = cfg.SOLVER.EPOCH * self.iters_per_epoch
        self.train_data_loader = type("Loader", (), {"dataset": [0] * images})


def test_half_the_batch_in_twice_the_processes_is_the_same_run_and_another_number_of_images_is_not(data, monkeypatch):
    def hook(images=32, **changes):
        cfg = load_config(CONFIG, words_of(Path("out"), **changes), device="cpu")
        made = resume.SameRun(cfg, {"source": "x"})
        made.trainer = FakeTrainer(cfg, images)
        return made

    monkeypatch.setattr(resume.comm, "get_world_size", lambda: 2)
    stored = hook(DATALOADER__TRAIN_BATCH_SIZE=4).state_dict()
    assert stored["facts"][resume.IMAGES_PER_STEP] == 8 and stored["facts"][resume.ITERATIONS] == 8
    with pytest.raises(UserError, match=r"\(DATALOADER.TRAIN_BATCH_SIZE times processes\): 8 in the .*, 16 now"):
        hook(DATALOADER__TRAIN_BATCH_SIZE=8).load_state_dict(stored)
    monkeypatch.setattr(resume.comm, "get_world_size", lambda: 1)
    hook(DATALOADER__TRAIN_BATCH_SIZE=8).load_state_dict(stored)
    with pytest.raises(UserError, match="training images: 32 in the checkpoint, 36 now"):
        hook(images=36, DATALOADER__TRAIN_BATCH_SIZE=8).load_state_dict(stored)


def test_an_evaluation_asks_for_no_equal_run_but_for_a_checkpoint_and_says_how_the_model_differs(
    data, run, tmp_path, capsys, caplog
):
    import shutil

    other = tmp_path / "copy"
    shutil.copytree(run, other)
    changes = {"DATALOADER__TRAIN_BATCH_SIZE": 4, "SOLVER__BASE_LR": 0.5}
    assert train(data, other, "--eval-only", "--resume", **changes) == 0
    with caplog.at_level(logging.WARNING):
        assert train(data, other, "--eval-only", "--resume", MODEL__SS_ATTENTION__LAMBDA=0.25) == 0
    assert (
        "trained with a different MODEL.SS_ATTENTION.LAMBDA: 0.5, now 0.25" in caplog.text + capsys.readouterr().out
    )  # a run may take the line past pytest
    assert train(data, tmp_path / "nothing", "--eval-only", "--resume") == 2  # and no random weights are scored
    assert "there is no checkpoint in" in capsys.readouterr().err


# --- the word list ------------------------------------------------------------------------------------------
def test_checkpoints_and_the_config_beside_them_carry_the_digest_of_the_word_list(data, run):
    digest = words_sha256((data / "vocabulary.txt").read_text(encoding="utf-8").split())
    assert from_state(torch.load(run / "model_final.pth", weights_only=True)["model"][STATE]) == digest
    assert yaml.safe_load((run / "config.yaml").read_text())["MODEL"]["VOCABULARY_SHA256"] == digest


def test_another_word_list_of_the_same_length_is_refused_wherever_weights_are_read(
    data, run, other_words, tmp_path, capsys
):
    weights, other = run / "model_final.pth", ["INFERENCE.VOCAB", str(other_words)]
    picture = str(next((data / "Images").iterdir()))
    common = ["--config-file", CONFIG, "--data", str(data), "--device", "cpu"]
    commands = {
        "caption": ["caption", picture, "--weights", str(run), "--vocabulary", str(other_words)],
        "eval": ["eval", "--weights", str(weights), *common, *words_of(tmp_path / "eval"), *other],
        "resume": ["train", "--resume", *common, *words_of(run, SOLVER__EPOCH=2), *other],
        "second stage": ["train", *common, *words_of(tmp_path / "two", MODEL__WEIGHTS=weights), *other],
        "the config of the run": ["train", "--config-file", str(run / "config.yaml"), *words_of(tmp_path), *other],
    }
    for name, command in commands.items():
        assert main(command) == 2, name
        message = capsys.readouterr().err
        assert "trained with another word list" in message and "INFERENCE.VOCAB" in message, name


def test_the_hosts_own_loading_refuses_another_word_list_too(data, run, other_words):
    """A script that builds from the registries does not go through our command line."""
    cfg = load_config(str(run / "config.yaml"), ["MODEL.VOCABULARY_SHA256", "''", "INFERENCE.VOCAB", str(other_words)])
    model = host.build_model(cfg)
    with pytest.raises(UserError, match="The weights: trained with another word list"):
        host.XmodalerCheckpointer(model).load(str(run / "model_final.pth"), checkpointables=[])
    with pytest.raises(UserError, match="The weights: trained with another word list"):
        model.load_state_dict(torch.load(run / "model_final.pth", weights_only=True)["model"])


def test_weights_without_a_digest_still_load_with_a_warning(run, tmp_path, caplog):
    for name in ("config.yaml", "model_final.pth"):
        (tmp_path / name).write_bytes((run / name).read_bytes())
    checkpoint = torch.load(run / "model_final.pth", weights_only=True)
    del checkpoint["model"][STATE]
    torch.save(checkpoint, tmp_path / "model_final.pth")
    with caplog.at_level(logging.WARNING):
        captioner = load_captioner(tmp_path / "model_final.pth", device="cpu")
    assert "do not contain the digest of their word list" in caplog.text
    captioner.model.load_state_dict(checkpoint["model"])  # strict


def test_a_model_without_a_word_list_keeps_the_digest_that_it_loads(run):
    cfg = load_config(str(run / "config.yaml"), device="cpu")
    model = host.build_model(cfg)
    digest, model.words_sha256 = model.words_sha256, ""
    model.load_state_dict(torch.load(run / "model_final.pth", weights_only=True)["model"])
    assert model.words_sha256 == digest and from_state(model.state_dict()[STATE]) == digest
