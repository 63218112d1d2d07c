"""L_gnd = - sum_i sigma_i log beta_i on three regions, checked by hand."""

import math

import pytest
import torch

from toys import toy_config, toy_model, toy_sample
from xmodaler_ssattn import keys
from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.host import build_losses, kfg
from xmodaler_ssattn.losses import GroundingLoss, grounding_loss

# Two images: beta = (1/2, 1/4, 1/4) and (1/8, 1/8, 3/4).
LOG_BETA = torch.tensor([[0.5, 0.25, 0.25], [0.125, 0.125, 0.75]]).log()
LOG2 = math.log(2)


def test_the_formula_counts_an_image_once_per_caption_and_divides_by_the_words():
    # image 1: log 2 + log 4 = 3 log 2; image 2: log 8 = 3 log 2; two captions each, 12 words: 2 (3 + 3) log 2 / 12
    sigma = torch.tensor([[[1.0, 1.0, 0.0]], [[1.0, 0.0, 0.0]]])
    loss = grounding_loss(LOG_BETA, sigma, torch.ones(2, 1), captions_per_image=2, num_words=12)
    assert float(loss) == pytest.approx(LOG2)


def test_the_formula_with_sentence_targets_counts_each_row_once():
    # image 1, two captions: log 2 and log 4; image 2: log 8 and a caption without a box: 6 log 2 over 12 words
    sigma = torch.tensor([[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], [[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]])
    has_boxes = torch.tensor([[1.0, 1.0], [1.0, 0.0]])
    loss = grounding_loss(LOG_BETA, sigma, has_boxes, captions_per_image=2, num_words=12)
    assert float(loss) == pytest.approx(LOG2 / 2)


@pytest.mark.parametrize("targets", ["image", "sentence"])
def test_both_losses_together_are_the_papers_sum_over_captions_divided_by_the_words(tmp_path, targets):
    """sum over captions of (- sum_t log p(w_t) - mu sum_i sigma_i log beta_i) / M, one caption and word at a time."""
    mu = 0.7
    samples = [
        toy_sample(1, 4, [[1, 2, 4], [3]], sigma=[1.0, 0.0, 1.0, 0.0]),
        toy_sample(2, 3, [[1], [2, 2, 2, 5]], sigma=[0.0, 1.0, 0.0]),
        toy_sample(3, 2, [[4, 1], [1, 2]], sigma=[0.0, 0.0]),  # no box
    ]
    if targets == "sentence":
        for sample in samples:  # the first caption has the image's regions, the second only region 0
            sample[keys.SIGMA] = torch.stack([sample[keys.SIGMA][0], torch.eye(sample[keys.SIGMA].shape[1])[0]])
            sample[keys.HAS_BOXES] = sample[keys.SIGMA].amax(1)
    model = toy_model(tmp_path, LOSSES__GROUNDING__MU=mu).double().train()
    for module in model.modules():  # both computations have to see one model
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    samples = [
        {k: v.double() if torch.is_tensor(v) and v.is_floating_point() else v for k, v in s.items()} for s in samples
    ]
    out = model(model.preprocess_batch(samples))
    losses = build_losses(toy_config(tmp_path, LOSSES__GROUNDING__MU=mu))
    total = sum(value for loss in losses for value in loss(out).values())

    words, expected = 0, 0.0
    for sample in samples:
        for s, (tokens, targets_of) in enumerate(zip(sample[kfg.G_TOKENS_IDS], sample[kfg.G_TARGET_IDS])):
            single = {**sample, kfg.SEQ_PER_SAMPLE: 1, kfg.G_TOKENS_IDS: [tokens], kfg.G_TARGET_IDS: [targets_of]}
            one = model(model.preprocess_batch([single]))
            log_p = one[kfg.G_LOGITS].detach().log_softmax(1)
            for t, word in enumerate(targets_of):
                expected -= float(log_p[t, word])
                words += 1
            sigma = sample[keys.SIGMA][s if targets == "sentence" else 0]
            for i in range(len(sigma)):
                expected -= mu * float(sigma[i] * one[keys.LOG_BETA][0, i].detach())
    assert float(total.detach()) == pytest.approx(expected / words, abs=1e-12)


def test_image_mean_averages_the_sum_of_an_image_over_the_images_with_a_box():
    # image 1: sigma (1, 1, 0) -> log 2 + log 4 = 3 log 2; image 2: sigma (1, 0, 0) -> log 8 = 3 log 2
    sigma = torch.tensor([[[1.0, 1.0, 0.0]], [[1.0, 0.0, 0.0]]])
    assert float(grounding_loss(LOG_BETA, sigma, torch.ones(2, 1), reduction="image_mean")) == pytest.approx(3 * LOG2)
    # an image without boxes counts neither above nor below the line
    sigma[1] = 0
    has_boxes = torch.tensor([[1.0], [0.0]])
    assert float(grounding_loss(LOG_BETA, sigma, has_boxes, reduction="image_mean")) == pytest.approx(3 * LOG2)


def test_positive_mean_divides_each_image_by_its_positive_regions():
    # image 1: 3 log 2 / 2; image 2: 3 log 2 / 1; their mean 2.25 log 2
    sigma = torch.tensor([[[1.0, 1.0, 0.0]], [[1.0, 0.0, 0.0]]])
    assert float(grounding_loss(LOG_BETA, sigma, torch.ones(2, 1), reduction="positive_mean")) == pytest.approx(
        2.25 * LOG2
    )


def test_positive_mean_makes_a_graded_target_a_distribution():
    # image 1: (0.3 log 2 + 0.1 log 4) / 0.4 = 1.25 log 2; image 2 has no box
    sigma = torch.tensor([[[0.3, 0.1, 0.0]], [[0.0, 0.0, 0.0]]])
    loss = grounding_loss(LOG_BETA, sigma, torch.tensor([[1.0], [0.0]]), reduction="positive_mean")
    assert float(loss) == pytest.approx(1.25 * LOG2)
    log_beta = LOG_BETA.clone().requires_grad_()
    grounding_loss(100 * log_beta, sigma, torch.ones(2, 1), reduction="positive_mean").backward()
    assert torch.isfinite(log_beta.grad).all()


def test_image_mean_with_sentence_targets_averages_over_the_captions_with_a_box():
    # image 1, two captions: region 1 (log 2), region 2 (log 4); image 2: caption 1 region 1 (log 8), caption 2 no box
    sigma = torch.tensor([[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], [[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]])
    has_boxes = torch.tensor([[1.0, 1.0], [1.0, 0.0]])
    assert float(grounding_loss(LOG_BETA, sigma, has_boxes, reduction="image_mean")) == pytest.approx(
        (1 + 2 + 3) * LOG2 / 3
    )


@pytest.mark.parametrize("reduction", ["formula", "image_mean", "positive_mean"])
def test_a_batch_without_any_box_gives_zero_and_zero_gradient(reduction):
    log_beta = LOG_BETA.clone().requires_grad_()
    loss = grounding_loss(log_beta, torch.zeros(2, 1, 3), torch.zeros(2, 1), reduction=reduction, num_words=0)
    loss.backward()
    assert float(loss) == 0.0 and torch.equal(log_beta.grad, torch.zeros(2, 3))


def test_a_row_without_boxes_does_not_count_whatever_its_sigma_says():
    sigma, has_boxes = torch.ones(2, 1, 3), torch.tensor([[0.0], [1.0]])
    # only image 2: log 8 + log 8 + log (4/3) over 4 words
    loss = grounding_loss(LOG_BETA, sigma, has_boxes, num_words=4)
    assert float(loss) == pytest.approx((6 * LOG2 + math.log(4 / 3)) / 4)


def test_padded_regions_do_not_reach_the_loss():
    log_beta = torch.tensor([[math.log(0.5), math.log(0.5), -1e4]])
    sigma = torch.tensor([[[1.0, 0.0, 0.0]]])
    assert float(grounding_loss(log_beta, sigma, torch.ones(1, 1), num_words=1)) == pytest.approx(LOG2)


def test_one_region_costs_nothing(tmp_path):
    model = toy_model(tmp_path).train()
    out = model(model.preprocess_batch([toy_sample(1, 1)]))
    assert out[keys.LOG_BETA].exp().tolist() == [[1.0]]
    assert float(GroundingLoss(mu=1.0)(out)["Grounding Loss"]) == 0.0


def test_the_gradient_reaches_the_ss_attention_alone(tmp_path):
    model = toy_model(tmp_path).train()
    out = model(model.preprocess_batch([toy_sample(1, 4), toy_sample(2, 3)]))
    GroundingLoss(mu=1.0)(out)["Grounding Loss"].backward()
    touched = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert touched == {
        "decoder.ss_attention.w_c.weight",
        "decoder.ss_attention.w_c.bias",
        "decoder.ss_attention.w_p.weight",
        "decoder.ss_attention.w_p.bias",
        "decoder.ss_attention.w_b.weight",
    }


def test_mu_scales_inside_the_loss_and_the_name_survives_the_hosts_filter(tmp_path):
    model = toy_model(tmp_path).eval()
    out = model(model.preprocess_batch([toy_sample(1, 4)]))
    one = GroundingLoss(mu=1.0)(out)
    three = GroundingLoss(mu=3.0)(out)
    assert float(three["Grounding Loss"]) == pytest.approx(3 * float(one["Grounding Loss"]))
    assert all("acc" not in name for name in one)  # the host drops such names from the sum


def test_the_loss_is_built_from_the_config(tmp_path):
    losses = build_losses(
        toy_config(tmp_path, LOSSES__GROUNDING__MU=0.25, LOSSES__GROUNDING__REDUCTION="positive_mean")
    )
    assert [type(loss).__name__ for loss in losses] == ["CrossEntropy", "GroundingLoss"]
    assert (losses[1].mu, losses[1].reduction) == (0.25, "positive_mean")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            {"LOSSES__GROUNDING__REDUCTION": "mean"},
            "REDUCTION: expected one of .*got 'mean'.*'formula', sum over captions",
        ),
        ({"LOSSES__GROUNDING__MU": -1.0}, "MU: expected a number >= 0, got -1.0"),
        ({"MODEL__SS_ATTENTION__ENABLED": False}, "ENABLED is False"),
    ],
)
def test_settings_that_cannot_work_are_refused(tmp_path, overrides, message):
    with pytest.raises(UserError, match=message):
        build_losses(toy_config(tmp_path, **overrides))


def test_a_batch_of_another_captioner_is_refused_by_name():
    with pytest.raises(KeyError, match="GroundedCaptioner"):
        GroundingLoss(mu=1.0)({kfg.G_LOGITS: torch.zeros(1, 2)})
