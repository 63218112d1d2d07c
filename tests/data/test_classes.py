"""The rule by which a word names a class: all 480 names, their plurals, and the words around a word."""

import pytest

from xmodaler_ssattn.classes import IRREGULAR, bare_word, class_of_phrase, class_of_word, read_classes
from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.evaluation.lemmas import class_of_lemma, noun_lemma
from xmodaler_ssattn.worlds.simulated.phrases import object_phrases, split_words

NAMES = read_classes()
CLASSES = frozenset(NAMES)
# Names that are plurals already, or have no plural of their own.
NO_PLURAL = {
    "pants", "shorts", "goods", "papers", "outfits", "clothes", "jeans", "overalls", "pajamas", "goggles", "clothing",
    "garb", "equipment", "machinery", "luggage", "scaffolding", "makeup", "attire", "someone", "blond-hair", "red-hair",
}  # fmt: skip
IRREGULAR_PLURALS = {
    "man": "men", "woman": "women", "child": "children", "person": "persons", "foot": "feet", "tooth": "teeth",
    "leaf": "leaves", "knife": "knives", "scarf": "scarves", "gentleman": "gentlemen", "fireman": "firemen",
    "policeman": "policemen", "graffitus": "graffiti", "sheep": "sheep", "people": "people",
}  # fmt: skip


def plural(name: str) -> str:
    """The written plural, by the rules of a school grammar."""
    if name in IRREGULAR_PLURALS:
        return IRREGULAR_PLURALS[name]
    if name.endswith(("s", "x", "z", "ch", "sh")):
        return name + "es"
    if name.endswith("y") and name[-2] not in "aeiou":
        return name[:-1] + "ies"
    return name + "s"


def class_of(word: str) -> str | None:
    return class_of_word(word, CLASSES, noun_lemma)


@pytest.mark.parametrize("change", [str, str.upper, str.title, "{}'s".format, "{}’s".format, "“{},”".format])
def test_every_one_of_the_480_names_names_its_own_class(change):
    assert [(name, class_of(change(name))) for name in NAMES if class_of(change(name)) != name] == []
    assert len(NAMES) == 480


def test_the_plural_of_every_name_names_its_class():
    plurals = {name: plural(name) for name in NAMES if name not in NO_PLURAL}
    # "paper" and "outfit" have plurals that are classes of their own
    own = {"paper": "papers", "outfit": "outfits"}
    wrong = {name: class_of(word) for name, word in plurals.items() if class_of(word) != own.get(name, name)}
    assert wrong == {} and len(plurals) > 440
    assert [word for word in plurals.values() if class_of(f"{word.upper()}'") != class_of(word)] == []


@pytest.mark.parametrize(
    ("word", "name"),
    [
        ("graffiti", "graffitus"), ("leaves", "leaf"), ("hoodies", "hoodie"), ("t-shirts", "t-shirt"),
        ("T-Shirt", "t-shirt"), ("women's", "woman"), ("boys'", "boy"), ("rocks.", "rock"), ("doorway-", "doorway"),
        ("sunglasses", "sunglass"), ("glasses", "glass"), ("pants", "pants"), ("papers", "papers"),
        ("outfits", "outfits"), ("paper", "paper"), ("buses", "bus"),
        # no objects, whatever a lemmatiser makes of them
        ("short", None), ("good", None), ("bi", None), ("'s", None), ("", None), ("-", None), ("blond-haired", None),
    ],
)  # fmt: skip
def test_words_of_the_real_captions(word, name):
    assert class_of(word) == name


def test_the_last_class_word_of_a_phrase_decides_also_where_the_lemmatiser_does_not_know_it():
    # The lemma "pant" is not a class, but "pink" before it is.
    for words, name, head in (
        ("the pink pants", "pants", 2),
        ("orange shorts", "shorts", 1),
        ("a wall of graffiti here", "graffitus", 3),
        ("paper goods", "goods", 1),
        ("pink outfits", "outfits", 1),
        ("a short man", "man", 2),
        ("a man 's papers", "papers", 3),
        ("green leaves", "leaf", 1),
    ):
        tokens = words.split()
        assert class_of_phrase(tokens, 0, len(tokens), CLASSES, noun_lemma) == (name, head)
        assert class_of_phrase(tokens, 0, len(tokens), CLASSES, lambda word: word) == (name, head)


def test_simulated_captions_name_classes_by_the_same_rule():
    words = split_words("A man in pink pants holds papers near the graffiti with leaves")
    phrases = object_phrases(words, CLASSES, noun_lemma)
    assert [phrase.name for phrase in phrases] == ["man", "pants", "papers", "graffitus", "leaf"]
    assert [phrase.name for phrase in phrases] == [class_of(words[phrase.end - 1]) for phrase in phrases]


def test_the_published_rule_for_generated_words_knows_lemmas_only_and_differs_for_two_names():
    # GVD: lemma -> class, and of two names with one lemma the later one wins. For all other names the rules agree.
    published = class_of_lemma(read_classes(), noun_lemma)
    differ = {name: published[noun_lemma(name)] for name in NAMES if published[noun_lemma(name)] != class_of(name)}
    assert differ == {"paper": "papers", "outfits": "outfit"}
    assert "short" not in published and "good" not in published and published["pants"] == "pants"


def test_the_irregular_words_are_all_needed_and_all_lead_to_a_lemma():
    assert all(noun_lemma(word) == lemma for word, lemma in IRREGULAR.items())
    assert all(lemma in CLASSES for word, lemma in IRREGULAR.items() if word != "bi")


def test_bare_words():
    words = ("Man's", "boys’", "“T-shirt,”", "'s", "", "...", "A&M", "is")
    assert [bare_word(word) for word in words] == ["man", "boys", "t-shirt", "s", "", "", "a&m", "is"]


def test_a_list_of_classes_is_read_in_any_encoding_and_refused_when_it_is_not_a_list(tmp_path):
    path = tmp_path / "classes.txt"
    path.write_bytes("man\r\nt-shirt\r".encode("utf-16"))
    assert read_classes(path) == ["man", "t-shirt"]
    for data, message in (
        (b"", "it is empty"),
        (b"man\ndog\nman\n", "are duplicated: man"),
        (b"man\ncaf\xe9\n", "line 2, byte 7 is 0xe9"),
    ):
        path.write_bytes(data)
        with pytest.raises(UserError, match=rf"(?s)classes\.txt.*{message}"):
            read_classes(path)
    with pytest.raises(UserError, match="does not exist"):
        read_classes(tmp_path / "none.txt")
