"""The evaluator that a config names, and its scores."""

from runtime.toy_host import toy_config
from xmodaler_ssattn.runtime import build_evaluation, flatten_results_dict


def test_no_name_means_no_evaluator(tmp_path):
    assert build_evaluation(toy_config(tmp_path, "INFERENCE.NAME", "''"), "x", None) is None


def test_nested_scores_become_flat():
    assert flatten_results_dict({"a": {"b": {"c": 1}, "d": 2}, "e": 3}) == {"a/b/c": 1, "a/d": 2, "e": 3}
