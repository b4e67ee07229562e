"""The page of `expkit app`, with one tab per task. Only this file uses gradio.

Runs are made one after another in this process, with one model that stays loaded.
"""

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
MASK = ("#f43f5e", 0.7)  # colour and opacity of the paint on the tab Inpaint
COLOURS = ("#7f7f7f", "#b91c1c", "#ca8a04", "#15803d", "#1d4ed8", "#7c3aed")
CHOICES = (1, 3, 5, 7, 10, 15, 20, 25)  # of i_start


def launch_page(page: gr.Blocks, host: str, port: int, browser: bool) -> None:
    """Serve the page until it is interrupted.

    Fonts are those of the machine that shows the page, so none are fetched.

    Args:
        page: the page.
        host: the address of this machine on which the page is served.
        port: the port of the page.
        browser: whether to open the page in a browser.
    """
    page.launch(
        server_name=host, server_port=port, inbrowser=browser, share=False, quiet=True,
        prevent_thread_lock=True, allowed_paths=[str(Path("outputs").resolve())],
        css_paths=Path(__file__).with_suffix(".css"),
        theme=gr.themes.Default(
            font=("system-ui", "sans-serif"), font_mono=("ui-monospace", "monospace")
        ),
        footer_links=[], run_history=False, enable_monitoring=False, ssr_mode=False,
        mcp_server=False, pwa=False, max_file_size="50mb",
    )  # fmt: skip
    print(f"http://{host}:{port}", flush=True)
    page.block_thread()


def build_page(known: Mapping, given: Sequence[str]) -> gr.Blocks:
    """Build the page.

    Args:
        known: the resolved configuration of the arguments `given`. All inputs start from it.
        given: arguments that stand in front of those of every run.
    """
    with gr.Blocks(title="expkit", analytics_enabled=False, delete_cache=(3600, 3600)) as page:
        arguments = f", with `{' '.join(map(shlex.quote, given))}`" if given else ""
        gr.Markdown(
            "# expkit\nDraw, paint or type, and see what the model makes of it. "
            f"All of it runs on this machine{arguments}."
        )
        tabs = (("Sketch", sketch_tab), ("Inpaint", inpaint_tab), ("Hybrid", hybrid_tab))
        with gr.Tabs():
            for name, tab in tabs:
                with gr.Tab(name, id=name.lower(), elem_id=f"{name.lower()}-tab"):
                    tab(known, given)
    return page


def sketch_tab(known: Mapping, given: Sequence[str]) -> None:
    """The tab that turns a drawing into an image, by the task sdedit."""
    paper = uploads.paper_of(known)
    examples = known["model"]["examples"]
    ink = "white" if paper == "black" else "black"
    gr.Markdown(
        f"Draw in {ink} on {paper}. The sketch is noised, more at a smaller `i_start`, "
        "and cleaned into what the prompt says."
    )
    with gr.Row():
        with gr.Column(scale=0, min_width=460, elem_classes="desk"):
            start_menu = gr.Dropdown(
                [BLANK, *sources.shipped_names()],
                value=BLANK,
                label="Begin with",
            )
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
            guidance = guidance_inputs(known)
            button = gr.Button("Run", variant="primary", elem_id="sketch-run")
            outcome = Outcome(given, "sketch")
    load_sheet = lambda name: uploads.blank_sheet(paper) if name == BLANK else load_canvas(name)
    for event in (start_menu.input, sheet.clear):  # clear also removes the background picture
        event(load_sheet, start_menu, sheet, **QUICK)
    outcome.on(button, overrides.sketch_overrides, [sheet, prompt, starts, *guidance])


def inpaint_tab(known: Mapping, given: Sequence[str]) -> None:
    """The tab that repaints the painted part of a picture, by the task inpaint."""
    examples = known["model"]["examples"]
    first = known["image"] if isinstance(known["image"], str) else examples["picture"]
    gr.Markdown(
        "Paint over a part of a picture: **what is painted is repainted**, the rest stays. "
        "In the mask's file paint is white."
    )
    with gr.Row():
        with gr.Column(scale=0, min_width=460, elem_classes="desk"):
            start_menu = gr.Dropdown(
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
            guidance = guidance_inputs(known)
            button = gr.Button("Run", variant="primary", elem_id="inpaint-run")
            outcome = Outcome(given, "inpaint")
    start_menu.input(lambda name: (load_canvas(name), name), start_menu, [sheet, source], **QUICK)
    sheet.clear(load_canvas, source, sheet, **QUICK)
    upload.upload(receive_upload, upload, [outcome.said, start_menu, sheet, source], **QUICK)
    inputs = [sheet, source, prompt, samples, *guidance]
    outcome.on(button, overrides.inpaint_overrides, inputs)


def hybrid_tab(known: Mapping, given: Sequence[str]) -> None:
    """The tab that makes a hybrid image of two prompts, by the task hybrid."""
    examples = known["model"]["examples"]
    first = "the first is seen from afar, or by half-closed eyes"
    gr.Markdown(f"Two prompts, one picture: {first}, the second close by.")
    label = "Blur sigma, in pixels: a smaller one favours the near prompt, a larger one the far"
    with gr.Row():
        with gr.Column(min_width=320):
            far = prompt_box("hybrid-far", "Far: seen from afar", known, given, examples["far"])
            near = prompt_box("hybrid-near", "Near: seen close by", known, given, examples["near"])
            blur = first_of(known["sigma"])
            own_blur = known["model"]["blur"]
            if blur is None:
                blur = job.instantiate(own_blur) if isinstance(own_blur, Mapping) else own_blur
            sigma = gr.Slider(min(0.2, blur), max(4, 2 * blur), value=blur, step=0.1, label=label)
            samples = sample_count_input(known)
            guidance = guidance_inputs(known)
            button = gr.Button("Run", variant="primary", elem_id="hybrid-run")
        with gr.Column(min_width=320):
            outcome = Outcome(given, "hybrid")
    outcome.on(button, overrides.hybrid_overrides, [far, near, sigma, samples, *guidance])


class Outcome:
    """Where a tab shows the result of a run: the error, the picture, the folder and the command.

    Args:
        given: arguments that stand in front of those of every run.
        tab: the name of the tab, with which the names of its elements begin.
    """

    def __init__(self, given: Sequence[str], tab: str) -> None:
        self.given = given
        self.said = gr.HTML(visible=False, elem_id=f"{tab}-said", elem_classes="said")
        self.picture = gr.Image(
            label="picture.png", type="filepath", interactive=False,
            buttons=["download", "fullscreen"], elem_id=f"{tab}-picture", elem_classes="picture",
        )  # fmt: skip
        folder = gr.Textbox(
            label="Folder", interactive=False, visible=False, buttons=["copy"],
            elem_id=f"{tab}-folder",
        )  # fmt: skip
        command = gr.Code(
            label="The same run in a shell", language="shell", interactive=False, wrap_lines=True,
            lines=1, show_line_numbers=False, buttons=["copy"], visible=False,
            elem_id=f"{tab}-command",
        )  # fmt: skip
        self.parts = [self.said, self.picture, folder, command]

    def on(self, button: gr.Button, wish: Callable[..., Sequence[str]], inputs: Sequence) -> None:
        """Start a run when the button is pressed, after the runs that wait already.

        Args:
            button: the button.
            wish: a function of the values of the inputs that returns the arguments of the run.
            inputs: the inputs.
        """
        button.click(
            partial(run_and_display, self.given, wish), [*inputs], self.parts,
            show_progress_on=self.picture, concurrency_limit=1, concurrency_id="run",
            trigger_mode="multiple", api_visibility="private",
        )  # fmt: skip


BAR = gr.Progress(track_tqdm=True)


def run_and_display(
    given: Sequence[str],
    wish: Callable[..., Sequence[str]],
    progress=BAR,
    *values,
) -> list:
    """Make a run, and return what the parts of an `Outcome` show then.

    Args:
        given: arguments that stand in front of those of every run.
        wish: a function of `values` that returns the arguments of the run.
        progress: the progress bar, which gradio inserts at this position.
        *values: the values of the inputs.
    """
    arguments, hidden = [*given], gr.update(visible=False)
    try:
        progress(0, desc="waiting for the model")
        arguments = overrides.merge_overrides(given, wish(*values))
        folder = overrides.run_folder_for(arguments)
    except Exception as error:
        message = checks.error_message(error, arguments)
        if message is None:
            raise
        return [gr.update(value=escape(message), visible=True), None, hidden, hidden]
    return [
        hidden,
        str(folder / "picture.png"),
        gr.update(value=str(folder), visible=True),
        gr.update(value=overrides.format_command(arguments), visible=True),
    ]


def receive_upload(path: str) -> list:
    """What an upload changes: the error, the menu, the canvas, and the path of the picture."""
    try:
        name = uploads.copy_upload(path)
    except UserError as error:
        message = gr.update(value=escape(str(error)), visible=True)
        return [message, gr.update(), gr.update(), gr.update()]
    return [gr.update(visible=False), None, load_canvas(name), name]


# Inputs


def image_editor(label: str, background, colours: Sequence, name: str) -> gr.ImageEditor:
    """A canvas to draw on, at first with the first of the colours."""
    return gr.ImageEditor(
        value=background, label=label, type="pil", format="png", sources=(), transforms=(),
        layers=False, buttons=[], elem_id=name, canvas_size=(SIDE, SIDE), height=480,
        eraser=gr.Eraser(default_size=36),
        brush=gr.Brush(
            default_size=36, colors=[*colours], default_color=colours[0], color_mode="fixed"
        ),
    )  # fmt: skip


def prompt_box(
    name: str,
    label: str,
    known: Mapping,
    given: Sequence[str],
    example,
) -> gr.Textbox:
    """An input for a prompt.

    It starts with the prompt in `given`, or else with the model's example.

    Args:
        name: TAB-KEY, where KEY is the key of the prompt.
        label: the text above the input.
        known: the resolved configuration.
        given: arguments that stand in front of those of every run.
        example: the model's example, or None.
    """
    key = name.partition("-")[2]
    is_given = any(argument.startswith(f"{key}=") for argument in given)
    value = first_of(known[key]) if is_given else example
    text = "" if value is None else str(value)
    return gr.Textbox(value=text, label=label, max_lines=1, elem_id=name)


def guidance_inputs(known: Mapping) -> list:
    """The inputs for gamma and the seed."""
    gamma = first_of(known["gamma"])
    with gr.Row():
        slider = gr.Slider(
            min(0, gamma),
            max(15, gamma),
            value=gamma,
            step=0.5,
            label="gamma (guidance)",
            min_width=180,
        )
        seed = gr.Number(
            value=first_of(known["seed"]),
            precision=0,
            minimum=0,
            label="seed",
            min_width=100,
        )
    return [slider, seed]


def start_index_input(known: Mapping) -> list[int]:
    """The values of i_start in the configuration, without null, which is no index to choose."""
    starts = known["i_start"] if isinstance(known["i_start"], list) else [known["i_start"]]
    return [start for start in starts if start is not None]


def start_index_choices(known: Mapping) -> list[int]:
    """The values of i_start to choose from: some of the timestep grid, and those configured."""
    on_grid = (choice for choice in CHOICES if choice <= known["steps"])
    return sorted({*start_index_input(known), *on_grid})


def sample_count_input(known: Mapping) -> gr.Slider:
    """The input for the number of samples."""
    count = known["samples"] or 4
    return gr.Slider(1, max(8, count), value=count, step=1, label="Samples")


def first_of(value):
    """The first item of a list; any other value as it is."""
    return value[0] if isinstance(value, list) else value
