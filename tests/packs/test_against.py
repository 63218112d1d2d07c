"""Regions are compared with known ones of the same pictures, whatever their order and number."""

import numpy as np
import pytest

from xmodaler_ssattn.cli.main import main
from xmodaler_ssattn.packs.checks import inspect_against
from xmodaler_ssattn.packs.store import RegionStore, RegionWriter

BOXES = np.float32([[0, 0, 10, 10], [20, 0, 30, 10], [0, 20, 10, 30]])
FEATURES = np.float32([[1, 0], [0, 1], [1, 1]])


def write(path, boxes, features, ids=(1, 2), size=(40, 40)):
    with RegionWriter(path, list(ids), len(boxes), features.shape[1], None, source="test") as writer:
        for image_id in ids:
            writer.write(image_id, *size, np.float32(boxes), np.float32(features))
    return RegionStore(path)


@pytest.fixture
def known(tmp_path):
    return write(tmp_path / "known.h5", BOXES, FEATURES)


def test_the_same_regions_in_another_order_are_found(known, tmp_path, capsys):
    rows = [2, 0, 1]
    write(tmp_path / "r.h5", BOXES[rows], 2 * FEATURES[rows], ids=(2, 7, 1))
    assert main(["check", "--regions", str(tmp_path / "r.h5"), "--against", str(known.path)]) == 0
    said = capsys.readouterr().out
    assert "2 images are also in" in said and "100.0 % with IoU >= 0.9" in said
    assert "the median of their cosine is 1.000" in said and "The file can be used." in said


def test_boxes_and_features_on_paper(known, tmp_path):
    """Boxes: the first one is kept; the second one is 6 wide in the same 10, IoU 0.6; the third one is elsewhere.
    Of the same boxes only the first one remains: (1, 0) and (3, 4) have the cosine 3 / 5."""
    boxes = [[0, 0, 10, 10], [20, 0, 26, 10], [30, 30, 40, 40]]
    found = inspect_against(write(tmp_path / "r.h5", boxes, np.float32([[3, 4], [0, 1], [1, 1]])), known)
    assert "of their 6 boxes there, 66.7 % are reached with IoU > 0.5 and 33.3 % with IoU >= 0.9" in found.facts[0]
    assert "the median of their cosine is 0.600" in found.facts[1]
    assert len(found.problems) == 1 and "the median cosine of 2 same boxes is 0.600" in found.problems[0]


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"ids": (8, 9)}, "no image in common"),
        ({"features": np.ones((3, 5))}, "the features have 5 numbers, those of .* 2"),
        ({"size": (41, 40)}, "2 images have another size"),
        ({"boxes": BOXES + 10}, "no box is the same"),
    ],
)
def test_what_cannot_be_compared_is_a_problem(known, tmp_path, changes, words):
    given = {"boxes": BOXES, "features": FEATURES, **changes}
    (problem,) = inspect_against(write(tmp_path / "r.h5", **given), known).problems
    assert __import__("re").search(words, problem)
