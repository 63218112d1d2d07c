"""Plain data against a type, and the quick reader of JSON against the careful one."""

import json
import random
from typing import TypedDict

import pytest

from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.files import parse_json, parse_quickly
from xmodaler_ssattn.schema import typed


class Thing(TypedDict):
    name: str
    size: list[int | float]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"name": "a"}, "the key 'size' is missing"),
        ({"name": 7, "size": []}, "name must be text, found 7"),
        ({"name": "a", "size": [1, 2.5, "3"]}, r"size\[2\] must be a number, found '3'"),
        ({"name": "a", "size": [True]}, r"size\[0\] must be a number, found True"),
        ({"name": "a", "size": {}}, r"size must be a list, found \{\}"),
        ([], r"it must be an object, found \[\]"),
    ],
)
def test_a_value_of_another_type_is_named_with_its_place(value, message):
    with pytest.raises(UserError, match=f"^{message}$"):
        typed(value, Thing)


def test_a_value_of_the_type_is_given_back_without_further_keys():
    assert typed({"name": "a", "size": [1, 2.5], "more": 3}, Thing) == {"name": "a", "size": [1, 2.5]}


SAMPLE = {"a": [1, -2.5, 1e9, None, True], "b:": {"c\\": ":", '"': "x: y"}, "\u00e9": [], "": {"a": {"a": "a"}}}
# Pieces that change the meaning: duplicated keys, also with blanks and escapes; escaped colons; what is not JSON.
PIECES = ['"a":1,', '"a" :1,', '"a"\t: 1,', '"\\u0061":1,', '"x\\u003a":1,', '"x\\u003A": 1,', '"\\ud800"', '"\\\\":']
PIECES += ["NaN", "1e999", "-Infinity", "\ufeff", "{", "}", "[", ",", ":", '":', "0", "01", "9" * 30, "\n"]


def test_the_quick_reader_gives_what_the_careful_one_gives_or_leaves_it_to_that(monkeypatch):
    careful = parse_json
    monkeypatch.setattr("xmodaler_ssattn.files.parse_quickly", lambda text: None)
    rng, quick = random.Random(1), 0
    texts = [json.dumps(SAMPLE, indent=indent, ensure_ascii=ascii) for indent in (None, 1) for ascii in (True, False)]
    for _ in range(6000):
        text = rng.choice(texts)
        for _ in range(rng.randrange(3)):
            at = rng.choice([at for at, character in enumerate(text) if character in '{[,:"}'])
            text = text[:at] + rng.choice(PIECES) + text[at + rng.choice((0, 0, 1)) :]
        for form in (text, text.encode()):
            if (found := parse_quickly(form)) is not None:
                assert json.dumps(found) == json.dumps(careful(text)), text
                quick += 1
    assert 1000 < quick < 11000


@pytest.mark.parametrize(
    "text", ['{"a":1,"a":2}', '{"a" :1,"a":2}', '{"a":1,"a":"\\u003a"}', "[1e999]", "[NaN]", '["\\ud800"]']
)
def test_the_quick_reader_leaves_to_the_careful_one_what_that_refuses(text):
    assert parse_quickly(text) is None and parse_quickly(text.encode()) is None
    with pytest.raises(UserError):
        parse_json(text)
