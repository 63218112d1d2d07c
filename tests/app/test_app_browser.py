"""``xmodaler app`` in a real browser, with a small captioner of drawn scenes."""

import socket
import time
import urllib.error
import urllib.request

import pytest

from report.conftest import Browser
from xmodaler_ssattn.app import views
from xmodaler_ssattn.cli.app import LoadedModels, serve
from xmodaler_ssattn.cli.main import parse

pytest.importorskip("gradio", reason="gradio is not installed: pip install gradio")


@pytest.fixture(scope="module")
def pictures(demo):
    return sorted((demo / "data" / "Images").iterdir())[-3:]


@pytest.fixture(scope="module")
def app(demo):
    """(address, the models behind it)"""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["app", "--weights", demo / "ss_attn", "--images", demo / "data" / "Images", "--port", port]
    args = parse([str(word) for word in words])
    with pytest.MonkeyPatch.context() as patch:
        for key in ("ANALYTICS_ENABLED", "RUN_HISTORY", "TEMP_DIR"):
            patch.setenv(f"GRADIO_{key}", "")  # what the app sets is removed at the end
        for key in ("HF_HUB_OFFLINE", "NO_PROXY", "no_proxy"):
            patch.setenv(key, "")
        with serve(args) as address:
            yield address, LoadedModels(args)


@pytest.fixture
def browser(driver, app):
    """The page, new; the test fails if it wrote an error to the console or asked for anything from elsewhere."""
    browser = Browser(driver)
    browser.resize(1400, 900)
    driver.get("about:blank")
    driver.get_log("browser")
    driver.get(app[0])
    until(lambda: browser.all("#file input[type=file]"))
    yield browser
    asked = browser.js("return performance.getEntriesByType('resource').map((entry) => entry.name)")
    elsewhere = [address for address in asked if not address.startswith((app[0], "data:", "blob:"))]
    assert len(asked) > 10 and not elsewhere
    # Gradio's own script warns of a "method not implemented".
    assert not [entry for entry in driver.get_log("browser") if entry["level"] == "SEVERE"]


def until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "the page did not change in time"
        time.sleep(0.05)
    return found


def shows(browser, selector, wanted, seconds=60):
    """Wait until an element has this text."""
    end = time.monotonic() + seconds
    while (found := text(browser, selector)) != wanted and time.monotonic() < end:
        time.sleep(0.05)
    assert found == wanted


def upload(browser, path):
    browser.one("#file input[type=file]").send_keys(str(path))


def sources(browser):
    """The addresses of the shown picture and its boxes."""
    return browser.js("return [...document.querySelectorAll('#picture img')].map((image) => image.src)")


def text(browser, selector):
    """The text of an element, "" without it; several spaces count as one, as on the page."""
    return " ".join(browser.js("return document.querySelector(arguments[0])?.innerText ?? ''", selector).split())


def test_a_picture_gets_its_caption_words_boxes_and_attention(browser, app, pictures):
    from selenium.webdriver.common.keys import Keys

    expected = app[1].answer(pictures[0], pictures[0].name, app[1].beam_size)
    assert expected.objects, "the test needs a caption with object words"
    upload(browser, pictures[0])
    shows(browser, "#caption .textfield", expected.caption)
    assert browser.texts("#caption .highlighted") == [expected.caption.words[at].text for at in expected.objects]
    until(lambda: len(sources(browser)) == 1 + len(expected.objects))  # the picture and a layer per box
    (x1, _, _, y2), weight = views.place_of(expected, "gamma", expected.objects[0])
    cells = browser.texts("#boxes tbody tr:first-child td")
    assert [cells[0], cells[3], cells[4]] == [f"{x1:.0f}", f"{y2:.0f}", f"{weight:.2f}"]
    assert "\u03b3" in text(browser, "#reading")
    # One word: its attention. The keyboard reaches all choices.
    before = sources(browser)
    browser.all("#caption .highlighted")[0].click()
    word = expected.caption.words[expected.objects[0]].text
    until(lambda: f"\u03b3 of \u201c{word}\u201d" in text(browser, "#reading"))
    until(lambda: len(sources(browser)) == 2 and sources(browser)[0] != before[0])
    browser.js("arguments[0].focus()", browser.one("#kind input[value=beta]"))
    browser.press(Keys.SPACE)
    until(lambda: text(browser, "#reading").startswith("\u03b2, the same for all words"))
    browser.resize(390, 844)
    assert browser.js("return document.documentElement.scrollWidth") <= 390


def test_a_broken_picture_gives_a_sentence_and_the_next_one_works(browser, app, pictures, tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"not a picture")
    upload(browser, tmp_path / "broken.jpg")
    until(lambda: text(browser, "#message").startswith("broken.jpg: this is not a picture of a known format"))
    assert "Traceback" not in browser.js("return document.body.innerText") and not sources(browser)
    browser.one("#file button[aria-label='Clear']").click()
    until(lambda: browser.all("#file input[type=file]") and not text(browser, "#message"))
    upload(browser, pictures[1])
    expected = app[1].answer(pictures[1], "", app[1].beam_size)
    shows(browser, "#caption .textfield", expected.caption)


def test_a_picture_of_the_folder_is_chosen_by_keyboard_and_captioned_greedily(browser, app, pictures):
    from selenium.webdriver.common.keys import Keys

    name = browser.one("#name input")
    name.click()
    name.send_keys(pictures[2].stem)
    until(lambda: len(browser.all("#name [role=option]")) == 1)
    name.send_keys(Keys.ENTER)
    until(lambda: name.get_attribute("value") == pictures[2].name)
    best = app[1].answer(pictures[2], "", app[1].beam_size)
    shows(browser, "#caption .textfield", best.caption)
    beams = browser.one("#beams input[type=range]")
    beams.send_keys(*[Keys.ARROW_LEFT] * (app[1].beam_size - 1))
    greedy = app[1].answer(pictures[2], "", 1)
    assert greedy.caption == best.caption.greedy
    shows(browser, "#caption .textfield", greedy.caption)


def test_only_this_machine_can_ask_and_no_file_is_given_away(app):
    address, _ = app
    assert address.startswith("http://127.0.0.1:")
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"{address}gradio_api/file=/etc/hostname", timeout=10)
    assert refused.value.code == 403
