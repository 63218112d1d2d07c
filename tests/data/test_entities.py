"""The official Sentences and Annotations files: what a phrase is, what a box is, and what is wrong where."""

import json
import pickle

import pytest

from data.entities_generator import shared_data
from xmodaler_ssattn.data.entities import MarkupError, list_files, parse_caption, read_objects, read_sentences
from xmodaler_ssattn.errors import UserError

needs_real_files = pytest.mark.skipif(
    not (shared_data() / "flickr30k" / "Sentences_sample").is_dir(),
    reason=f"no real sentences in {shared_data()}; set SSATTN_TEST_DATA",
)


def xml(objects, size="<width>500</width><height>400</height>"):
    return f"<annotation>\n<size>{size}</size>\n{objects}\n</annotation>\n"


def box(*corners, names=("7",)):
    tags = "".join(f"<{tag}>{value}</{tag}>" for tag, value in zip(("xmin", "ymin", "xmax", "ymax"), corners))
    return f"<object>{''.join(f'<name>{name}</name>' for name in names)}<bndbox>{tags}</bndbox></object>"


def objects_of(tmp_path, text):
    path = tmp_path / "12.xml"
    path.write_text(text, encoding="utf-8")
    return read_objects(path)


def spans(caption):
    return [(phrase["start"], phrase["end"], phrase["chain"]) for phrase in caption["phrases"]]


def test_a_marked_sentence_becomes_tokens_and_phrases():
    text = "[/EN#1/people Two young , White men] watch [/EN#0/notvisual it] in [/EN#4/scene the yard] ."
    caption = parse_caption(text)
    # two young white men watch it in the yard; the commas and the full stop are no tokens
    #  0    1     2    3    4    5  6  7   8
    assert caption["tokens"] == ["two", "young", "white", "men", "watch", "it", "in", "the", "yard"]
    assert caption["raw"] == "Two young , White men watch it in the yard ."
    assert spans(caption) == [(0, 4, "1"), (5, 6, None), (7, 9, "4")]


def test_a_phrase_may_have_several_types_and_words_keep_hyphens_and_signs():
    caption = parse_caption("[/EN#5/people/other A Texas A&M player] in a [/EN#6/clothing t-shirt] # 8")
    assert spans(caption) == [(0, 4, "5"), (6, 7, "6")]
    assert caption["tokens"] == ["a", "texas", "a&m", "player", "in", "a", "t-shirt", "8"]


def test_a_phrase_of_only_punctuation_is_dropped():
    caption = parse_caption("Men with [/EN#5/other # #] here")
    assert caption["phrases"] == [] and caption["tokens"] == ["men", "with", "here"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[/EN#1/people Two men are here .", "line 3: the bracket at '.*' opens a phrase that is not closed"),
        ("[/EN#1/people Two [/EN#2/people men] are", "opens a phrase that is not closed"),
        ("Two men] are here", "closes a phrase that was not opened"),
        ("[/EN#x/people Two men] are here", "not written"),
        ("[/EN#1/people  ] are here", "the phrase of chain 1 has no words"),
        (". , !", "no words"),
    ],
)
def test_broken_markup_is_named_with_file_and_line(text, message):
    with pytest.raises(MarkupError, match=message) as caught:
        parse_caption(text, "Sentences/12.txt", 3)
    assert str(caught.value).startswith("Sentences/12.txt, line 3: ")


def test_a_file_with_four_sentences_or_other_bytes_is_named(tmp_path):
    path = tmp_path / "12.txt"
    path.write_text("One man .\n" * 4, encoding="utf-8")
    with pytest.raises(MarkupError, match=r"12\.txt: it has 4 sentences, expected 5"):
        read_sentences(path)
    assert len(read_sentences(path, 4)) == 4
    path.write_bytes(b"One man .\nA caf\xe9 .\n")
    with pytest.raises(UserError, match=r"12\.txt is not valid UTF-8 text: line 2, byte 15 is 0xe9"):
        read_sentences(path)


def test_an_error_reaches_another_process():
    error = pickle.loads(pickle.dumps(MarkupError("12.txt", 3, "wrong.")))
    assert isinstance(error, UserError) and str(error) == "12.txt, line 3: wrong."


def test_boxes_count_from_zero_and_chains_collect_their_boxes(tmp_path):
    found = objects_of(
        tmp_path,
        xml(
            box(1, 2, 30, 40)
            + box(11, 12, 500, 400, names=("7", "8"))
            + "<object><name>9</name><scene>1</scene><nobndbox>0</nobndbox></object>"
        ),
    )
    assert (found.width, found.height) == (500, 400)
    assert found.boxes_px == {"7": [[0, 1, 29, 39], [10, 11, 499, 399]], "8": [[10, 11, 499, 399]]}
    assert found.without_box == {"9"} and found.problems == [] and found.clipped == 0


def test_one_drawn_box_of_two_chains_is_one_box(tmp_path):
    found = objects_of(tmp_path, xml(box(1, 1, 5, 5, names=("7", "8")) + box(2, 2, 6, 6) + box(9, 9, 3, 3)))
    # three bndbox elements, of which one is inverted; chain 7 has both of the others
    assert found.boxes == 2 and len(found.boxes_px["7"]) == 2 and len(found.problems) == 1


def test_the_number_in_a_files_name_is_its_image_and_leading_zeros_say_nothing(tmp_path):
    for name in ("12.xml", "0012.xml", "13.xml", "x.xml", "-14.xml", "1_5.xml", "16.txt", "._17.xml"):
        (tmp_path / name).write_text("")
    assert list_files(tmp_path, ".xml") == {12: [tmp_path / "0012.xml", tmp_path / "12.xml"], 13: [tmp_path / "13.xml"]}


def test_an_xml_that_names_another_image_is_refused(tmp_path):
    for name in ("12.jpg", "0012.jpg", "beach.jpg"):
        assert objects_of(tmp_path, xml(f"<filename>{name}</filename>")).width == 500
    with pytest.raises(
        MarkupError, match=r"12\.xml, line 3: <filename> is '13\.jpg', but the file is named for image 12"
    ):
        objects_of(tmp_path, xml("<filename>13.jpg</filename>"))


@pytest.mark.parametrize("value", ["1_0", "1e1", "10.0", "\u0661", "+1", "9" * 30])
def test_a_number_of_an_xml_is_plain_digits(tmp_path, value):
    with pytest.raises(MarkupError, match="expected a whole number"):
        objects_of(tmp_path, xml(box(1, 1, value, 5)))


def test_a_box_one_pixel_over_the_border_is_clipped_and_counted(tmp_path):
    found = objects_of(tmp_path, xml(box(0, 1, 501, 400)))
    assert found.boxes_px == {"7": [[0, 0, 499, 399]]} and found.clipped == 1


@pytest.mark.parametrize(
    ("corners", "message"),
    [
        ((30, 2, 20, 40), "has xmax < xmin"),
        ((1, 40, 20, 2), "ymax < ymin"),
        ((1, 2, 502, 40), "leaves the image of 500 x 400"),
        ((-5, 2, 30, 40), "leaves the image"),
        ((1, 2, 30), "lacks ymax"),
    ],
)
def test_an_impossible_box_is_a_problem_with_its_line_and_the_others_stay(tmp_path, corners, message):
    found = objects_of(tmp_path, xml(box(5, 5, 9, 9, names=("3",)) + "\n" + box(*corners)))
    assert found.boxes_px == {"3": [[4, 4, 8, 8]]} and found.without_box == {"7"}
    assert len(found.problems) == 1
    with pytest.raises(MarkupError, match=rf"12\.xml, line 4: the box of chain 7.*{message}"):
        raise found.problems[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<annotation><size>", r"12\.xml, line 1: not well-formed"),
        (xml("", size=""), "positive width and height"),
        (xml(box("a", 2, 3, 4)), "line 3: <xmin> is 'a', expected a whole number"),
        (xml("<object><bndbox></bndbox></object>"), "an object without a name"),
        ('<!DOCTYPE x [<!ENTITY a "b">]>' + xml(""), "DOCTYPE is not allowed"),
    ],
)
def test_broken_xml_is_named_with_file_and_line(tmp_path, text, message):
    with pytest.raises(MarkupError, match=message):
        objects_of(tmp_path, text)


@needs_real_files
def test_the_real_sentence_files_parse_and_agree_with_a_plain_reading():
    files = sorted((shared_data() / "flickr30k" / "Sentences_sample").glob("*.txt"))
    assert len(files) == 11
    for path in files:
        lines = path.read_text(encoding="utf-8").splitlines()
        for caption, line in zip(read_sentences(path).values(), lines, strict=True):
            # the slow, obvious reading: walk over the blank-separated words and watch the brackets
            tokens, phrases, start, chain = [], [], None, None
            for word in line.split():
                if word.startswith("[/EN#"):
                    start, chain = len(tokens), word[5:].split("/")[0]
                    continue
                closes = word.endswith("]")
                word = word.rstrip("]")
                if any(character.isalnum() for character in word):
                    tokens.append(word.lower())
                if closes:
                    phrases.append((start, len(tokens), None if chain == "0" else chain))
            assert caption["tokens"] == tokens
            assert spans(caption) == phrases


@needs_real_files
def test_real_boxes_survive_the_way_through_the_official_layout(tmp_path):
    for image in json.loads((shared_data() / "flickr30k" / "two_images_captions_and_boxes.json").read_text()):
        width, height, _ = image["image_size"]
        text = "".join(
            box(*(value + 1 for value in corners), names=(chain,))
            for chain, boxes in image["boxes"].items()
            for corners in boxes
        )
        found = objects_of(tmp_path, xml(text, f"<width>{width}</width><height>{height}</height>"))
        assert found.boxes_px == image["boxes"] and found.problems == []
