"""The page of python -m expkit app: draw, paint, type, and see what the model makes of it, each with the command that makes the same.

    python -m expkit app [port=7860] [host=127.0.0.1] [open=true] [KEY=VALUE …]      KEY=VALUE stands in front of every run's arguments

A run here is a run of the command: the same folder, recipe and pixels. One goes at a time, in this process, with one resident model. What
is drawn and painted lies in outputs/app/, named by what it shows, so that the command finds it. This file alone knows gradio.
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import shutil
import socket
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from html import escape
from pathlib import Path

import numpy as np
from PIL import Image, ImageChops

from expkit import command, sources
from expkit.errors import Refusal, nearest, warn
from expkit.files import in_one_move
from expkit.job import Composed, Job, run

DRAWN = Path("outputs/app")
SIDE = 448  # pixels of what is drawn on: 16 times a digit's
MOST = 1024  # pixels of the longer side of an uploaded picture
THERE = 64  # of 255: paint thinner than this is no paint
BLANK = "a blank sheet"
PORT = 7860
HERE = ("127.0.0.1", "localhost")
CHOICES = (1, 3, 5, 7, 10, 15, 20, 25)


def serve(arguments: Sequence[str]) -> int:
    """Show the page until it is interrupted; the exit code."""
    asked = Asked.of(arguments)
    known = Composed(composed(asked.given)).known({})
    port = free(asked.host, asked.port)
    with tempfile.TemporaryDirectory(prefix="expkit-app-") as kept:
        os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_TEMP_DIR": kept}  # both are read when gradio is imported
        page = built(known, asked.given)
        shown(page, asked, port)
    return 0


@dataclass(frozen=True)
class Asked:
    """What the page was asked for with; given: the arguments of every run on it."""

    host: str = HERE[0]
    port: int = PORT
    open: bool = False
    given: tuple[str, ...] = ()

    @classmethod
    def of(cls, arguments: Sequence[str]) -> Asked:
        own, given = {}, []
        for argument in arguments:
            key, equals, value = argument.partition("=")
            check(argument, key, equals)
            if key in READ:
                own[key] = READ[key](value)
            else:
                given.append(argument)
        command.check_additions(given)
        return cls(**own, given=tuple(given))


def host(value: str) -> str:
    if not value:
        raise Refusal(f"host= is empty: give an address of this machine, such as host={HERE[0]}, which nobody else can reach.")
    return value


def port(value: str) -> int:
    if not re.fullmatch(r"\d{1,5}", value) or int(value) > 65535:
        raise Refusal(f"port={value} does not fit: a port is a whole number up to 65535, or 0 for any that is free.")
    return int(value)


def yes(value: str) -> bool:
    if value not in ("true", "false"):
        raise Refusal(f"open={value} does not fit: open is true, which opens a browser, or false.")
    return value == "true"


READ: Mapping[str, Callable] = {"host": host, "port": port, "open": yes}


def check(argument: str, key: str, equals: str) -> None:
    """Refuse what is no word of the page's and no key of a run's."""
    if key == "share":
        raise Refusal("share: the page is never put on the internet. host=0.0.0.0 shows it to the machines of your own network.")
    if key == "task":
        raise Refusal(f"{argument}: the page has its own tasks, one a tab. Leave it out.")
    inner = re.search(r"[.@+~]", key)
    if not equals or not (inner or key in (*READ, *command.keys(), *command.GROUPS)):
        known = (*READ, *command.keys(), *command.GROUPS)
        raise Refusal(f"app does not know {argument!r}.{nearest(key, known)} It takes port=, host=, open=true and KEY=VALUE for its runs.")


def free(host: str, wanted: int) -> int:
    """The wanted port, or where it is taken, one that is free."""
    try:
        with socket.create_server((host, wanted)) as found:
            return found.getsockname()[1]
    except (socket.gaierror, OverflowError):
        raise Refusal(f"host={host} is no address of this machine: leave it out, or give 127.0.0.1 or 0.0.0.0.") from None
    except OSError as error:
        if not wanted:
            raise Refusal(f"host={host} cannot be used ({error.strerror}): leave it out, or give 127.0.0.1 or 0.0.0.0.") from None
    found = free(host, 0)
    warn(f"port {wanted} is taken: port {found} is used.")
    return found


def shown(page, asked: Asked, port: int) -> None:
    if asked.host not in HERE:
        warn(f"host={asked.host}: whoever can reach this machine can use the page, and see what lies in outputs/.")
    page.launch(
        server_name=asked.host, server_port=port, inbrowser=asked.open, share=False, quiet=True, prevent_thread_lock=True,
        allowed_paths=[str(Path("outputs").resolve())], theme=theme(), css_paths=Path(__file__).with_name("app.css"),
        footer_links=[], run_history=False, enable_monitoring=False, ssr_mode=False, mcp_server=False, pwa=False, max_file_size="50mb",
    )  # fmt: skip
    print(f"http://{asked.host}:{port}", flush=True)
    page.block_thread()


def gradio():
    try:
        import gradio
    except ImportError:
        raise Refusal("The page needs gradio, which is not installed: pip install 'expkit[app]'") from None
    return gradio


def theme():
    """Gradio's own, with the fonts of the machine that looks at it: none are fetched."""
    return gradio().themes.Default(font=("system-ui", "sans-serif"), font_mono=("ui-monospace", "monospace"))


# Runs


def composed(arguments: Sequence[str]):
    """The configuration of these arguments, with Hydra's own node, which ${hydra:…} speaks of from now on."""
    from hydra import compose, initialize_config_dir
    from hydra.core.hydra_config import HydraConfig

    with initialize_config_dir(config_dir=str(command.configuration()), version_base="1.3"):
        config = compose("config", [*arguments], return_hydra_config=True)
    HydraConfig.instance().set_config(config)
    return config


def made(arguments: Sequence[str]) -> Path:
    """The folder of a run with these arguments, as the command would have made it."""
    config = composed(arguments)
    folder = Path(config.hydra.run.dir)
    try:
        return run(Job(Composed(config), [a for a in arguments if not a.startswith("hydra")]), folder).folder
    except BaseException:
        if folder.is_dir() and {path.name for path in folder.iterdir()} <= {"recipe.yaml"}:
            shutil.rmtree(folder)
        raise


def joined(given: Sequence[str], wished: Sequence[str]) -> list[str]:
    """What is given and then what is wished; of a key in both, the wish alone."""
    keys = {argument.partition("=")[0] for argument in wished}
    return [*(argument for argument in given if argument.partition("=")[0] not in keys), *wished]


def typed(arguments: Sequence[str]) -> str:
    """The command of these arguments, as a shell takes it."""
    return " ".join(["python -m expkit", *map(shlex.quote, arguments)])


def told(key: str, value) -> str:
    """KEY=VALUE as Hydra's grammar takes it; a text stays a text whatever is in it."""
    if isinstance(value, str):
        return f"{key}={text(value, key)}"
    if isinstance(value, list):
        return f"{key}=[{','.join(map(number, value))}]"
    if value is None:
        raise Refusal(f"{key} is empty: give it a number.")
    return f"{key}={number(value)}"


def number(value: float) -> str:
    return str(int(value)) if value == int(value) else str(value)


def text(value: str, key: str) -> str:
    if "${" in value:
        raise Refusal(f"{key}: a prompt cannot hold ${{, which stands for other keys. Leave it out.")
    plain = re.fullmatch(r"\d+|[A-Za-z][\w./-]*( \w+)*", value, re.ASCII) and value.lower() not in ("null", "true", "false", "inf", "nan")
    return value if plain else '"{}"'.format(re.sub(r'(\\*)("|\Z)', lambda m: m[1] * 2 + ("\\" + m[2] if m[2] else ""), value))


# What is drawn becomes files


def saved(image: Image.Image, kind: str) -> str:
    """The path of a picture in outputs/app/, named by what it shows."""
    shape = f"{image.mode} {image.size} ".encode()
    path = DRAWN / f"{kind}-{hashlib.blake2b(shape + image.tobytes(), digest_size=6).hexdigest()}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        in_one_move(path, lambda part: image.save(part, format="PNG"))
    return path.as_posix()


def paint(drawn: Mapping) -> Image.Image:
    """How thick the strokes of all layers lie, 0 to 255."""
    layers = [np.asarray(layer.convert("RGBA").getchannel("A")) for layer in drawn["layers"]]
    return Image.fromarray(np.max(layers, axis=0)) if layers else Image.new("L", drawn["background"].size)


def sketch(drawn: Mapping | None) -> str:
    """The path of what is drawn; a blank sheet is refused."""
    image = drawn["composite"].convert("RGB") if drawn and drawn["composite"] else None
    if image is None or len(image.getcolors(2) or "many") == 1:
        raise Refusal("Nothing is drawn yet: draw on the sheet, or begin with a picture, and run again.")
    return saved(image.convert("L") if grey(image) else image, "sketch")


def grey(image: Image.Image) -> bool:
    """Whether an RGB picture has no colours."""
    red, green, blue = image.split()
    return not any(ImageChops.difference(red, other).getbbox() for other in (green, blue))


def mask(drawn: Mapping | None, size: tuple[int, int]) -> str:
    """The path of a mask of this size, white where paint lies; refused where there is none, or nothing else."""
    layer = paint(drawn) if drawn and drawn["background"] else Image.new("L", size)
    white = layer.point(lambda level: 255 * (level >= THERE)).resize(size, Image.Resampling.BOX).point(lambda level: 255 * (level >= 128))
    if white.getextrema()[1] == 0:
        raise Refusal("Nothing is painted yet: paint over the part of the picture that is to be repainted, and run again.")
    if white.getextrema()[0] == 255:
        raise Refusal("All of the picture is painted over, so nothing of it would stay: erase some of the paint, and run again.")
    return saved(white, "mask")


def canvas(name: str) -> Image.Image:
    """A picture as it is painted on: a small one enlarged a whole number of times."""
    image = sources.opened(name)
    times = max(1, SIDE // max(image.size))
    return image.resize((image.width * times, image.height * times), Image.Resampling.NEAREST)


def uploaded(path: str) -> str:
    """The path of an uploaded picture's copy, which is no larger than it need be."""
    image = sources.opened(path)
    image.thumbnail((MOST, MOST))
    return saved(image, "picture")


def sheet(name: str, paper: str) -> Image.Image:
    return Image.new("RGB", (SIDE, SIDE), paper) if name == BLANK else canvas(name)


def paper_of(known: Mapping) -> str:
    """The colour that is drawn on: black for models whose own sketch is grey, as digits are white on black; else white."""
    return "black" if grey(sources.opened(known["model"]["examples"]["sketch"])) else "white"


# The page


@dataclass(frozen=True, eq=False)
class Outcome:
    """Where a run's result is shown; given: the arguments of every run."""

    given: Sequence[str]
    said: object
    picture: object
    folder: object
    command: object

    @classmethod
    def place(cls, given: Sequence[str], tab: str) -> Outcome:
        gr = gradio()
        said = gr.HTML(visible=False, elem_id=f"{tab}-said", elem_classes="said")
        picture = gr.Image(
            label="picture.png", type="filepath", interactive=False, buttons=["download", "fullscreen"], elem_id=f"{tab}-picture",
            elem_classes="picture",
        )  # fmt: skip
        folder = gr.Textbox(label="Folder", interactive=False, visible=False, buttons=["copy"], elem_id=f"{tab}-folder")
        same = gr.Code(
            label="The same run in a shell", language="shell", interactive=False, wrap_lines=True, lines=1,
            show_line_numbers=False, buttons=["copy"], visible=False, elem_id=f"{tab}-command",
        )  # fmt: skip
        return cls(given, said, picture, folder, same)

    @property
    def parts(self) -> list:
        return [self.said, self.picture, self.folder, self.command]

    def on(self, button, wish: Callable[..., Sequence[str]], inputs: Sequence) -> None:
        """Run what is wished when the button is pressed, after those that wait already."""
        button.click(
            self.answer(wish), [*inputs], self.parts, show_progress_on=self.picture, concurrency_limit=1, concurrency_id="run",
            trigger_mode="multiple", api_visibility="private",
        )  # fmt: skip

    def answer(self, wish: Callable[..., Sequence[str]]) -> Callable:
        """wish: (values of the inputs) -> the arguments of a run."""
        gr = gradio()
        bar = gr.Progress(track_tqdm=True)

        def answer(progress=bar, *values) -> list:  # gradio puts progress where it stands
            arguments = [*self.given]
            try:
                progress(0, desc="waiting for the model")
                arguments = joined(self.given, wish(*values))
                return self.shown(made(arguments), arguments)
            except Exception as error:
                said = command.sentence(error, arguments)
                if said is None:
                    raise
                return [gr.update(value=escape(said), visible=True), None, gr.update(visible=False), gr.update(visible=False)]

        return answer

    def shown(self, folder: Path, arguments: Sequence[str]) -> list:
        update = gradio().update
        where, same = update(value=str(folder), visible=True), update(value=typed(arguments), visible=True)
        return [update(visible=False), str(folder / "picture.png"), where, same]


def built(known: Mapping, given: Sequence[str]):
    """The page: a tab a task. known: the resolved configuration of the given arguments, from which every input begins."""
    gr = gradio()
    with gr.Blocks(title="expkit", analytics_enabled=False, delete_cache=(3600, 3600)) as page:
        gr.Markdown(f"# expkit\n{heading(given)}")
        with gr.Tabs():
            for name, tab in (("Sketch", sketching), ("Inpaint", inpainting), ("Hybrid", hybrids)):
                with gr.Tab(name, id=name.lower(), elem_id=f"{name.lower()}-tab"):
                    tab(known, given)
    return page


def heading(given: Sequence[str]) -> str:
    said = f", with `{' '.join(map(shlex.quote, given))}`" if given else ""
    return f"Draw, paint or type, and see what the model makes of it. All of it runs on this machine{said}."


def sketching(known: Mapping, given: Sequence[str]) -> None:
    gr, paper, examples = gradio(), paper_of(known), known["model"]["examples"]
    ink = "white" if paper == "black" else "black"
    gr.Markdown(f"Draw in {ink} on {paper}. The sketch is noised, more at a smaller `i_start`, and cleaned into what the prompt says.")
    with gr.Row():
        with gr.Column(scale=0, min_width=460, elem_classes="desk"):
            begin = gr.Dropdown([BLANK, *sources.ours()], value=BLANK, label="Begin with")
            drawn = editor("Sketch", sheet(BLANK, paper), ink, "sketch-editor", own=paper == "black")
        with gr.Column(min_width=320):
            prompt = asked("sketch-prompt", "Prompt", known, given, examples["one"])
            starts = gr.CheckboxGroup(choices(known), value=started(known), label="i_start: the larger, the more of the sketch is kept")
            rest = strength(known)
            button = gr.Button("Run", variant="primary", elem_id="sketch-run")
            outcome = Outcome.place(given, "sketch")
    for event in (begin.input, drawn.clear):  # what is cleared loses its ground too
        event(partial(sheet, paper=paper), begin, drawn, **QUICK)
    outcome.on(button, wish_sketch, [drawn, prompt, starts, *rest])


def inpainting(known: Mapping, given: Sequence[str]) -> None:
    gr, examples = gradio(), known["model"]["examples"]
    first = known["image"] if isinstance(known["image"], str) else examples["picture"]
    gr.Markdown("Paint over a part of a picture: **what is painted is repainted**, the rest stays. In the mask's file paint is white.")
    with gr.Row():
        with gr.Column(scale=0, min_width=460, elem_classes="desk"):
            begin = gr.Dropdown(sources.ours(), value=first if first in sources.ours() else None, label="A picture that ships")
            upload = gr.UploadButton("Upload a picture of your own", file_types=["image"], elem_id="inpaint-upload")
            drawn = editor("Paint over it", canvas(first), MASK, "inpaint-editor", own=True)
            source = gr.State(first)
        with gr.Column(min_width=320):
            prompt = asked("inpaint-prompt", "Prompt", known, given, examples["one"])
            samples = counted(known)
            rest = strength(known)
            button = gr.Button("Run", variant="primary", elem_id="inpaint-run")
            outcome = Outcome.place(given, "inpaint")
    begin.input(lambda name: (canvas(name), name), begin, [drawn, source], **QUICK)
    drawn.clear(canvas, source, drawn, **QUICK)
    upload.upload(received, upload, [outcome.said, begin, drawn, source], **QUICK)
    outcome.on(button, wish_inpaint, [drawn, source, prompt, samples, *rest])


def hybrids(known: Mapping, given: Sequence[str]) -> None:
    gr, examples = gradio(), known["model"]["examples"]
    gr.Markdown("Two prompts, one picture: the first is seen from afar, or by half-closed eyes, the second close by.")
    with gr.Row():
        with gr.Column(min_width=320):
            far = asked("hybrid-far", "Far: seen from afar", known, given, examples["far"])
            near = asked("hybrid-near", "Near: seen close by", known, given, examples["near"])
            blur = first_of(known["sigma"]) or known["model"]["blur"]
            label = "Blur sigma, in pixels: a smaller one favours the near prompt, a larger one the far"
            sigma = gr.Slider(0.2, max(4, 2 * blur), value=blur, step=0.1, label=label)
            samples = counted(known)
            rest = strength(known)
            button = gr.Button("Run", variant="primary", elem_id="hybrid-run")
        with gr.Column(min_width=320):
            outcome = Outcome.place(given, "hybrid")
    outcome.on(button, wish_hybrid, [far, near, sigma, samples, *rest])


QUICK = {"show_progress": "hidden", "queue": False, "api_visibility": "private"}
MASK = ("#f43f5e", 0.7)


def editor(label: str, background: Image.Image, ink, name: str, own: bool):
    """What is drawn on. own: with this ink alone; else with some colours too."""
    gr = gradio()
    colours = [ink] if own else [ink, "#7f7f7f", "#b91c1c", "#ca8a04", "#15803d", "#1d4ed8", "#7c3aed"]
    return gr.ImageEditor(
        value=background, label=label, type="pil", format="png", sources=(), transforms=(), layers=False, buttons=[], elem_id=name,
        canvas_size=(SIDE, SIDE), height=480, brush=gr.Brush(default_size=36, colors=colours, default_color=ink, color_mode="fixed"),
        eraser=gr.Eraser(default_size=36),
    )  # fmt: skip


def asked(name: str, label: str, known: Mapping, given: Sequence[str], example):
    """A line for a prompt, named TAB-KEY, which begins with what was given, or else with the model's example."""
    key = name.partition("-")[2]
    value = first_of(known[key]) if any(argument.startswith(f"{key}=") for argument in given) else example
    return gradio().Textbox(value=str("" if value is None else value), label=label, max_lines=1, elem_id=name)


def strength(known: Mapping) -> list:
    """Gamma and the seed."""
    gr, gamma = gradio(), first_of(known["gamma"])
    with gr.Row():
        slider = gr.Slider(min(0, gamma), max(15, gamma), value=gamma, step=0.5, label="gamma (guidance)", min_width=180)
        seed = gr.Number(value=first_of(known["seed"]), precision=0, minimum=0, label="seed", min_width=100)
    return [slider, seed]


def started(known: Mapping) -> list[int]:
    return known["i_start"] if isinstance(known["i_start"], list) else [known["i_start"]]


def choices(known: Mapping) -> list[int]:
    """What i_start may be: some of the grid, and what the configuration asks for."""
    return sorted({*started(known), *(choice for choice in CHOICES if choice <= known["steps"])})


def counted(known: Mapping):
    """How many samples."""
    count = known["samples"] or 4
    return gradio().Slider(1, max(8, count), value=count, step=1, label="Samples")


def first_of(value):
    return value[0] if isinstance(value, list) else value


def received(path: str) -> tuple:
    """What an upload changes: the sentence, the choice, the picture that is painted on, and its path."""
    gr = gradio()
    try:
        name = uploaded(path)
    except Refusal as error:
        return gr.update(value=escape(str(error)), visible=True), gr.update(), gr.update(), gr.update()
    return gr.update(visible=False), None, canvas(name), name


def wish_sketch(drawn, prompt: str, starts: list[int], gamma: float, seed: int) -> list[str]:
    keys = {"image": sketch(drawn), "prompt": prompt, "i_start": sorted(starts), "gamma": gamma, "seed": seed}
    return ["task=sdedit", *[told(key, value) for key, value in keys.items()]]


def wish_inpaint(drawn, source: str, prompt: str, samples: int, gamma: float, seed: int) -> list[str]:
    keys = {"image": source, "mask": mask(drawn, sources.size(source)), "prompt": prompt, "samples": samples, "gamma": gamma, "seed": seed}
    return ["task=inpaint", *[told(key, value) for key, value in keys.items()]]


def wish_hybrid(far: str, near: str, sigma: float, samples: int, gamma: float, seed: int) -> list[str]:
    keys = {"far": far, "near": near, "sigma": sigma, "samples": samples, "gamma": gamma, "seed": seed}
    return ["task=hybrid", *[told(key, value) for key, value in keys.items()]]
