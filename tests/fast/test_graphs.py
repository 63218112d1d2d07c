"""Captured graphs, with a replayer in place of CUDA: the ordinary path's losses and gradients out of reused buffers."""

import copy
import logging

import pytest
import torch

from toys import gradients_of, losses_of, toy_config, toy_model, toy_sample, trained_once
from xmodaler_ssattn import keys
from xmodaler_ssattn.fast import graphs as capture
from xmodaler_ssattn.fast.graphs import CapturedForcing
from xmodaler_ssattn.host import build_optimizer, kfg
from xmodaler_ssattn.modeling import GroundedCaptioner

# Two images, two captions each; 5, 3, 2 and 5 words to predict with the end. No image is padded in EVEN.
MIXED = [toy_sample(1, 5, [[1, 2, 4, 3], [1, 3]]), toy_sample(2, 2, [[5], [3, 3, 1, 2]])]
EVEN = [toy_sample(3, 4, [[1, 2], [1, 3, 3]]), toy_sample(4, 4, [[5, 5, 1, 2], [3]])]
SHORT = [toy_sample(5, 5, [[1], [2, 3]]), toy_sample(6, 3, [[4, 4], [5]])]


class Replayer:
    """What a captured graph does, on a CPU: inputs, outputs, gradients and all that the backward pass needs lie in
    buffers that are made once. The latest run's numbers are in them, whoever differentiates."""

    def __init__(self):
        self.captured = self.forwards = self.backwards = 0

    def __call__(self, module, samples):
        self.captured += 1
        parameters = list(module.parameters())
        state = torch.get_rng_state()
        first = module(*samples)  # the capture itself computes, too; its numbers go nowhere
        torch.set_rng_state(state)
        outputs = [part.detach().clone() for part in first]
        gradients = [torch.zeros_like(p) for p in parameters]
        addresses = [t.data_ptr() for t in (*samples, *outputs, *gradients)]
        graph: list = []
        outer = self

        class Replay(torch.autograd.Function):
            @staticmethod
            def forward(ctx, *values):
                outer.forwards += 1
                for buffer, value in zip(samples, values[: len(samples)], strict=True):
                    buffer.copy_(value)
                with torch.enable_grad():
                    graph[:] = module(*samples)
                for buffer, value in zip(outputs, graph, strict=True):
                    buffer.copy_(value.detach())
                assert [t.data_ptr() for t in (*samples, *outputs, *gradients)] == addresses
                return tuple(buffer.detach() for buffer in outputs)

            @staticmethod
            def backward(ctx, *received):
                outer.backwards += 1
                new = torch.autograd.grad(graph, parameters, received, allow_unused=True, retain_graph=True)
                for buffer, value in zip(gradients, new, strict=True):
                    buffer.zero_() if value is None else buffer.copy_(value)
                return (*[None] * len(samples), *[buffer.detach() for buffer in gradients])

        return lambda *values: Replay.apply(*values, *parameters)


def models(tmp_path, **overrides):
    """(ordinary, captured, its replayer): two models of equal weights."""
    ordinary, captured = (toy_model(tmp_path, **overrides).train() for _ in range(2))
    replayer = Replayer()
    captured.fast_forcing.captured = CapturedForcing(replayer)
    return ordinary, captured, replayer


def assert_same(one, other):
    torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    "overrides",
    [
        {},
        {"MODEL__SS_ATTENTION__ACTIVATION": "tanh"},
        {"MODEL__SS_ATTENTION__FUSION": "log"},
        {"MODEL__SS_ATTENTION__ENABLED": False, "LOSSES__NAMES": ["CrossEntropy"]},
        {"LOSSES__NAMES": ["FusedCrossEntropy", "GroundingLoss"]},
        {"LOSSES__NAMES": ["CrossEntropy"]},  # nobody asks for log beta
        {"MODEL__SHARE_REGION_DROPOUT": True},
        {"MODEL__SS_ATTENTION__SEMANTIC_INPUT": "v"},
    ],
)
def test_losses_and_gradients_equal_the_ordinary_paths_step_after_step(tmp_path, overrides):
    cfg = toy_config(tmp_path, **overrides)
    ordinary, captured, replayer = models(tmp_path, **overrides)
    for samples in (MIXED, EVEN, MIXED, SHORT, EVEN):
        assert_same(trained_once(cfg, captured, samples), trained_once(cfg, ordinary, samples))
    # MIXED: 5 words, 5 regions; EVEN: 5 words, 4 regions; SHORT: 3 words. MAX_SEQ_LEN 6 makes 7 the most
    assert len(captured.fast_forcing.captured) == replayer.captured == 3
    assert replayer.forwards == replayer.backwards == 5


def test_weights_that_the_optimiser_changes_are_those_that_the_graph_reads(tmp_path):
    cfg = toy_config(tmp_path, SOLVER__NAME="FusedAdam", SOLVER__BASE_LR=0.05)
    ordinary, captured, replayer = models(tmp_path)
    curves = []
    for model in (ordinary, captured):
        optimizer = build_optimizer(cfg, model)
        curve = []
        for _ in range(6):
            # as the stock trainer orders it: the last step's gradients go away after this step's forward pass
            losses = losses_of(cfg, model, MIXED)
            optimizer.zero_grad()
            sum(losses.values()).backward()
            optimizer.step()
            curve.append(sum(losses.values()).item())
        curves.append(curve)
    assert curves[1] == pytest.approx(curves[0], rel=1e-4) and curves[0][-1] < curves[0][0]
    assert replayer.captured == 1 and replayer.forwards == 6


def test_captions_are_padded_to_a_bucket_of_words_and_no_further_than_the_longest_caption(tmp_path, monkeypatch):
    cfg = toy_config(tmp_path)
    _, captured, _ = models(tmp_path)
    steps = []
    original = capture._Shape.__init__

    def spy(self, model, sizes, *rest):
        steps.append(sizes)
        original(self, model, sizes, *rest)

    monkeypatch.setattr(capture._Shape, "__init__", spy)
    for words in (0, 3, 4, 6):  # 1, 4, 5 and 7 words with the end
        trained_once(cfg, captured, [toy_sample(1, 3, [[1] * words])])
    assert steps == [[1] * 4, [1] * 7]  # 1 and 4 words fit into the first, 5 and 7 into the second
    assert len(captured.fast_forcing.captured) == 2


def test_scheduled_sampling_that_always_takes_the_best_word_equals_the_ordinary_path(tmp_path, monkeypatch):
    cfg = toy_config(tmp_path)
    ordinary, captured, replayer = models(tmp_path)
    for model in (ordinary, captured):
        monkeypatch.setattr(model, "sample_words", lambda hidden, m=model: m.predictor.logits(hidden).argmax(1))
    for ss_prob in (1.0, 0.0, 1.0):
        assert_same(trained_once(cfg, captured, MIXED, ss_prob), trained_once(cfg, ordinary, MIXED, ss_prob))
    assert replayer.captured == 2  # with and without sampling; its probability is an input


def test_sampling_replaces_about_the_share_of_words_that_is_requested_and_changes_with_it(tmp_path, monkeypatch):
    cfg = toy_config(tmp_path)
    _, captured, replayer = models(tmp_path)
    seen = []
    original = capture.WordSource.x1

    def spy(self):
        seen.append(self._tokens.clone())
        return original(self)

    monkeypatch.setattr(capture.WordSource, "x1", spy)
    monkeypatch.setattr(captured, "sample_words", lambda hidden: torch.full((len(hidden),), 6))
    for ss_prob in (0.1, 0.9):
        seen.clear()
        for _ in range(25):
            trained_once(cfg, captured, EVEN, ss_prob)
        # 4, 4, 3, 2, 1 captions have a word at a step, then 1, 1 of padding; never the first step's
        assert len(seen[-1]) == 16
        share = torch.stack([tokens[4:] == 6 for tokens in seen[-25:]]).float().mean().item()
        assert share == pytest.approx(ss_prob, abs=0.06)
    assert replayer.captured == 1


def test_with_dropout_every_replay_has_a_mask_of_its_own(tmp_path):
    overrides = {"MODEL__VISUAL_EMBED__DROPOUT": 0.5, "MODEL__TOKEN_EMBED__DROPOUT": 0.5}
    cfg = toy_config(tmp_path, **overrides)
    _, captured, replayer = models(tmp_path, **overrides)
    losses = {trained_once(cfg, captured, EVEN)[0]["CrossEntropy Loss(G)"].item() for _ in range(4)}
    assert len(losses) == 4 and replayer.captured == 1


def test_in_bfloat16_both_paths_agree_as_far_as_the_type_goes(tmp_path):
    cfg = toy_config(tmp_path, SOLVER__AMP=True)
    ordinary, captured, replayer = models(tmp_path, SOLVER__AMP=True)
    for samples in (MIXED, EVEN, MIXED):
        one, other = trained_once(cfg, captured, samples), trained_once(cfg, ordinary, samples)
        torch.testing.assert_close(one[0], other[0], atol=1e-3, rtol=1e-3)
        torch.testing.assert_close(one[1], other[1], atol=5e-3, rtol=5e-2)
    assert replayer.forwards == 3


def test_a_second_pass_before_the_first_is_differentiated_goes_the_ordinary_way(tmp_path):
    cfg = toy_config(tmp_path)
    ordinary, captured, replayer = models(tmp_path)
    wanted = [trained_once(cfg, ordinary, samples)[1] for samples in (MIXED, EVEN, MIXED)]
    first, other, second = (sum(losses_of(cfg, captured, samples).values()) for samples in (MIXED, EVEN, MIXED))
    assert replayer.forwards == 2  # EVEN has buffers of its own; the second MIXED would have overwritten the first's
    for loss, expected in ((first, wanted[0]), (other, wanted[1]), (second, wanted[2])):
        captured.zero_grad()
        loss.backward()
        assert_same(gradients_of(captured), expected)


def test_a_pass_that_is_thrown_away_does_not_block_the_graph(tmp_path):
    cfg = toy_config(tmp_path)
    ordinary, captured, replayer = models(tmp_path)
    losses_of(cfg, captured, MIXED)  # never differentiated
    assert_same(trained_once(cfg, captured, MIXED), trained_once(cfg, ordinary, MIXED))
    assert replayer.forwards == 2


def test_gradients_that_are_added_up_over_steps_are_not_overwritten_by_the_next(tmp_path):
    cfg = toy_config(tmp_path)
    ordinary, captured, _ = models(tmp_path)
    sums = []
    for model in (ordinary, captured):
        model.zero_grad()
        for samples in (MIXED, MIXED, EVEN, MIXED):
            sum(losses_of(cfg, model, samples).values()).backward()
        sums.append(gradients_of(model))
    assert_same(sums[1], sums[0])


def test_differentiating_a_pass_again_after_the_next_one_is_refused(tmp_path):
    cfg = toy_config(tmp_path)
    _, captured, _ = models(tmp_path)
    loss = sum(losses_of(cfg, captured, MIXED).values())
    loss.backward(retain_graph=True)
    trained_once(cfg, captured, MIXED)
    with pytest.raises(RuntimeError, match="CAPTURE_GRAPHS False"):
        loss.backward()


def test_shapes_beyond_the_first_few_go_the_ordinary_way(tmp_path, monkeypatch):
    monkeypatch.setattr(capture, "LIMIT", 2)
    cfg = toy_config(tmp_path)
    ordinary, captured, replayer = models(tmp_path)
    three = [toy_sample(7, 3, [[1], [2, 3]]), toy_sample(8, 3, [[4, 4], [5]])]
    for samples in (MIXED, EVEN, three, MIXED):
        assert_same(trained_once(cfg, captured, samples), trained_once(cfg, ordinary, samples))
    assert replayer.captured == 2 and replayer.forwards == 3  # 5, 4 and 3 regions


def test_a_batch_without_padding_needs_no_graph_of_its_own(tmp_path):
    cfg = toy_config(tmp_path)
    ordinary, captured, replayer = models(tmp_path)
    full = [MIXED[0], toy_sample(7, 5, [[5], [3, 3, 1, 2]])]  # 5 and 5 regions, in MIXED 5 and 2
    for samples in (MIXED, full):
        assert_same(trained_once(cfg, captured, samples), trained_once(cfg, ordinary, samples))
    assert replayer.captured == 1 and replayer.forwards == 2


def test_a_batch_that_fits_into_a_graph_uses_it_and_the_last_graph_fits_every_batch(tmp_path, monkeypatch):
    """Three words (of 2, 1 captions a step ...): one graph; longer ones: the graph with room for all."""
    monkeypatch.setattr(capture, "LIMIT", 2)
    cfg = toy_config(tmp_path)
    ordinary, captured, replayer = models(tmp_path)
    batches = [[toy_sample(1, 5, [[1] * a, [2] * b])] for a, b in ((3, 3), (3, 2), (1, 3), (4, 1), (6, 6), (5, 0))]
    for samples in batches:
        assert_same(trained_once(cfg, captured, samples), trained_once(cfg, ordinary, samples))
    # with the end: (4, 4), (4, 3) and (2, 4) fit into 2, 2, 2, 2; then 2 captions of 7 words, the most
    sizes = [list(of) for _, of in captured.fast_forcing.captured._graphs]
    assert sizes == [[2] * 4, [2] * 7] and replayer.forwards == 6


def test_when_sampling_begins_its_graphs_replace_those_from_before(tmp_path, monkeypatch):
    monkeypatch.setattr(capture, "LIMIT", 2)
    cfg = toy_config(tmp_path)
    _, captured, replayer = models(tmp_path)
    for ss_prob in (0.0, 0.5):
        for samples in (MIXED, EVEN, MIXED, EVEN):
            trained_once(cfg, captured, samples, ss_prob)
    assert replayer.captured == 4 and replayer.forwards == 8 and len(captured.fast_forcing.captured) == 2


def test_evaluation_and_dropout_inside_the_recurrence_go_the_ordinary_way(tmp_path):
    cfg = toy_config(tmp_path)
    _, captured, replayer = models(tmp_path)
    captured.eval()
    losses_of(cfg, captured, MIXED)
    captured.train()
    with torch.no_grad():
        losses_of(cfg, captured, MIXED)
    _, loop, another = models(tmp_path, MODEL__UPDOWN__DROPOUT1=0.5)
    trained_once(cfg, loop, MIXED)
    assert replayer.captured == another.captured == 0


def test_a_copied_model_captures_its_own_graphs(tmp_path):
    cfg = toy_config(tmp_path)
    ordinary, captured, _ = models(tmp_path)
    trained_once(cfg, captured, MIXED)
    copied = copy.deepcopy(captured)
    with torch.no_grad():
        for model in (copied, ordinary):
            model.predictor.logits.bias += 1
            model.decoder.lstm1.weight_hh *= 2
    assert len(copied.fast_forcing.captured) == 0
    assert_same(trained_once(cfg, copied, MIXED), trained_once(cfg, ordinary, MIXED))
    assert set(captured.state_dict()) == set(ordinary.state_dict())


def test_without_a_gpu_the_key_is_answered_by_one_warning_and_the_ordinary_path(tmp_path, caplog):
    cfg = toy_config(tmp_path, MODEL__CAPTURE_GRAPHS=True)
    model, ordinary = toy_model(tmp_path, MODEL__CAPTURE_GRAPHS=True).train(), toy_model(tmp_path).train()
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert_same(trained_once(cfg, model, MIXED), trained_once(cfg, ordinary, MIXED))
    assert caplog.text.count("works only on one CUDA device, got cpu") == 1


def test_log_beta_of_a_step_stays_what_it_was_when_the_next_step_has_run(tmp_path):
    _, captured, _ = models(tmp_path)
    out = captured(captured.preprocess_batch(MIXED))
    before = out[keys.LOG_BETA].detach().clone()
    sum(part.sum() for part in (out[keys.LOG_BETA], out[kfg.G_LOGITS])).backward()
    captured(captured.preprocess_batch([toy_sample(8, 5, [[1, 2, 4, 3], [1, 3]]), MIXED[1]]))
    assert torch.equal(out[keys.LOG_BETA], before)


def test_a_captioner_that_reads_more_of_the_batch_goes_the_ordinary_way(tmp_path):
    """A graph is given only what our own classes read."""

    class OwnEncode(GroundedCaptioner):
        def encode(self, batched_inputs, images=None):
            width = batched_inputs[keys.IMAGE_SIZE][:, None, :1]
            return super().encode({**batched_inputs, kfg.ATT_FEATS: batched_inputs[kfg.ATT_FEATS] / width}, images)

    _, captured, replayer = models(tmp_path)
    captured.__class__ = OwnEncode
    losses = losses_of(toy_config(tmp_path), captured, MIXED)
    assert replayer.captured == 0 and all(torch.isfinite(loss) for loss in losses.values())
