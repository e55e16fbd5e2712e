"""DVC's own small files, kept whole through full disks and killed runs.

DVC rewrites ``dvc.lock`` (what every stage was made from) and ``.dvc/tmp/rwlock`` (who works on what) in place: a disk
that fills up, or a kill, in that moment leaves half a file. ``dvc.lock`` is therefore copied aside before each stage
and put back by a rename, which needs no room on the disk.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import yaml

from tasks.durable import write_bytes, write_text
from tasks.running import STATE_DIR


def _lock(root: Path) -> Path:
    return root / "dvc.lock"


def _kept(root: Path) -> Path:
    return root / STATE_DIR / "dvc.lock.before"


def _entries(path: Path) -> dict[str, Any] | None:
    """The stages recorded in a lock file; None if it is not whole."""
    from dvc.schema import COMPILED_LOCKFILE_SCHEMA  # type: ignore[import-untyped]  # ships no types
    from voluptuous import Invalid

    try:
        content = COMPILED_LOCKFILE_SCHEMA(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, yaml.YAMLError, Invalid):
        return None
    stages: dict[str, Any] = content.get("stages", {})
    return stages


@contextmanager
def lock_file_kept(root: Path, stage: str) -> Iterator[None]:
    """Run the body, in which DVC may record ``stage``; whatever happens, the other stages' records survive."""
    before = _lock(root).read_bytes() if _lock(root).exists() else None
    if before is not None:
        write_bytes(_kept(root), before)
    try:
        yield
    finally:
        if before is not None and _others(_lock(root), stage) != _others(_kept(root), stage):
            _kept(root).replace(_lock(root))
        _kept(root).unlink(missing_ok=True)


def _others(path: Path, stage: str) -> dict[str, Any] | None:
    entries = _entries(path)
    return None if entries is None else {name: entry for name, entry in entries.items() if name != stage}


def mend_after_crash(root: Path) -> list[str]:
    """Repair what a killed run or a full disk left; returns what was done. Call it under ``exclusive_run``."""
    done = []
    if _kept(root).exists() and _entries(_lock(root)) is None:
        _kept(root).replace(_lock(root))
        done.append("dvc.lock was incomplete: put back as it was before the interrupted stage")
    _kept(root).unlink(missing_ok=True)
    if _mend_rwlock(root / ".dvc" / "tmp"):
        done.append(".dvc/tmp/rwlock was incomplete or held by dead processes: cleaned")
    return done


def _mend_rwlock(folder: Path) -> bool:
    from dvc.lock import LockError, make_lock  # type: ignore[import-untyped]  # ships no types

    file = folder / "rwlock"
    if not file.exists():
        return False
    try:
        # DVC's own guard: without it a file that DVC is just writing would look broken.
        with make_lock(str(folder / "rwlock.lock"), tmp_dir=str(folder)):
            text = file.read_text(encoding="utf-8")
            mended = json.dumps(_without_the_dead(text))
            if mended != json.dumps(_parsed(text)):
                write_text(file, mended)
                return True
    except LockError:
        pass
    return False


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _without_the_dead(text: str) -> dict[str, Any]:
    """What DVC itself would drop, and zombies, which it takes for living and a container without init keeps."""
    content = _parsed(text)
    if not isinstance(content, dict):
        return {}
    kinds = {kind: holders for kind, holders in content.items() if isinstance(holders, dict)}
    if "write" in kinds:
        kinds["write"] = {path: holder for path, holder in kinds["write"].items() if _works(holder)}
    if "read" in kinds:
        kinds["read"] = {path: [one for one in all_ if _works(one)] for path, all_ in kinds["read"].items()}
        kinds["read"] = {path: all_ for path, all_ in kinds["read"].items() if all_}
    return kinds


def _works(holder: dict[str, Any]) -> bool:
    try:
        return bool(psutil.Process(int(holder["pid"])).status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False
