"""python -m expkit dashboard: TensorBoard over all outputs, and the page of the newest sweep, on this machine alone.

dashboard [outputs=FOLDER] [host=127.0.0.1] [port=8800] [tensorboard=6006] [open=true]
"""

from __future__ import annotations

import signal
import subprocess
import sys
import webbrowser
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from expkit.app import web_server
from expkit.errors import UserError


@dataclass(frozen=True)
class Asked:
    """What the dashboard was asked for with. tensorboard: its port."""

    outputs: Path = Path("outputs")
    host: str = web_server.HERE
    port: int = 8800
    tensorboard: int = 6006
    open: bool = True


WORDS = {"outputs": lambda word, value: Path(value), "tensorboard": web_server.parse_port, **web_server.PLACE}


def serve(arguments: Sequence[str]) -> int:
    """Serve until Ctrl-C. Nothing is served but what lies in the folder of outputs."""
    said, _ = web_server.parse_words("dashboard", arguments, WORDS)
    asked = Asked(**said)
    if not asked.outputs.is_dir():
        raise UserError(
            f"There is no folder {asked.outputs} to show: run something first, or say where it is with outputs=FOLDER."
        )
    inside = partial(Inside, directory=str(asked.outputs.resolve()))
    server = ThreadingHTTPServer((asked.host, web_server.free_port(asked.host, asked.port)), inside)
    beside = web_server.free_port(asked.host, asked.tensorboard)
    web_server.warn_of_others(asked.host, asked.outputs)
    command = [
        sys.executable,
        "-m",
        "tensorboard.main",
        "--logdir",
        str(asked.outputs),
        "--host",
        asked.host,
        "--port",
        str(beside),
    ]
    board = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # whoever ends this ends TensorBoard too
    page = f"http://{asked.host}:{server.server_port}/{newest_sweep_page(asked.outputs)}"
    print(
        f"{page}\nhttp://{asked.host}:{beside}/  (TensorBoard; it takes some seconds)\nCtrl-C ends both.",
        flush=True,
    )
    if asked.open:
        webbrowser.open(page)
    try:
        with suppress(KeyboardInterrupt):
            server.serve_forever()
    finally:
        board.terminate()
        server.server_close()
    return 0


def newest_sweep_page(outputs: Path) -> str:
    """The address of the newest sweep's page; nothing, which lists the outputs, where there is none."""
    pages = sorted(outputs.glob("**/index.html"), key=lambda path: path.stat().st_mtime)
    return pages[-1].relative_to(outputs).as_posix() if pages else ""


class Inside(SimpleHTTPRequestHandler):
    """Serves what lies in its folder; a link that leads out of it is not followed."""

    def send_head(self):
        root, asked = Path(self.directory).resolve(), Path(self.translate_path(self.path)).resolve()
        if not asked.is_relative_to(root):
            return self.send_error(404, "not among the outputs")
        return super().send_head()

    def log_message(self, *_) -> None:
        pass
