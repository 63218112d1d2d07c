"""Plans as files: what they say, and everything that is wrong with one in one message."""

from pathlib import Path

import pytest
import yaml

from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.reproduce.jobs import job_list
from xmodaler_ssattn.reproduce.plan import PAPER_METRICS, read_plan, restricted, split_reference

ROOT = Path(__file__).parents[2]
TABLES = ROOT / "configs" / "flickr30k_entities" / "tables.plan.yaml"
PLANS = sorted((ROOT / "configs").rglob("*.plan.yaml"))

GOOD = {
    "title": "t",
    "seeds": [0, 1],
    "evaluations": {"alpha": {"INFERENCE.GROUND_BY": "alpha"}},
    "rows": {
        "a": {"config": "a.yaml"},
        "b": {"config": "b.yaml", "of": "a", "seeds": [0], "evaluations": {"beta": {"INFERENCE.GROUND_BY": "beta"}}},
    },
    "orderings": [{"name": "o", "a": "a", "b": "b/beta", "metrics": ["C"]}],
}


def write(tmp_path, data) -> Path:
    path = tmp_path / "x.plan.yaml"
    path.write_text(yaml.safe_dump(data, sort_keys=False))
    return path


@pytest.mark.parametrize("path", PLANS, ids=lambda p: p.name)
def test_every_shipped_plan_is_sound_and_names_configs_that_exist(path):
    plan = read_plan(path)
    assert [row.name for row in plan.rows.values() if row.config is not None and not row.config.is_file()] == []
    assert plan.base is None or plan.base.is_file()


def test_the_default_plan_holds_both_tables_with_the_papers_numbers():
    plan = read_plan(TABLES)
    tables = {table.title: table.rows for table in plan.tables}
    ours = ("updown", "ss_attn_wo_gnd", "ss_attn", "ss_attn_image_mean")
    assert tables["Table 1"] == ("nbt", "gvd", "prophet", "distributed", *ours)
    assert tables["Table 2"] == ("ss_attn_visual_only", "ss_attn_spatial_only", "ss_attn_semantic_only", "ss_attn")
    assert plan.rows["distributed"].paper["F1_loc"] == 21.54 and "F1_all" not in plan.rows["nbt"].paper
    assert plan.rows["ss_attn"].paper["C"] == 65.6 and plan.rows["updown"].paper["F1_loc"] == 12.45
    assert all(row.seeds == (0, 1, 2) for row in plan.rows.values() if row.config is not None)
    assert plan.rows["nbt"].config is None and plan.rows["nbt"].seeds == ()


def test_the_default_plans_numbers_are_those_in_the_rows_own_headers():
    # "# Table 1, row "SS Attn.": B@1 72.0, B@4 30.8, ... F1_loc 15.69."
    for row in read_plan(TABLES).rows.values():
        if row.config is None or not row.paper:
            continue
        header = row.config.read_text().splitlines()[0].rstrip(".")
        numbers = dict(part.split()[-2:] for part in header.split(": ", 1)[1].split(", "))
        assert {metric: float(value) for metric, value in numbers.items()} == dict(row.paper)


def test_the_paper_itself_agrees_with_every_ordering_that_is_claimed_strictly():
    plan = read_plan(TABLES)
    against = []
    for ordering in plan.orderings:
        for metric in ordering.metrics:
            a, b = (plan.rows[split_reference(name)[0]].paper.get(metric) for name in (ordering.a, ordering.b))
            gain = b - a
            if not (gain > 0 if ordering.claim == "greater" else gain <= ordering.margin):
                against.append((ordering.name, metric))
    # SPICE is 16.7 in both rows of the paper.
    assert against == [("the SS attention helps without its loss", "S")]


def test_a_row_without_a_config_quotes_the_paper_and_has_no_runs(tmp_path):
    quoted = {"label": "NBT", "paper": {"C": 57.5}}
    plan = read_plan(write(tmp_path, {"seeds": [0, 1], "rows": {"q": quoted, "a": {"config": "a.yaml"}}}))
    assert plan.rows["q"].seeds == () and plan.rows["q"].paper == {"C": 57.5}
    chosen = restricted(plan, None, [5, 6])
    assert [job.name for job in job_list(chosen)] == ["a seed 5", "a seed 6"]
    assert job_list(restricted(plan, ["q"], None)) == []
    wrong = {"q": {**quoted, "set": {"A": 1}}, "n": {"label": "N"}, "a": {"config": "a.yaml", "of": "q", "start": "q"}}
    orderings = [{"name": "o", "a": "a", "b": "q"}]
    with pytest.raises(UserError) as caught:
        read_plan(write(tmp_path, {"rows": wrong, "orderings": orderings}))
    for part in (
        "rows.q.set: unknown entry; known are label, note, paper",
        "rows.n: expected at least config: FILE, or paper: for a row that is not run",
        "rows.a.of: there is no other row named q with a config",
        "rows.a.start: there is no other row named q with a config",
        "orderings[0].b: there is no row q with a config",
    ):
        assert part in str(caught.value)


def test_rows_take_the_plans_seeds_and_evaluations_unless_they_have_their_own(tmp_path):
    plan = read_plan(write(tmp_path, GOOD))
    assert plan.rows["a"].seeds == (0, 1) and plan.rows["b"].seeds == (0,)
    assert set(plan.rows["a"].evaluations) == {"alpha"} and set(plan.rows["b"].evaluations) == {"alpha", "beta"}
    assert plan.rows["a"].config == tmp_path / "a.yaml"  # relative to the plan
    assert plan.tables[0].rows == ("a", "b") and plan.tables[0].metrics == PAPER_METRICS


def test_other_seeds_replace_those_of_rows_with_several_and_one_of_a_row_with_one(tmp_path):
    plan = restricted(read_plan(write(tmp_path, GOOD)), None, [5, 6, 7])
    assert plan.rows["a"].seeds == (5, 6, 7) and plan.rows["b"].seeds == (5,)
    assert list(restricted(plan, ["b"], None).rows) == ["b"]
    with pytest.raises(UserError, match="no row c in .*; it has a, b"):
        restricted(plan, ["c"], None)


def test_all_problems_of_a_plan_come_in_one_message(tmp_path):
    data = GOOD | {
        "seed": [1],
        "rows": {
            "a": {"config": "a.yaml", "sets": {}},
            "../b": {"config": "b.yaml"},
            "c": {"of": "a"},
            "d": {"config": "d.yaml", "of": "z", "seeds": [1, 1], "evaluations": {"best": {}}, "paper": {"CIDEr": 1}},
            "e": {"config": "e.yaml", "set": {"SOLVER": {"EPOCH": 1}}, "start": "e"},
            "f": {"config": "f.yaml", "start": "a"},
            "g": {"config": "g.yaml", "start": "f"},
        },
        "tables": [{"title": "T", "rows": ["a", "q"], "metrics": ["B@5"]}],
        "orderings": [{"name": "o", "a": "a/none", "b": "y", "claim": "less", "margin": -1}, "x"],
    }
    with pytest.raises(UserError) as caught:
        read_plan(write(tmp_path, data))
    message = str(caught.value)
    for part in (
        "seed: unknown entry", "rows.a.sets: unknown entry", "rows.../b: the name of a row is also a folder name",
        "rows.c: expected", "rows.d.of: there is no other row named z", "rows.e.start: there is no other row named e",
        "rows.g.start: f is a second stage", "rows.d.seeds: expected a list of different seeds",
        "rows.d.evaluations.best: expected a name", "rows.d.paper.CIDEr: expected a number for one of B@1",
        "rows.e.set.SOLVER: write the keys with dots", "tables[0].rows: there is no row q",
        "tables[0].metrics: expected", "orderings[0].a: row a has no evaluation none",
        "orderings[0].b: there is no row y",
        "orderings[0].claim: expected greater or no_gain, got 'less'", "orderings[0].margin", "orderings[1]: expected",
    ):  # fmt: skip
        assert part in message, part


@pytest.mark.parametrize("text", ["", "rows: {}", "[1]", "rows: 3"])
def test_a_file_without_rows_is_not_a_plan(tmp_path, text):
    (tmp_path / "x.plan.yaml").write_text(text)
    with pytest.raises(UserError, match="expected rows: with at least one row"):
        read_plan(tmp_path / "x.plan.yaml")


def test_a_plan_that_is_missing_or_no_yaml_or_would_run_code_is_named(tmp_path):
    with pytest.raises(UserError, match="none.yaml does not exist"):
        read_plan(tmp_path / "none.yaml")
    (tmp_path / "x").write_text("rows: [1")
    with pytest.raises(UserError, match="not valid yaml"):
        read_plan(tmp_path / "x")
    (tmp_path / "x").write_text(f"rows: !!python/object/apply:os.system ['touch {tmp_path}/ran']")
    with pytest.raises(UserError, match="not valid yaml"):
        read_plan(tmp_path / "x")
    assert not (tmp_path / "ran").exists()


def test_a_reference_without_an_evaluation_means_the_best_weights():
    assert split_reference("row") == ("row", "best")
    assert split_reference("row/alpha") == ("row", "alpha")
