"""A device is killed at every step of an update of its slots, and starts again from each copy a power cut may leave."""

from __future__ import annotations

import hashlib
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from headland_edge.slots import Slots, clear_leftovers

from tests.toy import python_environment

# Kills itself at the n-th call that changes files; without n it counts them.
KILLED_AT = """
import hashlib, os, signal, sys
from pathlib import Path
root, left = Path(sys.argv[1]), int(sys.argv[2])
from headland_edge.slots import Slots, clear_leftovers
seen = 0
def watch(event, arguments):
    global seen
    if event in ("open", "os.rename", "os.remove", "os.mkdir", "os.chmod"):
        mine = any(str(root) in str(each) for each in arguments)
        if not mine:
            return
        seen += 1
        if seen == left:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(watch)
slots = Slots(root)
clear_leftovers(root)
slots.boot()
if slots.on_trial:
    slots.confirm()
data = b"release 2" * 5000
slots.raise_floor(1)
slots.begin_trial(slots.install(data, hashlib.sha256(data).hexdigest(), 2))
slots.boot()
slots.confirm()
print(seen)
"""


def install(root: Path, counter: int) -> None:
    slots = Slots(root)
    clear_leftovers(root)
    slots.boot()
    if slots.on_trial:
        slots.confirm()
    data = f"release {counter}".encode() * 5000
    slots.begin_trial(slots.install(data, hashlib.sha256(data).hexdigest(), counter))
    slots.boot()
    slots.confirm()


def killed_at(root: Path, step: int) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", KILLED_AT, str(root), str(step)]
    return subprocess.run(command, env=python_environment(), capture_output=True, text=True, check=False)


def survives(root: Path, before: int | None) -> None:
    """A whole release runs, the old or the new one, and the next update works."""
    booted = Slots(root).boot()
    if before is None:
        assert booted is None or booted.counter == 2
    else:
        assert booted is not None
        assert booted.counter in (before, 2)
    install(root, 3)
    after = Slots(root).boot()
    assert after is not None
    assert after.counter == 3


@pytest.mark.slow
@pytest.mark.parametrize("before", [None, 1], ids=["first install", "update"])
def test_kill_9_at_every_step_leaves_a_release_running_and_the_next_update_works(
    tmp_path: Path, before: int | None
) -> None:
    start = tmp_path / "start"
    start.mkdir()
    if before:
        install(start, before)
    whole = tmp_path / "whole"
    shutil.copytree(start, whole)
    done = killed_at(whole, 0)
    assert done.returncode == 0, done.stderr
    steps = int(done.stdout)
    assert steps > 20
    for step in range(1, steps + 1):
        root = tmp_path / f"step{step}"
        shutil.copytree(start, root)
        assert killed_at(root, step).returncode == -signal.SIGKILL
        survives(root, before)
        shutil.rmtree(root)


LOOP = """
import hashlib, sys
from pathlib import Path
from headland_edge.slots import Slots, clear_leftovers
root, counter = Path(sys.argv[1]), int(sys.argv[2])
while True:
    slots = Slots(root)
    clear_leftovers(root)
    slots.boot()
    if slots.on_trial:
        slots.confirm()
    counter += 1
    data = f"release {counter}".encode() * 5000
    slots.begin_trial(slots.install(data, hashlib.sha256(data).hexdigest(), counter))
    slots.boot()
    print(counter, flush=True)
"""


@pytest.mark.slow
def test_random_kills_during_updates_never_leave_a_device_without_a_release(tmp_path: Path) -> None:
    rng = random.Random(1)
    install(tmp_path, 1)
    latest = 1
    for _ in range(60):
        process = subprocess.Popen(
            [sys.executable, "-c", LOOP, str(tmp_path), str(latest)], env=python_environment(), stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        process.stdout.readline()
        try:
            process.wait(rng.uniform(0.0, 0.05))
        except subprocess.TimeoutExpired:
            process.kill()
        process.wait()
        process.stdout.close()
        booted = Slots(tmp_path).boot()
        assert booted is not None
        assert booted.counter >= latest
        latest = booted.counter
    assert latest > 60
