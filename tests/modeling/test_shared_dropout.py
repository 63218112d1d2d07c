"""MODEL.SHARE_REGION_DROPOUT: one mask per image; without dropout it changes nothing."""

import torch

from toys import TWO_IMAGES, toy_config, toy_model, trained_once
from xmodaler_ssattn import keys
from xmodaler_ssattn.host import kfg


def encoded(tmp_path, **overrides):
    """What one training step gives."""
    model = toy_model(tmp_path, **overrides).train()
    torch.manual_seed(2)
    return model(model.preprocess_batch(TWO_IMAGES))


def test_captions_of_an_image_share_the_mask_and_images_do_not(tmp_path):
    overrides = {"MODEL__VISUAL_EMBED__DROPOUT": 0.5, "MODEL__SHARE_REGION_DROPOUT": True}
    out = encoded(tmp_path, **overrides)
    # captions by length, longest first: image 2's second (5 words), image 1's first and second, image 2's first
    assert out[keys.IMAGE_OF_ROW].tolist() == [1, 0, 0, 1]
    feats = out[kfg.ATT_FEATS]
    assert torch.equal(feats[0], feats[3]) and torch.equal(feats[1], feats[2])
    assert (feats[1] == 0).float().mean() > 0.5  # ReLU's zeros and the mask's
    separate = encoded(tmp_path, MODEL__VISUAL_EMBED__DROPOUT=0.5)
    assert not torch.equal(separate[kfg.ATT_FEATS][1], separate[kfg.ATT_FEATS][2])


def test_without_dropout_loss_and_gradients_are_the_same(tmp_path):
    cfg = toy_config(tmp_path)
    (apart, wanted), (shared, got) = (
        trained_once(cfg, toy_model(tmp_path, MODEL__SHARE_REGION_DROPOUT=share).train()) for share in (False, True)
    )
    torch.testing.assert_close(shared, apart)
    torch.testing.assert_close(got, wanted, atol=1e-6, rtol=1e-5)


def test_everything_up_to_the_recurrence_is_computed_once_per_image(tmp_path):
    rows = []
    for share in (False, True):
        model = toy_model(tmp_path, MODEL__SHARE_REGION_DROPOUT=share).train()
        model.fast_forcing.agrees = True  # no comparison of both ways at the first step
        model.decoder.p_att_feats.register_forward_hook(lambda module, args, result: rows.append(len(args[0])))
        model(model.preprocess_batch(TWO_IMAGES))
    assert rows == [4, 2]
