"""Our decoder against the host's own UpDownDecoder: with tanh and copied weights they are the same function."""

import torch

from toys import for_test, toy_config, toy_model, toy_sample
from xmodaler_ssattn import keys
from xmodaler_ssattn.host import UpDownDecoder, kfg


def test_with_tanh_and_copied_weights_the_baseline_equals_the_stock_decoder(tmp_path):
    overrides = {"MODEL__SS_ATTENTION__ENABLED": False, "MODEL__SS_ATTENTION__ACTIVATION": "tanh"}
    model = toy_model(tmp_path, **overrides).eval()
    torch.manual_seed(0)
    stock = UpDownDecoder(toy_config(tmp_path, **overrides)).eval()
    stock.load_state_dict(model.decoder.state_dict())  # the same names, or this raises

    batch = model.preprocess_batch([for_test(toy_sample(1, 4)), for_test(toy_sample(2, 2))])
    ours = dict(model.encode(batch))
    theirs = dict(ours)
    theirs[kfg.P_ATT_FEATS] = stock.p_att_feats(ours[kfg.ATT_FEATS])
    for t, words in enumerate(([0, 0], [1, 3], [2, 1])):
        word = torch.tensor(words)
        model.step(ours, word, t)
        theirs.update(model.token_embed({kfg.G_TOKENS_IDS: word}))
        theirs.update(stock(theirs))
        for key in (kfg.G_HIDDEN_STATES, kfg.G_CELL_STATES):
            for one, other in zip(ours[key], theirs[key], strict=True):
                torch.testing.assert_close(one, other)


def test_one_seed_draws_the_weights_of_the_stock_decoder(tmp_path):
    cfg = toy_config(tmp_path)
    torch.manual_seed(3)
    stock = UpDownDecoder(cfg).state_dict()
    torch.manual_seed(3)
    from xmodaler_ssattn import SSAttentionDecoder

    ours = SSAttentionDecoder(cfg).state_dict()
    assert set(ours) - set(stock) == {name for name in ours if name.startswith("ss_attention.")}
    assert all(torch.equal(ours[name], weight) for name, weight in stock.items())


def test_relu_and_tanh_differ(tmp_path):
    states = []
    for activation in ("relu", "tanh"):
        model = toy_model(tmp_path, MODEL__SS_ATTENTION__ACTIVATION=activation).eval()
        state = dict(model.encode(model.preprocess_batch([for_test(toy_sample(1, 4))])))
        model.step(state, torch.tensor([0]), 0)
        states.append(state[keys.ALPHA])
    assert not torch.allclose(*states)
