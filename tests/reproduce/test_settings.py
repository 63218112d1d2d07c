"""From a row to a config, and what makes two configs the same run."""

from pathlib import Path

import pytest

from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.reproduce import settings
from xmodaler_ssattn.reproduce.plan import Plan, Row
from xmodaler_ssattn.reproduce.settings import DataFolder, Machine, differences, identity_of, identity_sha256

ROOT = Path(__file__).parents[2]
PAPER = ROOT / "configs" / "flickr30k_entities"
SAMPLE = ROOT / "configs" / "sample" / "base.yaml"


def data(tmp_path, sha="d" * 64) -> DataFolder:
    folder = tmp_path / "data"
    folder.mkdir(parents=True, exist_ok=True)
    return DataFolder(folder, {"MODEL.VOCAB_SIZE": 100, "MODEL.VISUAL_EMBED.IN_DIM": 32}, sha)


def row(name, **changes) -> Row:
    return Row(name, PAPER / f"{name}.yaml", name, **changes)


def plan(base=None, **common) -> Plan:
    common = {key.replace("__", "."): value for key, value in common.items()}
    return Plan("t", PAPER / "x.plan.yaml", {}, common, base)


def config(tmp_path, chosen, made_for, seed=0, output="out", machine=None):
    folder = data(tmp_path)
    file, values = settings.settings_of(made_for, chosen, seed, folder)
    training = settings.training_values(values, tmp_path / output)
    return settings.config_of(file, training, folder, machine or Machine("cpu")), folder


def test_the_run_is_the_rows_config_on_the_data_with_the_seed_and_without_test(tmp_path):
    cfg, folder = config(tmp_path, row("ss_attn_wo_gnd"), plan(), seed=7)
    assert list(cfg.LOSSES.NAMES) == ["CrossEntropy"] and cfg.SOLVER.EPOCH == 50
    assert (cfg.SEED, cfg.MODEL.VOCAB_SIZE, cfg.MODEL.VISUAL_EMBED.IN_DIM) == (7, 100, 32)
    assert cfg.DATALOADER.REGIONS == str(folder.path / "regions.h5")
    assert (cfg.DATASETS.VAL, cfg.DATASETS.TEST) == ("Flickr30kEntitiesDataset", "")
    assert cfg.SOLVER.KEEP_BEST == "val/CIDEr" and list(cfg.INFERENCE.FINAL_METRICS) == []


def test_later_settings_win_row_over_plan_over_config_over_data(tmp_path):
    cfg, _ = config(
        tmp_path,
        row("ss_attn", set={"SOLVER.EPOCH": 3, "MODEL.SS_ATTENTION.LAMBDA": 2}),
        plan(SOLVER__EPOCH=4, SOLVER__EVAL_PERIOD=2, MODEL__VISUAL_EMBED__IN_DIM=16),
    )
    assert (cfg.SOLVER.EPOCH, cfg.SOLVER.EVAL_PERIOD, cfg.MODEL.VISUAL_EMBED.IN_DIM) == (3, 2, 16)
    assert cfg.MODEL.SS_ATTENTION.LAMBDA == 2.0


def test_data_in_a_value_is_the_data_folder(tmp_path):
    changed = row("ss_attn", set={"DATALOADER.REGIONS": "{data}/shuffled.h5"})
    cfg, folder = config(tmp_path, changed, plan())
    assert cfg.DATALOADER.REGIONS == str(folder.path / "shuffled.h5")


@pytest.mark.parametrize(
    ("name", "difference"),
    [
        ("ss_attn", {}),
        ("updown", {"MODEL.SS_ATTENTION.ENABLED": False, "LOSSES.NAMES": ["CrossEntropy"]}),
        ("ss_attn_visual_only", {"MODEL.SS_ATTENTION.SPATIAL_INPUT": "v", "MODEL.SS_ATTENTION.SEMANTIC_INPUT": "v"}),
    ],
)
def test_a_rows_difference_is_what_its_file_changes_of_base_yaml(name, difference):
    assert settings.difference_of(PAPER / f"{name}.yaml") == difference


def test_a_difference_goes_through_every_file_between_the_row_and_base_yaml(tmp_path):
    (tmp_path / "base.yaml").write_text("SEED: 1\nSOLVER: {EPOCH: 9}\n")
    (tmp_path / "middle.yaml").write_text("_BASE_: base.yaml\nSOLVER: {EPOCH: 5, BASE_LR: 0.1}\nOUTPUT_DIR: x\n")
    (tmp_path / "row.yaml").write_text("_BASE_: middle.yaml\nSOLVER: {EPOCH: 6}\nOUTPUT_DIR: y\n")
    assert settings.difference_of(tmp_path / "row.yaml") == {"SOLVER.EPOCH": 6, "SOLVER.BASE_LR": 0.1}
    (tmp_path / "alone.yaml").write_text("SEED: 1\n")
    with pytest.raises(UserError, match=r"a chain of _BASE_ that ends in base.yaml"):
        settings.difference_of(tmp_path / "alone.yaml")


def test_a_row_on_another_base_has_that_bases_sizes_and_its_own_difference(tmp_path):
    cfg, _ = config(tmp_path, row("ss_attn_spatial_only"), plan(SAMPLE))
    assert cfg.MODEL.DECODER_DIM == 128 and cfg.SOLVER.EPOCH == 8  # the sample scenes'
    assert (cfg.MODEL.SS_ATTENTION.SPATIAL_INPUT, cfg.MODEL.SS_ATTENTION.SEMANTIC_INPUT) == ("p", "v")
    assert cfg.DATALOADER.SAMPLE_SCENES == 0  # else the given data would be drawn over


def test_a_row_without_its_config_says_so(tmp_path):
    with pytest.raises(UserError, match="nowhere.yaml does not exist"):
        settings.settings_of(plan(), row("nowhere"), 0, data(tmp_path))


def test_the_hash_leaves_out_folder_device_threads_and_workers_and_nothing_else(tmp_path):
    cfg, folder = config(tmp_path, row("ss_attn"), plan())
    same, _ = config(
        tmp_path, row("ss_attn"), plan(DATALOADER__NUM_WORKERS=0, DATALOADER__CACHE="ram"), output="other",
        machine=Machine("meta", threads=3),
    )  # fmt: skip
    identity = identity_of(cfg, folder)
    assert identity_of(same, folder) == identity
    assert identity_sha256(identity_of(same, folder)) == identity_sha256(identity)
    assert not any(key in identity for key in settings.NOT_OF_THE_RUN)
    for changed in (
        config(tmp_path, row("ss_attn"), plan(), seed=1),
        config(tmp_path, row("ss_attn"), plan(SOLVER__EPOCH=49)),
        config(tmp_path, row("ss_attn"), plan(LOSSES__GROUNDING__MU=0.3)),
        config(tmp_path, row("updown"), plan()),
    ):
        assert identity_sha256(identity_of(*changed)) != identity_sha256(identity)
    assert identity_sha256(identity_of(cfg, data(tmp_path, "e" * 64))) != identity_sha256(identity)


def test_the_same_data_in_another_folder_is_the_same_run(tmp_path):
    (one, here), (two, there) = (config(tmp_path / name, row("ss_attn"), plan()) for name in ("one", "two"))
    assert here.path != there.path
    assert identity_of(one, here) == identity_of(two, there)


def test_the_order_of_the_keys_does_not_change_the_hash():
    assert identity_sha256({"a": 1, "b": [2]}) == identity_sha256({"b": [2], "a": 1})


def test_what_differs_is_named_and_a_new_key_with_its_default_does_not():
    stored, defaults = {"SOLVER.EPOCH": 50, "SEED": 0}, {"SOLVER.EPOCH": 30, "NEW": "sum", "SEED": -1}
    assert differences(stored, stored, defaults) == []
    assert differences(stored, {**stored, "NEW": "sum"}, defaults) == []
    assert differences(stored, {**stored, "NEW": "log"}, defaults) == ["NEW was 'sum', now 'log'"]
    assert differences(stored, {**stored, "SEED": 1}, defaults) == ["SEED was 0, now 1"]
    assert differences({**stored, "OLD": 3}, stored, defaults) == []  # the key is gone from the program
    assert differences(stored, {**stored, "regions_sha256": "f"}, defaults) == []  # not known of the stored run


def test_defaults_are_those_of_the_same_architecture(tmp_path):
    cfg, folder = config(tmp_path, row("ss_attn"), plan())
    defaults, identity = settings.defaults_of(cfg), identity_of(cfg, folder)
    assert defaults["MODEL.SS_ATTENTION.LAMBDA"] == 0.5 and defaults["SOLVER.KEEP_BEST"] == ""
    assert identity.keys() - {"data_sha256", "regions_sha256"} <= defaults.keys()


def test_values_on_a_command_line_are_read_back_as_they_were(tmp_path):
    values = {"SOLVER.BASE_LR": 1e-05, "INFERENCE.METRICS": ["CIDEr"], "SOLVER.AMP": True, "SEED": 3}
    assert settings.words_of(values)[:4] == ["SOLVER.BASE_LR", "1e-05", "INFERENCE.METRICS", "['CIDEr']"]
    cfg, _ = config(tmp_path, row("ss_attn", set=values), plan())
    assert (cfg.SOLVER.BASE_LR, list(cfg.INFERENCE.METRICS), cfg.SOLVER.AMP) == (1e-05, ["CIDEr"], True)


def test_the_sizes_come_from_the_files_and_the_manifest(tmp_path):
    from xmodaler_ssattn.worlds.drawn import draw_dataset

    draw_dataset(tmp_path / "s", num_images=20, feature_dim=16)
    found = settings.read_data_folder(tmp_path / "s")
    words = (tmp_path / "s" / "vocabulary.txt").read_text().split()
    assert found.sizes == {
        "MODEL.VOCAB_SIZE": len(words) + 1, "MODEL.VISUAL_EMBED.IN_DIM": 16, "MODEL.SS_ATTENTION.NUM_CLASSES": 16,
    }  # fmt: skip
    (tmp_path / "s" / "sample.json").unlink()
    without = settings.read_data_folder(tmp_path / "s")
    assert without.sizes == found.sizes and without.sha256 != found.sha256
    with pytest.raises(UserError, match=r"lacks vocabulary.txt, captions_test.json, regions.h5"):
        settings.read_data_folder(tmp_path)
