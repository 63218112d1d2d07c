"""The fused cross-entropy against torch's own on the logits: the same loss and gradients, and no logits kept."""

import math

import pytest
import torch
from torch.nn import functional as F

from toys import TWO_IMAGES, VOCAB_SIZE, toy_config, toy_model, trained_once
from xmodaler_ssattn import keys
from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.fast import cross_entropy as vocabulary
from xmodaler_ssattn.fast.cross_entropy import linear_cross_entropy
from xmodaler_ssattn.host import BasePredictor, build_losses, kfg
from xmodaler_ssattn.modeling import GroundedCaptioner

FUSED = {"LOSSES__NAMES": ["FusedCrossEntropy", "GroundingLoss"]}


def inputs(words=7, size=5, vocab=11, dtype=torch.float32):
    torch.manual_seed(0)
    sampled = (torch.randn(words, size), torch.randn(vocab, size), torch.randn(vocab))
    return [x.to(dtype).requires_grad_() for x in sampled], torch.randint(vocab, (words,))


def plain(hidden, weight, bias, targets):
    return F.cross_entropy(F.linear(hidden, weight, bias).float(), targets, ignore_index=-1)


def loss_and_gradients(function, tensors, targets, scale=1.0):
    loss = function(*tensors, targets)
    return loss.detach(), torch.autograd.grad(loss * scale, tensors)


def test_two_words_of_three_by_hand(monkeypatch):
    # h = (1, 0), W rows (0, 0), (log 2, 0), (log 5, 0): softmax 1/8, 2/8, 5/8; the targets are words 2 and 1
    monkeypatch.setattr(vocabulary, "SLICE", 2)
    weight = torch.tensor([[0.0, 0.0], [math.log(2), 0.0], [math.log(5), 0.0]])
    hidden = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    loss = linear_cross_entropy(hidden, weight, torch.zeros(3), torch.tensor([2, 1]))
    assert loss.item() == pytest.approx(-(math.log(5 / 8) + math.log(2 / 8)) / 2, abs=1e-6)


@pytest.mark.parametrize("width", [1, 4, 11, 1024])
def test_loss_and_gradients_equal_torchs_own_whatever_the_slices(monkeypatch, width):
    monkeypatch.setattr(vocabulary, "SLICE", width)
    tensors, targets = inputs()
    got, wanted = (loss_and_gradients(f, tensors, targets, 2.5) for f in (linear_cross_entropy, plain))
    torch.testing.assert_close(got, wanted, atol=1e-6, rtol=1e-5)


def test_ignored_words_count_neither_above_nor_below_the_line(monkeypatch):
    monkeypatch.setattr(vocabulary, "SLICE", 4)
    tensors, targets = inputs()
    targets[::2] = -1
    got, wanted = (loss_and_gradients(f, tensors, targets) for f in (linear_cross_entropy, plain))
    torch.testing.assert_close(got, wanted, atol=1e-6, rtol=1e-5)
    assert not got[1][0][::2].any()


def test_large_scores_do_not_overflow():
    tensors, targets = inputs()
    with torch.no_grad():
        tensors[1].mul_(1e3)
    got, wanted = (loss_and_gradients(f, tensors, targets) for f in (linear_cross_entropy, plain))
    assert torch.isfinite(got[0])
    torch.testing.assert_close(got, wanted, atol=1e-4, rtol=1e-5)


def test_in_double_precision_finite_differences_agree(monkeypatch):
    monkeypatch.setattr(vocabulary, "SLICE", 4)
    tensors, targets = inputs(words=3, size=2, vocab=5, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda *t: linear_cross_entropy(*t, targets), tensors)


def test_under_autocast_the_loss_equals_the_plain_one_and_gradients_differ_by_the_types_rounding(monkeypatch):
    monkeypatch.setattr(vocabulary, "SLICE", 16)
    tensors, targets = inputs(words=40, size=32, vocab=50)
    with torch.autocast("cpu", torch.bfloat16):
        got, wanted = (loss_and_gradients(f, tensors, targets) for f in (linear_cross_entropy, plain))
    torch.testing.assert_close(got[0], wanted[0], atol=1e-5, rtol=1e-5)
    for one, other in zip(got[1], wanted[1], strict=True):
        assert one.dtype == torch.float32
        torch.testing.assert_close(one, other, atol=2e-2 * other.abs().max().item(), rtol=2e-2)


def kept_bytes(function) -> tuple[int, int]:
    """(bytes of all storages that the backward pass keeps beside leaves, the largest of them)"""
    seen = {}

    def pack(tensor):
        if not (tensor.is_leaf and tensor.requires_grad) and tensor._base is None:
            seen[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        kept = function()
    assert kept.requires_grad
    return sum(seen.values()), max(seen.values(), default=0)


@pytest.mark.parametrize("autocast", [False, True])
def test_no_logits_are_kept_for_the_backward_pass(monkeypatch, autocast):
    monkeypatch.setattr(vocabulary, "SLICE", 100)
    words, size, vocab = 50, 4, 1000
    tensors, targets = inputs(words, size, vocab)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        fused, _ = kept_bytes(lambda: linear_cross_entropy(*tensors, targets))
        whole, largest = kept_bytes(lambda: plain(*tensors, targets))
    assert largest == words * vocab * 4  # log softmax(z), which torch's own keeps
    # targets (int64), the softmax's denominators and the shares
    assert fused == words * (8 + 4 + 4)
    assert whole > 50 * fused


@pytest.mark.parametrize("amp", [False, True])
def test_the_captioner_trains_the_same_with_the_fused_loss_under_dropout_and_sampling(tmp_path, amp):
    overrides = {"MODEL__PRED_DROPOUT": 0.5, "MODEL__TOKEN_EMBED__DROPOUT": 0.5, "SOLVER__AMP": amp}
    runs = []
    for names in ({}, FUSED):
        cfg, model = (make(tmp_path, **overrides, **names) for make in (toy_config, toy_model))
        torch.manual_seed(5)
        runs.append(trained_once(cfg, model.train(), ss_prob=0.5))
        assert (keys.CROSS_ENTROPY in model(model.preprocess_batch(TWO_IMAGES))) is bool(names)
        assert (kfg.G_LOGITS in model(model.preprocess_batch(TWO_IMAGES))) is not bool(names)
    (losses, grads), (fused_losses, fused_grads) = runs
    # the same names, so that metrics and pages do not change
    assert list(losses) == list(fused_losses) == ["CrossEntropy Loss(G)", "Grounding Loss"]
    torch.testing.assert_close(fused_losses, losses, atol=1e-5, rtol=1e-5)
    tolerance = {"atol": 5e-3, "rtol": 5e-2} if amp else {"atol": 1e-6, "rtol": 1e-5}
    torch.testing.assert_close(fused_grads, grads, **tolerance)


@pytest.mark.parametrize("other", ["CrossEntropy", "LabelSmoothing"])
def test_the_fused_loss_beside_one_that_reads_logits_is_refused(tmp_path, other):
    with pytest.raises(UserError, match=f"FusedCrossEntropy and {other}, which reads logits"):
        build_losses(toy_config(tmp_path, LOSSES__NAMES=["FusedCrossEntropy", other]))


def test_the_fused_loss_without_our_captioners_output_says_where_it_comes_from():
    with pytest.raises(KeyError, match="GroundedCaptioner returns it when"):
        vocabulary.FusedCrossEntropy()({})


def test_a_predictor_that_is_not_a_single_product_is_refused(tmp_path):
    class Sharper(BasePredictor):
        def forward(self, batched_inputs):
            return {kfg.G_LOGITS: 2 * super().forward(batched_inputs)[kfg.G_LOGITS]}

    parts = toy_model(tmp_path)
    modules = {name: getattr(parts, name) for name in ("vocab_size", "max_seq_len", *dict(parts.named_children()))}
    modules["predictor"] = Sharper(hidden_size=8, vocab_size=VOCAB_SIZE, dropout=0.0)
    with pytest.raises(UserError, match="needs BasePredictor, got Sharper"):
        GroundedCaptioner(fuse_loss=True, **modules)
