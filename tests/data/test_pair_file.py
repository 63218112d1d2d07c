"""A teacher's pairs from a file: what training reads, and files that were made for something else."""

import json
import random

import numpy as np
import pytest

from data.test_mapper import files  # noqa: F401, a fixture
from toys import toy_dataset
from xmodaler_ssattn import keys
from xmodaler_ssattn.data.pair_file import PairFile, write_pairs
from xmodaler_ssattn.data.word_pairs import PairRule
from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.packs.store import RegionStore, RegionWriter

# Image 11 has 4 regions and the captions "a man sees a dog", "a man", "green grass"; image 12 has 3 regions.
PAIRS = [(11, [(0, 4, 2, 0.75), (0, 4, 3, 0.25), (1, 1, 0, 1)])]


def write(folder, pairs=PAIRS, split="train"):
    names = {"annotation_file": folder / f"{split}.json", "vocabulary_file": folder / "vocabulary.txt"}
    write_pairs(folder / "pairs.json", pairs, split=split, store=RegionStore(folder / "regions.h5"), **names)
    return folder / "pairs.json"


def mapper_of(folder, **change):
    settings = {"pair_rule": PairRule(), "pairs_file": str(folder / "pairs.json"), "seq_per_sample": 3}
    return toy_dataset(folder, **{**settings, **change})


def test_the_files_pairs_replace_those_of_the_boxes(files):  # noqa: F811
    write(files)
    mapper = mapper_of(files)
    one, other = mapper.load_data(None)
    assert [part.tolist() for part in one["pairs"]] == [[[4, 2, 0.75], [4, 3, 0.25]], [[1, 0, 1]], []]
    assert [part.tolist() for part in other["pairs"]] == [[], [], []]  # the file leaves the image out
    random.seed(0)
    sample = mapper(one)
    assert sorted(sample[keys.PAIR_WEIGHTS].tolist()) == [0.25, 0.75, 1]
    assert mapper(other)[keys.WORD_PAIRS].shape == (0, 3)


def test_words_beyond_the_cut_and_regions_beyond_the_limit_are_left_out(files):  # noqa: F811
    write(files)
    cut = mapper_of(files, max_seq_len=4).load_data(None)[0]
    assert [part.tolist() for part in cut["pairs"]] == [[], [[1, 0, 1]], []]
    few = mapper_of(files, max_regions=3).load_data(None)[0]
    assert [part.tolist() for part in few["pairs"]] == [[[4, 2, 0.75]], [[1, 0, 1]], []]


def refused(folder, **change) -> str:
    with pytest.raises(UserError) as error:
        mapper_of(folder, **change).load_data(None)
    return str(error.value)


def test_a_file_for_another_vocabulary_annotation_region_file_or_split_is_refused(files):  # noqa: F811
    path = write(files)
    words = files / "vocabulary.txt"
    words.write_text(words.read_text().replace("sees", "sold"))
    assert "its vocabulary_sha256 is" in refused(files)
    write(files)
    annotations = files / "train.json"
    annotations.write_text(annotations.read_text().replace("A man sees", "A man sold"))
    assert "its annotations_sha256 is" in refused(files)
    write(files)
    with RegionWriter(files / "regions.h5", [11, 12], 4, 6, 5, source="moved") as writer:
        for image_id in (11, 12):
            boxes = np.tile([[0.0, 0, 5, 5]], (4, 1))
            writer.write(image_id, 100, 80, boxes, np.ones((4, 6)), np.full((4, 5), 0.2))
    assert "its regions_sha256 is" in refused(files)
    write(files, split="val")
    assert "its split is 'val', expected 'train'" in refused(files)
    path.unlink()
    assert "The file of word pairs" in refused(files) and "does not exist" in refused(files)


@pytest.mark.parametrize("pair", [(3, 0, 0, 1.0), (0, 5, 0, 1.0), (1, 2, 0, 1.0), (0, 0, 4, 1.0)])
def test_a_pair_that_names_what_does_not_exist_names_its_image(files, pair):  # noqa: F811
    write(files, [(11, [pair])])
    assert f"image 11: the pair {[float(number) for number in pair]} names a caption, word or region" in refused(files)


@pytest.mark.parametrize(
    "pair",
    [[0, 0, 0], [0, -1, 0, 1], [0, 0.5, 0, 1], [0, 0, 0, 0], [0, 0, 0, 1e-50], [0, 0, 0, 1e39], ["0", 0, 0, 1]],
)
def test_an_item_that_is_not_a_pair_names_its_image(files, pair):  # noqa: F811
    write(files, [(11, [pair])])
    assert "image_id 11" in refused(files)


def test_an_image_that_comes_twice_or_is_not_in_the_split_is_refused(files):  # noqa: F811
    write(files, [PAIRS[0], PAIRS[0]])
    assert "image 11 is duplicated" in refused(files)
    write(files, [PAIRS[0], (0, []), (99, [])])
    assert "2 images are not in the split, e.g. [0, 99]" in refused(files)


def test_a_file_in_another_layout_is_read_and_a_cut_one_is_refused(files):  # noqa: F811
    path = write(files)
    store = RegionStore(files / "regions.h5")
    same = path.read_text()
    path.write_text(json.dumps(json.loads(same), indent=1))
    PairFile(path, "train", files / "train.json", files / "vocabulary.txt", store)
    path.write_text(same[: len(same) // 2])
    assert "is cut short" in refused(files) or "not valid JSON" in refused(files)
