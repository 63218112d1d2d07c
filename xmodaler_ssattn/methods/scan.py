"""The matcher of POS-SCAN (Zhou et al., CVPR 2020): which regions a noun of a caption means, learned without boxes.

It is SCAN's text-to-image matcher (Lee et al., ECCV 2018), on the nouns of the caption only. For the regions v_i of an
image and the words w_j of a caption, all of length 1:

    s_ij = LeakyReLU(v_i . w_j), divided by its norm over the words j        g_ij = softmax_i(9 s_ij)
    R_j  = cos(w_j, sum_i g_ij v_i)                                          score = mean of R_j over the nouns

Training ranks the score of an image and its caption above those of other pairs of the batch by a margin of 0.2. The
targets of the captioner's attention are g, see ``pos_scan.py``. Source: misc/SCAN/model.py:186-310 and 518-573,
misc/ground_reward.py:55-66 of YuanEZhou/Grounded-Image-Captioning. Nouns are here the object words of the captions
(``evaluation.object_words``) instead of the tags of a tagger.

Letters: B images, N captions, K regions, J nouns of a caption, T words, D feature size, E matching size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

SHARPNESS, SLOPE, MARGIN = 9.0, 0.1, 0.2


def padded(rows: Sequence, device: torch.device) -> Tensor:
    """n rows of numbers, of different lengths -> (n, longest) on ``device``, 0 on the right."""
    return pad_sequence([torch.as_tensor(row) for row in rows], batch_first=True).to(device)


def match(v: Tensor, w: Tensor, region_mask: Tensor, noun_mask: Tensor) -> tuple[Tensor, Tensor]:
    """The attention and the cosine of every noun of every caption for every image.

    Args:
        v: (B, K, E) regions of length 1.
        w: (N, J, E) nouns of length 1.
        region_mask, noun_mask: (B, K) and (N, J), 0 for padding.

    Returns:
        g (N, B, J, K), each row sums to 1, and R (N, B, J).

    >>> v, one = torch.eye(2)[None], torch.ones(1, 2)  # two words, each equal to one of two regions
    >>> g, r = match(v, v, one, one)
    >>> [round(x, 4) for x in g[0, 0, 0].tolist()], round(float(r[0, 0, 0]), 4)  # e^9 / (e^9 + 1)
    ([0.9999, 0.0001], 1.0)
    """
    dots = torch.einsum("nje,bke->nbjk", w, v)
    s = F.leaky_relu(dots, SLOPE) * noun_mask[:, None, :, None]
    s = s / s.norm(dim=2, keepdim=True).clamp_min(1e-8)
    g = (SHARPNESS * s).masked_fill(region_mask[None, :, None] == 0, float("-inf")).softmax(-1)
    # |sum_i g_i v_i|^2 = g^T (v v^T) g: the sum itself would be E numbers per noun and image.
    length = (torch.einsum("nbjk,bkl->nbjl", g, v @ v.transpose(1, 2)) * g).sum(-1).clamp_min(1e-12).sqrt()
    return g, (g * dots).sum(-1) / length


def caption_scores(r: Tensor, noun_mask: Tensor) -> Tensor:
    """The mean of R over the nouns: (N, B, J), (N, J) -> (N, B); 0 for a caption without a noun."""
    return (r * noun_mask.unsqueeze(1)).sum(-1) / noun_mask.sum(-1).clamp(min=1).unsqueeze(1)


def ranking_loss(scores: Tensor) -> Tensor:
    """The hinge loss of all wrong pairs, per caption: (B, B) scores of caption n and image b -> ().

    >>> round(float(ranking_loss(torch.tensor([[0.5, 0.4], [0.0, 0.5]]))), 4)  # twice 0.2 + 0.4 - 0.5, of two captions
    0.1
    """
    right = scores.diagonal()
    cost = (MARGIN + scores - right.unsqueeze(1)).clamp(min=0) + (MARGIN + scores - right).clamp(min=0)
    return (cost.sum() - cost.diagonal().sum()) / len(scores)


class Matcher(nn.Module):
    """Regions by a linear layer, words by an embedding and a GRU over the caption; both divided by their lengths.

    Args:
        feature_dim, size: D and E.
        vocab_size, word_size: of the word embedding; words + 1, and its width.
    """

    def __init__(self, *, feature_dim: int, vocab_size: int, size: int = 1024, word_size: int = 300) -> None:
        super().__init__()
        self.settings = {"feature_dim": feature_dim, "vocab_size": vocab_size, "size": size, "word_size": word_size}
        self.regions = nn.Linear(feature_dim, size)
        self.embed = nn.Embedding(vocab_size, word_size)
        self.gru = nn.GRU(word_size, size, batch_first=True)

    def encode_regions(self, feats: Tensor) -> Tensor:
        """(B, K, D) -> (B, K, E) of length 1."""
        return F.normalize(self.regions(feats), dim=-1)

    def encode_nouns(self, tokens: Tensor, nouns: Tensor) -> Tensor:
        """(N, T) word ids, (N, J) positions of the nouns -> (N, J, E) of length 1. Padding follows the words."""
        states, _ = self.gru(self.embed(tokens))
        index = nouns.unsqueeze(-1).expand(-1, -1, states.shape[-1])
        return F.normalize(states.gather(1, index), dim=-1)

    def forward(self, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """``match`` of a batch with feats (B, K, D), region_mask, tokens (N, T), nouns (N, J) and noun_mask."""
        v, w = self.encode_regions(batch["feats"]), self.encode_nouns(batch["tokens"], batch["nouns"])
        return match(v, w, batch["region_mask"], batch["noun_mask"])
