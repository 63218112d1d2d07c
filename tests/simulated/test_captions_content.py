"""From five captions to objects with salience; the captions file; which images are taken."""

import gzip
import json

import pytest

from simulated.made_up_captions import hear, invented_captions, write_captions
from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.worlds.simulated.captions_world import learn_habits, read_captions
from xmodaler_ssattn.worlds.simulated.dataset import choose_images

FIVE = [
    "A man throws a red ball.",
    "A guy with a ball near the street.",
    "A dog runs.",
    "A man and a dog.",
    "The man in a hat watches a woman.",
]


def test_how_often_and_how_early_objects_are_mentioned():
    said = {item.name: item for item in hear(FIVE).objects}
    # man: captions 1, 4, 5, and as "guy" in caption 2; always the first object
    assert (said["man"].often, said["man"].early) == (4 / 5, 1.0)
    # ball: second object of two captions
    assert (said["ball"].often, said["ball"].early, said["ball"].modifiers) == (2 / 5, 0.5, ("red",))
    # dog: first in one, second in another
    assert (said["dog"].often, said["dog"].early) == (2 / 5, (1 + 1 / 2) / 2)
    # woman: third, behind man and hat
    assert said["woman"].early == pytest.approx(1 / 3)
    assert "guy" not in said


def test_kin_in_one_caption_are_two_objects():
    content = hear(["A man and a guy."] + ["A man."] * 4)
    assert [item.name for item in content.objects] == ["man", "guy"]
    assert content.chains[0] == (0, 1)


def test_other_words_count_once_a_caption():
    content = hear(["A man juggling and juggling.", "A man juggling.", "A man.", "A man.", "It rains."])
    assert dict(content.others) == {"juggling": 2 / 5, "rains": 1 / 5}


def test_captions_without_any_object():
    content = hear(["It rains."] * 5)
    assert content.objects == () and content.chains == ((),) * 5


def test_habits_count_images_words_and_how_many_words_an_object_has():
    habits = learn_habits([hear(FIVE), hear(["A dog."] * 5)])
    assert habits.mentions == {"ball": 1, "dog": 2, "hat": 1, "man": 1, "street": 1, "woman": 1}
    assert habits.modifiers == {"red": 1}
    assert habits.modifier_counts == {0: 6, 1: 1}


def test_a_captions_file_is_read_plain_and_compressed(tmp_path):
    captions = invented_captions(2, 1, 1)
    plain = tmp_path / "captions.json"
    plain.write_text(json.dumps(captions))
    packed = write_captions(tmp_path / "captions.json.gz", captions)
    assert read_captions(plain) == read_captions(packed) == {int(key): value for key, value in captions.items()}


def test_all_bad_entries_are_named_at_once(tmp_path):
    good = {"split": "train", "captions": ["A dog."] * 5}
    content = {
        "1": good,
        "x": good,
        "2": {**good, "split": "night"},
        "3": {**good, "captions": ["A dog."]},
        "4": {**good, "captions": ["A dog."] * 4 + [" . "]},
    }
    path = tmp_path / "captions.json"
    path.write_text(json.dumps(content))
    with pytest.raises(UserError) as caught:
        read_captions(path)
    for part in (
        "'x' is not a whole number",
        "image 2 has no split",
        "image 3 does not have 5",
        "image 4: caption 5 has",
    ):
        assert part in str(caught.value)


def test_files_that_cannot_be_read_are_named(tmp_path):
    with pytest.raises(UserError, match="nothing.json does not exist"):
        read_captions(tmp_path / "nothing.json")
    whole = gzip.compress(b'{"1": 2, "long": "' + bytes(range(65, 91)) * 9 + b'"}')
    for name, data in (
        ("cut.gz", whole[:-12]),
        ("bent.gz", whole[:12] + b"\xff\xff" + whole[14:]),
        ("text", b"{no"),
        ("bytes", b"\x80\x81"),
    ):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(UserError, match=f"{name} is not"):
            read_captions(tmp_path / name)
    (tmp_path / "list").write_text("[]")
    with pytest.raises(UserError, match="expected a JSON object"):
        read_captions(tmp_path / "list")


def test_fewer_images_are_a_part_of_more_and_the_seed_chooses():
    captions = {int(key): value["split"] for key, value in invented_captions(40, 5, 5).items()}
    few, more = (choose_images(captions, None, (count, 2, 2), 0) for count in (10, 20))
    assert len(few["train"]) == 10 and set(few["train"]) < set(more["train"]) and few["val"] == more["val"]
    assert choose_images(captions, None, (10, 2, 2), 1)["train"] != few["train"]
    everything = choose_images(captions, None, None, 0)
    assert [len(everything[split]) for split in ("train", "val", "test")] == [40, 5, 5]


def test_too_many_or_no_images_and_foreign_ids_are_refused_together():
    captions = {int(key): value["split"] for key, value in invented_captions(4, 2, 2).items()}
    with pytest.raises(UserError) as caught:
        choose_images(captions, None, (5, 0, 2), 0)
    assert "5 images of the split train are wanted, it has 4" in str(caught.value)
    assert "0 images of the split val are wanted" in str(caught.value)
    with pytest.raises(UserError, match=r"1 images of the split test have no captions, e.g. \[5\]"):
        choose_images(captions, {"train": [1000], "val": [1007], "test": [5]}, None, 0)
