"""Words, lemmas and classes."""

import json

import pytest

from xmodaler_ssattn.classes import read_classes
from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.evaluation.lemmas import (
    Lemmas,
    class_of_lemma,
    noun_lemma,
    own_lemma,
    read_lemma_table,
)
from xmodaler_ssattn.evaluation.object_words import ObjectWords


def test_the_packaged_lemmatiser_merges_two_pairs_of_class_names_only():
    by_lemma = {}
    for name in read_classes():
        by_lemma.setdefault(noun_lemma(name), []).append(name)
    assert [names for names in by_lemma.values() if len(names) > 1] == [["paper", "papers"], ["outfits", "outfit"]]


@pytest.mark.parametrize(
    ("word", "lemma"),
    [("men", "man"), ("women", "woman"), ("children", "child"), ("glasses", "glass"), ("sunglasses", "sunglass"),
     ("t-shirts", "t-shirt"), ("Dogs", "dog"), ("man's", "man"), ("people", "people"), ("jeans", "jeans"), ("", ""),
     ("'s", "'s"), ("zzxq", "zzxq")],
)  # fmt: skip
def test_noun_lemmas(word, lemma):
    assert noun_lemma(word) == lemma


@pytest.mark.parametrize("word", ["parked", "uniformed", "costumed", "pictured", "shoveling", "standing", "riding"])
def test_a_verb_is_not_a_noun_because_lemminflect_does_not_know_it(word):
    assert noun_lemma(word) == word


@pytest.mark.parametrize(
    ("word", "lemma"),
    [("tattoos", "tattoo"), ("firetrucks", "firetruck"), ("skateboarders", "skateboarder"), ("wetsuits", "wetsuit")],
)
def test_plurals_that_lemminflect_does_not_know_are_found(word, lemma):
    assert noun_lemma(word) == lemma


def test_with_the_official_table_a_verb_whose_lemma_is_a_class_is_an_object_word_as_in_gvd(tmp_path):
    words = ["a", "car", "is", "parked", "park"]
    assert [ObjectWords(["car", "park"], Lemmas())(word) for word in words] == [None, "car", None, None, "park"]
    (tmp_path / "lemmas.json").write_text('{"parked": "park", "is": "be"}')
    (tmp_path / "vocabulary.txt").write_text("\n".join(words))
    (tmp_path / "grounding_test.json").write_text('{"vocab": ["car", "park", "dog"], "annotations": []}')
    named = ObjectWords.of_model(tmp_path / "vocabulary.txt")
    assert [named(word) for word in (*words, "dog")] == [None, "car", None, "park", "park", None]
    (tmp_path / "grounding_test.json").unlink()  # then the classes are the 480
    assert ObjectWords.of_model(tmp_path / "vocabulary.txt").among(words) == {
        "car": "car",
        "parked": "park",
        "park": "park",
    }


def test_the_table_comes_first_and_the_share_of_fallbacks_is_counted():
    lemmas = Lemmas({"men": "MAN"})
    assert [lemmas(word) for word in ("men", "dogs", "dogs", "men")] == ["MAN", "dog", "dog", "MAN"]
    assert lemmas.fallback_share == 0.5
    lemmas.reset_counts()
    assert lemmas.fallback_share == 0.0
    assert Lemmas({}, own_lemma)("dogs") == "dogs"


def test_the_later_class_in_file_order_wins_a_shared_lemma():
    lemmas = Lemmas({"paper": "paper", "papers": "paper"})
    assert class_of_lemma(["paper", "papers"], lemmas) == {"paper": "papers"}
    assert class_of_lemma(["papers", "paper"], lemmas) == {"paper": "paper"}


def test_a_class_that_is_not_a_vocabulary_word_is_unreachable():
    lemmas = Lemmas()
    classes = class_of_lemma(["man", "sunglass"], lemmas, vocabulary=["man", "men", "sunglasses"])
    assert [classes.get(lemmas(word)) for word in ("men", "in", "sunglasses")] == ["man", None, None]


def test_a_lemma_table_is_read_from_a_plain_object_and_from_the_official_dictionary(tmp_path):
    plain, official, wrong = (tmp_path / name for name in ("a.json", "b.json", "c.json"))
    plain.write_text(json.dumps({"men": "man"}), "utf-8")
    official.write_text(json.dumps({"wtol": {"men": "man"}, "wtod": {"man": 0}, "ix_to_word": {"1": "man"}}), "utf-8")
    assert read_lemma_table(plain) == read_lemma_table(official) == {"men": "man"}
    wrong.write_text(json.dumps({"men": 3}), "utf-8")
    with pytest.raises(UserError, match="the lemma of 'men' must be a string, got 3"):
        read_lemma_table(wrong)
    wrong.write_text("[]", "utf-8")
    with pytest.raises(UserError, match="expected a JSON object word -> lemma"):
        read_lemma_table(wrong)
