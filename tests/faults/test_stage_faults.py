"""What a run survives: Ctrl-C, kill, kill -9, a second run, DVC by hand, a full disk, half-written files."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tasks.child import end_family
from tasks.dvc_state import mend_after_crash
from tasks.running import AlreadyRunningError, OrphanAliveError, exclusive_run, read_record
from tasks.stages import DiskFullError, Project, StageFailedError, run_stage
from tests.toy import alive, dvc, make_toy, python_environment, set_sleeper, set_stage, sleeper_pids, wait_until

RUNNER = """
import sys
from pathlib import Path
from tasks.running import exclusive_run
from tasks.stages import run_stage
with exclusive_run(Path.cwd()):
    run_stage(Path.cwd(), sys.argv[1], print)
"""


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    return make_toy(tmp_path / "toy")


@contextmanager
def _running(command: list[str], folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(
        [sys.executable, *command],
        cwd=folder,
        env=python_environment(),
        stdout=subprocess.DEVNULL,
        preexec_fn=_signals_matter,
    ) as process:
        try:
            yield process
        finally:
            process.kill()
            left = read_record(folder)
            if left is not None:
                end_family(left.family, 0.0)


def _signals_matter() -> None:
    """Tests that run under nohup, or behind a shell's ``&``, hand ignored signals down to what they start."""
    for number in (signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_the_runner_ends_the_whole_stage(toy: Path, number: signal.Signals) -> None:
    set_sleeper(toy)
    with _running(["-c", RUNNER, "weather"], toy) as runner:
        pids = sleeper_pids(toy)
        assert alive(pids) == pids
        runner.send_signal(number)
        assert runner.wait(60) != 0
        assert alive(pids) == []
    assert read_record(toy) is None


def test_after_kill_9_of_the_runner_the_orphan_is_named_and_nothing_starts(toy: Path) -> None:
    good = (toy / "weather.py").read_text()
    set_sleeper(toy)
    with _running(["-c", RUNNER, "weather"], toy) as runner:
        pids = sleeper_pids(toy)
        runner.kill()
        runner.wait(60)
        assert alive(pids) == pids
        with pytest.raises(OrphanAliveError, match=str(pids[0])) as refusal, exclusive_run(toy):
            pytest.fail("started over a live orphan")
        assert refusal.value.stage == "weather"
        with pytest.raises(OrphanAliveError):
            run_stage(toy, "train@yield", lambda line: None)
        # DVC killed as well: the stage's own processes are still found.
        os.kill(refusal.value.pid, signal.SIGKILL)
        wait_until(lambda: not alive([refusal.value.pid]))
        with pytest.raises(OrphanAliveError, match=str(pids[1])), exclusive_run(toy):
            pytest.fail("started over a live orphan")
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not alive(pids))
    with exclusive_run(toy):
        # DVC's lock may still name the killed process, which stays a zombie where nobody reaps it.
        mend_after_crash(toy)
        set_stage(toy, "weather.py", good)
        run_stage(toy, "weather", lambda line: None)


def test_a_second_run_is_refused_by_the_name_of_the_first(toy: Path) -> None:
    set_sleeper(toy)
    with _running(["-c", RUNNER, "weather"], toy) as runner:
        pids = sleeper_pids(toy)
        with pytest.raises(AlreadyRunningError, match=f"pid {runner.pid}"), exclusive_run(toy):
            pytest.fail("two runs at once")
        assert alive(pids) == pids


def test_dvc_at_work_by_hand_is_named(toy: Path) -> None:
    set_sleeper(toy)
    with _running(["-m", "dvc", "repro"], toy) as by_hand:
        pids = sleeper_pids(toy)
        try:
            project = Project(toy)
            for attempt in (
                lambda: project.why_changed("weather"),
                lambda: project.why_changed("train@yield"),
                lambda: run_stage(toy, "weather", lambda line: None),
            ):
                with pytest.raises(AlreadyRunningError, match=rf"pid {by_hand.pid}: .*repro"):
                    attempt()
            assert alive(pids) == pids
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGKILL)


def test_two_dvc_by_hand_leave_the_first_alone(toy: Path) -> None:
    set_sleeper(toy)
    with _running(["-m", "dvc", "repro"], toy):
        pids = sleeper_pids(toy)
        try:
            second = dvc(toy, "repro")
            assert second.returncode != 0
            assert alive(pids) == pids
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGKILL)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 2 MB; only root may mount one."""
    if os.geteuid() != 0:
        pytest.skip("needs root to mount a small disk")
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", place], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"can't mount a small disk: {mounted.stderr.decode().strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)


FILLER = """
import os
os.makedirs('data', exist_ok=True)
with open('ballast', 'wb', buffering=0) as file:
    try:
        while file.write(b'x' * 4096):
            pass
    except OSError:
        pass
with open('data/models/more.txt', 'w') as file:
    file.write('x' * 100_000)
"""


def test_a_full_disk_in_the_middle_of_a_stage_loses_nothing_good(small_disk: Path) -> None:
    toy = make_toy(small_disk / "toy")
    assert dvc(toy, "repro").returncode == 0
    before = {file: file.read_bytes() for file in (toy / "data").rglob("*.txt")}
    lock = (toy / "dvc.lock").read_bytes()
    good = (toy / "bundle.py").read_text()
    set_stage(toy, "bundle.py", FILLER)
    with exclusive_run(toy), pytest.raises(DiskFullError, match="room"):
        run_stage(toy, "bundle", lambda line: None)
    assert (toy / "dvc.lock").read_bytes() == lock
    assert {file: file.read_bytes() for file in before} == before
    # Even starting is refused whole: the record of the new process has no room.
    with exclusive_run(toy), pytest.raises((DiskFullError, OSError)):
        run_stage(toy, "bundle", lambda line: None)
    (toy / "ballast").unlink()
    (toy / "data" / "models" / "more.txt").unlink(missing_ok=True)
    set_stage(toy, "bundle.py", good)
    with exclusive_run(toy):
        mend_after_crash(toy)
        assert list(Project(toy).changed()) == ["bundle"]
        run_stage(toy, "bundle", lambda line: None)
    assert dvc(toy, "status", "--json").stdout.strip() == "{}"


def test_a_lock_file_cut_short_by_the_stage_is_put_back(toy: Path) -> None:
    assert dvc(toy, "repro").returncode == 0
    lock = (toy / "dvc.lock").read_bytes()
    set_stage(toy, "bundle.py", "import os\nos.truncate('dvc.lock', 500)\nraise SystemExit(1)")
    with pytest.raises(StageFailedError):
        run_stage(toy, "bundle", lambda line: None)
    assert (toy / "dvc.lock").read_bytes() == lock


@pytest.mark.parametrize("size", [0, 7, 200])
def test_a_lock_file_cut_short_by_a_kill_is_put_back_by_the_next_run(toy: Path, size: int) -> None:
    assert dvc(toy, "repro").returncode == 0
    lock = (toy / "dvc.lock").read_bytes()
    (toy / ".headland").mkdir(exist_ok=True)
    (toy / ".headland" / "dvc.lock.before").write_bytes(lock)
    os.truncate(toy / "dvc.lock", size)
    with exclusive_run(toy):
        assert mend_after_crash(toy)
    assert (toy / "dvc.lock").read_bytes() == lock
    assert Project(toy).changed() == {}


def test_a_broken_rwlock_is_removed_and_a_good_one_is_kept(toy: Path) -> None:
    assert dvc(toy, "repro").returncode == 0
    rwlock = toy / ".dvc" / "tmp" / "rwlock"
    assert rwlock.exists()
    assert mend_after_crash(toy) == []
    assert rwlock.exists()
    holder = {"pid": os.getpid(), "cmd": "this test"}
    held = {"write": {"a": holder}, "read": {"b": [holder]}}
    rwlock.write_text(json.dumps(held))
    assert mend_after_crash(toy) == []
    dead = {"pid": 2**22 + 1, "cmd": "no such process"}
    rwlock.write_text(json.dumps({"write": {"a": holder, "c": dead}, "read": {"b": [holder, dead], "d": [dead]}}))
    assert mend_after_crash(toy)
    assert json.loads(rwlock.read_text()) == held
    rwlock.write_text('{"write": {"a"')
    assert mend_after_crash(toy)
    assert Project(toy).changed() == {}
