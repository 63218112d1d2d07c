"""The second stage of POS-SCAN (Zhou et al., CVPR 2020): a caption that matches its image better has a higher reward.

    r = CIDEr-D + MATCHING_WEIGHT mean over the nouns of R_j         R_j in -1 .. 1, see ``scan.match``; no noun: 0

Source: misc/rewards.py:45-52 and 105-124 of YuanEZhou/Grounded-Image-Captioning, which also keeps the KL term on the
sampled captions; here it is a loss of the first stage only.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from xmodaler_ssattn.config import completed
from xmodaler_ssattn.errors import UserError, raise_all
from xmodaler_ssattn.evaluation.object_words import ObjectWords
from xmodaler_ssattn.files import read_lines, sha256_of
from xmodaler_ssattn.host import SCORER_REGISTRY, configurable, kfg
from xmodaler_ssattn.methods.scan import Matcher, caption_scores, match, padded
from xmodaler_ssattn.partners import require_grounded_captioner
from xmodaler_ssattn.safe_load import safe_load
from xmodaler_ssattn.scorer import GroundedScorer
from xmodaler_ssattn.scorer.caption_reward import up_to_the_end
from xmodaler_ssattn.sealed import save_sealed

MATCHING = "Matching"  # the name of the term among the scores
FILE = "match.pth"
_COMMAND = "`xmodaler prepare match` writes it."


def save_matcher(path: str | os.PathLike, matcher: Matcher, vocabulary_file: str | os.PathLike) -> None:
    """Write a matcher with its sizes and the digest of its vocabulary."""
    state = {name: value.cpu() for name, value in matcher.state_dict().items()}
    words = sha256_of(vocabulary_file)
    save_sealed(path, {"model": state, "settings": matcher.settings, "vocabulary_sha256": words})


def load_matcher(path: str | os.PathLike, vocabulary_file: str | os.PathLike, feature_dim: int) -> Matcher:
    """Read a file of ``save_matcher``.

    Raises:
        UserError: it is missing or broken, or was made for another vocabulary or other features.
    """
    if not Path(path).is_file():
        raise UserError(f"SCORER.MATCHER: the file {path} does not exist; {_COMMAND}")
    stored = safe_load(path, "SCORER.MATCHER", checksums=True)
    settings = stored.get("settings") if isinstance(stored, dict) else None
    names = {"feature_dim", "vocab_size", "size", "word_size"}
    whole = isinstance(settings, dict) and set(settings) == names and isinstance(stored.get("model"), dict)
    if not whole or not all(type(value) is int and 0 < value <= 1_000_000 for value in settings.values()):
        raise UserError(f"SCORER.MATCHER: {path} is not a matcher; {_COMMAND}")
    problems = []
    if stored.get("vocabulary_sha256") != sha256_of(vocabulary_file):
        problems.append(f"it was trained with another vocabulary than {vocabulary_file}")
    if settings["feature_dim"] != feature_dim:
        problems.append(
            f"it reads features of {settings['feature_dim']} numbers, MODEL.VISUAL_EMBED.IN_DIM is {feature_dim}"
        )
    with torch.device("meta"):
        matcher = Matcher(**settings)
    wanted = {name: value.shape for name, value in matcher.state_dict().items()}
    if {name: getattr(value, "shape", None) for name, value in stored["model"].items()} != wanted:
        problems.append("its weights do not have the sizes that it states")
    raise_all(problems, f"SCORER.MATCHER: {path} does not fit this run ({_COMMAND})")
    matcher.load_state_dict(stored["model"], assign=True)
    return matcher.eval().requires_grad_(False)


@torch.no_grad()
def matching_scores(
    matcher: Matcher, feats: Tensor, mask: Tensor, captions: list[list[int]], is_noun: np.ndarray
) -> np.ndarray:
    """The matcher's score of each caption and its image.

    Args:
        feats, mask: (B, K, D) and (B, K) of the images, on the matcher's device.
        captions: n lists of word ids, n a multiple of B, image by image.
        is_noun: (V,) bool, for each word id.

    Returns:
        (n,) float64; 0 for a caption without a noun.
    """
    places = [np.flatnonzero(is_noun[caption]) for caption in captions]
    found = np.zeros(len(captions))
    spoken = [at for at, nouns in enumerate(places) if len(nouns)]
    if not spoken:
        return found
    nouns = padded([places[at] for at in spoken], feats.device)
    noun_mask = padded([torch.ones(len(places[at])) for at in spoken], feats.device)
    w = matcher.encode_nouns(padded([captions[at] for at in spoken], feats.device), nouns)
    v, per_image = matcher.encode_regions(feats.float()), len(captions) // len(feats)
    rows = torch.tensor([at // per_image for at in spoken])
    parts = []
    for image in rows.unique().tolist():
        here = (rows == image).nonzero().squeeze(1).to(feats.device)
        r = match(v[image : image + 1], w[here], mask[image : image + 1], noun_mask[here])[1]
        parts.append(caption_scores(r, noun_mask[here])[:, 0])
    found[spoken] = torch.cat(parts).cpu().numpy()
    return found


@SCORER_REGISTRY.register()
class MatchingScorer(GroundedScorer):
    """``GroundedScorer`` plus MATCHING_WEIGHT times the matcher's score of the caption and its image.

    Args:
        matcher: on the device of the captioner.
        is_noun: (V,) bool, the object words among the word ids.
        matching_weight: above 0. The other arguments are those of ``GroundedScorer``.
    """

    @configurable
    def __init__(self, *, matcher: Matcher, is_noun: np.ndarray, matching_weight: float, **arguments: Any) -> None:
        super().__init__(**arguments)
        if not 0 < matching_weight < float("inf"):
            raise UserError(
                f"SCORER.MATCHING_WEIGHT: expected a number above 0 with MatchingScorer, got {matching_weight!r}. "
                "Without the matcher set SCORER.NAME GroundedScorer."
            )
        self.matcher, self.is_noun, self.matching_weight = matcher, is_noun, matching_weight

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        cfg = completed(cfg)
        require_grounded_captioner(cfg, cls.__name__, "whose batches have no regions to match")
        words_file, folder = cfg.INFERENCE.VOCAB, Path(cfg.DATALOADER.ANNO_FOLDER)
        path = cfg.SCORER.MATCHER or folder / FILE
        matcher = load_matcher(path, words_file, cfg.MODEL.VISUAL_EMBED.IN_DIM)
        names_object = ObjectWords.of_model(words_file)
        nouns = [names_object(word) is not None for word in read_lines(words_file, "Vocabulary")]
        return {
            **super().from_config(cfg),
            "matcher": matcher.to(cfg.MODEL.DEVICE),
            "is_noun": np.array([False, *nouns]),
            "matching_weight": cfg.SCORER.MATCHING_WEIGHT,
        }

    def __call__(self, batched_inputs: dict) -> dict:
        """As ``GroundedScorer``; also reads ATT_FEATS (B, K, D) and ATT_MASKS (B, K), n being a multiple of B."""
        out = super().__call__(batched_inputs)
        captions = [up_to_the_end(row) for row in batched_inputs[kfg.G_SENTS_IDS].tolist()]
        images = batched_inputs[kfg.ATT_FEATS], batched_inputs[kfg.ATT_MASKS]
        each = matching_scores(self.matcher, *images, captions, self.is_noun)
        rewards = out[kfg.REWARDS] + self.matching_weight * each
        return {**out, kfg.REWARDS: rewards, MATCHING: float(each.mean()) if len(each) else 0.0}
