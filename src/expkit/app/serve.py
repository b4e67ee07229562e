"""python -m expkit app: a page to draw, paint and type on, which samples images from that.

Each result has the command that makes the same image in a shell.

app [port=7860] [host=127.0.0.1] [open=false] [KEY=VALUE …]

KEY=VALUE stands in front of the arguments of every run.

gradio_page.py   the page
overrides.py     the inputs on the page as arguments of the command, and the runs of these arguments
uploads.py       the drawings and uploads as files that the command can read
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass

from expkit.app import web_server
from expkit.app.overrides import compose_config
from expkit.config import checks
from expkit.errors import UserError
from expkit.runs.job import ComposedConfig


@dataclass(frozen=True)
class PageSettings:
    """The settings of the page.

    Attributes:
        host: the address of this machine on which the page is served.
        port: the port of the page.
        open: whether to open the page in a browser.
        given: arguments that stand in front of those of every run.
    """

    host: str = web_server.HERE
    port: int = 7860
    open: bool = False
    given: tuple[str, ...] = ()

    @classmethod
    def of(cls, arguments: Sequence[str]) -> PageSettings:
        """Parse the arguments of the command.

        Raises:
            UserError: if an argument is unknown, does not fit, or chooses a task.
        """
        run_keys = (*checks.top_level_keys(), *checks.GROUPS)
        values, given = web_server.parse_words("app", arguments, web_server.PLACE, run_keys)
        for argument in given:
            if argument.startswith("task="):
                raise UserError(f"{argument}: the page has its own tasks, one a tab. Leave it out.")
        checks.check_additions(given)
        return cls(**values, given=tuple(given))


def serve_page(arguments: Sequence[str]) -> int:
    """Serve the page until it is interrupted.

    Args:
        arguments: KEY=VALUE; the keys are the fields of `PageSettings` and those of runs.

    Returns:
        The exit code, 0.
    """
    settings = PageSettings.of(arguments)
    resolved = ComposedConfig(compose_config(settings.given)).resolve({})
    port = web_server.free_port(settings.host, settings.port)
    with tempfile.TemporaryDirectory(prefix="expkit-app-") as folder:
        # gradio reads both variables when it is imported
        os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_TEMP_DIR": folder}
        try:
            from expkit.app import gradio_page
        except ImportError:
            raise UserError(
                "The page needs gradio, which is not installed: pip install 'expkit[app]'"
            ) from None
        web_server.warn_of_others(settings.host, "outputs")
        page = gradio_page.build_page(resolved, settings.given)
        gradio_page.launch_page(page, settings.host, port, settings.open)
    return 0
