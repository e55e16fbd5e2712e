"""A study that is killed leaves nothing at work."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

SLEEPER = """
import os, time
from pathlib import Path
Path("aside").write_text(str(os.getpid()))
os.replace("aside", "pid")
time.sleep(600)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the study runs on Linux only")
def test_a_stage_ends_with_the_study_that_started_it(tmp_path: Path):
    (tmp_path / "sleeper.py").write_text(SLEEPER)
    start = f"from pathlib import Path; from tasks.study.folds import stage; stage(Path({str(tmp_path)!r}), 'sleeper')"
    with subprocess.Popen([sys.executable, "-c", start]) as study:
        try:
            deadline = time.monotonic() + 60
            while not (tmp_path / "pid").exists():
                assert study.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.05)
            stage = psutil.Process(int((tmp_path / "pid").read_text()))
            assert stage.ppid() == study.pid
        finally:
            os.kill(study.pid, signal.SIGKILL)
    # Whoever adopts it may not collect it: a zombie has ended, too.
    while stage.is_running() and stage.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.05)
