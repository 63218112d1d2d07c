"""Changed inputs of every reader end in a value or our own error; ``tools/faults.py fuzz`` tries many more."""

import logging
import warnings

import pytest

from fuzzing import binary_inputs, foreign_errors, text_inputs


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return text_inputs(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def binary(tmp_path_factory):
    return binary_inputs(tmp_path_factory.mktemp("binary"))


def test_changed_texts(text):
    found = [line for kind, case in text.items() for line in foreign_errors(kind, *case, changes=60)[1]]
    assert len(text) >= 20 and found == []


def test_changed_files_that_are_not_text(binary):
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = []
            for kind, (path, read) in binary.items():
                changes = 40 if "pack" not in kind else 8
                found += foreign_errors(kind, path, read, changes=changes)[1]
    finally:
        logging.disable(logging.NOTSET)
    assert len(binary) >= 40 and found == []


def test_the_fuzzer_finds_a_foreign_error_and_leaves_the_file_as_it_was(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("7")
    counts, found = foreign_errors("numbers", path, lambda path: int(path.read_text()), changes=50)
    assert counts["foreign error"] == len(found) > 5 and "ValueError at" in found[0]
    assert path.read_text() == "7"
