"""INFERENCE.REGION_RULE in a captioner: which box a word gets, and what is refused before anything runs."""

import json

import numpy as np
import pytest
import torch

from toys import TWO_IMAGES, captions_of, for_test, toy_config, toy_model
from xmodaler_ssattn import keys
from xmodaler_ssattn.data.inputs import region_inputs
from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.evaluation.region_choice import check_class_names, region_rule
from xmodaler_ssattn.packs.store import RegionStore, RegionWriter
from xmodaler_ssattn.region_rules import RegionRule

SAMPLES = [for_test(sample) for sample in TWO_IMAGES]


def settings(folder, rule, **more):
    return {"INFERENCE__REGION_RULE": rule, "DATALOADER__ANNO_FOLDER": str(folder), **more}


@pytest.fixture
def folder(tmp_path):
    """A data folder whose three region classes have names; "man" and "dog" are words of the toy vocabulary."""
    (tmp_path / "sample.json").write_text(json.dumps({"classes": ["dog", "tree", "man"]}))
    return tmp_path


def says_man_and_dog(model):
    with torch.no_grad():
        model.predictor.logits.bias[2:4] += 3
    return model.eval()


@pytest.mark.parametrize("rule", ["pooled", "class", "detector", "largest_detector"])
def test_a_rule_changes_the_boxes_and_never_the_words(folder, rule):
    plain = captions_of(says_man_and_dog(toy_model(folder)), SAMPLES)
    model = says_man_and_dog(toy_model(folder, **settings(folder, rule, INFERENCE__SAVE_ATTENTION=True)))
    found = captions_of(model, SAMPLES)
    assert [str(caption) for caption in found] == [str(caption) for caption in plain]
    assert any(word.text in ("man", "dog") for caption in found for word in caption.words)
    for caption, sample in zip(found, SAMPLES, strict=True):
        probs, boxes = sample[keys.CLASS_PROBS].numpy(), sample[keys.BOXES_PX].numpy()
        for step, word in enumerate(caption.words):
            gamma = caption.attention.gamma[step]
            scores = model.beam_searcher.rule.scores([word.text], gamma[None], boxes, probs)[0]
            assert word.region == scores.argmax()
            assert word.weight == pytest.approx(gamma[word.region])  # still the attention of that region
            if rule == "detector" and word.text in ("man", "dog"):
                assert word.region == probs[:, {"dog": 1, "man": 3}[word.text]].argmax()


def test_a_rule_of_classes_reads_the_probabilities_also_for_a_model_that_does_not(folder):
    names = {"LOSSES__NAMES": ["CrossEntropy"], "MODEL__SS_ATTENTION__ENABLED": False}
    assert region_inputs(toy_config(folder, **names)).num_classes is None
    cfg = toy_config(folder, **names, **settings(folder, "class"))
    assert region_inputs(cfg).num_classes == 4
    assert region_inputs(cfg, "train").num_classes is None  # no word is chosen a region in training
    captions_of(toy_model(folder, **names, **settings(folder, "class")).eval(), SAMPLES)


def refused(folder, **values) -> str:
    with pytest.raises(UserError) as error:
        region_rule(toy_config(folder, **values))
    return str(error.value)


def test_what_cannot_work_is_refused_before_training(folder, tmp_path):
    message = refused(folder, **settings(folder, "best", INFERENCE__REGION_CLASS_POWER=-1.0))
    assert "REGION_RULE: expected one of argmax, pooled, union, class" in message and "REGION_CLASS_POWER" in message
    (folder / "sample.json").unlink()
    assert "Set INFERENCE.REGION_CLASSES to the detector's list" in refused(folder, **settings(folder, "class"))
    assert "needs INFERENCE.VOCAB" in refused(
        folder, **settings(folder, "class", INFERENCE__VOCAB="", INFERENCE__REGION_CLASSES=_names(folder, "dog\n"))
    )
    long = _names(folder, "a\nb\nc\nd\n")
    assert "names 4 classes" in refused(folder, **settings(folder, "class", INFERENCE__REGION_CLASSES=long))
    names = _names(folder, "tree\nmen\n")
    rule = region_rule(toy_config(folder, **settings(folder, "class", INFERENCE__REGION_CLASSES=names)))
    assert rule.columns == {"man": (2,), "dog": ()}  # no column names a dog


def _names(folder, text) -> str:
    (folder / "names.txt").write_text(text)
    return str(folder / "names.txt")


RULE = RegionRule("class", 0.5, {"men": (1,), "dog": (2,), "cat": ()})


@pytest.fixture
def annotated(tmp_path):
    """Regions of one image, 0 the man and 1 the dog, with the columns background, man, dog; and its reference."""
    boxes = np.array([[0, 0, 10, 10], [50, 50, 60, 60]], dtype=np.float32)
    probs = np.array([[0.1, 0.8, 0.1], [0.1, 0.2, 0.7]], dtype=np.float32)
    with RegionWriter(tmp_path / "regions.h5", [7], 2, 6, 3, source="test") as writer:
        writer.write(7, 100, 100, boxes, np.ones((2, 6)), probs)
    caption = {
        "tokens": ["Men", "dog"],
        "process_idx": [0, 1],
        "process_clss": ["man", "dog"],
        "process_bnd_box": boxes.tolist(),
    }
    records = [{"image_id": 7, "captions": [caption]}, {"image_id": 8, "captions": [caption]}]  # 8 has no regions
    return RegionStore(tmp_path / "regions.h5"), records


def test_names_in_another_order_are_refused_by_the_annotated_boxes(annotated):
    check_class_names(RULE, *annotated, 3)
    # swapped: 0.1 and 0.2 on the right regions, 0.7 and 0.8 on the others
    swapped = RegionRule("class", 0.5, {"men": (2,), "dog": (1,)})
    with pytest.raises(UserError, match=r"is 0.150 on its regions and 0.750 on the others"):
        check_class_names(swapped, *annotated, 3)
    check_class_names(RULE, annotated[0], [], 3)  # nothing to compare with


def test_another_number_of_classes_is_refused(annotated):
    with pytest.raises(UserError, match=r"needs 4 class probabilities per region .* has 3"):
        check_class_names(RULE, *annotated, 4)


def test_a_sample_without_class_probabilities_names_the_rule_and_the_image(folder):
    names = {"LOSSES__NAMES": ["CrossEntropy"], "MODEL__SS_ATTENTION__ENABLED": False}
    samples = [{key: value for key, value in sample.items() if key != keys.CLASS_PROBS} for sample in SAMPLES]
    with pytest.raises(UserError, match=r"REGION_RULE class needs class probabilities, but the batch of image 1 has"):
        captions_of(toy_model(folder, **names, **settings(folder, "class")).eval(), samples)
