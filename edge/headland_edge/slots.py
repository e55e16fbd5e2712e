"""Two slots for releases, so that an update never touches what runs.

    slots/a/bundle.tar, slots/b/bundle.tar   each with receipt.json: hash and counter of what was accepted into it
    slots/state.json, slots/state.backup.json   which slot runs, which ran before, trial, floor; each with its own hash

1. ``install`` writes an accepted bundle into the slot that does not run, flushed to the disk.
2. ``begin_trial`` renames a new state into place that points to it and remembers the slot before.
3. ``boot``, at each start, raises the trial's counter on the disk *before* the release is opened: one that takes the
   process down with it is given up after ``MAX_TRIAL_STARTS`` and the slot before runs again, without network or clock.
4. ``confirm`` ends the trial, ``roll_back`` returns at once. Neither touches the floor: only signed metadata raises it.

Nothing read from the disk is believed: a state whose hash is wrong is replaced by its backup, that by what the slots
themselves hold, and a bundle whose hash is not its receipt's does not run.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headland_edge.durable import sealed, unsealed, write_bytes

if TYPE_CHECKING:
    from headland_edge.home import Home

MAX_TRIAL_STARTS = 3
NAMES = ("a", "b")
_BUNDLE, _RECEIPT, _LOCK = "bundle.tar", "receipt.json", ".lock"
_MOST_BAD = 32
_HEX = frozenset("0123456789abcdef")


class SlotError(Exception):
    """Something asked of the slots cannot be done; the message says what and why."""


@dataclass(frozen=True)
class State:
    """What the state file holds.

    Args:
        active: slot that runs, or None before the first install.
        previous: slot to return to, or None.
        trial_starts: starts of a release on trial; None if the active one is confirmed.
        floor: counters below it may not be installed.
        bad: hashes of releases that failed their trial here, latest last.
    """

    active: str | None = None
    previous: str | None = None
    trial_starts: int | None = None
    floor: int = 0
    bad: tuple[str, ...] = ()


@dataclass(frozen=True)
class Booted:
    """The release to run.

    Args:
        slot: its name.
        path: its bundle, whose hash was found right just now.
        sha256: of it.
        counter: its release counter.
        on_trial: whether it still has to prove itself.
        events: what had to be mended or given up on the way, in sentences.
    """

    slot: str
    path: Path
    sha256: str
    counter: int
    on_trial: bool
    events: tuple[str, ...] = field(default=())


class Slots:
    """The slots below a folder; one process at a time may change them."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._events: list[str] = []
        self._state = self._read_state()

    @property
    def floor(self) -> int:
        """Counters below it may not be installed."""
        return self._state.floor

    @property
    def bad(self) -> frozenset[str]:
        """Hashes of releases that failed here."""
        return frozenset(self._state.bad)

    @property
    def on_trial(self) -> bool:
        """Whether the active release still has to prove itself."""
        return self._state.trial_starts is not None

    def running(self) -> Booted | None:
        """The release the pointer names, without starting anything; None if its slot holds none that is whole."""
        return self._verified(self._state.active) if self._state.active else None

    def holding(self, sha256: str) -> str | None:
        """Name of the slot that holds this release whole; None if neither does."""
        found = (self._verified(name) for name in NAMES)
        return next((each.slot for each in found if each and each.sha256 == sha256), None)

    def install(self, data: bytes, sha256: str, counter: int) -> str:
        """Put an accepted bundle into the slot that does not run.

        Args:
            data: the bundle.
            sha256: its hash, as signed.
            counter: its release counter.

        Returns:
            The slot's name, for ``begin_trial``.

        Raises:
            SlotError: the hash is another, or a trial is under way: its old slot is the way back.
            OSError: the disk is full or read-only; what runs is as it was.
        """
        if hashlib.sha256(data).hexdigest() != sha256:
            raise SlotError("the bundle's hash is not the one signed; fetch it again")
        if self.on_trial and self._state.previous:
            raise SlotError("a release is on trial; wait until it is confirmed or rolled back")
        if self._state.active and self._verified(self._state.active) is None:
            self._other_slot()  # what is whole is not written over, even if the pointer names the damaged one
        name = "b" if self._state.active == "a" else "a"
        folder = self._root / name
        # The receipt goes first: without it the slot counts as empty, whatever half a bundle lies there.
        (folder / _RECEIPT).unlink(missing_ok=True)
        if self._state.previous == name:
            self._write(replace(self._state, previous=None))
        write_bytes(folder / _BUNDLE, data)
        write_bytes(folder / _RECEIPT, _receipt(sha256, counter, confirmed=False))
        return name

    def begin_trial(self, slot: str) -> None:
        """Point to ``slot``; the next ``boot`` starts it. Raises SlotError if it holds no whole release."""
        if self._verified(slot) is None:
            raise SlotError(f"slot {slot} holds no whole release; install one first")
        if slot != self._state.active:
            self._write(replace(self._state, active=slot, previous=self._state.active, trial_starts=0))

    def boot(self) -> Booted | None:
        """Choose what to run, at each start of the process.

        Returns:
            The release, or None if no slot holds a whole one. Never raises for what is wrong with the disk: where
            nothing can be written, a release on trial does not start, and the one before it runs.
        """
        state = self._state
        if state.trial_starts is not None:
            if state.trial_starts >= MAX_TRIAL_STARTS:
                self._give_up(f"it was started {state.trial_starts} times and never confirmed")
            else:
                self._count_start(state.trial_starts + 1)
        found = self._verified(self._state.active)
        if found is None:
            found = self._other_slot()
        if found is None:
            return None
        events, self._events = tuple(self._events), []
        return replace(found, on_trial=self.on_trial and found.slot == self._state.active, events=events)

    def confirm(self) -> None:
        """The active release has proved itself."""
        if self.on_trial and self._state.active and (found := self._verified(self._state.active)) is not None:
            receipt = _receipt(found.sha256, found.counter, confirmed=True)
            write_bytes(self._root / found.slot / _RECEIPT, receipt)
            self._write(replace(self._state, trial_starts=None))

    def roll_back(self, reason: str, *, even_confirmed: bool = False) -> Booted | None:
        """Give up the release on trial and boot the one before; without a trial just boot again.

        Args:
            reason: for people.
            even_confirmed: give up a confirmed one as well, if the one before is still there.
        """
        if self.on_trial or (even_confirmed and self._verified(self._state.previous) is not None):
            self._give_up(reason)
        return self.boot()

    def settle(self) -> None:
        """A start of the release on trial went well, though it has not proved itself yet: starts count anew."""
        if self._state.trial_starts:
            self._write(replace(self._state, trial_starts=0))

    def abandon(self, reason: str) -> None:
        """Point back to the slot before, without holding it against the release on trial: it is only not wanted now."""
        if self.on_trial:
            self._give_up(reason, failed_here=False)

    def raise_floor(self, counter: int) -> None:
        """Nothing below ``counter`` may be installed from now on; a lower one than before changes nothing."""
        if counter > self._state.floor:
            self._write(replace(self._state, floor=counter))

    def mark_bad(self, sha256: str) -> None:
        """This release failed here and is not to be fetched again."""
        if sha256 not in self._state.bad:
            self._write(replace(self._state, bad=(*self._state.bad, sha256)[-_MOST_BAD:]))

    def forgive(self) -> None:
        """Let releases that failed here be tried once more."""
        if self._state.bad:
            self._write(replace(self._state, bad=()))

    def _count_start(self, starts: int) -> None:
        try:
            self._write(replace(self._state, trial_starts=starts))
        except OSError as error:
            self._events.append(f"the disk takes no write ({error.strerror}): a release on trial is not started")
            if (before := self._verified(self._state.previous)) is not None:
                self._state = replace(self._state, active=before.slot, previous=None, trial_starts=None)

    def _give_up(self, reason: str, *, failed_here: bool = True) -> None:
        """Point back to the slot before; where there is none, the release stays: a bad adviser beats none."""
        state = self._state
        failed, before = self._verified(state.active), self._verified(state.previous)
        if before is None:
            if failed is not None:
                self._events.append(f"release {failed.counter} failed ({reason}), and there is none to return to")
            new = replace(state, trial_starts=None, previous=None)
        else:
            told = f"release {failed.counter}" if failed else "the new release"
            self._events.append(f"{told} was given up: {reason}; release {before.counter} runs again")
            is_new = failed_here and failed is not None and failed.sha256 not in state.bad
            bad = (*state.bad, failed.sha256) if failed and is_new else state.bad
            new = replace(state, active=before.slot, previous=None, trial_starts=None, bad=bad[-_MOST_BAD:])
        try:
            self._write(new)
            # Should the state be lost, this one is not what comes back.
            if before is not None and state.active and failed_here:
                (self._root / state.active / _RECEIPT).unlink(missing_ok=True)
        except OSError as error:
            self._events.append(f"the disk takes no write ({error.strerror}): what was decided is not kept")
            self._state = new

    def _other_slot(self) -> Booted | None:
        """The active slot holds nothing whole: run whatever does, first what was confirmed, then the higher counter."""
        whole = [found for found in map(self._verified, NAMES) if found is not None]
        if not whole:
            return None
        found = max(whole, key=lambda each: (self._confirmed(each.slot), each.counter))
        if self._state.active:
            self._events.append(f"slot {self._state.active} is damaged; release {found.counter} runs from {found.slot}")
        new = replace(self._state, active=found.slot, previous=None, trial_starts=None)
        try:
            self._write(new)
        except OSError:
            self._state = new
        return found

    def _verified(self, slot: str | None) -> Booted | None:
        """What a slot holds, if receipt and bundle are whole and belong together."""
        if slot not in NAMES:
            return None
        folder = self._root / slot
        receipt = unsealed(folder / _RECEIPT)
        if receipt is None or not _is_hash(receipt.get("sha256")) or not _is_count(receipt.get("counter")):
            return None
        try:
            with (folder / _BUNDLE).open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError:
            return None
        if found != receipt["sha256"]:
            return None
        return Booted(slot, folder / _BUNDLE, found, receipt["counter"], False)

    def _confirmed(self, slot: str) -> bool:
        return (unsealed(self._root / slot / _RECEIPT) or {}).get("confirmed") is True

    def _read_state(self) -> State:
        for name in ("state.json", "state.backup.json"):
            state = _state_of(unsealed(self._root / name))
            if state is not None:
                return state
            if (self._root / name).exists():
                self._events.append(f"{name} is damaged")
        return State()

    def _write(self, state: State) -> None:
        """Put a new state into place; the one before stays as the backup."""
        now = self._root / "state.json"
        if _state_of(unsealed(now)) is not None:
            write_bytes(self._root / "state.backup.json", now.read_bytes())
        write_bytes(now, sealed(asdict(state)))
        self._state = state


@contextmanager
def slots_locked(home: Home) -> Iterator[None]:
    """Hold it to change the slots, and make ``Slots`` anew inside; the lock goes with its process.

    Where no lock can be made, on a full or read-only disk, nothing can be changed either, and nobody waits.
    """
    descriptor = _open_lock(home.slots / _LOCK)
    try:
        if descriptor is not None:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _open_lock(path: Path) -> int | None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError:
        pass
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None


def clear_leftovers(root: Path) -> int:
    """Remove what writes cut short left beside their targets; returns how many."""
    left = list(_leftovers(root))
    for path in left:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    return len(left)


def _leftovers(root: Path) -> Iterator[Path]:
    for folder in (root, *(root / name for name in NAMES)):
        if folder.is_dir():
            yield from (path for path in folder.iterdir() if path.name.startswith(".") and path.name != _LOCK)


def _receipt(sha256: str, counter: int, *, confirmed: bool) -> bytes:
    return sealed({"sha256": sha256, "counter": counter, "confirmed": confirmed})


def _state_of(plain: dict[str, Any] | None) -> State | None:
    if plain is None or set(plain) != {"active", "previous", "trial_starts", "floor", "bad"}:
        return None
    slots_fit = all(plain[key] in (None, *NAMES) for key in ("active", "previous"))
    starts_fit = plain["trial_starts"] is None or _is_count(plain["trial_starts"])
    bad_fits = isinstance(plain["bad"], list) and all(_is_hash(each) for each in plain["bad"])
    if not (slots_fit and starts_fit and bad_fits and _is_count(plain["floor"])):
        return None
    return State(**{**plain, "bad": tuple(plain["bad"])})


def _is_hash(value: object) -> bool:
    return isinstance(value, str) and len(value) == 64 and set(value) <= _HEX


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
