"""Convert a whole pack: image by image, never all in memory; a stopped conversion can be resumed."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import h5py

from xmodaler_ssattn.errors import UserError, numbered, raise_all
from xmodaler_ssattn.files import read_json, sha256_of, write_json
from xmodaler_ssattn.ids import image_id_of
from xmodaler_ssattn.packs.pack import Pack, PackError
from xmodaler_ssattn.packs.region_file import ORDER_BY_PROBABILITY, ORDER_BY_SCORE
from xmodaler_ssattn.packs.select import Converted, Rules, check_sums, read_converted
from xmodaler_ssattn.packs.sniff import other_format
from xmodaler_ssattn.packs.writer import RegionWriter
from xmodaler_ssattn.progress import progress

LOOKED_AT = 50  # images, spread over the pack, whose layout is that of the pack
PROBLEMS_BEFORE_GIVING_UP = 200
Sizes = Mapping[int, tuple[int, int]]


@dataclasses.dataclass
class ConvertReport:
    """The result of a conversion.

    K, D, C (None without class probabilities) are num_regions, feature_dim, num_classes.
    """

    path: Path
    images: int  # in the file
    cut_images: int  # of these, with regions cut
    num_regions: int
    feature_dim: int
    num_classes: int | None
    resumed: int  # converted by an earlier, stopped run
    unused: int  # in the pack, but not in the data set
    left_out: list[str]  # one sentence per skipped image; empty unless ``skip_bad``


def convert_regions(
    pack: Pack,
    out: str | os.PathLike,
    rules: Rules,
    *,
    wanted: Sequence[int] | None = None,
    sizes: Sizes | None = None,
    feature_dtype: str = "float32",
    probs_dtype: str = "float32",
    vocabulary_sha256: str = "",
    weights_sha256: str = "",
    skip_bad: bool = False,
    overwrite: bool = False,
) -> ConvertReport:
    """Write the region file of a pack.

    A stopped run leaves ``OUT.partial``; the same command resumes it, and the result is byte-identical to that of an
    uninterrupted run. ``OUT`` itself appears only when it is complete.

    Args:
        rules: how to cut, order and complete.
        wanted: the images of the data set; None: all images of the pack.
        sizes: image id -> width, height, for packs that do not store them, and to check those that do.
        feature_dtype, probs_dtype: "float32" or "float16".
        vocabulary_sha256, weights_sha256: recorded, when known.
        skip_bad: leave out images that cannot be used, and write their list to ``OUT.left_out.json``.
        overwrite: replace an existing file, or an unfinished one with other settings.

    Raises:
        UserError: lists all bad or missing images with file and line or key. Good images stay in ``OUT.partial``.
    """
    out = Path(out)
    sizes = sizes or {}
    if out.exists() and not overwrite:
        raise UserError(f"{out} exists already; give another name, or --overwrite to replace it.")
    if rules.background is None:
        rules = dataclasses.replace(rules, background=pack.background)
    available = pack.ids()
    problems = list(pack.problems)
    known = set(available)
    chosen = available
    if wanted is not None:
        chosen = [image_id for image_id in wanted if image_id in known]
        missing = sorted(set(wanted) - known)
        problems += [f"image {image_id} of the data set is not in the pack" for image_id in missing]
    if not chosen:
        raise UserError(_nothing_to_convert(pack, len(available), wanted))
    layout = _common_layout(pack, chosen, rules, sizes, skip_bad)
    num_regions = rules.limit or _most_regions(pack, chosen)
    order = pack.order
    if rules.sort:
        order = ORDER_BY_SCORE if layout.num_classes is None else ORDER_BY_PROBABILITY
    with RegionWriter(
        out,
        chosen,
        num_regions,
        layout.feature_dim,
        layout.num_classes,
        feature_dtype=feature_dtype,
        probs_dtype=probs_dtype,
        source=pack.source,
        order=order,
        background=layout.background,
        vocabulary_sha256=vocabulary_sha256 or pack.vocabulary_sha256,
        weights_sha256=weights_sha256 or pack.weights_sha256,
        attributes={
            "cut_by": "order of the source" if rules.cut_by_order else "best class probability or detector confidence",
            "min_score": "" if rules.min_score is None else str(rules.min_score),
            "classifier_sha256": "" if rules.classifier is None else rules.classifier.sha256,
            # The names of the classes; a classifier's may be others.
            **({"vocabulary": pack.vocabulary} if pack.vocabulary and rules.classifier is None else {}),
        },
        resume=True,
        discard_other=overwrite,
        drop_missing=True,
    ) as writer:
        resumed = len(writer.written)
        _check_same_pack(writer, pack, rules, sizes)
        wanted_ids = set(chosen)
        # In the pack's order, not that of the rows: a compressed file is then unpacked once.
        for image_id in progress([image_id for image_id in available if image_id in wanted_ids], desc="regions"):
            if writer.is_written(image_id):
                continue
            try:
                image = read_converted(pack, image_id, rules, sizes)
                _check_layout(image, layout)
                check_sums(image)
                arrays = image.boxes_px, image.features, image.class_probs
                writer.write(
                    image_id, image.width, image.height, *arrays, source_boxes=image.source_boxes, where=image.where
                )
            except UserError as error:
                problems.append(str(error))
                if not skip_bad and len(problems) >= PROBLEMS_BEFORE_GIVING_UP:
                    break
        if problems and not skip_bad:
            raise UserError(
                f"{len(problems)} problem(s), {out} was not written:\n{numbered(problems)}\n"
                f"{len(writer.written)} good images are kept in {writer.partial}. Fix the pack and start again, or add "
                "--skip-bad to leave the others out (their list is written), or delete the file."
            )
    left_out = out.with_name(out.name + ".left_out.json")
    if problems:
        write_json(left_out, problems, indent=1)
    else:
        left_out.unlink(missing_ok=True)
    with h5py.File(out, "r", locking=False) as file:
        counts, source = file["num_boxes"][...], file["source_boxes"][...]
    cut, unused = int((source > counts).sum()), len(known - set(chosen))
    return ConvertReport(out, len(counts), cut, num_regions, *layout[:2], resumed, unused, problems)


def read_sizes(path: str | os.PathLike) -> dict[int, tuple[int, int]]:
    """Read a JSON object image id -> [width, height]; a ``UserError`` lists all wrong entries."""
    content = read_json(path, "Image sizes")
    wanted = 'expected {"image id": [width, height], ...}'
    if not isinstance(content, dict):
        raise UserError(f"{path}: {wanted}, found a {type(content).__name__}.")
    found: dict[int, tuple[int, int]] = {}
    problems = []
    for key, size in content.items():
        if not (isinstance(size, list) and len(size) == 2 and all(type(side) is int and side > 0 for side in size)):
            problems.append(f"{key!r} has the size {size!r}, {wanted}")
            continue
        try:
            image_id = image_id_of(key)
            if image_id in found:
                raise UserError(f"image {image_id} is duplicated")
            found[image_id] = size[0], size[1]
        except UserError as error:
            problems.append(str(error))
    raise_all(problems, f"{path} cannot be used")
    return found


def sha256_or_empty(path: str | os.PathLike | None) -> str:
    """The sha256 of a file, "" for None; a ``UserError`` when the file does not exist."""
    if path is None:
        return ""
    if not Path(path).is_file():
        raise UserError(f"{path} does not exist.")
    return sha256_of(path)


class PackLayout(NamedTuple):
    """D, C (None without class probabilities), and where the background is ("first" or "none")."""

    feature_dim: int
    num_classes: int | None
    background: str


def _common_layout(
    pack: Pack, image_ids: Sequence[int], rules: Rules, sizes: Mapping[int, tuple[int, int]], skip_bad: bool
) -> PackLayout:
    """The layout of most images in a sample that is spread over the pack, so that no single image decides.

    Raises:
        UserError: no image can be converted, or two widths occur equally often.
    """
    sample = image_ids[:: -(-len(image_ids) // LOOKED_AT)]
    rest = sorted(set(image_ids) - set(sample))
    seen: dict[int, PackLayout] = {}
    errors: list[str] = []
    for number, image_id in enumerate((*sample, *rest)):
        if (number >= len(sample) and seen) or (not skip_bad and len(errors) >= PROBLEMS_BEFORE_GIVING_UP):
            break
        try:
            image = read_converted(pack, image_id, rules, sizes)
            classes = None if image.class_probs is None else image.class_probs.shape[1]
            seen[image_id] = PackLayout(image.features.shape[1], classes, image.background)
        except UserError as error:
            errors.append(str(error))
    if not seen:
        hint = other_format(pack.name, pack.inputs)
        hint = f". {hint}" if hint else ""
        raise UserError(f"None of {len(errors)} images can be converted{hint}:\n{numbered(errors)}")
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


def _check_layout(image: Converted, layout: PackLayout) -> None:
    """Raise a ``PackError`` when an image differs from most of the pack."""
    for name, values, width in (
        ("features", image.features, layout.feature_dim),
        ("class_probs", image.class_probs, layout.num_classes),
    ):
        if (values is None) != (width is None):
            there = "missing" if values is None else "given"
            raise PackError(f"{image.where}: {name} are {there}, unlike those of most images of the pack.")
        if values is not None and values.shape[1] != width:
            wanted = f"expected ({len(values)}, {width}) as in most images of the pack"
            raise PackError(f"{image.where}: {name} has shape {values.shape}, {wanted}.")
    if image.background != layout.background:
        raise PackError(
            f"{image.where}: the background of its class probabilities is {image.background!r}, but "
            f"{layout.background!r} in most images of the pack."
        )


def _nothing_to_convert(pack: Pack, available: int, wanted: Sequence[int] | None) -> str:
    message = f"No image to convert: the pack has {available} images"
    if wanted is None:
        message += "."
    else:
        message += f", and none of the {len(wanted)} images of the data set. Are the ids of the same data set?"
    if hint := other_format(pack.name, pack.inputs):
        message += f" {hint}"
    return message + (f"\n{numbered(pack.problems)}" if pack.problems else "")


def _most_regions(pack: Pack, image_ids: Sequence[int]) -> int:
    """The largest number of regions of an image; images that cannot be read are ignored."""
    most = 0
    for image_id in progress(image_ids, desc="counting"):
        with contextlib.suppress(Exception):  # reported when it is converted
            most = max(most, pack.count(image_id))
    return most


def _check_same_pack(writer: RegionWriter, pack: Pack, rules: Rules, sizes: Sizes) -> None:
    """Refuse to resume a file that was begun with another pack or other rules: the two would mix.

    All given sizes are compared, and all data of the first, middle and last image.
    """
    written = writer.written.tolist()
    begun = f"The unfinished file {writer.partial} was begun"
    remedy = "Delete it to start over, or give another --out."
    for image_id in written:
        if sizes.get(image_id, there := writer.image_size(image_id)) != there:
            raise UserError(
                f"{begun} with other image sizes: image {image_id} is {there} there, {sizes[image_id]} now. {remedy}"
            )
    for image_id in dict.fromkeys(written[at] for at in (0, len(written) // 2, -1) if written):
        try:
            image = read_converted(pack, image_id, rules, sizes)
            arrays = image.boxes_px, image.features, image.class_probs
            same = writer.holds(image_id, image.width, image.height, *arrays)
        except UserError:
            same = False
        if not same:
            raise UserError(
                f"{begun} from another pack: image {image_id} has other boxes, features or class probabilities there. "
                f"Or was it begun with another --background? {remedy}"
            )
