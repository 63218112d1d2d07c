"""The losses of the other systems state what they divide by: two batches, weighted by it, give the loss of both."""

import pytest
import torch

from xmodaler_ssattn import keys
from xmodaler_ssattn.host import kfg
from xmodaler_ssattn.methods import ConsistencyLoss, CyclicalLoss, GVDClassLoss, PointerLoss, ProphetLoss
from xmodaler_ssattn.modeling.collate import WordPairs

K, CLASSES = 3, 3
CLASS_OF_WORD = torch.tensor([0, 1, 2, 0, 1])  # 0: names none


def outputs_of(words, pairs, images, seed):
    """The outputs of a step with ``words`` words, one caption per image; the last region of every image is padding."""
    random = torch.Generator().manual_seed(seed)
    alpha, prophet = (torch.rand(words, K, generator=random).softmax(-1) for _ in range(2))
    word = torch.randint(words, (pairs,), generator=random)
    region = torch.randint(K - 1, (pairs,), generator=random)
    return {
        kfg.G_TARGET_IDS: torch.randint(len(CLASS_OF_WORD), (words,), generator=random),
        keys.WORD_ALPHA: alpha,
        keys.PROPHET_ALPHA: prophet,
        keys.IN_PHRASE: torch.randint(2, (words,), generator=random).float(),
        keys.SECOND_CROSS_ENTROPY: torch.rand((), generator=random),
        keys.BRANCH_LOGITS: torch.rand(words, 2, CLASSES, generator=random),
        keys.WORD_PAIRS: WordPairs(word, region, torch.rand(pairs, generator=random)),
        keys.REGION_CLASS_SCORES: torch.rand(images, K, CLASSES, generator=random),
        keys.IMAGE_MASK: torch.tensor([1.0, 1.0, 0.0]).expand(images, K),
        keys.CAPTION_OF_WORD: torch.randint(images, (words,), generator=random).sort().values,
        keys.CAPTIONS_PER_IMAGE: 1,
    }


def joined(a, b):
    words, images = len(a[keys.WORD_ALPHA]), len(a[keys.IMAGE_MASK])
    both = {key: torch.cat([a[key], b[key]]) for key, value in a.items() if torch.is_tensor(value) and value.dim()}
    both[keys.CAPTION_OF_WORD][words:] += images
    word, region, weight = (torch.cat(parts) for parts in zip(a[keys.WORD_PAIRS], b[keys.WORD_PAIRS], strict=True))
    word[len(a[keys.WORD_PAIRS].words) :] += words
    means = [(len(part[keys.WORD_ALPHA]), part[keys.SECOND_CROSS_ENTROPY]) for part in (a, b)]
    mean = sum(count * value for count, value in means) / sum(count for count, _ in means)
    more = {keys.WORD_PAIRS: WordPairs(word, region, weight), keys.SECOND_CROSS_ENTROPY: mean}
    return {**both, **more, keys.CAPTIONS_PER_IMAGE: 1}


@pytest.mark.parametrize(
    "loss",
    [
        GVDClassLoss(class_of_word=CLASS_OF_WORD),
        ProphetLoss(),
        ProphetLoss(distance="kl"),
        CyclicalLoss(),
        ConsistencyLoss(classes=CLASS_OF_WORD - 1),
        PointerLoss(weight=0.1),
    ],
    ids=lambda loss: type(loss).__name__,
)
@pytest.mark.parametrize("pairs", [(4, 9), (0, 3)])
def test_two_batches_give_the_loss_of_both(loss, pairs):
    a, b = outputs_of(5, pairs[0], 2, seed=1), outputs_of(11, pairs[1], 3, seed=2)
    together, counts = loss(joined(a, b)), [float(loss.normaliser(part)) for part in (a, b)]
    assert sum(counts) == pytest.approx(float(loss.normaliser(joined(a, b)))) and together
    for name, value in together.items():
        parts = [float(loss(part)[name]) for part in (a, b)]
        mean = sum(count * part for count, part in zip(counts, parts, strict=True)) / sum(counts)
        assert float(value) == pytest.approx(mean, rel=1e-5), name
