"""The release that runs: chosen at the start, confirmed when it has proved itself, given up when it fails.

- ``start`` lets the slots choose (``Slots.boot``), opens what they chose, and goes to the other slot if that fails.
- A release on trial that raises anything but a refusal is given up at once. A confirmed one as well, while the release
  before is still there: advice from an older release is worth more than none.
- A release that takes the process down leaves a trace of the crash in ``crash.txt``. On trial the slots count its
  starts; one already confirmed is given up after ``MAX_CRASHES``. A kill or a power cut leaves no such trace, and
  counts against nobody.

What was told last about releases stands in ``told.json``: the running one, and the one that failed last.
"""

from __future__ import annotations

import faulthandler
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headland_edge.advisor import Advisor
from headland_edge.bundle import Bundle, BundleError, open_bundle
from headland_edge.durable import sealed, unsealed, write_bytes
from headland_edge.home import Home
from headland_edge.slots import Booted, Slots, slots_locked

MAX_CRASHES = 3
Tell = Callable[..., None]
"""Called with the word of an event, a sentence, and whatever else belongs to it."""


@dataclass(frozen=True)
class Loaded:
    """A release that advises."""

    booted: Booted
    bundle: Bundle
    advisor: Advisor

    @property
    def sha256(self) -> str:
        """Of its bundle."""
        return self.booted.sha256

    def lineage(self) -> dict[str, Any]:
        """What the journal keeps of where it comes from."""
        manifest = self.bundle.manifest
        lineage = manifest.lineage
        return {
            "bundle_sha256": self.sha256,
            "counter": manifest.release.counter,
            "as_of": manifest.release.as_of,
            "git_commit": lineage.get("git_commit"),
            "data_versions": lineage.get("data_versions", lineage.get("data", {})),
            "run_id": lineage.get("run_id"),
        }


class Release:
    """The release of one device.

    Args:
        home: the device's folder.
        crop: that a release on trial must advise on.
        tell: takes events.
    """

    def __init__(self, home: Home, crop: str, tell: Tell) -> None:
        self._home, self._crop, self._tell = home, crop, tell
        self._told = home.root / "told.json"
        self._failed: dict[str, Any] | None = None
        self._pointer: tuple[int, int, int] | None = None
        self._known: str | None = None
        self.loaded: Loaded | None = None
        self.on_trial = False

    def start(self) -> None:
        """Choose, open, and say what changed since the last start."""
        before = told(self._home)
        self._failed = before.get("failed")
        crashed = self._crashed()
        with slots_locked(self._home):
            slots = Slots(self._home.slots)
            pointed, was_trial = slots.running(), slots.on_trial
            is_same = pointed is not None and pointed.sha256 == before.get("sha256")
            crashes = before["crashes"] + crashed if is_same else 0
            if crashes >= MAX_CRASHES and not was_trial:
                booted = slots.roll_back(f"it took the process down {crashes} times", even_confirmed=True)
            else:
                booted = slots.boot()
            self._know(slots)
        gone = pointed is not None and (booted is None or booted.sha256 != pointed.sha256)
        if gone and pointed is not None and booted is not None:
            self._gave_up(pointed, "; ".join(booted.events))
        elif booted is not None and booted.events:
            self._tell("damaged", "; ".join(booted.events))
        self._open_one_of(booted)
        if self.loaded is None:
            self._tell("no_release", "no release can run here; one is taken over as soon as it is installed")
        else:
            self._remember(0 if gone or crashes >= MAX_CRASHES else crashes)

    def moved(self) -> bool:
        """Whether the slots now point to another release than the one that runs."""
        if not self._look_at_pointer():
            return False
        named = Slots(self._home.slots).running()
        return named is not None and named.sha256 != self._known

    def confirm(self) -> None:
        """It has proved itself. Does nothing if the slots do not point to it any more."""
        if self.loaded is None or not self.on_trial:
            return
        try:
            with slots_locked(self._home):
                slots = Slots(self._home.slots)
                named = slots.running()
                if named is None or named.sha256 != self.loaded.sha256:
                    return
                slots.confirm()
        except OSError as error:
            self._tell("damaged", f"the disk takes no write ({error.strerror}): the release stays on trial")
            return
        self.on_trial = False
        counter = self.loaded.booted.counter
        self._remember(0)
        self._tell("confirmed", f"release {counter} has proved itself", sha256=self.loaded.sha256, counter=counter)

    def settle(self) -> None:
        """This start went well, though the trial goes on."""
        if self.on_trial:
            with suppress(OSError), slots_locked(self._home):
                Slots(self._home.slots).settle()

    def fail(self, reason: str) -> bool:
        """It raised something. Returns whether another release runs now, in its place."""
        loaded = self.loaded
        if loaded is None:
            return False
        with slots_locked(self._home):
            slots = Slots(self._home.slots)
            named = slots.running()
            if named is not None and named.sha256 != self._known:
                return False  # another was installed meanwhile, and is not to blame
            booted = slots.roll_back(reason, even_confirmed=True)
            self._know(slots)
        if booted is None or booted.sha256 == loaded.sha256:
            self.on_trial = False
            return False
        self.loaded = None
        self._gave_up(loaded.booted, "; ".join(booted.events) or reason)
        self._open_one_of(booted)
        self._remember(0)
        return self.loaded is not None

    def health(self) -> dict[str, Any]:
        """The parts ``release`` and ``failed`` of a health message."""
        running = None
        if self.loaded is not None:
            running = {
                "sha256": self.loaded.sha256,
                "counter": self.loaded.booted.counter,
                "as_of": self.loaded.bundle.manifest.release.as_of,
                "state": "trial" if self.on_trial else "confirmed",
            }
        failed = self._failed if self._failed and (running or {}).get("sha256") != self._failed["sha256"] else None
        return {"release": running, "failed": failed}

    def refused(self, outcome: dict[str, Any]) -> None:
        """A look for an update refused a release; told once for each release and cause."""
        failed = {
            "sha256": outcome.get("sha256"),
            "counter": outcome.get("counter"),
            "state": "refused",
            "reason": f"{outcome.get('code')}: {outcome.get('text')}",
        }
        if not failed["sha256"] or self._same_failure(failed):
            return
        self._failed = failed
        self._remember(told(self._home)["crashes"])
        self._tell("refused", failed["reason"], sha256=failed["sha256"], counter=failed["counter"])

    def _same_failure(self, failed: dict[str, Any]) -> bool:
        # A release that was rolled back is refused from then on because it was; that says nothing new.
        before: dict[str, Any] = self._failed or {}
        return before.get("sha256") == failed["sha256"] and (
            before.get("state") == "rolled_back" or before.get("reason") == failed["reason"]
        )

    def _open_one_of(self, booted: Booted | None) -> None:
        """Open what was booted, or else what the other slot holds."""
        while booted is not None:
            try:
                self.loaded = _opened(booted, self._crop if booted.on_trial else None)
            except Exception as error:  # a bundle may fail in any way; the device must stay up
                self._tell("damaged", f"release {booted.counter} does not open: {error}")
                with slots_locked(self._home):
                    slots = Slots(self._home.slots)
                    other = slots.roll_back(str(error), even_confirmed=True)
                    self._know(slots)
                if other is None or other.sha256 == booted.sha256:
                    return
                self._gave_up(booted, f"it does not open: {error}")
                booted = other
                continue
            self.on_trial = booted.on_trial
            self._tell_if_new(booted)
            return

    def _tell_if_new(self, booted: Booted) -> None:
        before = told(self._home)
        if booted.on_trial and (before.get("sha256"), before.get("state")) != (booted.sha256, "trial"):
            text = f"release {booted.counter} is installed and on trial"
            self._tell("installed", text, sha256=booted.sha256, counter=booted.counter)

    def _gave_up(self, failed: Booted, reason: str) -> None:
        self._failed = {
            "sha256": failed.sha256,
            "counter": failed.counter,
            "state": "rolled_back",
            "reason": reason[:300],
        }
        self._tell("rolled_back", reason[:300], sha256=failed.sha256, counter=failed.counter)

    def _remember(self, crashes: int) -> None:
        running = self.health()["release"] or {}
        plain = {
            "sha256": running.get("sha256"),
            "state": running.get("state"),
            "failed": self._failed,
            "crashes": crashes,
        }
        if plain != told(self._home):
            with suppress(OSError):  # it is told again, no worse
                write_bytes(self._told, sealed(plain))

    def _know(self, slots: Slots) -> None:
        """Remember what the slots point to after changes of this process's own."""
        named = slots.running()
        self._known = named.sha256 if named else None

    def _look_at_pointer(self) -> bool:
        """Whether the slots' pointer was written since the last look."""
        try:
            found = (self._home.slots / "state.json").stat()
        except OSError:
            return False
        now = (found.st_mtime_ns, found.st_size, found.st_ino)
        changed, self._pointer = now != self._pointer, now
        return changed

    def _crashed(self) -> bool:
        """Whether the process crashed last time; and have the next crash leave its trace."""
        path = self._home.root / "crash.txt"
        trace = ""
        with suppress(OSError):
            with path.open("rb") as file:
                trace = file.read(2000).decode(errors="replace").strip()
            if trace:
                path.unlink()
        with suppress(OSError):
            _leave_trace_of_crashes(path)
        if trace:
            self._tell("damaged", f"the process crashed: {trace.splitlines()[0][:200]}")
        return bool(trace)


def told(home: Home) -> dict[str, Any]:
    """What was told last: ``sha256``, ``state``, ``failed``, ``crashes``."""
    plain = unsealed(home.root / "told.json") or {}
    failed, crashes = plain.get("failed"), plain.get("crashes", 0)
    whole = failed is None or (isinstance(failed, dict) and isinstance(failed.get("sha256"), str))
    return plain if plain and whole and type(crashes) is int else {"crashes": 0}


def _opened(booted: Booted, crop: str | None) -> Loaded:
    """Open and verify a release; one on trial also reproduces its golden outputs, and advises on ``crop``."""
    bundle = open_bundle(booted.path)
    if bundle.sha256 != booted.sha256:
        raise BundleError(f"{booted.path}: changed since it was verified")
    if crop is not None:
        if crop not in bundle.manifest.policy:
            raise BundleError(f"{booted.path}: does not advise on {crop}")
        bundle.verify_golden()
    return Loaded(booted, bundle, Advisor(bundle))


def _leave_trace_of_crashes(path: Path) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
    faulthandler.enable(descriptor)
