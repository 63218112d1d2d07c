"""The browser of the page's tests, and the small captioner of the tests of ``xmodaler caption``."""

from report.conftest import Browser, driver  # noqa: F401
from test_cli_caption import demo  # noqa: F401
