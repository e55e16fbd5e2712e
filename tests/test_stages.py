"""Stages seen and run from outside, on a small DVC project."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.child import start
from tasks.running import OrphanAliveError, read_record, recorded, refuse_over_orphan
from tasks.stages import Project, ProjectError, StageFailedError, StageTimedOutError, UnknownStageError, run_stage
from tests.toy import alive, dvc, make_toy, python_environment, set_sleeper, set_stage, sleeper_pids

ORDER = ["weather", "train@irrigation", "train@nitrogen", "train@yield", "bundle"]


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    return make_toy(tmp_path / "toy")


def _run_changed(folder: Path) -> list[str]:
    project = Project(folder)
    ran = []
    for stage in project.stages:
        if project.why_changed(stage.name):
            run_stage(folder, stage.name, lambda line: None)
            ran.append(stage.name)
    return ran


def test_stages_come_in_dvc_s_order_with_dvc_s_names(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (toy / "deeper").mkdir()
    monkeypatch.chdir(toy / "deeper")
    project = Project.find(Path.cwd())
    assert project.root == toy
    assert [stage.name for stage in project.stages] == ORDER
    assert project.stages[1].command == "python train.py irrigation"
    assert list(project.changed()) == ORDER


def test_only_what_changed_runs_and_dvc_agrees(toy: Path) -> None:
    assert _run_changed(toy) == ORDER
    assert dvc(toy, "status", "--json").stdout.strip() == "{}"
    assert _run_changed(toy) == []
    (toy / "rain.txt").write_text("5\n")
    assert _run_changed(toy) == ORDER
    # Another program with the same result: what comes after it is not touched.
    (toy / "weather.py").write_text("# said differently\n" + (toy / "weather.py").read_text())
    assert _run_changed(toy) == ["weather"]


def test_a_project_kept_open_sees_what_happened_meanwhile(toy: Path) -> None:
    project = Project(toy)
    assert project.why_changed("bundle")
    assert dvc(toy, "repro").returncode == 0
    assert project.changed() == {}
    params = (toy / "params.yaml").read_text()
    (toy / "params.yaml").write_text(params.replace("seed: ", "seed: 1"))
    assert list(project.changed()) == ["train@irrigation", "train@nitrogen", "train@yield"]


def test_an_unchanged_stage_runs_if_forced(toy: Path) -> None:
    _run_changed(toy)
    lines: list[str] = []
    run_stage(toy, "weather", lines.append)
    assert "reading the rain" not in lines
    run_stage(toy, "weather", lines.append, force=True)
    assert "reading the rain" in lines


def test_outputs_are_found_where_dvc_says(toy: Path) -> None:
    assert Project(toy).find_output("bundle", "*.tar") is None
    _run_changed(toy)
    assert Project(toy).find_output("bundle", "*.tar") == toy / "data" / "bundle" / "headland-2009.tar"
    assert Project(toy).find_output("no such stage", "*") is None


def test_stages_are_chosen_by_name_or_family(toy: Path) -> None:
    project = Project(toy)
    assert project.select(["train", "bundle"]) == {*ORDER[1:4], "bundle"}
    assert project.select(["train@yield"]) == {"train@yield"}
    with pytest.raises(UnknownStageError, match="train@yield"):
        project.select(["train@yeild"])


def test_what_is_no_project_is_named(tmp_path: Path, toy: Path) -> None:
    with pytest.raises(ProjectError, match=str(tmp_path)):
        Project.find(tmp_path)
    (toy / "dvc.yaml").write_text("stages:\n  weather:\n    command: x\n")
    with pytest.raises(ProjectError, match=r"dvc\.yaml"):
        Project(toy)


def test_a_failed_stage_tells_its_exit_code_and_last_words(toy: Path) -> None:
    set_stage(toy, "weather.py", "import sys\nprint('the gauge is broken')\nsys.exit(3)")
    with pytest.raises(StageFailedError) as failure:
        run_stage(toy, "weather", lambda line: None)
    assert (failure.value.stage, failure.value.stage_exit) == ("weather", 3)
    assert "the gauge is broken" in failure.value.tail
    assert read_record(toy) is None


def test_a_stage_s_own_signal_is_named(toy: Path) -> None:
    set_stage(toy, "weather.py", "import os\nos.kill(os.getpid(), 9)")
    with pytest.raises(StageFailedError, match="SIGKILL"):
        run_stage(toy, "weather", lambda line: None)


@pytest.mark.parametrize("manner", [{}, {"stubborn": True}, {"escaping": True}], ids=["plain", "stubborn", "escaping"])
def test_when_time_is_up_no_process_of_the_stage_is_left(toy: Path, manner: dict[str, bool]) -> None:
    set_sleeper(toy, **manner)
    with pytest.raises(StageTimedOutError):
        run_stage(toy, "weather", lambda line: None, timeout_s=5, grace_s=0.5)
    pids = sleeper_pids(toy)
    assert len(pids) == 2
    assert alive(pids) == []


def test_an_error_while_telling_a_line_ends_the_stage(toy: Path) -> None:
    set_sleeper(toy)

    def fail(line: str) -> None:
        if line == "asleep":
            raise OSError("the log is gone")

    with pytest.raises(OSError, match="the log is gone"):
        run_stage(toy, "weather", fail)
    assert alive(sleeper_pids(toy)) == []
    assert read_record(toy) is None


def test_a_process_left_behind_by_a_finished_stage_is_ended(toy: Path) -> None:
    text = (
        "import os, subprocess\nfrom pathlib import Path\n"
        "left = subprocess.Popen(['sleep', '600'])\n"
        "Path('pids').write_text(str(left.pid))\nos.makedirs('data')\nPath('data/weather.txt').write_text('1')"
    )
    set_stage(toy, "weather.py", text)
    run_stage(toy, "weather", lambda line: None, grace_s=0.5)
    assert alive(sleeper_pids(toy)) == []
    assert Project(toy).why_changed("weather") == ()


def test_an_unrecorded_command_never_runs(tmp_path: Path) -> None:
    """The caller dies between start and go: its end of the gate closes."""
    text = (
        "import os\nfrom pathlib import Path\nfrom tasks.child import start\n"
        "child = start(['/bin/sh', '-c', 'echo ran > ran'], Path.cwd(), os.environ, 'token')\n"
        "print(child.family.pid, flush=True)\nos.kill(os.getpid(), 9)"
    )
    done = subprocess.run(
        [sys.executable, "-c", text],
        cwd=tmp_path,
        env=python_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    pid = int(done.stdout)
    psutil.wait_procs([psutil.Process(pid)] if psutil.pid_exists(pid) else [], timeout=30)
    assert alive([pid]) == []
    assert not (tmp_path / "ran").exists()


@settings(deadline=None, max_examples=15)
@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\r\n\0"), max_size=20), max_size=5))
def test_lines_arrive_as_printed(texts: list[str]) -> None:
    program = f"import sys\nsys.stdout.buffer.write({''.join(text + chr(10) for text in texts).encode()!r})"
    child = start([sys.executable, "-S", "-c", program], Path.cwd(), os.environ, uuid.uuid4().hex)
    child.go()
    lines = list(child.lines())
    assert child.close(0.0) == 0
    assert lines == [text.rstrip() for text in texts]


def test_a_progress_bar_and_an_unfinished_line_arrive(tmp_path: Path) -> None:
    child = start(["printf", r"1 of 2\r2 of 2\r\ndone\n\303(\nno end"], tmp_path, os.environ, uuid.uuid4().hex)
    child.go()
    lines = list(child.lines())
    child.close(0.0)
    assert lines == ["1 of 2", "2 of 2", "done", "\ufffd(", "no end"]


def test_a_record_is_an_orphan_only_while_that_very_process_lives(tmp_path: Path) -> None:
    child = start(["sleep", "600"], tmp_path, os.environ, uuid.uuid4().hex)
    child.go()
    stranger = replace(child.family, created_s=child.family.created_s - 1000, token="another")
    with recorded(tmp_path, "weather", "sleep 600", stranger):
        refuse_over_orphan(tmp_path)
    with recorded(tmp_path, "weather", "sleep 600", child.family):
        with pytest.raises(OrphanAliveError, match="sleep 600") as refusal:
            refuse_over_orphan(tmp_path)
        assert (refusal.value.pid, refusal.value.stage) == (child.family.pid, "weather")
        child.close(0.5)
        refuse_over_orphan(tmp_path)


@given(
    st.binary(max_size=60) | st.dictionaries(st.text(max_size=8), st.integers(), max_size=3).map(repr).map(str.encode)
)
def test_a_record_that_says_nothing_is_ignored(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    folder = tmp_path_factory.mktemp("project")
    (folder / ".headland").mkdir()
    (folder / ".headland" / "running.json").write_bytes(content)
    assert read_record(folder) is None
    refuse_over_orphan(folder)


def test_a_stage_needs_itself_and_all_it_is_made_from(toy: Path) -> None:
    project = Project(toy)
    assert [stage.name for stage in project.needed_for(["train@yield"])] == ["weather", "train@yield"]
    assert [stage.name for stage in project.needed_for(["train"])] == ORDER[:4]
    assert [stage.name for stage in project.needed_for([])] == ORDER
    with pytest.raises(UnknownStageError, match="Did you mean 'bundle'"):
        project.needed_for(["bundel"])
