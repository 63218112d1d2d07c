"""The curves of a study: means over seeds, panels, and what is left out when a run never came so far."""

import xml.etree.ElementTree as ElementTree

import pytest

from xmodaler_ssattn.report.curves import title_unit_scale
from xmodaler_ssattn.reproduce.figure import PANELS, curves_svg, mean_curve
from xmodaler_ssattn.reproduce.plan import Plan, Table

SVG = "{http://www.w3.org/2000/svg}"


def run(epochs=(1, 2), **columns) -> dict:
    return {"curves": {"epoch": list(epochs), **columns}}


def test_the_mean_is_over_the_seeds_that_reached_an_epoch():
    runs = [run(**{"val/CIDEr": [0.1, 0.3]}), run((1, 2, 3), **{"val/CIDEr": [0.2, None, 0.5]}), {"curves": {}}]
    # epoch 1: (10 + 20) / 2; epoch 2: the first alone, the second has no score; epoch 3: the second alone
    assert mean_curve(runs, "val/CIDEr") == [(1.0, pytest.approx(15.0)), (2.0, 30.0), (3.0, 50.0)]
    assert mean_curve([], "val/CIDEr") == [] == mean_curve([{"curves": {}}], "val/F1_all")


def test_a_run_with_a_single_loss_has_its_sum_as_cross_entropy():
    parts = run(**{"CrossEntropy Loss(G)": [4.0, 3.0], "total_loss": [20.0, 18.0]})
    alone = run(total_loss=[5.0, 4.0])
    assert mean_curve([parts], "CrossEntropy Loss(G)") == [(1.0, 4.0), (2.0, 3.0)]
    assert mean_curve([alone], "CrossEntropy Loss(G)") == [(1.0, 5.0), (2.0, 4.0)]


@pytest.fixture
def plan(tmp_path) -> Plan:
    tables = (Table("First <1>", ("a", "b", "c")), Table("Nothing here", ("c",)), Table("Second", ("b",)))
    return Plan(path=tmp_path / "x.plan.yaml", title="T & U", note="", rows={}, tables=tables, orderings=(), common={})


def rows() -> dict:
    columns = {"total_loss": [2.0, 1.0], "val/CIDEr": [0.1, 0.2], "val/F1_all": [0.0, 0.1], "val/F1_loc": [0.0, 0.1]}
    a, b = run(**columns), run(**{**columns, "val/F1_loc": [None, None]})
    return {"a": {"label": "one & two", "seeds": {"0": a}}, "b": {"label": "b", "seeds": {"0": b, "1": a}},
            "c": {"label": "c", "seeds": {"0": {"curves": {}}}}}  # fmt: skip


def test_every_table_with_a_curve_has_its_panels_and_a_key_of_the_rows_that_have_one(plan):
    document = ElementTree.fromstring(curves_svg(plan, {"rows": rows()}))
    texts = [element.text for element in document.iter(f"{SVG}text")]
    assert [t for t in texts if t in ("First <1>", "Nothing here", "Second")] == ["First <1>", "Second"]
    assert texts.count("one & two") == 1 and texts.count("b") == 2 and texts.count("c") == 0
    assert all(texts.count(title_unit_scale(name)[0]) == 2 for name in PANELS)
    # Tooltips: two epochs of 2 rows x 4 panels and of 1 x 4.
    assert len(list(document.iter(f"{SVG}title"))) == 2 * (8 + 4)


def test_without_a_curve_there_is_no_figure(plan):
    assert curves_svg(plan, {"rows": {"c": rows()["c"]}}) == ""
