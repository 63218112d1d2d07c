"""Under SOLVER.AMP decoding multiplies in bfloat16 too, and keeps scores in float32."""

import pytest
import torch

from toys import for_test, toy_model, toy_sample
from xmodaler_ssattn import keys
from xmodaler_ssattn.host import kfg


@pytest.mark.parametrize("amp", [False, True])
def test_the_vocabulary_product_has_autocasts_type_and_the_scores_are_float32(tmp_path, amp):
    model = toy_model(tmp_path, SOLVER__AMP=amp).eval()
    seen = set()
    model.predictor.logits.register_forward_hook(lambda module, args, result: seen.add(result.dtype))
    with torch.no_grad():
        out = model(model.preprocess_batch([for_test(toy_sample(1, 4))]), use_beam_search=True, output_sents=True)
    assert seen == {torch.bfloat16 if amp else torch.float32}
    assert out[keys.DECODED].logp.dtype == torch.float32 and len(out[kfg.OUTPUT]) == 1
