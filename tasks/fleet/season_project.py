"""A project of its own for playing seasons: a copy of this one, in a git repository where each season is a commit.

The play must not touch the engineer's ``params.yaml``, and each of its releases shall name a commit that holds the
params and the data versions it was made from. DVC's cache is shared with the project it is copied from, so that
weather, seasons and features that exist already are taken from there.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tasks.durable import write_text

_AUTHOR = ("-c", "user.name=headland seasons", "-c", "user.email=seasons@localhost")
_AS_OF = re.compile(r"^as_of: *\d+", re.MULTILINE)


class SeasonProjectError(Exception):
    """The copy cannot be made or written to; the message says why and what to do."""


def make_project(source: Path, folder: Path, changes: Mapping[str, Any] | None = None) -> Path:
    """Copy the tracked files of the project ``source`` to ``folder``; one that is there stays as it is.

    Args:
        source: the project's root.
        folder: where the copy goes.
        changes: values of params that differ in the copy, by dotted key (``training.patience``).

    Raises:
        SeasonProjectError: ``source`` is no git checkout, or a key is unknown.
    """
    if (folder / ".git").exists():
        return folder
    names = [name for name in _git(source, "ls-files", "-z").split("\0") if name]
    if not names:
        raise SeasonProjectError(f"{source}: not a git checkout; clone the project instead of unpacking it")
    for name in names:
        if (source / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source / name, folder / name)
    change_params(folder / "params.yaml", changes or {})
    write_text(folder / ".dvc" / "config.local", f"[cache]\n    dir = {(source / '.dvc' / 'cache').resolve()}\n")
    _git(folder, "init", "-q")
    commit(folder, "The project as it stands")
    return folder


def change_params(path: Path, changes: Mapping[str, Any]) -> None:
    """Set values of ``params.yaml`` by dotted key. Raises SeasonProjectError for a key that is not there."""
    if not changes:
        return
    content = yaml.safe_load(path.read_text())
    for dotted, value in changes.items():
        *parents, last = dotted.split(".")
        node = content
        for name in parents:
            node = node.get(name) if isinstance(node, dict) else None
        if not isinstance(node, dict) or last not in node:
            raise SeasonProjectError(f"{dotted}: no such key in {path}")
        node[last] = value
    write_text(path, yaml.safe_dump(content, sort_keys=False))


def set_season(folder: Path, as_of: int) -> None:
    """Prepare for season ``as_of``; every other line of ``params.yaml`` stays as it is."""
    path = folder / "params.yaml"
    text, found = _AS_OF.subn(f"as_of: {as_of}", path.read_text(), count=1)
    if not found:
        raise SeasonProjectError(f"{path}: has no line as_of")
    if text != path.read_text():
        write_text(path, text)


def commit(folder: Path, message: str) -> str:
    """Commit whatever differs and return the commit's hash; nothing differing makes no commit."""
    _git(folder, "add", "--all")
    if _git(folder, "status", "--porcelain"):
        _git(folder, *_AUTHOR, "commit", "-q", "-m", message)
    return _git(folder, "rev-parse", "HEAD")


def _git(folder: Path, *words: str) -> str:
    done = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SeasonProjectError(f"git {words[0]} in {folder}: {done.stderr.strip() or 'failed'}")
    return done.stdout.strip()
