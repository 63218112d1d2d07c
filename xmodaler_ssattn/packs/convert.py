"""Convert a whole pack: streaming, image by image; it can be stopped at any moment and resumed."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import h5py

from xmodaler_ssattn.data.annotations import SPLITS, file_name, open_annotations
from xmodaler_ssattn.errors import UserError, numbered
from xmodaler_ssattn.files import read_json, sha256_of, write_json
from xmodaler_ssattn.ids import image_id_of
from xmodaler_ssattn.packs.pack import Pack, PackedImage, PackError
from xmodaler_ssattn.packs.region_file import ORDER_BY_PROBABILITY, ORDER_BY_SCORE
from xmodaler_ssattn.packs.select import Converted, Rules, check_sums, convert_image
from xmodaler_ssattn.packs.sniff import other_format
from xmodaler_ssattn.packs.writer import RegionWriter
from xmodaler_ssattn.progress import progress

LOOKED_AT = 50  # images, spread over the pack, that tell its widths
PROBLEMS_BEFORE_GIVING_UP = 200


@dataclasses.dataclass
class ConvertReport:
    """What was converted.

    Attributes:
        images: in the file.
        cut_images: of these, images that had more regions than are kept.
        num_regions, feature_dim, num_classes: K, D, C (None without class probabilities).
        resumed: images that an earlier, stopped run had converted.
        unused: images of the pack that nobody asked for.
        left_out: what was skipped, one sentence each (empty unless ``skip_bad``).
    """

    path: Path
    images: int
    cut_images: int
    num_regions: int
    feature_dim: int
    num_classes: int | None
    resumed: int
    unused: int
    left_out: list[str]


def convert_regions(
    pack: Pack,
    out: str | os.PathLike,
    rules: Rules,
    *,
    wanted: Sequence[int] | None = None,
    sizes: Mapping[int, tuple[int, int]] | None = None,
    feature_dtype: str = "float32",
    probs_dtype: str = "float32",
    vocabulary_sha256: str = "",
    weights_sha256: str = "",
    skip_bad: bool = False,
    overwrite: bool = False,
) -> ConvertReport:
    """Write the region file of a pack.

    A run that was stopped leaves ``OUT.partial``; the same command goes on from there, and the result
    has the same bytes as that of a run without a stop. ``OUT`` itself appears only when all is well.

    Args:
        rules: how to cut, order and complete.
        wanted: the images of the data set; None takes all of the pack.
        sizes: image id -> width, height, for packs that do not say, and to check those that do.
        feature_dtype, probs_dtype: "float32" or "float16".
        vocabulary_sha256, weights_sha256: recorded, when known.
        skip_bad: leave out images that cannot be used, and write their list to ``OUT.left_out.json``.
        overwrite: replace an existing file, and an unfinished one that was begun with other settings.

    Raises:
        UserError: all that is bad or missing, each with file and line or key. Good images stay in ``OUT.partial``.
    """
    out = Path(out)
    if out.exists() and not overwrite:
        raise UserError(f"{out} exists already; give another name, or --overwrite to replace it.")
    if rules.background is None:
        rules = dataclasses.replace(rules, background=pack.background)
    available = pack.ids()
    problems = list(pack.problems)
    known = set(available)
    chosen = available if wanted is None else [image_id for image_id in wanted if image_id in known]
    if wanted is not None:
        missing = sorted(set(wanted) - known)
        problems += [f"image {image_id} of the data set is not in the pack" for image_id in missing]
    if not chosen:
        hint = other_format(pack.name, pack.inputs)
        raise UserError(
            f"No image to convert: the pack has {len(available)} images"
            + (
                "."
                if wanted is None
                else f", and none of the {len(wanted)} images of the data set. Are the ids of the same data set?"
            )
            + (f" {hint}" if hint else "")
            + (f"\n{numbered(pack.problems)}" if pack.problems else "")
        )
    sizes = sizes or {}
    layout = _layout(pack, chosen, rules, sizes, skip_bad)
    num_regions = rules.limit or _most_regions(pack, chosen)
    cut_by = "order of the source" if rules.cut_by_order else "best class probability or detector confidence"
    order = pack.order
    if rules.sort:
        order = ORDER_BY_SCORE if layout.num_classes is None else ORDER_BY_PROBABILITY
    writer = RegionWriter(
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
            "cut_by": cut_by,
            "min_score": "" if rules.min_score is None else str(rules.min_score),
            "classifier_sha256": "" if rules.classifier is None else rules.classifier.sha256,
        },
        resume=True,
        discard_other=overwrite,
        drop_missing=True,
    )
    with writer:
        resumed = len(writer.written)
        _check_same_pack(writer, pack, rules, sizes)
        wanted_ids = set(chosen)
        # In the pack's order, whatever that of the rows: a compressed file is then unpacked once.
        for image_id in progress([image_id for image_id in available if image_id in wanted_ids], desc="regions"):
            if writer.is_written(image_id):
                continue
            try:
                packed = pack.read(image_id)
                image = _convert(packed, rules, sizes)
                _check_layout(image, layout, packed.where)
                check_sums(image, packed.where)
                writer.write(
                    image_id,
                    image.width,
                    image.height,
                    image.boxes_px,
                    image.features,
                    image.class_probs,
                    source_boxes=image.source_boxes,
                    where=packed.where,
                )
            except UserError as error:
                problems.append(str(error))
                if not skip_bad and len(problems) >= PROBLEMS_BEFORE_GIVING_UP:
                    break
        if problems and not skip_bad:
            _raise(problems, writer)
    _write_left_out(out, problems)
    with h5py.File(out, "r", locking=False) as file:
        counts, source = file["num_boxes"][...], file["source_boxes"][...]
    return ConvertReport(
        out,
        len(counts),
        int((source > counts).sum()),
        num_regions,
        layout.feature_dim,
        layout.num_classes,
        resumed,
        len(known - set(chosen)),
        problems,
    )


def read_dataset(folder: str | os.PathLike) -> dict[int, tuple[int, int]]:
    """image id -> (width, height) of every split in a folder that ``prepare annotations`` wrote."""
    found: dict[int, tuple[int, int]] = {}
    for split in SPLITS:
        path = Path(folder) / file_name(split)
        if path.exists():
            found.update(
                {image["image_id"]: (image["width"], image["height"]) for image in open_annotations(path, split)[1]}
            )
    if not found:
        raise UserError(
            f"{folder} holds no annotation file ({', '.join(map(file_name, SPLITS))}); "
            "run `xmodaler prepare annotations` first."
        )
    return found


def read_sizes(path: str | os.PathLike) -> dict[int, tuple[int, int]]:
    """Read a JSON object image id -> [width, height]."""
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
        except UserError as error:
            problems.append(str(error))
            continue
        if image_id in found:
            problems.append(f"image {image_id} stands twice")
        found[image_id] = size[0], size[1]
    if problems:
        raise UserError(f"{path} cannot be used:\n{numbered(problems)}")
    return found


def sha256_or_empty(path: str | os.PathLike | None) -> str:
    """The sha256 of a file, "" for None; a ``UserError`` when the file does not exist."""
    if path is None:
        return ""
    if not Path(path).is_file():
        raise UserError(f"{path} does not exist.")
    return sha256_of(path)


class Layout(NamedTuple):
    """What all images of a region file have in common: D, C (None without class probabilities), background."""

    feature_dim: int
    num_classes: int | None
    background: str


def _layout(
    pack: Pack, image_ids: Sequence[int], rules: Rules, sizes: Mapping[int, tuple[int, int]], skip_bad: bool
) -> Layout:
    """The widths that most of the images have, by a sample that is spread over the pack: no single image decides.

    Raises:
        UserError: not one image can be converted, or two widths occur equally often.
    """
    step = -(-len(image_ids) // LOOKED_AT)
    sample = image_ids[::step]
    rest = sorted(set(image_ids) - set(sample))
    seen: dict[int, Layout] = {}
    errors = []
    for number, image_id in enumerate((*sample, *rest)):
        if (number >= len(sample) and seen) or (not skip_bad and len(errors) >= PROBLEMS_BEFORE_GIVING_UP):
            break
        try:
            image = _convert(pack.read(image_id), rules, sizes)
            num_classes = None if image.class_probs is None else image.class_probs.shape[1]
            seen[image_id] = Layout(image.features.shape[1], num_classes, image.background)
        except UserError as error:
            errors.append(str(error))
    if not seen:
        hint = other_format(pack.name, pack.inputs)
        raise UserError(
            f"Not one of {len(errors)} images can be converted{'. ' + hint if hint else ''}:\n{numbered(errors)}"
        )
    return Layout(
        _most_common({i: layout.feature_dim for i, layout in seen.items()}, pack, "numbers in a feature"),
        _most_common({i: layout.num_classes for i, layout in seen.items()}, pack, "class probabilities"),
        _most_common({i: layout.background for i, layout in seen.items()}, pack, "place of the background"),
    )


def _most_common(values: Mapping[int, Any], pack: Pack, what: str) -> Any:
    """The most frequent value; of None and another, equally frequent, the other."""
    counts = Counter(values.values())
    best = [value for value, count in counts.items() if count == max(counts.values())]
    best = [value for value in best if value is not None] or best
    if len(best) == 1:
        return best[0]
    examples = (next(image_id for image_id, found in values.items() if found == value) for value in best)
    raise UserError(
        f"The images of the pack disagree, and no value is the most common one. {what[0].upper()}{what[1:]}: "
        + "; ".join(f"{value} in {pack.place(image_id)}" for value, image_id in zip(best, examples))
        + "."
    )


def _check_layout(image: Converted, layout: Layout, where: str) -> None:
    """Raise a ``PackError`` that says in what an image differs from most of the pack."""
    count = len(image.features)
    for name, values, width in (
        ("features", image.features, layout.feature_dim),
        ("class_probs", image.class_probs, layout.num_classes),
    ):
        if (values is None) != (width is None):
            there = "missing" if values is None else "given"
            raise PackError(f"{where}: {name} are {there}, unlike those of most images of the pack.")
        if values is not None and values.shape[1] != width:
            raise PackError(
                f"{where}: {name} has shape {values.shape}, expected ({count}, {width}) as in most images of the pack."
            )
    if image.background != layout.background:
        raise PackError(
            f"{where}: the background of its class probabilities is {image.background!r}, but {layout.background!r} in "
            "most images of the pack."
        )


def _convert(packed: PackedImage, rules: Rules, sizes: Mapping[int, tuple[int, int]]) -> Converted:
    """``convert_image``; whatever else an image makes it raise becomes a ``PackError`` with type and text."""
    try:
        return convert_image(packed, rules, sizes.get(packed.image_id))
    except UserError:
        raise
    except Exception as error:
        raise PackError(f"{packed.where}: it cannot be converted ({type(error).__name__}: {error}).") from error


def _most_regions(pack: Pack, image_ids: Sequence[int]) -> int:
    """The most regions that an image has; images that cannot be read do not count."""
    most = 0
    for image_id in progress(image_ids, desc="counting"):
        with contextlib.suppress(Exception):  # named when it is converted
            most = max(most, pack.count(image_id))
    return most


def _check_same_pack(writer: RegionWriter, pack: Pack, rules: Rules, sizes: Mapping[int, tuple[int, int]]) -> None:
    """An unfinished file must be of this pack, read in this way, or the two would mix.

    All sizes that are given are compared, and the first, middle and last image whole.
    """
    written = writer.written.tolist()
    begun = f"The unfinished file {writer.partial} was begun"
    remedy = "Delete it to begin anew, or give another --out."
    for image_id in written:
        if sizes.get(image_id, there := writer.image_size(image_id)) != there:
            raise UserError(
                f"{begun} with other image sizes: image {image_id} is {there} there, {sizes[image_id]} now. {remedy}"
            )
    for image_id in dict.fromkeys(written[at] for at in (0, len(written) // 2, -1) if written):
        try:
            image = _convert(pack.read(image_id), rules, sizes)
            same = writer.holds(image_id, image.width, image.height, image.boxes_px, image.features, image.class_probs)
        except UserError:
            same = False
        if not same:
            raise UserError(
                f"{begun} from another pack: image {image_id} has other boxes, features or class probabilities there. "
                f"Or was it begun with another --background? {remedy}"
            )


def _raise(problems: list[str], writer: RegionWriter) -> None:
    raise UserError(
        f"{len(problems)} problem(s), {writer.path} was not made:\n{numbered(problems)}\n"
        f"{len(writer.written)} good images are kept in {writer.partial}: mend the pack and start again, "
        "or add --skip-bad to go without the others (their list is written), or delete it."
    )


def _write_left_out(out: Path, problems: list[str]) -> None:
    path = out.with_name(out.name + ".left_out.json")
    if problems:
        write_json(path, problems, indent=1)
    else:
        path.unlink(missing_ok=True)
