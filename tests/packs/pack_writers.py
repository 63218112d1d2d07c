"""Small feature packs in every format, all with the same images, so that all must convert to the same content."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import h5py
import numpy as np

from xmodaler_ssattn.packs.formats.caffe_tsv import CaffeTsv
from xmodaler_ssattn.packs.formats.gic import GroundedImageCaptioning
from xmodaler_ssattn.packs.formats.gvd import GroundedVideoDescription
from xmodaler_ssattn.packs.formats.lxmert_tsv import LxmertTsv
from xmodaler_ssattn.packs.formats.milvlg_npz import MilvlgNpz
from xmodaler_ssattn.packs.formats.vlp import VisionLanguagePretraining
from xmodaler_ssattn.packs.formats.xmodaler_npz import XmodalerNpz

DIM, CLASSES = 6, 5
SIZES = {7: (100, 80), 3: (90, 120), 11: (64, 64)}
COUNTS = {7: 4, 3: 2, 11: 4}


def content(image_id: int) -> dict[str, np.ndarray]:
    """boxes, features, probs (background first) and scores of an image; scores are the best object probability."""
    rng = np.random.default_rng(image_id)
    count, (width, height) = COUNTS[image_id], SIZES[image_id]
    corner = rng.random((count, 2)) * (np.array([width, height]) - 20)
    probs = rng.random((count, CLASSES)).astype(np.float32)
    probs /= probs.sum(1, keepdims=True)
    return {
        "boxes": np.concatenate([corner, corner + 5 + rng.random((count, 2)) * 10], 1).astype(np.float32),
        "features": rng.random((count, DIM)).astype(np.float32),
        "probs": probs,
        "scores": probs[:, 1:].max(1),
    }


def _base64(array: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()


def caffe_line(image_id: int) -> str:
    c, (width, height) = content(image_id), SIZES[image_id]
    return "\t".join(map(str, (image_id, width, height, COUNTS[image_id], _base64(c["boxes"]), _base64(c["features"]))))


def caffe_tsv(folder: Path) -> CaffeTsv:
    """Two parts, the second with Windows line ends and without the last one."""
    folder.mkdir()
    (folder / "a.tsv").write_text(caffe_line(7) + "\n" + caffe_line(3) + "\n")
    (folder / "b.tsv").write_bytes(b"\r\n" + caffe_line(11).encode())
    return CaffeTsv([folder / "a.tsv", folder / "b.tsv"])


def lxmert_tsv(folder: Path) -> LxmertTsv:
    folder.mkdir()
    lines = []
    for image_id, (width, height) in SIZES.items():
        c, count = content(image_id), COUNTS[image_id]
        ids, scores = _base64(np.zeros(count, np.int64)), _base64(c["scores"])
        values = (image_id, height, width, ids, scores, ids, scores, count, _base64(c["boxes"]), _base64(c["features"]))
        lines.append("\t".join(map(str, values)))
    (folder / "a.tsv").write_text("\n".join(lines) + "\n")
    return LxmertTsv([folder / "a.tsv"])


def xmodaler_npz(folder: Path) -> XmodalerNpz:
    folder.mkdir()
    for image_id, (width, height) in SIZES.items():
        c = content(image_id)
        small = {"image_id": str(image_id), "image_w": [width], "image_h": [height], "num_boxes": [COUNTS[image_id]]}
        arrays = {"boxes": c["boxes"], "features": c["features"], "cls_prob": c["probs"]}
        np.savez_compressed(folder / f"{image_id}.npz", **small, **arrays)
    return XmodalerNpz(folder)


def milvlg_npz(folder: Path) -> MilvlgNpz:
    """With the pickled ``info`` of the real packs, which must not be read; one image has x turned."""
    folder.mkdir()
    for image_id, (width, height) in SIZES.items():
        c = content(image_id)
        features = c["features"].T if image_id == 3 else c["features"]
        small = {"num_bbox": COUNTS[image_id], "image_w": width, "image_h": height}
        info = np.array({"objects_id": 1}, dtype=object)
        np.savez(folder / f"{image_id}.npz", x=features, bbox=c["boxes"], info=info, **small)
    return MilvlgNpz(folder)


def gvd(folder: Path) -> GroundedVideoDescription:
    folder.mkdir()
    images, labels = [], np.zeros((4, 5, 6), np.float32)
    for row, image_id in enumerate((11, 99, 7, 3)):  # the dictionary's order; 99 has no features
        images.append({"id": image_id, "file_path": f"{image_id}.jpg", "split": "train"})
        if image_id in SIZES:
            c, count = content(image_id), COUNTS[image_id]
            labels[row, :count] = np.concatenate([c["boxes"], np.ones((count, 1)), c["scores"][:, None]], 1)
            np.save(folder / f"{image_id}.npy", np.concatenate([c["features"], np.zeros((1, DIM), np.float32)]))
    with h5py.File(folder / "boxes.h5", "w") as file:
        file["dets_labels"], file["nms_num"] = labels, np.array([4.0, 0.0, 4.0, 2.0])
    (folder / "dic.json").write_text(json.dumps({"images": images}))
    return GroundedVideoDescription(folder, folder / "boxes.h5", folder / "dic.json")


def vlp(folder: Path) -> VisionLanguagePretraining:
    folder.mkdir()
    with h5py.File(folder / "boxes.h5", "w") as file:
        for image_id in SIZES:
            c, count = content(image_id), COUNTS[image_id]
            np.save(folder / f"{image_id}.npy", c["features"])
            np.save(folder / f"{image_id}_cls_prob.npy", c["probs"])
            file[str(image_id)] = np.concatenate([c["boxes"], np.ones((count, 1)), c["scores"][:, None]], 1)
    return VisionLanguagePretraining(folder, folder / "boxes.h5")


def vlp_parts(folder: Path) -> VisionLanguagePretraining:
    folder.mkdir()
    for image_id in SIZES:
        c, count = content(image_id), COUNTS[image_id]
        boxes = np.concatenate([c["boxes"], np.ones((count, 1)), c["scores"][:, None]], 1)
        for kind, value in (("feat", c["features"]), ("cls", c["probs"]), ("bbox", boxes)):
            with h5py.File(folder / f"vg_{kind}{image_id:03d}.h5", "w") as file:
                file[str(image_id)] = value
    return VisionLanguagePretraining(folder / "vg", folder / "vg")


def gic(folder: Path) -> GroundedImageCaptioning:
    for name in ("att", "box"):
        (folder / name).mkdir(parents=True)
    for image_id in SIZES:
        c = content(image_id)
        np.savez_compressed(folder / "att" / f"{image_id}.npz", feat=c["features"])
        np.save(folder / "box" / f"{image_id}.npy", c["boxes"])
    return GroundedImageCaptioning(folder / "att", folder / "box")


WRITERS = {
    writer.__name__: writer for writer in (caffe_tsv, lxmert_tsv, xmodaler_npz, milvlg_npz, gvd, vlp, vlp_parts, gic)
}
HAVE_PROBS = {"xmodaler_npz", "vlp", "vlp_parts"}
HAVE_SCORES = HAVE_PROBS | {"lxmert_tsv", "gvd"}
