"""The registered dataset: one image -> one sample of the batch contract, and all that does not fit in one message."""

import json
import pickle
import random

import h5py
import numpy as np
import pytest
import torch

from data.entities_generator import phrase
from toys import toy_config, toy_dataset
from xmodaler_ssattn import keys
from xmodaler_ssattn.boxes import spatial_vectors
from xmodaler_ssattn.data.annotations import annotation_header
from xmodaler_ssattn.data.inputs import RegionInputs
from xmodaler_ssattn.data.json_list import json_list
from xmodaler_ssattn.data.mapper import Flickr30kEntitiesDataset, sample_captions
from xmodaler_ssattn.data.word_pairs import PairRule
from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.host import DATASETS_REGISTRY, kfg
from xmodaler_ssattn.packs.store import RegionStore, RegionWriter

# Four regions; regions 0 and 1 answer the boxes of image 11, the third has no box near it.
BOXES = np.array([[0, 0, 10, 10], [50, 50, 60, 60], [0, 50, 10, 60], [80, 0, 90, 10]], dtype=np.float32)
MAN, DOG = [0, 0, 10, 9], [51, 50, 61, 60]


def image(image_id):
    man, dog = phrase(0, 2, 1, "man", "1", MAN), phrase(3, 5, 4, "dog", "1", DOG)
    said = {"A man sees a dog .": [man, dog], "A man .": [man], "Green grass .": []}
    captions = [{"raw": raw, "tokens": raw.lower().split()[:-1], "phrases": found} for raw, found in said.items()]
    return {"image_id": image_id, "width": 100, "height": 80, "captions": captions}


@pytest.fixture
def files(tmp_path):
    """vocabulary: a man sees dog UNK -> 1 .. 5; images 11 (4 regions) and 12 (3 regions)."""
    for split in ("train", "val"):
        with json_list(tmp_path / f"{split}.json", annotation_header(split, "t", False, "r", ["man"]), "images") as out:
            for image_id in (11, 12):
                out.add(image(image_id))
    (tmp_path / "vocabulary.txt").write_text("a\nman\nsees\ndog\nUNK\n")
    rng = np.random.default_rng(0)
    with RegionWriter(tmp_path / "regions.h5", [12, 11], 4, 6, 5, source="test") as writer:
        for image_id, count in ((11, 4), (12, 3)):
            probs = rng.random((count, 5))
            writer.write(
                image_id, 100, 80, BOXES[:count], rng.standard_normal((count, 6)), probs / probs.sum(1, keepdims=True)
            )
    return tmp_path


def test_the_dataset_is_registered_under_the_designs_name():
    assert DATASETS_REGISTRY.get("Flickr30kEntitiesDataset") is Flickr30kEntitiesDataset


def test_a_training_sample_has_exactly_the_keys_shapes_and_types_of_the_contract(files):
    mapper = toy_dataset(files)
    sample = mapper(mapper.load_data(None)[0])
    regions = RegionStore(files / "regions.h5").read(11)
    assert sample[kfg.IDS] == 11 and isinstance(sample[kfg.IDS], int)
    expected = {
        kfg.ATT_FEATS: regions.features,
        keys.BOXES_PX: BOXES,
        keys.CLASS_PROBS: regions.class_probs,
        keys.SPATIAL: spatial_vectors(BOXES, 100, 80),
        keys.IMAGE_SIZE: np.array([100, 80]),
    }
    for key, value in expected.items():
        # V and c travel as tensors, through shared memory; a file handle each. Small things are arrays.
        assert torch.is_tensor(sample[key]) == (key in (kfg.ATT_FEATS, keys.CLASS_PROBS))
        assert np.asarray(sample[key]).dtype == np.float32
        np.testing.assert_array_equal(np.asarray(sample[key]), value)
    assert int(sample[kfg.SEQ_PER_SAMPLE]) == 2 and len(sample[kfg.G_TOKENS_IDS]) == 2
    assert sample[keys.SIGMA].tolist() == [[1, 1, 0, 0]] and sample[keys.HAS_BOXES].tolist() == [1]
    assert set(sample) == {
        kfg.IDS,
        kfg.SEQ_PER_SAMPLE,
        kfg.G_TOKENS_IDS,
        kfg.G_TARGET_IDS,
        keys.SIGMA,
        keys.HAS_BOXES,
        *expected,
    }


def test_inputs_begin_with_0_and_targets_end_with_0_and_unknown_words_are_unk(files):
    mapper = toy_dataset(files, seq_per_sample=3)
    sample = mapper(mapper.load_data(None)[0])
    pairs = sorted(
        (tokens.tolist(), target.tolist()) for tokens, target in zip(sample[kfg.G_TOKENS_IDS], sample[kfg.G_TARGET_IDS])
    )
    # a man sees a dog = 1 2 3 1 4; a man = 1 2; green grass = UNK UNK = 5 5
    assert pairs == [([0, 1, 2], [1, 2, 0]), ([0, 1, 2, 3, 1, 4], [1, 2, 3, 1, 4, 0]), ([0, 5, 5], [5, 5, 0])]
    assert sample[kfg.G_TOKENS_IDS][0].dtype == np.int64


def test_long_captions_are_cut_the_target_still_ends_and_boxes_beyond_the_cut_go(files):
    mapper = toy_dataset(files, seq_per_sample=3, max_seq_len=3)
    sample = mapper(mapper.load_data(None)[0])
    assert max(sample[kfg.G_TARGET_IDS], key=len).tolist() == [1, 2, 3, 0]
    assert mapper.cut_captions == 2  # the first caption of both images has five words
    # "dog" is the fourth word of the only sentence that contains it: its box is not a target after the cut
    assert sample[keys.SIGMA].tolist() == [[1, 0, 0, 0]]


def test_sentence_targets_follow_the_captions_that_were_drawn(files):
    mapper = toy_dataset(files, targets="sentence")
    record = mapper.load_data(None)[0]
    expected = {5: ([1, 1, 0, 0], 1), 2: ([1, 0, 0, 0], 1)}  # number of words -> sigma, has boxes
    for seed in range(10):
        random.seed(seed)
        sample = mapper(record)
        for row, tokens in enumerate(sample[kfg.G_TOKENS_IDS]):
            words = tokens.tolist()[1:]
            sigma, has = ([0, 0, 0, 0], 0) if words == [5, 5] else expected[len(words)]
            assert sample[keys.SIGMA][row].tolist() == sigma and sample[keys.HAS_BOXES][row] == has


def test_pairs_name_the_words_of_the_sampled_captions_and_their_regions(files):
    mapper = toy_dataset(files, pair_rule=PairRule())
    record = mapper.load_data(None)[0]
    # "a man sees a dog": word 1 with region 0 (IoU 0.9), word 4 with region 1 (IoU 90 / 110); "a man": word 1
    expected = {5: [[1, 0], [4, 1]], 2: [[1, 0]]}
    for seed in range(10):
        random.seed(seed)
        sample = mapper(record)
        lengths = [0 if tokens.tolist()[1:] == [5, 5] else len(tokens) - 1 for tokens in sample[kfg.G_TOKENS_IDS]]
        wanted = [[row, *pair] for row, length in enumerate(lengths) for pair in expected.get(length, [])]
        assert sample[keys.WORD_PAIRS].tolist() == wanted
        assert sample[keys.PAIR_WEIGHTS].tolist() == [1] * len(wanted)
    cut = toy_dataset(files, pair_rule=PairRule(), max_seq_len=4, max_regions=1, seq_per_sample=3)
    sample = cut(cut.load_data(None)[0])
    # the dog is beyond the cut, and its region too
    assert sorted(sample[keys.WORD_PAIRS][:, 1:].tolist()) == [[1, 0], [1, 0]]


def test_spans_are_the_phrases_of_the_sampled_captions(files):
    mapper = toy_dataset(files, spans=True)
    record = mapper.load_data(None)[0]
    # "a man sees a dog": words 0 and 1, words 3 and 4; "a man": both words; "green grass": no phrase
    expected = {(1, 2, 3, 1, 4): [[0, 2], [3, 5]], (1, 2): [[0, 2]], (5, 5): []}
    for seed in range(6):
        random.seed(seed)
        sample = mapper(record)
        said = [tuple(tokens.tolist()[1:]) for tokens in sample[kfg.G_TOKENS_IDS]]
        assert sample[keys.WORD_SPANS].tolist() == [
            [i, *span] for i, words in enumerate(said) for span in expected[words]
        ]
    cut = toy_dataset(files, spans=True, max_seq_len=4, seq_per_sample=3)
    assert sorted(cut(cut.load_data(None)[0])[keys.WORD_SPANS][:, 1:].tolist()) == [[0, 2], [0, 2], [3, 4]]


def test_captions_without_any_phrase_are_refused_before_training(files):
    with json_list(files / "train.json", annotation_header("train", "t", False, "r", ["man"]), "images") as out:
        for image_id in (11, 12):
            bare = image(image_id)
            for caption in bare["captions"]:
                caption["phrases"] = []
            out.add(bare)
    assert len(toy_dataset(files).load_data(None)) == 2
    with pytest.raises(UserError, match=r"no caption in .*train.json has a phrase.*xmodaler prepare annotations"):
        toy_dataset(files, spans=True).load_data(None)


def test_captions_are_sampled_as_xmodaler_samples_them():
    random.seed(3)
    ours = [sample_captions(5, 5), sample_captions(5, 2), sample_captions(2, 5)]
    random.seed(3)
    theirs = [random.sample(range(5), 5), random.sample(range(5), 2), random.choices(range(2), k=3) + [0, 1]]
    assert ours == theirs


def test_a_limit_cuts_regions_and_sigma_alike_and_not_positive_means_all(files):
    mapper = toy_dataset(files, max_regions=1)
    sample = mapper(mapper.load_data(None)[0])
    assert sample[kfg.ATT_FEATS].shape == (1, 6) and sample[keys.CLASS_PROBS].shape == (1, 5)
    # the dog's box touches none of the regions that are left
    assert sample[keys.SIGMA].tolist() == [[1]]


def test_what_nobody_needs_is_not_there(files):
    mapper = toy_dataset(files, num_classes=None, targets=None)
    sample = mapper(mapper.load_data(None)[0])
    assert not {keys.CLASS_PROBS, keys.SIGMA, keys.HAS_BOXES} & set(sample)
    mapper = toy_dataset(files, "val")
    records = mapper.load_data(None)
    assert records == [{"image_id": 11}, {"image_id": 12}]
    assert set(mapper(records[1])) == {
        kfg.IDS,
        kfg.ATT_FEATS,
        keys.BOXES_PX,
        keys.SPATIAL,
        keys.IMAGE_SIZE,
        keys.CLASS_PROBS,
    }


def test_reference_captions_come_in_order_and_uncut_when_attention_on_them_is_requested(files):
    mapper = toy_dataset(files, "val", gt_attention=True, max_seq_len=2)
    sample = mapper(mapper.load_data(None)[0])
    assert [ids.tolist() for ids in sample[keys.REF_TOKENS_IDS]] == [[0, 1, 2, 3, 1, 4], [0, 1, 2], [0, 5, 5]]


def test_mapper_and_records_travel_to_a_worker(files):
    mapper = toy_dataset(files)
    records = mapper.load_data(None)
    mapper(records[0])
    copied, record = pickle.loads(pickle.dumps((mapper, records[1])))
    assert copied(record)[kfg.ATT_FEATS].shape == (3, 6)
    assert len(pickle.dumps(records[0], protocol=-1)) < 400  # sent for every sample


def test_everything_that_does_not_fit_is_told_at_once(files):
    mapper = toy_dataset(files, vocab_size=9, num_classes=1601, feature_dim=2048)
    with pytest.raises(
        UserError,
        match=r"(?s)3 problems.*VOCAB_SIZE is 9, but .* has 5 words; set it to 6.*"
        r"IN_DIM is 2048.*set it to 6.*NUM_CLASSES is 1601.*have 5 columns",
    ):
        mapper.load_data(None)


def test_all_missing_files_are_told_at_once(files):
    mapper = toy_dataset(files, annotation_file="a.json", vocabulary_file="v.txt", regions_file="r.h5")
    message = r"(?s)3 problems.*v\.txt does not exist.*r\.h5 does not exist.*a\.json does not"
    with pytest.raises(UserError, match=message):
        mapper.load_data(None)


def test_images_of_the_split_that_the_store_lacks_are_counted_and_the_first_ten_named(files):
    with json_list(files / "train.json", annotation_header("train", "t", False, "r", ["man"]), "images") as out:
        for image_id in (11, *range(100, 112)):
            out.add(image(image_id))
    shown = ", ".join(map(str, range(100, 110)))
    with pytest.raises(UserError, match=rf"12 images of the train split not in the region file .*: {shown}, \.\.\."):
        toy_dataset(files).load_data(None)


def test_class_probabilities_are_requested_only_when_a_slot_reads_them_and_the_way_out_is_said(files):
    with h5py.File(files / "regions.h5", "r+") as file:
        del file["class_probs"]
    toy_dataset(files, num_classes=None).load_data(None)
    with pytest.raises(UserError, match="has none; recompute them .*`xmodaler prepare regions --classifier FILE`"):
        toy_dataset(files).load_data(None)


def test_images_without_regions_and_numbers_that_are_not_finite_are_named(files):
    with h5py.File(files / "regions.h5", "r+") as file:
        file["features"][1, 2, 3] = np.nan  # row 1 is image 11
    mapper = toy_dataset(files)
    records = mapper.load_data(None)
    mapper(records[1])
    with pytest.raises(UserError, match=r"Image 11 in .*regions\.h5: features of region \[2\] is NaN"):
        mapper(records[0])
    with h5py.File(files / "regions.h5", "r+") as file:
        file["num_boxes"][0] = 0
    with pytest.raises(UserError, match="1 image of the train split without a region in .*: 12"):
        toy_dataset(files).load_data(None)


def test_a_broken_annotation_file_is_named(files):
    content = json.loads((files / "train.json").read_text())
    content["images"][1]["image_id"] = "12"
    (files / "train.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="image number 1 .*image_id must be a whole number, found '12'"):
        toy_dataset(files).load_data(None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"targets": "caption"}, "TARGETS must be one of image, sentence"),
        ({"cache": "disk"}, "CACHE must be one of none, ram, device"),
        ({"seq_per_sample": 0}, "SEQ_PER_SAMPLE"),
    ],
)
def test_settings_that_cannot_work_are_refused(files, change, message):
    with pytest.raises(UserError, match=message):
        toy_dataset(files, **change)


def test_the_config_decides_and_only_from_config_reads_it(files, tmp_path):
    def build(stage="train", **overrides):
        cfg = toy_config(
            tmp_path / "toy",
            **{
                "DATALOADER.ANNO_FOLDER": str(files),
                "DATALOADER.REGIONS": "r.h5",
                "DATALOADER.SEQ_PER_SAMPLE": 2,
                **overrides,
            },
        )
        return DATASETS_REGISTRY.get("Flickr30kEntitiesDataset")(cfg, stage)

    (tmp_path / "toy").mkdir()
    mapper = build()
    assert (mapper.annotation_file, mapper.regions_file) == (str(files / "train.json"), "r.h5")
    assert mapper.inputs == RegionInputs(6, 4, None) and (mapper.targets, mapper.seq_per_sample) == ("image", 2)
    assert mapper.vocabulary_file == str(tmp_path / "toy" / "vocabulary.txt") and mapper.vocab_size == 7
    assert build("val").annotation_file == str(files / "val.json")
    assert build(**{"DATALOADER.MAX_FEAT_NUM": -1}).inputs.max_regions is None
    assert build(**{"DATALOADER.MAX_FEAT_NUM": 3}).inputs.max_regions == 3
    assert build(**{"MODEL.SS_ATTENTION.ENABLED": False}).inputs.num_classes is None
    assert build(**{"MODEL.SS_ATTENTION.SEMANTIC_INPUT": "v"}).inputs.num_classes is None
    assert build(**{"LOSSES.NAMES": ["CrossEntropy"]}).targets is None
    assert build(**{"LOSSES.GROUNDING.TARGETS": "sentence"}).targets == "sentence"


@pytest.mark.parametrize(("stage", "cache", "times"), [("train", "ram", 1), ("train", "none", 0), ("val", "ram", 0)])
def test_the_region_file_is_read_once_at_the_start_when_asked(files, monkeypatch, stage, cache, times):
    calls = []
    monkeypatch.setattr(RegionStore, "warm_up", lambda self: calls.append(self.path))
    toy_dataset(files, stage, cache=cache).load_data(None)
    assert len(calls) == times
