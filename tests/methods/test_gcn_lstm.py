"""GCN-LSTM: each relation by hand, the graph against three loops, and an epoch on both hosts."""

import math

import pytest
import torch

from test_two_hosts import ROOT, curve, needs_upstream, sample  # noqa: F401  (sample is a fixture)
from toys import RAW, TWO_IMAGES, captions_of, for_test, toy_config, toy_model, toy_sample, trained_once
from xmodaler_ssattn import host, keys
from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.fast import ss_decoder
from xmodaler_ssattn.fast.graphs import CapturedForcing
from xmodaler_ssattn.host import kfg
from xmodaler_ssattn.methods.gcn_lstm import RELATIONS, spatial_relations
from xmodaler_ssattn.modeling.captioner import GroundedCaptioner

SETTING = {
    "MODEL__VISUAL_EMBED__NAME": "SpatialGraphEmbedding",
    "MODEL__SS_ATTENTION__ENABLED": False,
    "LOSSES__NAMES": ["CrossEntropy"],
}
CONFIG = ROOT / "configs" / "sample" / "gcn_lstm.yaml"
SIZE = (300, 400)  # the diagonal is 500: centres nearer than 250 are related


def relations(*boxes, size=SIZE):
    found = spatial_relations(torch.tensor([boxes]).float(), torch.tensor([size]).float(), torch.ones(1, len(boxes)))
    return found[0].tolist()


def box(x, y, half=2):
    """A box of 4 x 4 pixels around a point."""
    return [x - half, y - half, x + half, y + half]


def test_a_box_in_another_is_inside_it_and_the_other_covers_it_touching_edges_or_not():
    assert relations([0, 0, 10, 10], [2, 2, 4, 4]) == [[0, 2], [1, 0]]
    assert relations([0, 0, 10, 10], [0, 0, 10, 9]) == [[0, 2], [1, 0]]  # IoU 0.9, but inside comes first


def test_from_an_iou_of_one_half_boxes_overlap_and_equal_ones_do():
    # shared 10 x 10 = 100 of 150 + 150 - 100 = 200
    assert relations([0, 0, 15, 10], [5, 0, 20, 10]) == [[0, 3], [3, 0]]
    assert relations([1, 1, 5, 5], [1, 1, 5, 5]) == [[0, 3], [3, 0]]
    # shared 9 x 10 = 90 of 210: to the right (sector 0 of 8), and back to the left (sector 4)
    assert relations([0, 0, 15, 10], [6, 0, 21, 10]) == [[0, 4], [8, 0]]


@pytest.mark.parametrize("sector", range(8))
def test_the_eight_sectors_begin_on_the_right_and_go_through_the_bottom(sector):
    """In the middle of a sector, and at its beginning, which belongs to it; backwards it is the opposite sector."""
    middle = math.radians(45 * sector + 22.5)
    dx, dy = [(20, 0), (20, 20), (0, 20), (-20, 20), (-20, 0), (-20, -20), (0, -20), (20, -20)][sector]
    back = (sector + 4) % 8
    for x, y in ((20 * math.cos(middle), 20 * math.sin(middle)), (dx, dy)):
        assert relations(box(100, 100), box(100 + x, 100 + y)) == [[0, 4 + sector], [4 + back, 0]]


def test_from_half_of_the_diagonal_there_is_no_relation():
    assert relations(box(10, 10), box(10, 259)) == [[0, 6], [10, 0]]  # 249 < 250, down and up
    assert relations(box(10, 10), box(10, 260)) == [[0, 0], [0, 0]]
    # the diagonal is the image's own: of 30 x 40 it is 50
    assert relations(box(2, 2), box(2, 26), size=(30, 40)) == [[0, 6], [10, 0]]
    assert relations(box(2, 2), box(2, 27), size=(30, 40)) == [[0, 0], [0, 0]]


def test_padding_and_a_region_itself_have_no_relation():
    boxes = torch.tensor([[box(10, 10), box(20, 10), [0, 0, 0, 0]]]).float()
    found = spatial_relations(boxes, torch.tensor([SIZE]).float(), torch.tensor([[1.0, 1.0, 0.0]]))
    assert found[0].tolist() == [[0, 4, 0], [8, 0, 0], [0, 0, 0]]
    assert relations(box(5, 5)) == [[0]]


def with_biases(model, seed=1):
    """Biases start at 0: other values, so that the test sees them."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in (model.visual_embed.bias, model.visual_embed.gate_bias):
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return model


@pytest.mark.parametrize("width", [RAW, 5])
def test_the_graph_equals_three_loops(tmp_path, width):
    model = with_biases(toy_model(tmp_path, **SETTING, MODEL__VISUAL_EMBED__OUT_DIM=width).eval())
    embed, image = model.visual_embed, toy_sample(1, 4)
    encoded = model.encode(model.preprocess_batch([for_test(image), for_test(toy_sample(2, 5))]))
    rel = relations(*image[keys.BOXES_PX].tolist(), size=(100, 100))
    assert len({r for row in rel for r in row}) > 2
    v = embed.embeddings(image[kfg.ATT_FEATS])
    for i in range(4):
        total = embed.gcn_loop(v[i]) * embed.gcn_loop_gate(v[i]).sigmoid() + v[i]
        for j in range(4):
            if r := rel[i][j]:
                total = (
                    total
                    + (embed.gcn_sub(v[j]) + embed.bias[r]) * (embed.gcn_sub_gate(v[j]) + embed.gate_bias[r]).sigmoid()
                )
            if r := rel[j][i]:
                total = (
                    total
                    + (embed.gcn_obj(v[j]) + embed.bias[r]) * (embed.gcn_obj_gate(v[j]) + embed.gate_bias[r]).sigmoid()
                )
        torch.testing.assert_close(encoded[kfg.ATT_FEATS][0, i], torch.relu(total))
    torch.testing.assert_close(encoded[kfg.GLOBAL_FEATS][0], encoded[kfg.ATT_FEATS][0, :4].mean(0))


def test_words_at_once_and_an_image_once_equal_one_caption_at_a_time(tmp_path, monkeypatch):
    cfg, model = toy_config(tmp_path, **SETTING), with_biases(toy_model(tmp_path, **SETTING).train())
    assert model.encodes_per_image
    fast = trained_once(cfg, model)
    assert model.fast_forcing.agrees and model.fast_forcing.suits(model)
    monkeypatch.setattr(ss_decoder, "rolls_out", lambda decoder: False)
    monkeypatch.setattr(GroundedCaptioner, "encodes_per_image", property(lambda self: False))
    slow = trained_once(cfg, model)
    torch.testing.assert_close(fast[0], slow[0], atol=1e-6, rtol=1e-5)
    assert slow[1].keys() == fast[1].keys() == dict(model.named_parameters()).keys()
    for name, gradient in slow[1].items():
        torch.testing.assert_close(fast[1][name], gradient, atol=1e-6, rtol=1e-4, msg=lambda m, k=name: f"{k}: {m}")
    assert model.visual_embed.bias.shape == (RELATIONS, 5)


def test_a_captured_step_has_the_boxes(tmp_path):
    cfg, model = toy_config(tmp_path, **SETTING), toy_model(tmp_path, **SETTING).train()
    losses, _ = trained_once(cfg, model)
    model.fast_forcing.captured = CapturedForcing(lambda shape, values: shape)
    torch.testing.assert_close(trained_once(cfg, model)[0], losses)
    assert len(model.fast_forcing.captured) == 1


def test_its_captions_have_regions(tmp_path):
    model = toy_model(tmp_path, **SETTING).eval().requires_grad_(False)
    model.predictor.logits.bias[0] -= 10
    (caption,) = captions_of(model, [for_test(TWO_IMAGES[0])])
    assert caption.words and {word.region for word in caption.words} <= set(range(5))


def test_a_captioner_that_drops_the_boxes_is_refused(tmp_path):
    with pytest.raises(UserError, match="SpatialGraphEmbedding works only inside GroundedCaptioner"):
        toy_model(tmp_path, **SETTING, MODEL__META_ARCHITECTURE="RnnAttEncoderDecoder")


def test_an_epoch_on_the_sample_scenes(sample, tmp_path):  # noqa: F811
    history = curve("embedded", sample, tmp_path, 0, CONFIG, **{"SOLVER.EPOCH": "1"})
    assert len(history["losses"]) == 10 and history["losses"][-1] < history["losses"][0]
    assert history["evaluations"] > 0


@needs_upstream
def test_both_hosts_give_one_loss_curve(sample, tmp_path):  # noqa: F811
    change = {"SOLVER.EPOCH": "1"}
    upstream, embedded = (curve(host, sample, tmp_path, 0, CONFIG, **change) for host in ("upstream", "embedded"))
    assert (upstream["host"], len(upstream["losses"])) == ("upstream", 10)
    assert embedded["losses"] == pytest.approx(upstream["losses"], abs=1e-4)


@pytest.mark.skipif(host.NAME != host.UPSTREAM, reason="X-modaler's own encoder is compared on its host")
def test_with_copied_weights_it_equals_x_modalers_encoder(tmp_path, monkeypatch):
    from xmodaler.modeling.encoder.gcn_encoder import GCNEncoder

    monkeypatch.setattr(torch.Tensor, "cuda", lambda self: self)
    model = with_biases(toy_model(tmp_path, **SETTING, MODEL__VISUAL_EMBED__OUT_DIM=RAW).eval())
    stock = GCNEncoder(in_dim=RAW, out_dim=RAW, relation_num=RELATIONS, dropout=0.5).eval()
    stock.load_state_dict(model.visual_embed.state_dict())  # the same names, or this raises
    images = [for_test(toy_sample(1, 4)), for_test(toy_sample(2, 4))]
    batch = model.preprocess_batch(images)
    relation = spatial_relations(batch[keys.BOXES_PX], batch[keys.IMAGE_SIZE], batch[kfg.ATT_MASKS])
    theirs = stock({**batch, kfg.RELATION: relation}, mode="v")
    ours = model.encode(batch)
    for key in (kfg.ATT_FEATS, kfg.GLOBAL_FEATS):
        torch.testing.assert_close(ours[key], theirs[key])
