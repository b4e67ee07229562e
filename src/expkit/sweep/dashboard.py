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
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from expkit.errors import Refusal, nearest

KNOWN = {"outputs": "outputs", "host": "127.0.0.1", "port": "8800", "tensorboard": "6006", "open": "true"}


def serve(arguments: Sequence[str]) -> int:
    """Serve until Ctrl-C. Nothing is served but what lies in the folder of outputs."""
    said = options(arguments, KNOWN, "dashboard")
    outputs = Path(said["outputs"])
    if not outputs.is_dir():
        raise Refusal(f"There is no folder {outputs} to show: run something first, or say where it is with outputs=FOLDER.")
    server = listening(said["host"], number(said, "port"), partial(Inside, directory=str(outputs.resolve())))
    place = ["--host", said["host"], "--port", str(number(said, "tensorboard"))]
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(outputs), *place]
    board = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # whoever ends this ends TensorBoard too
    page = f"http://{said['host']}:{server.server_port}/{newest(outputs)}"
    print(f"{page}\nhttp://{said['host']}:{said['tensorboard']}/  (TensorBoard; it takes some seconds)\nCtrl-C ends both.", flush=True)
    if said["open"] == "true":
        webbrowser.open(page)
    try:
        with suppress(KeyboardInterrupt):
            server.serve_forever()
    finally:
        board.terminate()
        server.server_close()
    return 0


def options(arguments: Sequence[str], known: dict[str, str], of: str) -> dict[str, str]:
    """KEY=VALUE over what is known; refuses other words."""
    for argument in arguments:
        key, equals, _ = argument.partition("=")
        if key not in known or not equals:
            raise Refusal(f"{of} takes no {argument!r}.{nearest(key, known)} It takes {', '.join(f'{k}={v}' for k, v in known.items())}.")
    return known | dict(argument.split("=", 1) for argument in arguments)


def number(said: dict[str, str], key: str) -> int:
    if not said[key].isdecimal() or not int(said[key]) < 65536:
        raise Refusal(f"{key}={said[key]} is no port: give a whole number from 0 to 65535; 0 takes a free one.")
    return int(said[key])


def listening(host: str, port: int, handler) -> ThreadingHTTPServer:
    try:
        return ThreadingHTTPServer((host, port), handler)
    except OSError as error:
        raise Refusal(f"Nothing can listen at {host}:{port} ({error.strerror}): give another port=NUMBER, or 0 for a free one.") from None


def newest(outputs: Path) -> str:
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
