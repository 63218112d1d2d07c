"""Convert a whole pack: streaming, image by image, to be stopped and gone on with at any moment."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import h5py

from xmodaler_ssattn.data.annotations import SPLITS, file_name, open_annotations
from xmodaler_ssattn.data.convert.pack import Pack, PackError
from xmodaler_ssattn.data.convert.select import Converted, Rules, convert_image
from xmodaler_ssattn.data.problems import numbered
from xmodaler_ssattn.data.region_file import ORDER_BY_PROBABILITY, ORDER_BY_SCORE
from xmodaler_ssattn.data.region_writer import RegionWriter
from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.files import read_json, sha256_of, write_json
from xmodaler_ssattn.progress import progress

FIRST_IMAGES = 20
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
        raise UserError(
            f"No image to convert: the pack has {len(available)} images"
            + (
                "."
                if wanted is None
                else f", and none of the {len(wanted)} images of the data set. Are the ids of the same data set?"
            )
            + (f"\n{numbered(problems[:FIRST_IMAGES])}" if pack.problems else "")
        )
    sizes = sizes or {}
    first = _first_good(pack, chosen, rules, sizes)
    num_regions = rules.limit or max(progress((pack.count(image_id) for image_id in chosen), len(chosen), "counting"))
    num_classes = None if first.class_probs is None else first.class_probs.shape[1]
    cut_by = "order of the source" if rules.cut_by_order else "best class probability or detector confidence"
    feature_dim = first.features.shape[1]
    order = pack.order
    if rules.sort:
        order = ORDER_BY_SCORE if num_classes is None else ORDER_BY_PROBABILITY
    writer = RegionWriter(
        out,
        chosen,
        num_regions,
        feature_dim,
        num_classes,
        feature_dtype=feature_dtype,
        probs_dtype=probs_dtype,
        source=pack.source,
        order=order,
        background=first.background,
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
        for image_id in progress(chosen, desc="regions"):
            if writer.is_written(image_id):
                continue
            try:
                packed = pack.read(image_id)
                image = convert_image(packed, rules, sizes.get(image_id))
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
        feature_dim,
        num_classes,
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
    try:
        return {int(image_id): (int(size[0]), int(size[1])) for image_id, size in content.items()}
    except (AttributeError, IndexError, TypeError, ValueError) as error:
        raise UserError(f'{path}: expected {{"image id": [width, height], ...}} ({error}).') from error


def sha256_or_empty(path: str | os.PathLike | None) -> str:
    """The sha256 of a file, "" for None; a ``UserError`` when the file does not exist."""
    if path is None:
        return ""
    if not Path(path).is_file():
        raise UserError(f"{path} does not exist.")
    return sha256_of(path)


def _first_good(
    pack: Pack, image_ids: Collection[int], rules: Rules, sizes: Mapping[int, tuple[int, int]]
) -> Converted:
    """The first image that can be converted tells D and C."""
    errors = []
    for image_id in image_ids:
        try:
            return convert_image(pack.read(image_id), rules, sizes.get(image_id))
        except PackError as error:
            errors.append(str(error))
            if len(errors) == FIRST_IMAGES:
                break
    raise UserError(f"Not one of the first images can be converted:\n{numbered(errors)}")


def _check_same_pack(writer: RegionWriter, pack: Pack, rules: Rules, sizes: Mapping[int, tuple[int, int]]) -> None:
    """The first, middle and last image of an unfinished file must be those of this pack, or two packs would mix."""
    written = writer.written.tolist()
    for image_id in dict.fromkeys(written[at] for at in (0, len(written) // 2, -1) if written):
        try:
            image = convert_image(pack.read(image_id), rules, sizes.get(image_id))
            same = writer.holds(image_id, image.boxes_px, image.features)
        except PackError:
            same = False
        if not same:
            raise UserError(
                f"The unfinished file {writer.partial} was begun from another pack: image {image_id} has "
                "other boxes or features there. Delete it to begin anew, or give another --out."
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
