"""Score the captions and word boxes of any model.

    python score_other_models.py captions.json data/flickr30k_entities

captions.json is a list in COCO's results format, with one box or null per word of the caption, in pixels:

    [{"image_id": 17, "caption": "a man walks a dog", "boxes": [null, [x1, y1, x2, y2], null, null, [...]]}, ...]

The folder is written by `xmodaler prepare annotations`. Boxes of words that do not name an object are not judged. For a
submission of Grounded Video Description use `xmodaler score grounding`, which reads it directly.
"""

import argparse
from pathlib import Path

from xmodaler_ssattn.evaluation.caption_files import read_reference_captions
from xmodaler_ssattn.evaluation.doubts import grounding_doubts
from xmodaler_ssattn.evaluation.gvd_format import check_predictions, read_reference
from xmodaler_ssattn.evaluation.lemmas import Lemmas
from xmodaler_ssattn.evaluation.object_words import ObjectWords
from xmodaler_ssattn.evaluation.scoring import CaptionScorer, GroundingScorer
from xmodaler_ssattn.files import read_json


def sentence(entry, object_words):
    """The object words of a caption as the scorer takes them: class, position and box of each."""
    words = entry["caption"].lower().split()
    if len(words) != len(entry["boxes"]):
        raise SystemExit(f"image {entry['image_id']}: {len(words)} words and {len(entry['boxes'])} boxes.")
    found = [i for i, word in enumerate(words) if entry["boxes"][i] and object_words(word)]
    boxes = [entry["boxes"][i] for i in found]
    return {"clss": [object_words(words[i]) for i in found], "idx_in_sent": found, "bbox": boxes}


def score(file, folder, split="test", metrics=None):
    """The scores of the captions and those of the boxes, with intervals from 1,000 resamples of the images."""
    entries = read_json(file, "Captions")
    captions = {str(entry["image_id"]): entry["caption"] for entry in entries}
    references = read_reference_captions(Path(folder, f"captions_{split}.json"))
    caption_scores = CaptionScorer(references).score(captions, metrics, replicates=1000)

    reference = read_reference(Path(folder, f"grounding_{split}.json"))
    object_words = ObjectWords(reference.classes, Lemmas.of_folder(folder))
    results = {str(entry["image_id"]): [sentence(entry, object_words)] for entry in entries}
    sentences = {str(record["image_id"]): len(record["captions"]) for record in reference.images}
    predictions = check_predictions({"results": results}, str(file), "gen", reference.classes, sentences)
    for doubt in grounding_doubts(reference.images, predictions, "gen"):
        print(f"Warning: {doubt}.")  # such as boxes as fractions, or in another order
    return caption_scores, GroundingScorer(reference.images, object_words.lemmas).score(predictions, replicates=1000)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("captions")
    parser.add_argument("folder")
    parser.add_argument("--split", default="test")
    parser.add_argument("--metrics", nargs="+", help="caption metrics (default: all that this machine can compute)")
    args = parser.parse_args()
    for scores in score(args.captions, args.folder, args.split, args.metrics):
        for name, value in scores.values.items():
            low, high = scores.intervals[name]
            print(f"{name:24s} {100 * value:6.2f}  [{100 * low:.2f}, {100 * high:.2f}]")
        for metric, reason in scores.failed.items():
            print(f"{metric} was left out: {reason}")
