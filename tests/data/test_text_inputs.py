"""Every kind of text that a person may give is the same in every encoding and with every line end, or is refused."""

import gzip
import json

import pytest

from xmodaler_ssattn.classes import read_classes
from xmodaler_ssattn.cli.configuring import load_config
from xmodaler_ssattn.data.annotations import annotation_header, read_annotations
from xmodaler_ssattn.data.entities import read_objects, read_sentences
from xmodaler_ssattn.data.official import read_dictionary, read_official
from xmodaler_ssattn.data.splits import read_splits, read_unrelated
from xmodaler_ssattn.data.vocabulary import read_vocabulary
from xmodaler_ssattn.detectors.folder import ids_from_file
from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.evaluation.caption_files import read_predictions, read_reference_captions
from xmodaler_ssattn.evaluation.gvd_format import read_reference, read_split_ids
from xmodaler_ssattn.evaluation.lemmas import read_lemma_table
from xmodaler_ssattn.host import NAME, UPSTREAM, load_vocab
from xmodaler_ssattn.packs.convert import read_sizes
from xmodaler_ssattn.report.curves import read_run
from xmodaler_ssattn.reproduce.plan import read_plan
from xmodaler_ssattn.worlds.simulated.captions_world import read_captions

CAPTION = {"raw": "A café .", "tokens": ["a", "café"], "phrases": []}
IMAGE = {"image_id": 12, "width": 9, "height": 8, "captions": [CAPTION]}
GVD_CAPTION = {"tokens": ["a", "café"], "process_idx": [1], "process_clss": ["café"], "process_bnd_box": [[0, 0, 4, 4]]}
GVD_IMAGE = {"image_id": 12, "image_size": [9, 8], "captions": [GVD_CAPTION]}
XML = """<?xml version="1.0" encoding="utf-8"?>
<annotation>
<filename>12.jpg</filename><folder>café</folder><size><width>90</width><height>80</height></size>
<object><name>7</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>4</xmax><ymax>5</ymax></bndbox></object>
</annotation>
"""


def lines(*words):
    return "".join(f"{word}\n" for word in words)


def written(value):
    return json.dumps(value, ensure_ascii=False, indent=1)


def annotations():
    header = {**annotation_header("train", "café", False, "rule", ["café"])}
    text = json.dumps(header, ensure_ascii=False)[:-1]
    return f'{text}, "images": [\n{json.dumps(IMAGE, ensure_ascii=False)}\n]}}\n'


# what it is -> (file name, its text, how it is read)
INPUTS = {
    "sentences": ("12.txt", lines("[/EN#7/other A café] .", "Two\u00e9 [/EN#0/notvisual dogs] ."),
                  lambda path: read_sentences(path, 2)),
    "boxes": ("12.xml", XML, read_objects),
    "split ids": ("ids.json", written({"train": ["007", 8], "val": ["9"], "test": [], "é": 1}), read_splits),
    "split ids, to score": ("ids.json", written({"train": ["007"], "é": []}), lambda p: read_split_ids(p, ["train"])),
    "unrelated captions": ("UNRELATED", lines("# é", "12 5", "13 1"), read_unrelated),
    "classes": ("classes.txt", lines("café", "man"), read_classes),
    "vocabulary": ("vocabulary.txt", lines("café", "man", "UNK"), lambda path: read_vocabulary(path).words),
    "annotations": ("train.json", annotations(), lambda path: read_annotations(path, "train")),
    "GVD's annotations": ("a.json", written({"vocab": ["café"], "annotations": [GVD_IMAGE]}), read_official),
    "GVD's dictionary": (
        "d.json",
        written({"ix_to_word": {"1": "café", "2": "UNK"}, "wtod": {"café": 0}, "wtol": {}, "images": [{"id": 12}]}),
        lambda path: (read_dictionary(path).vocabulary.words, read_dictionary(path).image_ids),
    ),
    "grounding reference": ("r.json", written({"vocab": ["café"], "annotations": [GVD_IMAGE]}), read_reference),
    "references": ("r.json", written({"12": ["a café"]}), read_reference_captions),
    "predictions": ("p.json", written({"12": "a café"}), read_predictions),
    "lemmas": ("l.json", written({"cafés": "café"}), read_lemma_table),
    "image sizes": ("s.json", written({"12": [9, 8], "13": [7, 6]}), read_sizes),
    "ids of pictures": ("ids.json", written({"café.jpg": 3}), lambda path: ids_from_file(["café.jpg"], path)),
    "captions": ("c.json", written({"12": {"split": "val", "captions": ["a café"] * 5}}), read_captions),
    "config": ("c.yaml", "# é\nMODEL:\n  VOCAB_SIZE: 77\n  META_ARCHITECTURE: GroundedCaptioner\nOUTPUT_DIR: café\n",
               lambda path: (load_config(str(path), device="cpu").OUTPUT_DIR)),
    "plan": ("p.plan.yaml", "title: café\nrows:\n  a:\n    config: a.yaml\n", lambda path: read_plan(path).title),
    "metrics of a run": ("metrics.json", lines('{"iteration": 0, "café": 1.5}', '{"iteration": 1, "café": 2.5}'),
                         lambda path: read_run(path.parent).series),
}  # fmt: skip


@pytest.mark.parametrize("kind", INPUTS)
@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.encode("utf-8-sig"),
        lambda text: text.replace("\n", "\r\n").encode(),
        lambda text: text.replace("\n", "\r").encode(),
        lambda text: text.encode("utf-16"),
        lambda text: text.replace("\n", "\r\n").encode("utf-16"),
        lambda text: b"\xfe\xff" + text.encode("utf-16-be"),
        lambda text: text.encode("utf-32"),
    ],
    ids=["mark", "CRLF", "CR", "UTF-16", "UTF-16 CRLF", "UTF-16 BE", "UTF-32"],
)
def test_a_text_says_the_same_in_every_encoding_and_with_every_line_end(tmp_path, kind, change):
    name, text, read = INPUTS[kind]
    path = tmp_path / name
    path.write_bytes(text.encode())
    plain = read(path)
    path.write_bytes(change(text))
    if kind == "config" and NAME == UPSTREAM and change(text)[:1] in b"\xff\xfe":  # it reads UTF-8 only
        with pytest.raises(UserError, match=r"c\.yaml: 'utf-8' codec"):
            read(path)
        return
    assert read(path) == plain
    assert plain


@pytest.mark.parametrize("kind", INPUTS)
@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data.replace("é".encode(), b"\xe9"),  # Latin-1
        lambda data: data + b"\x80",
        lambda data: data.decode().encode("utf-16-le"),  # without its mark
        lambda data: (b"\xff\xfe" + data.decode().encode("utf-16-le"))[:-1],
        lambda data: data[: len(data) // 2] + b"\0" + data[len(data) // 2 :],
    ],
    ids=["Latin-1", "stray byte", "UTF-16 without mark", "half a character", "NUL"],
)
def test_what_is_no_text_is_refused_with_the_file_and_the_reason(tmp_path, kind, damage):
    name, text, read = INPUTS[kind]
    path = tmp_path / name
    if damage(text.encode()) == text.encode():
        pytest.skip("numbers only: there is nothing that Latin-1 would write otherwise")
    path.write_bytes(damage(text.encode()))
    with pytest.raises(UserError, match="(?i)byte|NUL|UTF-16") as caught:
        read(path)
    assert name in str(caught.value) or kind == "ids of pictures"


@pytest.mark.parametrize("kind", [kind for kind, (name, _, _) in INPUTS.items() if name.endswith(".json")])
def test_a_json_file_may_be_compressed_and_no_key_is_duplicated(tmp_path, kind):
    name, text, read = INPUTS[kind]
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    plain = read(path)
    path.write_bytes(gzip.compress(text.encode()))
    assert read(path) == plain
    if kind == "metrics of a run":
        return
    first, rest = text.strip().removeprefix("{").split(":", 1)
    path.write_text(f"{{{first}: 1, {first}:{rest}", encoding="utf-8")
    with pytest.raises(UserError, match="is duplicated in one object") as caught:
        read(path)
    assert name in str(caught.value)


def test_the_encoding_that_an_xml_declares_does_not_matter_when_its_bytes_say_another(tmp_path):
    plain = tmp_path / "plain" / "12.xml"
    plain.parent.mkdir()
    plain.write_text(XML, encoding="utf-8")
    for declared in ("UTF-16", "us-ascii", "windows-1252", "gbk", "no-such-encoding"):
        (tmp_path / "12.xml").write_text(XML.replace("utf-8", declared), encoding="utf-8")
        assert read_objects(tmp_path / "12.xml") == read_objects(plain)


def test_the_hosts_read_our_vocabulary_as_we_do(tmp_path):
    (tmp_path / "v.txt").write_text("café\nman\nUNK\n", encoding="utf-8")
    assert load_vocab(str(tmp_path / "v.txt"))[1:] == read_vocabulary(tmp_path / "v.txt").words


def test_a_key_that_is_duplicated_in_a_config_or_its_base_is_refused_on_both_hosts(tmp_path):
    (tmp_path / "base.yaml").write_text("OUTPUT_DIR: a\nSEED: 1\nOUTPUT_DIR: b\n")
    (tmp_path / "c.yaml").write_text("_BASE_: base.yaml\nMODEL:\n  META_ARCHITECTURE: GroundedCaptioner\n")
    for name in ("c.yaml", "base.yaml"):
        with pytest.raises(UserError, match=r"base\.yaml, line 3: the key 'OUTPUT_DIR' is duplicated"):
            load_config(str(tmp_path / name), device="cpu")
