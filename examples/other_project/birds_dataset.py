"""The data set of the other project: captions and boxes in one JSON file, the regions of an image in one npz file.

birds.json       [{"id": 1, "split": "train", "width": 640, "height": 480, "captions": ["a red bird", ...],
                   "objects": [[x1, y1, x2, y2], ...]}, ...]          boxes in pixels
features/1.npz   features (k, D), boxes (k, 4) x1 y1 x2 y2 in pixels, class_probs (k, C) background first
vocabulary.txt   one word per line, with UNK
"""

import json
from pathlib import Path

import numpy as np

from xmodaler_ssattn import keys
from xmodaler_ssattn.boxes import spatial_vectors
from xmodaler_ssattn.data.sigma import beta_target
from xmodaler_ssattn.host import DATASETS_REGISTRY, kfg


@DATASETS_REGISTRY.register()
class BirdsDataset:
    def __init__(self, cfg, stage):
        self.stage, self.folder, self.longest = stage, Path(cfg.DATALOADER.ANNO_FOLDER), cfg.MODEL.MAX_SEQ_LEN
        words = Path(cfg.INFERENCE.VOCAB).read_text(encoding="utf-8").split()
        self.number = {word: number for number, word in enumerate(words, start=1)}  # 0 begins and ends a sentence

    def load_data(self, cfg):
        records = json.loads((self.folder / "birds.json").read_text(encoding="utf-8"))
        return [record for record in records if record["split"] == self.stage]

    def __call__(self, record):
        with np.load(self.folder / "features" / f"{record['id']}.npz") as regions:
            sample = {kfg.ATT_FEATS: regions["features"], keys.CLASS_PROBS: regions["class_probs"]}
            boxes = regions["boxes"]
        sample |= {kfg.IDS: record["id"], keys.IMAGE_SIZE: np.float32([record["width"], record["height"]])}
        sample |= {keys.BOXES_PX: boxes, keys.SPATIAL: spatial_vectors(boxes, record["width"], record["height"])}
        if self.stage == "train":
            unknown = self.number["UNK"]
            captions = [[self.number.get(word, unknown) for word in text.split()] for text in record["captions"]]
            captions = [numbers[: self.longest] for numbers in captions]
            sample[kfg.SEQ_PER_SAMPLE] = len(captions)  # the same for all images
            sample[kfg.G_TOKENS_IDS] = [np.array([0, *numbers]) for numbers in captions]
            sample[kfg.G_TARGET_IDS] = [np.array([*numbers, 0]) for numbers in captions]
            sample[keys.SIGMA] = beta_target(boxes, [record["objects"]])[None]  # for GroundingLoss
            sample[keys.HAS_BOXES] = np.float32([len(record["objects"]) > 0])
        return sample
