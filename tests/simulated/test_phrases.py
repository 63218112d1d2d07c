"""Which words of a caption name objects."""

import pytest

from simulated.made_up_captions import lemma
from xmodaler_ssattn.worlds.simulated.phrases import MANY, object_phrases, other_words, split_words

CLASSES = frozenset(
    {"man", "people", "group", "dog", "street", "shirt", "stand", "ball", "table", "park", "hand", "city", "boy"}
)


def found(caption):
    words = split_words(caption)
    return [
        (" ".join(words[phrase.start : phrase.end]), phrase.name, phrase.modifiers)
        for phrase in object_phrases(words, CLASSES, lemma)
    ]


@pytest.mark.parametrize(
    "caption, expected",
    [
        ("A man in a blue shirt.", [("A man", "man", ()), ("a blue shirt", "shirt", ("blue",))]),
        (
            "Two old men wearing red shirts",
            [("Two old men", "man", ("two", "old", MANY)), ("red shirts", "shirt", ("red", MANY))],
        ),
        # a class word before a class word describes it
        ("Dogs on a city street.", [("Dogs", "dog", (MANY,)), ("a city street", "street", ("city",))]),
        # collectives belong to what they are made of
        ("A group of young people eat.", [("A group of young people", "people", ("young",))]),
        ("A group eats.", [("A group", "group", ())]),
        # a noun and a verb
        ("A man stands.", [("A man", "man", ())]),
        ("A man at a fruit stand.", [("A man", "man", ()), ("a fruit stand", "stand", ("fruit",))]),
        ("They park near the park", [("the park", "park", ())]),
        # words between two objects do not belong to the second one
        ("A boy holding ball", [("A boy", "boy", ()), ("ball", "ball", ())]),
        ("A man's dog", [("A man", "man", ()), ("dog", "dog", ())]),
        ("It is raining.", []),
    ],
)
def test_objects_and_what_describes_them(caption, expected):
    assert found(caption) == expected


def test_words_are_split_as_the_official_sentences_are():
    assert split_words("A man's T-shirt, [old].") == ["A", "man", "'s", "T-shirt", ",", "(", "old", ")", "."]


def test_other_words_are_neither_objects_nor_grammar():
    words = split_words("A man in a blue shirt is juggling with torches at night .")
    assert other_words(words, object_phrases(words, CLASSES, lemma)) == ["juggling", "torches", "night"]


def test_phrases_do_not_overlap_and_end_with_their_class():
    words = split_words("A group of men and a dog with two balls near a park table in the city, a man's hand in hand")
    last = 0
    for phrase in object_phrases(words, CLASSES, lemma):
        assert last <= phrase.start < phrase.end and lemma(words[phrase.end - 1].lower()) == phrase.name
        last = phrase.end
    assert last
