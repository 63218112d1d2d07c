"""What the app shows, without Gradio: "a dog near a car" of ``made_up``, 400 x 300.

Regions: DOG 50, 60, 150, 160; CAR 220, 100, 340, 200; WHOLE. alpha is 0.5 on a word's region and 0.25 on the others,
beta is 0.2, 0.3, 0.5, gamma = alpha + 0.5 beta.
"""

import sys
import zipfile

import numpy as np
import pytest
from PIL import Image

from report import made_up
from xmodaler_ssattn.app import page, views
from xmodaler_ssattn.app.views import ALL, Answer
from xmodaler_ssattn.cli.app import _pictures_of
from xmodaler_ssattn.cli.main import main
from xmodaler_ssattn.errors import UserError


def answer(caption=None, objects=(1, 4), scale=1.0, name="photo.jpg"):
    picture = Image.new("RGB", (round(400 * scale), round(300 * scale)), (200, 200, 200))
    return Answer(name, picture, scale, made_up.caption() if caption is None else caption, objects, "gamma")


def test_object_words_are_highlighted_and_clicked():
    shown = answer()
    assert views.highlighted(shown) == [("a", None), ("dog", "dog"), ("near a", None), ("car", "car")]
    assert " ".join(text for text, _ in views.highlighted(shown)) == shown.caption
    assert [views.clicked(shown, piece) for piece in (-1, 0, 1, 2, 3, 4)] == [ALL, ALL, 1, ALL, 4, ALL]


def test_repeated_and_neighbouring_object_words_stay_apart():
    shown = answer(made_up.caption((0, 1, 0), ("dog", "dog", "car")), (0, 1, 2))
    assert views.highlighted(shown) == [("dog", "dog"), ("dog", "dog 2"), ("car", "car")]
    assert views.clicked(shown, 1) == 1
    colours = views.colours_of(list(views.labels_of(shown).values()))
    assert len(set(colours.values())) == 3


def test_a_caption_without_words_or_without_object_words():
    empty = answer(made_up.caption((), ()), ())
    assert views.highlighted(empty) == [] and views.table(empty, "gamma") == ""
    assert views.reading(empty, "gamma", None) == "The model wrote no word for this picture."
    assert views.word_choices(empty) == [("all object words", ALL)]
    none = answer(objects=())
    assert views.highlighted(none) == [("a dog near a car", None)]
    assert "names no object" in views.reading(none, "beta", None)
    assert views.marked(none, "gamma", None)[0][1] == []


def test_a_word_has_the_box_of_the_weights_that_are_chosen():
    shown = answer(made_up.caption((2, 0, 2, 2, 1)))
    assert views.place_of(shown, "gamma", 1) == (made_up.DOG, 0.5)  # the caption's own box
    assert views.place_of(shown, "alpha", 4) == (made_up.CAR, 0.5)
    assert views.place_of(shown, "beta", 1) == (made_up.WHOLE, 0.5)
    assert views.boxes_of(shown, "alpha") == [("dog", made_up.DOG, 0.5), ("car", made_up.CAR, 0.5)]
    assert views.kinds_of(shown.caption) == ["gamma", "alpha", "beta"]
    assert views.kinds_of(made_up.caption(beta=False)) == ["alpha"]
    assert "the same for all words" in views.reading(shown, "beta", 1)
    assert views.reading(shown, "alpha", 1).endswith("The box of \u201cdog\u201d, 50 60 150 160, has 0.50.")


def test_boxes_are_drawn_at_the_scale_of_the_page():
    mask = views.outline(answer(scale=0.5), made_up.DOG)  # 25, 30, 75, 80 of 200 x 150
    assert mask.shape == (150, 200)
    assert mask[30:80, 25:75].min() == np.float32(views.FILL) and mask[30, 25] == mask[79, 74] == 1
    assert np.count_nonzero(mask) == 50 * 50  # nothing outside the box
    for outside in ((-9, -9, 0, 0), (500, 400, 600, 500), (10, 10, 10, 10)):
        assert np.isfinite(views.outline(answer(), outside)).all()  # never an error


def test_light_falls_in_proportion_to_the_largest_weight():
    """Weights 1, 0.5, 0 on DOG, CAR, WHOLE: the dog keeps its 200, the car half of the veil, the rest all of it.

    200 * (1 - v) + 10 * v is 200 at v = 0, 122.1 at v = 0.41, 44.2 at v = 0.82.
    """
    shaded = np.asarray(views.shaded(answer(), np.array([1, 0.5, 0], dtype=np.float32)))
    assert [shaded[y, x, 0] for x, y in ((100, 100), (280, 150), (10, 10))] == [200, 122, 44]
    dark = np.asarray(views.shaded(answer(), np.zeros(3, dtype=np.float32)))
    assert dark[0, 0, 0] == 44  # no weight at all is not a division by zero


def test_text_from_models_and_files_is_escaped():
    hostile = answer(made_up.caption((0,), ("<script>",)), (0,), name="<b>.jpg")
    assert "<script>" not in (table := views.table(hostile, "gamma")) and "&lt;script&gt;" in table
    assert "<b>" not in table


def test_large_pictures_are_shown_smaller():
    picture, scale = views.shrunk(Image.new("RGB", (1600, 6400)))
    assert picture.size == (400, 1600) and scale == 0.25
    small = Image.new("RGB", (10, 10))
    assert views.shrunk(small) == (small, 1.0)


def test_the_pictures_of_a_folder_or_an_archive_are_offered_by_name(tmp_path, monkeypatch, capsys):
    folder, temporary = tmp_path / "pictures", tmp_path / "temporary"
    folder.mkdir(), temporary.mkdir()
    for name in ("b.jpg", "a.PNG", "notes.txt"):
        (folder / name).write_text(name)
    assert _pictures_of(str(folder), temporary) == {"a.PNG": folder / "a.PNG", "b.jpg": folder / "b.jpg"}
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        for name in ("b.jpg", "a.PNG", "notes.txt"):
            archive.write(folder / name, f"in/{name}")
    found = _pictures_of(str(tmp_path / "all.zip"), temporary)
    assert {name: path.read_text() for name, path in found.items()} == {"in/a.PNG": "a.PNG", "in/b.jpg": "b.jpg"}
    assert all(path.parent == temporary for path in found.values())
    monkeypatch.setattr("xmodaler_ssattn.cli.app.MOST_PICTURES", 1)
    assert len(_pictures_of(str(folder), temporary)) == 1
    assert "the first 1 of 2 pictures are offered" in capsys.readouterr().out
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="contains no picture"):
        _pictures_of(str(tmp_path / "empty"), temporary)
    with pytest.raises(UserError, match="is not a folder"):
        _pictures_of(str(tmp_path / "none"), temporary)


def test_without_gradio_one_sentence_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.setattr(page, "settings", lambda folder: None)
    assert main(["app", "--weights", "none"]) == 2
    assert "pip install gradio" in capsys.readouterr().err
    assert main(["app", "--weights", "none", "--port", "0"]) == 2
    assert "--port: expected a number from 1 to 65535, got 0" in capsys.readouterr().err
