"""Make the annotation folder of a data set: what ``xmodaler prepare annotations`` does, as a function.

Written into the folder, all or nothing: ``{split}.json`` (see ``annotations``), ``vocabulary.txt``,
``captions_{split}.json`` (COCO style), ``grounding_{split}.json`` for val and test (GVD's reference
format), ``lemmas.json`` when a table of lemmas is known, and ``left_out.json`` when something was left out.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import multiprocessing
import os
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from xmodaler_ssattn.data.annotations import (
    annotation_header,
    coco_reference,
    file_name,
    gvd_reference,
    json_list,
    open_annotations,
)
from xmodaler_ssattn.data.classes import FALLBACK_RULE, read_classes
from xmodaler_ssattn.data.entities import list_files
from xmodaler_ssattn.data.records import (
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
from xmodaler_ssattn.data.vocabulary import (
    MIN_COUNT,
    UNK,
    Vocabulary,
    build_vocabulary,
    write_vocabulary,
)
from xmodaler_ssattn.errors import UserError, numbered
from xmodaler_ssattn.files import atomic_path, read_json, write_json
from xmodaler_ssattn.progress import progress

LONG_CAPTION = 20  # words; GVD cuts longer captions for training
IMAGES_WORTH_A_POOL = 3000


@dataclasses.dataclass
class PrepareReport:
    """What was found. ``counts[split]`` has images, captions, long_captions, phrases, grounded_words, boxes.

    Attributes:
        out_dir: the folder that was written.
        vocabulary: the words.
        counts: split -> name -> number. Boxes are counted as drawn: one may stand for several chains.
        boxed_phrases: phrases whose chain has a box.
        classes_used: how many classes have an object word with a box.
        rest_images: images outside all splits whose words were counted.
        clipped_boxes: boxes that passed the border by one pixel and were clipped.
        unrelated: captions left out of the training split because they were listed as unrelated.
        gvd_identical: whether GVD's own file was used.
        given_vocabulary: whether the words are those of GVD's dictionary.
        planned: images in all splits.
        left_out: what was skipped (empty unless ``skip_bad``).
    """

    out_dir: Path
    vocabulary: Vocabulary
    counts: dict[str, dict[str, int]]
    boxed_phrases: int = 0
    classes_used: int = 0
    rest_images: int = 0
    clipped_boxes: int = 0
    unrelated: int = 0
    gvd_identical: bool = False
    given_vocabulary: bool = False
    planned: int = 0
    left_out: list[Problem] = dataclasses.field(default_factory=list)

    def total(self, name: str) -> int:
        """A count summed over the splits."""
        return sum(counts[name] for counts in self.counts.values())


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
    captions_per_image: int | None = 5,
    min_count: int = MIN_COUNT,
    skip_bad: bool = False,
    workers: int | None = None,
) -> PrepareReport:
    """Write the annotation folder from the official files.

    Args:
        out_dir: folder to write; files of the same name are replaced.
        splits: "train", "val", "test" -> image ids; a split may be absent.
        lemma: word -> lemma, for the fallback rule that gives phrases their classes (not needed with ``official``).
        sentences_dir, annotations_dir: the official ``Sentences`` and ``Annotations``. Words of images that
            stand in ``sentences_dir`` but in no split are counted for the vocabulary, as GVD does.
        classes: object classes of the fallback rule; None takes the 480 of Flickr30k Entities.
        official: GVD's ``flickr30k_cleaned_class.json``, read instead of the two folders.
        dictionary: GVD's ``dic_flickr30k.json``: its vocabulary, class order and lemmas are taken.
        require_official: refuse the fallback rule and our own vocabulary.
        unrelated: image id -> positions (from 0) of captions to leave out of the training split; an image or a caption
            that is not there is a problem.
        source: said in the header.
        captions_per_image: how many each image must have; None accepts any number.
        min_count: keep words seen at least so often.
        skip_bad: leave out what cannot be used and list it in ``left_out.json``.
        workers: processes; None takes the cores of this machine when the set is large.

    Returns:
        Counts and the vocabulary.

    Raises:
        UserError: files missing or bad (all at once, each with file and line or key); nothing is written then.
    """
    out_dir = Path(out_dir)
    names = {split: file_name(split) for split in splits}
    _check_arguments(sentences_dir, annotations_dir, official, dictionary, require_official, lemma)
    words = read_dictionary(dictionary) if dictionary is not None else None
    if official is not None:
        file = read_official(official)
        class_names = _ordered_classes(file, words)
        loaded = _load_official_images(file, splits, captions_per_image)
        header = functools.partial(
            annotation_header,
            source="gvd",
            gvd_identical=True,
            rule="flickr30k_cleaned_class.json as published",
            classes=class_names,
        )
    else:
        file = None
        class_names = list(classes) if classes is not None else read_classes()
        lemma = functools.cache(lemma)
        loaded = _load_entities_images(Path(sentences_dir), Path(annotations_dir), splits, captions_per_image, workers)
        header = functools.partial(
            annotation_header, source=source, gvd_identical=False, rule=FALLBACK_RULE, classes=class_names
        )
    report = PrepareReport(
        out_dir,
        Vocabulary(["UNK"]),
        {split: Counter() for split in splits},
        gvd_identical=file is not None,
        given_vocabulary=words is not None,
        planned=sum(map(len, splits.values())),
    )
    home = {image_id: split for split, ids in splits.items() for image_id in ids}
    counted: Counter[str] = Counter()
    problems: list[Problem] = []
    unrelated = dict(unrelated or {})
    class_set = set(class_names)
    with contextlib.ExitStack() as stack:
        outputs = {
            split: _SplitOutput(stack, out_dir, split, names[split], header(split), class_names) for split in splits
        }
        for image in loaded:
            counted.update(image.tokens)
            problems += image.problems
            report.clipped_boxes += image.clipped
            split = home.get(image.image_id)
            if split is None:
                report.rest_images += 1
            listed = unrelated.pop(image.image_id, ())
            report.unrelated += _drop_captions(image, listed, captions_per_image, split == "train", problems)
            if image.record is None:
                continue
            if file is None:
                add_classes(image.record, class_set, lemma)
            if image.record["captions"]:
                reference = file.images[image.image_id] if file is not None else None
                outputs[split].add(image, reference, report.counts[split])
        problems += [
            Problem(image_id, f"the list of unrelated captions names image {image_id}, which is not there.", "nothing")
            for image_id in unrelated
        ]
        report.boxed_phrases = sum(output.boxed_phrases for output in outputs.values())
        report.classes_used = len(set().union(*(output.classes_used for output in outputs.values())))
        _raise_problems(problems, report.planned, skip_bad)
        _check_not_empty(report, splits)
        report.left_out = problems
        report.vocabulary = words.vocabulary if words is not None else build_vocabulary(counted, min_count)
        for output in outputs.values():
            output.write_references()
    # The large files stand now; the small ones that belong to them follow at once.
    _write_side_files(report, words)
    return report


def select_annotations(
    source_dir: str | os.PathLike, out_dir: str | os.PathLike, chosen: Mapping[str, Sequence[int]]
) -> PrepareReport:
    """Write the part of an annotation folder that concerns some of its images, with the vocabulary of these images.

    Args:
        source_dir: a folder that ``prepare_annotations`` wrote.
        out_dir: folder to write; files of the same name are replaced.
        chosen: split -> image ids, in the order in which they are to stand.

    Returns:
        Counts and the vocabulary; boxes are counted once for each image that has them.

    Raises:
        UserError: a file is missing or bad, or lacks an image.
    """
    source_dir, out_dir = Path(source_dir), Path(out_dir)
    lemmas = source_dir / "lemmas.json"
    report = PrepareReport(out_dir, Vocabulary([UNK]), {split: Counter() for split in chosen})
    report.planned = sum(map(len, chosen.values()))
    counted: Counter[str] = Counter()
    used: set[str] = set()
    with contextlib.ExitStack() as stack:
        outputs = []
        for split, ids in chosen.items():
            header, images = open_annotations(source_dir / file_name(split), split)
            report.gvd_identical = header["gvd_identical"]
            wanted = set(ids)
            records = {image["image_id"]: image for image in images if image["image_id"] in wanted}
            references = _references(source_dir, split, wanted) if header["gvd_identical"] and split != "train" else {}
            absent = sorted(wanted - records.keys())
            if absent:
                raise UserError(f"{source_dir / file_name(split)} lacks {len(absent)} images, e.g. {absent[:5]}.")
            output = _SplitOutput(stack, out_dir, split, file_name(split), header, header["classes"])
            for image_id in ids:
                record = records[image_id]
                tokens = [token for caption in record["captions"] for token in caption["tokens"]]
                counted.update(tokens)
                boxes = {
                    tuple(box)
                    for caption in record["captions"]
                    for phrase in caption["phrases"]
                    for box in phrase["boxes"]
                }
                loaded = Loaded(image_id, record, tokens, [], boxes=len(boxes))
                output.add(loaded, references.get(image_id), report.counts[split])
            report.boxed_phrases += output.boxed_phrases
            used |= output.classes_used
            outputs.append(output)
        report.classes_used = len(used)
        report.vocabulary = build_vocabulary(counted)
        for output in outputs:
            output.write_references()
    write_vocabulary(out_dir / "vocabulary.txt", report.vocabulary)
    if lemmas.is_file():
        write_json(out_dir / lemmas.name, read_json(lemmas, "The table of lemmas"), indent=1)
    return report


def _references(folder: Path, split: str, wanted: Collection[int]) -> dict[int, Mapping[str, Any]]:
    """image id -> its entry of the grounding references as published."""
    content = read_json(folder / f"grounding_{split}.json", "The grounding references")
    return {entry["image_id"]: entry for entry in content["annotations"] if entry["image_id"] in wanted}


class _SplitOutput:
    """The files of one split while they are written."""

    def __init__(
        self,
        stack: contextlib.ExitStack,
        out_dir: Path,
        split: str,
        name: str,
        header: Mapping[str, Any],
        classes: Sequence[str],
    ) -> None:
        self._images = stack.enter_context(json_list(out_dir / name, header, "images"))
        self._captions = stack.enter_context(atomic_path(out_dir / f"captions_{split}.json"))
        self._coco: dict[str, Any] = {"info": {}, "licenses": [], "type": "captions", "images": [], "annotations": []}
        self._grounding = None
        self.boxed_phrases = 0
        self.classes_used: set[str] = set()
        if split != "train":
            self._grounding = stack.enter_context(
                json_list(
                    out_dir / f"grounding_{split}.json",
                    {"gvd_identical": header["gvd_identical"], "rule": header["rule"], "vocab": list(classes)},
                    "annotations",
                )
            )

    def add(self, image: Loaded, reference: Mapping[str, Any] | None, counts: dict[str, int]) -> None:
        record = image.record
        self._images.add(record)
        entry, annotations = coco_reference(record, len(self._coco["annotations"]))
        self._coco["images"].append(entry)
        self._coco["annotations"] += annotations
        if self._grounding is not None:
            self._grounding.add(gvd_reference(record) if reference is None else reference)
        counts["images"] += 1
        counts["boxes"] += image.boxes
        for caption in record["captions"]:
            counts["captions"] += 1
            counts["long_captions"] += len(caption["tokens"]) > LONG_CAPTION
            counts["phrases"] += len(caption["phrases"])
            boxed = [phrase["class"] for phrase in caption["phrases"] if phrase["boxes"]]
            named = [name for name in boxed if name is not None]
            self.boxed_phrases += len(boxed)
            counts["grounded_words"] += len(named)
            self.classes_used.update(named)

    def write_references(self) -> None:
        write_json(self._captions, self._coco)


# --- reading, in one process or several ----------------------------------------------------------------
def _load_official_images(
    file: OfficialFile, splits: Mapping[str, Sequence[int]], captions_per_image: int | None
) -> Iterator[Loaded]:
    planned = [image_id for ids in splits.values() for image_id in ids]
    rest = file.images.keys() - set(planned)
    for image_id in progress([*planned, *sorted(rest)], desc="images"):
        loaded = load_official(file, image_id, captions_per_image)
        if image_id in rest:
            loaded.record, loaded.problems = None, []
        yield loaded


def _load_entities_images(
    sentences: Path,
    annotations: Path,
    splits: Mapping[str, Sequence[int]],
    captions_per_image: int | None,
    workers: int | None,
) -> Iterator[Loaded]:
    planned = [image_id for ids in splits.values() for image_id in ids]
    texts, boxes = list_files(sentences, ".txt"), list_files(annotations, ".xml")
    wanted = set(planned)
    rest = sorted(texts.keys() - wanted)
    tasks = []
    for image_id in (*planned, *rest):
        problems: list[Problem] = []
        text = _only_file(image_id, texts, sentences, ".txt", problems)
        xml = _only_file(image_id, boxes, annotations, ".xml", problems) if image_id in wanted else None
        if problems:
            yield Loaded(image_id, None, [], problems)
        else:
            tasks.append((image_id, text, xml, captions_per_image))
    if workers is None:
        workers = os.cpu_count() or 1 if len(tasks) >= IMAGES_WORTH_A_POOL else 1
    if workers < 2 or "fork" not in multiprocessing.get_all_start_methods():
        yield from progress(map(_load_task, tasks), len(tasks), "images")
        return
    with multiprocessing.get_context("fork").Pool(workers) as pool:
        yield from progress(pool.imap(_load_task, tasks, chunksize=128), len(tasks), "images")


def _only_file(
    image_id: int, found: Mapping[int, Sequence[Path]], folder: Path, suffix: str, problems: list[Problem]
) -> Path | None:
    """The one file of an image; None, with a problem, when there is none, or one for each way to write its number."""
    paths = found.get(image_id, ())
    if not paths:
        message = f"{folder / f'{image_id}{suffix}'} does not exist."
        problems.append(Problem(image_id, message, "image", f"have no {folder.name} file"))
    elif len(paths) > 1:
        message = f"{' and '.join(map(str, paths))} are all named by image {image_id}; keep the right one."
        problems.append(Problem(image_id, message, "image"))
    return paths[0] if len(paths) == 1 else None


def _load_task(task: tuple[int, Path, Path | None, int | None]) -> Loaded:
    return load_entities(*task)


# --- checks --------------------------------------------------------------------------------------------
def _check_arguments(
    sentences_dir: Any, annotations_dir: Any, official: Any, dictionary: Any, require_official: bool, lemma: Any
) -> None:
    problems = []
    if require_official:
        for value, name in ((official, "flickr30k_cleaned_class.json"), (dictionary, "dic_flickr30k.json")):
            if value is None:
                problems.append(
                    f"--require-official needs GVD's {name}, and none was given; without it the result is "
                    "not GVD-identical"
                )
    if official is None:
        for value, name in ((sentences_dir, "Sentences"), (annotations_dir, "Annotations")):
            if value is None or not Path(value).is_dir():
                problems.append(f"the folder {name} of the official annotations is missing: {value}")
        if lemma is None:
            problems.append("the fallback rule needs a lemmatiser")
    if problems:
        raise UserError("The annotations cannot be prepared:\n" + "\n".join(f"  - {problem}." for problem in problems))


def _raise_problems(problems: Sequence[Problem], planned: int, skip_bad: bool) -> None:
    if not problems or skip_bad:
        return
    raise UserError(
        f"{len(problems):,} problem(s) in the annotations, nothing was written:\n"
        f"{numbered(grouped(problems, planned))}\n"
        "Correct the files, or add --skip-bad: it leaves out what cannot be used and writes the list of it."
    )


def grouped(problems: Sequence[Problem], planned: int) -> list[str]:
    """The problems' messages; several images that lack the same are one sentence, which counts them.

    Args:
        planned: images in all splits.
    """
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


def _check_not_empty(report: PrepareReport, splits: Mapping[str, Sequence[int]]) -> None:
    empty = [split for split in splits if not report.counts[split]["images"]]
    if empty:
        reason = " ".join(problem.message for problem in report.left_out[:3]) or "its list of image ids is empty."
        raise UserError(f"No usable image is left in the split {', '.join(empty)}: {reason}")


def _drop_captions(
    image: Loaded, listed: Collection[int], captions: int | None, train: bool, problems: list[Problem]
) -> int:
    """Take the listed captions out of a training image's record; how many they were."""
    image_id, record = image.image_id, image.record
    captions = captions if record is None else len(record["captions"])
    beyond = sorted(position + 1 for position in listed if captions is not None and position >= captions)
    if beyond:
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
    """The dictionary's order when there is one: GVD's evaluator goes by it where two classes share a lemma."""
    if words is None:
        return file.classes
    if set(words.classes) != set(file.classes):
        odd = sorted(set(words.classes) ^ set(file.classes))
        raise UserError(
            f"{file.path} and the dictionary do not have the same classes: {', '.join(odd[:10])} "
            "stand in one of them only. Take both files from one source."
        )
    return words.classes


def _write_side_files(report: PrepareReport, words: OfficialDictionary | None) -> None:
    write_vocabulary(report.out_dir / "vocabulary.txt", report.vocabulary)
    optional = {
        "lemmas.json": words.lemmas if words is not None else None,
        "left_out.json": [
            {key: getattr(problem, key) for key in ("image_id", "message", "left_out")} for problem in report.left_out
        ]
        or None,
    }
    for name, content in optional.items():
        if content is not None:
            write_json(report.out_dir / name, content, indent=1)
        else:
            (report.out_dir / name).unlink(missing_ok=True)
