"""Make the annotation folder of a data set, for ``xmodaler prepare annotations``.

Written into the folder, all or nothing: ``{split}.json`` (see ``annotations``), ``vocabulary.txt``,
``captions_{split}.json`` (COCO style), ``grounding_{split}.json`` for val and test (GVD's reference
format), ``lemmas.json`` when a table of lemmas is known, and ``left_out.json`` when something was left out.
"""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import os
from collections import Counter
from collections.abc import Callable, Collection, Iterator, KeysView, Mapping, Sequence
from pathlib import Path
from typing import Any

from xmodaler_ssattn.classes import read_classes
from xmodaler_ssattn.data.annotations import annotation_header
from xmodaler_ssattn.data.entities import list_files
from xmodaler_ssattn.data.official import (
    Loaded,
    OfficialDictionary,
    OfficialFile,
    Problem,
    add_classes,
    load_entities,
    load_official,
    read_dictionary,
    read_official,
)
from xmodaler_ssattn.data.splits import CAPTIONS_PER_IMAGE
from xmodaler_ssattn.data.vocabulary import build_vocabulary
from xmodaler_ssattn.data.written import PrepareReport, SplitOutput
from xmodaler_ssattn.errors import UserError, numbered
from xmodaler_ssattn.progress import progress
from xmodaler_ssattn.stopping import ended_by_its_pool, starting_a_pool

IMAGES_WORTH_A_POOL = 3000
# Written into every file made with the fallback rule.
FALLBACK_RULE = (
    "not GVD-identical: made from Sentences/ and Annotations/; class = last word of the phrase that is a class, or "
    "whose lemma is one, box = union of the chain's boxes; scene, nobox and chain 0 are left out"
)


def prepare_annotations(
    out_dir: str | os.PathLike,
    splits: Mapping[str, Sequence[int]],
    *,
    lemma: Callable[[str], str] | None = None,
    sentences_dir: str | os.PathLike | None = None,
    annotations_dir: str | os.PathLike | None = None,
    classes: Sequence[str] | None = None,
    official: str | os.PathLike | None = None,
    dictionary: str | os.PathLike | None = None,
    require_official: bool = False,
    unrelated: Mapping[int, Collection[int]] | None = None,
    source: str = "entities",
    skip_bad: bool = False,
    workers: int | None = None,
) -> PrepareReport:
    """Write the annotation folder from the official files.

    Args:
        out_dir: folder to write; files of the same name are replaced.
        splits: "train", "val", "test" -> image ids; a split may be absent.
        lemma: word -> lemma, for the fallback rule that gives phrases their classes (not needed with ``official``).
        sentences_dir, annotations_dir: the official ``Sentences`` and ``Annotations``. Words of images that
            are in ``sentences_dir`` but in no split are counted for the vocabulary, as GVD does.
        classes: object classes of the fallback rule; None: the 480 of Flickr30k Entities.
        official: GVD's ``flickr30k_cleaned_class.json``, read instead of the two folders.
        dictionary: GVD's ``dic_flickr30k.json``, for its vocabulary, class order and lemmas.
        require_official: refuse the fallback rule and our own vocabulary.
        unrelated: image id -> positions (from 0) of captions to leave out of the training split; a missing image or
            caption is a problem.
        source: recorded in the header.
        skip_bad: leave out parts that cannot be used and list them in ``left_out.json``.
        workers: processes; None: the cores of this machine if the data set is large.

    Raises:
        UserError: lists all problems, each with file and line or key; then nothing is written.
    """
    out_dir = Path(out_dir)
    _check_arguments(sentences_dir, annotations_dir, official, dictionary, require_official, lemma)
    words = None if dictionary is None else read_dictionary(dictionary)
    file = None if official is None else read_official(official)
    home = {image_id: split for split, ids in splits.items() for image_id in ids}
    if file is not None:
        class_names = _ordered_classes(file, words)
        loaded = _load_official_images(file, home.keys())
        described = {"source": "gvd", "gvd_identical": True, "rule": "flickr30k_cleaned_class.json as published"}
    else:
        class_names = list(classes) if classes is not None else read_classes()
        class_set, lemma = set(class_names), functools.cache(lemma)
        loaded = _load_entities_images(Path(sentences_dir), Path(annotations_dir), home.keys(), workers)
        described = {"source": source, "gvd_identical": False, "rule": FALLBACK_RULE}
    report = PrepareReport(
        out_dir,
        {split: Counter() for split in splits},
        gvd_identical=file is not None,
        given_vocabulary=words is not None,
        planned=sum(map(len, splits.values())),
    )
    counted: Counter[str] = Counter()
    problems: list[Problem] = []
    unrelated = dict(unrelated or {})
    with contextlib.ExitStack() as stack:
        headers = {split: annotation_header(split, classes=class_names, **described) for split in splits}
        outputs = {split: SplitOutput(stack, out_dir, split, header) for split, header in headers.items()}
        for image in loaded:
            counted.update(image.tokens)
            problems += image.problems
            report.clipped_boxes += image.clipped
            split = home.get(image.image_id)
            report.rest_images += split is None
            listed = unrelated.pop(image.image_id, ())
            report.unrelated += _drop_captions(image, listed, split == "train", problems)
            if image.record is None or split is None:
                continue
            if file is None:
                add_classes(image.record, class_set, lemma)
            if image.record["captions"]:
                reference = None if file is None else file.images[image.image_id]
                outputs[split].add(image.record, image.boxes, reference, report.counts[split])
        problems += [
            Problem(image_id, f"the list of unrelated captions names image {image_id}, which is missing.", "nothing")
            for image_id in unrelated
        ]
        report.add_totals(outputs.values())
        if problems and not skip_bad:
            raise UserError(
                f"{len(problems):,} problem(s) in the annotations, nothing was written:\n"
                f"{numbered(grouped(problems, report.planned))}\n"
                "Correct the files, or add --skip-bad to leave these parts out; the list is written to left_out.json."
            )
        report.left_out = problems
        _check_not_empty(report)
        report.vocabulary = words.vocabulary if words is not None else build_vocabulary(counted)
        for output in outputs.values():
            output.write_references()
    # The large files are complete now.
    report.write_side_files(None if words is None else words.lemmas)
    return report


# --- reading, in one process or several ----------------------------------------------------------------
def _load_official_images(file: OfficialFile, planned: KeysView[int]) -> Iterator[Loaded]:
    rest = file.images.keys() - planned
    for image_id in progress([*planned, *sorted(rest)], desc="images"):
        loaded = load_official(file, image_id)
        if image_id in rest:
            loaded.record, loaded.problems = None, []
        yield loaded


def _load_entities_images(
    sentences: Path, annotations: Path, planned: KeysView[int], workers: int | None
) -> Iterator[Loaded]:
    texts, boxes = list_files(sentences, ".txt"), list_files(annotations, ".xml")
    tasks = []
    for image_id in (*planned, *sorted(texts.keys() - planned)):
        problems: list[Problem] = []
        text = _only_file(image_id, texts, sentences, ".txt", problems)
        xml = _only_file(image_id, boxes, annotations, ".xml", problems) if image_id in planned else None
        if problems:
            yield Loaded(image_id, problems=problems)
        else:
            tasks.append((image_id, text, xml))
    if workers is None:
        workers = os.cpu_count() or 1 if len(tasks) >= IMAGES_WORTH_A_POOL else 1
    if workers < 2 or "fork" not in multiprocessing.get_all_start_methods():
        yield from progress(map(_load_task, tasks), len(tasks), "images")
        return
    with starting_a_pool():
        pool = multiprocessing.get_context("fork").Pool(workers, ended_by_its_pool)
    with pool:
        yield from progress(pool.imap(_load_task, tasks, chunksize=128), len(tasks), "images")


def _only_file(
    image_id: int, found: Mapping[int, Sequence[Path]], folder: Path, suffix: str, problems: list[Problem]
) -> Path | None:
    """The file of an image; None, with a problem, if there is none, or several with its number, such as 7 and 007."""
    paths = found.get(image_id, ())
    if not paths:
        message = f"{folder / f'{image_id}{suffix}'} does not exist."
        problems.append(Problem(image_id, message, "image", f"have no {folder.name} file"))
    elif len(paths) > 1:
        message = f"{' and '.join(map(str, paths))} are all named by image {image_id}; keep the right one."
        problems.append(Problem(image_id, message, "image"))
    return paths[0] if len(paths) == 1 else None


def _load_task(task: tuple[int, Path, Path | None]) -> Loaded:
    return load_entities(*task)


# --- checks --------------------------------------------------------------------------------------------
def _check_arguments(
    sentences_dir: Any, annotations_dir: Any, official: Any, dictionary: Any, require_official: bool, lemma: Any
) -> None:
    problems = [
        f"--require-official needs GVD's {name}, and none was given; without it the result is not GVD-identical"
        for value, name in ((official, "flickr30k_cleaned_class.json"), (dictionary, "dic_flickr30k.json"))
        if require_official and value is None
    ]
    if official is None:
        for value, name in ((sentences_dir, "Sentences"), (annotations_dir, "Annotations")):
            if value is None or not Path(value).is_dir():
                problems.append(f"the folder {name} of the official annotations is missing: {value}")
        if lemma is None:
            problems.append("the fallback rule needs a lemmatiser")
    if problems:
        raise UserError("The annotations cannot be prepared:\n" + "\n".join(f"  - {problem}." for problem in problems))


def grouped(problems: Sequence[Problem], planned: int) -> list[str]:
    """The problems' messages; of all ``planned`` images, those that lack the same are counted in one sentence."""
    lacking: dict[str, list[Problem]] = {}
    for problem in problems:
        if problem.lack:
            lacking.setdefault(problem.lack, []).append(problem)
    sentences = [
        f"{len(group):,} of {planned:,} images {lack}; is the folder complete? The first: {group[0].message}"
        for lack, group in lacking.items()
        if len(group) > 1
    ]
    return sentences + [problem.message for problem in problems if len(lacking.get(problem.lack, ())) < 2]


def _check_not_empty(report: PrepareReport) -> None:
    if empty := [split for split, counts in report.counts.items() if not counts["images"]]:
        reason = " ".join(problem.message for problem in report.left_out[:3]) or "its list of image ids is empty."
        raise UserError(f"No usable image is left in the split {', '.join(empty)}: {reason}")


def _drop_captions(image: Loaded, listed: Collection[int], train: bool, problems: list[Problem]) -> int:
    """Remove the listed captions from a training image's record; returns their number."""
    image_id, record = image.image_id, image.record
    captions = CAPTIONS_PER_IMAGE if record is None else len(record["captions"])
    if beyond := sorted(position + 1 for position in listed if position >= captions):
        numbers = ", ".join(map(str, beyond))
        message = f"the list of unrelated captions names sentence {numbers} of image {image_id}, which has {captions}."
        problems.append(Problem(image_id, message, "nothing"))
    if record is None or not train:
        return 0
    record["captions"] = [caption for number, caption in enumerate(record["captions"]) if number not in listed]
    if not record["captions"]:
        problems.append(Problem(image_id, f"image {image_id}: all its captions are listed as unrelated.", "image"))
    return captions - len(record["captions"])


def _ordered_classes(file: OfficialFile, words: OfficialDictionary | None) -> list[str]:
    """The dictionary's order if given: GVD's evaluator uses it where two classes share a lemma."""
    if words is None:
        return file.classes
    if odd := sorted(set(words.classes) ^ set(file.classes)):
        raise UserError(
            f"{file.path} and the dictionary do not have the same classes: {', '.join(odd[:10])} "
            "are in only one of them. Take both files from one source."
        )
    return words.classes
