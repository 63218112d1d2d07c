"""The data of a page: results files (the models) and the annotation folder (the ground truth).

Everything but the results is optional; each missing item becomes a sentence in ``notices``.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xmodaler_ssattn.boxes import union_box
from xmodaler_ssattn.caption import GroundedCaption
from xmodaler_ssattn.data.annotations import open_annotations
from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.evaluation.results import ImageResult, Results, read_results
from xmodaler_ssattn.schema import typed

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Model:
    """One results file, with its name on the page."""

    name: str  # unique among the models of a page
    results: Results
    images: Mapping[int, ImageResult]  # image id -> its result; of a repeated id, the last


@dataclass(frozen=True)
class Truth:
    """One image's annotations. Several boxes of one phrase become their union, as in the published grounding metric."""

    size: tuple[float, float]  # (width, height) pixels
    captions: tuple[Mapping[str, Any], ...]  # those of the annotation file: {"raw", "tokens", "phrases"}
    boxes: Mapping[str, tuple[Box, ...]]  # class -> boxes of its phrases in all captions, no repeats, xyxy pixels


@dataclass
class Source:
    """Everything that a page shows."""

    models: tuple[Model, ...]  # in the order of the command line
    image_ids: tuple[int, ...]  # the images of all models, in order of first appearance
    truths: Mapping[int, Truth] = field(default_factory=dict)  # by image id; empty without an annotation folder
    names: Mapping[int, str] = field(default_factory=dict)  # image id -> photograph's name, from `xmodaler caption`
    splits: tuple[str, ...] = ()  # of the results, in order
    annotations: Path | None = None  # the annotation folder
    notices: list[str] = field(default_factory=list)  # one sentence per missing item


def read_source(
    paths: Sequence[str | os.PathLike], names: Sequence[str] = (), annotations: str | os.PathLike | None = None
) -> Source:
    """Read results files and, when given, the annotation folder that belongs to them; names default to the paths'.

    Raises:
        UserError: a file cannot be read, the number of names is not that of the paths, or a name is repeated.
    """
    if names and len(names) != len(paths):
        raise UserError(f"--names: expected one name for each of the {len(paths)} results files, got {len(names)}.")
    if len(set(names)) != len(names):
        raise UserError(f"--names: expected different names, got {', '.join(names)}.")
    models = []
    for name, path in zip(names or default_names(paths), paths):
        results = read_results(path)
        models.append(Model(name, results, {image.image_id: image for image in results.images}))
    image_ids = tuple(dict.fromkeys(i for model in models for i in model.images))
    splits = tuple(dict.fromkeys(str(s) for m in models if (s := m.results.header.get("split"))))
    source = Source(tuple(models), image_ids, names=_names(models), splits=splits)
    source.notices += _about_models(source)
    if not models:
        return source
    if annotations is None:
        source.notices.append(
            "No annotations were given (--annotations): there are no references and no ground-truth boxes, and no "
            "word is judged right or wrong."
        )
    else:
        source.annotations = Path(annotations)
        source.truths, _, notices = read_truths_of(source.splits, image_ids, source.annotations)
        source.notices += notices
        absent = [i for i in image_ids if i not in source.truths]
        if absent and source.truths:
            source.notices.append(f"The annotations lack {these(absent, len(image_ids))}.")
    return source


def _names(models: Sequence[Model]) -> dict[int, str]:
    """File names of photographs, or paths when two names are equal; {} when the models number them differently."""
    found = [names for model in models if isinstance(names := model.results.header.get("pictures"), Mapping)]
    if not found or any(names != found[0] for names in found):
        return {}
    short = {i: Path(str(name)).name for i, name in found[0].items()}
    chosen = short if len(set(short.values())) == len(short) else found[0]
    return {i: str(chosen[str(i)]) for model in models for i in model.images if str(i) in chosen}


def default_names(paths: Sequence[str | os.PathLike]) -> list[str]:
    """Short names that differ: the run's folder for ``RUN/results/FILE.json``, else the file's name, else the path."""
    files = [Path(path) for path in paths]
    short = [(p.parent.name == "results" and p.parent.parent.name) or p.stem for p in files]
    candidates = [
        short,
        [f"{name} {path.stem}" for name, path in zip(short, files)],
        [str(path) for path in paths],
        [f"{path} ({i})" for i, path in enumerate(paths, 1)],
    ]
    return next(names for names in candidates if len(set(names)) == len(names))


def these(ids: Sequence[int], total: int) -> str:
    """ "3 of 10 images: 4, 5, 6" """
    return f"{len(ids)} of {total} images: {', '.join(map(str, ids[:5]))}{', ...' if len(ids) > 5 else ''}"


def _about_models(source: Source) -> list[str]:
    notices = ["The results have no images."] if source.models and not source.image_ids else []
    if len(source.splits) > 1:
        notices.append(f"The results are of different splits: {', '.join(source.splits)}.")
    for model in source.models:
        lacking = [i for i in source.image_ids if i not in model.images]
        if lacking:
            notices.append(f"{model.name} has no caption for {these(lacking, len(source.image_ids))}.")
        grounded = [image.grounded for image in model.images.values()]
        if model.images and not any(grounded):
            notices.append(f"{model.name}: its captions have no boxes.")
        elif model.images and not any(c is not None and c.attention is not None for c in grounded):
            notices.append(
                f"{model.name}: saved without attention, so regions cannot be shaded; evaluate with "
                "INFERENCE.SAVE_ATTENTION True."
            )
    return notices


def read_truths(
    results: Results, folder: str | os.PathLike | None
) -> tuple[dict[int, Truth], tuple[str, ...], list[str]]:
    """``read_truths_of`` one results file; nothing when ``folder`` is None.

    Raises:
        UserError: also when there are no annotations for any of its images.
    """
    if folder is None:
        return {}, (), []
    split = results.header.get("split")
    ids = [image.image_id for image in results.images]
    truths, classes, notices = read_truths_of((str(split),) if split else (), ids, Path(folder))
    absent = [i for i in ids if i not in truths]
    if absent and not notices:
        notices.append(f"The annotations lack {these(absent, len(ids))}.")
    if not truths:
        raise UserError(f"--annotations {folder}: {' '.join(notices)}")
    return truths, classes, notices


def read_truths_of(
    splits: Sequence[str], image_ids: Iterable[int], folder: Path
) -> tuple[dict[int, Truth], tuple[str, ...], list[str]]:
    """The annotations of images of these splits, the object classes in their order, and a sentence per missing file.

    Raises:
        UserError: ``folder`` is not a folder, or a file in it cannot be read.
    """
    if not folder.is_dir():
        raise UserError(f"--annotations: {folder} is not a folder; expected a folder written by `xmodaler prepare`.")
    notices = [] if splits else ["The results do not name their split, so no annotations were read."]
    shown = set(image_ids)
    truths: dict[int, Truth] = {}
    classes: dict[str, None] = {}
    for split in splits:
        path = folder / f"{split}.json"
        if path.is_file():
            header, images = open_annotations(path, split)
            truths |= {image["image_id"]: _truth(image) for image in images if image["image_id"] in shown}
            classes |= dict.fromkeys(typed(header.get("classes", []), list[str]))
        else:
            notices.append(f"No annotations of split {split}: {path} does not exist.")
    return truths, tuple(classes), notices


def _truth(image: Mapping[str, Any]) -> Truth:
    boxes: dict[str, dict[Box, None]] = {}
    for phrase in (phrase for caption in image["captions"] for phrase in caption["phrases"]):
        if phrase["class"] is not None and phrase["boxes"]:
            x1, y1, x2, y2 = union_box(phrase["boxes"])
            boxes.setdefault(phrase["class"], {})[x1, y1, x2, y2] = None
    size = (float(image["width"]), float(image["height"]))
    return Truth(size, tuple(image["captions"]), {name: tuple(found) for name, found in boxes.items()})


def versions(image: ImageResult | None) -> dict[str, str]:
    """Captions by kind: "main", and, if present, "greedy", whose grounding is scored; {} without a result."""
    if image is None:
        return {}
    greedy = getattr(image.caption, "greedy", None)
    return {"main": image.caption} if greedy is None else {"greedy": greedy, "main": image.caption}


def words_of(caption: str) -> list[str]:
    """The words, as the page shows them."""
    return [word.text for word in caption.words] if isinstance(caption, GroundedCaption) else caption.split()


def size_of(source: Source, image_id: int) -> tuple[float, float] | None:
    """(width, height) of an image in pixels, from the results, else from the annotations."""
    for model in source.models:
        for caption in versions(model.images.get(image_id)).values():
            if (size := getattr(caption, "image_size", None)) is not None:
                return float(size[0]), float(size[1])
    return source.truths[image_id].size if image_id in source.truths else None
