"""Imports point downwards: the contracts stand in pyproject.toml under [tool.importlinter]."""

import subprocess
import sys
from pathlib import Path


def test_imports_keep_to_the_contracts():
    linter = Path(sys.executable).with_name("lint-imports")
    checked = subprocess.run(
        [linter, "--no-cache", "--no-logo"],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
