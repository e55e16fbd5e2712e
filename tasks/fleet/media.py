"""What devices without network get: the long-lived twins of the repositories, on a stick."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from headland_edge.trust import FAMILY
from headland_edge.update import STICK_FOLDER

from tasks.durable import replacing_dir
from tasks.fleet.assign import assigned
from tasks.fleet.repository import FleetError, Repository, locked

REPOSITORIES = tuple(name for name in FAMILY if name.startswith("media"))


@dataclass(frozen=True)
class Stick:
    """What was written.

    Args:
        folder: on the stick.
        files: in it.
        size_bytes: of all of them.
        serial: of the assignments.
    """

    folder: Path
    files: int
    size_bytes: int
    serial: int


def write_stick(fleet: Path, folder: Path) -> Stick:
    """Put all that is signed for sticks into ``folder``/headland, whole or not at all.

    Raises:
        FleetError: a file is missing or damaged, the stick is not in, or its folder ``headland`` holds something else.
        OSError: the stick is full or cannot be written; what was on it stays.
    """
    if not folder.is_dir():
        raise FleetError(f"{folder}: no such folder; is the stick in?")
    to = folder / STICK_FOLDER
    if to.exists() and {path.name for path in to.iterdir()} - set(REPOSITORIES):
        raise FleetError(f"{to}: holds something else; empty it, or give another folder")
    with locked(fleet), replacing_dir(to) as aside:
        for name in REPOSITORIES:
            _copy(Repository(fleet, name), aside / name)
        files = [path for path in aside.rglob("*") if path.is_file()]
        size_bytes = sum(path.stat().st_size for path in files)
    return Stick(to, len(files), size_bytes, assigned(fleet).serial)


def _copy(repository: Repository, to: Path) -> None:
    """All roots, the metadata that counts now, and every file it names, checked against its hash."""
    if repository.timestamp() is None:
        raise FleetError(f"{repository.name}: nothing is signed yet; make the fleet with: headland fleet init")
    for path in [*repository.roots(), *repository.current()]:
        (to / "metadata").mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, to / "metadata" / path.name)
    for name in repository.targets():
        data = repository.content(name)
        stored = to / "targets" / repository.stored(name)
        stored.parent.mkdir(parents=True, exist_ok=True)
        stored.write_bytes(data)
