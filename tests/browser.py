"""A headless Chromium for tests of pages; where there is none, those tests are skipped."""

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
needs_browser = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="chromium and chromedriver are not installed"
)
FLAGS = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
FLAGS += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
FLAGS += ["--window-size=1280,860", "--disable-dev-shm-usage", "--force-prefers-reduced-motion"]


@contextmanager
def chromium(profile) -> Iterator:
    """A driver whose console and requests are logged; its profile is kept in this folder."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in [*FLAGS, f"--user-data-dir={profile}"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    try:
        yield driver
    finally:
        driver.quit()


@contextmanager
def watched(driver, *own: str, forgiven: str = "") -> Iterator[None]:
    """The page says nothing on the console meanwhile and asks no address but its own.

    A line of the console with `forgiven` in it is let pass.
    """
    for log in ("browser", "performance"):
        driver.get_log(log)
    yield
    said = [entry["message"] for entry in driver.get_log("browser")]
    assert [line for line in said if not (forgiven and forgiven in line)] == []
    events = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    asked = [e["params"]["request"]["url"] for e in events if e["method"].endswith("WillBeSent")]
    assert [u for u in asked if not u.startswith((*own, "data:", "about:", "chrome"))] == []


class Page:
    """A tab, with words for what a user does and sees."""

    def __init__(self, driver, url: str):
        self.driver, self.url = driver, url

    def all(self, selector: str) -> list:
        """All elements of a selector, hidden ones too."""
        return self.driver.find_elements("css selector", selector)

    def one(self, selector: str):
        """The first one."""
        return self.driver.find_element("css selector", selector)

    def wait(self, true, seconds: float = 120):
        """What a function gives, as soon as it is true."""
        end = time.monotonic() + seconds
        while not (found := true()):
            assert time.monotonic() < end, self.one("body").text
            time.sleep(0.02)
        return found

    def see(self, selector: str):
        """The first element of a selector, as soon as it is shown."""
        return self.wait(lambda: [e for e in self.all(selector) if e.is_displayed()])[0]

    def focused(self):
        """What the keyboard goes to."""
        return self.driver.switch_to.active_element

    def script(self, text: str, *given):
        """What a script returns."""
        return self.driver.execute_script(text, *given)
