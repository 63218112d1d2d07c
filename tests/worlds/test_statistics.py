"""Statistics of annotations and regions: by hand on two pictures, and against a slow obvious version."""

import json
import math

import numpy as np
import pytest

from worlds.tools import load_tool
from xmodaler_ssattn.data.splits import image_rank
from xmodaler_ssattn.packs.store import RegionWriter
from xmodaler_ssattn.worlds.statistics import (
    Objects,
    annotation_statistics,
    collect_objects,
    linear_discriminant,
    region_statistics,
)


def phrase(chain, name, *boxes, start=0):
    head = None if name is None else start
    return {
        "start": start, "end": start + 1, "head": head, "class": name, "chain": chain,
        "boxes": [list(box) for box in boxes],
    }  # fmt: skip


def image(image_id, size, *captions):
    made = [{"raw": "a b", "tokens": ["a", "b"], "phrases": list(phrases)} for phrases in captions]
    return {"image_id": image_id, "width": size[0], "height": size[1], "captions": made}


DOG = [(60, 60, 70, 70), (80, 80, 90, 90)]  # together 60, 60, 90, 90
IMAGES = [
    image(
        1, (100, 100),
        [phrase("1", "man", (0, 0, 50, 50)), phrase("2", "dog", *DOG, start=1)],
        [phrase("2", "dog", *DOG), phrase("3", None), phrase(None, None)],
    ),
    image(2, (200, 100), [phrase("1", "man", (0, 0, 20, 100))]),
]  # fmt: skip


def test_objects_are_chains_with_the_box_around_all_their_boxes():
    found = collect_objects(IMAGES)
    # The man, the dog and the sky without a box of image 1, the man of image 2; the phrase without a chain is nothing.
    assert found.image.tolist() == [0, 0, 0, 1] and found.label.tolist() == [0, 1, -1, 0]
    assert found.classes == ("man", "dog")
    assert found.mentions.tolist() == [1, 2, 1, 1] and found.boxes.tolist() == [1, 2, 0, 1]
    # The dog is second in one caption and first in the other: (1/2 + 1) / 2. The sky is second.
    assert found.early.tolist() == [1.0, 0.75, 0.5, 1.0]
    assert found.box[1].tolist() == pytest.approx([0.6, 0.6, 0.9, 0.9]) and np.isnan(found.box[2]).all()


def test_what_can_be_counted_is_counted():
    found = annotation_statistics(collect_objects(IMAGES))
    expected = {
        "images": 2, "captions_per_image": 3 / 2, "words_per_caption": 2, "phrases_per_caption": 6 / 3,
        "boxes_per_image": 4 / 2, "objects_per_image": 4 / 2,
        "without_box": 1 / 4, "several_boxes": 1 / 3,
        "median_area": 0.1,  # of .25, .09 and 20 * 100 / 20,000
        "off_centre_1": (0.25 + 0.45) / 2,  # the men's centres are at .25 and .05
        "off_centre_2": 0.25,  # the dog's at .75
    }  # fmt: skip
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    assert math.isnan(found["off_centre_3"])
    # Image 1 is guessed from image 2, where there is only a man: right for the man and wrong for the dog.
    assert found["class_from_box"] == found["commonest_class"] == 0.5


def test_the_class_of_an_object_is_that_of_most_phrases_and_without_chains_the_box_tells_objects_apart():
    said = [[phrase("1", name, (0, 0, 9, 9))] for name in ("guy", "man", "man", None)]
    assert collect_objects([image(1, (99, 99), *said)]).classes == ("man",)
    official = [phrase(None, "man", (0, 0, 9, 9)), phrase(None, "man", (20, 0, 29, 9))]
    found = collect_objects([image(1, (99, 99), official, official[:1])])
    assert found.mentions.tolist() == [2, 1] and found.early.tolist() == [1.0, 0.5]


def test_no_image_and_no_object_have_no_statistics():
    for images in ([], [image(1, (9, 9), [])]):
        found = annotation_statistics(collect_objects(images))
        assert math.isnan(found["median_area"]) and math.isnan(found["class_from_box"])
        assert math.isnan(found["area_by_mentions"]) and math.isnan(found["without_box"])


def made_objects(count=400, seed=0) -> Objects:
    """Objects of three classes, larger when mentioned often and early."""
    rng = np.random.default_rng(seed)
    label, mentions, early = rng.integers(0, 3, count), rng.integers(1, 6, count), rng.uniform(0.2, 1, count)
    log_area = -4 + 0.8 * label + 0.2 * mentions + 0.5 * early + rng.normal(0, 0.6, count)
    side = np.sqrt(np.exp(log_area))
    corner = rng.uniform(0, 0.3, (count, 2))
    box = np.concatenate([corner, corner + side[:, None]], axis=1)
    totals = dict.fromkeys(("images", "captions", "phrases", "words", "boxes"), count)
    ones = np.ones(count, dtype=np.int64)
    image = np.arange(count)
    return Objects(image, label, ("a", "b", "c"), mentions, early, ones, box, np.full(count, 1e-9), totals)


def test_the_regressions_equal_those_with_one_constant_per_class():
    objects = made_objects()
    found = annotation_statistics(objects)
    log_area = np.log((objects.box[:, 2] - objects.box[:, 0]) * (objects.box[:, 3] - objects.box[:, 1]))
    constants = np.eye(3)[objects.label]

    def left(*inputs):
        x = np.column_stack([constants, *inputs])
        coefficients = np.linalg.lstsq(x, log_area, rcond=None)[0]
        return coefficients, np.mean((log_area - x @ coefficients) ** 2)

    _, alone = left()
    _, with_mentions = left(objects.mentions)
    coefficients, _ = left(objects.mentions, objects.early)
    assert found["area_by_mentions"] == pytest.approx(1 - with_mentions / alone)
    assert found["area_deviation"] == pytest.approx(math.sqrt(with_mentions))
    assert found["area_by_early"] == pytest.approx(coefficients[-1])
    assert 0.05 < found["area_by_mentions"] < 0.5 and 0.2 < found["area_by_early"] < 0.8  # what was put in: .5
    assert found["class_from_box"] > found["commonest_class"] + 0.1  # the classes differ in size


def test_the_linear_discriminant_equals_normal_densities_times_shares():
    rng = np.random.default_rng(1)
    labels = np.repeat([0, 2, 5], [40, 20, 10])
    inputs = rng.normal(size=(70, 2)) @ np.array([[1, 0.5], [0, 0.3]]) + labels[:, None] * [0.3, -0.2]
    others = rng.normal(size=(30, 2))
    means = {c: inputs[labels == c].mean(axis=0) for c in (0, 2, 5)}
    rest = np.array([x - means[c] for x, c in zip(inputs, labels)])
    inverse = np.linalg.inv(sum(np.outer(r, r) for r in rest) / 70)
    expected = []
    for x in others:
        density = {c: np.exp(-(x - m) @ inverse @ (x - m) / 2) * (labels == c).mean() for c, m in means.items()}
        expected.append(max(density, key=density.get))
    assert linear_discriminant(inputs, labels, others).tolist() == expected
    assert len(set(expected)) > 1


class Store:
    """Image 1 has its man's box and most of the two dogs' union, image 2 one half of its man's."""

    def boxes_px(self, image_id):
        return np.array({1: [(0, 0, 50, 50), (60, 60, 86, 90)], 2: [(0, 0, 10, 100)]}[image_id], dtype=np.float32)


def test_regions_reach_boxes_and_words():
    found = region_statistics(IMAGES, Store())
    expected = {
        "regions_per_image": 3 / 2,
        # Drawn: the man (.25) reached, the dogs (.01 each) not: 100 of 780 pixels; image 2's man (.1): half, so not.
        "reach": 1 / 4, "reach_to_0.01": 0, "reach_to_0.2": 0, "reach_to_1": 1,
        # Words: man reached; dog twice: 780 of 900 pixels; man of image 2 not.
        "reach_of_words": 3 / 4, "positives_per_word": 3 / 4,
    }  # fmt: skip
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    assert math.isnan(found["reach_to_0.05"])


def test_the_order_of_images_is_that_of_the_simulated_data_sets():
    from xmodaler_ssattn.worlds.simulated.dataset import choose_images

    ids = list(range(100, 140))
    splits = dict.fromkeys(("train", "val", "test"), ids)
    (chosen,) = {tuple(part) for part in choose_images(dict.fromkeys(ids, "train"), splits, (7, 7, 7), 3).values()}
    assert list(chosen) == sorted(sorted(ids, key=lambda image_id: image_rank(3, image_id))[:7])


def write_data(folder):
    """Annotations of IMAGES as training split and as test reference, with two regions each and class probabilities."""
    from xmodaler_ssattn.data.annotations import annotation_header, gvd_reference
    from xmodaler_ssattn.data.json_list import json_list

    folder.mkdir()
    with json_list(
        folder / "train.json", annotation_header("train", "made up", False, "", ["man", "dog"]), "images"
    ) as f:
        for record in IMAGES:
            f.add(record)
    reference = {"vocab": ["man", "dog"], "annotations": [gvd_reference(record) for record in IMAGES]}
    (folder / "grounding_test.json").write_text(json.dumps(reference))
    (folder / "names.txt").write_text("dog,puppy\nman\n")
    with RegionWriter(folder / "regions.h5", [1, 2], 2, 1, 3, source="made up") as writer:
        for image_id, (width, height) in ((1, (100, 100)), (2, (200, 100))):
            boxes = np.array([(0, 0, 50, 50), (60, 60, 86, 90)], dtype=np.float32)
            probs = np.array([[0.1, 0.1, 0.8], [0.1, 0.6, 0.3]], dtype=np.float32)
            writer.write(image_id, width, height, boxes, np.ones((2, 1), dtype=np.float32), probs)
    return folder


def test_the_tool_prints_data_sets_side_by_side_and_their_floors(tmp_path, capsys):
    one, other = write_data(tmp_path / "one"), write_data(tmp_path / "other")
    (other / "regions.h5").unlink()
    words = ["--data", one, other, "--floors", "test", "--class-names", one / "names.txt"]
    words += ["--json", tmp_path / "x.json"]
    assert load_tool("describe_data").main([str(word) for word in words]) == 0
    printed = capsys.readouterr().out
    assert "| objects with several boxes | 33.3 % | 33.3 % |" in printed
    assert "| boxes that a region reaches (IoU > 0.5) | 25.0 % | - |" in printed
    assert "name the class of 100.0 % of the annotated words" in printed
    found = json.loads((tmp_path / "x.json").read_text())
    floors = {folder.name: found[str(folder)]["floors"]["rules"] for folder in (one, other)}
    assert set(floors["other"]) == {"whole picture", "annotated boxes"}
    # Words: the man, the dog twice; the man of image 2. Largest: the man's region, right once. Detector: man and dogs.
    assert floors["one"]["largest region"]["word_accuracy"] == pytest.approx(1 / 4)
    assert floors["one"]["detector alone"]["word_accuracy"] == pytest.approx(3 / 4)
    assert found[str(one)]["statistics"]["off_centre_3"] is None


@pytest.mark.parametrize(("words", "message"), [
    (["--data", "{}/none"], "train.json does not exist"),
    (["--data", "{}/one", "--images", "-1"], "--images must be at least 0, got -1"),
    (["--data", "{}/one", "{}/one", "--regions", "{}/one/regions.h5"], "--regions can be used only with a single"),
    (["--data", "{}/one", "--floors", "val"], "grounding_val.json does not exist"),
])  # fmt: skip
def test_a_mistake_on_the_tools_command_line_is_named(tmp_path, capsys, words, message):
    write_data(tmp_path / "one")
    assert load_tool("describe_data").main([word.format(tmp_path) for word in words]) == 2
    assert message in capsys.readouterr().err
