"""The list of runs, its shards, and what is done with a run's folder."""

import json

import pytest

from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.reproduce import jobs
from xmodaler_ssattn.reproduce.jobs import Decision, Job, decide, job_list, parse_shard, shard_of
from xmodaler_ssattn.reproduce.plan import Plan, Row


def plan(tmp_path, **seeds) -> Plan:
    rows = {name: Row(name, tmp_path / f"{name}.yaml", name, seeds=tuple(own)) for name, own in seeds.items()}
    return Plan("t", tmp_path / "x.plan.yaml", rows)


def test_every_rows_first_seed_comes_before_any_rows_second(tmp_path):
    found = job_list(plan(tmp_path, a=[0, 1, 2], b=[0], c=[5, 1]))
    assert [(job.row, job.seed) for job in found] == [("a", 0), ("b", 0), ("c", 5), ("a", 1), ("c", 1), ("a", 2)]


@pytest.mark.parametrize("n", [1, 2, 3, 4, 7, 20])
def test_shards_hold_every_run_exactly_once(tmp_path, n):
    everything = job_list(plan(tmp_path, a=[0, 1, 2], b=[0, 1, 2], c=[0], d=[0, 1, 2]))
    shards = [shard_of(everything, (i, n)) for i in range(1, n + 1)]
    assert sorted((job for shard in shards for job in shard), key=everything.index) == everything
    assert max(map(len, shards)) - min(map(len, shards)) <= 1


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "a/b", "1/0", "-1/2", "1/2/3", ""])
def test_a_shard_that_is_none_is_refused(text):
    with pytest.raises(UserError, match="expected i/n with 1 <= i <= n"):
        parse_shard(text)


def test_a_shard_is_two_numbers():
    assert parse_shard("2/3") == (2, 3)


WANTED = {"best": {}, "last": {}, "alpha": {"INFERENCE.GROUND_BY": "alpha"}}


def record(**changes):
    done = {name: {"set": settings, "scores": {"CIDEr": 0.1}} for name, settings in WANTED.items()}
    fresh = jobs.new_record(Job("a", 0), {"SEED": 0}, "f" * 64)
    return {**fresh, "status": jobs.DONE, "trained": True, "evaluations": done, **changes}


def test_a_run_that_is_not_there_is_trained_and_scored():
    assert decide(None, [], WANTED) == Decision(True, ("best", "last", "alpha"))


def test_a_finished_run_is_not_changed():
    assert decide(record(), [], WANTED) == Decision(False, (), jobs.DONE)


def test_a_run_that_was_killed_while_training_is_trained_further():
    stopped = record(status=jobs.RUNNING, trained=False, evaluations={})
    assert decide(stopped, [], WANTED) == Decision(True, ("best", "last", "alpha"))


def test_a_run_that_was_killed_while_scoring_is_scored_where_it_was():
    stopped = record(status=jobs.RUNNING, evaluations={"best": {"set": {}, "scores": {}}})
    assert decide(stopped, [], WANTED) == Decision(False, ("last", "alpha"))


def test_a_new_or_changed_or_failed_evaluation_is_done_and_the_others_are_not():
    more = WANTED | {"beta": {"INFERENCE.GROUND_BY": "beta"}, "alpha": {"INFERENCE.GROUND_BY": "gamma"}}
    assert decide(record(), [], more) == Decision(False, ("alpha", "beta"))
    failed = record()
    failed["evaluations"]["last"] = {"set": {}, "failed": "no such file"}
    assert decide(failed, [], WANTED) == Decision(False, ("last",))


def test_a_failed_run_is_tried_again_and_a_diverged_one_is_not():
    failed = record(status=jobs.FAILED, reason="killed by SIGKILL", trained=False, evaluations={})
    assert decide(failed, [], WANTED).train
    diverged = record(status=jobs.DIVERGED, reason="NaN at iteration 7", trained=False, evaluations={})
    assert decide(diverged, [], WANTED) == Decision(False, (), jobs.DIVERGED, "NaN at iteration 7")


def test_a_run_of_another_config_is_not_touched_whatever_its_state():
    for state in (record(), record(status=jobs.RUNNING, trained=False), record(status=jobs.DIVERGED)):
        found = decide(state, ["SOLVER.EPOCH was 50, now 20"], WANTED)
        assert found == Decision(False, (), jobs.OTHER, "SOLVER.EPOCH was 50, now 20")
    many = decide(record(), [f"K{i} was 1, now 2" for i in range(9)], WANTED)
    assert many.reason.endswith("K4 was 1, now 2; and 4 more")


def test_a_record_is_written_and_read_back_and_another_file_is_refused(tmp_path):
    assert jobs.read_record(tmp_path) is None
    jobs.write_record(tmp_path, record())
    assert jobs.read_record(tmp_path) == record()
    (tmp_path / "run.json").write_text(json.dumps({"schema": "x"}))
    with pytest.raises(UserError, match='expected an object with "schema": "xmodaler_ssattn/run"'):
        jobs.read_record(tmp_path)
