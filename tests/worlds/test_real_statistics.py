"""Statistics and the human ceiling of the real val split, against a plain reading and the numbers that are known."""

import json
import re
from pathlib import Path

import pytest

from data.test_real_entities import ARCHIVE, SPLIT_IDS, prepare, unpack
from xmodaler_ssattn.data.annotations import open_annotations
from xmodaler_ssattn.data.splits import read_splits
from xmodaler_ssattn.reproduce.floors import read_floors
from xmodaler_ssattn.worlds.statistics import annotation_statistics, collect_objects

pytestmark = pytest.mark.skipif(
    not (ARCHIVE.is_file() and SPLIT_IDS.is_file()), reason="no real Flickr30k Entities; set SSATTN_TEST_DATA"
)


@pytest.fixture(scope="module")
def val(tmp_path_factory) -> tuple[Path, Path]:
    """(the official files, what was prepared) of all val images; a single one for train and test."""
    folder = tmp_path_factory.mktemp("real_val")
    splits = read_splits(SPLIT_IDS)
    splits = {split: ids if split == "val" else ids[:1] for split, ids in splits.items()}
    wanted = {str(image_id) for ids in splits.values() for image_id in ids}
    entities = unpack(folder / "entities", lambda name: Path(name).stem in wanted)
    (folder / "ids.json").write_text(json.dumps(splits))
    assert prepare(entities, folder / "ids.json", folder / "out") == 0
    return entities, folder / "out"


def test_a_persons_caption_reaches_the_known_ceiling_of_val(val):
    rules = read_floors(val[1], "val")["rules"]
    own = {name: 100 * value for name, value in rules["annotated boxes"].items() if name != "places"}
    # Known for this split: 39.5, 81.5, per sentence 49.2 and 92.8, from an independent count.
    assert own["F1_all"] == pytest.approx(39.5, abs=0.2) and own["F1_loc"] == pytest.approx(81.5, abs=0.2)
    assert own["F1_all_per_sentence"] == pytest.approx(49.2, abs=0.2)
    assert own["F1_loc_per_sentence"] == pytest.approx(92.8, abs=0.2)
    # "Always the whole picture" is right for a fifth: 21 % of the classes' words in the training split, too.
    assert rules["whole picture"]["attention_accuracy"] == pytest.approx(0.21, abs=0.01)


def test_two_statistics_of_val_equal_a_plain_reading(val):
    entities, out = val
    _, images = open_annotations(out / "val.json", "val")
    found = annotation_statistics(collect_objects(images))
    objects = without = drawn = 0
    ids = read_splits(SPLIT_IDS)["val"]
    for image_id in ids:
        text = (entities / "Sentences" / f"{image_id}.txt").read_text(encoding="utf-8")
        chains = set(re.findall(r"\[/EN#(\d+)/\S+ [^]]*\w", text)) - {"0"}
        xml = (entities / "Annotations" / f"{image_id}.xml").read_text(encoding="utf-8")
        boxed: dict[str, set[str]] = {}
        for item in xml.split("<object>")[1:]:
            for name in re.findall("<name>(.*?)</name>", item) if "<bndbox>" in item else ():
                boxed.setdefault(name, set()).add(re.sub(r"\s", "", item[item.index("<bndbox>") :]))
        objects += len(chains)
        without += len(chains - set(boxed))
        drawn += len(set().union(*(boxed.get(chain, set()) for chain in chains)))
    assert found["without_box"] == pytest.approx(without / objects)
    assert found["boxes_per_image"] == pytest.approx(drawn / len(ids))
