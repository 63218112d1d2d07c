"""One answer to "what does this model read of the regions": the dataset and the caption command both take it."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

from xmodaler_ssattn import keys
from xmodaler_ssattn.cli.captioning import caption_regions, load_captioner
from xmodaler_ssattn.cli.configuring import load_config
from xmodaler_ssattn.data.inputs import region_inputs, region_sample
from xmodaler_ssattn.data.mapper import Flickr30kEntitiesDataset
from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.host import DECODER_REGISTRY, build_model
from xmodaler_ssattn.modeling import SSAttentionDecoder
from xmodaler_ssattn.packs.store import Regions

CONFIG = str(Path(__file__).parents[1] / "configs" / "sample" / "ss_attn.yaml")
D, C, WORDS = 6, 4, ["a", "dog", "runs", "UNK"]
COMBINATIONS = [
    {
        "MODEL.SS_ATTENTION.ENABLED": enabled,
        "MODEL.SS_ATTENTION.SPATIAL_INPUT": spatial,
        "MODEL.SS_ATTENTION.SEMANTIC_INPUT": semantic,
        "MODEL.VISUAL_EMBED.NAME": embed,
        "MODEL.SS_ATTENTION.STATE_DIM": state,
    }
    for enabled, spatial, semantic, embed, state in itertools.product(
        (True, False), "pv", "cv", ("VisualBaseEmbedding", "SpatialSemanticEmbedding"), (0, 3)
    )
]


def config(tmp_path, **changes):
    (tmp_path / "vocabulary.txt").write_text("\n".join(WORDS) + "\n")
    options = {
        "INFERENCE.VOCAB": tmp_path / "vocabulary.txt", "MODEL.VOCAB_SIZE": len(WORDS) + 1, "OUTPUT_DIR": tmp_path,
        "MODEL.VISUAL_EMBED.IN_DIM": D, "MODEL.VISUAL_EMBED.OUT_DIM": 8, "MODEL.DECODER_DIM": 8,
        "MODEL.ENCODER_DIM": 8, "MODEL.TOKEN_EMBED.DIM": 8, "MODEL.UPDOWN.ATT_EMBED_SIZE": 8,
        "MODEL.SS_ATTENTION.NUM_CLASSES": C, "DATALOADER.SAMPLE_SCENES": 0, **changes,
    }  # fmt: skip
    return load_config(CONFIG, [str(word) for pair in options.items() for word in pair], device="cpu")


def regions(class_probs=True, count=3) -> Regions:
    rng = np.random.default_rng(0)
    boxes = np.array([[0, 0, 4, 4], [1, 1, 9, 8], [2, 0, 5, 7]], dtype=np.float32)[:count]
    features = rng.random((count, D), dtype=np.float32)
    return Regions(7, 10, 8, boxes, features, rng.random((count, C), dtype=np.float32) if class_probs else None)


@pytest.mark.parametrize("combination", COMBINATIONS, ids=lambda c: "-".join(map(str, c.values())))
def test_every_combination_of_slots_and_embedding_captions_with_what_the_one_answer_names(tmp_path, combination):
    cfg = config(tmp_path, **combination)
    inputs = region_inputs(cfg)
    assert Flickr30kEntitiesDataset(cfg, "val").inputs == inputs
    # Written out once more: the slot when it is active, or the embedding of the control.
    active = combination["MODEL.SS_ATTENTION.ENABLED"] and combination["MODEL.SS_ATTENTION.SEMANTIC_INPUT"] == "c"
    assert (inputs.num_classes == C) is (active or combination["MODEL.VISUAL_EMBED.NAME"] != "VisualBaseEmbedding")
    model = build_model(cfg)
    torch.save({"model": model.state_dict()}, tmp_path / "model_final.pth")
    (tmp_path / "config.yaml").write_text(cfg.dump())
    captioner = load_captioner(tmp_path, device="cpu")
    (caption,) = caption_regions(captioner, [regions(class_probs=inputs.num_classes is not None)])
    assert set(str(caption).split()) <= set(WORDS)
    if inputs.num_classes is not None:  # and it is not asked for in vain
        sample = region_sample(regions(), inputs, "test")
        del sample[keys.CLASS_PROBS]
        with pytest.raises(KeyError):
            model.eval()(model.preprocess_batch([sample]), use_beam_search=False)


def test_a_class_derived_from_ours_answers_for_itself(tmp_path):
    if "SsattnTestBlindDecoder" not in DECODER_REGISTRY:

        @DECODER_REGISTRY.register()
        class SsattnTestBlindDecoder(SSAttentionDecoder):
            @classmethod
            def reads(cls, cfg):
                return set()

    assert region_inputs(config(tmp_path, **{"MODEL.DECODER": "SsattnTestBlindDecoder"})).num_classes is None
    assert region_inputs(config(tmp_path)).num_classes == C


def test_an_image_without_a_region_is_named_and_not_captioned(tmp_path):
    with pytest.raises(UserError, match="Image 7 in photo.jpg has no region"):
        region_sample(regions(count=0), region_inputs(config(tmp_path)), "photo.jpg")
