"""``SSAttentionDecoder`` over whole captions: its weights and inputs, arranged for ``rollout.py``.

Letters: N captions, M words in all, K regions, H hidden size.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from xmodaler_ssattn import keys
from xmodaler_ssattn.fast import rollout
from xmodaler_ssattn.fast.words import WordSource
from xmodaler_ssattn.host import kfg
from xmodaler_ssattn.modeling.decoder import SSAttentionDecoder
from xmodaler_ssattn.modeling.definition import follows
from xmodaler_ssattn.modeling.ss_attention import TopDownAttention
from xmodaler_ssattn.precision import product_dtype


def rolls_out(decoder: Any) -> bool:
    """Whether ``roll_out`` equals ``decoder.forward`` word by word.

    The loop is needed with dropout inside the recurrence (all three rates are 0 in X-modaler's Up-Down files), with a
    beta that depends on the state, and with a subclass or a hook that changes a method reimplemented by ``roll_out``.
    """
    methods = ("forward", "attend", "pooled", "_fuse", "initial_states", "first_states")
    if not follows(decoder, SSAttentionDecoder, *methods):
        return False
    att, dropouts = decoder.att, (decoder.dropout1, decoder.dropout2, decoder.att.dropout)
    return (
        decoder.state_condition is None
        and follows(att, TopDownAttention)
        and att.activation in rollout.ACTIVATIONS
        and all(follows(layer, nn.Linear) and layer.bias is None for layer in (att.w_h, att.w_alpha))
        and all(follows(cell, nn.LSTMCell) and cell.bias for cell in (decoder.lstm1, decoder.lstm2))
        and all(follows(dropout, nn.Dropout) for dropout in dropouts)
        and not any(dropout.training and dropout.p > 0 for dropout in dropouts)
    )


def roll_out(decoder: SSAttentionDecoder, inputs: dict, words: WordSource) -> tuple[Tensor, Tensor]:
    """All words of all captions at once; equals ``decoder.forward`` word by word if ``rolls_out`` is True.

    Args:
        inputs: encoded, one feature row per caption, longest caption first.
        words: the source of the embedded words, which also samples them with scheduled sampling.

    Returns:
        packed step after step: (M, H) hidden states of the language LSTM, and (M, K) scores of the attention, masked.
    """
    att, feats = decoder.att, inputs[kfg.ATT_FEATS]
    weights, word_columns, constant = _arranged(decoder, inputs)
    feats = feats.to(weights.w1a.dtype)
    lambda_beta = prior = None
    if decoder.kappa is not None:
        prior = decoder.kappa * inputs[keys.ROW_LOG_BETA]
    elif decoder.ss_attention is not None:
        lambda_beta = decoder.lambda_ * inputs[keys.BETA]
    if lambda_beta is not None and decoder.renormalize:
        # v-hat is linear in gamma, so dividing the columns that read it divides gamma.
        weights = weights._replace(w2a=weights.w2a / (1 + decoder.lambda_))
    p, ext_mask = inputs[kfg.P_ATT_FEATS], inputs.get(kfg.EXT_ATT_MASKS)
    words.prepare(word_columns, constant)
    trace = rollout.run(words.x1_of_step, words.sizes, p, feats, lambda_beta, prior, ext_mask, weights, att.activation)
    return rollout.Rollout.apply(trace, words.sizes, att.activation, words.x1(), p, feats, lambda_beta, prior, *weights)


def roll_out_given(decoder: SSAttentionDecoder, inputs: dict, words: WordSource, v_hat: Tensor) -> Tensor:
    """As ``roll_out``, but with given v-hat (M, E), packed, and without attention: (M, H) hidden states."""
    weights, word_columns, constant = _arranged(decoder, inputs)
    words.prepare(word_columns, constant)
    x2 = F.linear(v_hat.to(weights.w2a.dtype), weights.w2a) + weights.b2
    return rollout.run_given(words.x1(), x2, words.sizes, weights)


def _arranged(decoder: SSAttentionDecoder, inputs: dict) -> tuple[rollout.Weights, Tensor, Tensor]:
    """The weights of the recurrence; of the attention LSTM, the word's columns, and the part without words (N, 4H)."""
    hidden, lstm1, lstm2, att = decoder.hidden_size, decoder.lstm1, decoder.lstm2, decoder.att
    feats = inputs[kfg.ATT_FEATS]
    embed = feats.shape[2]
    half = product_dtype(feats)  # bfloat16 under autocast, else the features' own type
    w1 = lstm1.weight_ih.to(half).split([hidden, embed, lstm1.input_size - hidden - embed], dim=1)
    w2 = lstm2.weight_ih.to(half).split([embed, hidden], dim=1)
    weights = rollout.Weights(
        w1a=w1[0],
        w1b=lstm1.weight_hh.to(half),
        w_h=att.w_h.weight.to(half),
        w_alpha=att.w_alpha.weight.to(half).squeeze(0),
        w2a=w2[0],
        w2b=w2[1],
        w2c=lstm2.weight_hh.to(half),
        b2=lstm2.bias_ih + lstm2.bias_hh,
    )
    constant = F.linear(inputs[kfg.GLOBAL_FEATS].to(half), w1[1]) + lstm1.bias_ih + lstm1.bias_hh
    return weights, w1[2], constant


def attention(decoder: SSAttentionDecoder, inputs: dict, scores: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """alpha and gamma, both (M, K), from the scores of ``roll_out``; equals ``decoder.forward``.

    Args:
        inputs: as for ``roll_out``.
        rows: (M,) int64, the row of ``inputs`` of each word.
    """
    alpha = F.softmax(scores, dim=-1)
    if decoder.ss_attention is None:
        return alpha, alpha
    key = keys.BETA if decoder.kappa is None else keys.ROW_LOG_BETA
    beta = {key: inputs[key][rows]}
    return alpha, decoder._fuse(scores.unsqueeze(1), alpha.unsqueeze(1), None, beta).squeeze(1)
