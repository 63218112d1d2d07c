"""The page in a real browser: open, hover, switch, filter, search, keys, narrow screen."""

import io

import pytest
from PIL import Image

from report import made_up
from xmodaler_ssattn.report.curves import Run
from xmodaler_ssattn.report.page import write_page
from xmodaler_ssattn.report.source import read_source

WORD = ".card .said[data-model='{}'] .word[data-word='{}']"
ACTIVE = ".card .overlay rect.active[data-model='{}']"


def word(browser, model, position):
    return browser.one(WORD.format(model, position))


def box_of(browser, model):
    """The lit box as the DOM has it: x, y, width, height in pixels of the image."""
    rect = browser.one(ACTIVE.format(model))
    return [float(rect.get_attribute(name)) for name in ("x", "y", "width", "height")]


def test_the_page_opens_from_disk_with_scores_and_all_images(browser, page):
    browser.open(page)
    assert browser.one("h1").text == "Grounded captions"
    assert browser.ids() == [1, 2, 3, 4]
    assert browser.one("#count").text == "4 images"
    assert browser.texts(".card:first-child .who strong") == ["first", "second"]
    assert "CIDEr" in browser.texts("#scores tbody th")
    assert browser.all("#scores tr[data-score=F1_all] .whisker")  # the paired comparison
    assert browser.texts("#classes .bars button") == ["car\n4", "dog\n4"]


def test_hovering_a_word_lights_its_box_and_leaving_it_does_not_keep_it(browser, page):
    browser.open(page)
    browser.hover(word(browser, 1, 1))
    # DOG is 50, 60, 150, 160 in xyxy
    assert box_of(browser, 1) == [50, 60, 100, 100]
    assert not browser.all(ACTIVE.format(0))
    browser.hover(browser.one("#count"))
    assert not browser.all(".active")


def test_a_words_box_is_where_the_object_is_in_the_picture(browser, page):
    browser.open(page)
    browser.hover(word(browser, 1, 1))
    place = browser.js(
        """const card = document.querySelector(".card");
        const picture = card.querySelector("img").getBoundingClientRect();
        const box = card.querySelector("rect.active").getBoundingClientRect();
        return {x: (box.x - picture.x) / picture.width, y: (box.y - picture.y) / picture.height,
                w: box.width / picture.width, h: box.height / picture.height,
                left: box.x, top: box.y, width: box.width, height: box.height};"""
    )
    # fractions of a 400 x 300 picture: 50/400, 60/300, 100/400, 100/300; a screen pixel is about 1/300
    assert [place[k] for k in "xywh"] == pytest.approx([0.125, 0.2, 0.25, 1 / 3], abs=0.005)
    screen = Image.open(io.BytesIO(browser.driver.get_screenshot_as_png())).convert("RGB")
    for share_x in (0.2, 0.5, 0.8):
        for share_y in (0.2, 0.5, 0.8):
            red, green, blue = screen.getpixel(
                (int(place["left"] + share_x * place["width"]), int(place["top"] + share_y * place["height"]))
            )
            assert red > 180 and green < 60 and blue < 60, "the middle of the dog's box is not the red dog"


def test_words_show_whether_they_rest_on_the_right_box(browser, page):
    browser.open(page)
    verdicts = browser.js(
        """return [...document.querySelectorAll("#image-1 .word.object")]
        .map((word) => [word.dataset.class, word.dataset.verdict])"""
    )
    assert verdicts == [["dog", "w"], ["car", "r"], ["dog", "r"], ["car", "r"]]
    assert browser.texts("#image-1 .scores")[0].endswith("1 of 2 right")


def test_gamma_lights_the_regions_in_proportion_to_their_weight(browser, page):
    browser.open(page)
    browser.show("gamma")
    browser.hover(word(browser, 1, 1))
    found = browser.js(
        """return [...document.querySelectorAll("#image-1 .veil .region")]
        .map((r) => [Number(r.dataset.weight), Number(r.getAttribute("fill-opacity"))])"""
    )
    # looks at region 0: alpha .5 .25 .25, beta .2 .3 .5, gamma = alpha + beta / 2 = .6 .4 .5; light = gamma / .6
    assert [w for w, _ in found] == pytest.approx([0.6, 0.4, 0.5], abs=1e-3)
    assert [light for _, light in found] == pytest.approx([1, 0.667, 0.833], abs=2e-3)


def test_the_veil_is_dark_outside_and_leaves_the_strongest_region_as_it_is(browser, page):
    browser.open(page)
    browser.show("alpha")
    browser.js("arguments[0].focus()", word(browser, 1, 1))  # the screenshot may scroll the word away from the mouse
    picture = browser.one(".card .frame")
    shot = Image.open(io.BytesIO(picture.screenshot_as_png)).convert("RGB")
    inside = shot.getpixel((shot.width * 100 // 400, shot.height * 110 // 300))
    outside = shot.getpixel((shot.width * 20 // 400, shot.height * 280 // 300))
    assert inside[0] > 180  # the red dog
    assert max(outside) < 190  # white under the veil, at half light: the whole image has weight .25 of .5


def test_a_model_without_beta_says_so_and_beta_needs_no_word(browser, page):
    browser.open(page, "#show=beta")
    assert browser.one("#image-1 .reading").text == "second: β is largest at region 2: 0.50"
    assert browser.all("#image-1 .veil")
    browser.hover(word(browser, 0, 1))
    assert browser.one("#image-1 .reading").text.startswith("first: this model has no β")
    assert not browser.all("#image-1 .veil")


def test_references_and_ground_truth_appear_on_demand(browser, page):
    browser.open(page)
    assert not browser.all("rect.truth")
    browser.one("#image-1 .references summary").click()
    browser.settle()
    assert len(browser.all("#image-1 .references li")) == 5
    boxes = browser.js(
        """return [...document.querySelectorAll("#image-1 rect.truth")]
        .map((r) => [r.dataset.class, Number(r.getAttribute("x"))])"""
    )
    assert sorted(boxes) == [["car", 220], ["dog", 50]]
    browser.hover(browser.one("#image-1 .phrase.object"))
    assert browser.js("return document.querySelectorAll('#image-1 rect.truth').length") == 1


def test_every_filter_keeps_the_images_that_it_names(browser, page):
    browser.open(page)
    for name, value, expected in (
        ("ground", "w", [1, 2]),
        ("differ", "captions", [3]),
        ("differ", "verdicts", [1, 2]),
        ("differ", "1", [1, 2]),
        ("differ", "0", []),
    ):
        browser.choose(name, value)
        assert browser.ids() == expected, (name, value)
        browser.choose(name, "")
    browser.choose("class", "dog")
    browser.choose("ground", "w")
    browser.choose("of", "1")
    assert browser.ids() == []
    browser.choose("of", "0")
    assert browser.ids() == [1, 2]
    browser.one("#clear").click()
    assert browser.ids() == [1, 2, 3, 4]


def test_search_finds_words_and_ids(browser, page):
    browser.open(page)
    field = browser.one("input[name=q]")
    field.send_keys("near a CAR")
    assert browser.ids() == [1, 2, 3, 4]
    field.clear()
    field.send_keys("4")
    assert browser.ids() == [4]
    field.clear()
    field.send_keys("zebra")
    assert browser.ids() == []
    assert browser.one("#count").text == "0 of 4 images"


def test_scores_sort_and_limit(browser, page):
    browser.open(page)
    browser.choose("by", "right:0")
    browser.choose("sort", "high")
    assert browser.ids() == [3, 4, 1, 2]  # 100 100 50 50 percent; ties as in the file
    browser.one("input[name=max]").send_keys("60")
    assert browser.ids() == [1, 2]


def test_a_link_brings_the_same_view(browser, page):
    browser.open(page)
    browser.choose("ground", "w")
    browser.show("gamma")
    link = browser.driver.current_url
    assert "ground=w" in link and "show=gamma" in link
    browser.driver.get("about:blank")
    browser.driver.get(link)
    browser.settle()
    assert browser.ids() == [1, 2]
    assert browser.one("input[name=show][value=gamma]").is_selected()


def test_an_image_has_a_link_of_its_own_and_back_leads_to_all(browser, page):
    browser.open(page)
    browser.one("#image-3 h3 a").click()
    browser.settle()
    assert browser.ids() == [3]
    browser.driver.back()
    browser.settle()
    assert browser.ids() == [1, 2, 3, 4]


def test_the_page_works_by_keyboard_alone(browser, page):
    from selenium.webdriver.common.keys import Keys

    browser.open(page)
    browser.press("j")
    assert browser.js("return document.activeElement.id") == "image-1"
    browser.press("j")
    assert browser.js("return document.activeElement.id") == "image-2"
    browser.press(Keys.TAB, Keys.TAB)  # the image's link, then its first object word
    assert browser.js("return document.activeElement.dataset.class") == "dog"
    assert box_of(browser, 0) == [220, 100, 120, 100]  # wrong: on the car
    browser.press(Keys.ARROW_RIGHT)
    assert browser.js("return document.activeElement.textContent") == "near"
    assert box_of(browser, 0) == [0, 0, 400, 300]
    browser.press("4")
    assert browser.one("input[name=show][value=gamma]").is_selected()
    assert browser.all("#image-2 .veil")
    browser.press("t")
    assert browser.all("#image-2 .references[open]")
    browser.press("/", "zebra")
    assert browser.ids() == []


def test_a_phone_shows_one_column_and_never_scrolls_sideways(browser, page):
    browser.resize(360, 740)
    browser.open(page)
    assert browser.js("return document.documentElement.scrollWidth") <= 360
    cut = browser.js(
        """return [...document.querySelectorAll("#scores *, #classes *, .looks *, .card *")]
        .filter((node) => node.getBoundingClientRect().right > 360.5 && !node.closest("svg"))
        .map((node) => node.outerHTML)"""
    )
    assert cut == []
    assert len(set(browser.js("return [...document.querySelectorAll('.card')].map((card) => card.offsetLeft)"))) == 1
    # each score is one line per model: its name, the value, the interval
    assert browser.one("#scores tr[data-score=CIDEr] td").get_attribute("data-label") == "first"
    assert not browser.one(".filters").get_attribute("open")


def test_the_words_box_follows_the_picture_on_a_phone(browser, page):
    browser.resize(360, 740)
    browser.open(page)
    word(browser, 1, 4).click()
    x, width = browser.js(
        """const card = document.querySelector(".card");
        const picture = card.querySelector("img").getBoundingClientRect();
        const box = card.querySelector("rect.active").getBoundingClientRect();
        return [(box.x - picture.x) / picture.width, box.width / picture.width];"""
    )
    # CAR: 220 to 340 of 400
    assert [x, width] == pytest.approx([0.55, 0.3], abs=0.005)


def test_a_class_in_the_bars_filters(browser, page):
    browser.open(page)
    browser.one("#classes button[data-class=car]").click()
    browser.settle()
    assert browser.one("select[name=class]").get_attribute("value") == "car"
    assert browser.ids() == [1, 2, 3, 4]


def test_a_box_has_the_colour_of_its_word_and_its_corner_that_of_its_model(browser, page):
    from xmodaler_ssattn.report.plot import MODEL_COLOURS, WORD_COLOURS

    assert not {*MODEL_COLOURS} & {*WORD_COLOURS}
    browser.open(page)

    def boxes(selector, attribute):
        return [found.get_attribute(attribute) for found in browser.all(f"#image-1 {selector}")]

    # Both models say "dog" and "car", two words of two classes.
    assert boxes("rect.box", "stroke") == [*WORD_COLOURS[:2], *WORD_COLOURS[:2]]
    assert boxes("rect.mark", "fill") == [MODEL_COLOURS[0]] * 2 + [MODEL_COLOURS[1]] * 2
    assert len(made_up.OBJECT_WORDS) == 2


def test_one_picture_shows_the_boxes_of_all_models_of_one_or_none(browser, page):
    browser.open(page)
    assert len(browser.all("#image-1 img")) == 1

    def models():
        return browser.js("return [...document.querySelectorAll('#image-1 rect.box')].map((r) => r.dataset.model)")

    assert models() == ["0", "0", "1", "1"]
    for value, expected in (("1", ["1", "1"]), ("0", ["0", "0"]), ("none", []), ("all", ["0", "0", "1", "1"])):
        browser.choose_segment("boxes", value)
        assert models() == expected
    browser.choose_segment("boxes", "0")
    assert "boxes=0" in browser.driver.current_url
    browser.hover(word(browser, 1, 1))  # a word's box is shown whatever the switch says
    assert models() == ["1"]


def test_curves_have_the_colours_of_the_models_and_fit_a_phone(browser, tmp_path):
    source = read_source([made_up.write(tmp_path / f"{name}.json", {1: made_up.caption()}) for name in "ab"])
    runs = [Run(name, {"val/CIDEr": [(9, 0.1 * i), (19, 0.2)]}, {9: 1, 19: 2}) for i, name in enumerate("ab")]
    page = write_page(tmp_path / "page", source, runs=runs[1:], replicates=0)  # only the second model has a run
    for width in (360, 1300):
        browser.resize(width, 740)
        browser.open(page)
        browser.one("#run > summary").click()
        left, right = browser.js(
            "const b = document.querySelector('.plots svg').getBoundingClientRect(); return [b.left, b.right]"
        )
        assert left >= 0 and right <= width and right - left > 250
        assert browser.js("return document.documentElement.scrollWidth") <= width
    assert browser.js("return [...document.querySelectorAll('.plots title')].map((t) => t.textContent)") == [
        "b, 1: 10", "b, 2: 20",
    ]  # fmt: skip
    stroke, bar = browser.js(
        """const style = (node) => getComputedStyle(node);
        return [style(document.querySelector(".plots path[style*=dasharray]")).stroke,
                style(document.querySelector("#image-1 .said[data-model='1'] .swatch")).backgroundColor];"""
    )
    assert stroke == bar
