"""The inbox: where sensors' files arrive, and where nothing that arrives is trusted.

    inbox/<field>.csv            records of one field since sowing, replaced each morning by renaming
    inbox/<field>.harvest.json   what the grower weighed
    rejected/<name>              what could not be read, and beside it <name>.reason.txt

A look compares names, sizes and times only; what has not changed is not read again. A file that cannot be used is left
in peace once, since it may still be being written, and moved away when it was found the same a second time.
"""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from headland_edge.durable import write_bytes

FIELD = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
MAX_BYTES = 256 * 1024
MAX_FIELDS = 256
MAX_REJECTED = 32
"""Files kept in ``rejected``; the oldest leave."""
_KEPT_BYTES = 64 * 1024
_KINDS: dict[str, Literal["records", "harvest"]] = {".csv": "records", ".harvest.json": "harvest"}
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]")
_Look = tuple[int, int, int]


@dataclass(frozen=True)
class Arrival:
    """A file that is new or has changed.

    Args:
        name: in the inbox.
        field: the field it is about.
        kind: ``records`` or ``harvest``.
        data: its bytes, at most ``MAX_BYTES``.
    """

    name: str
    field: str
    kind: Literal["records", "harvest"]
    data: bytes


@dataclass(frozen=True)
class Rejection:
    """A file that was moved away, and why."""

    name: str
    reason: str


class Inbox:
    """The inbox of one device.

    Args:
        folder: where files arrive.
        rejected: where those go that cannot be used.
    """

    def __init__(self, folder: Path, rejected: Path) -> None:
        self._folder, self._rejected = folder, rejected
        self._seen: dict[str, _Look] = {}
        self._doubted: dict[str, _Look] = {}
        self.rejections: list[Rejection] = []
        """Of the latest look and since; whoever tells about them empties it."""

    def changed(self) -> list[Arrival]:
        """What arrived since the last look, by name. Nothing is raised for what is wrong with a file or the disk."""
        try:
            with os.scandir(self._folder) as entries:
                looks = {entry.name: entry.stat(follow_symlinks=False) for entry in entries if entry.name[:1] != "."}
        except OSError:
            return []
        self._seen = {name: look for name, look in self._seen.items() if name in looks}
        self._doubted = {name: look for name, look in self._doubted.items() if name in looks}
        arrivals = []
        for name in sorted(looks):
            look = _look(looks[name])
            if self._seen.get(name) != look:
                self._seen[name] = look
                arrival = self._taken(name, looks[name])
                arrivals += [arrival] if arrival else []
        return arrivals

    def doubt(self, arrival: Arrival, reason: str) -> None:
        """It cannot be used: look at it once more, and then move it away."""
        look = self._seen.get(arrival.name)
        if look is not None and self._doubted.get(arrival.name) == look:
            self._reject(arrival.name, reason)
        elif look is not None:
            self._doubted[arrival.name] = look
            del self._seen[arrival.name]

    def again(self) -> None:
        """Let everything count as new at the next look."""
        self._seen.clear()

    def put(self, field: str, data: bytes) -> None:
        """Records of a field that came by another way. Raises ValueError for a bad name or size, OSError."""
        if not FIELD.fullmatch(field):
            raise ValueError(f"field {field[:80]!r}: give 1 to 63 lower-case letters, digits and hyphens")
        if len(data) > MAX_BYTES:
            raise ValueError(f"records of {field}: {len(data)} bytes, at most {MAX_BYTES} are taken")
        write_bytes(self._folder / f"{field}.csv", data)

    def _taken(self, name: str, found: os.stat_result) -> Arrival | None:
        field, dot, suffix = name.partition(".")
        kind = _KINDS.get(dot + suffix)
        if kind is None or not FIELD.fullmatch(field):
            named = "<field>.csv or <field>.harvest.json"
            self._reject(name, f"name it {named}, <field> of 1 to 63 lower-case letters, digits and hyphens")
            return None
        reason, data = self._read(name, found)
        if reason:
            self._reject(name, reason)
        return None if data is None else Arrival(name, field, kind, data)

    def _read(self, name: str, found: os.stat_result) -> tuple[str, bytes | None]:
        """Why a file is not to be read, or its bytes; neither for one that is gone."""
        if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
            return "not a plain file; links, folders and the like are not read", None
        if found.st_size > MAX_BYTES:
            return f"{found.st_size} bytes, at most {MAX_BYTES} are read", None
        if len(self._seen) > MAX_FIELDS * len(_KINDS):
            return f"one device serves at most {MAX_FIELDS} fields", None
        try:
            descriptor = os.open(self._folder / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            with os.fdopen(descriptor, "rb") as file:
                return "", file.read(MAX_BYTES)
        except FileNotFoundError:
            return "", None
        except OSError as error:
            return f"cannot be read ({error.strerror})", None

    def _reject(self, name: str, reason: str) -> None:
        """Move a file away; one that cannot be moved stays, and is told of again only when it changes."""
        self.rejections.append(Rejection(name, reason))
        self._doubted.pop(name, None)
        try:
            self._rejected.mkdir(parents=True, exist_ok=True)
            self._move(name, reason)
            self._make_room()
        except OSError:
            return
        self._seen.pop(name, None)

    def _move(self, name: str, reason: str) -> None:
        path, to = self._folder / name, self._free_name(name)
        found = path.lstat()
        if stat.S_ISLNK(found.st_mode) or (stat.S_ISREG(found.st_mode) and found.st_nlink > 1):
            path.unlink()  # what it leads to belongs to somebody else
        else:
            path.rename(to)
        if stat.S_ISREG(found.st_mode) and found.st_nlink == 1 and found.st_size > MAX_BYTES:
            os.truncate(to, _KEPT_BYTES)
        write_bytes(to.with_name(f"{to.name}.reason.txt"), f"{reason}\n".encode())

    def _free_name(self, name: str) -> Path:
        safe, n = _UNSAFE.sub("_", name)[:100].lstrip(".") or "unnamed", 1
        while (to := self._rejected / f"{n}-{safe}").exists() or to.with_name(f"{to.name}.reason.txt").exists():
            n += 1
        return to

    def _make_room(self) -> None:
        reasons = sorted(self._rejected.glob("*.reason.txt"), key=lambda path: path.lstat().st_mtime_ns)
        for reason in reasons[: max(0, len(reasons) - MAX_REJECTED)]:
            _remove(reason.with_name(reason.name.removesuffix(".reason.txt")))
            reason.unlink(missing_ok=True)


def _look(found: os.stat_result) -> _Look:
    return found.st_mtime_ns, found.st_size, found.st_ino


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        import shutil

        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
