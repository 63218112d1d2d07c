"""What a page shows when something is missing, hostile or very large."""

import json

import pytest

from report import made_up
from xmodaler_ssattn.report.page import write_page
from xmodaler_ssattn.report.source import read_source

HOSTILE = "<script>window.hurt = 1</script> <img src=x onerror=window.hurt=1>"


def write_simple(folder, captions, *, images=None, annotations=None, names=(), **options):
    path = made_up.write(folder / "results.json", captions, **options)
    return write_page(folder / "page", read_source([path], names, annotations), images=images, replicates=0)


def notices(browser):
    return browser.js("return document.getElementById('notices').textContent")


def test_markup_in_captions_names_and_references_shows_as_text(browser, tmp_path):
    captions = {1: HOSTILE, 2: made_up.caption((0, 1), ("<script>window.hurt=1</script>", "dog"))}
    folder = made_up.write_annotations(
        tmp_path / "annotations", [made_up.annotated(i, (f"{HOSTILE} dog", *["A dog ."] * 4)) for i in (1, 2)]
    )
    page = write_simple(tmp_path, captions, annotations=folder, names=[HOSTILE])
    browser.open(page)
    assert browser.one("#image-1 .caption").text == HOSTILE
    assert "<script>" in browser.one("#image-2 .caption").text
    assert HOSTILE in browser.one("#subtitle").text
    browser.one("#image-1 .references summary").click()
    assert "<script>" in browser.one("#image-1 .references li").text
    assert browser.js("return window.hurt") is None
    assert not browser.all(".card script, .card img")


def test_the_title_is_escaped(browser, tmp_path):
    source = read_source([made_up.write(tmp_path / "r.json", {1: made_up.caption()})])
    browser.open(write_page(tmp_path / "page", source, title="<script>window.hurt = 1</script> & more"))
    assert browser.one("h1").text == "<script>window.hurt = 1</script> & more"
    assert browser.js("return window.hurt") is None


def test_a_line_separator_in_a_caption_does_not_break_the_page(browser, tmp_path):
    browser.open(write_simple(tmp_path, {1: 'a "dog" \\ \u2028 </script> é 狗'}))
    assert browser.one(".caption").text.split() == ["a", '"dog"', "\\", "</script>", "é", "狗"]


def test_a_word_with_a_blank_does_not_shift_the_boxes(browser, tmp_path):
    browser.open(write_simple(tmp_path, {1: made_up.caption((2, 2, 0), ("a", "big red", "dog"))}))
    browser.hover(browser.one(".word[data-class=dog]"))
    assert browser.one("rect.active").get_attribute("x") == "50"


def test_results_without_attention_say_so_and_still_show_boxes(browser, tmp_path):
    page = write_simple(tmp_path, {1: made_up.caption(saved=False)}, save_attention=False, names=["plain"])
    browser.open(page)
    assert "plain: saved without attention" in notices(browser)
    assert not browser.one("input[name=show][value=gamma]").is_enabled()
    browser.hover(browser.one(".word[data-word='1']"))
    assert browser.one("rect.active").get_attribute("x") == "50"


def test_captions_without_boxes_are_shown_as_text(browser, tmp_path):
    page = write_simple(tmp_path, {1: "a plain dog", 2: ""}, names=["plain"])
    browser.open(page)
    assert "plain: its captions have no boxes" in notices(browser)
    assert browser.texts(".caption") == ["a plain dog", "(empty caption)"]
    browser.hover(browser.one(".word.object"))
    assert browser.one("#image-1 .reading").text == "this caption has no boxes"


def test_without_pictures_the_boxes_are_on_a_blank_frame_of_the_right_shape(browser, tmp_path):
    browser.open(write_simple(tmp_path, {1: made_up.caption()}))
    assert "blank frames" in notices(browser)
    frame = browser.js(
        "const b = document.querySelector('.frame.blank').getBoundingClientRect(); return b.width / b.height"
    )
    assert frame == pytest.approx(400 / 300, abs=0.02)
    assert len(browser.all(".frame.blank rect.box")) == 2
    assert sorted(browser.js("return [...document.querySelectorAll('.overlay text')].map((t) => t.textContent)")) == [
        "car",
        "dog",
    ]


def test_pictures_that_are_missing_are_named_and_the_others_shown(browser, tmp_path):
    made_up.draw_picture(tmp_path / "Images" / "1.png")
    browser.open(write_simple(tmp_path, {1: made_up.caption(), 2: made_up.caption()}, images=tmp_path / "Images"))
    assert "lacks the pictures of 1 of 2 images: 2" in notices(browser)
    assert browser.js("return document.querySelector('#image-1 img').naturalWidth") == 400
    assert not browser.all("#image-2 img") and browser.all("#image-2 .frame.blank rect.box")


def test_a_picture_of_another_shape_than_its_boxes_is_said_to_be_so(browser, tmp_path):
    made_up.draw_picture(tmp_path / "Images" / "1.png", size=(300, 400))
    browser.open(write_simple(tmp_path, {1: made_up.caption()}, images=tmp_path / "Images"))
    assert browser.one(".reading").text == "This picture is 300 × 400, its boxes are for 400 × 300."


def test_without_a_size_in_the_results_the_picture_gives_it(browser, tmp_path):
    made_up.draw_picture(tmp_path / "Images" / "1.png")
    browser.open(write_simple(tmp_path, {1: made_up.caption(size=None)}, images=tmp_path / "Images"))
    assert browser.js("return document.querySelector('.overlay').getAttribute('viewBox')") == "0 0 400 300"


def test_two_results_over_different_images_show_all_and_say_what_is_missing(browser, tmp_path):
    a = made_up.write(tmp_path / "a.json", {1: made_up.caption(), 2: made_up.caption()})
    b = made_up.write(tmp_path / "b.json", {2: made_up.caption(), 3: made_up.caption()})
    browser.open(write_page(tmp_path / "page", read_source([a, b]), replicates=0))
    assert browser.ids() == [1, 2, 3]
    assert "a has no caption for 1 of 3 images: 3." in notices(browser)
    assert "b has no caption for 1 of 3 images: 1." in notices(browser)
    assert browser.texts("#image-1 .caption")[1] == "no caption from this model"


def test_results_without_any_image_open(browser, tmp_path):
    browser.open(write_simple(tmp_path, {}))
    assert "The results have no images." in notices(browser)
    assert browser.ids() == []


def test_a_part_that_was_lost_leaves_the_captions(driver, browser, tmp_path):
    page = write_simple(tmp_path, {1: made_up.caption()})
    (page.parent / "data" / "part_0000.js").unlink()
    browser.open(page)
    assert browser.one(".caption").text == "a dog near a car"
    driver.get_log("browser")  # that the file is missing may be said there


def many(folder, count):
    """A page of ``count`` images, the index alone multiplied: its parts would only cost the test's time."""
    page = write_simple(folder, {i: made_up.caption() for i in range(1, 101)}, annotations=None)
    index = page.parent / "data" / "index.js"
    data = json.loads(index.read_text().removeprefix("ssattn.index(").rstrip().removesuffix(");"))
    rows = data["images"]
    data["images"] = [{**rows[i % len(rows)], "i": i + 1} for i in range(count)]
    index.write_text(f"ssattn.index({json.dumps(data)});")
    return page


def test_of_a_thousand_images_only_those_near_are_filled(browser, tmp_path):
    browser.open(many(tmp_path, 1000))
    assert browser.js("return document.querySelectorAll('.card').length") == 1000
    filled = browser.js("return [...document.querySelectorAll('.card')].filter((card) => card.filled).length")
    assert 0 < filled < 100


def test_31014_images_are_paged_and_the_last_page_can_be_reached(browser, tmp_path):
    page = many(tmp_path, 31_014)
    browser.open(page)
    assert browser.one("#count").text == "31,014 images · page 1 of 32"
    assert len(browser.ids()) == 1000
    browser.js("[...document.querySelectorAll('#pager button')].find((b) => b.textContent === '32').click()")
    assert browser.ids()[-1] == 31_014 and len(browser.ids()) == 14
    assert "page=32" in browser.driver.current_url
    browser.js("window.scrollTo(0, 0)")
    field = browser.one("input[name=q]")
    field.send_keys("30500")
    assert browser.ids() == [30_500]
    browser.driver.get_log("browser")  # the parts of the multiplied images do not exist
