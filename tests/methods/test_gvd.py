"""GVD's regions and losses by hand, the same on every path, refusals, and an epoch on both hosts."""

import json
import math

import pytest
import torch
from torch.nn import functional as F

from losses.test_word_attention import with_pairs
from test_two_hosts import ROOT, curve, needs_upstream
from toys import CLASSES, RAW, TWO_IMAGES, captions_of, for_test, toy_config, toy_model, trained_once
from xmodaler_ssattn import keys
from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.evaluation.region_choice import check_classes_of
from xmodaler_ssattn.host import EMBEDDING_REGISTRY, ENCODER_REGISTRY, LOSSES_REGISTRY, build_losses, kfg
from xmodaler_ssattn.methods.gvd import GVDContextEncoder, GVDRegionEmbedding, detector_scores
from xmodaler_ssattn.methods.gvd_loss import GVDClassLoss, grounding_weights, region_class_loss
from xmodaler_ssattn.modeling.collate import WordPairs
from xmodaler_ssattn.packs.store import RegionWriter
from xmodaler_ssattn.worlds.drawn import draw_dataset

NAMES = {"classes": ["dog", "tree", "man"]}  # columns 1, 2 and 3; "man" and "dog" are words 2 and 3
GVD = {
    "MODEL__VISUAL_EMBED__NAME": "GVDRegionEmbedding",
    "MODEL__VISUAL_EMBED__OUT_DIM": 16,
    "MODEL__ENCODER": "GVDContextEncoder",
    "MODEL__SS_ATTENTION__ENABLED": False,
    "MODEL__SHARE_REGION_DROPOUT": True,
    "LOSSES__NAMES": ["CrossEntropy", "WordAttentionLoss", "GVDClassLoss"],
}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "sample.json").write_text(json.dumps(NAMES))
    return tmp_path


def embedding(columns, out_dim=4, **arguments):
    torch.manual_seed(0)
    return GVDRegionEmbedding(columns=columns, in_dim=RAW, out_dim=out_dim, **arguments).eval()


def test_the_class_head_starts_as_rows_copied_from_the_detectors_classifier_and_learns_at_a_tenth():
    torch.manual_seed(1)
    v, classifier = torch.randn(5, RAW), torch.nn.Linear(RAW, 4)
    c = classifier(v).softmax(-1)
    columns = torch.zeros(4, 3)  # background, the class of column 3, that of column 1
    columns[[0, 3, 1], [0, 1, 2]] = 1
    torch.testing.assert_close(detector_scores(c, columns).softmax(-1), classifier(v)[:, [0, 3, 1]].softmax(-1))
    module = embedding(columns)
    inputs = {kfg.ATT_FEATS: v[None], keys.SPATIAL: torch.rand(1, 5, 5), keys.CLASS_PROBS: c[None]}
    torch.testing.assert_close(module(inputs)[keys.REGION_CLASS_SCORES][0], detector_scores(c, columns))
    change = torch.randn(3, RAW)
    module.class_head.weight.data.copy_(change)
    # rows u0 + 0.1 change: the same softmax
    wanted = (classifier(v)[:, [0, 3, 1]] + 0.1 * v @ change.T).softmax(-1)
    torch.testing.assert_close(module(inputs)[keys.REGION_CLASS_SCORES][0].softmax(-1), wanted)


def test_a_padded_region_has_finite_scores():
    assert detector_scores(torch.zeros(2, 3), torch.eye(3)).isfinite().all()


def test_each_part_of_a_region_has_its_own_norm():
    """(1, 3) and (100, 300) have the same normal form (-1, 1): no part hides another."""
    module = embedding(torch.eye(2), embeddings_act=torch.nn.ReLU())
    v = torch.tensor([[[1.0, 3, 1, 3, 1, 3], [100, 300, 100, 300, 100, 300]]])
    c = torch.tensor([[[0.2, 0.8], [0.2, 0.8]]])  # LN: (-0.3, 0.3) / sqrt(0.09 + 1e-5)
    p = torch.tensor([[[0.0, 1, 0, 1, 1], [0, 0.5, 0, 0.5, 0.25]]])
    found = module({kfg.ATT_FEATS: v, keys.SPATIAL: p, keys.CLASS_PROBS: c})[kfg.ATT_FEATS]
    location = torch.relu(p @ module.location[0].weight.T + module.location[0].bias)
    deviation = location - location.mean(-1, keepdim=True)
    location = deviation / ((deviation**2).mean(-1, keepdim=True) + 1e-5).sqrt()
    share = 0.3 / math.sqrt(0.09 + 1e-5)
    v, s = torch.tensor([-1.0, 1] * 3).expand(1, 2, 6), torch.tensor([-share, share]).expand(1, 2, 2)
    parts = torch.cat([v, location, s], -1)
    wanted = torch.relu(parts @ module.embeddings.weight.T + module.embeddings.bias)
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


def slow_context(module, r):
    """Post-norm self-attention of one image (K, E) with loops over heads and regions."""
    for layer in module.layers:
        q, k, v = (r @ layer.self_attn.in_proj_weight.T + layer.self_attn.in_proj_bias).chunk(3, -1)
        size, heads = r.shape[1] // 8, []
        for part in (slice(i, i + size) for i in range(0, r.shape[1], size)):
            rows = [((k[:, part] @ q[i, part]) / math.sqrt(size)).softmax(0) @ v[:, part] for i in range(len(r))]
            heads.append(torch.stack(rows))
        r = layer.norm1(r + layer.self_attn.out_proj(torch.cat(heads, 1)))
        r = layer.norm2(r + layer.linear2(torch.relu(layer.linear1(r))))
    return r


def test_the_context_is_self_attention_over_the_regions_and_padding_changes_nothing():
    torch.manual_seed(0)
    module = GVDContextEncoder(dim=16).eval()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    feats, mask = torch.randn(2, 5, 16), torch.tensor([[1.0] * 5, [1, 1, 0, 0, 0]])
    for grad in (True, False):  # torch has a faster way without gradients
        with torch.set_grad_enabled(grad):
            out = module({kfg.ATT_FEATS: feats, kfg.ATT_MASKS: mask, kfg.EXT_ATT_MASKS: (1 - mask) * -1e4}, mode="v")
        for image, count in enumerate((5, 2)):
            wanted = slow_context(module, feats[image, :count])
            torch.testing.assert_close(out[kfg.ATT_FEATS][image, :count], wanted, atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(out[kfg.GLOBAL_FEATS][image], wanted.mean(0), atol=1e-5, rtol=1e-4)
    assert module({}, mode="t") == {}
    with pytest.raises(UserError, match="OUT_DIM must be a multiple of 8, got 12"):
        GVDContextEncoder(dim=12)


def test_l_grd_adds_the_class_score_to_the_attention():
    scores = torch.tensor([[[9.0, 0.0, 5.0], [7.0, math.log(3), 5.0], [9.0, 9.0, 9.0]]])  # the third region is padding
    alpha = torch.tensor([[0.5, 0.5, 0.0], [0.75, 0.25, 0.0], [0.75, 0.25, 0.0]])
    at = torch.tensor
    found = grounding_weights(scores, alpha, at([0, 0, 0]), at([1, 1, 2]), torch.tensor([[1.0, 1.0, 0.0]]))
    # class 1: (0.5 x 1, 0.5 x 3), then (0.75 x 1, 0.25 x 3); class 2: the attention alone
    torch.testing.assert_close(found, torch.tensor([[0.25, 0.75, 0], [0.5, 0.5, 0], [0.75, 0.25, 0]]))
    alpha = torch.tensor([[0.5, 0.5]], requires_grad=True)
    grounding_weights(scores[:, :2], alpha, at([0]), at([1]), torch.ones(1, 2))[0, 1].log().backward()
    assert alpha.grad[0, 1] > 0 > alpha.grad[0, 0]  # it also teaches the attention


def test_l_cls_is_the_cross_entropy_of_the_regions_of_words():
    scores = torch.tensor([[[0.0, 0, math.log(2)], [0, 0, 0]]])  # S: (1/4, 1/4, 1/2) and 1/3 each
    at = torch.tensor
    arguments = at([0, 0, 0]), at([0, 0, 1]), at([2, 1, 1])
    found = region_class_loss(scores, *arguments, torch.ones(3))
    assert found.item() == pytest.approx((math.log(2) + math.log(4) + math.log(3)) / 3)
    assert region_class_loss(scores, *arguments, at([0.0, 1, 0])).item() == pytest.approx(math.log(4))
    assert region_class_loss(scores, *arguments, torch.zeros(3)).item() == 0


def test_only_words_that_name_a_class_have_the_losses():
    """Words of id 1 and 2; only word 2 names a class, number 1."""
    loss = GVDClassLoss(class_of_word=torch.tensor([0, 0, 1]), grounding_weight=2.0, class_weight=3.0)

    def losses(*words):
        pairs = WordPairs(torch.tensor(words).long(), torch.zeros(len(words)).long(), torch.ones(len(words)))
        outputs = {
            keys.REGION_CLASS_SCORES: torch.zeros(1, 2, 2),  # S = 1/2
            keys.WORD_ALPHA: torch.tensor([[0.9, 0.1], [0.25, 0.75]]),
            keys.WORD_PAIRS: pairs,
            keys.IMAGE_MASK: torch.ones(1, 2),
            kfg.G_TARGET_IDS: torch.tensor([1, 2]),
            keys.CAPTION_OF_WORD: torch.tensor([0, 4]),
            keys.CAPTIONS_PER_IMAGE: 5,
        }
        return [value.item() for value in loss(outputs).values()]

    assert losses(1) == pytest.approx([2 * math.log(4), 3 * math.log(2)])
    assert losses(0, 1) == pytest.approx(losses(1))
    assert losses(0) == [0, 0] == losses()


def test_the_losses_and_gradients_are_the_same_at_once_and_word_by_word_and_the_model_decodes(folder):
    found = []
    for fast in (True, False):
        cfg = toy_config(folder, **GVD)
        model = toy_model(folder, **GVD).eval()
        if fast:
            assert model.fast_forcing.suits(model)
        else:
            model.fast_forcing = None
        found.append(trained_once(cfg, model, with_pairs()))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
    losses, gradients = found[0]
    assert losses["GVD Grounding Loss"] > 0 and losses["GVD Class Loss"] > 0
    for name in ("visual_embed.class_head.weight", "visual_embed.location.0.weight", "encoder.layers.1.linear2.weight"):
        assert gradients[name].abs().sum() > 0
    assert len(captions_of(model.eval(), [for_test(sample) for sample in TWO_IMAGES])) == 2


def test_without_shared_dropout_the_regions_are_encoded_per_caption_with_the_same_result(folder):
    found = []
    for shared in (True, False):
        settings = GVD | {"MODEL__SHARE_REGION_DROPOUT": shared}
        found.append(trained_once(toy_config(folder, **settings), toy_model(folder, **settings).eval(), with_pairs()))
    torch.testing.assert_close(found[0][0], found[1][0])


def test_a_derived_encoder_must_say_itself_that_it_skips_the_words(folder):
    class PerWord(GVDContextEncoder):
        pass

    model = toy_model(folder, **GVD)
    model.encoder = PerWord(dim=16)
    assert not model.encoder_skips_words and not model.fast_forcing.suits(model)


def refused(kind, cfg) -> str:
    with pytest.raises(UserError) as error:
        kind(cfg)
    return str(error.value)


def test_derived_regions_fit_and_a_sentinel_beside_the_regions_changes_nothing(folder):
    class Derived(GVDRegionEmbedding):
        pass

    EMBEDDING_REGISTRY._do_register("DerivedRegions", Derived)
    try:
        build_losses(toy_config(folder, **{**GVD, "MODEL__VISUAL_EMBED__NAME": "DerivedRegions"}))
    finally:
        del EMBEDDING_REGISTRY._obj_map["DerivedRegions"]
    # alpha (0.2, 0.6) and the sentinel's 0.2; equal class scores: 1/4 and 3/4, as without it
    outputs = {
        keys.REGION_CLASS_SCORES: torch.zeros(1, 2, 2), keys.WORD_ALPHA: torch.tensor([[0.2, 0.6, 0.2]]),
        keys.WORD_PAIRS: WordPairs(torch.tensor([0]), torch.tensor([1]), torch.ones(1)),
        keys.IMAGE_MASK: torch.ones(1, 2), kfg.G_TARGET_IDS: torch.tensor([1]),
        keys.CAPTION_OF_WORD: torch.tensor([0]), keys.CAPTIONS_PER_IMAGE: 1,
    }  # fmt: skip
    losses = GVDClassLoss(class_of_word=torch.tensor([0, 1]), grounding_weight=1.0)(outputs)
    assert losses["GVD Grounding Loss"].item() == pytest.approx(-math.log(0.75))


def test_what_is_missing_is_refused_before_training_with_what_to_do(folder, tmp_path):
    message = refused(LOSSES_REGISTRY.get("GVDClassLoss"), toy_config(folder, LOSSES__NAMES=["GVDClassLoss"]))
    assert "needs the class head of GVDRegionEmbedding" in message and "Add that loss" in message
    captured = toy_config(folder, **GVD, MODEL__CAPTURE_GRAPHS=True)
    assert "captured graphs do not return the class scores" in refused(LOSSES_REGISTRY.get("GVDClassLoss"), captured)
    build_losses(toy_config(folder, **GVD))
    with pytest.raises(UserError, match=r"LOSSES.GVD.CLASS_WEIGHT: expected a number >= 0, got -1"):
        build_losses(toy_config(folder, **GVD, LOSSES__GVD__CLASS_WEIGHT=-1.0))
    embed = EMBEDDING_REGISTRY.get("GVDRegionEmbedding")
    assert "needs INFERENCE.VOCAB" in refused(embed, toy_config(folder, **GVD, INFERENCE__VOCAB=""))
    (folder / "sample.json").write_text(json.dumps({"classes": ["xx", "yy", "zz"]}))
    assert "none of the 3 names" in refused(embed, toy_config(folder, **GVD))
    (folder / "sample.json").unlink()
    assert "Set INFERENCE.REGION_CLASSES to the detector's list" in refused(embed, toy_config(folder, **GVD))
    stock = toy_config(folder, **GVD)
    stock.MODEL.META_ARCHITECTURE = "RnnAttEncoderDecoder"
    assert "Set MODEL.META_ARCHITECTURE: GroundedCaptioner" in refused(embed, stock)
    assert ENCODER_REGISTRY.get("GVDContextEncoder") is GVDContextEncoder


def test_names_in_another_order_are_refused_by_the_annotated_boxes(folder):
    boxes = torch.tensor([[0.0, 0, 10, 10], [50, 50, 60, 60]]).numpy()
    with RegionWriter(folder / "regions.h5", [7], 2, RAW, CLASSES, source="test") as writer:
        writer.write(7, 100, 100, boxes, torch.ones(2, RAW).numpy(), F.one_hot(torch.tensor([3, 1]), 4).float().numpy())
    caption = {"tokens": ["man", "dog"], "process_idx": [0, 1], "process_bnd_box": boxes.tolist()}
    records = [{"image_id": 7, "captions": [caption]}]
    cfg = toy_config(folder, **GVD, DATALOADER__REGIONS=str(folder / "regions.h5"))
    check_classes_of(cfg, records)
    (folder / "sample.json").write_text(json.dumps({"classes": NAMES["classes"][::-1]}))
    with pytest.raises(UserError, match="GVDRegionEmbedding: the names of the region classes do not fit"):
        check_classes_of(cfg, records)
    cfg.MODEL.VISUAL_EMBED.NAME = "VisualBaseEmbedding"
    check_classes_of(cfg, records)  # which reads no names


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sample") / "data"
    draw_dataset(folder, num_images=48, feature_dim=32)
    return folder


EPOCH = {"SOLVER.EPOCH": "1", "MODEL.VISUAL_EMBED.OUT_DIM": "16"}


def test_an_epoch_on_the_sample_scenes(sample, tmp_path):
    losses = curve("embedded", sample, tmp_path, 0, ROOT / "configs/sample/gvd.yaml", **EPOCH)["losses"]
    assert len(losses) == 10 and sum(losses[-3:]) < sum(losses[:3])
    lines = [json.loads(line) for line in (tmp_path / "embedded_0" / "metrics.json").read_text().splitlines()]
    assert {"GVD Grounding Loss", "GVD Class Loss", "Word Attention Loss", "test/F1_loc"} <= set().union(*lines)


@needs_upstream
def test_both_hosts_give_one_loss_curve(sample, tmp_path):
    config = ROOT / "configs/sample/gvd.yaml"
    plain = EPOCH | {"MODEL.VISUAL_EMBED.DROPOUT": "0.0"}
    found = (curve(host, sample, tmp_path, 0, config, **plain) for host in ("upstream", "embedded"))
    upstream, embedded = (history["losses"] for history in found)
    assert len(upstream) == 10 and embedded == pytest.approx(upstream, abs=1e-4)
