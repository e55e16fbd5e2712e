"""A project of its own for playing seasons."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import yaml

from tasks.fleet.season_project import SeasonProjectError, change_params, commit, make_project, set_season

PARAMS = "as_of: 2009   # the season\ntraining:\n  patience: 20\n"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    (folder / ".dvc").mkdir(parents=True)
    (folder / ".dvc" / ".gitignore").write_text("/config.local\n/cache\n")
    (folder / "params.yaml").write_text(PARAMS)
    (folder / "untracked.txt").write_text("not of the project")
    for words in (["init", "-q"], ["add", "params.yaml", ".dvc/.gitignore"]):
        subprocess.run(["git", "-C", folder, *words], check=True)
    return folder


def test_the_copy_holds_what_is_tracked_with_its_changes_and_shares_the_cache(source: Path, tmp_path: Path) -> None:
    copy = make_project(source, tmp_path / "copy", {"training.patience": 3})
    assert yaml.safe_load((copy / "params.yaml").read_text()) == {"as_of": 2009, "training": {"patience": 3}}
    assert not (copy / "untracked.txt").exists()
    assert str(source / ".dvc" / "cache") in (copy / ".dvc" / "config.local").read_text()
    assert (source / "params.yaml").read_text() == PARAMS


def test_a_copy_that_is_there_stays_as_it_is(source: Path, tmp_path: Path) -> None:
    copy = make_project(source, tmp_path / "copy")
    set_season(copy, 2012)
    assert make_project(source, copy, {"training.patience": 3}) == copy
    assert yaml.safe_load((copy / "params.yaml").read_text()) == {"as_of": 2012, "training": {"patience": 20}}


def test_a_season_is_one_line_and_a_commit_only_if_something_differs(source: Path, tmp_path: Path) -> None:
    copy = make_project(source, tmp_path / "copy")
    first = commit(copy, "nothing")
    set_season(copy, 2010)
    assert (copy / "params.yaml").read_text() == PARAMS.replace("2009", "2010")
    second = commit(copy, "Season 2010")
    assert second != first
    assert commit(copy, "nothing") == second


def test_an_unknown_key_and_a_folder_without_git_are_refused(source: Path, tmp_path: Path) -> None:
    with pytest.raises(SeasonProjectError, match="patiense: no such key"):
        change_params(source / "params.yaml", {"training.patiense": 3})
    assert (source / "params.yaml").read_text() == PARAMS
    (tmp_path / "plain").mkdir()
    with pytest.raises(SeasonProjectError, match="git"):
        make_project(tmp_path / "plain", tmp_path / "other")
