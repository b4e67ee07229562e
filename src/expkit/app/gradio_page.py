"""The page of `expkit app`, a tab a task. Runs go one at a time, in this process, with one resident model. This file alone knows gradio."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from html import escape
from pathlib import Path

import gradio as gr

from expkit.app import overrides, uploads
from expkit.app.uploads import BLANK, SIDE, load_canvas
from expkit.config import checks
from expkit.errors import UserError
from expkit.images import sources
from expkit.runs import job

QUICK = {"show_progress": "hidden", "queue": False, "api_visibility": "private"}
MASK = ("#f43f5e", 0.7)
COLOURS = ("#7f7f7f", "#b91c1c", "#ca8a04", "#15803d", "#1d4ed8", "#7c3aed")
CHOICES = (1, 3, 5, 7, 10, 15, 20, 25)  # of i_start


def launch_page(page: gr.Blocks, host: str, port: int, browser: bool) -> None:
    """Until it is interrupted. Fonts are those of the machine that looks at it: none are fetched."""
    page.launch(
        server_name=host, server_port=port, inbrowser=browser, share=False, quiet=True, prevent_thread_lock=True,
        allowed_paths=[str(Path("outputs").resolve())], css_paths=Path(__file__).with_suffix(".css"),
        theme=gr.themes.Default(font=("system-ui", "sans-serif"), font_mono=("ui-monospace", "monospace")),
        footer_links=[], run_history=False, enable_monitoring=False, ssr_mode=False, mcp_server=False, pwa=False, max_file_size="50mb",
    )  # fmt: skip
    print(f"http://{host}:{port}", flush=True)
    page.block_thread()


def build_page(known: Mapping, given: Sequence[str]) -> gr.Blocks:
    """known: the resolved configuration of the given arguments, from which every input begins. given: they stand before every run's."""
    with gr.Blocks(title="expkit", analytics_enabled=False, delete_cache=(3600, 3600)) as page:
        beside = f", with `{' '.join(map(shlex.quote, given))}`" if given else ""
        gr.Markdown(
            f"# expkit\nDraw, paint or type, and see what the model makes of it. All of it runs on this machine{beside}."
        )
        with gr.Tabs():
            for name, tab in (("Sketch", sketch_tab), ("Inpaint", inpaint_tab), ("Hybrid", hybrid_tab)):
                with gr.Tab(name, id=name.lower(), elem_id=f"{name.lower()}-tab"):
                    tab(known, given)
    return page


def sketch_tab(known: Mapping, given: Sequence[str]) -> None:
    paper, examples = uploads.paper_of(known), known["model"]["examples"]
    ink = "white" if paper == "black" else "black"
    gr.Markdown(
        f"Draw in {ink} on {paper}. The sketch is noised, more at a smaller `i_start`, and cleaned into what the prompt says."
    )
    with gr.Row():
        with gr.Column(scale=0, min_width=460, elem_classes="desk"):
            begin = gr.Dropdown([BLANK, *sources.shipped_names()], value=BLANK, label="Begin with")
            sheet = image_editor(
                "Sketch",
                uploads.blank_sheet(paper),
                [ink] if paper == "black" else [ink, *COLOURS],
                "sketch-editor",
            )
        with gr.Column(min_width=320):
            prompt = prompt_box("sketch-prompt", "Prompt", known, given, examples["one"])
            starts = gr.CheckboxGroup(
                start_index_choices(known),
                value=start_index_input(known),
                label="i_start: the larger, the more of the sketch is kept",
            )
            rest = guidance_inputs(known)
            button = gr.Button("Run", variant="primary", elem_id="sketch-run")
            outcome = Outcome(given, "sketch")
    for event in (begin.input, sheet.clear):  # what is cleared loses its ground too
        event(
            lambda name: uploads.blank_sheet(paper) if name == BLANK else load_canvas(name),
            begin,
            sheet,
            **QUICK,
        )
    outcome.on(button, overrides.sketch_overrides, [sheet, prompt, starts, *rest])


def inpaint_tab(known: Mapping, given: Sequence[str]) -> None:
    examples = known["model"]["examples"]
    first = known["image"] if isinstance(known["image"], str) else examples["picture"]
    gr.Markdown(
        "Paint over a part of a picture: **what is painted is repainted**, the rest stays. In the mask's file paint is white."
    )
    with gr.Row():
        with gr.Column(scale=0, min_width=460, elem_classes="desk"):
            begin = gr.Dropdown(
                sources.shipped_names(),
                value=first if first in sources.shipped_names() else None,
                label="A picture that ships",
            )
            upload = gr.UploadButton(
                "Upload a picture of your own", file_types=["image"], elem_id="inpaint-upload"
            )
            sheet = image_editor("Paint over it", load_canvas(first), [MASK], "inpaint-editor")
            source = gr.State(first)
        with gr.Column(min_width=320):
            prompt = prompt_box("inpaint-prompt", "Prompt", known, given, examples["one"])
            samples = sample_count_input(known)
            rest = guidance_inputs(known)
            button = gr.Button("Run", variant="primary", elem_id="inpaint-run")
            outcome = Outcome(given, "inpaint")
    begin.input(lambda name: (load_canvas(name), name), begin, [sheet, source], **QUICK)
    sheet.clear(load_canvas, source, sheet, **QUICK)
    upload.upload(receive_upload, upload, [outcome.said, begin, sheet, source], **QUICK)
    outcome.on(button, overrides.inpaint_overrides, [sheet, source, prompt, samples, *rest])


def hybrid_tab(known: Mapping, given: Sequence[str]) -> None:
    examples = known["model"]["examples"]
    gr.Markdown(
        "Two prompts, one picture: the first is seen from afar, or by half-closed eyes, the second close by."
    )
    with gr.Row():
        with gr.Column(min_width=320):
            far = prompt_box("hybrid-far", "Far: seen from afar", known, given, examples["far"])
            near = prompt_box("hybrid-near", "Near: seen close by", known, given, examples["near"])
            own = known["model"]["blur"]
            blur = first_of(known["sigma"]) or (job.instantiate(own) if isinstance(own, Mapping) else own)
            label = "Blur sigma, in pixels: a smaller one favours the near prompt, a larger one the far"
            sigma = gr.Slider(0.2, max(4, 2 * blur), value=blur, step=0.1, label=label)
            samples = sample_count_input(known)
            rest = guidance_inputs(known)
            button = gr.Button("Run", variant="primary", elem_id="hybrid-run")
        with gr.Column(min_width=320):
            outcome = Outcome(given, "hybrid")
    outcome.on(button, overrides.hybrid_overrides, [far, near, sigma, samples, *rest])


class Outcome:
    """Where a run's result is shown: why there is none, the picture, the folder, the command."""

    def __init__(self, given: Sequence[str], tab: str) -> None:
        self.given = given
        self.said = gr.HTML(visible=False, elem_id=f"{tab}-said", elem_classes="said")
        self.picture = gr.Image(
            label="picture.png", type="filepath", interactive=False, buttons=["download", "fullscreen"], elem_id=f"{tab}-picture",
            elem_classes="picture",
        )  # fmt: skip
        folder = gr.Textbox(
            label="Folder", interactive=False, visible=False, buttons=["copy"], elem_id=f"{tab}-folder"
        )
        same = gr.Code(
            label="The same run in a shell", language="shell", interactive=False, wrap_lines=True, lines=1,
            show_line_numbers=False, buttons=["copy"], visible=False, elem_id=f"{tab}-command",
        )  # fmt: skip
        self.parts = [self.said, self.picture, folder, same]

    def on(self, button: gr.Button, wish: Callable[..., Sequence[str]], inputs: Sequence) -> None:
        """Run what is wished when the button is pressed, after those that wait already. wish: (values of the inputs) -> arguments."""
        button.click(
            partial(run_and_display, self.given, wish), [*inputs], self.parts, show_progress_on=self.picture, concurrency_limit=1,
            concurrency_id="run", trigger_mode="multiple", api_visibility="private",
        )  # fmt: skip


BAR = gr.Progress(track_tqdm=True)


def run_and_display(given: Sequence[str], wish: Callable[..., Sequence[str]], progress=BAR, *values) -> list:
    """What the parts of an outcome show after a run; gradio puts progress where it stands."""
    arguments, hidden = [*given], gr.update(visible=False)
    try:
        progress(0, desc="waiting for the model")
        arguments = overrides.merge_overrides(given, wish(*values))
        folder = overrides.run_folder_for(arguments)
    except Exception as error:
        said = checks.error_message(error, arguments)
        if said is None:
            raise
        return [gr.update(value=escape(said), visible=True), None, hidden, hidden]
    shown = [
        gr.update(value=value, visible=True) for value in (str(folder), overrides.format_command(arguments))
    ]
    return [hidden, str(folder / "picture.png"), *shown]


def receive_upload(path: str) -> list:
    """What an upload changes: the sentence, the choice, the picture that is painted on, and its path."""
    try:
        name = uploads.copy_upload(path)
    except UserError as error:
        return [gr.update(value=escape(str(error)), visible=True), gr.update(), gr.update(), gr.update()]
    return [gr.update(visible=False), None, load_canvas(name), name]


# Inputs


def image_editor(label: str, background, colours: Sequence, name: str) -> gr.ImageEditor:
    """What is drawn on, in the first of the colours unless another is chosen."""
    return gr.ImageEditor(
        value=background, label=label, type="pil", format="png", sources=(), transforms=(), layers=False, buttons=[], elem_id=name,
        canvas_size=(SIDE, SIDE), height=480, eraser=gr.Eraser(default_size=36),
        brush=gr.Brush(default_size=36, colors=colours, default_color=colours[0], color_mode="fixed"),
    )  # fmt: skip


def prompt_box(name: str, label: str, known: Mapping, given: Sequence[str], example) -> gr.Textbox:
    """For a prompt, named TAB-KEY; it begins with what was given, or else with the model's example."""
    key = name.partition("-")[2]
    value = first_of(known[key]) if any(argument.startswith(f"{key}=") for argument in given) else example
    return gr.Textbox(value=str("" if value is None else value), label=label, max_lines=1, elem_id=name)


def guidance_inputs(known: Mapping) -> list:
    """Gamma and the seed."""
    gamma = first_of(known["gamma"])
    with gr.Row():
        slider = gr.Slider(
            min(0, gamma), max(15, gamma), value=gamma, step=0.5, label="gamma (guidance)", min_width=180
        )
        seed = gr.Number(value=first_of(known["seed"]), precision=0, minimum=0, label="seed", min_width=100)
    return [slider, seed]


def start_index_input(known: Mapping) -> list[int]:
    return known["i_start"] if isinstance(known["i_start"], list) else [known["i_start"]]


def start_index_choices(known: Mapping) -> list[int]:
    """What i_start may be: some of the grid, and what the configuration asks for."""
    return sorted({*start_index_input(known), *(choice for choice in CHOICES if choice <= known["steps"])})


def sample_count_input(known: Mapping) -> gr.Slider:
    """How many samples."""
    count = known["samples"] or 4
    return gr.Slider(1, max(8, count), value=count, step=1, label="Samples")


def first_of(value):
    return value[0] if isinstance(value, list) else value
