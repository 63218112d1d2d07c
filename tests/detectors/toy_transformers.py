"""Folders of small random detectors of Hugging Face transformers, as `save_pretrained` writes them."""

import json

import pytest
import torch

NAMES = ["person", "dog", "red ball", "N/A", "tv"]
QUERIES, DIM = 40, 32
KINDS = ("detr", "conditional_detr", "deformable_detr", "rt_detr", "rt_detr_v2", "d_fine", "rf_detr", "yolos")
SQUARE = {"rt_detr": 64, "rt_detr_v2": 64, "d_fine": 64, "rf_detr": 112}  # their processors do not keep proportions


def config_of(kind, names=NAMES):
    library = pytest.importorskip("transformers")
    labels = {"id2label": dict(enumerate(names)), "label2id": {name: number for number, name in enumerate(names)}}
    layers = {
        "d_model": DIM, "encoder_layers": 1, "decoder_layers": 2, "encoder_attention_heads": 2,
        "decoder_attention_heads": 2, "encoder_ffn_dim": DIM, "decoder_ffn_dim": DIM, "num_queries": QUERIES,
    }  # fmt: skip
    residual = {"embedding_size": 8, "hidden_sizes": [8, 8, 16, 16], "depths": [1] * 4, "layer_type": "basic"}
    if kind in ("detr", "conditional_detr", "deformable_detr"):
        stages = ["stage2", "stage3", "stage4"] if kind == "deformable_detr" else ["stage4"]
        backbone = library.ResNetConfig(**residual, out_features=stages)
        kinds = {"detr": "Detr", "conditional_detr": "ConditionalDetr", "deformable_detr": "DeformableDetr"}
        return getattr(library, f"{kinds[kind]}Config")(
            use_timm_backbone=False, backbone=None, use_pretrained_backbone=False, backbone_config=backbone,
            **layers, **labels,
        )  # fmt: skip
    if kind in ("rt_detr", "rt_detr_v2", "d_fine"):
        residual["hidden_sizes"] = [8, 16, 16, 16]
        backbone = library.RTDetrResNetConfig(**residual, out_features=["stage2", "stage3", "stage4"])
        name = {"rt_detr": "RTDetrConfig", "rt_detr_v2": "RTDetrV2Config", "d_fine": "DFineConfig"}[kind]
        if not hasattr(library, name):
            pytest.skip(f"this version of transformers has no {name}")
        return getattr(library, name)(
            backbone_config=backbone, encoder_hidden_dim=DIM, encoder_in_channels=[16] * 3,
            decoder_in_channels=[DIM] * 3, feat_strides=[8, 16, 32], num_denoising=0, num_feature_levels=3,
            decoder_n_points=[2] * 3 if kind == "d_fine" else 2, hidden_expansion=0.5, **layers, **labels,
        )  # fmt: skip
    transformer = {"hidden_size": DIM, "num_hidden_layers": 2, "num_attention_heads": 2}
    if kind == "yolos":
        return library.YolosConfig(
            **transformer, intermediate_size=DIM, image_size=[64, 96], num_detection_tokens=QUERIES, **labels
        )
    if not hasattr(library, "RfDetrConfig"):
        pytest.skip("this version of transformers has no RF-DETR")
    backbone = library.RfDetrDinov2Config(
        **transformer, mlp_ratio=2, image_size=112, num_windows=2, window_block_indexes=[0],
        out_features=["stage1", "stage2"],
    )  # fmt: skip
    return library.RfDetrConfig(
        backbone_config=backbone, d_model=DIM, decoder_layers=2, decoder_self_attention_heads=2,
        decoder_cross_attention_heads=2, decoder_ffn_dim=DIM, num_queries=QUERIES, group_detr=1, decoder_n_points=2,
        num_feature_levels=1, projector_scale_factors=[1.0], **labels,
    )  # fmt: skip


def write_detector(folder, kind="rt_detr_v2", names=NAMES, seed=0):
    """A model of random weights in ``folder``; they are large enough for queries that differ. Returns the model."""
    library = pytest.importorskip("transformers")
    library.logging.disable_progress_bar()
    torch.manual_seed(seed)
    model = library.AutoModelForObjectDetection.from_config(config_of(kind, names)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 1.5 * parameter[0].numel() ** -0.5)
            elif parameter.shape == (4,):  # of the box heads: width and height grow, so that boxes have an area
                parameter.copy_(torch.tensor([0.0, 0.0, 3.0, 3.0]))
    model.save_pretrained(folder)
    side = SQUARE.get(kind)
    settings = {
        "size": {"height": side, "width": side} if side else {"shortest_edge": 128, "longest_edge": 160},
        "do_normalize": kind not in ("rt_detr", "rt_detr_v2", "d_fine"),
        "image_processor_type": "AnyImageProcessor",
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return model
