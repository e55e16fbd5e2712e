"""A file or folder is the old one or the new one, whatever goes wrong in between."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.durable import replacing, replacing_dir, write_bytes, write_json, write_text

ROOT = Path(__file__).parents[1]


@given(first=st.binary(max_size=200), second=st.binary(max_size=200))
def test_what_is_written_is_there_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, first: bytes, second: bytes
) -> None:
    folder = tmp_path_factory.mktemp("d") / "new" / "folder"
    for data in (first, second):
        write_bytes(folder / "file", data)
        assert (folder / "file").read_bytes() == data
    assert [entry.name for entry in folder.iterdir()] == ["file"]
    assert (folder / "file").stat().st_mode & 0o777 == 0o644


def test_an_error_while_writing_leaves_the_old_file_alone(tmp_path: Path) -> None:
    write_text(tmp_path / "file", "old")

    def half() -> None:
        with replacing(tmp_path / "file") as aside:
            aside.write_text("ne")
            assert (tmp_path / "file").read_text() == "old"
            raise RuntimeError

    with pytest.raises(RuntimeError):
        half()
    assert {entry.name: entry.read_text() for entry in tmp_path.iterdir()} == {"file": "old"}


def test_numbers_json_does_not_have_are_refused_and_nothing_is_written(tmp_path: Path) -> None:
    write_json(tmp_path / "file.json", {"b": 1, "a": [1.5, None]})
    assert json.loads((tmp_path / "file.json").read_text()) == {"a": [1.5, None], "b": 1}
    assert (tmp_path / "file.json").read_text().index('"a"') < (tmp_path / "file.json").read_text().index('"b"')
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "file.json", {"a": float("nan")})
    assert json.loads((tmp_path / "file.json").read_text())["b"] == 1


def test_a_folder_is_replaced_whole(tmp_path: Path) -> None:
    for names in (("a", "sub/b"), ("c",)):
        with replacing_dir(tmp_path / "out") as aside:
            for name in names:
                (aside / name).parent.mkdir(exist_ok=True)
                (aside / name).write_text(name)
    assert [entry.name for entry in (tmp_path / "out").rglob("*")] == ["c"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]


def test_an_error_while_filling_a_folder_leaves_the_old_one_alone(tmp_path: Path) -> None:
    write_text(tmp_path / "out" / "a", "old")

    def half() -> None:
        with replacing_dir(tmp_path / "out") as aside:
            (aside / "a").write_text("new")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        half()
    assert (tmp_path / "out" / "a").read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]


def test_the_old_folder_survives_when_the_new_one_cannot_take_its_place(tmp_path: Path) -> None:
    write_text(tmp_path / "out" / "a", "old")
    with pytest.raises(OSError, match="No such file"), replacing_dir(tmp_path / "out") as aside:
        shutil.rmtree(aside)
    assert (tmp_path / "out" / "a").read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]


def child(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    lines = f"import os, resource, signal\nfrom pathlib import Path\nfrom tasks.durable import *\n{code}"
    return subprocess.run(
        [sys.executable, "-c", lines],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("call", ["replacing(Path('out/a'))", "replacing_dir(Path('out'))"])
def test_a_process_killed_while_writing_leaves_the_old_content(tmp_path: Path, call: str) -> None:
    write_text(tmp_path / "out" / "a", "old")
    target = "aside" if "dir" not in call else "(aside / 'a')"
    killed = child(
        f"with {call} as aside:\n    {target}.write_text('ne')\n    os.kill(os.getpid(), signal.SIGKILL)", tmp_path
    )
    assert killed.returncode == -signal.SIGKILL
    assert (tmp_path / "out" / "a").read_text() == "old"
    write_text(tmp_path / "out" / "a", "new")
    assert (tmp_path / "out" / "a").read_text() == "new"


def test_no_room_for_the_new_file_leaves_the_old_one(tmp_path: Path) -> None:
    """A limit on the size of files stands in for a full disk: the write fails half way with an OSError."""
    write_text(tmp_path / "a", "old")
    full = child(
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "try:\n    write_bytes(Path('a'), bytes(10000))\nexcept OSError as error:\n    print(error.errno)",
        tmp_path,
    )
    assert full.stdout.strip().isdigit(), full.stderr
    assert {entry.name: entry.read_text() for entry in tmp_path.iterdir()} == {"a": "old"}
