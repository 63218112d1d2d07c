"""Configs and plans are found by name from any folder, in the order that shipped.py states."""

from pathlib import Path

import pytest

from xmodaler_ssattn import shipped
from xmodaler_ssattn.cli.configuring import load_config
from xmodaler_ssattn.cli.main import main, parse
from xmodaler_ssattn.configuring import read_config
from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.host import get_cfg
from xmodaler_ssattn.reproduce.plan import read_plan

ROOT = Path(__file__).parents[1]
NAME = "flickr30k_entities/ss_attn.yaml"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch) -> Path:
    """A working directory without configs."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", [NAME, f"configs/{NAME}"])
def test_a_shipped_config_is_found_by_its_name_with_all_its_bases(name):
    assert shipped.find(name, "The config") == ROOT / "configs" / NAME
    cfg = load_config(name, ["SEED", "3"], device="cpu")
    assert cfg.MODEL.SS_ATTENTION.LAMBDA == 0.5 and cfg.SOLVER.EPOCH == 50 and cfg.SEED == 3


def test_a_path_that_exists_wins_over_the_shipped_name(elsewhere):
    own = elsewhere / NAME
    own.parent.mkdir()
    own.write_text("SEED: 7\n")
    assert shipped.find(NAME, "The config") == Path(NAME)
    assert read_config(NAME)["SEED"].value == 7
    assert shipped.find(f"configs/{NAME}", "The config") == ROOT / "configs" / NAME


def test_a_config_of_a_user_can_be_based_on_a_shipped_one_and_its_neighbours_win(elsewhere):
    own = elsewhere / "mine" / "own.yaml"
    own.parent.mkdir()
    own.write_text(f"_BASE_: {NAME}\nSEED: 7\n")
    settings = read_config(own)
    assert settings["SEED"].value == 7 and settings["SOLVER.EPOCH"].value == 50
    neighbour = own.parent / NAME
    neighbour.parent.mkdir()
    neighbour.write_text("SOLVER: {EPOCH: 2}\n")
    assert read_config(own)["SOLVER.EPOCH"].value == 2


def test_the_hosts_own_merging_finds_the_bases_too(elsewhere):
    """A script of X-modaler that gets the path from ``find``."""
    cfg = get_cfg()
    raw = cfg.load_from_file_tmp(str(shipped.find(NAME, "The config")))
    assert raw.MODEL.META_ARCHITECTURE == "GroundedCaptioner" and raw.SOLVER.EPOCH == 50


def test_plans_their_base_and_their_rows_are_found_by_name(elsewhere):
    plan = read_plan("study/real.plan.yaml")
    assert plan.base == ROOT / "configs" / "study" / "real.yaml"
    own = elsewhere / "own.plan.yaml"
    own.write_text(f"base: sample/base.yaml\nrows: {{a: {{config: {NAME}}}, b: {{config: gone.yaml}}}}\n")
    plan = read_plan(own)
    assert plan.base == ROOT / "configs" / "sample" / "base.yaml"
    assert plan.rows["a"].config == ROOT / "configs" / NAME
    assert plan.rows["b"].config == elsewhere / "gone.yaml"  # the tables report it


@pytest.mark.parametrize(
    "name, end",
    [
        ("configs/flickr30k_entities/updwn.yaml", "; did you mean flickr30k_entities/updown.yaml"),
        ("updown.yaml", "; did you mean flickr30k_entities/updown.yaml or sample/updown.yaml?"),  # namesakes
        ("tabels.plan.yaml", "; did you mean flickr30k_entities/tables.plan.yaml?"),
        ("study/rael.yaml", "; did you mean study/real.yaml"),
        ("my_own.yml", "; did you mean my_own.yaml?"),  # a file in the same folder
        ("zzz", ". `xmodaler train --help` lists these configs."),
        ("../configs/sample/updown.yaml", "; did you mean"),  # no way out of the folder of shipped files
        ("a\0b.yaml", ". `xmodaler train"),
    ],
)
def test_a_misspelt_name_gets_the_nearest_names(elsewhere, name, end):
    (elsewhere / "my_own.yaml").write_text("")
    with pytest.raises(UserError) as error:
        read_config(name)
    start = f"The config: the file {name} does not exist, and no config of the package has this name"
    assert str(error.value).startswith(start + end)


def test_a_misspelt_base_names_the_file_that_has_it(elsewhere):
    (elsewhere / "x.yaml").write_text("_BASE_: sample/bse.yaml\n")
    with pytest.raises(UserError, match=r"The _BASE_ of x.yaml: .*; did you mean sample/base.yaml"):
        read_config("x.yaml")


def test_a_copy_of_the_package_without_configs_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(shipped, "__file__", str(tmp_path / "xmodaler_ssattn" / "shipped.py"))
    with pytest.raises(UserError, match="The configs of this package are missing: .* Install it with pip"):
        shipped.names()


def test_every_config_is_there_once():
    assert not list((ROOT / "xmodaler_ssattn").rglob("*.yaml"))
    assert set(shipped.names()) == {
        path.relative_to(ROOT / "configs").as_posix() for path in (ROOT / "configs").rglob("*") if path.is_file()
    }


def test_the_help_of_train_lists_the_configs_with_what_they_are(capsys):
    with pytest.raises(SystemExit):
        parse(["train", "--help"])
    lines = capsys.readouterr().out.splitlines()
    assert '  flickr30k_entities/ss_attn.yaml               Table 1, row "SS Attn.", and Table 2, row (p, c)' in lines
    assert not any("base.yaml" in line or ".plan.yaml" in line for line in lines)
    listed = [line.split()[0] for line in lines if line.startswith(("  flickr30k_entities/", "  sample/", "  study/"))]
    others = ("base.yaml", "base_rl.yaml", ".plan.yaml")
    assert sorted(listed) == sorted(name for name in shipped.names() if not name.endswith(others))


def test_train_by_name_runs_in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = {
        "OUTPUT_DIR": "out",
        "DATALOADER.SAMPLE_SCENES": 24,
        "DATALOADER.TRAIN_BATCH_SIZE": 4,
        "SOLVER.EPOCH": 1,
    }
    words = [str(word) for pair in settings.items() for word in pair]
    assert main(["train", "--config-file", "sample/updown.yaml", *words]) == 0
    assert Path("out/model_final.pth").is_file()
    assert (
        main(["eval", "--config-file", "configs/sample/updown.yaml", "--weights", "out/model_final.pth", *words]) == 0
    )


def test_train_by_name_says_which_data_are_missing(capsys):
    assert main(["train", "--config-file", NAME, "--device", "cpu"]) == 2
    error = capsys.readouterr().err
    assert "Data files are missing (--data DIR sets all paths at once)" in error and "regions.h5" in error
