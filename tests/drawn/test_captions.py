"""Captions: the grammar's sentences, their markup, and what they are about."""

import math
import re
from collections import Counter

from xmodaler_ssattn.classes import read_classes
from xmodaler_ssattn.data.entities import parse_caption, read_objects
from xmodaler_ssattn.evaluation.lemmas import Lemmas
from xmodaler_ssattn.evaluation.object_words import ObjectWords
from xmodaler_ssattn.worlds.drawn.backgrounds import PLACES
from xmodaler_ssattn.worlds.drawn.drawn_dataset import scene_xml, singular
from xmodaler_ssattn.worlds.drawn.grammar import MarkedPhrase, choose_first, describe, markup, salience
from xmodaler_ssattn.worlds.drawn.kinds import CLASS_NAMES, COLOUR_NAMES, KIND_BY_NAME, KINDS
from xmodaler_ssattn.worlds.drawn.scenes import make_scene

SCENES = [make_scene(3, index) for index in range(80)]


def plain(caption):
    """The sentence without markup."""
    words = " ".join(part.words if isinstance(part, MarkedPhrase) else part for part in caption)
    return f"{words[0].upper()}{words[1:]} ."


def phrases_of(caption):
    return [part for part in caption if isinstance(part, MarkedPhrase)]


def test_a_caption_is_written_with_and_without_markup():
    caption = (MarkedPhrase("a red ball", 7, "other"), "on", MarkedPhrase("the beach", 9, "scene"))
    assert plain(caption) == "A red ball on the beach ."
    assert markup(caption) == "[/EN#7/other A red ball] on [/EN#9/scene the beach] ."


def test_the_same_scene_is_always_described_alike_by_five_sentences():
    for scene in SCENES[:5]:
        first, second = describe(scene), describe(scene)
        assert first == second and len(first.captions) == 5


def test_the_markup_parses_into_the_same_words_and_chains():
    for scene in SCENES:
        for caption in describe(scene).captions:
            parsed = parse_caption(markup(caption))
            assert parsed["raw"] == plain(caption)
            assert [phrase["chain"] for phrase in parsed["phrases"]] == [
                str(phrase.chain) if phrase.chain else None for phrase in phrases_of(caption)
            ]


def test_a_chain_names_one_object_in_all_sentences_and_its_words_name_its_kind_and_colour():
    plurals = 0
    for scene in SCENES:
        description = describe(scene)
        assert not set(description.boxes) & {*description.scenes, *description.without_box}
        for caption in description.captions:
            for phrase in phrases_of(caption):
                numbers = description.boxes.get(phrase.chain)
                if numbers is None:
                    continue
                words = phrase.words.split()
                items = [scene.objects[number] for number in numbers]
                assert all(item.kind is KIND_BY_NAME[singular(words[-1])] for item in items)
                assert len(items) == (2 if words[0] == "two" else 1)
                plurals += len(items) == 2
                for word in words:
                    if word in {"red", "blue", "green", "yellow", "white", "brown"}:
                        assert all(item.colour == word for item in items)
    assert plurals > 5


def test_every_chain_of_the_sentences_is_in_the_xml_with_its_boxes(tmp_path):
    for scene in SCENES[:25]:
        description = describe(scene)
        path = tmp_path / f"{scene.image_id}.xml"
        path.write_text(scene_xml(scene, description), encoding="utf-8")
        found = read_objects(path)
        assert (found.width, found.height) == (scene.width, scene.height) and not found.problems and not found.clipped
        used = {str(phrase.chain) for caption in description.captions for phrase in phrases_of(caption) if phrase.chain}
        assert used == set(found.boxes_px) | found.without_box
        for chain, numbers in description.boxes.items():
            # The official parser subtracts 1 from each corner: what is left is the last pixel, not the one after it.
            expected = [[x1, y1, x2 - 1, y2 - 1] for x1, y1, x2, y2 in (scene.objects[n].box_px for n in numbers)]
            assert sorted(found.boxes_px[str(chain)]) == sorted(expected)


def test_scene_phrases_and_phrases_of_no_object_occur_as_in_the_real_data():
    text = "\n".join(markup(caption) for scene in SCENES for caption in describe(scene).captions)
    types = Counter(re.findall(r"\[/EN#\d+/(\w+) ", text))
    assert set(types) == {"people", "animals", "vehicles", "other", "scene", "clothing", "notvisual"}
    assert re.search(r"\[/EN#0/notvisual There\] is \[", text)


def test_every_word_of_the_grammar_that_names_a_class_is_a_noun_of_that_meaning():
    among_480, among_kinds = ObjectWords(read_classes(), Lemmas()), ObjectWords(CLASS_NAMES, Lemmas())
    plurals = {kind.plural: kind.name for kind in KINDS}
    nouns = {"park", "grass", "beach", "sand", "street", "city", "snow", "field", "sky", "water", "shirt", "dress"}
    nouns |= {*CLASS_NAMES, *plurals}
    said = set()
    for scene in SCENES:
        for caption in describe(scene).captions:
            for part in caption:
                words = (part.words if isinstance(part, MarkedPhrase) else part).split()
                said.update(words)
                # Verbs, prepositions and "and" stand between the phrases: none of them names an object.
                assert isinstance(part, MarkedPhrase) or not among_480.among(words), words
    # What the scenes above may not have said by chance: each verb, each place, each kind, each colour.
    said |= {pose for kind in KINDS for pose in kind.poses}
    said |= {word for place in PLACES for _, words in place.phrases for word in words.split()}
    said |= {*CLASS_NAMES, *plurals, *COLOUR_NAMES}
    assert among_480.among(said) == {word: plurals.get(word, word) for word in nouns}
    # Of these the scores of the scenes know the kinds.
    assert among_kinds.among(said) == {word: plurals.get(word, word) for word in {*CLASS_NAMES, *plurals}}


def test_left_and_right_and_above_hold_in_the_picture():
    checked = Counter()
    for scene in SCENES:
        description = describe(scene)
        for caption in description.captions:
            for i, word in enumerate(caption):
                if word not in ("to the left of", "to the right of", "above", "over"):
                    continue
                other = caption[i + 1]
                if other.chain not in description.boxes:
                    continue  # above a place
                first = scene.objects[description.boxes[caption[0].chain][0]]
                second = scene.objects[description.boxes[other.chain][0]]
                if word.startswith("to the"):
                    assert (first.box_px[0] < second.box_px[0]) == (word == "to the left of")
                else:
                    assert first.kind.zone == "sky" and second.kind.zone != "sky"
                checked[word] += 1
    assert len(checked) == 4


def test_mention_chances_follow_salience():
    import random

    scene = SCENES[0]
    values = salience(scene)
    total = sum(math.exp(value) for value in values)
    rng = random.Random(0)
    drawn = Counter(choose_first(scene, rng) for _ in range(4000))
    for number, value in enumerate(values):
        chance = math.exp(value) / total
        assert abs(drawn[number] / 4000 - chance) < 5 * math.sqrt(chance * (1 - chance) / 4000) + 1e-9


def test_of_two_equal_objects_the_larger_and_the_more_central_one_is_more_salient():
    import dataclasses

    scene = SCENES[0]
    item = scene.objects[0]
    w, h = scene.width, scene.height

    def with_box(*box):
        return dataclasses.replace(item, box_px=box)

    middle = with_box(w // 2 - 20, h // 2 - 20, w // 2 + 20, h // 2 + 20)
    small = with_box(w // 2 - 10, h // 2 - 10, w // 2 + 10, h // 2 + 10)
    corner = with_box(0, 0, 40, 40)
    values = salience(dataclasses.replace(scene, objects=(middle, small, corner)))
    assert values[0] > values[1] and values[0] > values[2]
