"""Write made-up data in the other project's format into birds/: 40 images with one bird, one branch and one stone each.

Replace it by your own data; birds_dataset.py describes the files.
"""

import json
from pathlib import Path

import numpy as np

COLOURS, THINGS = ("red", "blue", "green"), ("bird", "branch", "stone")
WIDTH, HEIGHT, FEATURES = 640, 480, 16
SPLITS = {"train": range(1, 33), "val": range(33, 41)}


def make(folder, seed=0):
    rng = np.random.default_rng(seed)
    looks = {word: rng.normal(size=FEATURES) for word in (*COLOURS, *THINGS)}
    (folder / "features").mkdir(parents=True, exist_ok=True)
    records = []
    for split, ids in SPLITS.items():
        for image_id in ids:
            colour = COLOURS[image_id % 3]
            corners = rng.uniform((0, 0), (WIDTH - 200, HEIGHT - 200), size=(3, 2))
            boxes = np.concatenate([corners, corners + rng.uniform(80, 200, size=(3, 2))], axis=1)
            features = [looks["bird"] + looks[colour], looks["branch"], looks["stone"]]
            probs = np.full((3, 4), 0.05) + 0.8 * np.eye(4)[1:]  # background, bird, branch, stone
            np.savez(
                folder / "features" / f"{image_id}.npz",
                features=np.float32(features) + rng.normal(scale=0.1, size=(3, FEATURES)).astype(np.float32),
                boxes=boxes.astype(np.float32),
                class_probs=probs.astype(np.float32),
            )
            captions = [f"a {colour} bird on a branch", f"a branch with a {colour} bird"]
            sizes = {"width": WIDTH, "height": HEIGHT}
            records.append({"id": image_id, "split": split, **sizes, "captions": captions})
            records[-1]["objects"] = boxes[:2].round().tolist()  # nobody mentions the stone
    (folder / "birds.json").write_text(json.dumps(records))
    words = ("a", *COLOURS, *THINGS[:2], "on", "with", "UNK")
    (folder / "vocabulary.txt").write_text("".join(f"{word}\n" for word in words))
    val = [record for record in records if record["split"] == "val"]
    coco = {
        "images": [{"id": record["id"]} for record in val],
        "annotations": [
            {"id": number, "image_id": record["id"], "caption": caption}
            for number, (record, caption) in enumerate((record, text) for record in val for text in record["captions"])
        ],
    }
    (folder / "captions_val.json").write_text(json.dumps(coco))


if __name__ == "__main__":
    make(Path("birds"))
