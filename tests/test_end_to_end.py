"""From a table of pictures and a detector of transformers to captions, with the commands that a person types.

Ten photographs of SSATTN_TEST_DATA, or drawn scenes without it. The detector is random, the captioner nearly so: the
captions are nonsense, but each step reads what the step before it wrote. ``captioned`` has all these files, for tests
of what comes after the captions.
"""

import io
import json
import os
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from detectors.toy_transformers import DIM, NAMES, write_detector
from xmodaler_ssattn.cli.app import LoadedModels
from xmodaler_ssattn.cli.main import main, parse
from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.evaluation.region_choice import region_rule
from xmodaler_ssattn.evaluation.results import read_results
from xmodaler_ssattn.files import read_json, sha256_of
from xmodaler_ssattn.packs.region_classes import described_names, names_in
from xmodaler_ssattn.packs.store import RegionStore
from xmodaler_ssattn.worlds.drawn import draw_dataset

arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
pytest.importorskip("transformers")

CONFIG = str(Path(__file__).parents[1] / "configs" / "sample" / "ss_attn.yaml")
CLASSES = ["man", *NAMES[1:]]  # "man" and "dog" are drawn, "red ball" and "N/A" are no class of the captions
REGIONS = 12
WIDTHS = {"MODEL.VISUAL_EMBED.IN_DIM": DIM, "MODEL.SS_ATTENTION.NUM_CLASSES": 1 + len(CLASSES)}


@dataclass
class Captioned:
    """What the commands left behind."""

    folder: Path
    pictures: dict  # image id -> PIL image
    table: Path  # a parquet file of the pictures
    detector: Path  # a folder of transformers
    regions: Path
    run: Path  # of the captioner
    results: Path
    page: Path
    said: str  # printed by extract, check and caption


def photographs(scenes: Path) -> dict[str, bytes]:
    """File name -> bytes of ten pictures."""
    data = os.environ.get("SSATTN_TEST_DATA")
    folder = Path(data) / "real_regions" / "images" if data else scenes
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())[:10]}


@pytest.fixture(scope="module")
def captioned(tmp_path_factory):
    folder = tmp_path_factory.mktemp("end_to_end")
    draw_dataset(folder / "data", num_images=12, feature_dim=16, workers=1)
    (folder / "detector").mkdir()
    write_detector(folder / "detector", "rt_detr_v2", CLASSES)
    table, regions, run = folder / "photos.parquet", folder / "photos.h5", folder / "run"
    detect = ["--backend", "transformers", "--min-max-boxes", f"{REGIONS},{REGIONS}"]

    with zipfile.ZipFile(folder / "scenes.zip", "w") as archive:
        for path in (folder / "data" / "Images").iterdir():
            archive.write(path, f"Images/{path.name}")
    weights = ["--weights", str(folder / "detector"), *detect]
    scenes = str(folder / "scenes.h5")
    assert main(["extract", "--images", str(folder / "scenes.zip"), *weights, "--out", scenes]) == 0
    options = {
        "DATALOADER.SAMPLE_SCENES": 0, "DATALOADER.REGIONS": scenes, "DATALOADER.TRAIN_BATCH_SIZE": 8,
        "MODEL.VOCAB_SIZE": read_json(folder / "data" / "sample.json", "manifest")["vocabulary_size"],
        "MODEL.DECODER_DIM": 16, "SOLVER.EPOCH": 1, "SOLVER.EVAL_PERIOD": 2, "INFERENCE.METRICS": "[]",
        "INFERENCE.FINAL_METRICS": "[]", "OUTPUT_DIR": run, **WIDTHS,
    }  # fmt: skip
    words = [str(word) for pair in options.items() for word in pair]
    assert main(["train", "--config-file", CONFIG, "--data", str(folder / "data"), *words]) == 0
    checkpoint = torch.load(run / "model_final.pth", weights_only=True)
    logits = checkpoint["model"]["predictor.logits.weight"]  # large ones, so that it is not silent
    logits.copy_(200 * torch.randn(logits.shape, generator=torch.Generator().manual_seed(0)))
    torch.save({"model": checkpoint["model"]}, run / "model_final.pth")

    found = photographs(folder / "data" / "Images")
    struct = arrow.struct([("bytes", arrow.binary()), ("path", arrow.string())])
    images = arrow.array([{"bytes": data, "path": None} for data in found.values()], struct)
    columns = {"image": images, "img_id": [str(k) for k in range(len(found))], "filename": list(found)}
    parquet.write_table(arrow.table(columns), table, row_group_size=4)

    printed, out = io.StringIO(), folder / "captions.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdout", printed)
        assert main(["extract", "--images", str(table), *weights, "--out", str(regions)]) == 0
        assert main(["check", "--regions", str(regions), "--all"]) == 0
        shown = ["--images", str(table), "--json", str(out), "--report", str(folder / "page.html")]
        assert main(["caption", "--regions", str(regions), "--weights", str(run), *shown]) == 0
    pictures = {int(re.search(r"(\d+)\.\w+$", name)[1]): Image.open(io.BytesIO(data)) for name, data in found.items()}
    return Captioned(
        folder, pictures, table, folder / "detector", regions, run, out, folder / "page.html", printed.getvalue()
    )


def test_the_region_file_describes_its_detector(captioned):
    store = RegionStore(captioned.regions)
    assert store.ids.tolist() == sorted(captioned.pictures)
    assert (store.num_regions, store.feature_dim, store.num_classes) == (REGIONS, DIM, 1 + len(CLASSES))
    assert store.attributes["source"] == "Hugging Face transformers: RTDetrV2ForObjectDetection"
    assert store.attributes["weights_sha256"] == sha256_of(captioned.detector / "model.safetensors")
    assert names_in(store.attributes) == CLASSES
    text = "".join(f"{name}\n" for name in CLASSES)
    (captioned.folder / "classes.txt").write_text(text)
    assert store.attributes["vocabulary_sha256"] == sha256_of(captioned.folder / "classes.txt")
    copy = captioned.folder / "copy.h5"
    assert main(["prepare", "regions", "--format", "regions", "--input", str(store.path), "--out", str(copy)]) == 0
    assert names_in(RegionStore(copy).attributes) == CLASSES
    for image_id, picture in captioned.pictures.items():
        assert store.image_size(image_id) == picture.size
    assert f"{len(captioned.pictures)} pictures in {captioned.table}; ids from the column filename" in captioned.said
    assert f"IN_DIM {DIM} MODEL.SS_ATTENTION.NUM_CLASSES {1 + len(CLASSES)}" in captioned.said
    assert "the 5 classes have names: man, dog, red ball, N/A, tv" in captioned.said
    assert "The file can be used." in captioned.said


def test_captions_have_boxes_in_the_pictures(captioned):
    results = read_results(captioned.results)
    assert [image.image_id for image in results.images] == sorted(captioned.pictures)
    words = 0
    for image in results.images:
        assert f"image {image.image_id}\n  {image.caption}\n" in captioned.said
        for word in image.caption.words:
            x1, y1, x2, y2 = word.box_px
            width, height = captioned.pictures[image.image_id].size
            assert 0 <= x1 <= x2 <= width and 0 <= y1 <= y2 <= height and 0 <= word.region < REGIONS
            words += 1
    assert words > len(results.images)
    assert captioned.page.read_text().count("data:image/jpeg") == len(captioned.pictures)


def test_captions_of_the_table_itself_are_the_same(captioned, capsys):
    """`xmodaler caption photos.parquet` runs the detector; the results are numbered in the order of the table."""
    out = captioned.folder / "direct.json"
    words = ["--weights", str(captioned.run), "--detector", str(captioned.detector), "--json", str(out)]
    detect = ["--min-max-boxes", f"{REGIONS},{REGIONS}"]
    assert main(["caption", str(captioned.table), *words, *detect]) == 0
    assert f"{captioned.table}, row 0 (" in capsys.readouterr().out
    stored = {image.image_id: image.caption for image in read_results(captioned.results).images}
    direct = [image.caption for image in read_results(out).images]
    for image_id, caption in zip(captioned.pictures, direct, strict=True):
        assert str(caption) == str(stored[image_id])
        np.testing.assert_allclose(
            [word.box_px for word in caption.words], [word.box_px for word in stored[image_id].words], atol=1e-2
        )


def test_other_tools_and_the_app_take_what_the_captioner_said(captioned):
    from pycocotools.coco import COCO

    results, folder = read_results(captioned.results), captioned.folder
    (folder / "named").mkdir()
    for image_id, picture in captioned.pictures.items():
        picture.save(folder / "named" / f"{image_id}.png")
    given = [str(captioned.results), "--images", str(folder / "named")]
    assert main(["export", "coco", str(captioned.results), "--out", str(folder / "coco.json")]) == 0
    said = {row["image_id"]: row["caption"] for row in read_json(folder / "coco.json", "captions")}
    assert said == {image.image_id: str(image.caption) for image in results.images}
    assert main(["export", "coco-boxes", *given, "--out", str(folder / "boxes")]) == 0
    found = COCO(str(folder / "boxes" / "dataset.json")).loadRes(str(folder / "boxes" / "detections.json"))
    assert main(["export", "odvg", *given, "--out", str(folder / "odvg.jsonl")]) == 0
    lines = [json.loads(line) for line in (folder / "odvg.jsonl").read_text().splitlines()]
    assert sum(len(line["grounding"]["regions"]) for line in lines) == len(found.anns) > 0
    assert main(["export", "fiftyone", *given, "--out", str(folder / "fiftyone")]) == 0
    samples = read_json(folder / "fiftyone" / "samples.json", "samples")["samples"]
    assert sum(len(sample["words"]["detections"]) for sample in samples) == len(found.anns)

    words = ["--weights", captioned.run, "--detector", captioned.detector, "--min-max-boxes", f"{REGIONS},{REGIONS}"]
    models = LoadedModels(parse(["app", *map(str, words)]))
    (image, *_) = results.images
    path = folder / "named" / f"{image.image_id}.png"
    answer = models.answer(path, path.name, models.beam_size)
    assert str(answer.caption) == str(image.caption) and answer.name == path.name


def test_other_widths_are_refused_with_the_right_ones(captioned, capsys):
    words = ["DATALOADER.SAMPLE_SCENES", "0", "DATALOADER.REGIONS", str(captioned.folder / "scenes.h5")]
    assert main(["check", "--config-file", CONFIG, "--data", str(captioned.folder / "data"), *words]) == 2
    said = capsys.readouterr().out
    assert f"have {DIM} numbers; set it to {DIM}" in said and f"set it to {1 + len(CLASSES)}" in said


def test_the_rule_of_classes_reads_the_names_in_the_file(captioned):
    from xmodaler_ssattn.cli.configuring import load_config

    words = ["INFERENCE.REGION_RULE", "class", "DATALOADER.REGIONS", str(captioned.regions)]
    cfg = load_config(str(captioned.run / "config.yaml"), words)
    columns = region_rule(cfg).columns
    known = {word: found for word, found in columns.items() if found}
    assert known["man"] == (1,) and set(known.values()) <= {(1,), (2,), (5,)} and () in columns.values()
    other = captioned.folder / "names.txt"
    other.write_text("red ball\nN/A\n")
    with pytest.raises(UserError, match="none of the 2 names .*red ball, N/A.* is an object class of the captions"):
        region_rule(load_config(str(captioned.run / "config.yaml"), [*words, "INFERENCE.REGION_CLASSES", str(other)]))


def test_names_that_are_too_long_for_an_attribute_leave_their_digest():
    assert set(described_names(["x" * 99] * 1000)) == {"vocabulary_sha256"}
