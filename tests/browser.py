"""A headless Chromium for tests of pages; where there is none, those tests are skipped."""

import json
import re
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
needs_browser = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="chromium and chromedriver are not installed"
)
FLAGS = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
FLAGS += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
FLAGS += ["--window-size=1280,860", "--disable-dev-shm-usage", "--force-prefers-reduced-motion"]


@contextmanager
def chromium(profile: Path) -> Iterator:
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

    @contextmanager
    def sized(self, width: int, height: int) -> Iterator[None]:
        """The window has this size meanwhile; a narrow one is a phone's."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        try:
            yield
        finally:
            self.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def contrasts(
    sheet: Path, scheme: int, pairs: Iterable[tuple[str, str]]
) -> dict[tuple[str, str], float]:
    """Contrast (WCAG 2) of pairs of a style sheet's colors, in its first or second scheme."""
    block = re.findall(r":root \{(.*?)\}", sheet.read_text(encoding="utf-8"), re.DOTALL)[scheme]
    colors = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", block))
    light = {name: luminance(color) + 0.05 for name, color in colors.items()}
    return {(a, b): max(light[a], light[b]) / min(light[a], light[b]) for a, b in pairs}


def luminance(color: str) -> float:
    """Of a color such as #0a7bc2, from 0 to 1."""
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
