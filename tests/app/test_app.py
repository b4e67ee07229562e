"""`expkit app`: its words, what is drawn as files, and in a browser by pointer and keys, its pictures beside the command's; and the
dashboard, which is served likewise."""

import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from urllib.error import HTTPError
from urllib.request import urlopen

import numpy as np
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from PIL import Image

from expkit.app import dashboard, overrides, serve, uploads, web_server
from expkit.app.serve import PageSettings
from expkit.errors import UserError
from expkit.images import sources
from expkit.runs.job import ComposedConfig
from tests.browser import chromium

STROKES = [(-0.22, -0.3), (0.2, -0.3), (-0.02, -0.02), (0.2, 0.14), (0, 0.3), (-0.22, 0.24)]  # a 3


def test_words_of_its_own_and_of_its_runs():
    asked = PageSettings.of(["port=0", "model=digits", "open=true", "gamma=4", "sampler.rule.variance=large"])
    given = ("model=digits", "gamma=4", "sampler.rule.variance=large")
    assert asked == PageSettings("127.0.0.1", 0, True, given)
    assert PageSettings.of([]).host == "127.0.0.1"


@pytest.mark.parametrize(
    "argument, said",
    [
        ("hots=0.0.0.0", "mean host"), ("gama=4", "mean gamma"), ("+gama=4", "mean gamma"), ("-m", "KEY=VALUE"), ("port=7e4", "port=7e4"),
        ("port=70000", "65535"), ("open=yes", "true"), ("host=", "127.0.0.1"), ("task=hybrid", "tab"), ("share=true", "never"),
    ],
)  # fmt: skip
def test_other_words_are_refused_in_a_sentence(argument, said):
    with pytest.raises(UserError, match=said):
        PageSettings.of([argument])


def test_a_key_that_no_run_has_is_refused_before_anything_is_shown(expkit):
    ran = expkit("app", "sampler.rule.varianc=large")
    assert ran.code == 2 and "sampler.rule.variance" in ran.err and "Traceback" not in ran.err


def test_a_taken_port_makes_way_for_the_next_that_is_free(stderr):
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        found = web_server.free_port("127.0.0.1", taken)
        assert found != taken and (found > taken or taken > 65535 - web_server.TRIED)
    assert f"port {taken} is taken: port {found} is used" in stderr()
    assert web_server.free_port("localhost", 0) and not stderr()


@pytest.mark.parametrize(
    ("host", "port"), [("203.0.113.1", 0), ("203.0.113.1", 7860), ("no-such.invalid", 0), ("a" * 70, 0)]
)
def test_what_is_no_address_of_this_machine_is_refused(host, port):
    with pytest.raises(UserError, match=r"no address of this machine|cannot be used"):
        web_server.free_port(host, port)


@pytest.mark.parametrize(
    ("host", "warned"), [("127.0.0.1", False), ("localhost", False), ("127.0.0.2", False), ("0.0.0.0", True)]
)
def test_who_shows_it_to_others_is_told_so(host, warned, stderr):
    web_server.warn_of_others(host, "outputs")
    assert ("whoever can reach this machine" in stderr()) == warned


def test_without_gradio_it_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.delitem(sys.modules, "expkit.app.gradio_page", raising=False)
    monkeypatch.delattr("expkit.app.gradio_page", raising=False)
    monkeypatch.setattr(os, "environ", os.environ.copy())
    with pytest.raises(UserError, match=r"pip install 'expkit\[app\]'"):
        serve.serve_page(["port=0"])


TEXTS = (
    "3",
    "three",
    "a photo of a dog",
    "",
    "a cat, sitting",
    'a "hat"',
    "it's",
    "null",
    "True",
    "1e5",
    "[1]",
    '\\"\\',
    "ñ = ü",
    " two ",
)


@pytest.mark.parametrize("text", TEXTS)
def test_a_prompt_stays_what_was_typed(text):
    *_, shell = shlex.split(overrides.format_command(overrides.task_overrides("sample", prompt=text)))
    assert str(OverridesParser.create().parse_override(shell).value()) == text


def test_numbers_and_lists_of_them():
    assert [overrides.format_hydra_value("gamma", value) for value in (7, 7.0, 7.5, [1, 3])] == [
        "7",
        "7",
        "7.5",
        "[1,3]",
    ]
    with pytest.raises(UserError, match="seed is empty"):
        overrides.task_overrides("sample", seed=None)
    with pytest.raises(UserError, match="cannot hold"):
        overrides.task_overrides("sample", prompt="${oc.env:HOME}")


def test_of_a_key_that_is_given_and_wished_the_wish_is_told():
    assert overrides.merge_overrides(["model=digits", "gamma=4"], ["task=hybrid", "gamma=7"]) == [
        "model=digits",
        "task=hybrid",
        "gamma=7",
    ]


def test_the_command_of_a_run_has_nothing_of_hydra_s_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(overrides, "run_job", lambda job, folder: SimpleNamespace(folder=job.arguments))
    added = "+hydra.job.env_set.A=1"
    arguments = overrides.run_folder_for(["model=digits", added, "hydra.run.dir=run"])
    assert arguments.count(added) == 1 and arguments[-1] == "model=digits"


def editor(background: Image.Image, stroke: tuple | None = None, strength: int = 178) -> dict:
    """What the editor on the page gives: a rectangle painted in white."""
    layer = Image.new("RGBA", background.size)
    if stroke:
        layer.paste((255, 255, 255, strength), stroke)
    ground = background.convert("RGBA")
    return {"background": ground, "layers": [layer], "composite": Image.alpha_composite(ground, layer)}


def test_a_sketch_is_named_by_what_it_shows(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blank = uploads.blank_sheet("black")
    first, again, other = (uploads.save_sketch(editor(blank, (9, 9, 40, end), 255)) for end in (99, 99, 98))
    assert first == again != other and len(list(Path("outputs/app").iterdir())) == 2
    image = Image.open(first)
    assert image.mode == "L" and image.getpixel((9, 9)) == 255 and image.getpixel((8, 9)) == 0
    with pytest.raises(UserError, match="Nothing is drawn"):
        uploads.save_sketch(editor(blank))
    with pytest.raises(UserError, match="Nothing is drawn"):
        uploads.save_sketch(None)


def test_a_sketch_in_colours_keeps_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    red = Image.new("RGB", (8, 8), "white")
    red.paste("red", (0, 0, 4, 4))
    assert Image.open(uploads.save_sketch(editor(red))).mode == "RGB"


def test_a_mask_is_white_where_paint_lies_at_the_size_of_the_picture(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.new("L", (28, 20), 9).save("small.png")
    painted = editor(uploads.load_canvas("small.png"), (16, 32, 64, 48))
    assert painted["background"].size == (448, 320)
    found = np.asarray(Image.open(uploads.save_mask(painted, (28, 20))))
    wanted = np.zeros((20, 28), np.uint8)
    wanted[2:3, 1:4] = 255
    assert (found == wanted).all()


@pytest.mark.parametrize(
    "stroke, strength, said",
    [(None, 255, "is painted"), ((0, 0, 9, 9), 20, "is painted"), ((0, 0, 448, 448), 255, "would stay")],
)
def test_a_mask_of_nothing_or_of_all_is_refused(stroke, strength, said):
    with pytest.raises(UserError, match=said):
        uploads.save_mask(editor(uploads.load_canvas("hook"), stroke, strength), (448, 448))


def test_an_uploaded_picture_is_kept_as_it_is_but_no_larger_than_need_be(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (28, 28, 3), np.uint8))
    noise.save("digit.png")
    Image.new("RGB", (3000, 1500)).save("photo.jpg")
    assert (np.asarray(sources.open_rgb(uploads.copy_upload("digit.png"))) == np.asarray(noise)).all()
    assert sources.image_size(uploads.copy_upload("photo.jpg")) == (1024, 512)
    Path("words.png").write_text("no picture")
    with pytest.raises(UserError, match=r"words\.png cannot be read"):
        uploads.copy_upload("words.png")


def test_the_sheet_is_of_the_colour_of_the_model_s_own_sketch():
    assert [uploads.paper_of({"model": {"examples": {"sketch": name}}}) for name in ("smiley", "tower")] == [
        "black",
        "white",
    ]


def started(told: list[str], **how) -> subprocess.Popen:
    """A process that hears Ctrl-C, as none does that a shell has started with &; what it prints can be read."""
    return subprocess.Popen(
        told,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        **how,
    )


# The dashboard


@contextmanager
def served(folder: Path, *arguments: str):
    """The dashboard of a folder: its process, and the addresses that it says; it ends by Ctrl-C, and is content."""
    told = [sys.executable, "-m", "expkit", "dashboard", "open=false", "tensorboard=0", *arguments]
    with (folder / "said").open("w") as said, started(told, cwd=folder, stderr=said) as process:
        try:
            yield [process.stdout.readline().split()[0] for _ in range(2)]
        finally:
            process.send_signal(signal.SIGINT)
            code = process.wait(30)
    assert code == 0, (folder / "said").read_text()


def test_the_dashboard_shows_the_newest_page_and_nothing_from_outside(tmp_path):
    for number, name in enumerate(("old", "new")):
        page = tmp_path / "outputs" / "sweeps" / name / "index.html"
        page.parent.mkdir(parents=True)
        page.write_text(name)
        os.utime(page, (number, number))
    (tmp_path / "outputs" / "link").symlink_to(tmp_path / "said")
    with (
        socket.create_server(("127.0.0.1", 0)) as other,
        served(tmp_path, f"port={other.getsockname()[1]}") as (address, board),
    ):
        assert address.endswith("/sweeps/new/index.html") and urlopen(address).read() == b"new"
        root = address.removesuffix("sweeps/new/index.html")
        assert (
            b"sweeps" in urlopen(root).read()
            and board.startswith("http://127.0.0.1:")
            and not board.endswith(":0/")
        )
        for outside in ("link", "../said", "%2e%2e/said"):
            with pytest.raises(HTTPError, match="404"):
                urlopen(root + outside)
    assert "is taken: port" in (tmp_path / "said").read_text()


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("prot=80", "Did you mean port"), ("gamma=3", "It takes outputs=, tensorboard=, host=, port=, open=."), ("port", "It takes"),
        ("tensorboard=66000", "tensorboard=66000 does not fit"), ("open=1", "open=1 does not fit"), ("host=", "host= is empty"),
        ("share=true", "never"), ("outputs=nothing", "There is no folder nothing"),
    ],
)  # fmt: skip
def test_words_that_the_dashboard_does_not_know_are_refused(argument, said):
    with pytest.raises(UserError, match=said):
        dashboard.serve_dashboard([argument])


# In a browser


class Page:
    """The page in the browser, and the folder that it runs in."""

    def __init__(self, driver, address: str, folder: Path) -> None:
        self.driver, self.address, self.folder = driver, address, folder

    def tab(self, name: str) -> "Page":
        self.driver.get(self.address)
        self.name = name.lower()
        self.wait(lambda: [tab for tab in self.all("button[role=tab]") if tab.text == name])[0].click()
        self.wait(lambda: self.all(f"#{self.name}-run"))
        return self

    def all(self, css: str) -> list:
        return [found for found in self.driver.find_elements("css selector", css) if found.is_displayed()]

    def wait(self, what, seconds: float = 90):
        from selenium.common.exceptions import StaleElementReferenceException

        end = time.monotonic() + seconds
        while time.monotonic() < end:
            try:
                if found := what():
                    return found
            except StaleElementReferenceException:
                pass
            time.sleep(0.1)
        raise AssertionError(
            f"not in {seconds} s: {what}\n" + self.driver.find_element("css selector", "body").text
        )

    def draw(self, strokes=STROKES) -> "Page":
        """By the pointer, from point to point; a point is a part of the sheet's side from its middle."""
        from selenium.webdriver.common.action_chains import ActionChains

        (canvas,) = self.wait(lambda: self.all(f"#{self.name}-editor .pixi-target canvas"))
        self.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", canvas)
        time.sleep(2)  # the editor builds its sheet
        side, hand = canvas.rect["width"] * 0.8, ActionChains(self.driver)
        points = [(int(x * side), int(y * side)) for x, y in strokes]
        hand.move_to_element_with_offset(canvas, *points[0]).click_and_hold()
        for point in points[1:]:
            hand.move_to_element_with_offset(canvas, *point).pause(0.05)
        hand.release().perform()
        time.sleep(1)
        return self

    def type(self, field: str, words: str) -> "Page":
        from selenium.webdriver.common.keys import Keys

        (line,) = self.all(f"#{field} textarea, #{field} input")
        line.send_keys(Keys.CONTROL, "a")
        line.send_keys(words)
        return self

    def press(self) -> "Page":
        (button,) = self.all(f"#{self.name}-run")
        self.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", button)
        button.click()
        return self

    def said(self) -> str:
        return self.wait(lambda: self.all(f"#{self.name}-said"))[0].text

    def picture(self):
        return self.wait(
            lambda: [
                image for image in self.all(f"#{self.name}-picture img") if image.get_property("naturalWidth")
            ]
        )[0]

    def ran(self) -> Path:
        """The folder of the run whose picture is shown."""
        self.picture()
        field = self.wait(lambda: self.all(f"#{self.name}-folder textarea, #{self.name}-folder input"))[0]
        return self.folder / self.wait(lambda: field.get_property("value"))

    def command(self) -> str:
        lines = self.wait(lambda: self.all(f"#{self.name}-command .cm-line"))
        return "".join(line.text for line in lines)


@pytest.mark.parametrize(
    ("given", "blur"), [((), 2.5), (("model=digits",), 1.7), (("sigma=3",), 3.0), (("sigma=0",), 0)]
)
def test_a_page_begins_from_the_blur_of_its_model(given, blur):
    if not os.environ.get("CI"):
        pytest.importorskip("gradio", reason="the page needs gradio: pip install 'expkit[app]'")
    from expkit.app import gradio_page

    page = gradio_page.build_page(ComposedConfig(overrides.compose_config(given)).resolve({}), given)
    assert [
        block.value for block in page.blocks.values() if "Blur sigma" in str(getattr(block, "label", ""))
    ] == [blur]


@pytest.mark.parametrize(("given", "starts"), [("i_start=null", []), ("i_start=[null,4]", [4])])
def test_a_page_has_no_start_for_null(given, starts):
    if not os.environ.get("CI"):
        pytest.importorskip("gradio", reason="the page needs gradio: pip install 'expkit[app]'")
    from expkit.app import gradio_page

    page = gradio_page.build_page(ComposedConfig(overrides.compose_config([given])).resolve({}), [given])
    assert [block.value for block in page.blocks.values() if type(block).__name__ == "CheckboxGroup"] == [
        starts
    ]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The page of the digits model, in an empty folder; it ends by Ctrl-C, and is content."""
    if not os.environ.get("CI"):
        pytest.importorskip("gradio", reason="the page needs gradio: pip install 'expkit[app]'")
    folder = tmp_path_factory.mktemp("app")
    said, told = (
        (folder / "said").open("w"),
        [sys.executable, "-m", "expkit", "app", "port=0", "logger=none", "model=digits"],
    )
    with (
        said,
        started(told, cwd=folder, env=environment(folder), stderr=said) as served,
        chromium() as driver,
    ):
        address = served.stdout.readline().strip()
        assert address.startswith("http://127.0.0.1:"), (folder / "said").read_text()
        try:
            yield Page(driver, address, folder)
        finally:
            served.send_signal(signal.SIGINT)
            code = served.wait(30)
    assert code == 0, (folder / "said").read_text()


def environment(folder: Path) -> dict[str, str]:
    return os.environ | {
        "EXPKIT_CACHE": str(folder / "cache"),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }


def same_in_a_shell(page: Page) -> list[Path]:
    """The command that the page shows, run in a shell: every bare picture is equal; the pictures."""
    ran, typed = page.ran(), page.command()
    out = subprocess.run(
        typed, shell=True, cwd=page.folder, env=environment(page.folder), capture_output=True, text=True
    )
    assert out.returncode == 0, out.stderr
    found, wanted = (
        sorted((page.folder / folder / "pictures").iterdir()) for folder in (out.stdout.split()[-1], ran)
    )
    assert ran.name not in out.stdout and [p.name for p in found] == [p.name for p in wanted]
    assert all(
        np.array_equal(np.asarray(Image.open(a)), np.asarray(Image.open(b)))
        for a, b in zip(found, wanted, strict=True)
    ), typed
    return wanted


slow = pytest.mark.slow
long = pytest.mark.timeout(300)


@slow
@long
def test_a_sketch_by_the_pointer(page):
    page.tab("Sketch").draw().press()
    assert len(same_in_a_shell(page)) == 6
    (file,) = (page.folder / "outputs/app").glob("sketch-*.png")
    assert (
        0.05 < np.asarray(Image.open(file)).mean() / 255 < 0.5
        and f"image=outputs/app/{file.name}" in page.command()
    )


@slow
@long
def test_a_mask_by_the_pointer(page):
    page.tab("Inpaint").type("inpaint-prompt", "a handwritten 8").draw().press()
    assert "image=hook" in (typed := page.command()) and "prompt=a handwritten 8" in typed
    picture = np.asarray(Image.open(same_in_a_shell(page)[0]))
    (painted,) = (page.folder / "outputs/app").glob("mask-*.png")
    kept = (
        np.asarray(Image.open(painted).resize((28, 28), Image.Resampling.BOX)) == 0
    )  # where paint ends it is soft
    assert 0.05 < 1 - kept.mean() < 0.6
    assert (picture[kept] == np.asarray(Image.open(page.ran() / "original/000.png"))[kept]).all()


@slow
@long
def test_an_uploaded_picture_is_painted_on(page):
    page.tab("Inpaint")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (28, 28), np.uint8)).save(
        page.folder / "mine.png"
    )
    fields = page.driver.find_elements("css selector", "#inpaint-tab input[type=file]")
    (upload,) = [
        field for field in fields if not field.find_elements("xpath", "ancestor::*[@id='inpaint-editor']")
    ]
    upload.send_keys(str(page.folder / "mine.png"))
    page.wait(lambda: list((page.folder / "outputs/app").glob("picture-*.png")))
    page.draw().press()
    page.picture()
    assert "image=outputs/app/picture-" in page.command()
    same_in_a_shell(page)


@slow
@long
def test_two_prompts_and_a_second_run_waits_its_turn(page):
    page.tab("Hybrid").type("hybrid-far", "6").type("hybrid-near", "two").press().press()
    bar = "return [...document.querySelectorAll('.progress-level-inner')].map(e => e.textContent).find(t => /hybrid - [1-9]/.test(t))"
    page.wait(lambda: page.driver.execute_script(bar))
    page.wait(lambda: len(list((page.folder / "outputs/hybrid").glob("*/numbers.json"))) == 2)
    assert len(same_in_a_shell(page)) == 4 and "far=6 near=two" in page.command()


@slow
@long
def test_what_cannot_be_done_is_said_in_a_sentence(page):
    before = set((page.folder / "outputs").glob("*/*"))
    assert (
        page.tab("Hybrid")
        .type("hybrid-far", "<b>cat")
        .press()
        .said()
        .startswith("The digits model does not know the prompt '<b>cat'.")
    )
    assert page.tab("Sketch").press().said().startswith("Nothing is drawn yet")
    assert page.tab("Inpaint").press().said().startswith("Nothing is painted yet")
    assert not page.all(".toast-body") and set((page.folder / "outputs").glob("*/*")) == before


@slow
@long
def test_what_is_cleared_is_a_blank_sheet_again(page):
    page.tab("Sketch").draw().all("#sketch-editor button[title='Clear canvas']")[0].click()
    time.sleep(2)
    assert page.press().said().startswith("Nothing is drawn yet")
    page.draw().press()
    assert 0.05 < np.asarray(Image.open(page.ran() / "original/000.png")).mean() / 255 < 0.5


@slow
@long
def test_it_asks_no_other_machine_and_fits_a_phone(page):
    page.tab("Inpaint").driver.set_window_size(500, 844)
    page.driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True},
    )
    try:
        for name in ("Sketch", "Inpaint", "Hybrid"):
            page.tab(name)
            assert page.driver.execute_script("return document.documentElement.scrollWidth") == 390
        asked = page.driver.execute_script(
            "return performance.getEntriesByType('resource').map(entry => entry.name)"
        )
        assert asked and all(name.startswith((page.address, "data:", "blob:")) for name in asked)
    finally:
        page.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        page.driver.set_window_size(1280, 900)
