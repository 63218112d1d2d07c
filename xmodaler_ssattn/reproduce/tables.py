"""The summary of a study as Markdown: scores with the paper's numbers, orderings, differences, runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from xmodaler_ssattn.evaluation.floors import ANNOTATED, CEILINGS
from xmodaler_ssattn.reproduce.jobs import DONE
from xmodaler_ssattn.reproduce.plan import (
    ACCURACY,
    BEST,
    GREATER,
    GROUNDING_METRICS,
    LAST,
    METRICS,
    PAPER_METRICS,
    Plan,
    Table,
)
from xmodaler_ssattn.reproduce.replicates import NO_BOXES

NOTHING = "-"
"""A score that a row cannot have: the paper does not quote it, or the model has no attention."""


def markdown(plan: Plan, summary: Mapping[str, Any], command: str = "") -> str:
    """The whole text."""
    parts = _paragraphs([f"# {plan.title}", *([plan.note] if plan.note else [])])
    if command:
        parts += ["```", command, "```", ""]
    parts += [
        f"Data: `{summary['data']['folder']}` ({summary['data']['sha256'][:12]}). Scores on test, in percent: mean ± "
        "standard deviation over seeds, and in brackets the paper's number. Captions are those of the beam search "
        "unless a title says greedy; F1 is always that of the greedy captions. \"Best\" are the weights of the epoch "
        "with the highest CIDEr on val.", "",
    ]  # fmt: skip
    for table in plan.tables:
        kept = Table(table.title, tuple(name for name in table.rows if name in plan.rows), table.metrics)
        if not kept.rows:
            continue
        parts += _table(kept, summary, BEST, "best", paper=True)
        parts += _table(kept, summary, BEST, "best, greedy captions", greedy=True)
        parts += _table(kept, summary, LAST, "last epoch")
    parts += [*_evaluations(plan, summary), *_places(summary), *_floor_notes(summary), *_orderings(summary)]
    parts += [*_comparisons(summary), *_paragraphs(f"Problem: {problem}" for problem in summary["problems"])]
    parts += _runs(summary)
    return "\n".join(parts).rstrip() + "\n"


def _paragraphs(texts: Iterable[str]) -> list[str]:
    return [line for text in texts for line in (text, "")]


def section(
    title: str, head: Sequence[str] = (), rows: Sequence[Sequence[str]] = (), text: str = "", notes: Iterable[str] = ()
) -> list[str]:
    """Lines of a section: title, text, table (first column left-aligned, numbers right-aligned), notes."""
    lines = [f"## {title}", "", *_paragraphs([text] if text else [])]
    if rows:
        align = ["---"] + ["---:"] * (len(head) - 1)
        cells = [[text.replace("|", "\\|").replace("\n", " ") for text in row] for row in (head, align, *rows)]
        lines += ["| " + " | ".join(row) + " |" for row in cells] + [""]
    return lines + _paragraphs(notes)


def number(value: float | None, digits: int = 2) -> str:
    """A formatted number, or "n/a" for None."""
    return "n/a" if value is None else f"{value:.{digits}f}"


def cell(entry: Mapping[str, Any] | None, paper: float | None = None) -> str:
    """ "61.20 ± 0.31 (63.4)"; a single seed has no deviation; "n/a" for a score that was not computed."""
    text = number(None if entry is None else entry["mean"])
    if entry is not None and entry["deviation"] is not None:
        text += f" ± {entry['deviation']:.2f}"
    return text if paper is None else f"{text} ({float(paper)})"


def seeds_of(row: Mapping[str, Any], evaluation: str = BEST) -> str:
    """ "3/3", or "1/3 (1: diverged, 2: missing)"; "quoted" for a row of the paper that is not run"""
    if row.get("quoted"):
        return "quoted"
    bad = [
        f"{seed}: {run['status'] if run['status'] != DONE else 'not evaluated'}"
        for seed, run in row["seeds"].items()
        if "scores" not in run["evaluations"].get(evaluation, {})
    ]
    total = len(row["seeds"])
    return f"{total - len(bad)}/{total}" + (f" ({', '.join(bad)})" if bad else "")


def _scores_row(
    row: Mapping[str, Any],
    label: str,
    evaluation: str,
    metrics: Sequence[str],
    *,
    greedy: bool = False,
    paper: bool = False,
) -> list[str]:
    scores = row["evaluations"].get(evaluation, {})
    cells = []
    for metric in metrics:
        name = METRICS[metric]
        entry = scores.get(f"greedy_{name}" if greedy and metric not in GROUNDING_METRICS else name)
        value = row["paper"].get(metric) if paper else None
        if row.get("quoted"):
            cells.append(NOTHING if value is None else f"({float(value)})")
        elif metric in GROUNDING_METRICS and _without_boxes(row, evaluation):
            cells.append(NOTHING)
        else:
            cells.append(cell(entry, value))
    return [label, *cells, seeds_of(row, evaluation)]


def _without_boxes(row: Mapping[str, Any], evaluation: str) -> bool:
    """Whether the captions of a run have no boxes: its model has no attention."""
    found = (run["evaluations"].get(evaluation, {}) for run in row["seeds"].values())
    return any(entry.get("not_computed", {}).get("F1") == NO_BOXES for entry in found)


def _table(
    table: Table, summary: Mapping[str, Any], evaluation: str, what: str, *, greedy: bool = False, paper: bool = False
) -> list[str]:
    metrics = [metric for metric in table.metrics if not greedy or metric not in GROUNDING_METRICS]
    found = [summary["rows"][name] for name in table.rows]
    found = [row for row in found if paper or not row.get("quoted")]
    if not found:
        return []
    rows = [_scores_row(row, row["label"], evaluation, metrics, greedy=greedy, paper=paper) for row in found]
    reasons: dict[str, str] = {}
    for run in (run for row in found for run in row["seeds"].values()):
        reasons |= run["evaluations"].get(evaluation, {}).get("not_computed", {})
    notes = [f"n/a: {metric} was not computed: {reason}." for metric, reason in reasons.items() if reason != NO_BOXES]
    if bare := [row["label"] for row in found if _without_boxes(row, evaluation)]:
        notes.append(f"{NOTHING}: no grounding scores of {', '.join(bare)}: {NO_BOXES}.")
    return section(f"{table.title}: {what}", ["", *metrics, "seeds"], [*rows, *_floors(summary, metrics)], notes=notes)


def _evaluations(plan: Plan, summary: Mapping[str, Any]) -> list[str]:
    metrics = (*PAPER_METRICS, ACCURACY)
    rows = []
    for name, row in plan.rows.items():
        found = summary["rows"][name] if row.evaluations else {}
        rows += [_scores_row(found, f"{found['label']} / {which}", which, metrics) for which in row.evaluations]
    if not rows:
        return []
    title = "Further evaluations of the best weights"
    return section(title, ["", *metrics, "seeds"], [*rows, *_floors(summary, metrics)])


def floor_label(rule: str) -> str:
    return f"{'ceiling' if rule in CEILINGS else 'floor'}: {rule}"


def _floors(summary: Mapping[str, Any], metrics: Sequence[str]) -> list[list[str]]:
    """Rows of the data's floors and ceilings; none for a table without grounding metrics."""
    if not any(metric in GROUNDING_METRICS for metric in metrics):
        return []
    rows = []
    for rule, scores in summary.get("floors", {}).get("rules", {}).items():
        shown = (number(100 * scores[METRICS[name]]) if name in GROUNDING_METRICS else "" for name in metrics)
        rows.append([floor_label(rule), *shown, ""])
    return rows


def _floor_notes(summary: Mapping[str, Any]) -> list[str]:
    floors = summary.get("floors", {})
    if not floors:
        return []
    text = (
        "Floors and ceilings choose the box of an object word by a rule, without a model: acc is that of the reference "
        "captions, as of a forced model; F1 is that of a person's caption, the first reference of each image, scored "
        "against all references, so its words are better than any model's here."
    )
    return section("Floors and ceilings", text=text if floors["rules"] else "", notes=floors["notes"])


def _places(summary: Mapping[str, Any]) -> list[str]:
    """The attention accuracy by the place of the object word in its sentence, and by its kind."""
    found = {
        f"{row['label']} / {evaluation}": groups
        for row in summary["rows"].values()
        for evaluation, groups in row.get("places", {}).items()
    }
    if not found:
        return []
    for rule, scores in summary.get("floors", {}).get("rules", {}).items():
        if rule != ANNOTATED:
            found[floor_label(rule)] = {
                name: {"words": group["words"], "mean": 100 * group["accuracy"], "deviation": None}
                for name, group in scores["places"].items()
            }
    words = {name: str(group["words"]) for groups in found.values() for name, group in groups.items()}
    rows = [["annotated words", *words.values()]]
    rows += [[label, *(cell(groups.get(name)) for name in words)] for label, groups in found.items()]
    text = (
        "Share of the annotated words of the reference captions whose box is right, over words and not over classes: "
        "by the place of the object word among those of its caption, and by what it names."
    )
    return section("Where the accuracy sits", ["", *words], rows, text)


def _interval(entry: Mapping[str, Any]) -> list[str]:
    if entry["low"] is None:
        return ["n/a", "", "", ""]
    up, seeds = sum(value > 0 for value in entry["by_seed"].values()), len(entry["by_seed"])
    spread = f"[{entry['low']:+.2f}, {entry['high']:+.2f}]"
    return [f"{entry['difference']:+.2f}", spread, f"{up}/{seeds}", number(entry["p"], 3)]


def _orderings(summary: Mapping[str, Any]) -> list[str]:
    found = summary["orderings"]
    if not found:
        return []
    rows = []
    for entry in found:
        sign = "b > a" if entry["claim"] == GREATER else f"b gains at most {entry['margin']:g}"
        rows.append([entry["name"], f"{entry['a']} -> {entry['b']}", entry["metric"], sign, entry["paper"],
                     *_interval(entry), f"**{entry['verdict']}**"])  # fmt: skip
    counts = Counter(entry["verdict"] for entry in found)
    notes = dict.fromkeys(f"{entry['name']}: {entry['note']}" for entry in found if entry["note"])
    text = (
        "b - a in points on the same test images with the same seeds: mean over seeds, its 95 % interval (the spread "
        "over resampled images around it), in how many seeds b is above a, and p. Held: the interval and every seed "
        "are on the claimed side; not held: all are on the other; else undecided."
    )
    head = ["claim", "a -> b", "metric", "claimed", "paper", "b - a", "95 %", "seeds up", "p", "verdict"]
    total = ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
    return section("Orderings", head, rows, text, [f"In all: {total}.", *notes])


def _comparisons(summary: Mapping[str, Any]) -> list[str]:
    rows: list[list[str]] = []
    alike: dict[str, list[str]] = {}
    for entry in summary["comparisons"]:
        pair = f"{entry['a']} -> {entry['b']}"
        if entry["low"] == entry["high"] == 0 and not any(entry["by_seed"].values()):
            # Equal for every image, e.g. captions when only the rule that chooses their boxes differs.
            alike.setdefault(pair, []).append(entry["metric"])
        else:
            means = number(entry["mean_a"]), number(entry["mean_b"])
            rows.append([pair, entry["metric"], *means, *_interval(entry)])
    if not summary["comparisons"]:
        return []
    head = ["a -> b", "metric", "a", "b", "b - a", "95 %", "seeds up", "p"]
    notes = [f"The same in every image: {pair}, {', '.join(metrics)}." for pair, metrics in alike.items()]
    return section("Differences", head, rows, "Paired as above, without any claim.", notes)


def _runs(summary: Mapping[str, Any]) -> list[str]:
    rows = []
    for name, row in summary["rows"].items():
        for seed, run in row["seeds"].items():
            seconds, best = sum(run.get("seconds", {}).values()), run.get("best_epoch")
            epochs = "" if best is None else f"{best}/{len(run['curves'].get('epoch', ()))}"
            config = run.get("config_sha256", "")[:12]
            rows.append([name, seed, run["status"], epochs, f"{seconds:.0f}" if seconds else "", config, run["reason"]])
    notes = [f"{name}: {row['note']}" for name, row in summary["rows"].items() if row["note"]]
    return section("Runs", ["row", "seed", "status", "best epoch", "seconds", "config", ""], rows, notes=notes)
