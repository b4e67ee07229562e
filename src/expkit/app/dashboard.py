"""python -m expkit dashboard: TensorBoard over all outputs, and the page of the newest sweep.

Both are visible on this machine only, unless host says otherwise.

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
class DashboardSettings:
    """The settings of the dashboard.

    Attributes:
        outputs: the folder that is shown.
        host: the address of this machine on which the pages are served.
        port: the port of the sweep page.
        tensorboard: the port of TensorBoard.
        open: whether to open the sweep page in a browser.
    """

    outputs: Path = Path("outputs")
    host: str = web_server.HERE
    port: int = 8800
    tensorboard: int = 6006
    open: bool = True


WORDS = {
    "outputs": lambda word, value: Path(value),
    "tensorboard": web_server.parse_port,
    **web_server.PLACE,
}


def serve_dashboard(arguments: Sequence[str]) -> int:
    """Serve the dashboard until Ctrl-C. Only files in the folder of outputs are served.

    Args:
        arguments: KEY=VALUE; the keys are the fields of `DashboardSettings`.

    Returns:
        The exit code, 0.

    Raises:
        UserError: if an argument does not fit or the folder does not exist.
    """
    values, _ = web_server.parse_words("dashboard", arguments, WORDS)
    settings = DashboardSettings(**values)
    if not settings.outputs.is_dir():
        raise UserError(
            f"There is no folder {settings.outputs} to show: "
            "run something first, or say where it is with outputs=FOLDER."
        )
    handler = partial(Inside, directory=str(settings.outputs.resolve()))
    port = web_server.free_port(settings.host, settings.port)
    server = ThreadingHTTPServer((settings.host, port), handler)
    tensorboard_port = web_server.free_port(settings.host, settings.tensorboard)
    web_server.warn_of_others(settings.host, settings.outputs)
    logs = ["--logdir", str(settings.outputs)]
    address = ["--host", settings.host, "--port", str(tensorboard_port)]
    command = [sys.executable, "-m", "tensorboard.main", *logs, *address]
    tensorboard = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    # SIGTERM ends this process like Ctrl-C, so that TensorBoard is ended too
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    newest = newest_sweep_page(settings.outputs)
    page = f"http://{settings.host}:{server.server_port}/{newest}"
    tensorboard_page = f"http://{settings.host}:{tensorboard_port}/"
    print(
        f"{page}\n{tensorboard_page}  (TensorBoard; it takes some seconds)\nCtrl-C ends both.",
        flush=True,
    )
    if settings.open:
        webbrowser.open(page)
    try:
        with suppress(KeyboardInterrupt):
            server.serve_forever()
    finally:
        tensorboard.terminate()
        server.server_close()
    return 0


def newest_sweep_page(outputs: Path) -> str:
    """The path of the newest sweep's page, relative to `outputs`.

    It is "" if there is none; the server then lists the files in `outputs`.
    """
    pages = sorted(outputs.glob("**/index.html"), key=lambda path: path.stat().st_mtime)
    return pages[-1].relative_to(outputs).as_posix() if pages else ""


class Inside(SimpleHTTPRequestHandler):
    """Serves the files in its folder. Links that lead out of the folder are refused."""

    def send_head(self):
        """Called by the base class for each request."""
        root = Path(self.directory).resolve()
        path = Path(self.translate_path(self.path)).resolve()
        if not path.is_relative_to(root):
            return self.send_error(404, "not among the outputs")
        return super().send_head()

    def log_message(self, *_) -> None:
        """Requests are not logged."""
