"""The page: a folder that opens from disk in any browser, without a server or network.

It has ``index.html`` with ``page.css`` and a few scripts; ``data/index.js`` with the data of every image for lists and
filters; ``data/part_0000.js`` ... with boxes, attention and references of ``PART`` images each, which are loaded when
one of these images is shown; and ``pictures/``. The data are scripts because a page on disk may run scripts but not
read files. The texts of results and annotations are written only as JSON, and the scripts show them only as text nodes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

import msgspec

from xmodaler_ssattn.caption import GroundedCaption
from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.evaluation.results import ImageResult, encode_array
from xmodaler_ssattn.files import write_text
from xmodaler_ssattn.progress import doing, progress
from xmodaler_ssattn.report.curves import Run, curves_html
from xmodaler_ssattn.report.pictures import find_pictures, place_picture
from xmodaler_ssattn.report.plot import MODEL_COLOURS, WORD_COLOURS
from xmodaler_ssattn.report.scores import Numbers, numbers_of
from xmodaler_ssattn.report.source import Model, Source, size_of, these, versions, words_of
from xmodaler_ssattn.report.verdicts import verdicts

PART = 50
"""Images in one data file: about 650 kB with the attention of two models, 60 kB without."""
MOST_WITH_ATTENTION = 5000
"""Only the first images of a page have attention, so that two models on all 31,014 images take 140 MB, not 410."""
SCRIPTS = ("base.js", "attention.js", "state.js", "summary.js", "card.js", "page.js")
STYLE = "page.css"
MARKER = ".grounded_captions_page"
"""In the folder of each page; a page is written over nothing else."""

MAIN_SCORES = {
    "Bleu_1": "BLEU-1", "Bleu_4": "BLEU-4", "METEOR": "METEOR", "ROUGE_L": "ROUGE-L", "CIDEr": "CIDEr",
    "SPICE": "SPICE", "F1_all": "F1 all", "F1_loc": "F1 loc", "attention_accuracy": "attention accuracy",
}  # fmt: skip
"""The scores shown first: those of the paper's Table 1, and attention accuracy."""


def write_page(
    out: Path,
    source: Source,
    *,
    images: Path | None = None,
    refer: bool = False,
    runs: Sequence[Run] = (),
    title: str = "Grounded captions",
    replicates: int | None = None,
) -> Path:
    """Write the page into ``out``, or replace the page there; returns the path of its ``index.html``.

    Args:
        images: folder of pictures; None draws the boxes on blank frames.
        refer: link to the pictures instead of copying them into ``out``.
        runs: training runs whose curves are shown.
        replicates: see ``numbers_of``.

    Raises:
        UserError: ``out`` contains something other than a page, or ``images`` is not a folder.
    """
    _check_folder(out)
    write_text(out / MARKER, "A page of `xmodaler report`, which may be replaced.\n")
    numbers = numbers_of(source, replicates)
    found = {} if images is None else find_pictures(images, source.image_ids)
    source.notices += _about_pictures(source, images, found)
    if len(source.image_ids) > MOST_WITH_ATTENTION and any(_has_attention(model) for model in source.models):
        source.notices.append(
            f"Regions are shaded for the first {MOST_WITH_ATTENTION:,} of {len(source.image_ids):,} images only, which "
            "keeps the page small."
        )
    parts = [source.image_ids[i : i + PART] for i in range(0, len(source.image_ids), PART)]
    rows: list[dict[str, Any]] = []
    for number, ids in enumerate(progress(parts, desc="Page")):
        addresses = {i: place_picture(found[i], out, refer=refer) for i in ids if i in found}
        rows += [_row(source, numbers, i, addresses.get(i)) for i in ids]
        details = {str(i): _details(source, i, attention=number * PART < MOST_WITH_ATTENTION) for i in ids}
        _write_data(out / "data" / f"part_{number:04d}.js", f"ssattn.part({number}, ", details)
    for stale in (out / "data").glob("part_*.js"):
        if int(stale.stem.partition("_")[2]) >= len(parts):
            stale.unlink()
    _write_data(out / "data" / "index.js", "ssattn.index(", {**_header(source, numbers, title), "images": rows})
    templates = resources.files("xmodaler_ssattn.report") / "templates"
    for name in (STYLE, *SCRIPTS):
        write_text(out / name, (templates / name).read_text(encoding="utf-8"))
    text = (templates / "index.html").read_text(encoding="utf-8")
    scripts = "".join(f'<script src="{name}"></script>\n' for name in (*SCRIPTS, "data/index.js"))
    text = text.replace("<!-- title -->", escape(title)).replace("<!-- scripts -->", scripts)
    with doing("Drawing the curves"):
        curves = curves_html(runs, [model.name for model in source.models], opened=not source.models)
    write_text(out / "index.html", text.replace("<!-- curves -->", curves))
    return out / "index.html"


def _check_folder(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise UserError(f"--out: {out} is a file, expected a folder.")
    if out.is_dir() and any(out.iterdir()) and not (out / MARKER).is_file():
        raise UserError(
            f"--out: {out} is neither empty nor a page of `xmodaler report` (no {MARKER}); give a new folder."
        )


def _about_pictures(source: Source, images: Path | None, found: Mapping[int, Path]) -> list[str]:
    if images is None:
        return ["No pictures were given (--images): boxes are drawn on blank frames."] if source.image_ids else []
    absent = [i for i in source.image_ids if i not in found]
    return [f"{images.name} lacks the pictures of {these(absent, len(source.image_ids))}."] if absent else []


def _write_data(path: Path, call: str, value: Any) -> None:
    """Write ``ssattn.NAME(JSON);`` in ASCII, so that no separator or encoding can break the script."""
    plain = msgspec.json.decode(msgspec.json.encode(value, enc_hook=float))  # NaN -> None, numpy's numbers -> Python's
    write_text(path, f"{call}{json.dumps(plain, separators=(',', ':'))});\n")


# --- data that is loaded first --------------------------------------------------------------------------------------


def _header(source: Source, numbers: Numbers, title: str) -> dict[str, Any]:
    names = dict.fromkeys(name for scores in numbers.scores for name in scores)
    main = [name for name in MAIN_SCORES if name in names]
    return {
        "title": title,
        "splits": source.splits,
        "part": PART,
        "model_colours": MODEL_COLOURS,
        "word_colours": WORD_COLOURS,
        "notices": source.notices,
        "annotated": bool(source.truths),
        "models": [_model_header(model) for model in source.models],
        "scores": [_score_row(name, numbers) for name in (*main, *(n for n in names if n not in main))],
        "main_scores": len(main),
        "replicates": numbers.replicates,
        "classes": numbers.classes,
        "cider": any(numbers.cider),
    }


def _model_header(model: Model) -> dict[str, Any]:
    return {
        "name": model.name,
        "epoch": model.results.header.get("epoch"),
        "object_words": model.results.object_words,
        "greedy": any("greedy" in versions(image) for image in model.images.values()),
        "attention": _has_attention(model),
    }


def _has_attention(model: Model) -> bool:
    captions = (caption for image in model.images.values() for caption in versions(image).values())
    return any(getattr(caption, "attention", None) is not None for caption in captions)


def _score_row(name: str, numbers: Numbers) -> dict[str, Any]:
    greedy, plain = name.startswith("greedy_"), name.removeprefix("greedy_")
    label = MAIN_SCORES.get(plain, plain.replace("Bleu_", "BLEU-").replace("_", " "))
    return {
        "name": name,
        "label": f"{label} (greedy)" if greedy else label,
        "values": [scores.get(name) for scores in numbers.scores],
        "intervals": [spread.get(name) for spread in numbers.intervals],
        "comparison": numbers.comparison.get(name),
    }


def _row(source: Source, numbers: Numbers, image_id: int, picture: str | None) -> dict[str, Any]:
    """One image in the index.

    ``n`` is a photograph's name; ``m`` has one entry per model: null without a caption, else kind -> text and verdicts.
    """
    truth = source.truths.get(image_id)
    models: list[dict[str, Any] | None] = []
    for model, cider in zip(source.models, numbers.cider):
        entry: dict[str, Any] = {}
        for kind, caption in versions(model.images.get(image_id)).items():
            words = words_of(caption)
            judged = verdicts(caption, model.results.object_words, truth.boxes if truth else None)
            entry[kind] = {"t": " ".join(words), "v": judged}
            if words and " ".join(words).split(" ") != words:
                entry[kind]["w"] = words  # a word contains a blank: splitting the text would shift the boxes
            if image_id in cider.get(kind, ()):
                entry[kind]["c"] = round(cider[kind][image_id], 4)
        models.append(entry or None)
    row: dict[str, Any] = {"i": image_id, "s": size_of(source, image_id), "p": picture, "m": models}
    if image_id in source.names:
        row["n"] = source.names[image_id]
    if truth is not None:
        row["k"] = list(truth.boxes)
    return row


# --- data that is loaded with an image ------------------------------------------------------------------------------


def _details(source: Source, image_id: int, *, attention: bool) -> dict[str, Any]:
    truth = source.truths.get(image_id)
    details: dict[str, Any] = {"models": [_grounding(m.images.get(image_id), attention) for m in source.models]}
    if truth is not None:
        details["references"] = [
            {
                "raw": caption["raw"],
                "tokens": caption["tokens"],
                "phrases": [
                    {key: phrase[key] for key in ("start", "end", "class", "boxes")}
                    for phrase in caption["phrases"]
                    if phrase["boxes"]
                ],
            }
            for caption in truth.captions
        ]
    return details


def _grounding(image: ImageResult | None, attention: bool) -> dict[str, Any] | None:
    """Boxes, weights and attention of each kind of caption; None where there is nothing to draw."""
    kinds = {kind: caption for kind, caption in versions(image).items() if isinstance(caption, GroundedCaption)}
    if not kinds:
        return None
    boxes_px = next((c.boxes_px for c in kinds.values() if c.boxes_px is not None), None) if attention else None
    return {
        "regions": None if boxes_px is None else [[round(float(v), 1) for v in box] for box in boxes_px],
        **{kind: _caption_grounding(caption, attention) for kind, caption in kinds.items()},
    }


def _caption_grounding(caption: GroundedCaption, attention: bool) -> dict[str, Any]:
    grounding: dict[str, Any] = {
        "boxes": [[round(v, 1) for v in word.box_px] for word in caption.words],
        "regions": [word.region for word in caption.words],
        "weights": [round(word.weight, 4) for word in caption.words],
    }
    if attention and caption.attention is not None and caption.boxes_px is not None:
        arrays = caption.attention._asdict()
        grounding["attention"] = {k: None if a is None else encode_array(a)["base64"] for k, a in arrays.items()}
    return grounding
