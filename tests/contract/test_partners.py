"""Each registered class of ours with X-modaler's own classes beside it: what can work trains, what cannot is refused.

On the embedded host always; inside an X-modaler clone with SSATTN_TEST_HOST=upstream and XMODALER_HOME. Upstream's own
meta-architecture, decoder and searchers write ``.cuda()``; here it does nothing, so that they run on a CPU.
"""

import json
import os
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch

from toys import RAW, VOCAB_SIZE, toy_config, toy_sample
from xmodaler_ssattn import host, keys
from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.host import DATASETS_REGISTRY, META_ARCH_REGISTRY, add_config, get_cfg, kfg
from xmodaler_ssattn.worlds.drawn import draw_dataset

UPSTREAM = host.NAME == "upstream"

# X-modaler's configs/image_caption/updown/updown.yaml in short; with a clone at hand the file itself is read.
STOCK_YAML = """
MODEL:
  META_ARCHITECTURE: 'RnnAttEncoderDecoder'
  ENCODER: 'UpDownEncoder'
  DECODER: 'UpDownDecoder'
  PREDICTOR: 'BasePredictor'
  TOKEN_EMBED: {NAME: 'TokenBaseEmbedding', ACTIVATION: 'relu', USE_NORM: False, DROPOUT: 0.5}
  VISUAL_EMBED: {NAME: 'VisualBaseEmbedding', ACTIVATION: 'relu', USE_NORM: False, DROPOUT: 0.5}
LOSSES: {NAMES: ['CrossEntropy']}
ENGINE: {NAME: 'DefaultTrainer'}
DECODE_STRATEGY: {NAME: 'BeamSearcher', BEAM_SIZE: 3}
SOLVER: {NAME: 'Adam', CHECKPOINT_PERIOD: 1, EVAL_PERIOD: 1, GRAD_CLIP: 0.1, GRAD_CLIP_TYPE: 'value'}
LR_SCHEDULER: {NAME: 'StepLR', STEP_SIZE: 3, GAMMA: 0.8}
SCHEDULED_SAMPLING: {START_EPOCH: 0, INC_EVERY_EPOCH: 1, INC_PROB: 0.05, MAX_PROB: 0.25}
INFERENCE: {ID_KEY: 'image_id', VALUE: 'caption'}
"""


@pytest.fixture(autouse=True)
def no_cuda(monkeypatch):
    monkeypatch.setattr(torch.Tensor, "cuda", lambda self, *args, **kwargs: self)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("scenes") / "data"
    draw_dataset(folder, num_images=48, feature_dim=32)
    return folder


def stock_config(tmp_path: Path, scenes: Path, **changes):
    """A stock Up-Down project whose yaml names our data set, with the stock keys that it has."""
    yaml = tmp_path / "updown.yaml"
    yaml.write_text(STOCK_YAML)
    if UPSTREAM:
        yaml = Path(os.environ["XMODALER_HOME"]) / "configs" / "image_caption" / "updown" / "updown.yaml"
    cfg = get_cfg()
    tmp_cfg = cfg.load_from_file_tmp(str(yaml))
    for name in ("META_ARCHITECTURE", "DECODER"):
        tmp_cfg.MODEL[name] = changes.get(f"MODEL.{name}", tmp_cfg.MODEL.get(name))
    add_config(cfg, tmp_cfg)
    cfg.merge_from_file(str(yaml))
    words = (scenes / "vocabulary.txt").read_text().split()
    values = {
        "DATASETS.TRAIN": "Flickr30kEntitiesDataset",
        "DATASETS.VAL": "Flickr30kEntitiesDataset",
        "DATASETS.TEST": "",
        "DATALOADER.ANNO_FOLDER": str(scenes),
        "DATALOADER.FEATS_FOLDER": str(scenes / "regions.h5"),  # X-modaler's own key
        "DATALOADER.TRAIN_BATCH_SIZE": 8,
        "DATALOADER.TEST_BATCH_SIZE": 8,
        "DATALOADER.NUM_WORKERS": 0,
        "DATALOADER.SEQ_PER_SAMPLE": 2,
        "DATALOADER.MAX_FEAT_NUM": 36,
        "INFERENCE.NAME": "Flickr30kEntitiesEvaler",
        "INFERENCE.VOCAB": str(scenes / "vocabulary.txt"),
        "INFERENCE.VAL_ANNFILE": str(scenes / "captions_val.json"),
        "INFERENCE.TEST_ANNFILE": str(scenes / "captions_test.json"),
        "MODEL.DEVICE": "cpu",
        "MODEL.VOCAB_SIZE": len(words) + 1,
        "MODEL.DECODER_DIM": 16,
        "MODEL.ENCODER_DIM": 16,
        "MODEL.TOKEN_EMBED.DIM": 16,
        "MODEL.VISUAL_EMBED.IN_DIM": 32,
        "MODEL.VISUAL_EMBED.OUT_DIM": 16,
        "MODEL.UPDOWN.ATT_EMBED_SIZE": 8,
        "SOLVER.EPOCH": 2,
        "SOLVER.BASE_LR": 0.01,
        "SEED": 1,
        "OUTPUT_DIR": str(tmp_path / "out"),
        **changes,
    }
    cfg.merge_from_list([item for pair in values.items() for item in pair])
    return cfg


def train(cfg) -> dict:
    """A run of the host's own trainer; the losses of all steps and the names of all that was logged."""
    cfg.freeze()
    host.default_setup(cfg, Namespace(config_file="", eval_only=False))
    trainer = host.build_engine(cfg)
    trainer.resume_or_load(resume=False)
    losses, run_step = [], trainer.run_step

    def recorded_step():
        run_step()
        losses.append(trainer.storage.history("total_loss").latest())

    trainer.run_step = recorded_step
    trainer.train()
    lines = [json.loads(line) for line in Path(cfg.OUTPUT_DIR, "metrics.json").read_text().splitlines()]
    return {"losses": losses, "names": set().union(*lines), "model": trainer.model}


def test_a_stock_project_trains_and_evaluates_on_our_data_set(tmp_path, scenes):
    done = train(stock_config(tmp_path, scenes))
    assert type(done["model"]).__name__ == "RnnAttEncoderDecoder"
    assert len(done["losses"]) == 10 and all(np.isfinite(done["losses"]))  # 40 pictures, 8 per batch, 2 epochs
    assert done["losses"][-1] < done["losses"][0]
    assert {"val/CIDEr", "val/Bleu_4"} <= done["names"]
    assert "val/F1_all" not in done["names"]  # its captions carry no regions


def test_a_stock_project_takes_our_optimiser(tmp_path, scenes):
    losses = {}
    for name in ("Adam", "FusedAdam"):
        changes = {"DATASETS.VAL": "", "SOLVER.NAME": name, "OUTPUT_DIR": str(tmp_path / name)}
        losses[name] = train(stock_config(tmp_path, scenes, **changes))["losses"]
    assert losses["FusedAdam"] == pytest.approx(losses["Adam"], abs=1e-4)


def test_locations_reach_a_stock_embedding(tmp_path, scenes):
    done = train(stock_config(tmp_path, scenes, **{"MODEL.VISUAL_EMBED.LOCATION_SIZE": 5, "DATASETS.VAL": ""}))
    moved = done["model"].visual_embed.embeddings_pos.weight.grad
    assert moved is not None and moved.abs().max() > 0


def test_our_decoder_without_its_branch_works_in_the_stock_meta_architecture(tmp_path, scenes):
    changes = {"MODEL.DECODER": "SSAttentionDecoder", "MODEL.SS_ATTENTION.ENABLED": False, "DATASETS.VAL": ""}
    done = train(stock_config(tmp_path, scenes, **changes))
    assert type(done["model"].decoder).__name__ == "SSAttentionDecoder"
    assert done["losses"][-1] < done["losses"][0]
    model = done["model"].eval()
    sample = next(iter(host.build_xmodaler_train_loader(stock_config(tmp_path, scenes, **changes))))[:2]
    test_samples = [{key: value for key, value in s.items() if key != kfg.SEQ_PER_SAMPLE} for s in sample]
    out = model(model.preprocess_batch(test_samples), use_beam_search=True, output_sents=True)
    assert len(out[kfg.OUTPUT]) == 2


CANNOT = {
    "our decoder": ({"MODEL.DECODER": "SSAttentionDecoder"}, "SSAttentionDecoder works only inside GroundedCaptioner"),
    "our loss": ({"LOSSES.NAMES": ["CrossEntropy", "GroundingLoss"]}, "GroundingLoss works only inside"),
    "our fused loss": ({"LOSSES.NAMES": ["FusedCrossEntropy"]}, "FusedCrossEntropy works only inside"),
    "our reward loss": ({"LOSSES.NAMES": ["SelfCriticalLoss"]}, "SelfCriticalLoss works only inside"),
    "our searcher": ({"DECODE_STRATEGY.NAME": "GroundedBeamSearcher"}, "GroundedBeamSearcher works only inside"),
    "our embedding": (
        {"MODEL.VISUAL_EMBED.NAME": "SpatialSemanticEmbedding"},
        "SpatialSemanticEmbedding works only inside",
    ),
    "our second stage": ({"ENGINE.NAME": "SelfCriticalTrainer"}, "SelfCriticalTrainer works only inside"),
}


@pytest.mark.parametrize("case", CANNOT)
def test_what_cannot_work_in_a_stock_project_is_refused_with_the_reason_and_the_way_out(tmp_path, scenes, case):
    changes, message = CANNOT[case]
    cfg = stock_config(tmp_path, scenes, **changes)
    with pytest.raises(UserError, match=f"{message}.*'RnnAttEncoderDecoder'.*Set MODEL.META_ARCHITECTURE"):
        train(cfg)


def test_our_captioner_refuses_the_stock_decoder_and_the_stock_searcher_with_what_to_set(tmp_path, scenes):
    ours = {"MODEL.META_ARCHITECTURE": "GroundedCaptioner", "DECODE_STRATEGY.NAME": "GroundedBeamSearcher"}
    with pytest.raises(UserError, match="got UpDownDecoder. .*MODEL.SS_ATTENTION.ENABLED: False"):
        train(stock_config(tmp_path, scenes, **ours))
    ours |= {"DECODE_STRATEGY.NAME": "BeamSearcher", "MODEL.DECODER": "SSAttentionDecoder"}
    with pytest.raises(UserError, match="Set DECODE_STRATEGY.NAME: GroundedBeamSearcher"):
        train(stock_config(tmp_path, scenes, **ours))


@pytest.mark.parametrize(
    "key, name, what",
    [
        ("DECODER", "AttributeDecoder", "attributes"),
        ("ENCODER", "GCNEncoder", "relations between regions"),
        ("ENCODER", "COSNetEncoder", "retrieved words"),
    ],
)
def test_parts_that_read_what_our_data_set_lacks_are_refused_before_training(tmp_path, scenes, key, name, what):
    cfg = stock_config(tmp_path, scenes)
    cfg.MODEL[key] = name
    with pytest.raises(UserError, match=f"MODEL.{key}: {name} reads {what} .* Flickr30kEntitiesDataset does not have"):
        DATASETS_REGISTRY.get("Flickr30kEntitiesDataset")(cfg, "train")
    richer = type("Richer", (DATASETS_REGISTRY.get("Flickr30kEntitiesDataset"),), {"__call__": lambda self, record: {}})
    assert richer(cfg, "train").stage == "train"


def test_regions_kept_on_the_device_are_refused_with_the_stock_captioner(tmp_path, scenes):
    cfg = stock_config(tmp_path, scenes)
    cfg.DATALOADER.CACHE = "device"
    with pytest.raises(UserError, match="DATALOADER.CACHE device works only inside GroundedCaptioner"):
        train(cfg)


def foreign_dataset(name: str) -> None:
    """A data set of another project that returns what keys.py asks for: three images, tensors or arrays."""
    if name in DATASETS_REGISTRY:
        return

    class Foreign:
        def __init__(self, cfg, stage):
            self.stage = stage

        def load_data(self, cfg):
            return [{"image_id": image_id} for image_id in (1, 2, 3)]

        def __call__(self, record):
            sample = toy_sample(record["image_id"], 3)
            training = self.stage == "train"
            kept = {
                kfg.IDS: record["image_id"],
                kfg.ATT_FEATS: sample[kfg.ATT_FEATS].numpy(),
                keys.BOXES_PX: sample[keys.BOXES_PX],
                keys.SPATIAL: sample[keys.SPATIAL].numpy(),
                keys.IMAGE_SIZE: sample[keys.IMAGE_SIZE],
                keys.CLASS_PROBS: sample[keys.CLASS_PROBS],
            }
            if training:
                kept |= {kfg.SEQ_PER_SAMPLE: 2, keys.SIGMA: sample[keys.SIGMA], keys.HAS_BOXES: sample[keys.HAS_BOXES]}
                kept |= {key: sample[key] for key in (kfg.G_TOKENS_IDS, kfg.G_TARGET_IDS)}
            return kept

    Foreign.__name__ = name
    DATASETS_REGISTRY.register(Foreign)


def foreign_config(tmp_path: Path, **overrides):
    return toy_config(
        tmp_path,
        **{
            "DATASETS__TRAIN": "ForeignDatasetOfATest",
            "DATASETS__VAL": "",
            "DATASETS__TEST": "",
            "DATALOADER__TRAIN_BATCH_SIZE": 3,
            "DATALOADER__NUM_WORKERS": 0,
            "SOLVER__EPOCH": 2,
            "INFERENCE__VOCAB": "",
            "OUTPUT_DIR": str(tmp_path / "out"),
            **overrides,
        },
    )


def test_another_projects_data_set_trains_our_model_without_a_vocabulary(tmp_path):
    foreign_dataset("ForeignDatasetOfATest")
    done = train(foreign_config(tmp_path))
    assert len(done["losses"]) == 2 and all(np.isfinite(done["losses"]))
    model = done["model"].eval()
    batch = model.preprocess_batch([toy_sample(1, 3)])
    ids = model(batch, use_beam_search=False, output_sents=False)[kfg.G_SENTS_IDS]
    assert ids.shape == (1, 6) and int(ids.max()) < VOCAB_SIZE
    with pytest.raises(UserError, match="INFERENCE.VOCAB is empty"):
        model(batch, use_beam_search=True, output_sents=True)


def test_a_class_derived_from_our_captioner_is_a_partner_as_ours_is(tmp_path):
    name = "CaptionerOfATest"
    if name not in META_ARCH_REGISTRY:
        META_ARCH_REGISTRY.register(type(name, (META_ARCH_REGISTRY.get("GroundedCaptioner"),), {}))
    foreign_dataset("ForeignDatasetOfATest")
    done = train(foreign_config(tmp_path, MODEL__META_ARCHITECTURE=name))
    assert type(done["model"]).__name__ == name and all(np.isfinite(done["losses"]))


def test_samples_that_do_not_fit_are_named_by_image_all_at_once(tmp_path):
    model = host.build_model(toy_config(tmp_path))
    without = {key: value for key, value in toy_sample(8, 3).items() if key != keys.CLASS_PROBS}
    empty = toy_sample(9, 1)
    empty = {**empty, **{key: empty[key][:0] for key in (kfg.ATT_FEATS, keys.BOXES_PX, keys.SPATIAL, keys.CLASS_PROBS)}}
    uneven = {**toy_sample(10, 3), keys.SPATIAL: torch.zeros(2, 5)}
    fewer = toy_sample(11, 3, [[1]])
    with pytest.raises(UserError) as error:
        model.preprocess_batch([toy_sample(7, 3), without, empty, uneven, fewer])
    message = str(error.value)
    assert "4 problems" in message and "image 7" not in message
    assert "the sample of image 8 lacks SSATTN_CLASS_PROBS" in message
    assert "image 9 has no region" in message
    assert "image 10 has different numbers of regions" in message
    assert "image 11 has 1 captions, 1 targets and SEQ_PER_SAMPLE 1" in message


def test_a_sample_of_the_stock_data_set_is_refused_with_the_keys_that_it_lacks(tmp_path):
    stock = {kfg.IDS: "17", kfg.ATT_FEATS: torch.zeros(3, RAW), kfg.ATT_FEATS_LOC: torch.zeros(3, 5)}
    model = host.build_model(toy_config(tmp_path))
    with pytest.raises(UserError, match="image 17 lacks SSATTN_BOXES_PX, SSATTN_IMAGE_SIZE, SSATTN_SPATIAL"):
        model.preprocess_batch([stock])


@pytest.mark.skipif(not UPSTREAM, reason="the embedded host has no trainer of a second stage but ours")
def test_our_scorers_reward_upstreams_own_second_stage(tmp_path, scenes):
    changes = {
        "ENGINE.NAME": "RLTrainer",
        "LOSSES.NAMES": ["RewardCriterion"],
        "SCORER.NAME": "GroundedScorer",
        "SCORER.TYPES": ["CiderD"],
        "SCORER.GT_PATH": "",
        "SCORER.CIDER_CACHED": "",
        "DATALOADER.SEQ_PER_SAMPLE": 1,
        "DATASETS.VAL": "",
        "SOLVER.EPOCH": 1,
    }
    done = train(stock_config(tmp_path, scenes, **changes))
    assert len(done["losses"]) == 5 and all(np.isfinite(done["losses"]))
