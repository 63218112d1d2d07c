"""Every shipped yaml builds its model, and says what its header promises."""

from pathlib import Path

import pytest
import torch
import yaml

from xmodaler_ssattn.cli.configuring import load_config
from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.host import build_losses, build_model, build_optimizer

ROOT = Path(__file__).parents[1]
# *.plan.yaml are plans of `xmodaler reproduce`; tests/reproduce reads them.
SHIPPED = sorted(p for p in (ROOT / "configs").rglob("*.yaml") if not p.name.endswith(".plan.yaml"))
ROWS = ROOT / "configs" / "flickr30k_entities"


def load(path, tmp_path, *opts):
    """The config with a made-up vocabulary of the size it names."""
    size = load_config(str(path), device="cpu").MODEL.VOCAB_SIZE
    vocabulary = tmp_path / "vocabulary.txt"
    vocabulary.write_text("man\n" + "".join(f"w{i}\n" for i in range(size - 2)))
    if path.parent.name == "sample":  # else the Bottom-Up detector's 1,600 names are known
        (tmp_path / "sample.json").write_text('{"classes": ["man", "dog"]}')
    return load_config(str(path), ["INFERENCE.VOCAB", str(vocabulary), *opts], device="cpu")


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_shipped_yaml_builds_model_losses_and_optimiser(path, tmp_path):
    cfg = load(path, tmp_path)
    model = build_model(cfg)
    assert (getattr(model.decoder, "ss_attention", None) is not None) == cfg.MODEL.SS_ATTENTION.ENABLED
    assert [type(loss).__name__ for loss in build_losses(cfg)] == list(cfg.LOSSES.NAMES)
    assert build_optimizer(cfg, model).param_groups


def test_the_search_for_yaml_files_finds_them():
    names = {str(path.relative_to(ROOT)) for path in SHIPPED}
    assert {
        "configs/flickr30k_entities/base.yaml",
        "configs/sample/ss_attn.yaml",
    } <= names


def test_the_full_model_has_the_papers_numbers():
    cfg = load_config(str(ROWS / "ss_attn.yaml"), device="cpu")
    assert (cfg.DATALOADER.TRAIN_BATCH_SIZE, cfg.DATALOADER.SEQ_PER_SAMPLE) == (8, 5)
    assert (cfg.SOLVER.BASE_LR, cfg.LR_SCHEDULER.GAMMA, cfg.LR_SCHEDULER.STEP_SIZE) == (4e-4, 0.8, 3)
    assert (cfg.SOLVER.EPOCH, cfg.DATALOADER.MAX_FEAT_NUM, cfg.MODEL.VISUAL_EMBED.IN_DIM) == (50, 36, 2048)
    assert cfg.MODEL.UPDOWN.ATT_EMBED_SIZE == 512
    ss = cfg.MODEL.SS_ATTENTION
    assert (ss.ENABLED, ss.LAMBDA, ss.DIM, ss.ACTIVATION, ss.NUM_CLASSES) == (True, 0.5, 1, "relu", 1601)
    assert cfg.LOSSES.GROUNDING.MU == 1.0 and list(cfg.LOSSES.NAMES) == ["CrossEntropy", "GroundingLoss"]


@pytest.mark.parametrize(
    ("row", "enabled", "losses"),
    [
        ("updown", False, ["CrossEntropy"]),
        ("ss_attn_wo_gnd", True, ["CrossEntropy"]),
        ("ss_attn", True, ["CrossEntropy", "GroundingLoss"]),
    ],
)
def test_the_rows_of_table_1_differ_only_in_what_their_names_say(row, enabled, losses):
    base = load_config(str(ROWS / "base.yaml"), device="cpu")
    cfg = load_config(str(ROWS / f"{row}.yaml"), device="cpu")
    assert cfg.MODEL.SS_ATTENTION.ENABLED is enabled and list(cfg.LOSSES.NAMES) == losses
    base.MODEL.SS_ATTENTION.ENABLED, base.LOSSES.NAMES = enabled, losses
    base.OUTPUT_DIR = cfg.OUTPUT_DIR
    assert cfg.dump() == base.dump()


@pytest.mark.parametrize(
    ("row", "spatial", "semantic"),
    [("ss_attn_visual_only", "v", "v"), ("ss_attn_spatial_only", "p", "v"), ("ss_attn_semantic_only", "v", "c")],
)
def test_the_rows_of_table_2_replace_an_input_by_the_features_and_nothing_else(row, spatial, semantic):
    full = load_config(str(ROWS / "ss_attn.yaml"), device="cpu")
    cfg = load_config(str(ROWS / f"{row}.yaml"), device="cpu")
    full.MODEL.SS_ATTENTION.SPATIAL_INPUT, full.MODEL.SS_ATTENTION.SEMANTIC_INPUT = spatial, semantic
    full.OUTPUT_DIR = cfg.OUTPUT_DIR
    assert cfg.dump() == full.dump()


def write(tmp_path, text: str) -> str:
    path = tmp_path / "x.yaml"
    path.write_text(f"_BASE_: '{ROOT / 'configs/sample/ss_attn.yaml'}'\n{text}")
    return str(path)


def test_unknown_keys_and_wrong_types_come_in_one_message_with_what_was_meant(tmp_path):
    config = write(tmp_path, "MODEL:\n  SS_ATTENTION:\n    LAMDA: 0.7\n    DIM: many\n")
    with pytest.raises(UserError) as caught:
        load_config(config, ["SOLVER.EPOCHS", "3"], device="cpu")
    message = str(caught.value)
    assert "unknown config key MODEL.SS_ATTENTION.LAMDA; did you mean MODEL.SS_ATTENTION.LAMBDA?" in message
    assert "MODEL.SS_ATTENTION.DIM: expected an integer such as 1, got 'many'" in message
    assert "SOLVER.EPOCHS; did you mean SOLVER.EPOCH?" in message


def test_an_integer_is_accepted_as_a_float_in_yaml_and_on_the_command_line(tmp_path):
    cfg = load_config(write(tmp_path, "LOSSES:\n  GROUNDING:\n    MU: 0\n"), ["MODEL.SS_ATTENTION.LAMBDA", "1"])
    assert cfg.LOSSES.GROUNDING.MU == 0.0 and type(cfg.LOSSES.GROUNDING.MU) is float
    assert cfg.MODEL.SS_ATTENTION.LAMBDA == 1.0 and type(cfg.MODEL.SS_ATTENTION.LAMBDA) is float


def test_every_key_can_be_written_in_yaml_without_quotes():
    """ON, OFF, YES and NO are truth values there, and numbers are numbers."""

    def names(node):
        for name, value in node.items():
            yield name
            yield from names(value) if isinstance(value, dict) else ()

    found = set(names(load_config(str(ROWS / "ss_attn.yaml"), device="cpu")))
    assert {"WORD_ATTENTION", "ATTENTION"} <= found
    assert {name: yaml.safe_load(name) for name in found} == {name: name for name in found}


def test_a_yaml_that_would_run_code_is_refused_and_does_not_run_it(tmp_path):
    marker = tmp_path / "ran"
    config = write(tmp_path, f"OUTPUT_DIR: !!python/object/apply:os.system ['touch {marker}']\n")
    with pytest.raises(UserError, match="tag"):
        load_config(config)
    assert not marker.exists()


def test_pickled_weights_are_refused_and_missing_ones_named(tmp_path):
    config = write(tmp_path, "")
    with pytest.raises(UserError, match="old.pkl is a pickle file"):
        load_config(config, ["MODEL.WEIGHTS", "old.pkl"])
    with pytest.raises(UserError, match="MODEL.WEIGHTS: the file gone.pth does not exist"):
        load_config(config, ["MODEL.WEIGHTS", "gone.pth"])


@pytest.mark.parametrize(
    ("text", "message"),
    [("MODEL: [1", "yaml"), ("_BASE_: 'nowhere.yaml'\n", "nowhere.yaml")],
)
def test_broken_yaml_is_named(tmp_path, text, message):
    path = tmp_path / "x.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        load_config(str(path))


def test_a_missing_config_and_an_odd_number_of_options_are_named(tmp_path):
    with pytest.raises(UserError, match="nowhere.yaml does not exist"):
        load_config("nowhere.yaml")
    with pytest.raises(UserError, match="KEY VALUE pairs; got 1 words: SEED"):
        load_config(write(tmp_path, ""), ["SEED"])


def test_data_sets_every_path_and_the_options_win(tmp_path):
    cfg = load_config(write(tmp_path, ""), ["DATALOADER.REGIONS", "other.h5"], data="somewhere")
    assert cfg.DATALOADER.ANNO_FOLDER == "somewhere" and cfg.DATALOADER.REGIONS == "other.h5"
    assert cfg.INFERENCE.VOCAB == str(Path("somewhere/vocabulary.txt"))
    assert cfg.INFERENCE.VAL_ANNFILE == str(Path("somewhere/captions_val.json"))


def test_without_a_gpu_the_cpu_is_taken_unless_a_device_is_requested(tmp_path):
    config = write(tmp_path, "")
    assert load_config(config).MODEL.DEVICE == ("cuda" if torch.cuda.is_available() else "cpu")
    assert load_config(config, device="meta").MODEL.DEVICE == "meta"


def test_an_architecture_named_on_the_command_line_brings_its_keys(tmp_path):
    path = tmp_path / "bare.yaml"
    path.write_text("VERSION: 1\n")
    names = ["MODEL.META_ARCHITECTURE", "GroundedCaptioner", "MODEL.ENCODER", "UpDownEncoder"]
    names += ["MODEL.DECODER", "SSAttentionDecoder", "MODEL.PREDICTOR", "BasePredictor"]
    cfg = load_config(str(path), [*names, "MODEL.SS_ATTENTION.LAMBDA", "0.25"], device="cpu")
    assert cfg.MODEL.SS_ATTENTION.LAMBDA == 0.25


def test_classes_that_are_not_registered_come_in_one_message_with_the_known_ones(tmp_path):
    options = ["LOSSES.NAMES", "['CrossEntropy','Foo']", "SOLVER.NAME", "Bar", "DATASETS.VAL", "Baz"]
    with pytest.raises(UserError) as caught:
        load_config(write(tmp_path, ""), options, device="cpu")
    message = str(caught.value)
    assert "LOSSES.NAMES: no class is registered as 'Foo'; known are " in message
    assert "SOLVER.NAME" in message and "'Bar'" in message and "DATASETS.VAL" in message and "'Baz'" in message


def test_a_device_that_is_none_or_is_not_there_is_named_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="MODEL.DEVICE: expected .*, got 'gpu'"):
        load_config(write(tmp_path, ""), device="gpu")
    with pytest.raises(UserError, match="MODEL.DEVICE is cuda:1, but PyTorch sees no CUDA device"):
        load_config(write(tmp_path, ""), device="cuda:1")


def test_a_value_where_the_model_keys_should_be_is_named(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text("MODEL: 3\n")
    with pytest.raises(UserError, match=r"x\.yaml: MODEL: expected a group of keys, got 3"):
        load_config(str(path))
