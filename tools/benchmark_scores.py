"""Time the grounding metric on made-up captions of the size of Flickr30k's test split.

    python tools/benchmark_scores.py [--images 1000] [--lemmatiser]

1,000 images with five captions of twelve tokens and four annotated words each, one predicted sentence per image;
everything in the command except reading the files: lemmas, overlaps, F1_all, F1_loc and the per-sentence
variants, on one core. Lemmas come from a table, or with --lemmatiser from the packaged lemmatiser.
"""

import argparse
import random
import statistics
import time

from xmodaler_ssattn.classes import read_classes
from xmodaler_ssattn.evaluation.grounding import generated_scores, match_generated
from xmodaler_ssattn.evaluation.lemmas import noun_lemma


def made_up(images: int) -> tuple[list[dict], dict[str, list[dict]]]:
    """(reference, predictions) in GVD's formats; see evaluation/grounding.py."""
    rng = random.Random(0)
    classes = read_classes()

    def box() -> list[int]:
        x, y = rng.randrange(400), rng.randrange(300)
        return [x, y, x + rng.randrange(20, 100), y + rng.randrange(20, 80)]

    reference, predictions = [], {}
    for image_id in range(images):
        captions = []
        for _ in range(5):
            tokens = rng.choices(classes, k=12)
            places = sorted(rng.sample(range(12), 4))
            captions.append(
                {
                    "tokens": tokens,
                    "process_idx": places,
                    "process_clss": [tokens[i] for i in places],
                    "process_bnd_box": [box() for _ in places],
                }
            )
        reference.append({"image_id": image_id, "image_size": [500, 400], "captions": captions})
        named = [rng.choice(captions)["process_clss"][0] for _ in range(3)]
        sentence = {"clss": named, "idx_in_sent": [1, 4, 7], "bbox": [box() for _ in named]}
        predictions[str(image_id)] = [sentence]
    return reference, predictions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--lemmatiser", action="store_true", help="the packaged lemmatiser instead of a table")
    args = parser.parse_args()
    reference, predictions = made_up(args.images)
    lemma = noun_lemma if args.lemmatiser else (lambda word: word)
    seconds = []
    for _ in range(5):
        start = time.process_time()
        scores = generated_scores(match_generated(reference, predictions, lemma))
        seconds.append(time.process_time() - start)
    print(
        f"{args.images} images x 5 captions: {statistics.median(seconds):.3f} s of one core (first {seconds[0]:.3f}); "
        f"F1_all {scores['F1_all']:.4f}, F1_loc {scores['F1_loc']:.4f}"
    )


if __name__ == "__main__":
    main()
