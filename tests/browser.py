"""Debian's Chromium without a window, driven through selenium: a new profile each time, and no network of its own.

And what is timed in it, here and by scripts/bench: the page of a sweep of 1,000 cells.
"""

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from statistics import median

import pytest

BROWSER, DRIVER = Path("/usr/bin/chromium"), Path("/usr/bin/chromedriver")
SWITCHES = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--force-device-scale-factor=1", "--window-size=1280,900",
)  # fmt: skip
WANTED = "No browser at hand: apt-get install chromium chromium-driver, and pip install selenium."


def at_hand() -> bool:
    return bool(find_spec("selenium")) and BROWSER.exists() and DRIVER.exists()


def without() -> None:
    """Skip the test; fail it in CI, which has a browser."""
    if os.environ.get("CI"):
        pytest.fail(WANTED)
    pytest.skip(WANTED)


@contextmanager
def chromium(*switches: str) -> Iterator:
    """A WebDriver, 1280 pixels wide, that keeps what the page logs."""
    if not at_hand():
        without()
    from selenium.webdriver import Chrome, ChromeOptions, ChromeService

    options = ChromeOptions()
    options.binary_location = str(BROWSER)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        for switch in (*SWITCHES, *switches, f"--user-data-dir={profile}"):
            options.add_argument(switch)
        driver = Chrome(options=options, service=ChromeService(str(DRIVER)))
        try:
            yield driver
        finally:
            driver.quit()


def thousand(folder: Path) -> Path:
    """index.html of 50 seeds by 20 gammas, finished cells on disk, by the code that shows every sweep."""
    from PIL import Image

    from expkit.sweep.cells import Cell
    from expkit.sweep.page import write_page
    from expkit.sweep.report import SweepReport

    cells = []
    for number, (seed, gamma) in enumerate(product(range(50), range(20))):
        cells.append(
            Cell((f"seed={seed}", f"gamma={gamma}"), {"seed": seed, "gamma": gamma}, f"{number:012x}")
        )
        place = cells[-1].folder(folder)
        (place / "pictures").mkdir(parents=True)
        digit = Image.effect_noise((28, 28), 64)
        digit.save(place / "pictures" / "000.png")
        digit.resize((168, 168)).save(place / "picture.png")
        numbers = {
            "seconds": seed + gamma / 20,
            "judged": {"psnr": number % 37},
            "pictures": [{"file": "pictures/000.png", "seed": seed}],
        }
        (place / "numbers.json").write_text(json.dumps(numbers))
    book = SweepReport(folder, cells, ["seed=range(50)", "gamma=range(20)"])
    (folder / "index.html").write_text(write_page(book.page_content(book.entries())), encoding="utf-8")
    return folder / "index.html"


OPENED = "const done = arguments[0]; requestAnimationFrame(() => setTimeout(() => done(performance.now())))"
FILTERED = """const [css, done] = arguments, began = performance.now();
document.querySelector(css).click();
requestAnimationFrame(() => setTimeout(() => done(performance.now() - began)));"""


WORK = """const done = arguments[0], began = performance.now(), box = document.body.appendChild(document.createElement('div'));
box.innerHTML = '<button style="width: 90px; display: inline-block">some words in a box</button>'.repeat(3000);
box.getBoundingClientRect();
requestAnimationFrame(() => setTimeout(() => (box.remove(), done(performance.now() - began))));"""
USUAL = 100  # milliseconds that WORK takes on two quiet cores without AVX-512


def slowness(driver) -> float:
    """How many times as slow as usual the machine is now, at laying out boxes; not less than 1."""
    driver.get("about:blank")
    return max(1.0, median(driver.execute_async_script(WORK) for _ in range(5)) / USUAL)


def timed(driver, address: str) -> tuple[float, float]:
    """Milliseconds from asking for a page of `thousand` until it is painted, and from a click on a filter's box; medians."""
    opened, filtered = [], []
    for _ in range(3):
        driver.get("about:blank")
        driver.get(address)
        opened.append(driver.execute_async_script(OPENED))
        filtered += [
            driver.execute_async_script(FILTERED, "input[name='axis.gamma'][value='3']") for _ in range(4)
        ]
    return median(opened), median(filtered)
