"""A really signed fleet and devices that trust it, for ``benchmarks/faults.py``: how they are made, broken and judged.

A device survived if afterwards it advises from a release that was signed, has every message whose ticket said that it
is kept, and takes the next update. Breaking happens in real processes: forked, so that a thousand take minutes.
"""

from __future__ import annotations

import hashlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import traceback
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from headland_edge.bundle import MANIFEST, encode_bundle, open_bundle
from headland_edge.database import Ticket
from headland_edge.home import Home, Local, Settings, Updates, UplinkSettings, make, to_toml
from headland_edge.messages import Message
from headland_edge.outbox import Outbox
from headland_edge.records import COLUMNS, Records
from headland_edge.release import Release
from headland_edge.slots import Slots, clear_leftovers, slots_locked
from headland_edge.trust import pin
from headland_edge.update import Accept, Outcome, update

from benchmarks.in_update import untried
from tasks.fleet.assign import set_assignments
from tasks.fleet.keys import ROLE_KEYS, Keyring, create, keyring
from tasks.fleet.publish import publish
from tasks.fleet.repository import Repository

DEVICE = "field-1"
CROP = "maize"
CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate")
"""Events of Python's audit hooks that change a file, beside an ``open`` for writing."""
DAY_S = 86_400.0
_USUAL = {"et0_mm": 4.0, "tmin_c": 10.0, "tmax_c": 22.0, "depletion_frac": 0.4, "taw_mm": 120.0, "lai": 2.0}
Say = Callable[[str], object]


@dataclass
class Count:
    """How often a fault was tried and survived."""

    fault: str
    tried: int = 0
    survived: int = 0
    note: str = ""
    failures: list[str] = field(default_factory=list)

    def add(self, why_not: str, where: object = "") -> None:
        """One more; ``why_not`` is empty if it was survived."""
        self.tried += 1
        self.survived += not why_not
        if why_not:
            self.failures.append(f"{where}: {why_not}")


class World:
    """A fleet with three releases made of one bundle, and repositories that assign the first, second and third.

    Args:
        root: an empty folder.
        bundle: whose releases under other counters are published.
    """

    def __init__(self, root: Path, bundle: Path) -> None:
        self.root, self._bundle = root, bundle
        self.fleet = root / "fleet"
        self.keys: Keyring = keyring(self.fleet / "keys", {})
        create(self.fleet, self.keys)
        self.signed: dict[int, str] = {}
        for number in (1, 2, 3):
            self.publish(number)
        for number in (1, 2, 3):
            self.assign(number)
            shutil.copytree(self.fleet / "repository", self.state(number))
        self.fresh = self._device("fresh")
        self.warm = self.copy(self.fresh, "warm")
        why_not = judge(self.warm, self, then=(1,), new=True)
        if why_not:
            raise RuntimeError(f"the first release cannot be installed: {why_not}")

    def state(self, number: int) -> Path:
        """A repository that assigns release ``number``."""
        return self.root / f"state{number}"

    def bundle(self, number: int, change: Callable[[dict[str, Any], dict[str, bytes]], object] | None = None) -> bytes:
        """Release ``number``; ``change`` may alter manifest and members before it is written."""
        with tarfile.open(self._bundle) as tar:
            file = tar.extractfile(MANIFEST)
            assert file is not None
            manifest = json.loads(file.read())
        manifest["release"]["counter"] += number
        # A machine that does other work at the same time is no fault of the release.
        manifest["budgets"] = {"latency_p99_ms": 500.0, "peak_rss_mb": 500.0}
        members = dict(open_bundle(self._bundle).members)
        members["MODEL_CARD.md"] = f"# Release {number}\n".encode()
        if change is not None:
            change(manifest, members)
        return encode_bundle(manifest, members)

    def file(self, data: bytes) -> Path:
        """``data`` in a file."""
        path = self.root / "made" / f"{sha(data)[:16]}.tar"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        return path

    def publish(self, number: int, data: bytes | None = None, floor: int | None = None) -> str:
        """Sign release ``number``; returns its hash."""
        data = self.bundle(number) if data is None else data
        self.signed[number] = sha(data)
        publish(self.fleet, self.file(data), self.keys, floor=floor)
        return self.signed[number]

    def assign(self, number: int) -> None:
        """Have every device want release ``number``."""
        set_assignments(self.fleet, self.keys, base=self.signed[number])

    def counter(self, number: int) -> int:
        """The signed counter of release ``number``."""
        return open_bundle(self._bundle).manifest.release.counter + number

    def copy(self, home: Home, name: str) -> Home:
        """A device like ``home``, made anew."""
        to = self.root / "devices" / name
        shutil.rmtree(to, ignore_errors=True)
        shutil.copytree(home.root, to)
        return Home(to)

    def _device(self, name: str) -> Home:
        local = Local(http_port=0, poll_s=0.05)
        settings = Settings(DEVICE, CROP, Updates(), uplink=UplinkSettings(every_s=0.1), local=local)
        home = make(self.root / "devices" / name, settings)
        for family in ROLE_KEYS:
            pin(home.updates, family, Repository(self.fleet, family).roots()[0].read_bytes())
        point_to(home, self.state(1))
        return home


def sha(data: bytes) -> str:
    """SHA-256 of ``data``."""
    return hashlib.sha256(data).hexdigest()


def point_to(home: Home, where: Path | str) -> None:
    """Let the device look at a repository's folder or address."""
    settings = home.settings()
    url, folder = (where, "") if isinstance(where, str) else ("", str(where))
    updates = replace(settings.updates, url=url, folder=folder)
    home.settings_file.write_text(to_toml(replace(settings, updates=replace(updates, daily_bytes=10**9))))


def season(mornings: int = 41) -> Records:
    """A made-up season that every release has an answer for."""
    values = np.tile([_USUAL.get(name, 0.0) for name in COLUMNS], (mornings, 1))
    return Records(CROP, date(2009, 4, 20), values)


def child(act: Callable[[Say], object], kill_after_s: float | None = None) -> tuple[int, list[str]]:
    """Do ``act`` in a process of its own; returns its exit code (negative: killed) and what it said until then."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.close(read)
            act(lambda text: os.write(write, text.encode() + b"\n"))
            code = 0
        except BaseException:  # whatever it is, the process ends here
            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(write)
    said, until_s = b"", time.monotonic() + (kill_after_s or 0.0)
    while True:
        left_s = None if kill_after_s is None else max(0.0, until_s - time.monotonic())
        if not select.select([read], [], [], left_s)[0]:
            os.kill(pid, signal.SIGKILL)
            kill_after_s = None
        elif chunk := os.read(read, 65536):
            said += chunk
        else:
            break
    os.close(read)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status), said.decode().splitlines()


def look(home: Home, accepting: Accept = untried, **more: Any) -> Outcome:
    """One look for an update in this process; without the trial in a process of its own unless told otherwise."""
    return update(home, accepting=accepting, **more)


def look_and_write(home: Home, say: Say, accepting: Accept = untried) -> None:
    """A look, while messages are put into the outbox; the id of each that is kept for good is said."""
    with Outbox(home.outbox) as outbox:
        for number in range(8):
            message = Message(DEVICE, "event", time.time(), {"event": "fault", "number": number})
            outbox.put(message).add_done_callback(partial(_say_if_kept, say, message.id))
        say(f"look {look(home, accepting).state}")


def _say_if_kept(say: Say, message_id: str, ticket: Ticket) -> None:
    if ticket.exception() is None:
        say(message_id)


def before_each_change(act: Callable[[int], None]) -> None:
    """Call ``act`` with 0, 1, … before every change this process makes to a file, from now on."""
    seen, inside = 0, False

    def hook(event: str, given: tuple[Any, ...]) -> None:
        nonlocal seen, inside
        writes = event == "open" and isinstance(given[2], int) and given[2] & (os.O_WRONLY | os.O_RDWR)
        if (event in CHANGES or writes) and not inside:
            inside = True
            act(seen)
            seen, inside = seen + 1, False

    sys.addaudithook(hook)


class Unsynced:
    """Files of this process that a power cut may leave empty: written, and not flushed to the disk since."""

    def __init__(self) -> None:
        self.paths: set[str] = set()
        flush = os.fsync

        def fsync(fd: Any) -> None:
            flush(fd)
            number = fd if isinstance(fd, int) else fd.fileno()
            self.paths.discard(str(Path(f"/proc/self/fd/{number}").readlink()))

        os.fsync = fsync
        sys.addaudithook(self._hook)

    def _hook(self, event: str, given: tuple[Any, ...]) -> None:
        if event == "open" and isinstance(given[2], int) and given[2] & (os.O_WRONLY | os.O_RDWR):
            if isinstance(given[0], str | os.PathLike):
                self.paths.add(os.path.realpath(os.fspath(given[0])))
        elif event == "os.rename":
            old, new = (os.path.realpath(os.fspath(path)) for path in given[:2])
            (self.paths.add if old in self.paths else self.paths.discard)(new)
            self.paths.discard(old)

    def drop_in(self, copy: Path, of: Path) -> None:
        """Empty them in ``copy``, a copy of ``of``."""
        for path in tuple(self.paths):
            if Path(path).is_relative_to(of.resolve()):
                place = copy / Path(path).relative_to(of.resolve())
                if place.is_file():
                    os.truncate(place, 0)


def advises(home: Home, known: Collection[str]) -> str:
    """Start the device's release as the service does and ask it; why it does not advise, or nothing."""
    release = _started(home)
    if release.loaded is None:
        return "no release runs"
    if release.loaded.sha256 not in known:
        return f"release {release.loaded.sha256[:12]} was never signed"
    advice = release.loaded.advisor.advise(season()).to_dict()
    return "" if "irrigation_mm" in advice else f"no advice: {advice}"


def completes(home: Home, world: World, number: int, where: Path | str | None = None, looks: int = 3) -> str:
    """Take release ``number``, start it, have it advise and confirm it; why that fails, or nothing."""
    point_to(home, world.state(number) if where is None else where)
    outcome = look(home)
    while outcome.state not in ("installed", "returned", "up-to-date") and looks:
        outcome, looks = look(home), looks - 1
    if outcome.state not in ("installed", "returned", "up-to-date"):
        return f"the next update ends {outcome.state} ({outcome.code}: {outcome.text})"
    why_not = advises(home, {world.signed[number]})
    with slots_locked(home):
        Slots(home.slots).confirm()
    return why_not


def kept(home: Home, ids: Collection[str]) -> str:
    """Which of ``ids`` the outbox lost, if any."""
    with Outbox(home.outbox) as outbox:
        lost = set(ids) - {message.id for message in outbox.pending()}
    return f"{len(lost)} messages lost" if lost else ""


def judge(
    home: Home, world: World, ids: Collection[str] = (), then: tuple[int, ...] = (2, 3), new: bool = False
) -> str:
    """Why a device did not survive, or nothing; ``new``: it may be without a release still. In a process of its own."""

    def act(say: Say) -> None:
        why_not = advises(home, world.signed.values())
        if new and why_not == "no release runs":
            why_not = ""
        why_not = why_not or kept(home, ids)
        for number in then:
            why_not = why_not or completes(home, world, number)
        say(f"judged {why_not}")

    return judged(*child(act))


def judged(code: int, said: list[str]) -> str:
    """What ``judge``'s process came to."""
    found = next((line for line in said if line.startswith("judged ")), None)
    return f"the judging process ended with {code}" if found is None else found.removeprefix("judged ")


@contextmanager
def small_disk(place: Path, megabytes: int = 8) -> Iterator[Path | None]:
    """A disk of few megabytes; None where none may be mounted (only root may)."""
    place.mkdir(parents=True)
    words = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(words, capture_output=True, check=False).returncode != 0:
        yield None
        return
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def _started(home: Home) -> Release:
    with slots_locked(home):
        clear_leftovers(home.slots)
    release = Release(home, CROP, lambda *_, **__: None)
    release.start()
    return release
