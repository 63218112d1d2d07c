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


def test_the_sum_of_an_image_is_averaged_over_the_images_with_a_box():
    # image 1: sigma (1, 1, 0) -> log 2 + log 4 = 3 log 2; image 2: sigma (1, 0, 0) -> log 8 = 3 log 2
    sigma = torch.tensor([[[1.0, 1.0, 0.0]], [[1.0, 0.0, 0.0]]])
    assert float(grounding_loss(LOG_BETA, sigma, torch.ones(2, 1))) == pytest.approx(3 * LOG2)
    # an image without boxes counts neither above nor below the line
    sigma[1] = 0
    has_boxes = torch.tensor([[1.0], [0.0]])
    assert float(grounding_loss(LOG_BETA, sigma, has_boxes)) == pytest.approx(3 * LOG2)


def test_positives_divides_each_image_by_its_positive_regions():
    # image 1: 3 log 2 / 2; image 2: 3 log 2 / 1; their mean 2.25 log 2
    sigma = torch.tensor([[[1.0, 1.0, 0.0]], [[1.0, 0.0, 0.0]]])
    assert float(grounding_loss(LOG_BETA, sigma, torch.ones(2, 1), reduction="positives")) == pytest.approx(2.25 * LOG2)


def test_words_divides_the_whole_sum_by_the_predicted_words():
    sigma = torch.tensor([[[1.0, 1.0, 0.0]], [[1.0, 0.0, 0.0]]])
    loss = grounding_loss(LOG_BETA, sigma, torch.ones(2, 1), reduction="words", num_words=12)
    assert float(loss) == pytest.approx(6 * LOG2 / 12)


def test_sentence_targets_are_one_row_a_caption():
    # image 1, two captions: region 1 (log 2), region 2 (log 4); image 2: caption 1 region 1 (log 8), caption 2 no box
    sigma = torch.tensor([[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], [[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]])
    has_boxes = torch.tensor([[1.0, 1.0], [1.0, 0.0]])
    assert float(grounding_loss(LOG_BETA, sigma, has_boxes)) == pytest.approx((1 + 2 + 3) * LOG2 / 3)


@pytest.mark.parametrize("reduction", ["sum", "positives", "words"])
def test_a_batch_without_any_box_gives_zero_and_zero_gradient(reduction):
    log_beta = LOG_BETA.clone().requires_grad_()
    loss = grounding_loss(log_beta, torch.zeros(2, 1, 3), torch.zeros(2, 1), reduction=reduction, num_words=0)
    loss.backward()
    assert float(loss) == 0.0 and torch.equal(log_beta.grad, torch.zeros(2, 3))


def test_padded_regions_do_not_reach_the_loss():
    log_beta = torch.tensor([[math.log(0.5), math.log(0.5), -1e4]])
    sigma = torch.tensor([[[1.0, 0.0, 0.0]]])
    assert float(grounding_loss(log_beta, sigma, torch.ones(1, 1))) == pytest.approx(LOG2)


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
    losses = build_losses(toy_config(tmp_path, LOSSES__GROUNDING__MU=0.25, LOSSES__GROUNDING__REDUCTION="positives"))
    assert [type(loss).__name__ for loss in losses] == ["CrossEntropy", "GroundingLoss"]
    assert (losses[1].mu, losses[1].reduction) == (0.25, "positives")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"LOSSES__GROUNDING__REDUCTION": "mean"}, "REDUCTION: expected one of .*'mean'"),
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
