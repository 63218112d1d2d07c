"""The reward of drawn captions on a corpus of two images, by hand; and every mistake in its settings."""

import numpy as np
import pytest
import torch

from engine.rl_world import DOG, MAN, REGIONS, RUNS, UNK, A, rl_config, write_world
from xmodaler_ssattn import keys
from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.host import build_scorer, kfg
from xmodaler_ssattn.scorer.caption_reward import grounded_share, up_to_the_end

TWO = {11: ["a man"], 12: ["a dog runs", "a dog sleeps"]}


def scorer_of(folder, captions=TWO, **overrides):
    write_world(folder, captions)
    return build_scorer(rl_config(folder, weights=False, **overrides))


def drawn(ids, captions, regions=None, images=None):
    """What the trainer hands over; each of ``images`` has three regions, the second image's padded from two."""
    width = 6
    padded = [[*caption, *[0] * (width - len(caption))] for caption in captions]
    rows = [[*row, *[0] * (width - len(row))] for row in regions or captions]
    count = images or len(ids)
    return {
        kfg.IDS: ids,
        kfg.G_SENTS_IDS: torch.tensor(padded),
        keys.WORD_REGIONS: torch.tensor(rows),
        keys.BOXES_PX: torch.from_numpy(REGIONS).expand(count, -1, -1),
        keys.NUM_REGIONS: [3] * count,
    }


def test_rewards_of_a_two_image_corpus_by_hand(tmp_path):
    # N = 2. "a" and the end are in both images and weigh 0; each other n-gram is in one and weighs L = log 2.
    # Image 11, "a man <end>": its reference itself, n = 1, 2, 3 agree and there is no 4: 10 (1 + 1 + 1 + 0) / 4 = 7.5.
    # Image 12, "a dog <end>" against "a dog runs <end>" and "a dog sleeps <end>", equal by symmetry:
    #   bigrams of "a dog <end>": "a dog", "dog <end>"; of the reference "a dog", "dog runs", "runs <end>".
    #   n = 1: "dog": L L / (L sqrt(2) L) = 1 / sqrt(2).  n = 2: 1 / (sqrt(2) sqrt(3)).  n = 3, 4: nothing in common.
    #   bigrams 2 against 3: penalty exp(-1 / 72).
    scorer = scorer_of(tmp_path)
    out = scorer(drawn([11, 12], [[A, MAN], [A, DOG]]))
    second = 10 * np.exp(-1 / 72) * (1 / np.sqrt(2) + 1 / np.sqrt(6)) / 4
    np.testing.assert_allclose(out[kfg.REWARDS], [7.5, second])
    assert out["CiderD"] == pytest.approx((7.5 + second) / 2)
    assert "Grounding" not in out


def test_an_empty_caption_and_one_cut_in_the_middle_have_rewards_and_no_nan(tmp_path):
    scorer = scorer_of(tmp_path)
    empty, cut, whole = scorer(drawn([11] * 3, [[], [A, MAN, A, MAN, A, MAN], [A, MAN]]))[kfg.REWARDS]
    assert empty == 0.0 and 0 < cut < whole == pytest.approx(7.5)


def test_a_word_of_the_references_that_the_vocabulary_lacks_is_not_unk(tmp_path):
    scorer = scorer_of(tmp_path)
    said_unk, said_runs = scorer(drawn([12, 12], [[A, DOG, UNK], [A, DOG, RUNS]]))[kfg.REWARDS]
    # "sleeps" is a word like "runs", but no id of the model's is it.
    assert said_unk < said_runs
    ids = [caption[2] for caption in scorer.references.captions[12]]
    assert ids == [RUNS, 7]  # 0 .. 6 are the model's


def test_captions_of_one_image_stand_side_by_side_and_duplicated_ids_keep_their_rewards(tmp_path):
    scorer = scorer_of(tmp_path)
    ids, captions = [11, 11, 12, 11, 11], [[A, MAN], [DOG], [A, DOG], [A, MAN], []]
    together = scorer(drawn(ids, captions))[kfg.REWARDS]
    alone = [scorer(drawn([i], [c]))[kfg.REWARDS][0] for i, c in zip(ids, captions)]
    np.testing.assert_allclose(together, alone)


def test_weights_scale_the_terms(tmp_path):
    once = scorer_of(tmp_path)(drawn([11], [[A, MAN]]))
    twice = build_scorer(rl_config(tmp_path, weights=False, SCORER__WEIGHTS=[2.0]))(drawn([11], [[A, MAN]]))
    assert twice[kfg.REWARDS][0] == pytest.approx(2 * once[kfg.REWARDS][0])
    assert twice["CiderD"] == once["CiderD"]  # terms are logged as they are


def test_the_grounding_term_is_the_share_of_annotated_object_words_that_hit(tmp_path):
    scorer = scorer_of(tmp_path, SCORER__GROUNDING_WEIGHT=0.5)
    # Two captions an image. Image 11 shows a man at region 0, image 12 a dog at region 1.
    # 11 "a man" on regions 2, 0: the man hits, 1 of 1.     11 "man dog man" on 0, 0, 1: 1 of 2 (no dog is annotated).
    # 12 "dog" on region 0: 0 of 1.                         12 "a runs": no object word, 0.
    batch = drawn(
        [11, 11, 12, 12],
        [[A, MAN], [MAN, DOG, MAN], [DOG], [A, RUNS]],
        regions=[[2, 0], [0, 0, 1], [0], [1, 1]],
        images=2,
    )
    out = scorer(batch)
    plain = build_scorer(rl_config(tmp_path, weights=False))(batch)
    np.testing.assert_allclose(out[kfg.REWARDS] - plain[kfg.REWARDS], 0.5 * np.array([1, 0.5, 0, 0]))
    assert out["Grounding"] == pytest.approx(1.5 / 4)


def test_a_plural_names_its_class_as_in_the_published_metric(tmp_path):
    write_world(tmp_path, TWO)
    cfg = rl_config(tmp_path, weights=False, SCORER__GROUNDING_WEIGHT=1.0)
    (tmp_path / "vocabulary.txt").write_text("a\nman\nmen\nruns\ndogs\nUNK\n")
    # The metric's quirk comes with it: the model cannot say "dog" itself, so nothing names the class.
    assert build_scorer(cfg).references.class_of_word.tolist() == [-1, -1, 0, 0, -1, -1, -1]


def test_any_object_of_the_words_class_will_do_and_overlap_must_be_above_a_half():
    boxes = np.array([[0.0, 0, 9, 9], [20, 0, 29, 9]])  # both of class 4, 10 x 10 pixels each
    regions = np.array([[0.0, 0, 9, 4], [0, 0, 9, 5], [20, 0, 29, 9]])  # overlaps with the first: 0.5, 0.6, 0
    said = grounded_share(
        [[4], [4], [4], [4, 4], [3], []], [[0], [1], [2], [0, 1], [2], []], np.array([4, 4]), boxes, regions
    )
    assert said.tolist() == [0.0, 1.0, 1.0, 0.5, 0.0, 0.0]


def test_an_image_without_objects_has_no_grounding_reward():
    assert grounded_share([[0]], [[0]], np.zeros(0, dtype=int), np.zeros((0, 4)), np.array(REGIONS)).tolist() == [0.0]


def test_a_caption_goes_up_to_its_first_end():
    assert up_to_the_end([3, 1, 0, 2, 0]) == [3, 1, 0]
    assert up_to_the_end([3, 1]) == [3, 1] and up_to_the_end([0, 0]) == [0] and up_to_the_end([]) == []


def test_images_without_references_are_named_all_at_once(tmp_path):
    scorer = scorer_of(tmp_path)
    with pytest.raises(UserError, match=r"No reference captions of image 99, 77 in .*train\.json.*SCORER\.GT_PATH"):
        scorer(drawn([99, 11, 77, 99], [[A]] * 4))


def test_settings_that_cannot_work_are_refused_all_at_once(tmp_path):
    write_world(tmp_path)
    cfg = rl_config(
        tmp_path,
        weights=False,
        SCORER__TYPES=["CiderD", "Spider"],
        SCORER__EOS_ID=1,
        SCORER__GROUNDING_WEIGHT=-1.0,
        SCORER__GT_PATH="coco_train_gts.pkl",
        SCORER__CIDER_CACHED="coco_train_cider.pkl",
    )
    with pytest.raises(UserError) as caught:
        build_scorer(cfg)
    message = str(caught.value)
    for part in (
        "SCORER.TYPES: expected names of registered scores such as ['CiderD'], got ['CiderD', 'Spider']",
        "SCORER.WEIGHTS: expected a number for each",
        "SCORER.EOS_ID: expected 0",
        "SCORER.GROUNDING_WEIGHT: expected a number >= 0",
        "coco_train_gts.pkl is not an annotation file",
        "coco_train_cider.pkl is not read",
    ):
        assert part in message


def test_a_grounding_reward_needs_classes_with_boxes(tmp_path):
    with pytest.raises(UserError, match="no phrase of .* has both a class and a box"):
        scorer_of(tmp_path, {11: ["a runs"]}, SCORER__GROUNDING_WEIGHT=1.0)


def test_rewards_that_are_zero_for_every_caption_are_explained(tmp_path, caplog):
    scorer_of(tmp_path / "one", {11: ["a man runs"]})
    assert "train.json has only one image. CIDEr-D" in caplog.text
    write_world(tmp_path / "two")
    cfg = rl_config(tmp_path / "two", weights=False, SCORER__GROUNDING_WEIGHT=1.0)
    (tmp_path / "two" / "vocabulary.txt").write_text("A\nMAN\nDOG\nRUNS\nWITH\nUNK\n")
    with pytest.raises(UserError, match="no word of .*vocabulary.txt names an object class of .*train.json"):
        build_scorer(cfg)


def test_other_training_annotations_can_be_named(tmp_path):
    write_world(tmp_path)
    other = write_world(tmp_path / "other", {11: ["a dog"]})
    scorer = build_scorer(rl_config(tmp_path, weights=False, SCORER__GT_PATH=str(other / "train.json")))
    assert scorer.references.captions == {11: [[A, DOG, 0]]}
    with pytest.raises(UserError, match="does not exist"):
        build_scorer(rl_config(tmp_path, weights=False, SCORER__GT_PATH=str(tmp_path / "none.json")))
