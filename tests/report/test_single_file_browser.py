"""The page of one file in a real browser, with nothing beside it."""

import pytest
from PIL import Image

from report import made_up
from xmodaler_ssattn.report.page import PART
from xmodaler_ssattn.report.single_file import write_single_file
from xmodaler_ssattn.report.source import read_source

HOSTILE = "</script><script>document.title = 'run'</script>"


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """More images than one data file holds; the last has no picture, the first a caption that tries to be a script."""
    folder = tmp_path_factory.mktemp("single")
    captions = {i: made_up.caption() for i in range(1, PART + 3)}
    captions[1] = made_up.caption((0, 0), (HOSTILE, "dog"))
    source = read_source([made_up.write(folder / "results.json", captions)], ["photos"])
    source.notices.clear()
    pictures = ((i, Image.new("RGB", (400, 300), "red")) for i in range(1, PART + 2))
    path = write_single_file(folder / "alone" / "page.html", source, pictures, title="Captions")
    assert [found.name for found in path.parent.iterdir()] == ["page.html"]
    return path


def test_it_opens_with_its_pictures_words_and_boxes(browser, page):
    browser.open(page)
    assert browser.one("h1").text == "Captions" and browser.ids()[:2] == [1, 2]
    assert browser.one("#image-2 .caption").text == "a dog near a car"
    assert browser.js("return document.querySelector('#image-2 img').naturalWidth") == 400
    browser.hover(browser.one("#image-2 .word[data-word='1']"))
    rect = browser.one("#image-2 .overlay rect.active")
    # DOG is 50, 60, 150, 160 in xyxy
    assert [float(rect.get_attribute(name)) for name in ("x", "y", "width", "height")] == [50, 60, 100, 100]


def test_boxes_and_shading_of_the_second_data_file_also_exist(browser, page):
    last = PART + 2
    browser.open(page, f"#image={last}")
    card = f"#image-{last}"
    assert browser.all(f"{card} .frame.blank") and not browser.all(f"{card} img")  # no picture was given for it
    assert browser.js("return ssattn.parts.size") == 2
    assert len(browser.all(f"{card} .overlay rect")) > 0


def test_a_caption_is_text_whatever_it_holds(browser, page):
    browser.open(page)
    assert browser.js("return document.title") == "Captions – xmodaler_ssattn"
    assert browser.one("#image-1 .caption").text.startswith("</script>")


def test_a_few_photographs_have_their_names_are_large_and_need_no_filters(browser, tmp_path):
    captions = {i: made_up.caption() for i in (1, 2)}
    names = {"1": "holiday/a dog.jpg", "2": "holiday/beach.jpg"}
    source = read_source([made_up.write(tmp_path / "results.json", captions, pictures=names)], ["photos"])
    source.notices.clear()
    pictures = [(i, Image.new("RGB", (400, 300), "red")) for i in (1, 2)]
    browser.open(write_single_file(tmp_path / "page.html", source, pictures, title="Captions"))
    assert browser.texts("h3") == ["a dog.jpg", "beach.jpg"]
    assert not browser.all(".filters") and not browser.all("h3 + .who")
    width, font = browser.js(
        """const frame = document.querySelector(".frame"), name = document.querySelector("h3");
        return [frame.getBoundingClientRect().width, parseFloat(getComputedStyle(name).fontSize)]"""
    )
    assert width > 800 and font > 16  # in a window of 1,300 x 900 pixels
