"""Which pictures a folder holds, and what their image ids are."""

import json
import os

import pytest

from xmodaler_ssattn.detectors.folder import ids_from_file, ids_from_names, list_pictures, take_shard
from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.ids import id_in_name
from xmodaler_ssattn.report.pictures import find_pictures


def fill(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_pictures_are_told_by_suffix_and_nothing_is_passed_over_in_silence(tmp_path):
    fill(tmp_path, "b.JPG", "a.png", "c.heic", "notes.txt", ".hidden.jpg")
    fill(tmp_path, "more/d.jpg", "more/deep/e.webp", ".git/f.jpg")
    listing = list_pictures(tmp_path)
    assert listing.names == ("a.png", "b.JPG", "c.heic")  # HEIC fails later, with a reason
    assert listing.others == ("notes.txt",) and listing.subfolders == ("more",)
    listing = list_pictures(tmp_path, recursive=True)
    assert listing.names == ("a.png", "b.JPG", "c.heic", "more/d.jpg", "more/deep/e.webp")
    assert listing.subfolders == ()


def test_a_folder_without_pictures_says_where_to_look(tmp_path):
    fill(tmp_path, "more/d.jpg")
    with pytest.raises(UserError, match=r"contains no pictures .* --recursive: more"):
        list_pictures(tmp_path)
    with pytest.raises(UserError, match="is not a folder"):
        list_pictures(tmp_path / "none")


def test_a_name_with_two_numbers_needs_an_id_list():
    with pytest.raises(UserError, match=r"(?s)img_12_3\.jpg contains several numbers.*--ids FILE"):
        ids_from_names(["img_12_3.jpg", "7.jpg"])


def test_the_report_finds_pictures_by_the_same_rule(tmp_path):
    names = ["123.jpg", "000000000139.jpg", "COCO_val2014_000000000140.jpg", "IMG_2041.jpeg"]
    fill(tmp_path, *names)
    found = find_pictures(tmp_path, [id_in_name(name) for name in names])
    assert {number: path.name for number, path in found.items()} == ids_from_names(names)


def test_ids_ascend_whatever_the_names_do():
    ids = ids_from_names(["10.jpg", "9.jpg", "x_8.jpg"])
    assert list(ids.items()) == [(8, "x_8.jpg"), (9, "9.jpg"), (10, "10.jpg")]


def test_names_that_share_a_number_and_names_without_one_are_all_listed():
    with pytest.raises(UserError) as caught:
        ids_from_names(["1.jpg", "01.png", "beach.jpg", "2.jpg", "x_1.jpg"])
    text = str(caught.value)
    assert "3 of 5 have none" in text and "beach.jpg does not end with a number" in text
    assert "1.jpg and 01.png have the same number, 1" in text and "1.jpg and x_1.jpg have the same number, 1" in text
    assert "--ids FILE" in text


def test_an_id_list_is_written_once_and_kept(tmp_path):
    path = tmp_path / "ids.json"
    assert ids_from_file(["beach.jpg", "dog.png"], path) == {1: "beach.jpg", 2: "dog.png"}
    # A picture that comes later gets the next number, though it comes first by name; one that goes keeps its own.
    assert ids_from_file(["aunt.jpg", "dog.png"], path) == {2: "dog.png", 3: "aunt.jpg"}
    assert json.loads(path.read_text()) == {"beach.jpg": 1, "dog.png": 2, "aunt.jpg": 3}


def test_names_that_json_cannot_hold_are_named(tmp_path):
    with pytest.raises(UserError, match=r"--ids: .*rename these, or leave out --ids: b.\.jpg is not UTF-8"):
        ids_from_file(["a.jpg", os.fsdecode(b"b\xff.jpg")], tmp_path / "ids.json")
    assert not any(tmp_path.iterdir())


def test_an_id_list_of_ones_own_is_taken(tmp_path):
    path = tmp_path / "ids.json"
    path.write_text('{"b.jpg": 500, "a.jpg": 20}')
    assert ids_from_file(["a.jpg", "b.jpg"], path) == {20: "a.jpg", 500: "b.jpg"}
    assert path.read_text() == '{"b.jpg": 500, "a.jpg": 20}'


@pytest.mark.parametrize("content, message", [
    ("[1]", "contains a list"), ('{"a.jpg": 1, "b.jpg": 1}', r"a\.jpg and b\.jpg have the same id, 1"),
    ('{"a.jpg": "1"}', "the id '1', expected a whole number"), ('{"a.jpg": -1}', "the id -1"),
    ('{"a.jpg": true}', "the id True"), ('{"a.jpg"', "not valid JSON"),
])  # fmt: skip
def test_an_id_list_that_cannot_be_used_is_refused(tmp_path, content, message):
    (tmp_path / "ids.json").write_text(content)
    with pytest.raises(UserError, match=message):
        ids_from_file(["a.jpg"], tmp_path / "ids.json")


def test_shards_are_disjoint_and_together_all():
    ids = list(range(10, 21))
    parts = [take_shard(ids, f"{i}/3") for i in (1, 2, 3)]
    assert parts[0] == [10, 13, 16, 19] and sorted([*parts[0], *parts[1], *parts[2]]) == ids
    assert take_shard(ids, "1/1") == ids


@pytest.mark.parametrize("text", ["0/3", "4/3", "2", "a/b", "1/0", "-1/3", "1/2/3"])
def test_other_shards_are_refused(text):
    with pytest.raises(UserError, match="--shard: expected i/n"):
        take_shard([1, 2, 3], text)


def test_an_empty_shard_is_refused():
    with pytest.raises(UserError, match="only 2 pictures, so this shard has none"):
        take_shard([1, 2], "3/3")
