"""Config files: inheritance, safety, and messages that name key, file and remedy."""

import os
from pathlib import Path

import pytest

from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.runtime import CfgNode, Registry, add_config, configurable, get_cfg, kfg


def write(folder: Path, name: str, text: str) -> str:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)
    return str(folder / name)


def test_a_file_wins_over_its_base_and_a_later_base_over_an_earlier_one(tmp_path):
    write(tmp_path, "a.yaml", "SOLVER: {EPOCH: 1, BASE_LR: 0.1, EPS: 0.5}")
    write(tmp_path, "sub/b.yaml", "SOLVER: {EPOCH: 2, BASE_LR: 0.2}")
    cfg = get_cfg()
    cfg.merge_from_file(write(tmp_path, "c.yaml", "_BASE_: [a.yaml, sub/b.yaml]\nSOLVER: {EPOCH: 3}"))
    assert (cfg.SOLVER.EPOCH, cfg.SOLVER.BASE_LR, cfg.SOLVER.EPS) == (3, 0.2, 0.5)


def test_a_missing_base_is_named_with_the_file_that_asks_for_it(tmp_path):
    path = write(tmp_path, "c.yaml", "_BASE_: nowhere.yaml")
    with pytest.raises(UserError, match=r"The _BASE_ of .*c\.yaml: the file .*nowhere\.yaml does not exist"):
        get_cfg().merge_from_file(path)


def test_a_circle_of_bases_is_an_error(tmp_path):
    write(tmp_path, "a.yaml", "_BASE_: b.yaml")
    with pytest.raises(UserError, match="leads back"):
        get_cfg().merge_from_file(write(tmp_path, "b.yaml", "_BASE_: a.yaml"))


@pytest.mark.parametrize("read", ["merge_from_file", "load_from_file_tmp"])
def test_a_python_tag_is_refused_by_name_and_nothing_runs(tmp_path, read):
    marker = tmp_path / "ran"
    bad = write(tmp_path, "bad.yaml", f"SEED: 1\nOUTPUT_DIR: !!python/object/apply:os.mkdir ['{marker}']\n")
    inherits = write(tmp_path, "inherits.yaml", "_BASE_: bad.yaml")
    for path in (bad, inherits):
        with pytest.raises(UserError, match=r"bad\.yaml, line 2: .*!!python/object/apply:os\.mkdir"):
            getattr(get_cfg(), read)(path)
        with pytest.raises(UserError, match="allow_unsafe=True is refused"):
            getattr(get_cfg(), read)(path, allow_unsafe=True)
    assert not marker.exists()


def test_a_key_written_twice_is_refused_because_yaml_would_keep_the_last(tmp_path):
    path = write(tmp_path, "c.yaml", "MODEL: {DECODER_DIM: 8}\nMODEL: {ENCODER_DIM: 8}\n")
    with pytest.raises(UserError, match="line 2: the key 'MODEL' is duplicated"):
        get_cfg().merge_from_file(path)


@pytest.mark.parametrize(
    "text, message", [("SOLVER: {EPOCH", "not valid yaml"), ("- 1\n- 2", "a mapping"), ("_BASE_: 7", "file name")]
)
def test_a_file_that_is_not_a_config_is_explained(tmp_path, text, message):
    with pytest.raises(UserError, match=message):
        get_cfg().merge_from_file(write(tmp_path, "c.yaml", text))


def test_an_empty_file_changes_nothing(tmp_path):
    cfg = get_cfg()
    cfg.merge_from_file(write(tmp_path, "c.yaml", "# nothing yet\n"))
    assert cfg == get_cfg()


def test_all_problems_come_in_one_message_with_file_and_nearest_key_and_nothing_is_merged(tmp_path):
    write(tmp_path, "base.yaml", "SOLVER: {BASE_LEARNING_RATE: 0.1}")
    path = write(tmp_path, "c.yaml", "_BASE_: base.yaml\nSOLVER: {EPOCHS: 3, EPOCH: 7}\nMODEL: {DECODER_DIM: big}\n")
    cfg = get_cfg()
    with pytest.raises(UserError) as caught:
        cfg.merge_from_file(path)
    message = str(caught.value)
    assert f"{path}: unknown config key SOLVER.EPOCHS; did you mean SOLVER.EPOCH?" in message
    assert f"{tmp_path / 'base.yaml'}: unknown config key SOLVER.BASE_LEARNING_RATE" in message
    assert f"{path}: MODEL.DECODER_DIM: expected an integer such as 1024, got 'big'" in message
    assert cfg == get_cfg()


@pytest.mark.parametrize(
    "key, value, expected",
    [
        ("SOLVER.BASE_LR", "1", 1.0),  # an integer for a float; upstream refuses it
        ("SOLVER.EPS", "1e-8", 1e-8),  # yaml 1.1 takes this for text
        ("SOLVER.GRAD_CLIP", "inf", float("inf")),
        ("SOLVER.BETAS", "(0.5, 0.9)", [0.5, 0.9]),
        ("SOLVER.AMSGRAD", "True", True),
        ("MODEL.WEIGHTS", "2017", "2017"),  # a file name of digits stays text
        ("MODEL.WEIGHTS", "None", "None"),
        ("SOLVER.EPOCH", "None", None),  # as upstream: None replaces anything
    ],
)
def test_values_become_the_type_of_the_default(key, value, expected):
    cfg = get_cfg()
    cfg.merge_from_list([key, value])
    group, leaf = key.split(".")
    assert cfg[group][leaf] == expected
    assert type(cfg[group][leaf]) is type(expected)


@pytest.mark.parametrize(
    "key, value, message",
    [
        ("SOLVER.EPOCH", "2.5", "the command line: SOLVER.EPOCH: expected an integer such as 10, got 2.5"),
        ("SOLVER.EPOCH", "True", "expected an integer"),
        ("SOLVER.BASE_LR", "True", "expected a number"),
        ("SOLVER.AMSGRAD", "1", "expected True or False"),
        ("SOLVER", "1", "expected a group of keys"),
        ("SOLVER.EPOCH.X", "1", "unknown config key"),
        ("SLOVER.EPOCH", "1", "did you mean SOLVER.EPOCH"),
    ],
)
def test_wrong_values_are_refused_with_key_expected_and_received(key, value, message):
    with pytest.raises(UserError, match=message):
        get_cfg().merge_from_list([key, value])


def test_a_value_in_place_of_a_group_is_refused_with_the_file(tmp_path):
    path = write(tmp_path, "c.yaml", "SOLVER.EPOCH: 4\nSOLVER: 3\n")
    with pytest.raises(UserError, match=r"c\.yaml: SOLVER: expected a group of keys"):
        get_cfg().load_from_file_tmp(path)


def test_an_odd_list_of_pairs_is_refused():
    with pytest.raises(UserError, match="KEY VALUE pairs, got 1 words: SEED"):
        get_cfg().merge_from_list(["SEED"])


def test_a_date_is_refused_with_its_key(tmp_path):
    path = write(tmp_path, "c.yaml", "SEED: 2024-01-01")
    with pytest.raises(UserError, match="SEED"):
        get_cfg().merge_from_file(path)
    with pytest.raises(UserError, match="SEED"):
        get_cfg().load_from_file_tmp(path)


def test_a_frozen_config_cannot_be_set():
    cfg = get_cfg()
    cfg.freeze()
    with pytest.raises(AttributeError):
        cfg.SEED = 3


def test_the_parts_that_a_yaml_names_add_their_keys_and_doing_it_twice_keeps_values(tmp_path):
    path = write(tmp_path, "c.yaml", "MODEL: {META_ARCHITECTURE: RnnAttEncoderDecoder, DECODER: UpDownDecoder}")
    cfg = get_cfg()
    assert "UPDOWN" not in cfg.MODEL
    raw = cfg.load_from_file_tmp(path)
    assert set(raw.MODEL) == {"META_ARCHITECTURE", "DECODER"}  # no ENCODER: upstream raises AttributeError
    add_config(cfg, raw)
    cfg.MODEL.UPDOWN.DROPOUT1 = 0.5
    add_config(cfg, raw)
    assert cfg.MODEL.UPDOWN.DROPOUT1 == 0.5
    with pytest.raises(UserError, match="META_ARCHITECTURE"):
        add_config(cfg, CfgNode({"MODEL": {}}))


@pytest.mark.skipif("XMODALER_HOME" not in os.environ, reason="XMODALER_HOME names no clone of upstream X-modaler")
@pytest.mark.parametrize("name", ["updown/updown.yaml", "updown/updown_rl.yaml"])
def test_upstreams_own_yaml_merges(name):
    path = Path(os.environ["XMODALER_HOME"], "configs/image_caption", name)
    cfg = get_cfg()
    add_config(cfg, cfg.load_from_file_tmp(path))
    cfg.merge_from_file(path)
    assert (cfg.MODEL.UPDOWN.ATT_EMBED_SIZE, cfg.SOLVER.GRAD_CLIP_TYPE, cfg.LR_SCHEDULER.GAMMA) == (512, "value", 0.8)


def test_every_batch_key_is_its_own_name():
    assert all(key == value for key, value in kfg.items())
    assert kfg.ATT_FEATS == "ATT_FEATS"


class Part:
    @configurable
    def __init__(self, *, a, b=2, c=3):
        self.values = (a, b, c)

    @classmethod
    def from_config(cls, cfg, factor=1):
        return {"a": cfg.SEED * factor, "b": 20}


def test_configurable_takes_arguments_or_a_config_with_replacements():
    cfg = CfgNode({"SEED": 5})
    assert Part(a=1).values == (1, 2, 3)
    assert Part(cfg).values == (5, 20, 3)
    assert Part(cfg=cfg).values == (5, 20, 3)
    assert Part(cfg, 2, c=4).values == (10, 20, 4)  # 2 goes to from_config, c to the constructor
    assert Part(cfg, factor=3, b=1).values == (15, 1, 3)


def test_configurable_works_on_functions_and_names_what_is_wrong():
    @configurable(from_config=lambda cfg: {"a": cfg.SEED})
    def function(a, b=2):
        return a, b

    assert function(1) == (1, 2)
    assert function(CfgNode({"SEED": 5}), b=7) == (5, 7)

    class NoFromConfig:
        @configurable
        def __init__(self, a=1):
            self.a = a

    with pytest.raises(AttributeError, match="NoFromConfig was called with a config but has no from_config"):
        NoFromConfig(CfgNode())


def test_a_registry_answers_an_unknown_name_with_the_nearest_and_refuses_a_name_twice():
    registry = Registry("TOY")
    registry.register(Part)
    assert registry.get("Part") is Part
    with pytest.raises(KeyError, match="did you mean Part.*Known names: Part"):
        registry.get("Pert")
    with pytest.raises(AssertionError, match="already registered"):
        registry.register(Part)
