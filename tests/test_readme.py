"""The README's commands. They are run in full outside the test suite; here: they are there, and make knows how."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def commands() -> list[str]:
    """Lines of the README's one ``sh`` block."""
    blocks = re.findall(r"^```sh\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    assert len(blocks) == 1, "the README has one sh block, for what a newcomer types"
    return [line for line in blocks[0].splitlines() if line.strip()]


def test_the_readme_has_the_two_commands() -> None:
    assert commands() == ["make demo", "make test"]


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
@pytest.mark.parametrize("command", ["make demo", "make test"])
def test_make_knows_how_to_run_them(command: str) -> None:
    # Started from `make test`, its own flags must not reach this make.
    environment = {
        name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")
    }
    target = command.removeprefix("make ")
    done = subprocess.run(
        ["make", "-n", target], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    program = {"demo": "headland retrain", "test": "-m pytest"}[target]
    assert program in done.stdout
