"""POS-SCAN's supervision (Zhou et al., CVPR 2020): train its matcher, and write its attention as a file of word pairs.

    L = L_ce + 0.1 mean over the nouns of KL(g_j || alpha_t)      t: the step that predicts noun j, g of ``scan.match``

``WordAttentionLoss`` with LOSSES.WORD_ATTENTION.{PAIRS, REDUCTION words} is that term without a constant: g is fixed,
so it is computed once. Of each noun the ``TOP`` largest weights are kept and divided by their sum. POS-SCAN's own code
supervises the first 17 words of a caption (misc/loss_wrapper.py:45-64); here all that training keeps.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from xmodaler_ssattn.data.annotations import file_name, read_annotations
from xmodaler_ssattn.data.pair_file import Pair, made_for, write_pairs
from xmodaler_ssattn.data.vocabulary import Vocabulary, read_vocabulary
from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.evaluation.object_words import ObjectWords
from xmodaler_ssattn.methods.matcher_training import Captioned, Kept, batch_of, train_matcher
from xmodaler_ssattn.methods.matching_reward import save_matcher
from xmodaler_ssattn.methods.scan import Matcher
from xmodaler_ssattn.packs.store import RegionStore

SPLIT = "train"
TOP = 8
LEAST = 1e-6  # of a weight in a file of pairs


def nouns_of(tokens: Sequence[str], vocabulary: Vocabulary, names_object: Callable[[str], str | None]) -> list[int]:
    """The positions of the object words; a word that the model cannot say is none."""
    return [at for at, word in enumerate(tokens) if word in vocabulary and names_object(word) is not None]


def read_captioned(folder: Path, store: RegionStore) -> tuple[list[Captioned], Vocabulary]:
    """The training images of a data folder that have regions and a noun.

    Raises:
        UserError: a file is missing or broken, or no caption has an object word.
    """
    words_file = folder / "vocabulary.txt"
    vocabulary, names_object = read_vocabulary(words_file), ObjectWords.of_model(words_file)
    found = []
    for image in read_annotations(folder / file_name(SPLIT), SPLIT).images:
        if image["image_id"] not in store or store.num_boxes(image["image_id"]) == 0:
            continue
        captions = [caption["tokens"] for caption in image["captions"]]
        nouns = [nouns_of(tokens, vocabulary, names_object) for tokens in captions]
        numbers = [number for number, positions in enumerate(nouns) if positions]
        if numbers:
            encoded = [np.array(vocabulary.encode(captions[number])) for number in numbers]
            found.append(Captioned(image["image_id"], numbers, encoded, [np.array(nouns[n]) for n in numbers]))
    if not found:
        raise UserError(
            f"{folder}: no training image with regions in {store.path} has a caption with an object word, so there is "
            "nothing to match. Check that both files belong together (`xmodaler check`)."
        )
    return found, vocabulary


@torch.no_grad()
def targets(
    matcher: Matcher, images: Sequence[Captioned], store: RegionStore, limit: int | None = None
) -> Iterator[tuple[int, list[Pair]]]:
    """Image id and the pairs of its captions: the ``TOP`` largest weights of each noun, which sum to 1."""
    device = next(matcher.parameters()).device
    matcher.eval()
    for image in images:
        g = matcher(batch_of(store, [image.image_id], image.tokens, image.nouns, limit, device))[0][:, 0]
        weights, regions = (part.cpu() for part in g.topk(min(TOP, g.shape[-1]), dim=-1))
        weights = weights / weights.sum(-1, keepdim=True)
        yield (
            image.image_id,
            [
                (number, int(word), int(region), float(weight))
                for row, (number, nouns) in enumerate(zip(image.numbers, image.nouns, strict=True))
                for at, word in enumerate(nouns)
                for region, weight in zip(regions[row, at], weights[row, at], strict=True)
                if weight >= LEAST
            ],
        )


def write_targets(
    data: str | os.PathLike, regions: str | os.PathLike, out: str | os.PathLike, *, epochs: int, device: str = "cpu",
    limit: int | None = None, seed: int = 0, **settings: Any,
) -> list[float]:  # fmt: skip
    """Train a matcher on a data folder's training split and write its file of pairs; the mean loss of each epoch.

    The matcher is written beside it, with the ending .pth, and its training is kept after each epoch, with the ending
    .part: called again after a stop, it continues.

    Args:
        limit: only the first ``limit`` regions per image, DATALOADER.MAX_FEAT_NUM of the captioner.
        settings: of ``Matcher`` and ``train_matcher``: size, word_size, batch, learning_rate.
    """
    folder, store = Path(data), RegionStore(regions)
    images, vocabulary = read_captioned(folder, store)
    sizes = {name: settings.pop(name) for name in ("size", "word_size") if name in settings}
    torch.manual_seed(seed)
    matcher = Matcher(feature_dim=store.feature_dim, vocab_size=vocabulary.model_size, **sizes).to(device)
    files = {"annotation_file": folder / file_name(SPLIT), "vocabulary_file": folder / "vocabulary.txt"}
    regions_file = Path(store.path).stat()
    training = {
        **made_for(SPLIT, store=store, **files), **matcher.settings, **settings, "epochs": epochs, "limit": limit,
        "seed": seed, "regions": [regions_file.st_size, regions_file.st_mtime_ns],
    }  # fmt: skip
    kept = Kept(Path(out).with_suffix(".part"), training)
    history = train_matcher(matcher, images, store, epochs=epochs, limit=limit, seed=seed, kept=kept, **settings)
    save_matcher(Path(out).with_suffix(".pth"), matcher, files["vocabulary_file"])
    write_pairs(out, targets(matcher, images, store, limit), split=SPLIT, store=store, **files)
    kept.path.unlink(missing_ok=True)
    return history
