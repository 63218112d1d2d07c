"""Teacher forcing: the states of the language LSTM behind every word of a batch's captions.

Letters: B images, S captions an image, N = B S, T words, M words to predict in all, H hidden size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from xmodaler_ssattn import keys
from xmodaler_ssattn.host import kfg
from xmodaler_ssattn.modeling.collate import CaptionPlan
from xmodaler_ssattn.modeling.words import WordSource, draw_words, replace_some

if TYPE_CHECKING:
    from xmodaler_ssattn.modeling.captioner import GroundedCaptioner


class WordStates(NamedTuple):
    """The state from which each of the M words is predicted.

    Attributes:
        inputs: the encoded batch, with what the losses read.
        hidden: (M, H).
        words: (M,) int64, index of the word in the flattened (N, T) tokens and targets.
        captions: (M,) int64, the word's caption.
        logits: (M, V), or None where the state alone tells them.
    """

    inputs: dict
    hidden: Tensor
    words: Tensor
    captions: Tensor
    logits: Tensor | None = None


def word_states(model: GroundedCaptioner, batch: dict, ss_prob: float, at_once: bool | None = None) -> WordStates:
    """Captions are ordered by length, longest first, and their words packed step after step.

    Args:
        ss_prob: scheduled sampling: probability of feeding the model's own word, never at the first step.
        at_once: all words in few large products instead of word by word; None: where the model allows it.
    """
    tokens = batch[kfg.G_TOKENS_IDS]
    plan = CaptionPlan.of(batch[keys.CAPTION_LENGTHS], tokens.shape[1], tokens.device)
    inputs, rows = encoded_rows(model, batch, plan.order)
    if model.forces_at_once if at_once is None else at_once:
        given = tokens.reshape(-1)[plan.words]
        words = WordSource(model.token_embed, given, plan.sizes, plan.rows, ss_prob, model.draw_words)
        hidden, logits = model.decoder.roll_out(rows, words), None
    else:
        grids = _step_through(model, rows, tokens[plan.order], ss_prob)
        hidden, logits = (None if grid is None else grid.flatten(0, 1)[plan.cells] for grid in grids)
    return WordStates(inputs, hidden, plan.words, plan.order[plan.rows], logits)


def encoded_rows(model: GroundedCaptioner, batch: dict, order: Tensor) -> tuple[dict, dict]:
    """The encoded batch: (for the losses, with one row per image; for the decoder, with one row per caption).

    Where a part of the model is not ours, it may read anything of the batch: all of it then has one row per caption
    before that part sees it.

    Args:
        order: (N,) int64, the captions in the order of the rows.
    """
    captions = batch[keys.CAPTIONS_PER_IMAGE]
    images = order.div(captions, rounding_mode="floor")
    if model.encodes_per_image:
        inputs = model.encode(batch, images)
        return inputs, inputs
    shared = model.share_region_dropout
    rows = (
        _per_caption(model.encode(batch), order, images) if shared else model.encode(_per_caption(batch, order, images))
    )
    inputs = {**rows, **batch}
    # The image's first caption in that order: what is computed of an image is the same for all its captions.
    first = order.argsort()[::captions]
    for key in (keys.LOG_BETA, keys.RAW_FEATS, keys.IMAGE_MASK, keys.IMAGE_EXT_MASK):
        if inputs.get(key) is not None:
            inputs[key] = inputs[key][first]
    return inputs, rows


def _per_caption(batch: dict, order: Tensor, images: Tensor) -> dict:
    """Everything of a batch, encoded or not, that has one row per image or per caption, with one row per caption."""
    count = len(batch[kfg.IDS])
    at = {count: images, len(order): order}
    rows = {
        key: value[at[len(value)]]
        for key, value in batch.items()
        if isinstance(value, Tensor) and value.dim() > 0 and len(value) in at
    }
    listed = images.tolist()
    return {**batch, **rows, **{key: [batch[key][image] for image in listed] for key in (kfg.IDS, keys.NUM_REGIONS)}}


def _step_through(
    model: GroundedCaptioner, inputs: dict, tokens: Tensor, ss_prob: float
) -> tuple[Tensor, Tensor | None]:
    """The decoder word by word over (N, T) tokens.

    Returns:
        (T, N, H) hidden states of the language LSTM, and (T, N, V) logits of a predictor that reads more than these.
    """
    state = model.with_rows(inputs, tokens.shape[0])
    from_state = model.predicts_from_state
    hidden: list[Tensor] = []
    logits: list[Tensor] = []
    for t in range(tokens.shape[1]):
        word = tokens[:, t]
        if ss_prob > 0 and t > 0:
            source, draw = (hidden, model.draw_words) if from_state else (logits, draw_words)
            word = replace_some(word, source[-1].detach(), ss_prob, draw)
        model.step(state, word, t)
        hidden.append(state[kfg.G_HIDDEN_STATES][-1])
        if not from_state:
            logits.append(model.predictor(state)[kfg.G_LOGITS])
    return torch.stack(hidden), torch.stack(logits) if logits else None


# Norm of a difference between the two ways, relative to the values. Float32 gives 1e-6, TF32 products 1e-3.
TOLERANCE = 5e-3


def ways_agree(model: GroundedCaptioner, batch: dict) -> bool:
    """Whether the words of one caption give the same states and gradients at once and word by word.

    The longest caption of the batch, without dropout and autocast. The model's modes and gradients and the random state
    are left as they were. Reading the answer waits for the device once.
    """
    one = _one_caption(batch)
    modes = [(module, module.training) for module in model.modules()]
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    devices = [model.device] if model.device.type == "cuda" else []
    found = []
    with torch.random.fork_rng(devices), torch.autocast(model.device.type, enabled=False), torch.enable_grad():
        try:
            model.eval()
            for at_once in (True, False):
                hidden = word_states(model, one, 0.0, at_once=at_once).hidden
                # No two states count the same, so that one state's gradient cannot hide behind another's.
                slope = torch.linspace(-1, 1, hidden.numel(), device=hidden.device, dtype=hidden.dtype)
                gradients: tuple = ()
                if hidden.requires_grad:
                    total = (hidden.flatten() * slope).sum()
                    gradients = torch.autograd.grad(total, parameters, allow_unused=True, materialize_grads=True)
                found.append([hidden.detach(), *gradients])
        finally:
            for module, training in modes:
                module.training = training
    return len(found[0]) == len(found[1]) and all(
        float((a.float() - b.float()).norm()) <= TOLERANCE * float(b.float().norm()) + 1e-6
        for a, b in zip(*found, strict=True)
    )


def _one_caption(batch: dict) -> dict:
    """The longest caption of a batch and its image, as a batch."""
    lengths, captions = batch[keys.CAPTION_LENGTHS], batch[keys.CAPTIONS_PER_IMAGE]
    row = max(range(len(lengths)), key=lengths.__getitem__)
    place = {len(lengths) // captions: row // captions, len(lengths): row}  # of rows per image, and per caption
    one = dict(batch)
    for key, value in batch.items():
        count = len(value) if isinstance(value, list) or (isinstance(value, Tensor) and value.dim()) else None
        if count in place:
            one[key] = value[place[count] : place[count] + 1]
    return one | {keys.CAPTIONS_PER_IMAGE: 1}
