"""The tables as text, from the records of runs that are done, missing, failed, diverged or of another config."""

import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest
import yaml

from xmodaler_ssattn.reproduce import jobs
from xmodaler_ssattn.reproduce.card import cards, facts_of
from xmodaler_ssattn.reproduce.collecting import as_text, collect
from xmodaler_ssattn.reproduce.evaluate import evaluation_folder
from xmodaler_ssattn.reproduce.jobs import Job
from xmodaler_ssattn.reproduce.plan import Row, Table, read_plan
from xmodaler_ssattn.reproduce.replicates import NO_BOXES, write_replicates
from xmodaler_ssattn.reproduce.running import machine_of, next_job
from xmodaler_ssattn.reproduce.settings import DataFolder, Machine, identity_sha256
from xmodaler_ssattn.reproduce.study import Study, decision_of, prepare
from xmodaler_ssattn.reproduce.tables import cell, markdown, seeds_of

PLAN = """
title: Two rows
base: {base}
seeds: [0, 1]
rows:
  updown: {{config: {rows}/updown.yaml, label: UpDown, paper: {{C: 63.4, F1_loc: 12.45}}}}
  full: {{config: {rows}/ss_attn.yaml, of: updown, paper: {{C: 65.6}}, evaluations: {{alpha: {{INFERENCE.GROUND_BY: alpha}}}}}}
  gone: {{config: nowhere.yaml, seeds: [0]}}
tables:
  - {{title: Table 1, rows: [updown, full, gone], metrics: [C, S, F1_loc]}}
orderings:
  - {{name: the whole is better, a: updown, b: full, metrics: [C, F1_loc]}}
"""  # noqa: E501


@pytest.fixture
def study(tmp_path, request) -> Study:
    root = request.config.rootpath
    text = PLAN.format(
        base=root / "configs" / "sample" / "base.yaml",
        rows=root / "configs" / "flickr30k_entities",
    )
    (tmp_path / "x.plan.yaml").write_text(text)
    (tmp_path / "data").mkdir()
    data = DataFolder(tmp_path / "data", {"MODEL.VOCAB_SIZE": 10}, "d" * 64)
    return Study(read_plan(tmp_path / "x.plan.yaml"), data, tmp_path / "out", Machine("cpu"))


def put(study, row, seed, cider, f1, status=jobs.DONE, **changes):
    """A run's folder, scored; the replicates of every score are score - .01 and score + .01."""
    job = Job(row, seed)
    folder, identity = job.folder(study.out), prepare(study, job).identity
    evaluations = {}
    for name in ("best", "last", *study.plan.rows[row].evaluations):
        scores = {"CIDEr": cider, "greedy_CIDEr": cider - 0.02, "F1_loc": f1}
        shift = 0.1 if name == "last" else 0.0
        evaluations[name] = {
            "set": dict(study.plan.rows[row].evaluations.get(name, {})),
            "scores": {key: value - shift for key, value in scores.items()},
            "not_computed": {"SPICE": "the models are not in /some/where/spice/lib; fetch them"},
            "seconds": 1.0,
        }
        replicates = {key: np.array([value - 0.01, value + 0.01]) for key, value in evaluations[name]["scores"].items()}
        images = {"captions": np.array([1, 2]), "grounding": np.array([1, 2])}
        write_replicates(evaluation_folder(folder, name) / "replicates.npz", replicates, images)
    record = jobs.new_record(job, identity, identity_sha256(identity))
    record |= {"status": status, "trained": True, "evaluations": evaluations, "best_epoch": 2}
    record["epochs"] = {str(i): {"train": {"total_loss": 4.0 - i}, "val": {"CIDEr": 0.1 * i}} for i in (1, 2, 10)}
    jobs.write_record(folder, record | changes)


def text_of(study) -> tuple[str, dict]:
    summary = collect(study)
    return markdown(study.plan, json.loads(as_text(summary)), "the command"), summary


def line(text, start, number=0) -> str:
    return [found for found in text.splitlines() if found.startswith(start)][number]


def test_mean_deviation_the_papers_number_and_the_seeds_stand_in_a_row(study):
    put(study, "updown", 0, 0.60, 0.10)
    put(study, "updown", 1, 0.62, 0.12)
    text, _ = text_of(study)
    # 60 and 62: mean 61, deviation sqrt((1 + 1) / 1) = 1.41
    assert line(text, "| UpDown |") == "| UpDown | 61.00 ± 1.41 (63.4) | n/a | 11.00 ± 1.41 (12.45) | 2/2 |"
    assert line(text, "| UpDown |", 1) == "| UpDown | 59.00 ± 1.41 | n/a | 2/2 |"  # greedy
    assert line(text, "| UpDown |", 2) == "| UpDown | 51.00 ± 1.41 | n/a | 1.00 ± 1.41 | 2/2 |"  # last
    assert "n/a: SPICE was not computed: the models are not in lib." in text
    assert "## Table 1: best\n" in text and "```\nthe command\n```" in text


def test_what_is_not_there_is_marked_and_the_rest_stands(study):
    put(study, "updown", 0, 0.60, 0.10)
    put(study, "full", 0, 0.0, 0.0, jobs.DIVERGED, reason="NaN at iteration 7", evaluations={}, trained=False)
    put(study, "full", 1, 0.0, 0.0, jobs.FAILED, reason="killed by SIGKILL", evaluations={}, trained=False)
    text, _ = text_of(study)
    assert line(text, "| UpDown |") == "| UpDown | 60.00 (63.4) | n/a | 10.00 (12.45) | 1/2 (1: missing) |"
    assert line(text, "| full |") == "| full | n/a (65.6) | n/a | n/a | 0/2 (0: diverged, 1: failed) |"
    assert line(text, "| gone |") == "| gone | n/a | n/a | n/a | 0/1 (0: no config) |"
    assert "| full | 0 | diverged |" in text and "NaN at iteration 7" in text and "killed by SIGKILL" in text
    assert "the config nowhere.yaml does not exist." in text
    assert line(text, "| the whole is better |").endswith("| n/a |  |  |  | **no data** |")


def test_a_quoted_row_and_a_model_without_attention_have_dashes_where_there_is_no_score(study):
    quoted = Row("nbt", None, "NBT", paper={"C": 57.5})
    table = Table("Table 1", ("nbt", "updown"), ("C", "S", "F1_loc"))
    plan = replace(study.plan, rows={**study.plan.rows, "nbt": quoted}, tables=(table,))
    study = replace(study, plan=plan)
    put(study, "updown", 0, 0.60, 0.10)
    record_file = Job("updown", 0).folder(study.out) / "run.json"
    record = json.loads(record_file.read_text())
    for entry in record["evaluations"].values():
        entry["scores"].pop("F1_loc")
        entry["not_computed"] = {"F1": NO_BOXES}
    record_file.write_text(json.dumps(record))
    text, summary = text_of(study)
    assert line(text, "| NBT |") == "| NBT | (57.5) | - | - | quoted |"
    assert line(text, "| UpDown |") == "| UpDown | 60.00 (63.4) | n/a | - | 1/2 (1: missing) |"
    assert "-: no grounding scores of UpDown: the captions have no boxes." in text
    # Quoted rows are in the table with the paper's numbers only, and have no run.
    assert text.count("| NBT |") == 1 and summary["rows"]["nbt"]["seeds"] == {} and "| nbt |" not in text


def test_a_run_of_another_config_is_named_and_not_mixed_in(study):
    put(study, "updown", 0, 0.60, 0.10)
    put(study, "updown", 1, 0.90, 0.90)
    folder = Job("updown", 1).folder(study.out)
    record = json.loads((folder / "run.json").read_text())
    record["config"]["SOLVER.EPOCH"] = 99
    (folder / "run.json").write_text(json.dumps(record))
    text, summary = text_of(study)
    assert line(text, "| UpDown |") == "| UpDown | 60.00 (63.4) | n/a | 10.00 (12.45) | 1/2 (1: other config) |"
    assert "SOLVER.EPOCH was 99, now 8" in text
    assert summary["rows"]["updown"]["evaluations"]["best"]["CIDEr"]["seeds"] == 1


def test_orderings_pair_the_seeds_that_both_rows_have(study):
    put(study, "updown", 0, 0.60, 0.10)
    put(study, "updown", 1, 0.62, 0.10)
    put(study, "full", 0, 0.63, 0.08)
    text, summary = text_of(study)
    # Seed 0 alone is paired: 63 - 60 = +3; both replicates of the difference are +3.
    assert line(text, "| the whole is better |") == (
        "| the whole is better | updown -> full | C | b > a | +2.20 | +3.00 | [+3.00, +3.00] | 1/1 | 0.667 | **held** |"
    )
    assert line(text, "| the whole is better |", 1).endswith("| -2.00 | [-2.00, -2.00] | 0/1 | 0.667 | **not held** |")
    assert "In all: 1 held, 1 not held." in text
    assert summary["orderings"][0]["by_seed"] == {"0": 3.0}
    assert "| updown -> full | C | 60.00 | 63.00 | +3.00 |" in text  # and without a claim, since full names updown
    # alpha chooses other boxes for the same captions; here the boxes are as good, too.
    assert "| full -> full/alpha |" not in text
    assert "The same in every image: full -> full/alpha, C, F1_loc." in text


def test_rows_scored_on_other_images_are_not_paired(study):
    put(study, "updown", 0, 0.60, 0.10)
    put(study, "full", 0, 0.63, 0.12)
    images = {"captions": np.array([1, 3]), "grounding": np.array([1, 2])}
    replicates = {"CIDEr": np.array([0.6, 0.6]), "F1_loc": np.array([0.11, 0.13])}
    path = evaluation_folder(Job("full", 0).folder(study.out), "best") / "replicates.npz"
    write_replicates(path, replicates, images)
    _, summary = text_of(study)
    assert [entry["verdict"] for entry in summary["orderings"]] == ["no data", "held"]


def test_damaged_replicates_cost_the_ordering_and_not_the_table(study):
    put(study, "updown", 0, 0.60, 0.10)
    put(study, "full", 0, 0.63, 0.12)
    (evaluation_folder(Job("full", 0).folder(study.out), "best") / "replicates.npz").write_bytes(b"PK")
    text, summary = text_of(study)
    assert [entry["verdict"] for entry in summary["orderings"]] == ["no data", "no data"]
    assert "Problem: replicates.npz cannot be read" in text and "| full | 63.00 (65.6) |" in text


def test_a_damaged_record_affects_only_that_run(study):
    put(study, "updown", 0, 0.60, 0.10)
    put(study, "full", 0, 0.63, 0.12)
    (Job("full", 0).folder(study.out) / "run.json").write_text("{")
    text, _ = text_of(study)
    assert "| full | 0 | failed |" in text and "is not valid JSON" in text
    assert line(text, "| UpDown |").startswith("| UpDown | 60.00")


def test_an_evaluation_without_its_replicates_is_to_be_done_again(study):
    put(study, "full", 0, 0.63, 0.12)
    job = Job("full", 0)
    assert decision_of(study, prepare(study, job))[0] == jobs.Decision()
    (evaluation_folder(job.folder(study.out), "alpha") / "replicates.npz").unlink()
    assert decision_of(study, prepare(study, job))[0] == jobs.Decision(evaluate=("alpha",))


def test_a_seed_that_the_plan_does_not_name_counts_when_it_is_there(study):
    put(study, "updown", 5, 0.60, 0.10)
    text, _ = text_of(study)
    assert "1/3 (0: missing, 1: missing)" in line(text, "| UpDown |")


def test_the_summary_holds_curves_and_nothing_of_single_images(study):
    put(study, "updown", 0, 0.60, 0.10)
    _, summary = text_of(study)
    run = summary["rows"]["updown"]["seeds"]["0"]
    assert run["curves"]["epoch"] == [1, 2, 10]
    assert run["curves"]["total_loss"] == [3.0, 2.0, -6.0]
    assert run["curves"]["val/CIDEr"] == pytest.approx([0.1, 0.2, 1.0]) and run["curves"]["val/F1_loc"] == [None] * 3
    assert len(as_text(summary)) < 12_000


def test_last_weights_that_stand_for_the_best_are_named(study):
    put(study, "updown", 0, 0.60, 0.10, best_epoch=None)
    text, _ = text_of(study)
    assert "no epoch has a CIDEr on val, so the last weights stand for the best" in line(text, "| updown | 0 | done |")


def test_a_second_stage_waits_for_the_best_weights_of_its_first(study):
    rows = study.plan.rows | {"rl": replace(study.plan.rows["full"], name="rl", start="full", of="full")}
    study = replace(study, plan=replace(study.plan, rows=rows))
    missing = prepare(study, Job("rl", 1))
    assert missing.status == jobs.MISSING
    assert missing.problem == "it starts from the best weights of full seed 1, which do not exist yet"
    weights = Job("full", 1).folder(study.out) / "model_best.pth"
    weights.parent.mkdir(parents=True)
    weights.touch()
    assert prepare(study, Job("rl", 1)).identity["MODEL.WEIGHTS"] == "{out}/full/seed_1/model_best.pth"

    first, second, other = Job("full", 1), Job("rl", 1), Job("updown", 1)
    assert next_job(study, [second, first, other], {}) == first
    assert next_job(study, [second, other], {first: None}) == other
    assert next_job(study, [second], {first: None}) is None
    assert next_job(study, [second], {other: None}) == second  # its first stage is not of this call


FLOORS = {
    "of": ["a", "b"], "notes": ["The class probabilities name the class of 90.0 % of the annotated words."],
    "rules": {
        rule: {"F1_all": 0.05, "F1_loc": 0.1, "attention_accuracy": 0.25, "word_accuracy": 0.5,
               "places": {"all": {"words": 3, "accuracy": 0.5}, "1st": {"words": 2, "accuracy": 0.75}}}
        for rule in ("largest region", "annotated boxes")
    },
}  # fmt: skip


def test_floors_and_ceilings_stand_under_the_tables_of_grounding_scores(study):
    put(study, "updown", 0, 0.60, 0.10)
    summary = collect(study, FLOORS)
    text = markdown(study.plan, json.loads(as_text(summary)), "")
    # Table 1 has C, S, F1_loc; the table of greedy captions has no grounding score; that of full/alpha has acc, too.
    assert line(text, "| floor: largest region |") == "| floor: largest region |  |  | 10.00 |  |"
    assert line(text, "| ceiling: annotated boxes |") == "| ceiling: annotated boxes |  |  | 10.00 |  |"
    assert (
        line(text, "| floor: largest region |", 2)
        == "| floor: largest region |  |  |  |  |  | 5.00 | 10.00 | 25.00 |  |"
    )
    assert text.count("| floor: largest region |") == 3
    assert "## Floors and ceilings" in text and "90.0 % of the annotated words" in text
    assert summary["floors"] == FLOORS


def test_a_data_set_without_floors_has_the_reason_and_no_rows(study):
    put(study, "updown", 0, 0.60, 0.10)
    text = markdown(study.plan, collect(study, {"of": None, "rules": {}, "notes": ["No floors: why."]}), "")
    assert "No floors: why." in text and "| floor:" not in text
    assert "Floors" not in markdown(study.plan, collect(study), "")


def test_where_the_accuracy_sits_is_averaged_over_the_seeds(study):
    put(study, "updown", 0, 0.60, 0.10)
    for seed, accuracy in ((0, 0.4), (1, 0.6)):
        put(study, "full", seed, 0.60, 0.10)
        folder = Job("full", seed).folder(study.out)
        record = json.loads((folder / "run.json").read_text())
        record["evaluations"]["alpha"]["places"] = {
            "all": {"words": 3, "accuracy": accuracy}, "1st": {"words": 2, "accuracy": 1.0},
        }  # fmt: skip
        (folder / "run.json").write_text(json.dumps(record))
    text = markdown(study.plan, json.loads(as_text(collect(study, FLOORS))), "")
    assert "## Where the accuracy sits" in text
    assert line(text, "| annotated words |") == "| annotated words | 3 | 2 |"
    assert line(text, "| full / alpha | 50") == "| full / alpha | 50.00 ± 14.14 | 100.00 ± 0.00 |"
    assert line(text, "| floor: largest region |", 3) == "| floor: largest region | 50.00 | 75.00 |"
    assert text.count("| ceiling: annotated boxes |") == 3  # it is right everywhere, so not there


def test_cells():
    assert cell(None) == "n/a" and cell({"mean": None, "deviation": None}, 3.0) == "n/a (3.0)"
    assert cell({"mean": 1.234, "deviation": None}) == "1.23"
    row = {"seeds": {"0": {"status": "done", "evaluations": {"best": {"scores": {}}}},
                     "1": {"status": "done", "evaluations": {}}}}  # fmt: skip
    assert seeds_of(row) == "1/2 (1: not evaluated)"


# --- model cards ----------------------------------------------------------------------------------------------------

MACHINE = {
    "processor": "A CPU", "cores": 4, "memory_gb": 16.0, "gpus": [], "system": "Linux",
    "versions": {"xmodaler_ssattn": "0.1", "Python": "3.11", "PyTorch": "2.13", "CUDA": "none", "numpy": "2.0"},
}  # fmt: skip


@pytest.fixture
def card(study) -> str:
    """That of a row with two seeds, one of them on a recorded machine and with weights, on simulated data."""
    put(study, "updown", 0, 0.60, 0.10, machines=[MACHINE], seconds={"train": 5400.0, "evaluate": 360.0})
    put(study, "updown", 1, 0.62, 0.12)
    (Job("updown", 0).folder(study.out) / "model_best.pth").write_bytes(b"weights")
    (study.data.path / "simulated.json").write_text("{}")
    header = {"schema": "xmodaler_ssattn/annotations", "version": 1, "split": "test", "source": "entities",
              "gvd_identical": False, "classes": ["dog", "car"]}  # fmt: skip
    phrase = {"start": 0, "end": 1, "head": 0, "class": "dog", "chain": "1", "boxes": [[0, 0, 9, 9]]}
    captions = [{"raw": "Dog .", "tokens": ["dog"], "phrases": [phrase, {**phrase, "boxes": []}]}] * 5
    image = {"image_id": 1, "width": 10, "height": 10, "captions": captions}
    (study.data.path / "test.json").write_text(json.dumps({**header, "images": [image]}))
    found = cards(study.plan, collect(study, FLOORS), facts_of(study.data.path), study.out)
    assert list(found) == ["updown"]  # the others have no run
    assert found == cards(study.plan, collect(study, FLOORS), facts_of(study.data.path), study.out)
    return found["updown"]


def test_a_card_has_scores_with_intervals_and_the_best_rule_without_a_model(card):
    # 60 and 62, replicates of their mean 60 and 62: quantiles .025 and .975 of two values are 60.05 and 61.95
    assert line(card, "| C |") == "| C | 61.00 | 60.05 to 61.95 | 1.41 | 2 | 63.4 |  |"
    # the floor "largest region" has 10; "annotated boxes" is a ceiling
    assert line(card, "| F1_loc |") == "| F1_loc | 11.00 | 10.05 to 11.95 | 1.41 | 2 | 12.45 | 10.00 |"


def test_a_card_says_what_is_simulated_and_what_the_data_are(card, study):
    assert "* The region features and class probabilities are **simulated**" in card
    assert "are not those of the published" in card  # gvd_identical is False
    digest = hashlib.sha256((study.data.path / "test.json").read_bytes()).hexdigest()
    # five captions with one phrase that has a box each
    assert line(card, "| test |") == f"| test | 1 | 5 | 5 | entities | `{digest}` |"
    assert f"`{'d' * 64}`" in card


def test_a_card_has_weights_hours_hardware_and_the_changes_of_the_config(card):
    digest = hashlib.sha256(b"weights").hexdigest()
    assert f"| `updown/seed_0/model_best.pth` | 0 | 2 | 7 | `{digest}` |" in card
    assert "No model_best.pth is in the folder of seed 1." in card
    assert line(card, "| 0 | 1.50 |").startswith("| 0 | 1.50 | 0.10 | 2 |")
    assert "* Seed 0: A CPU, 4 cores, 16 GB; no GPU used; Linux, xmodaler_ssattn 0.1, Python 3.11, PyTorch 2.13" in card
    assert "* Seed 1: the hardware was not recorded." in card
    changes = yaml.safe_load(card.split("```yaml\n")[1].split("```")[0])
    assert changes["MODEL.SS_ATTENTION.ENABLED"] is False
    assert "xmodaler caption photo.jpg --weights updown/seed_0/model_best.pth" in card and "@inproceedings{" in card


def test_the_machine_is_described_in_plain_values():
    found = machine_of("cpu")
    assert found == json.loads(json.dumps(found)) and found["cores"] >= 1 and found["gpus"] == []
    assert found["versions"]["Python"] and found["processor"]
