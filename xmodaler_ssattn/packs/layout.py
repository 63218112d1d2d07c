"""The common layout of a pack's images: the widths of their arrays and the position of the background."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from xmodaler_ssattn.errors import UserError, numbered
from xmodaler_ssattn.packs.pack import Pack, PackError
from xmodaler_ssattn.packs.select import Converted, Rules, read_converted
from xmodaler_ssattn.packs.sniff import other_format

LOOKED_AT = 50  # sampled images, spread over the pack
PROBLEMS_BEFORE_GIVING_UP = 200


class PackLayout(NamedTuple):
    """D, C (None without class probabilities), and where the background is ("first" or "none")."""

    feature_dim: int
    num_classes: int | None
    background: str

    @classmethod
    def of(cls, image: Converted) -> PackLayout:
        """The layout of one image."""
        classes = None if image.class_probs is None else image.class_probs.shape[1]
        return cls(image.features.shape[1], classes, image.background)


def common_layout(
    pack: Pack, image_ids: Sequence[int], rules: Rules, sizes: Mapping[int, tuple[int, int]], skip_bad: bool
) -> PackLayout:
    """The layout of most images in a sample that is spread over the pack, so that no single image decides.

    Raises:
        UserError: no image can be converted, or two widths occur equally often.
    """
    step = -(-len(image_ids) // LOOKED_AT)
    sample = image_ids[::step]
    rest = sorted(set(image_ids) - set(sample))
    seen: dict[int, PackLayout] = {}
    errors: list[str] = []
    for number, image_id in enumerate((*sample, *rest)):
        if (number >= len(sample) and seen) or (not skip_bad and len(errors) >= PROBLEMS_BEFORE_GIVING_UP):
            break
        try:
            seen[image_id] = PackLayout.of(read_converted(pack, image_id, rules, sizes))
        except UserError as error:
            errors.append(str(error))
    if not seen:
        hint = other_format(pack.name, pack.inputs)
        raise UserError(
            f"None of {len(errors)} images can be converted{'. ' + hint if hint else ''}:\n{numbered(errors)}"
        )
    names = ("Numbers in a feature", "Class probabilities", "Place of the background")
    columns = (dict(zip(seen, values)) for values in zip(*seen.values()))
    return PackLayout(*(_most_common(values, pack, name) for values, name in zip(columns, names)))


def _most_common(values: Mapping[int, Any], pack: Pack, what: str) -> Any:
    """The most frequent value; if None and another value are equally frequent, the other value."""
    counts = Counter(values.values())
    best = [value for value, count in counts.items() if count == max(counts.values())]
    best = [value for value in best if value is not None] or best
    if len(best) == 1:
        return best[0]
    examples = (next(image_id for image_id, found in values.items() if found == value) for value in best)
    shown = "; ".join(f"{value} in {pack.place(image_id)}" for value, image_id in zip(best, examples))
    raise UserError(f"The images of the pack disagree, and no value is the most common one. {what}: {shown}.")


def check_layout(image: Converted, layout: PackLayout) -> None:
    """Raise a ``PackError`` when an image differs from most of the pack."""
    count = len(image.features)
    for name, values, width in (
        ("features", image.features, layout.feature_dim),
        ("class_probs", image.class_probs, layout.num_classes),
    ):
        if (values is None) != (width is None):
            there = "missing" if values is None else "given"
            raise PackError(f"{image.where}: {name} are {there}, unlike those of most images of the pack.")
        if values is not None and values.shape[1] != width:
            raise PackError(
                f"{image.where}: {name} has shape {values.shape}, expected ({count}, {width}) as in most images of "
                "the pack."
            )
    if image.background != layout.background:
        raise PackError(
            f"{image.where}: the background of its class probabilities is {image.background!r}, but "
            f"{layout.background!r} in most images of the pack."
        )
