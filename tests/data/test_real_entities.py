"""`xmodaler prepare annotations` on the real Flickr30k Entities files: a part of them, and all of them at once.

The numbers are those of the table in the data's own README, and of a plain reading of the same files here.
"""

import json
import os
import re
import tarfile
from collections import Counter
from pathlib import Path

import pytest

from data.entities_generator import shared_data
from xmodaler_ssattn.cli.configuring import load_config
from xmodaler_ssattn.cli.main import main
from xmodaler_ssattn.data.splits import read_splits
from xmodaler_ssattn.data.vocabulary import read_vocabulary

FOLDER = shared_data() / "flickr30k"
ARCHIVE, SPLIT_IDS = FOLDER / "flickr30k_entities_v1.0.tar.xz", FOLDER / "split_ids_flickr30k_entities.json"
pytestmark = pytest.mark.skipif(
    not (ARCHIVE.is_file() and SPLIT_IDS.is_file()),
    reason=f"no real Flickr30k Entities in {FOLDER}; set SSATTN_TEST_DATA",
)
CONFIG = Path(__file__).parents[2] / "configs" / "flickr30k_entities" / "ss_attn.yaml"
EVERY = 60


def unpack(folder: Path, wanted) -> Path:
    """The members of the archive that ``wanted(name)`` takes, written into ``folder``."""
    with tarfile.open(ARCHIVE) as archive:
        for member in archive:
            name = member.name.split("/", 1)[-1] if not member.name.startswith(("Sent", "Ann")) else member.name
            if member.isfile() and wanted(name):
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(archive.extractfile(member).read())
    return folder


def prepare(entities: Path, split_ids: Path, out: Path, *more) -> int:
    words = ["--entities", entities, "--split-ids", split_ids, "--out", out, *more]
    return main(["prepare", "annotations", *map(str, words)])


@pytest.fixture(scope="session")
def everything(tmp_path_factory):
    """All real files, prepared once for all tests: (folder, what the command said). 40 s of one core."""
    if not os.environ.get("SSATTN_TEST_FULL"):
        pytest.skip("all 31,783 images take 40 s of one core: set SSATTN_TEST_FULL=1")
    folder = tmp_path_factory.mktemp("real")
    entities = unpack(folder / "entities", lambda name: True)
    capture = pytest.MonkeyPatch()
    said: list[str] = []
    with capture.context() as patch:
        patch.setattr("builtins.print", lambda *words, **_: said.append(" ".join(map(str, words))))
        assert prepare(entities, SPLIT_IDS, folder / "out", "--unrelated", entities / "UNRELATED_CAPTIONS") == 0
    return folder / "out", "\n".join(said)


def test_the_complete_real_files_have_all_expected_counts_and_all_classes(everything):
    _, said = everything
    first, *rest = said.splitlines()
    assert first == (
        "All 9 counts are those of the complete data set in karpathy's splits: train images 29,000, val images 1,014, "
        "test images 1,000, captions 155,051, phrases 547,073, phrases with a box 445,586, boxes 270,107, vocabulary "
        "with UNK 8,624, images outside the splits 769."
    )
    assert "expected" not in "\n".join(rest) and "MODEL.VOCAB_SIZE 8625 is that of configs/" in rest[-1]
    words, classes = re.search(r"([\d,]+) object words have a class and a box; (\d+) classes are in use", said).groups()
    assert int(words.replace(",", "")) >= 389_000 and classes == "480"


def test_the_config_fits_the_vocabulary_of_the_real_files_without_a_hand_edit(everything):
    cfg = load_config(str(CONFIG), data=str(everything[0]), device="cpu")
    assert cfg.MODEL.VOCAB_SIZE == read_vocabulary(cfg.INFERENCE.VOCAB).model_size


def test_a_check_of_the_real_files_names_nothing_but_the_missing_region_file(everything, capsys):
    assert_only_the_region_file_is_missing(everything[0], capsys)


def assert_only_the_region_file_is_missing(folder: Path, capsys, *opts) -> None:
    assert main(["check", "--config-file", str(CONFIG), "--data", str(folder), "--device", "cpu", *map(str, opts)]) == 2
    problems = [line for line in capsys.readouterr().out.splitlines() if re.match(r"  \d+\. ", line)]
    assert len(problems) == 1 and "regions.h5 does not exist" in problems[0]


def test_a_part_of_the_real_files_has_the_counts_of_a_plain_reading(tmp_path, capsys):
    splits = {split: ids[::EVERY] for split, ids in read_splits(SPLIT_IDS).items()}
    ids = {str(image_id) for part in splits.values() for image_id in part}
    entities = unpack(tmp_path / "entities", lambda name: Path(name).stem in ids)
    (tmp_path / "ids.json").write_text(json.dumps(splits))
    assert prepare(entities, tmp_path / "ids.json", tmp_path / "out") == 0
    # the slow, obvious reading: regular expressions over the files
    sentences = [path.read_text(encoding="utf-8") for path in (entities / "Sentences").iterdir()]
    boxes = {path.stem: path.read_text(encoding="utf-8") for path in (entities / "Annotations").iterdir()}
    boxed = 0
    for image_id, xml in boxes.items():
        objects = [item for item in xml.split("<object>")[1:] if "<bndbox>" in item]
        chains = {name for item in objects for name in re.findall("<name>(.*?)</name>", item)}
        text = (entities / "Sentences" / f"{image_id}.txt").read_text(encoding="utf-8")
        boxed += sum(chain in chains for chain in re.findall(r"\[/EN#(\d+)/\S+ [^]]*\w", text))
    words = Counter(
        word.lower()
        for text in sentences
        for word in re.sub(r"\[/EN\S+ ", "", text).replace("]", " ").split()
        if re.search(r"\w", word.replace("_", ""))
    )
    expected = {
        "captions": 5 * len(ids),
        "phrases": sum(len(re.findall(r"\[/EN#\S+ [^]]*\w[^]]*\]", text)) for text in sentences),
        "phrases with a box": boxed,
        "boxes": sum(text.count("<bndbox>") for text in boxes.values()),
        "vocabulary with UNK": sum(count >= 4 for count in words.values()) + 1,
        "images outside the splits": 0,
    }
    said = capsys.readouterr().out
    for name, number in expected.items():
        assert re.search(rf"^{name} +{number:,} ", said, re.M), f"{name} {number}\n{said}"
    assert "Likely reason: the split ids are not the complete lists." in said
    assert_only_the_region_file_is_missing(
        tmp_path / "out", capsys, "MODEL.VOCAB_SIZE", expected["vocabulary with UNK"] + 1
    )
