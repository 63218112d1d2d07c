"""Beam search over lists of words, recomputed from the start at every step: slow and obvious."""

import torch

from toys import VOCAB_SIZE, WORDS
from xmodaler_ssattn import keys
from xmodaler_ssattn.host import kfg

UNK = len(WORDS)  # ids count from 1


def word_log_probs(model, sample, words: list[int], suppress_unk: bool = True):
    """log p(next word) and gamma after the given words of one image, recomputed from the start."""
    state = dict(model.encode(model.preprocess_batch([sample])))
    for t, word in enumerate([0, *words]):
        model.step(state, torch.tensor([word]), t)
    logp = model.predictor(state)[kfg.G_LOGITS][0].log_softmax(0)
    if suppress_unk:
        logp[UNK] = float("-inf")
    return logp, state[keys.GAMMA][0]


def slow_beam(model, sample, width: int, length: int) -> tuple[list[int], float, list[int]]:
    """Beam search over lists of words: (words without the end, log-probability, argmax gamma of each word)."""
    beams = [([], 0.0, [], False)]
    for _ in range(length):
        candidates = []
        for words, score, regions, done in beams:
            if done:
                candidates.append((words, score, regions, True))
                continue
            logp, gamma = word_log_probs(model, sample, words)
            weights = gamma[: len(sample[kfg.ATT_FEATS])]  # those of regions; a model without attention has none
            region = int(weights.argmax()) if len(weights) else 0
            for word in range(VOCAB_SIZE):
                candidates.append((words + [word], score + float(logp[word]), regions + [region], word == 0))
        beams = sorted(candidates, key=lambda c: -c[1])[:width]
        if all(done for *_, done in beams):
            break
    words, score, regions, done = beams[0]
    return (words[:-1] if done else words), score, (regions[: len(words) - 1] if done else regions)
