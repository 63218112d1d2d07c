"""The names of the class probabilities, and which of them speak of a class of the captions."""

import json

import pytest

from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.packs.region_classes import class_columns, region_classes


def test_names_come_from_a_list_a_manifest_or_the_detector_that_has_so_many(tmp_path):
    assert region_classes(tmp_path, None) is None  # no class probabilities
    assert region_classes(tmp_path, 4) is None  # nobody knows them
    known = region_classes(tmp_path, 1601)
    assert len(known) == 1600 and known[:2] == ["yolk", "goal"]
    (tmp_path / "simulated.json").write_text(json.dumps({"classes": ["man", "dog"]}))
    assert region_classes(tmp_path, 1601) == ["man", "dog"]  # column 1 and 2; the others are nameless
    (tmp_path / "names.txt").write_text("cat\n")
    assert region_classes(tmp_path, 2, tmp_path / "names.txt") == ["cat"]


def test_a_list_that_does_not_fit_is_refused(tmp_path):
    (tmp_path / "names.txt").write_text("cat\ndog\nman\n")
    with pytest.raises(UserError, match=r"names.txt names 3 classes, but the regions have 3 class probabilities"):
        region_classes(tmp_path, 3, tmp_path / "names.txt")
    (tmp_path / "sample.json").write_text("{}")
    with pytest.raises(UserError, match="sample.json: expected a list 'classes'"):
        region_classes(tmp_path, 3)


def test_a_class_has_all_columns_that_name_it():
    lemma = {"men": "man", "dogs": "dog"}
    names = ["men", "tv,television", "man", "hot dogs", "dogs", "tree"]
    found = class_columns(names, ["man", "television", "dog", "sky"], lambda word: lemma.get(word, word))
    assert found == {"man": (1, 3), "television": (2,), "dog": (5,)}
