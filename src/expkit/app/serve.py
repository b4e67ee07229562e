"""python -m expkit app: draw, paint, type, and see what the model makes of it, each with the command that makes the same.

app [port=7860] [host=127.0.0.1] [open=false] [KEY=VALUE …]      KEY=VALUE stands in front of every run's arguments

desk.py      the page
wishes.py    what is wished on it, as arguments of the command, and the run of them
drawn.py     what is drawn on it, as files that the command finds
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
class Asked:
    """What the page was asked for with; given: the arguments of every run on it."""

    host: str = web_server.HERE
    port: int = 7860
    open: bool = False
    given: tuple[str, ...] = ()

    @classmethod
    def of(cls, arguments: Sequence[str]) -> Asked:
        said, given = web_server.parse_words(
            "app", arguments, web_server.PLACE, (*checks.top_level_keys(), *checks.GROUPS)
        )
        for argument in given:
            if argument.startswith("task="):
                raise UserError(f"{argument}: the page has its own tasks, one a tab. Leave it out.")
        checks.check_additions(given)
        return cls(**said, given=tuple(given))


def serve(arguments: Sequence[str]) -> int:
    """Show the page until it is interrupted; the exit code."""
    asked = Asked.of(arguments)
    known = ComposedConfig(compose_config(asked.given)).known({})
    port = web_server.free_port(asked.host, asked.port)
    with tempfile.TemporaryDirectory(prefix="expkit-app-") as kept:
        os.environ |= {
            "GRADIO_ANALYTICS_ENABLED": "False",
            "GRADIO_TEMP_DIR": kept,
        }  # both are read when gradio is imported
        try:
            from expkit.app import gradio_page
        except ImportError:
            raise UserError(
                "The page needs gradio, which is not installed: pip install 'expkit[app]'"
            ) from None
        web_server.warn_of_others(asked.host, "outputs")
        gradio_page.launch_page(gradio_page.build_page(known, asked.given), asked.host, port, asked.open)
    return 0
