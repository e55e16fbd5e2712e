"""The README's two commands stand there and make knows them; run in full they are outside the test suite."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
RUNS = {"make demo": "headland retrain", "make test": "-m pytest"}


def test_the_two_commands_stand_in_the_only_sh_block() -> None:
    text = (ROOT / "README.md").read_text()
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert [block.splitlines() for block in blocks] == [list(RUNS)]
    assert len(text.splitlines()) < 150


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
@pytest.mark.parametrize("command", RUNS)
def test_make_knows_how_to_run_them(command: str) -> None:
    # Under `make test` the flags of that make must not reach this one.
    environment = {
        name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")
    }
    words = command.replace("make", "make -n", 1).split()
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert RUNS[command] in done.stdout
