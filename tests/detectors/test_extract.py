"""From a folder of pictures to a region file: all of it, in order, stopped and resumed, in parts and joined."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from PIL import Image

from detectors.fake_detector import FakeDetector
from xmodaler_ssattn.detectors import extract
from xmodaler_ssattn.detectors import pictures as pictures_module
from xmodaler_ssattn.detectors.detected import Detector
from xmodaler_ssattn.detectors.extract import NothingExtracted, detect_all, extract_regions
from xmodaler_ssattn.detectors.join import join_regions
from xmodaler_ssattn.detectors.pictures import read_picture
from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.packs.checks import inspect_boxes, inspect_numbers
from xmodaler_ssattn.packs.store import RegionStore

COUNT = 7


@pytest.fixture
def pictures(tmp_path):
    """image id -> path of 7 pictures of one colour each, of different sizes."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(1, COUNT + 1):
        Image.new("RGB", (20 + 2 * number, 30), (10 * number, 100, 200)).save(folder / f"{number}.png")
    return {number: folder / f"{number}.png" for number in range(1, COUNT + 1)}


def run(pictures, out, detector=None, **options):
    return extract_regions(detector or FakeDetector(), pictures, out, **{"num_regions": 2, **options})


def test_every_picture_has_its_regions(pictures, tmp_path):
    report = run(pictures, tmp_path / "r.h5", attributes={"min_max_boxes": "2,2"})
    assert (report.images, report.resumed, report.failed) == (COUNT, 0, [])
    store = RegionStore(tmp_path / "r.h5")
    assert store.ids.tolist() == list(range(1, COUNT + 1)) and store.num_classes == 3
    regions = store.read(3)  # 26 x 30 pixels, blue 200, green 100, red 30
    assert (regions.width, regions.height) == (26, 30)
    np.testing.assert_array_equal(regions.boxes_px, [[0, 0, 13, 30], [13, 0, 26, 30]])
    np.testing.assert_array_equal(regions.features, [[200, 100, 30]] * 2)
    np.testing.assert_array_equal(regions.class_probs, np.float32([[0.1, 0.7, 0.2], [0.5, 0.1, 0.4]]))
    assert store.attributes["source"] == "fake" and store.attributes["weights_sha256"] == "0" * 64
    assert store.attributes["order"] == "descending detector confidence"
    assert store.attributes["min_max_boxes"] == "2,2"


def test_the_checks_of_region_files_find_nothing_to_complain_about(pictures, tmp_path):
    run(pictures, tmp_path / "r.h5")
    store = RegionStore(tmp_path / "r.h5")
    for found in (inspect_boxes(store, list(pictures)), inspect_numbers(store, list(pictures), class_probs=True)):
        assert found.problems == [] and found.warnings == []


def test_the_fake_is_a_detector():
    assert isinstance(FakeDetector(), Detector)


@pytest.mark.parametrize("batch", [2, 3, 10])
def test_batches_change_nothing(pictures, tmp_path, batch):
    run(pictures, tmp_path / "one.h5")
    detector = FakeDetector()
    run(pictures, tmp_path / "many.h5", detector, batch=batch)
    assert (tmp_path / "one.h5").read_bytes() == (tmp_path / "many.h5").read_bytes()
    assert detector.calls[0] == min(batch, COUNT) and sum(detector.calls) == COUNT


def test_half_precision_halves_the_large_arrays(pictures, tmp_path):
    run(pictures, tmp_path / "r.h5", float16=True)
    with h5py.File(tmp_path / "r.h5") as file:
        assert file["features"].dtype == file["class_probs"].dtype == np.float16


# --- what fails -----------------------------------------------------------------------------------------
def spoil(pictures):
    """Picture 2 is text, 3 is refused by the detector, 5 has no region, 6 is not there."""
    pictures[2].write_text("no picture")
    Image.new("RGB", (20, 20), (255, 0, 0)).save(pictures[3])
    Image.new("RGB", (20, 20), (0, 0, 255)).save(pictures[5])
    pictures[6].unlink()


@pytest.mark.parametrize("batch", [1, 4])
def test_pictures_that_fail_are_named_and_the_others_continue(pictures, tmp_path, batch):
    spoil(pictures)
    report = run(pictures, tmp_path / "r.h5", batch=batch)
    assert RegionStore(report.path).ids.tolist() == [1, 4, 7] and report.images == 3
    assert [failure.partition(": ")[0] for failure in report.failed] == [str(pictures[i]) for i in (2, 3, 5, 6)]
    text, refused, empty, absent = report.failed
    assert "not a picture of a known format" in text and "it is red in the corner" in refused
    assert "found no region" in empty and "does not exist" in absent


def test_numbers_that_are_not_finite_fail_their_picture_only(pictures, tmp_path):
    class Broken(FakeDetector):
        def _regions(self, image):
            found = super()._regions(image)
            if image.shape[1] == 24:  # picture 2
                found.features[1, 2] = np.nan
            return found

    report = run(pictures, tmp_path / "r.h5", Broken())
    assert report.images == COUNT - 1
    assert len(report.failed) == 1 and f"{pictures[2]}: features[1, 2] is nan" in report.failed[0]


def test_nothing_is_written_when_every_picture_fails(pictures, tmp_path):
    for path in pictures.values():
        path.write_text("no picture")
    with pytest.raises(NothingExtracted, match="None of the 7 pictures could be used") as caught:
        run(pictures, tmp_path / "r.h5")
    assert len(caught.value.failed) == COUNT
    assert [path.name for path in tmp_path.iterdir()] == ["pictures"]


def test_too_little_memory_on_the_gpu_says_what_to_do(pictures, tmp_path):
    class Greedy(FakeDetector):
        def detect_many(self, images_bgr):
            raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(UserError, match="not have enough memory for 4 pictures at once; give a smaller --batch"):
        run(pictures, tmp_path / "r.h5", Greedy(), batch=4)


def test_an_error_of_the_detector_itself_is_not_a_picture_that_failed(pictures, tmp_path):
    class Wrong(FakeDetector):
        def _regions(self, image):
            raise RuntimeError("a mistake in the program")

    with pytest.raises(RuntimeError, match="a mistake in the program"):
        run(pictures, tmp_path / "r.h5", Wrong())


def test_a_detector_that_fails_only_for_several_pictures_at_once_is_reported(pictures, tmp_path, caplog):
    class Single(FakeDetector):
        def detect_many(self, images_bgr):
            if len(images_bgr) > 1:
                raise RuntimeError("one picture at a time")
            return super().detect_many(images_bgr)

    run(pictures, tmp_path / "whole.h5")
    assert "at once" not in caplog.text
    run(pictures, tmp_path / "r.h5", Single(), batch=4)
    assert "failed for 4 pictures at once (one picture at a time), but not for any of them singly" in caplog.text
    assert (tmp_path / "r.h5").read_bytes() == (tmp_path / "whole.h5").read_bytes()


# --- stopped and resumed ---------------------------------------------------------------------------
@pytest.mark.parametrize("stop", [0, 1, 4, 6])
def test_a_run_that_was_stopped_is_resumed_and_gives_the_same_bytes(pictures, tmp_path, stop):
    run(pictures, tmp_path / "whole.h5")
    with pytest.raises(KeyboardInterrupt):
        run(pictures, tmp_path / "r.h5", FakeDetector(stop_after=stop))
    assert not (tmp_path / "r.h5").exists()
    detector = FakeDetector()
    report = run(pictures, tmp_path / "r.h5", detector)
    assert report.resumed == stop and sum(detector.calls) == COUNT - stop
    assert (tmp_path / "r.h5").read_bytes() == (tmp_path / "whole.h5").read_bytes()
    assert not (tmp_path / "r.h5.partial").exists()


KILLED = """
import os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from detectors.fake_detector import FakeDetector
from xmodaler_ssattn.detectors import extract, pictures as pictures_module

class Killed(FakeDetector):
    def detect(self, image):
        if len(self.calls) == 4:
            os._exit(9)
        return super().detect(image)

extract.SECONDS_BETWEEN_SYNCS = 0.0
pictures = {int(path.stem): path for path in sorted(Path(sys.argv[1]).iterdir())}
extract.extract_regions(Killed(), pictures, sys.argv[2], num_regions=2)
"""


def test_a_killed_run_keeps_the_pictures_that_it_had_done(pictures, tmp_path):
    arguments = [str(tmp_path / "pictures"), str(tmp_path / "r.h5"), str(Path(__file__).parents[1])]
    environment = {**os.environ, "PYTHONPATH": str(Path(extract.__file__).parents[2])}
    killed = subprocess.run([sys.executable, "-c", KILLED, *arguments], env=environment, timeout=100)
    assert killed.returncode == 9 and not (tmp_path / "r.h5").exists()
    report = run(pictures, tmp_path / "r.h5")
    assert report.resumed == 4
    run(pictures, tmp_path / "whole.h5")
    assert (tmp_path / "r.h5").read_bytes() == (tmp_path / "whole.h5").read_bytes()


def test_an_unfinished_file_of_other_settings_is_refused_unless_it_may_be_replaced(pictures, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(pictures, tmp_path / "r.h5", FakeDetector(stop_after=2))
    other = FakeDetector()
    other.weights_sha256 = "1" * 64
    with pytest.raises(UserError, match="begun with other settings .*weights_sha256"):
        run(pictures, tmp_path / "r.h5", other)
    assert run(pictures, tmp_path / "r.h5", other, overwrite=True).resumed == 0


@pytest.mark.parametrize("finished", [False, True])
def test_a_file_of_other_pictures_under_the_same_ids_is_not_resumed(pictures, tmp_path, finished):
    first = dict(list(pictures.items())[:-1]) if finished else pictures
    if finished:
        run(first, tmp_path / "r.h5")
    else:
        with pytest.raises(KeyboardInterrupt):
            run(first, tmp_path / "r.h5", FakeDetector(stop_after=3))
    ids = list(pictures)
    swapped = {**pictures, ids[0]: pictures[ids[1]], ids[1]: pictures[ids[0]]}  # another list of ids
    with pytest.raises(
        UserError, match=r"made from other pictures: image 1 is 22 x 30 there, but .*2\.png has sides of 24"
    ):
        run(swapped, tmp_path / "r.h5")
    with Image.open(pictures[2]) as picture:  # a picture that is stored lying, to be turned by its EXIF entry
        turned, exif = picture.transpose(Image.Transpose.ROTATE_90), Image.Exif()
    exif[0x0112] = 6  # upright after a turn by 90 degrees
    turned.save(pictures[2], exif=exif)
    assert run(pictures, tmp_path / "r.h5").images == COUNT


def test_pictures_that_failed_are_added_once_they_are_mended(pictures, tmp_path):
    good = {number: path.read_bytes() for number, path in pictures.items()}
    run(pictures, tmp_path / "whole.h5")
    spoil(pictures)
    run(pictures, tmp_path / "r.h5")
    pictures[2].write_bytes(good[2])
    detector = FakeDetector()
    report = run(pictures, tmp_path / "r.h5", detector)
    assert (report.images, report.resumed, len(report.failed)) == (4, 3, 3)
    for number in (3, 5, 6):
        pictures[number].write_bytes(good[number])
    report = run(pictures, tmp_path / "r.h5")
    assert (report.images, report.resumed, report.failed) == (7, 4, [])
    assert (tmp_path / "r.h5").read_bytes() == (tmp_path / "whole.h5").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pictures", "r.h5", "whole.h5"]


def test_a_finished_file_is_not_made_again(pictures, tmp_path):
    run(pictures, tmp_path / "r.h5")
    before = (tmp_path / "r.h5").stat()
    detector = FakeDetector()
    report = run(pictures, tmp_path / "r.h5", detector)
    assert (report.images, report.resumed) == (COUNT, COUNT) and detector.calls == []
    after = (tmp_path / "r.h5").stat()  # the time of access may differ: it was read
    assert (after.st_ino, after.st_mtime_ns, after.st_size) == (before.st_ino, before.st_mtime_ns, before.st_size)


def test_the_same_failures_again_leave_the_file_as_it_was(pictures, tmp_path):
    spoil(pictures)
    run(pictures, tmp_path / "r.h5")
    before = (tmp_path / "r.h5").read_bytes()
    report = run(pictures, tmp_path / "r.h5")
    assert (report.images, report.resumed, len(report.failed)) == (3, 3, 4)
    assert (tmp_path / "r.h5").read_bytes() == before and not (tmp_path / "r.h5.more").exists()


def test_a_file_of_other_settings_is_not_added_to(pictures, tmp_path):
    run(pictures, tmp_path / "r.h5")
    with pytest.raises(UserError, match="num_regions: 2 there, 3 now"):
        run(pictures, tmp_path / "r.h5", num_regions=3)
    with pytest.raises(UserError, match="'float32' there, 'float16' now"):
        run(pictures, tmp_path / "r.h5", float16=True)
    assert run(pictures, tmp_path / "r.h5", num_regions=3, overwrite=True).images == COUNT


@pytest.mark.parametrize("taken_in", [False, True])
def test_a_stop_while_new_images_are_taken_in_loses_nothing(pictures, tmp_path, taken_in):
    run(pictures, tmp_path / "whole.h5")
    first = {number: pictures[number] for number in (1, 2, 3)}
    run(first, tmp_path / "r.h5")
    run({number: pictures[number] for number in (4, 5)}, tmp_path / "r.h5.more")
    if taken_in:  # stopped just before the file of the new ones was removed
        join_regions([tmp_path / "r.h5", tmp_path / "r.h5.more"], tmp_path / "r.h5", overwrite=True)
    report = run(pictures, tmp_path / "r.h5")
    assert report.images == COUNT and report.resumed == 5
    assert (tmp_path / "r.h5").read_bytes() == (tmp_path / "whole.h5").read_bytes()


# --- in parts -------------------------------------------------------------------------------------------
def test_joined_parts_are_the_file_of_one_run(pictures, tmp_path):
    run(pictures, tmp_path / "whole.h5")
    for part in (0, 1, 2):
        run(dict(list(pictures.items())[part::3]), tmp_path / f"{part}.h5")
    parts = [tmp_path / f"{part}.h5" for part in (2, 0, 1)]
    assert join_regions(parts, tmp_path / "joined.h5") == COUNT
    assert (tmp_path / "joined.h5").read_bytes() == (tmp_path / "whole.h5").read_bytes()


def test_parts_that_do_not_belong_together_are_refused(pictures, tmp_path):
    run(pictures, tmp_path / "a.h5")
    run({number + 10: path for number, path in pictures.items()}, tmp_path / "half.h5", float16=True)
    other = FakeDetector()
    other.weights_sha256 = "1" * 64
    run({number + 20: path for number, path in pictures.items()}, tmp_path / "other.h5", other)
    with pytest.raises(UserError) as caught:
        join_regions([tmp_path / name for name in ("a.h5", "half.h5", "other.h5")], tmp_path / "joined.h5")
    text = str(caught.value)
    assert "half.h5: features: 3 x float32 there, 3 x float16 now" in text and "other.h5: weights_sha256" in text
    with pytest.raises(UserError, match=r"(?s)cannot be joined; 7 problems.*image 1 is in .*a\.h5 and in .*b\.h5"):
        run(pictures, tmp_path / "b.h5")
        join_regions([tmp_path / "a.h5", tmp_path / "b.h5"], tmp_path / "joined.h5")
    with pytest.raises(UserError, match="exists; give another name"):
        join_regions([tmp_path / "a.h5"], tmp_path / "b.h5")
    assert not (tmp_path / "joined.h5").exists()


# --- the stream of detections ----------------------------------------------------------------------------
def test_detections_come_in_order_with_errors_in_their_places(pictures):
    spoil(pictures)
    for batch in (1, 3, 7):
        found = list(detect_all(FakeDetector(), pictures.items(), batch))
        assert [(number, path) for number, path, _ in found] == list(pictures.items())
        failed = {number: str(result) for number, _, result in found if isinstance(result, UserError)}
        (empty,) = (number for number, text in failed.items() if "found no region in it" in text)
        assert sorted(failed.keys() - {empty}) == [2, 3, 6]
        assert [len(result) for _, _, result in found if not isinstance(result, UserError)] == [2, 2, 2]


# --- one picture that raises something nobody foresaw -------------------------------------------------------
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("error", [KeyError("k"), MemoryError("m"), RecursionError("r"), ZeroDivisionError("z")])
def test_whatever_the_detector_raises_at_one_picture_the_others_continue(pictures, tmp_path, batch, error):
    class OneIsWrong(FakeDetector):
        def _regions(self, image):
            if image.shape[1] == 22:  # the first
                raise error
            return super()._regions(image)

    report = run(pictures, tmp_path / "r.h5", OneIsWrong(), batch=batch)
    assert RegionStore(tmp_path / "r.h5").ids.tolist() == list(range(2, COUNT + 1))
    (problem,) = report.failed
    assert "1.png" in problem and type(error).__name__ in problem and str(error) in problem


@pytest.mark.parametrize("change", [
    {"boxes_px": None}, {"features": None}, {"features": np.zeros((2, 9))}, {"boxes_px": np.zeros((2, 4), complex)},
    {"class_probs": None}, {"width": 0}, {"height": "30"}, {"features": np.full((2, 3), np.nan)},
])  # fmt: skip
def test_whatever_the_detector_says_about_one_picture_the_others_continue(pictures, tmp_path, change):
    class OneIsOdd(FakeDetector):
        def _regions(self, image):
            found = super()._regions(image)
            return dataclasses.replace(found, **change) if image.shape[1] == 22 else found

    report = run(pictures, tmp_path / "r.h5", OneIsOdd())
    assert RegionStore(tmp_path / "r.h5").ids.tolist() == list(range(2, COUNT + 1))
    assert len(report.failed) == 1 and "1.png" in report.failed[0]


def test_a_reader_that_fails_at_one_picture_is_named_with_the_exceptions_type(pictures, tmp_path, monkeypatch):
    def read(path):
        if path.name == "1.png":
            raise LookupError("an unknown table")
        return read_picture(path)

    monkeypatch.setattr(pictures_module, "read_picture", read)
    report = run(pictures, tmp_path / "r.h5")
    assert report.images == COUNT - 1 and "1.png: LookupError: an unknown table" in report.failed[0]


def test_many_unforeseen_exceptions_in_a_row_are_the_programs(pictures, tmp_path, monkeypatch):
    class BreaksDown(FakeDetector):
        def _regions(self, image):
            if image.shape[1] > 24:  # from the third on
                raise RuntimeError("the device is lost")
            return super()._regions(image)

    monkeypatch.setattr(extract, "MISTAKES_IN_A_ROW", 3)
    with pytest.raises(RuntimeError, match="the device is lost"):
        run(pictures, tmp_path / "r.h5", BreaksDown())
    assert run(pictures, tmp_path / "r.h5").resumed == 2  # what was good is kept


def test_of_files_to_join_the_odd_one_is_named_also_when_it_is_the_first(pictures, tmp_path):
    for number, vocabulary in ((1, "b" * 64), (2, "a" * 64), (3, "a" * 64)):
        run({number: pictures[number]}, tmp_path / f"{number}.h5", vocabulary_sha256=vocabulary)
    with pytest.raises(UserError, match=r"'there' is .*2\.h5: .*1\.h5: vocabulary_sha256: 'aaa"):
        join_regions([tmp_path / f"{number}.h5" for number in (1, 2, 3)], tmp_path / "all.h5")


def test_all_bad_images_of_files_to_join_are_named(pictures, tmp_path):
    run(pictures, tmp_path / "a.h5")
    run({number + 100: path for number, path in pictures.items()}, tmp_path / "b.h5")
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        file["num_boxes"][2] = 0
    with h5py.File(tmp_path / "b.h5", "r+") as file:
        file["features"][4, 1, 0] = np.nan
    with pytest.raises(
        UserError, match=r"(?s)2 problems.*Image 3 has no region.*b\.h5, image 105: features\[1, 0\] is nan"
    ):
        join_regions([tmp_path / "a.h5", tmp_path / "b.h5"], tmp_path / "all.h5")
    assert not (tmp_path / "all.h5").exists()
