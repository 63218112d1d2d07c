"""The captioner and its decoder as a whole: what must not depend on what."""

from pathlib import Path

import pytest
import torch

from toys import WORDS, captions_of, for_test, losses_of, toy_config, toy_model, toy_sample
from xmodaler_ssattn import keys
from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.host import NAME, UPSTREAM, build_model, kfg
from xmodaler_ssattn.losses import GroundingLoss


def slow_loss(model, samples) -> torch.Tensor:
    """The obvious way: one caption, one word, one image at a time, with the paper's equations spelled out."""
    total, words = 0.0, 0
    decoder = model.decoder
    for sample in samples:
        v = torch.relu(model.visual_embed.embeddings(sample[kfg.ATT_FEATS]))
        ss = decoder.ss_attention
        hidden = torch.relu(torch.cat([ss.w_c(sample[keys.CLASS_PROBS]), ss.w_p(sample[keys.SPATIAL])], dim=1))
        beta = (hidden @ ss.w_b.weight.T).squeeze(1).softmax(0)
        for tokens, targets in zip(sample[kfg.G_TOKENS_IDS], sample[kfg.G_TARGET_IDS], strict=True):
            h1 = c1 = h2 = c2 = torch.zeros(1, decoder.hidden_size)
            for token, target in zip(tokens, targets, strict=True):
                word = torch.relu(model.token_embed.embeddings(token)).unsqueeze(0)
                h1, c1 = decoder.lstm1(torch.cat([h2, v.mean(0, keepdim=True), word], 1), (h1, c1))
                a = decoder.att.w_alpha(torch.relu(decoder.att.w_h(h1) + decoder.p_att_feats(v))).squeeze(1)
                gamma = a.softmax(0) + decoder.lambda_ * beta
                v_hat = (gamma.unsqueeze(1) * v).sum(0, keepdim=True)
                h2, c2 = decoder.lstm2(torch.cat([v_hat, h1], 1), (h2, c2))
                total = total - model.predictor.logits(h2).log_softmax(1)[0, target]
                words += 1
    return total / words


def test_a_padded_batch_gives_the_loss_and_gradients_of_the_slow_loop(tmp_path):
    model = toy_model(tmp_path).train()
    samples = [toy_sample(1, 5, [[1, 2, 4], [1, 3]]), toy_sample(2, 2, [[5], [3, 3, 1, 2]])]
    cfg = toy_config(tmp_path, LOSSES__NAMES=["CrossEntropy"])
    fast, slow = sum(losses_of(cfg, model, samples).values()), slow_loss(model, samples)
    torch.testing.assert_close(fast, slow)
    parameters = list(model.parameters())
    for got, wanted in zip(torch.autograd.grad(fast, parameters), torch.autograd.grad(slow, parameters), strict=True):
        torch.testing.assert_close(got, wanted, atol=1e-6, rtol=1e-5)


def test_a_batch_equals_its_images_one_by_one(tmp_path):
    model = toy_model(tmp_path).eval()
    samples = [for_test(toy_sample(i, regions)) for i, regions in ((1, 5), (2, 1), (3, 3))]
    together = captions_of(model, samples)
    for sample, caption in zip(samples, together, strict=True):
        (alone,) = captions_of(model, [sample])
        assert alone == caption and alone.greedy == caption.greedy
        assert [w.region for w in alone.words] == [w.region for w in caption.words]
        assert [w.weight for w in alone.words] == pytest.approx([w.weight for w in caption.words], abs=1e-6)
        assert max((w.region for w in caption.words), default=0) < sample[kfg.ATT_FEATS].shape[0]


def test_beta_is_one_row_an_image_and_gamma_sums_to_one_plus_lambda(tmp_path):
    model = toy_model(tmp_path, MODEL__SS_ATTENTION__LAMBDA=0.5).train()
    batch = model.preprocess_batch([toy_sample(1, 4), toy_sample(2, 3)])
    inputs = model.encode(batch)
    assert inputs[keys.LOG_BETA].shape == (2, 4)  # not one per caption
    state = model.with_rows(inputs, 4)
    betas = []
    for t in range(3):
        model.step(state, batch[kfg.G_TOKENS_IDS][:, t], t)
        torch.testing.assert_close(state[keys.GAMMA].sum(1), torch.full((4,), 1.5), atol=1e-6, rtol=0)
        betas.append((state[keys.GAMMA] - state[keys.ALPHA]) / 0.5)
    for beta in betas:  # the same at every step, and for both captions of an image
        torch.testing.assert_close(beta, inputs[keys.LOG_BETA].exp().repeat_interleave(2, 0))


def test_permuting_the_regions_permutes_gamma(tmp_path):
    model = toy_model(tmp_path).eval()
    sample = for_test(toy_sample(1, 5))
    order = torch.tensor([3, 0, 4, 1, 2])
    permuted = dict(sample)
    for key in (kfg.ATT_FEATS, keys.BOXES_PX, keys.SPATIAL, keys.CLASS_PROBS):
        permuted[key] = sample[key][order]
    states = []
    for s in (sample, permuted):
        state = dict(model.encode(model.preprocess_batch([s])))
        model.step(state, torch.tensor([0]), 0)
        states.append(state[keys.GAMMA][0])
    torch.testing.assert_close(states[1], states[0][order])


def test_class_probabilities_and_positions_of_one_image_do_not_leak_into_another(tmp_path):
    model = toy_model(tmp_path).eval()
    first, second = for_test(toy_sample(1, 3)), for_test(toy_sample(2, 3))
    before = model.encode(model.preprocess_batch([first, second]))[keys.LOG_BETA]
    second[keys.SPATIAL] = second[keys.SPATIAL] * 2
    after = model.encode(model.preprocess_batch([first, second]))[keys.LOG_BETA]
    assert torch.equal(before[0], after[0]) and not torch.equal(before[1], after[1])


@pytest.mark.parametrize(
    ("spatial", "semantic", "sizes"), [("p", "c", (5, 4)), ("v", "c", (6, 4)), ("p", "v", (5, 6)), ("v", "v", (6, 6))]
)
def test_each_slot_reads_its_own_input_or_the_raw_features(tmp_path, spatial, semantic, sizes):
    model = toy_model(
        tmp_path, MODEL__SS_ATTENTION__SPATIAL_INPUT=spatial, MODEL__SS_ATTENTION__SEMANTIC_INPUT=semantic
    ).eval()
    ss = model.decoder.ss_attention
    assert (ss.w_p.in_features, ss.w_c.in_features) == sizes
    batch = model.preprocess_batch([toy_sample(1, 4)])
    got_spatial, got_semantic = model.decoder.slots(model.encode(batch))
    assert got_spatial is not None and torch.equal(
        got_spatial, batch[keys.SPATIAL] if spatial == "p" else batch[kfg.ATT_FEATS]
    )
    assert torch.equal(got_semantic, batch[keys.CLASS_PROBS] if semantic == "c" else batch[kfg.ATT_FEATS])


def train_steps(cfg, model, steps: int, ss_prob: float = 0.25) -> list[float]:
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    torch.manual_seed(7)
    losses = []
    for step in range(steps):
        samples = [toy_sample(10 + step, 4), toy_sample(50 + step, 3)]
        loss = sum(losses_of(cfg, model, samples, ss_prob).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_lambda_zero_and_mu_zero_equal_updown_bit_for_bit_after_twenty_steps(tmp_path):
    dropout = {
        "MODEL__TOKEN_EMBED__DROPOUT": 0.5,
        "MODEL__VISUAL_EMBED__DROPOUT": 0.5,
        "MODEL__PRED_DROPOUT": 0.5,
    }
    ours = toy_config(tmp_path, MODEL__SS_ATTENTION__LAMBDA=0.0, LOSSES__GROUNDING__MU=0.0, **dropout)
    baseline = toy_config(tmp_path, MODEL__SS_ATTENTION__ENABLED=False, LOSSES__NAMES=["CrossEntropy"], **dropout)
    runs = []
    for cfg in (ours, baseline):
        torch.manual_seed(0)
        model = build_model(cfg).train()
        runs.append((train_steps(cfg, model, 20), model.state_dict()))
    assert runs[0][0] == runs[1][0]
    for name, weight in runs[1][1].items():
        assert torch.equal(runs[0][1][name], weight), name


def test_common_weights_do_not_depend_on_the_ss_attention(tmp_path):
    with_ss = toy_model(tmp_path, seed=5).state_dict()
    without = toy_model(tmp_path, seed=5, MODEL__SS_ATTENTION__ENABLED=False).state_dict()
    assert set(with_ss) - set(without) == {name for name in with_ss if "ss_attention" in name}
    assert all(torch.equal(with_ss[name], weight) for name, weight in without.items())


def test_the_ss_attention_follows_the_seed_of_the_run(tmp_path):
    one, two = (toy_model(tmp_path, seed=s).decoder.ss_attention.w_c.weight for s in (1, 2))
    assert not torch.equal(one, two)
    fixed = [toy_model(tmp_path, seed=s, MODEL__SS_ATTENTION__SEED=9).decoder.ss_attention.w_c.weight for s in (1, 2)]
    assert torch.equal(*fixed)


def test_each_caption_has_its_own_dropout_of_regions(tmp_path):
    model = toy_model(tmp_path, MODEL__VISUAL_EMBED__DROPOUT=0.5).train()
    batch = model.preprocess_batch([toy_sample(1, 4)])
    feats = model.encode(batch, torch.tensor([0, 0]))[kfg.ATT_FEATS]
    assert feats.shape[0] == 2 and not torch.equal(feats[0], feats[1])
    # inverted dropout at 0.5: every number is 0 or twice its value without dropout
    plain = model.eval().encode(batch)[kfg.ATT_FEATS]
    assert plain.shape[0] == 1
    torch.testing.assert_close(feats[0], torch.where(feats[0] == 0, torch.zeros(()), 2 * plain[0]))


def test_reference_captions_are_grounded_at_the_step_that_predicts_the_word(tmp_path):
    model = toy_model(tmp_path, INFERENCE__GT_ATTENTION=True).eval()
    sample = for_test(toy_sample(1, 4, [[1, 2, 4], [3]]))
    (caption,) = captions_of(model, [sample])
    assert [str(reference) for reference in caption.references] == ["a man runs", "dog"]
    # the slow way for the second word of the first caption: feed 0, then word 1, look at gamma
    state = dict(model.encode(model.preprocess_batch([sample])))
    model.step(state, torch.tensor([0]), 0)
    model.step(state, torch.tensor([1]), 1)
    word = caption.references[0].words[1]
    assert word.text == "man" and word.region == int(state[keys.GAMMA][0].argmax())
    assert word.weight == pytest.approx(state[keys.GAMMA][0].max().item())


def test_the_grounding_loss_does_not_change_with_captions_per_image(tmp_path):
    model = toy_model(tmp_path).train()
    losses = []
    for captions in ([[1]], [[1], [2], [3]]):
        out = model(model.preprocess_batch([toy_sample(1, 4, captions)]))
        losses.append(GroundingLoss(mu=1.0)(out)["Grounding Loss"].item())
    assert losses[0] == losses[1]


def test_an_image_without_regions_is_refused_by_id(tmp_path):
    model = toy_model(tmp_path)
    empty = toy_sample(7, 1)
    for key in (kfg.ATT_FEATS, keys.BOXES_PX, keys.SPATIAL, keys.CLASS_PROBS):
        empty[key] = empty[key][:0]
    with pytest.raises(UserError, match="image 7 has no region"):
        model.preprocess_batch([empty])


def test_a_sample_of_another_dataset_is_refused_with_the_name_of_ours(tmp_path):
    model = toy_model(tmp_path)
    with pytest.raises(UserError, match="Flickr30kEntitiesDataset"):
        model.preprocess_batch([{kfg.IDS: 3, kfg.ATT_FEATS: torch.zeros(2, 6)}])


def test_the_stock_captioner_with_our_decoder_is_refused_with_the_name_of_ours(tmp_path):
    cfg = toy_config(tmp_path)
    cfg.MODEL.META_ARCHITECTURE = "RnnAttEncoderDecoder"
    with pytest.raises(UserError, match="MODEL.META_ARCHITECTURE: GroundedCaptioner"):
        build_model(cfg)


def test_our_captioner_with_a_searcher_that_loses_the_attention_is_refused(tmp_path):
    with pytest.raises(UserError, match="DECODE_STRATEGY.NAME: GroundedBeamSearcher"):
        build_model(toy_config(tmp_path, DECODE_STRATEGY__NAME="BeamSearcher"))


def test_all_impossible_settings_are_named_at_once(tmp_path):
    cfg = toy_config(
        tmp_path,
        MODEL__SS_ATTENTION__ACTIVATION="gelu",
        MODEL__SS_ATTENTION__SPATIAL_INPUT="x",
        MODEL__SS_ATTENTION__LAMBDA=-0.5,
        MODEL__SS_ATTENTION__DIM=0,
    )
    with pytest.raises(UserError) as caught:
        build_model(cfg)
    assert all(name in str(caught.value) for name in ("ACTIVATION", "SPATIAL_INPUT", "LAMBDA", "DIM"))


def test_a_missing_vocabulary_is_named_with_the_way_to_make_it(tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.txt does not exist.*prepare annotations"):
        build_model(toy_config(tmp_path, INFERENCE__VOCAB=str(tmp_path / "nowhere.txt")))


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_both_hosts_decode_with_the_words_of_a_vocabulary_in_any_encoding(tmp_path, encoding):
    cfg = toy_config(tmp_path)
    plain = build_model(cfg)
    path = Path(cfg.INFERENCE.VOCAB)
    path.write_bytes(path.read_text(encoding="utf-8").replace("\n", "\r\n").encode(encoding))
    if NAME == UPSTREAM and encoding == "utf-16":  # its own decoders, which ours replace, read UTF-8 only
        with pytest.raises(UserError, match=r"X-modaler needs UTF-8, but .*\.txt"):
            build_model(cfg)
        return
    model = build_model(cfg)
    assert model.beam_searcher.vocab == plain.beam_searcher.vocab == [".", *WORDS]
    assert model.greedy_decoder.vocab == [".", *WORDS]


def test_a_vocabulary_of_another_size_is_refused_with_the_right_number(tmp_path):
    with pytest.raises(UserError, match="has 6 words.*Set MODEL.VOCAB_SIZE: 7"):
        build_model(toy_config(tmp_path, MODEL__VOCAB_SIZE=100))
