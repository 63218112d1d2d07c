"""The counts of the complete data set, and their comparison with a prepared folder."""

from __future__ import annotations

from xmodaler_ssattn.data.prepare import grouped
from xmodaler_ssattn.data.splits import CAPTIONS_PER_IMAGE
from xmodaler_ssattn.data.written import LONG_CAPTION, PrepareReport
from xmodaler_ssattn.errors import numbered

CONFIGS = "configs/flickr30k_entities"

# Images per split that the two schemes are known to have.
EXPECTED = {
    "karpathy": {"train": 29000, "val": 1014, "test": 1000},
    "plummer": {"train": 29783, "val": 1000, "test": 1000},
}

# The counts of Flickr30k Entities v1.0 in these splits, from the complete files: phrases (without the four that are
# punctuation only), phrases whose chain has a box, bndbox elements, captions of UNRELATED_CAPTIONS in the training
# split, images outside the splits. The words, UNK included, are counted over all 31,783 images.
EXPECTED_COUNTS = {
    "karpathy": {"phrases": 547_073, "boxed_phrases": 445_586, "boxes": 270_107, "unrelated": 19, "rest": 769},
    "plummer": {"phrases": 559_763, "boxed_phrases": 456_140, "boxes": 275_775, "unrelated": 21, "rest": 0},
}
EXPECTED_VOCABULARY = 8_624


def described(report: PrepareReport, scheme: str) -> str:
    """A text that says whether the counts are those of the complete data set, or lists both numbers and a reason.

    Args:
        scheme: a key of ``EXPECTED``.
    """
    rows = _counts(report, scheme)
    unequal = {name: pair for name, pair in rows.items() if pair[0] != pair[1]}
    equal = ", ".join(f"{name} {found:,}" for name, (found, _) in rows.items() if name not in unequal)
    of = f"of the complete data set in {scheme}'s splits"
    lines = [f"All {len(rows)} counts are those {of}: {equal}."]
    if unequal:
        width = max(map(len, unequal))
        lines = [f"{len(unequal)} of {len(rows)} counts are not those {of}:"]
        lines.append(f"{'':{width}}  {'found':>9}  {'expected':>9}")
        lines += [f"{name:{width}}  {found:>9,}  {wanted:>9,}" for name, (found, wanted) in unequal.items()]
        lines += [f"Likely reason: {reason}." for reason in _likely_reasons(report, scheme, set(unequal))]
        if equal:
            lines.append(f"As expected: {equal}.")
    words, long = report.total("grounded_words"), report.total("long_captions")
    share = 100 * long / max(report.total("captions"), 1)
    lines.append(f"{words:,} object words have a class and a box; {report.classes_used:,} classes are in use.")
    lines.append(f"{long:,} captions ({share:.1f} %) have more than {LONG_CAPTION} words; training cuts them.")
    if report.clipped_boxes:
        lines.append(f"{report.clipped_boxes:,} boxes passed the border by one pixel and were clipped.")
    if report.unrelated:
        lines.append(f"{report.unrelated:,} unrelated captions were left out of the training split.")
    if not report.gvd_identical:
        lines.append("Classes and boxes follow the fallback rule: NOT GVD-identical (as stated in the files' headers).")
    if report.left_out:
        path = report.out_dir / "left_out.json"
        lines.append(f"{len(report.left_out):,} problems were skipped, all of them in {path}:")
        lines.append(numbered(grouped(report.left_out, report.planned)))
    size, of_configs = report.vocabulary.model_size, EXPECTED_VOCABULARY + 1
    advice = f"Set MODEL.VOCAB_SIZE {size} ({CONFIGS} has {of_configs})."
    if size == of_configs:
        advice = f"MODEL.VOCAB_SIZE {size} is that of {CONFIGS}."
    lines.append(f"Written to {report.out_dir}. {advice}")
    return "\n".join(lines)


def _counts(report: PrepareReport, scheme: str) -> dict[str, tuple[int, int]]:
    """name -> (found, expected); the contents of GVD's own files are unknown and not compared."""
    images, expected = EXPECTED[scheme], EXPECTED_COUNTS[scheme]
    unrelated = expected["unrelated"] if report.unrelated else 0
    rows = {f"{split} images": (counts["images"], images[split]) for split, counts in report.counts.items()}
    rows["captions"] = report.total("captions"), sum(images.values()) * CAPTIONS_PER_IMAGE - unrelated
    if not report.gvd_identical:
        rows["phrases"] = report.total("phrases"), expected["phrases"]
        rows["phrases with a box"] = report.boxed_phrases, expected["boxed_phrases"]
        rows["boxes"] = report.total("boxes"), expected["boxes"]
        if not report.given_vocabulary:
            rows["vocabulary with UNK"] = len(report.vocabulary), EXPECTED_VOCABULARY
        rows["images outside the splits"] = report.rest_images, expected["rest"]
    return rows


def _likely_reasons(report: PrepareReport, scheme: str, unequal: set[str]) -> list[str]:
    images = {split: counts["images"] for split, counts in report.counts.items()}
    unrelated = EXPECTED_COUNTS[scheme]["unrelated"]
    others = [name for name, counts in EXPECTED.items() if name != scheme and counts == images]
    reasons = []
    if others:
        reasons.append(f"these are the split sizes of {others[0]}: add --split-scheme {others[0]}")
    elif images != EXPECTED[scheme] and report.left_out:
        reasons.append("images were left out, as listed below")
    elif images != EXPECTED[scheme]:
        reasons.append("the split ids are not the complete lists")
    elif report.unrelated not in (0, unrelated):
        reasons.append(f"the published list of unrelated captions has {unrelated} of the training split")
    elif unequal & {"captions", "phrases", "phrases with a box", "boxes"}:
        reasons.append("the images are all there, so some files differ from version 1.0 of the data set")
    if "vocabulary with UNK" in unequal:
        reasons.append(
            "the vocabulary counts the words of all images in Sentences, including those outside the splits; one "
            "missing image can change it"
        )
    return reasons
