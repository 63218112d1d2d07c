"""A browser for the tests of the page, and one page that most of them look at."""

import shutil
from urllib.parse import quote

import pytest

from report import made_up
from xmodaler_ssattn.report.page import write_page
from xmodaler_ssattn.report.source import read_source

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
)  # fmt: skip


@pytest.fixture(scope="session")
def driver(tmp_path_factory):
    """Debian's Chromium, headless; no download of any kind."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed: pip install -e '.[test]'")
    from selenium.common.exceptions import WebDriverException
    from selenium.webdriver.chrome.service import Service

    program = shutil.which("chromedriver")
    browser = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chrome")
    if program is None or browser is None:
        pytest.skip("no browser is installed: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('browser')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    try:
        driver = webdriver.Chrome(options=options, service=Service(program))
    except WebDriverException as error:
        pytest.skip(f"the browser does not start here: {error.msg}")
    yield driver
    driver.quit()


@pytest.fixture
def browser(driver):
    """A ``Browser`` of a desktop's size; the test fails when the page wrote an error to the console."""
    browser = Browser(driver)
    browser.resize(1300, 900)
    driver.get_log("browser")
    yield browser
    errors = [entry for entry in driver.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]
    assert not errors, errors


class Browser:
    """The few things that the tests do with a page."""

    def __init__(self, driver):
        self.driver = driver

    def open(self, page, view=""):
        self.driver.get("about:blank")  # only then is the same file with another # loaded anew
        self.driver.get(f"file://{quote(str(page))}{view}")
        self.settle()

    def resize(self, width, height):
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)

    def settle(self):
        """Wait until every card in sight has its details and its pictures."""
        script = """const done = arguments[0], start = performance.now();
        (function look() {
          const near = [...document.querySelectorAll(".card")].filter((card) => {
            const box = card.getBoundingClientRect(); return box.top < innerHeight && box.bottom > 0; });
          const ready = near.every((card) => card.filled && "details" in card
            && [...card.querySelectorAll("img")].every((picture) => picture.complete));
          if (ready || performance.now() - start > 5000) requestAnimationFrame(() => setTimeout(() => done(ready), 30));
          else setTimeout(look, 20);
        })();"""
        assert self.driver.execute_async_script(script), "the cards in sight were not filled within five seconds"

    def js(self, script, *arguments):
        return self.driver.execute_script(script, *arguments)

    def all(self, selector):
        return self.driver.find_elements("css selector", selector)

    def one(self, selector):
        return self.driver.find_element("css selector", selector)

    def texts(self, selector):
        return [element.text for element in self.all(selector)]

    def ids(self):
        """The images listed, in order."""
        return self.js("return [...document.querySelectorAll('.card')].map((card) => Number(card.id.slice(6)))")

    def hover(self, element):
        from selenium.webdriver import ActionChains

        self.js("arguments[0].scrollIntoView({block: 'center'})", element)
        ActionChains(self.driver).move_to_element(element).perform()

    def press(self, *keys):
        from selenium.webdriver import ActionChains

        ActionChains(self.driver).send_keys(*keys).perform()

    def choose(self, name, value):
        from selenium.webdriver.support.ui import Select

        Select(self.one(f"select[name={name}]")).select_by_value(value)
        self.settle()

    def choose_segment(self, name, value):
        self.one(f"input[name={name}][value='{value}'] + span").click()
        self.settle()

    def show(self, value):
        self.choose_segment("show", value)


@pytest.fixture(scope="session")
def page(tmp_path_factory):
    """Two models, four images: in 1 and 2 the first model's dog is wrong, in 3 they say other words, in 4 all agree."""
    folder = tmp_path_factory.mktemp("page of two models")
    first = {i: made_up.caption(made_up.DOG_WRONG if i < 3 else made_up.RIGHT, beta=False) for i in (1, 2, 3, 4)}
    second = {i: made_up.caption(made_up.RIGHT) for i in (1, 2, 3, 4)}
    second[3] = made_up.caption((2, 0), ("a", "dog"))
    paths = [made_up.write(folder / "a.json", first), made_up.write(folder / "b.json", second)]
    made_up.write_annotations(folder / "annotations", [made_up.annotated(i) for i in (1, 2, 3, 4)])
    for i in (1, 2, 3, 4):
        made_up.draw_picture(folder / "Images" / f"{i}.png")
    source = read_source(paths, ["first", "second"], folder / "annotations")
    return write_page(folder / "page", source, images=folder / "Images", replicates=50)
