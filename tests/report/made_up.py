"""Made-up results, annotations and pictures: every number can be checked on paper.

Image i is 400 x 300 with a red dog at 50, 60, 150, 160 and a blue car at 220, 100, 340, 200. Both models say "a dog
near a car". The regions are the dog's box, the car's box and the whole image (numbers 0, 1, 2); ``looks`` says on
which one a word rests.
"""

import json
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from xmodaler_ssattn.caption import Attention, GroundedCaption, ground_words
from xmodaler_ssattn.evaluation.results import ImageResult, Results, write_results

SIZE = (400, 300)
DOG, CAR, WHOLE = (50.0, 60.0, 150.0, 160.0), (220.0, 100.0, 340.0, 200.0), (0.0, 0.0, 400.0, 300.0)
BOXES = np.array([DOG, CAR, WHOLE], dtype=np.float32)
WORDS = ("a", "dog", "near", "a", "car")
OBJECT_WORDS = {"dog": "dog", "car": "car"}
BETA = np.array([0.2, 0.3, 0.5], dtype=np.float32)


def attention(looks, beta=True):
    """alpha 0.5 on each word's region in ``looks``, 0.25 on the two others; gamma = alpha + 0.5 beta."""
    alpha = np.full((len(looks), 3), 0.25, dtype=np.float32)
    alpha[np.arange(len(looks)), list(looks)] = 0.5
    return Attention(alpha, BETA if beta else None, alpha + 0.5 * BETA if beta else alpha)


def caption(looks=(2, 0, 2, 2, 1), words=WORDS, *, beta=True, saved=True, size=SIZE):
    """Words that rest on the regions in ``looks``."""
    weights = np.zeros((len(words), 3), dtype=np.float32)
    weights[np.arange(len(words)), list(looks)] = 0.5
    return GroundedCaption(
        ground_words(words, weights, BOXES, 3),
        boxes_px=BOXES,
        image_size=size,
        attention=attention(looks, beta) if saved else None,
    )


RIGHT = (2, 0, 2, 2, 1)
"""dog on the dog, car on the car."""
DOG_WRONG = (2, 1, 2, 2, 1)
"""dog on the car's box."""


def write(path, captions, *, name_of_split="test", scores=None, save_attention=True, **header):
    """A results file of ``{image_id: caption}``."""
    images = tuple(ImageResult(image_id, text) for image_id, text in captions.items())
    header = {"split": name_of_split, "epoch": 1, "ground_by": "gamma", "scores": scores or {}, **header}
    write_results(path, Results(images, OBJECT_WORDS, header), save_attention=save_attention)
    return Path(path)


def phrase(start, end, head, name, box):
    return {"start": start, "end": end, "head": head, "class": name, "chain": "1", "boxes": [list(map(int, box))]}


def annotated(image_id, raws=("A dog near a car .", "The dog .", "A car .", "Dog and car .", "A dog .")):
    """One image's annotations: the first caption has both boxes, the others none."""
    captions = []
    for number, raw in enumerate(raws):
        tokens = [word.lower() for word in raw.split() if word != "."]
        phrases = [phrase(0, 2, 1, "dog", DOG), phrase(3, 5, 4, "car", CAR)] if number == 0 else []
        captions.append({"raw": raw, "tokens": tokens, "phrases": phrases})
    return {"image_id": image_id, "width": 400, "height": 300, "captions": captions}


def write_annotations(folder, images, split="test", *, grounding=True):
    """``{split}.json`` and, for the scores, ``grounding_{split}.json``."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    header = {"schema": "xmodaler_ssattn/annotations", "version": 1, "split": split, "source": "sample",
              "gvd_identical": False, "classes": ["dog", "car"]}  # fmt: skip
    (folder / f"{split}.json").write_text(json.dumps({**header, "images": images}), encoding="utf-8")
    if grounding:
        records = [
            {"image_id": image["image_id"], "captions": [
                {"tokens": c["tokens"], "process_idx": [p["head"] for p in c["phrases"]],
                 "process_clss": [p["class"] for p in c["phrases"]],
                 "process_bnd_box": [p["boxes"][0] for p in c["phrases"]]} for c in image["captions"]]}
            for image in images
        ]  # fmt: skip
        (folder / f"grounding_{split}.json").write_text(
            json.dumps({"vocab": ["dog", "car"], "annotations": records}), encoding="utf-8"
        )
    return folder


def draw_picture(path, size=SIZE):
    """The red dog and the blue car on white."""
    picture = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(picture)
    pen.rectangle(DOG, fill=(220, 0, 0))
    pen.rectangle(CAR, fill=(0, 0, 220))
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)
    return Path(path)
