"""After Distributed attention: branches, agreement and boxes by hand, and one branch as the plain model."""

import math

import numpy as np
import pytest
import torch

from slow_beam import slow_beam
from toys import (
    TWO_IMAGES,
    captions_of,
    for_test,
    losses_of,
    toy_config,
    toy_model,
    toy_sample,
    trained_once,
    write_vocabulary,
)
from xmodaler_ssattn import keys
from xmodaler_ssattn.boxes import iou_gvd
from xmodaler_ssattn.caption import ground_words
from xmodaler_ssattn.engine.weights import check_weights
from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.host import DECODER_REGISTRY, build_losses, build_model, kfg
from xmodaler_ssattn.methods.distributed import (
    ConsistencyLoss,
    DistributedDecoder,
    class_of_words,
    consistency_loss,
)
from xmodaler_ssattn.modeling.grounded_output import enclosing_words
from xmodaler_ssattn.region_rules import enclosing_box

UPDOWN = {"MODEL__SS_ATTENTION__ENABLED": False}
PLAIN = {**UPDOWN, "LOSSES__NAMES": ["CrossEntropy"]}
DISTRIBUTED = {
    **UPDOWN,
    "MODEL__DECODER": "DistributedDecoder",
    "LOSSES__NAMES": ["CrossEntropy", "ConsistencyLoss"],
    "INFERENCE__REGION_RULE": "union",
}


# --- by hand --------------------------------------------------------------------------------------------
def test_the_agreement_of_two_branches_by_hand():
    # One object word of class 0: q^1 = (3/4, 1/4), q^2 = (1/2, 1/2). The second word names no object.
    logits = torch.tensor([[[math.log(3), 0.0], [0.0, 0.0]], [[9.0, 0.0], [0.0, 9.0]]], requires_grad=True)
    loss = consistency_loss(logits, torch.tensor([0, -1]))
    kl = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    assert loss.item() == pytest.approx(-math.log(0.75) + kl)
    loss.backward()
    # q^1 learns only from the word: q^1 - (1, 0); q^2 from q^1: q^2 - q^1
    assert logits.grad[0].tolist() == [pytest.approx([-0.25, 0.25]), pytest.approx([-0.25, 0.25])]
    assert logits.grad[1].abs().max() == 0
    assert consistency_loss(logits, torch.tensor([-1, -1])) == 0


def test_the_union_of_two_parts_hits_where_each_part_misses():
    # The object is 100 x 100. Each part covers 60 x 80 = 4,800 of it: IoU 0.48. They share 25 x 80 = 2,000, which is
    # 0.42 of one. Their union is 95 x 80 = 7,600: IoU 0.76. (GVD's IoU adds a pixel to each side.)
    whole = [0, 0, 100, 100]
    boxes = np.array([[0, 0, 60, 80], [35, 0, 95, 80], [300, 300, 400, 400]], dtype=np.float32)
    assert (iou_gvd(boxes[:2], np.array([whole, whole])) < 0.5).all()
    words = ground_words(["dog"], np.array([[0.2, 0.3, 0.5]]), boxes, 3)
    (word,) = enclosing_words(words, np.array([[0.2, 0.3, 0.5]]), np.array([[0, 1, 2]]), boxes, 0.3)
    assert word.box_px == (0, 0, 95, 80) and word.region == 0 and word.weight == 0.2
    assert iou_gvd(np.array([word.box_px]), np.array([whole]))[0] > 0.5
    assert enclosing_box(boxes, 0.45) == (0, 0, 60, 80)  # they overlap by less: the first branch alone


def test_boxes_inside_and_boxes_without_area():
    boxes = np.array([[0, 0, 10, 10], [2, 2, 4, 4], [20, 0, 30, 10], [5, 5, 5, 5]], dtype=np.float32)
    assert enclosing_box(boxes, 0.3) == (0, 0, 10, 10)
    assert enclosing_box(boxes[[1, 0]], 0.3) == (0, 0, 10, 10)  # the first one is inside the second one
    assert enclosing_box(boxes[[3, 0]], 0.3) == (5, 5, 5, 5)


def slow_branches(model, state, h1, regions: int) -> tuple[list[int], torch.Tensor]:
    """The regions that the branches look at, and v-hat (n, E), for one row."""
    seen, v_hats = [], []
    for attention in (model.decoder.att, *model.decoder.further_branches):
        scores = attention.scores(h1, state[kfg.P_ATT_FEATS][:, :regions], None)[0, 0]
        free = [i for i in range(regions) if i not in seen] or list(range(regions))
        alpha = scores[free].softmax(0)
        v_hats.append(alpha @ state[kfg.ATT_FEATS][0][free])
        seen.append(free[int(alpha.argmax())])
    return seen, torch.stack(v_hats)


@pytest.mark.parametrize("regions", [1, 2, 5])
def test_a_branch_never_looks_at_the_region_of_an_earlier_one(tmp_path, regions):
    model = toy_model(tmp_path, **DISTRIBUTED, MODEL__DISTRIBUTED__BRANCHES=3).double().eval()
    sample = {k: v.double() if torch.is_tensor(v) and v.is_floating_point() else v for k, v in TWO_IMAGES[0].items()}
    batch = model.preprocess_batch([{**for_test(sample)}])
    batch = {**batch, keys.NUM_REGIONS: [regions]}
    batch[kfg.ATT_MASKS] = (torch.arange(5) < regions).double().unsqueeze(0)
    state = model.with_rows(model.encode(batch), 1)
    model.step(state, torch.tensor([0]), 0)
    seen, v_hats = slow_branches(model, state, state[kfg.G_HIDDEN_STATES][0], regions)
    assert state[keys.BRANCH_REGIONS].tolist() == [seen]
    assert len(set(seen[:regions])) == min(3, regions)
    pooled = state[keys.GAMMA] @ state[kfg.ATT_FEATS][0]
    torch.testing.assert_close(pooled[0], v_hats.mean(0), atol=1e-12, rtol=0)
    assert state[keys.GAMMA][0, regions:].abs().sum() == 0 and state[keys.GAMMA].sum().item() == pytest.approx(1)


# --- training -------------------------------------------------------------------------------------------
@pytest.mark.parametrize("branches", [2, 3])
def test_the_losses_are_those_of_one_caption_after_another(tmp_path, branches):
    overrides = {**DISTRIBUTED, "MODEL__DISTRIBUTED__BRANCHES": branches, "LOSSES__CONSISTENCY__WEIGHT": 1.0}
    cfg, model = toy_config(tmp_path, **overrides), toy_model(tmp_path, **overrides).train()
    classes = class_of_words(cfg)
    # a man dog runs with UNK: only "man" and "dog" name objects, in alphabetical order of their classes
    assert classes.tolist() == [-1, -1, 1, 0, -1, -1, -1] or classes.tolist() == [-1, -1, 0, 1, -1, -1, -1]
    assert model.encodes_per_image
    losses, gradients = trained_once(cfg, model)
    surprises, apart = [], []
    for sample in TWO_IMAGES:
        encoded = model.encode(model.preprocess_batch([for_test(sample)]))
        for tokens, targets in zip(sample[kfg.G_TOKENS_IDS], sample[kfg.G_TARGET_IDS], strict=True):
            state = model.with_rows(encoded, 1)
            for t, (word, target) in enumerate(zip(tokens, targets, strict=True)):
                model.step(state, word.view(1), t)
                surprises.append(-model.predictor(state)[kfg.G_LOGITS].log_softmax(1)[0, target].item())
                if classes[target] >= 0:
                    _, v_hats = slow_branches(model, state, state[kfg.G_HIDDEN_STATES][0], len(sample[kfg.ATT_FEATS]))
                    q = model.decoder.class_head(v_hats).softmax(1)
                    kl = [(q[0] * (q[0] / other).log()).sum().item() for other in q[1:]]
                    apart.append(-math.log(q[0, classes[target]].item()) + sum(kl) / len(kl))
    assert losses["CrossEntropy Loss(G)"].item() == pytest.approx(sum(surprises) / len(surprises), rel=1e-5)
    assert losses["Consistency Loss"].item() == pytest.approx(sum(apart) / len(apart), rel=1e-4)
    for name in ("further_branches.0.w_h.weight", "further_branches.0.w_alpha.weight", "class_head.weight"):
        assert gradients[f"decoder.{name}"].abs().max() > 0


def test_one_branch_is_bit_equal_to_the_plain_model_in_training_and_decoding(tmp_path):
    one = {**PLAIN, "MODEL__DECODER": "DistributedDecoder", "MODEL__DISTRIBUTED__BRANCHES": 1}
    dropout = {f"MODEL__{part}__DROPOUT": 0.5 for part in ("TOKEN_EMBED", "VISUAL_EMBED")}
    found = []
    for overrides in ({**PLAIN, **dropout}, {**one, **dropout}):
        cfg, model = toy_config(tmp_path, **overrides), toy_model(tmp_path, **overrides).train()
        assert model.fast_forcing.suits(model) and model.encodes_per_image
        torch.manual_seed(1)
        trained = trained_once(cfg, model)
        captions = captions_of(model.eval(), [for_test(sample) for sample in TWO_IMAGES])
        found.append((*trained, [(c.words, c.log_prob, c.greedy.words) for c in captions]))
    (losses, gradients, captions), (same, equal, alike) = found
    assert losses == same and captions == alike and gradients.keys() == equal.keys()
    assert all(torch.equal(gradients[name], equal[name]) for name in gradients)


def test_the_plain_parts_start_with_the_plain_models_weights_and_weight_0_has_no_head(tmp_path):
    plain = toy_model(tmp_path, **PLAIN).state_dict()
    model = toy_model(tmp_path, **DISTRIBUTED, LOSSES__CONSISTENCY__WEIGHT=0.0).train()
    own = model.state_dict()
    assert all(torch.equal(own[name], value) for name, value in plain.items())
    assert model.decoder.class_head is None
    cfg = toy_config(tmp_path, **DISTRIBUTED, LOSSES__CONSISTENCY__WEIGHT=0.0)
    assert list(trained_once(cfg, model)[0]) == ["CrossEntropy Loss(G)"]


# --- decoding -------------------------------------------------------------------------------------------
@pytest.mark.parametrize("seed", [0, 1])
def test_beam_and_greedy_captions_have_the_boxes_around_their_branches(tmp_path, seed):
    overrides = {**DISTRIBUTED, "MODEL__DISTRIBUTED__BRANCHES": 3, "INFERENCE__UNION_OVERLAP": 0.05}
    overrides["INFERENCE__GT_ATTENTION"] = True
    model = toy_model(tmp_path, seed, **overrides).eval()
    samples = [for_test(sample) for sample in (*TWO_IMAGES, toy_sample(3, 4))]
    enclosed = 0
    for sample, caption in zip(samples, captions_of(model, samples), strict=True):
        words, score, _ = slow_beam(model, sample, 3, 6)
        assert [model.greedy_decoder.vocab[word] for word in words] == [word.text for word in caption.words]
        assert caption.log_prob == pytest.approx(score, abs=1e-4)
        assert len(caption.references) == 2
        encoded = model.encode(model.preprocess_batch([sample]))
        for found in (caption, caption.greedy, *caption.references):
            state, before = model.with_rows(encoded, 1), 0
            for t, word in enumerate(found.words):
                model.step(state, torch.tensor([before]), t)
                seen, _ = slow_branches(model, state, state[kfg.G_HIDDEN_STATES][0], len(sample[kfg.ATT_FEATS]))
                assert word.region == seen[0]
                assert word.box_px == enclosing_box(sample[keys.BOXES_PX].numpy()[seen], 0.05)
                assert word.weight == pytest.approx(state[keys.GAMMA][0, seen[0]].item(), abs=1e-6)
                enclosed += word.box_px != tuple(sample[keys.BOXES_PX][seen[0]].tolist())
                before = model.greedy_decoder.vocab.index(word.text)
    assert enclosed  # some boxes are larger than a region


# --- derived classes, weights of others -----------------------------------------------------------------
class FromTheClasses(DistributedDecoder):
    """Its first states depend on the image."""

    def first_states(self, inputs, rows):
        own = inputs[keys.CLASS_PROBS].amax(1)[:, :1]
        states = self.initial_states(inputs[kfg.ATT_FEATS], rows)
        hidden = [h + own.repeat_interleave(rows // len(own), 0) for h in states[kfg.G_HIDDEN_STATES]]
        return {**states, kfg.G_HIDDEN_STATES: hidden}


class Attends(DistributedDecoder):
    def attend(self, h1, inputs):
        return super().attend(h1, inputs)


@pytest.fixture
def derived():
    kinds = {"FromTheClasses": FromTheClasses, "Attends": Attends}
    for name, kind in kinds.items():
        DECODER_REGISTRY._do_register(name, kind)
    yield
    for name in kinds:
        del DECODER_REGISTRY._obj_map[name]


@pytest.mark.parametrize("branches", [1, 2])
def test_a_derived_decoders_first_states_belong_to_their_captions(tmp_path, derived, branches):
    setting = {**PLAIN, "MODEL__DECODER": "FromTheClasses", "MODEL__DISTRIBUTED__BRANCHES": branches}
    cfg, model = toy_config(tmp_path, **setting), toy_model(tmp_path, **setting).train()
    together = losses_of(cfg, model)["CrossEntropy Loss(G)"].item()
    each = [losses_of(cfg, model, [image])["CrossEntropy Loss(G)"].item() for image in TWO_IMAGES]
    assert together == pytest.approx((7 * each[0] + 7 * each[1]) / 14, rel=1e-5)  # 4 + 3 and 2 + 5 words


def test_a_derived_decoder_with_another_attend_is_told_what_branches_call(tmp_path, derived):
    with pytest.raises(UserError, match=r"Attends.attend: branches replace it; override attend_in_branches"):
        build_model(toy_config(tmp_path, **PLAIN, MODEL__DECODER="Attends"))
    build_model(toy_config(tmp_path, **PLAIN, MODEL__DECODER="Attends", MODEL__DISTRIBUTED__BRANCHES=1))


def test_weights_fit_whatever_the_class_head_which_only_training_reads(tmp_path):
    trained = toy_model(tmp_path, **DISTRIBUTED)
    without = toy_model(tmp_path, **PLAIN, MODEL__DECODER="DistributedDecoder")
    assert trained.decoder.class_head is not None and without.decoder.class_head is None
    for name, model in (("trained", trained), ("without", without)):
        torch.save({"model": model.state_dict()}, tmp_path / f"{name}.pth")
    other = toy_model(tmp_path, **DISTRIBUTED)
    other.decoder.class_head = torch.nn.Linear(5, 7)  # other classes
    head = other.decoder.class_head.weight.clone()
    for name, model in (("trained", without), ("without", trained), ("trained", other)):
        check_weights(str(tmp_path / f"{name}.pth"), model)
        stored = torch.load(tmp_path / f"{name}.pth", weights_only=True)["model"]
        stored["decoder.lstm1.bias_ih"] += 1
        model.load_state_dict(stored)
        assert torch.equal(model.decoder.lstm1.bias_ih, stored["decoder.lstm1.bias_ih"])
    assert torch.equal(other.decoder.class_head.weight, head)
    with pytest.raises(UserError, match="has unknown 4 weights: decoder.class_head"):
        check_weights(str(tmp_path / "trained.pth"), toy_model(tmp_path, **PLAIN))


# --- what cannot work -----------------------------------------------------------------------------------
def test_settings_that_cannot_work_are_refused(tmp_path):
    for change, message in (
        ({"MODEL__DISTRIBUTED__BRANCHES": 0}, "BRANCHES: expected an integer >= 1, got 0"),
        ({"INFERENCE__UNION_OVERLAP": 1.0}, "UNION_OVERLAP: expected 0 <= UNION_OVERLAP < 1, got 1.0"),
        (
            {"MODEL__DECODER": "SSAttentionDecoder"},
            "'SSAttentionDecoder', which has none",
        ),
        ({"INFERENCE__VOCAB": ""}, "ConsistencyLoss needs INFERENCE.VOCAB"),
        ({"INFERENCE__GROUND_BY": "beta", "MODEL__SS_ATTENTION__ENABLED": True}, "GROUND_BY beta would not read"),
    ):
        with pytest.raises(UserError, match=message):
            build_model(toy_config(tmp_path, **{**DISTRIBUTED, **change}))
    for change in ({"MODEL__DECODER": "SSAttentionDecoder"}, {"MODEL__DISTRIBUTED__BRANCHES": 1}):
        with pytest.raises(UserError, match="ConsistencyLoss, which compares branches"):
            build_losses(toy_config(tmp_path, **{**DISTRIBUTED, **change}))
    with pytest.raises(UserError, match="WEIGHT: expected a number >= 0, got -1"):
        ConsistencyLoss(weight=-1.0)
    cfg = toy_config(tmp_path, **DISTRIBUTED)
    write_vocabulary(tmp_path, ["qqq", "zzz", "xxx", "vvv", "www", "UNK"])
    with pytest.raises(UserError, match="no word in .* names an object class"):
        build_losses(cfg)
