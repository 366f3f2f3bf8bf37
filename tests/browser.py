"""A real browser: Chromium without a window, driven through Selenium."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

PHONE, DESK = 390, 1200
"""Widths of a window, pixels."""
MARKS = 'path.js-line[d^="M"], g.point path, path.point, g.points > path[d^="M"], .heatmaplayer image'


@contextmanager
def browser(folder: Path, *, width: int = DESK, dark: bool = False) -> Iterator[Any]:
    """A browser that keeps its profile in a folder and reaches this machine alone; skips the test if there is none."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("there is no Chromium with its driver here")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    for word in ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage", f"user-data-dir={folder}"):
        options.add_argument(f"--{word}")
    options.add_argument("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1")
    found = webdriver.Chrome(options=options, service=Service(driver))
    try:
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        found.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        found.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": scheme})
        yield found
    finally:
        found.quit()


def wait(page: Any, until: Any, seconds: float = 60) -> Any:
    """What ``until`` finds on the page, once it finds something."""
    return WebDriverWait(page, seconds, poll_frequency=0.1).until(until)


def open_page(page: Any, address: str) -> None:
    """Go there, and wait until every chart is drawn."""
    page.get(address)
    drawn = "return document.querySelectorAll('.plot:not(.js-plotly-plot)').length === 0"
    wait(page, lambda page: page.execute_script(drawn))


def marks(page: Any) -> dict[str, int]:
    """How many lines, bars, points or images are drawn in every chart, by its name."""
    script = """
        const count = (plot) => plot.querySelectorAll(arguments[0]).length;
        return Object.fromEntries([...document.querySelectorAll(".plot")].map((plot) => [plot.id, count(plot)]));
    """
    return dict(page.execute_script(script, MARKS))


def complaints(page: Any) -> list[str]:
    """What the browser's console says is wrong."""
    return [entry["message"] for entry in page.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]


def too_wide(page: Any) -> list[str]:
    """What reaches beyond the right edge of the window, and cannot be scrolled to inside something narrower."""
    script = """
        const wide = document.documentElement.clientWidth;
        const parts = [...document.querySelectorAll("header, nav, section, dl, p, .scrolls, .gallery, .plot, svg")];
        return parts.filter((part) => part.getBoundingClientRect().right > wide + 1).map((part) => part.outerHTML);
    """
    return [text[:200] for text in page.execute_script(script)]


def hover(page: Any, selector: str) -> None:
    """Move the pointer to the middle of the first element that fits the selector."""
    place = page.find_element(By.CSS_SELECTOR, selector)
    page.execute_script("arguments[0].scrollIntoView({block: 'center'})", place)
    ActionChains(page).move_to_element(place).perform()
