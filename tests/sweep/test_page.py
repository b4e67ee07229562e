"""The page of a sweep, by real clicks and keys in a browser: every view of it, from disk, on a desk and on a phone."""

import json
import re
from itertools import product
from pathlib import Path

import pytest
from PIL import Image

from expkit.sweep.page import write_page
from tests.browser import chromium, slowness, thousand, timed

HOSTILE = "</script><script>window.broken = 1</script><img src=x onerror='window.broken = 1'>\u2028 <!-- ünd"
TIMES = [990, 690, 300, 0]


def drawn(folder: Path, name: str, size=(28, 28), grey: int = 128) -> str:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size, grey).save(folder / name)
    return name


def cell(folder: Path, number: int, axes: dict, pictures: int = 1, **others) -> dict:
    place = f"cells/{number:08x}"
    files = [drawn(folder, f"{place}/pictures/{k:03d}.png") for k in range(pictures)]
    return {
        "id": f"{number:08x}", "status": "done", "axes": axes, "numbers": {"seconds": float(10 - number), "judged/psnr": 0.1 + number},
        "command": f"python -m expkit number={number}", "error": None, "folder": place, "sheet": drawn(folder, f"{place}/picture.png"),
        "pictures": [{"file": file, "thumb": None, "caption": f"sample {k}"} for k, file in enumerate(files)],
        "original": None, "frames": None, "readings": [], "distance": False, **others,
    }  # fmt: skip


def failed(made: dict, status: str, error: str | None) -> dict:
    return made | {"status": status, "error": error, "numbers": {}, "pictures": [], "sheet": None}


def sweep(folder: Path) -> dict:
    """Six cells, 3 × 2: an SDEdit with frames, an anagram, a hybrid, five pictures in one, one that failed, one that is missing."""
    made = [
        cell(folder, n, {"i_start": i, "gamma": g}) for n, (i, g) in enumerate(product((1, 3, 10), (1, 7.5)))
    ]
    frames = {
        "file": drawn(folder, "cells/00000000/frames.png", (112, 56)),
        "t": TIMES,
        "size": [28, 28],
        "rows": ["state", "estimate"],
    }
    made[0] |= {"original": drawn(folder, "cells/00000000/original/000.png"), "frames": frames}
    negated = drawn(folder, "cells/00000001/readings/negated # 1_000.png")
    made[1]["readings"] = [
        {"label": "turned", "said": "9", "degrees": 180, "files": [negated]},
        {"label": "negated", "said": "6", "degrees": None, "files": [negated]},
    ]
    made[2]["distance"] = True
    made[3] = cell(folder, 3, {"i_start": 3, "gamma": 7.5}, pictures=5)
    made[4] = failed(made[4], "failed", "UserError: no such prompt." + " and so on" * 30 + HOSTILE)
    made[5] = failed(made[5], "missing", None)
    axes = [{"key": "i_start", "values": [1, 3, 10]}, {"key": "gamma", "values": [1, 7.5]}]
    return {"title": "sdedit: i_start × gamma", "note": HOSTILE, "axes": axes, "numbers": ["seconds", "judged/psnr"],
            "command": "python -m expkit -m i_start=1,3,10", "cells": made}  # fmt: skip


class Page:
    """The page in the browser, as a person has it: what is seen, clicks and keys."""

    def __init__(self, driver, folder: Path) -> None:
        self.driver, self.folder = driver, folder

    def open(self, address: str = "") -> "Page":
        self.driver.get("about:blank")
        self.driver.get(f"{(self.folder / 'index.html').as_uri()}#{address}")
        return self

    def js(self, code: str, *given):
        return self.driver.execute_script(f"return {code}", *given)

    def all(self, css: str) -> list:
        return [found for found in self.driver.find_elements("css selector", css) if found.is_displayed()]

    def one(self, css: str):
        (found,) = self.all(css)
        return found

    def text(self, css: str) -> str:
        return self.one(css).text

    def click(self, css: str) -> None:
        self.one(css).click()

    def choose(self, css: str, words: str) -> None:
        from selenium.webdriver.support.select import Select

        Select(self.one(css)).select_by_visible_text(words)

    def press(self, *keys: str) -> None:
        from selenium.webdriver import ActionChains
        from selenium.webdriver.common.keys import Keys

        ActionChains(self.driver).send_keys(*[getattr(Keys, key, key) for key in keys]).perform()

    def until(self, code: str) -> None:
        from selenium.webdriver.support.wait import WebDriverWait

        WebDriverWait(self.driver, 5, 0.02).until(lambda _: self.js(code), code)

    def closed_on(self, cell: str) -> None:
        """The dialog is gone and the focus on a cell: a browser closes first, and says so to the page afterwards."""
        self.until(
            f"!document.querySelector('dialog[open]') && document.activeElement.dataset.id === '{cell}'"
        )

    @property
    def numbers(self) -> list[int]:
        """The cells that are seen, in their order."""
        return [int(card.get_attribute("data-id"), 16) for card in self.all("#gallery .card")]

    @property
    def focused(self) -> str | None:
        return self.js("document.activeElement.dataset.id ?? document.activeElement.id")

    def style(self, css: str, name: str) -> str:
        return self.js(
            "getComputedStyle(document.querySelector(arguments[0])).getPropertyValue(arguments[1])", css, name
        )


@pytest.fixture(scope="module")
def driver():
    with chromium() as driver:
        yield driver


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("a sweep # 1")
    (folder / "index.html").write_text(write_page(sweep(folder)), encoding="utf-8")
    return folder


@pytest.fixture
def shown(driver, folder) -> Page:
    """The page, opened; at the end nothing was logged: no error, no file that is not there."""
    driver.get_log("browser")
    yield Page(driver, folder).open()
    assert [
        line for line in driver.get_log("browser") if not line["message"].startswith("chrome:")
    ] == []  # whose pages want the network


def test_what_the_data_says_stays_data():
    text = write_page({"title": HOSTILE, "cells": [{"numbers": {"a": float("nan"), "b": float("inf")}}]})
    inside = re.search(r'<script id="data" type="application/json">(.*?)</script>', text, re.S).group(1)
    assert json.loads(inside) == {"title": HOSTILE, "cells": [{"numbers": {"a": "nan", "b": "inf"}}]}
    assert inside.isascii() and "<" not in inside


def test_nothing_comes_from_elsewhere():
    text = write_page({"title": "", "cells": []})
    assert set(re.findall(r"https?://[^\"'\s]+", text)) == {"http://www.w3.org/2000/svg"}
    assert "innerHTML" not in text and "/* page" not in text and "/* data" not in text


def test_the_heading_says_what_was_swept_and_no_text_is_markup(shown):
    assert shown.text("h1") == shown.driver.title == "sdedit: i_start × gamma"
    assert shown.text("#counts") == "4 done · 1 failed · 1 missing"
    assert "<script>window.broken = 1</script>" in shown.text("#note")
    assert shown.text("#command code") == "python -m expkit -m i_start=1,3,10"
    assert shown.js("window.broken") is None


def test_a_sweep_of_two_axes_is_a_labelled_grid(shown):
    assert [head.text for head in shown.all("thead th")] == ["1", "7.5"]
    assert [head.text for head in shown.all("tbody th")] == ["1", "3", "10"]
    assert shown.numbers == [0, 1, 2, 3, 4, 5]
    assert (
        shown.all("tbody tr")[1].find_elements("css selector", ".card")[1].get_attribute("data-id")
        == "00000003"
    )


def test_cards_show_pictures_values_and_holes(shown):
    shown.choose("#rows", "none")
    shown.choose("#columns", "none")
    cards = shown.all(".flow > .card")
    assert cards[1].text.split("\n") == ["i_start 1", "gamma 7.5"]
    assert [len(card.find_elements("css selector", "img")) for card in cards] == [1, 1, 1, 4, 0, 0]
    shown.until(
        "[...document.querySelectorAll('.card img')].every((one) => one.complete && one.naturalWidth === 28)"
    )
    assert shown.style(".card img", "image-rendering") == "pixelated" and "5" in cards[3].text
    assert cards[4].text.startswith("failed\nUserError: no such prompt.") and "…" in cards[4].text
    assert cards[5].text.startswith("missing")


def test_rows_alone_and_columns_alone_are_grids_too(shown):
    shown.choose("#columns", "none")
    assert [row.text.split("\n")[0] for row in shown.all("tbody tr")] == ["1", "3", "10"] and len(
        shown.numbers
    ) == 6
    shown.choose("#rows", "none")
    shown.choose("#columns", "i_start")
    assert [head.text for head in shown.all("thead th")] == ["1", "3", "10"] and sorted(shown.numbers) == [
        0,
        1,
        2,
        3,
        4,
        5,
    ]


def test_every_value_can_be_switched_off_and_on(shown):
    shown.click("input[name='axis.gamma'][value='7.5']")
    assert shown.numbers == [0, 2, 4] and shown.text("#shown") == "3 of 6 shown"
    shown.click("input[name='status'][value='\"failed\"']")
    assert shown.numbers == [0, 2] and [head.text for head in shown.all("tbody th")] == ["1", "3"]
    shown.click("[aria-label='none of i_start']")
    assert shown.numbers == [] and "no cell" in shown.text("#gallery")
    shown.click("[aria-label='all of i_start']")
    shown.click("input[name='axis.gamma'][value='7.5']")
    assert shown.numbers == [0, 1, 2, 3, 5]
    shown.click("#reset")
    assert len(shown.numbers) == 6 and shown.one("input[name='status'][value='\"failed\"']").is_selected()


def test_cells_are_ordered_by_an_axis_or_by_a_number_and_those_without_come_last(shown):
    shown.choose("#rows", "none")
    shown.choose("#columns", "none")
    shown.choose("#order", "seconds")
    assert shown.numbers == [3, 2, 1, 0, 4, 5] and "seconds 7" in shown.all(".card")[0].text
    shown.choose("#direction", "descending")
    assert shown.numbers == [0, 1, 2, 3, 4, 5]
    shown.choose("#order", "i_start")
    assert shown.numbers == [4, 5, 2, 3, 0, 1]
    shown.choose("#direction", "ascending")
    shown.choose("#order", "gamma")
    assert shown.numbers == [0, 2, 4, 1, 3, 5]


def test_a_view_can_be_reloaded(shown):
    shown.click("input[name='axis.i_start'][value='3']")
    shown.choose("#columns", "none")
    shown.choose("#rows", "none")
    shown.choose("#order", "judged/psnr")
    shown.choose("#direction", "descending")
    shown.until("location.hash.includes('direction=down')")
    shown.driver.refresh()
    assert shown.numbers == [1, 0, 4, 5]
    assert not shown.one("input[name='axis.i_start'][value='3']").is_selected()
    shown.click("#to-plots")
    shown.until("location.hash.includes('view=plots')")
    shown.driver.refresh()
    assert len(shown.all(".point")) == 2


def test_an_address_that_names_what_is_not_there_is_read_without_it(shown):
    shown.open("rows=axis.nothing&order=number.nothing&off.nothing=1&cell=none")
    assert len(shown.numbers) == 6 and shown.one("#rows").get_attribute("value") == "axis.i_start"


def test_a_card_is_enlarged_and_the_focus_comes_back(shown):
    shown.all(".card")[1].click()
    assert shown.text("#name") == "i_start 1, gamma 7.5" and shown.text("#position") == "2 of 6"
    shown.press("ARROW_RIGHT")
    assert shown.text("#position") == "3 of 6"
    shown.press("ARROW_LEFT", "ARROW_LEFT")
    assert shown.text("#position") == "1 of 6"
    shown.click("#previous")
    assert shown.text("#position") == "6 of 6"
    shown.click("#next")
    assert shown.text("#position") == "1 of 6"
    shown.press("ESCAPE")
    shown.closed_on("00000000")
    shown.press("ENTER")
    assert shown.text("#position") == "1 of 6"
    shown.click("#close")
    shown.closed_on("00000000")


def test_the_dialog_has_the_numbers_the_command_and_links_that_lead_somewhere(shown):
    shown.open("cell=00000003")
    assert shown.text("#numbers") == "Numbers\nseconds 7\njudged/psnr 3.1"
    assert shown.text("#cell-command code") == "python -m expkit number=3"
    links = {link.text: link.get_attribute("href") for link in shown.all("#links a")}
    assert links["folder"] == (shown.folder / "cells/00000003").as_uri() + "/"
    assert links["labelled sheet"] == (shown.folder / "cells/00000003/picture.png").as_uri()
    for unwanted in ("#compare", "#reading", "#viewing", "#way", "#error"):
        assert not shown.all(unwanted)


def test_one_of_several_pictures_is_chosen(shown):
    shown.open("cell=00000003")
    thumbs = shown.all("#pick button")
    assert len(thumbs) == 5 and shown.text("#caption") == "sample 0"
    thumbs[4].click()
    assert shown.text("#caption") == "sample 4" and thumbs[4].get_attribute("aria-current") == "true"
    assert shown.one("#large").get_attribute("src").endswith("pictures/004.png")


def test_a_failure_is_told_whole(shown):
    shown.open("cell=00000004")
    assert shown.text("#status") == "This cell failed." and "onerror='window.broken = 1'" in shown.text(
        "#error"
    )
    assert not shown.all("#stage") and shown.js("window.broken") is None
    shown.press("ARROW_RIGHT")
    assert shown.text("#status") == "This cell has not run." and not shown.all("#links a")


@pytest.mark.parametrize("clipboard", [True, False])
def test_a_command_is_copied(shown, clipboard):
    shown.js("void (navigator.clipboard.writeText = async (words) => void (window.copied = words))")
    if not clipboard:
        shown.js("void Object.defineProperty(navigator, 'clipboard', { value: undefined })")
    shown.js("void document.addEventListener('copy', () => (window.copied = document.activeElement.value))")
    shown.all(".card")[3].click()
    button = shown.one("#cell-command button")
    button.click()
    shown.until("document.querySelector('#cell-command button').textContent === 'copied'")
    assert shown.js("window.copied") == "python -m expkit number=3"
    assert shown.js("document.activeElement === arguments[0]", button) and not shown.all("textarea")


def test_before_and_after_by_keys(shown):
    shown.open("cell=00000000")
    assert (
        shown.text("#cut-said") == "result" and shown.style("#large", "clip-path") == "inset(0px 0px 0px 0%)"
    )
    shown.one("#cut").send_keys(*["\ue014"] * 3)
    assert shown.text("#cut-said") == "3 %" and shown.style("#large", "clip-path") == "inset(0px 0px 0px 3%)"
    assert shown.text("#position") == "1 of 6"
    shown.one("#cut").send_keys("\ue010")
    assert shown.text("#cut-said") == "original" and shown.one("#before").get_attribute("src").endswith(
        "original/000.png"
    )


def test_the_way_from_noise_by_keys_and_played(shown):
    shown.open("cell=00000000")
    assert shown.text("#time-said") == "t = 0" and [tile.text for tile in shown.all("#tiles figcaption")] == [
        "state",
        "estimate",
    ]
    shown.one("#time").send_keys("\ue012", "\ue012")
    assert shown.text("#time-said") == "t = 690"
    places = [shown.style(f"#tiles figure:nth-child({k}) div", "background-position") for k in (1, 2)]
    assert [[round(float(n)) for n in re.findall(r"[\d.]+", place)] for place in places] == [
        [33, 0],
        [33, 100],
    ]
    assert (
        shown.style("#tiles div", "background-size") == "400% 200%"
        and shown.style("#tiles div", "width") == "140px"
    )
    shown.click("#play")
    assert shown.text("#play") == "Stop"
    shown.until("document.getElementById('time-said').textContent === 't = 0'")
    shown.until("document.getElementById('play').textContent === 'Play'")


def test_a_reading_turns_the_picture_or_swaps_it_and_back(shown):
    shown.open("cell=00000001")
    turned, negated = shown.all("#views button")
    turned.click()
    assert shown.text("#said") == "turned: 9" and turned.get_attribute("aria-pressed") == "true"
    shown.until("getComputedStyle(document.getElementById('turn')).rotate === '180deg'")
    negated.click()
    assert shown.text("#said") == "negated: 6" and turned.get_attribute("aria-pressed") == "false"
    shown.until(
        "document.getElementById('large').complete && document.getElementById('large').src.includes('negated')"
    )
    shown.until("getComputedStyle(document.getElementById('turn')).rotate === '0deg'")
    negated.click()
    assert not shown.all("#said") and shown.one("#large").get_attribute("src").endswith("pictures/000.png")


def test_a_hybrid_is_looked_at_from_afar(shown):
    shown.open("cell=00000002")
    assert shown.text("#away-said") == "close by"
    shown.one("#away").send_keys(*["\ue014"] * 30)
    assert shown.text("#away-said") == "4.0 × as far"
    assert float(shown.style("#far", "scale")) == 0.25 and shown.style("#far", "filter").startswith("blur(")
    shown.press("ARROW_RIGHT")
    assert shown.text("#away-said") == "4.1 × as far" and shown.text("#position") == "3 of 6"


def test_numbers_are_plotted_and_points_open_their_cells(shown):
    shown.click("#to-plots")
    assert not shown.all("#gallery") and len(shown.all(".point")) == 4
    assert shown.text("#left-out") == "4 of 6 cells are drawn; left out: 1 failed, 1 missing."
    assert [line.text for line in shown.all("#legend li")] == ["gamma 1", "gamma 7.5"]
    titles = shown.js("[...document.querySelectorAll('.point title')].map((one) => one.textContent)")
    assert sorted(titles)[0] == "i_start 1, gamma 1: seconds 10"
    shown.choose("#number", "judged/psnr")
    shown.choose("#axis", "gamma")
    shown.choose("#lines", "i_start")
    assert [line.text for line in shown.all("#legend li")] == ["i_start 1", "i_start 3"]
    heights = {
        point.get_attribute("data-id"): float(point.get_attribute("cy")) for point in shown.all(".point")
    }
    assert sorted(heights, key=heights.get, reverse=True) == ["00000000", "00000001", "00000002", "00000003"]
    steps = [heights[f"{n:08x}"] - heights[f"{n + 1:08x}"] for n in range(3)]
    assert max(steps) - min(steps) < 1e-6
    shown.click("[aria-label^='i_start 3, gamma 7.5']")
    assert shown.text("#name") == "i_start 3, gamma 7.5"
    shown.press("ESCAPE")
    shown.closed_on("00000003")
    shown.press("ARROW_LEFT", "ENTER")
    assert shown.text("#name") == "i_start 3, gamma 1"


def test_numeric_axes_are_number_lines_and_others_categories(driver, tmp_path):
    values = {"sigma": [1, 2, 4], "prompt": ["a lithograph of waterfalls", None, "7"]}
    cells = [cell(tmp_path, n, {key: those[n] for key, those in values.items()}) for n in range(3)]
    axes = [{"key": key, "values": those} for key, those in values.items()]
    told = {"title": "", "note": "", "axes": axes, "numbers": ["seconds"], "command": "", "cells": cells}
    (tmp_path / "index.html").write_text(write_page(told), encoding="utf-8")
    shown = Page(driver, tmp_path).open("view=plots&lines=")
    across = "[...document.querySelectorAll('.point')].map((one) => +one.getAttribute('cx'))"
    first, second, third = shown.js(across)
    assert third - second == pytest.approx(2 * (second - first))
    shown.choose("#axis", "prompt")
    first, second, third = shown.js(across)
    assert third - second == pytest.approx(second - first)
    assert {"null", '"7"'} < {words.text for words in shown.all("#plot text")}


def test_arrows_move_between_cards(shown):
    shown.js("document.querySelector('.card').focus()")
    for key, number in (
        ("ARROW_RIGHT", 1),
        ("ARROW_DOWN", 3),
        ("ARROW_LEFT", 2),
        ("ARROW_UP", 0),
        ("ARROW_UP", 0),
    ):
        shown.press(key)
        assert shown.focused == f"{number:08x}"


def test_all_is_reached_by_tab_with_a_focus_that_is_seen(shown):
    reached, outlined = [], []
    for _ in range(40):
        shown.press("TAB")
        reached.append(shown.focused)
        outlined.append(shown.js("getComputedStyle(document.activeElement).outlineStyle === 'solid'"))
    assert {
        "to-pictures",
        "to-plots",
        "order",
        "rows",
        "columns",
        "size",
        *[f"{n:08x}" for n in range(6)],
    } <= set(reached)
    assert all(seen for name, seen in zip(reached, outlined, strict=True) if name)


def test_nothing_sticks_out_on_a_phone(shown):
    phone = {"width": 375, "height": 700, "deviceScaleFactor": 2, "mobile": True}
    shown.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    try:
        for address in (
            "",
            "rows=&columns=",
            "view=plots",
            "cell=00000000",
            "cell=00000003",
            "cell=00000004",
        ):
            shown.open(address)
            assert shown.js("[innerWidth, document.documentElement.scrollWidth]") == [375, 375], address
            assert shown.js("document.querySelector('dialog').scrollWidth <= 375"), address
    finally:
        shown.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@pytest.mark.parametrize("feature, css, name, value", [
    ({"name": "prefers-color-scheme", "value": "dark"}, "body", "background-color", "rgb(22, 24, 28)"),
    ({"name": "prefers-color-scheme", "value": "light"}, "body", "background-color", "rgb(255, 255, 255)"),
    ({"name": "prefers-reduced-motion", "value": "reduce"}, "#turn", "transition-property", "none"),
])  # fmt: skip
def test_what_a_person_prefers_is_heeded(shown, feature, css, name, value):
    shown.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    try:
        assert shown.style(css, name) == value
    finally:
        shown.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_one_cell_and_no_cell_are_pages_too(driver, tmp_path):
    told = {
        "title": "one",
        "note": "",
        "axes": [],
        "numbers": [],
        "command": "",
        "cells": [cell(tmp_path, 0, {})],
    }
    for cells in (told["cells"], []):
        (tmp_path / "index.html").write_text(write_page(told | {"cells": cells}), encoding="utf-8")
        shown = Page(driver, tmp_path).open()
        assert len(shown.numbers) == len(cells)
        shown.click("#to-plots")
        assert "nothing" in shown.text("#left-out").lower()
    assert [line for line in driver.get_log("browser") if line["level"] == "SEVERE"] == []


@pytest.mark.parametrize("address", ["", pytest.param("#rows=&columns=", marks=pytest.mark.slow)])
def test_a_thousand_cells_open_and_are_filtered_while_one_waits(address, driver, tmp_path):
    before, (opened, filtered) = slowness(driver), timed(driver, thousand(tmp_path).as_uri() + address)
    assert len(driver.find_elements("css selector", ".card")) == 1000
    slow = max(before, slowness(driver))
    assert opened < 4000 * slow and filtered < 200 * slow
