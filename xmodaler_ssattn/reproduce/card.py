"""Model cards: one Markdown file per row, with everything that a reader of its weights needs to know.

A card depends only on the plan, the summary, the facts about the data and the weights' files, so that writing it again
gives the same text.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from xmodaler_ssattn.data.annotations import SPLITS, file_name, open_annotations
from xmodaler_ssattn.engine.best import BEST_WEIGHTS
from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.evaluation.floors import CEILINGS
from xmodaler_ssattn.files import sha256_of
from xmodaler_ssattn.packs.region_file import read_header
from xmodaler_ssattn.reproduce import jobs
from xmodaler_ssattn.reproduce.plan import ACCURACY, BEST, METRICS, Plan
from xmodaler_ssattn.reproduce.settings import REGIONS, difference_of
from xmodaler_ssattn.reproduce.tables import number, section

# Manifest of a data folder -> what it says about the data.
LIMITS = {
    "simulated.json": "The region features and class probabilities are **simulated**: no picture was seen. The scores "
    "compare models with each other and say nothing about photographs.",
    "sample.json": "The pictures are **drawn** scenes of a few simple objects, with captions of a small grammar. The "
    "scores compare models with each other and say nothing about photographs.",
}
REGION_FACTS = ("source", "order", "vocabulary_sha256", "weights_sha256")
HEAD = """\
---
language: en
library_name: xmodaler_ssattn
pipeline_tag: image-to-text
tags: [image-captioning, grounded-captioning]
---
"""
CITATION = """\
```
@inproceedings{hu2022spatial,
  title = {Spatial-Semantic Attention for Grounded Image Captioning},
  author = {Hu, Wenzhe and Wang, Lanxiao and Xu, Linfeng},
  booktitle = {IEEE International Conference on Image Processing (ICIP)},
  year = {2022}
}
```

Flickr30k Entities (Plummer et al., 2015) and the pictures of Flickr30k (Young et al., 2014) have their own terms."""


def facts_of(folder: Path) -> dict[str, Any]:
    """What a data folder holds, as plain JSON; what the folder lacks is left out.

    Returns:
        ``limits``: sentences; ``splits``: split -> images, captions, phrases with boxes, source and sha256 of its file;
        ``regions``: images, regions, features and classes, and the file's description.

    Raises:
        UserError: a file is damaged.
    """
    paths = {split: folder / file_name(split) for split in SPLITS}
    facts: dict[str, Any] = {
        "limits": [text for name, text in LIMITS.items() if (folder / name).is_file()],
        "splits": {split: _split(path, split) for split, path in paths.items() if path.is_file()},
    }
    if (folder / REGIONS).is_file():
        header = read_header(folder / REGIONS)
        shapes = {name: field.shape for name, field in header.fields.items()}
        images, regions, width = shapes["features"]
        facts["regions"] = {
            "images": images, "regions": regions, "features": width, "classes": shapes.get("class_probs", [0])[-1],
            **{name: str(header.attributes[name]) for name in REGION_FACTS if header.attributes.get(name)},
        }  # fmt: skip
    return facts


def _split(path: Path, split: str) -> dict[str, Any]:
    header, images = open_annotations(path, split)
    counts = {"images": 0, "captions": 0, "phrases": 0}
    for image in images:
        counts["images"] += 1
        counts["captions"] += len(image["captions"])
        counts["phrases"] += sum(bool(phrase["boxes"]) for text in image["captions"] for phrase in text["phrases"])
    source = {"source": header.get("source"), "gvd_identical": header.get("gvd_identical")}
    return {**counts, **source, "sha256": sha256_of(path)}


def cards(plan: Plan, summary: Mapping[str, Any], facts: Mapping[str, Any], out: Path) -> dict[str, str]:
    """Row -> its card, for each row with a finished run.

    Args:
        summary: see ``collecting.collect``.
        facts: of the data, see ``facts_of``.
        out: the folder of the study, which has the weights.
    """
    found = {}
    for name, row in summary["rows"].items():
        runs = {seed: run for seed, run in row["seeds"].items() if run["status"] == jobs.DONE}
        if runs:
            found[name] = _card(plan, name, summary, facts, out, runs)
    return found


def _card(
    plan: Plan, name: str, summary: Mapping[str, Any], facts: Mapping[str, Any], out: Path, runs: Mapping[str, Any]
) -> str:
    row = summary["rows"][name]
    parts = [
        HEAD,
        f"# {row['label']}\n",
        "A model that captions pictures in English and gives the region of each word, trained with xmodaler_ssattn as "
        f'row `{name}` of the study "{plan.title}".\n',
        *(f"{note}\n" for note in (plan.note, row["note"]) if note),
        *_limits(facts, runs),
        *_data(summary, facts),
        *_scores(row, summary),
        *_training(plan, name, runs),
        *_weights(out, name, runs),
        *_use(name, next(iter(runs))),
        "## Citation\n",
        CITATION,
    ]
    return "\n".join(parts).rstrip() + "\n"


def _limits(facts: Mapping[str, Any], runs: Mapping[str, Any]) -> list[str]:
    limits = list(facts.get("limits", ()))
    if any(split.get("gvd_identical") is False for split in facts.get("splits", {}).values()):
        limits.append(
            "The classes of the object words follow a rule of this package; they are not those of the published "
            "`flickr30k_cleaned_class.json`, so grounding scores cannot be compared with papers."
        )
    if len(runs) == 1:
        limits.append("There is one seed: the scores say nothing about the spread between trainings.")
    limits.append(
        "A caption may name things that are not in the picture, and guess what cannot be seen, such as a person's sex "
        "or age: it repeats the habits of its training captions."
    )
    limits.append("Regions must come from the detector of the training regions; other features mean nothing to it.")
    return ["## Limits\n", *(f"* {limit}" for limit in limits), ""]


def _data(summary: Mapping[str, Any], facts: Mapping[str, Any]) -> list[str]:
    keys = ("images", "captions", "phrases")
    rows = [
        [name, *(f"{split[key]:,}" for key in keys), str(split["source"] or ""), f"`{split['sha256']}`"]
        for name, split in facts.get("splits", {}).items()
    ]
    data = summary["data"]
    text = f"Folder `{data['folder']}`, sha256 of its words, references and manifest `{data['sha256']}`."
    head = ["split", "images", "captions", "phrases with boxes", "source", "sha256"]
    regions = dict(facts.get("regions", {}))
    notes = []
    if regions:
        counts = {key: regions.pop(key) for key in ("images", "regions", "features", "classes")}
        notes.append(
            "Regions: {images:,} images, at most {regions} regions of {features} features and {classes} class "
            "probabilities each.".format(**counts)
        )
        notes += [f"{key.replace('_', ' ')}: {value}" for key, value in regions.items()]
    return section("Data", head, rows, text, notes)


def _scores(row: Mapping[str, Any], summary: Mapping[str, Any]) -> list[str]:
    """The best weights' scores on test, over the seeds."""
    found = dict(row["evaluations"].get(BEST, {}))
    for scores in row["evaluations"].values():  # the accuracy needs forced captions, a further evaluation
        if METRICS[ACCURACY] in scores:
            found.setdefault(METRICS[ACCURACY], scores[METRICS[ACCURACY]])
    floors = summary.get("floors", {}).get("rules", {})
    rows = []
    for title, name in METRICS.items():
        entry = found.get(name)
        if entry is None or entry["mean"] is None:
            continue
        low, high = entry.get("low"), entry.get("high")
        interval = "" if low is None or high is None else f"{low:.2f} to {high:.2f}"
        reached = [100 * scores[name] for rule, scores in floors.items() if rule not in CEILINGS and name in scores]
        deviation = "" if entry["deviation"] is None else number(entry["deviation"])
        rows.append([
            title, number(entry["mean"]), interval, deviation,
            str(entry["seeds"]), str(row["paper"].get(title, "")), number(max(reached)) if reached else "",
        ])  # fmt: skip
    text = (
        "On test, in percent: mean over seeds of the weights with the best CIDEr on val, its 95 % interval over "
        "resampled images, and the standard deviation over seeds. The last column is the best of the rules that choose "
        "the box without a model, on the words of a person's captions."
    )
    head = ["score", "mean", "95 %", "deviation", "seeds", "the paper's", "best rule"]
    return section("Scores", head, rows, text)


def _training(plan: Plan, name: str, runs: Mapping[str, Any]) -> list[str]:
    row = plan.rows[name]
    assert row.config is not None  # it has runs
    try:
        own = difference_of(row.config)
    except UserError:  # a config without base.yaml in its chain is complete by itself
        own = {}
    changes = {**own, **plan.common, **row.set}
    base = "base.yaml" if plan.base is None else plan.base.name
    rows = [
        [seed, _hours(run, "train"), _hours(run, "evaluate"), str(run.get("best_epoch")), str(run.get("host") or ""),
         f"`{run.get('config_sha256', '')}`"]
        for seed, run in runs.items()
    ]  # fmt: skip
    lines = section(
        "Training",
        ["seed", "hours of training", "hours of scoring", "best epoch", "host", "sha256 of the config"],
        rows,
        f"The config is `{row.config.name}` on `{base}`; it differs from that base in:",
    )
    at = next(i for i, line in enumerate(lines) if line.startswith("|"))
    text = yaml.safe_dump(changes, default_flow_style=None, sort_keys=True, allow_unicode=True).strip()
    lines[at:at] = ["```yaml", text, "```", ""]
    return lines + _machines(runs)


def _machines(runs: Mapping[str, Any]) -> list[str]:
    """Seeds by machine."""
    by_machine: dict[str, list[str]] = {}
    for seed, run in runs.items():
        for machine in run.get("machines") or [None]:
            by_machine.setdefault(_machine_text(machine), []).append(seed)
    lines = [f"* Seed{'s' * (len(seeds) > 1)} {', '.join(seeds)}: {text}" for text, seeds in by_machine.items()]
    return [*lines, ""]


def _machine_text(machine: Mapping[str, Any] | None) -> str:
    if machine is None:
        return "the hardware was not recorded."
    gpus = ", ".join(machine["gpus"]) or "no GPU used"
    memory = "" if machine["memory_gb"] is None else f", {machine['memory_gb']:g} GB"
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items() if version != "none")
    return f"{machine['processor']}, {machine['cores']} cores{memory}; {gpus}; {machine['system']}, {versions}."


def _hours(run: Mapping[str, Any], what: str) -> str:
    seconds = run.get("seconds", {}).get(what)
    return "" if seconds is None else f"{seconds / 3600:.2f}"


def _weights(out: Path, name: str, runs: Mapping[str, Any]) -> list[str]:
    rows, absent = [], []
    for seed, run in runs.items():
        path = jobs.Job(name, int(seed)).folder(out) / BEST_WEIGHTS
        if not path.is_file():
            absent.append(seed)
            continue
        file, size = path.relative_to(out).as_posix(), path.stat().st_size
        rows.append([f"`{file}`", seed, str(run.get("best_epoch")), f"{size:,}", f"`{sha256_of(path)}`"])
    notes = [f"No {BEST_WEIGHTS} is in the folder of seed {', '.join(absent)}."] if absent else []
    return section("Weights", ["file", "seed", "epoch", "bytes", "sha256"], rows, notes=notes)


def _use(name: str, seed: str) -> list[str]:
    run = f"{name}/seed_{seed}"
    return [
        "## How to use\n",
        "The folder of a run has the weights and their `config.yaml`; the vocabulary is that of the data folder.\n",
        "```",
        f"xmodaler caption photo.jpg --weights {run}/{BEST_WEIGHTS} --detector DETECTOR --report page.html",
        f"xmodaler eval --config-file {run}/config.yaml --data DATA --weights {run}/{BEST_WEIGHTS}",
        "```\n",
    ]
