"""One look for an update, from the signed wish to a release on trial.

1. The signed assignments say which release this device should run, the signed releases that it may exist. Only what
   both name is installed. Their floors (serial, release counter) are kept; a local rollback never moves them.
2. A release that runs already is left alone. One on trial that is no longer wanted is given up first, so that a stuck
   trial never blocks what comes next.
3. The new release comes from the other slot if that still holds it, else as a patch to what runs, else whole. Downloads
   go on where they stopped, within the day's bytes.
4. It is tried on this very device (``accept``), written into the free slot and put on trial for the service to start.

Nothing of this touches what runs. Whatever goes wrong is an ``Outcome`` with a word and a sentence, kept in
<updates>/last.json, and the next look goes on from there.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from headland_edge.accept import Accepted, Device, NotAccepted, accept
from headland_edge.assignment import MAX_BYTES, AssignmentError, Assignments, decode
from headland_edge.bundle import MAX_TOTAL_BYTES
from headland_edge.durable import sealed, unsealed, write_bytes
from headland_edge.home import Home, Settings
from headland_edge.slots import Booted, SlotError, Slots, slots_locked

if TYPE_CHECKING:  # tuf and what it brings are loaded by a look only, never by the service
    from headland_edge.fetch import Source
    from headland_edge.trust import Signed, Target

UpdateState = Literal["no-wish", "up-to-date", "installed", "returned", "refused", "waiting", "offline", "signature"]
Accept = Callable[[bytes, str, Device], Accepted]
STICK_FOLDER = "headland"
"""Folder on a stick that holds the repositories."""
_EXIT_CODES = {"waiting": 1, "offline": 1, "refused": 7, "signature": 7}
_CAUSE_IN_RELEASE = frozenset({"size", "format", "hardware", "golden", "slow", "memory", "crash"})


@dataclass(frozen=True)
class Outcome:
    """What a look for an update came to.

    Args:
        state: ``no-wish``: nobody wants anything of this device; ``up-to-date``; ``installed``: the new release is on
            trial from the next start; ``returned``: a trial was given up for the release before; ``refused``: this
            release will not be installed; ``waiting``: later looks go on (day's bytes, disk, another look under way);
            ``offline``; ``signature``: what was signed is not to be believed, or not now.
        desired: SHA-256 of the release wanted, if known.
        counter: its release counter, if known.
        code: one word for the cause; empty if all is well.
        text: a sentence for people.
        bytes_read: from network or stick.
        method: how the release came: ``patch``, ``whole``, ``slot`` (it was there still), or empty.
    """

    state: UpdateState
    desired: str | None = None
    counter: int | None = None
    code: str = ""
    text: str = ""
    bytes_read: int = 0
    method: Literal["", "patch", "whole", "slot"] = ""

    @property
    def exit_code(self) -> int:
        """Of the command: 0 done, 1 not now, 7 refused or not to be believed."""
        return _EXIT_CODES.get(self.state, 0)


class _Ended(Exception):  # noqa: N818  # an answer, not an error of the program
    """The look ends here."""

    def __init__(self, state: UpdateState, code: str, text: str) -> None:
        super().__init__(text)
        self.state: UpdateState = state
        self.code = code


@dataclass
class _Look:
    """What a look has found out so far; whatever ends it tells that much."""

    home: Home
    accept: Accept
    now_s: float
    source: Source | None = None
    desired: str | None = None
    counter: int | None = None
    method: Literal["", "patch", "whole", "slot"] = ""

    def outcome(self, state: UpdateState, code: str = "", text: str = "") -> Outcome:
        came = self.source.bytes_read if self.source else 0
        return Outcome(state, self.desired, self.counter, code, text, came, self.method)


def update(
    home: Home,
    *,
    stick: Path | None = None,
    now_s: Callable[[], float] = time.time,
    accepting: Accept = accept,
) -> Outcome:
    """Look once for an update, and install what is wanted.

    Args:
        home: the device's folder.
        stick: folder of a stick to take it from, instead of where the settings say.
        now_s: the system clock, seconds since 1970; it may be wrong.
        accepting: tries a release on this device.

    Raises:
        SettingsError: the device's settings cannot be used.
    """
    look = _Look(home, accepting, now_s())
    settings = home.settings()
    with _alone(home) as alone:
        if not alone:
            return look.outcome("waiting", "busy", "another look for an update is under way")
        outcome = _told(look, lambda: _find(look, settings, stick, now_s))
        with suppress(OSError):  # a disk that takes nothing must not hide what happened
            write_bytes(home.updates / "last.json", sealed(_plain(outcome, look.now_s)))
    return outcome


def last_outcome(home: Home) -> dict[str, Any] | None:
    """What the last look came to: state, sha256, counter, code, text, time_s, bytes_read, method; None if unknown."""
    return unsealed(home.updates / "last.json")


def _told(look: _Look, act: Callable[[], Outcome]) -> Outcome:
    """The outcome of ``act``, or of what ended it."""
    from headland_edge.fetch import BudgetError, FetchError, LengthError, MissingError
    from headland_edge.trust import TrustError

    try:
        return act()
    except _Ended as ended:
        return look.outcome(ended.state, ended.code, str(ended))
    except TrustError as error:
        return look.outcome("signature", error.code, str(error))
    except AssignmentError as error:
        return look.outcome("signature", "assignments", str(error))
    except BudgetError as error:
        return look.outcome("waiting", "budget", str(error))
    except LengthError as error:
        return look.outcome("signature", "damaged", str(error))
    except MissingError as error:
        return look.outcome("waiting", "missing", str(error))
    except FetchError as error:
        return look.outcome("offline", "offline", str(error))
    except SlotError as error:
        return look.outcome("waiting", "slots", str(error))
    except OSError as error:
        return look.outcome("waiting", "disk", _disk_text(error))


def _find(look: _Look, settings: Settings, stick: Path | None, now_s: Callable[[], float]) -> Outcome:
    from headland_edge.trust import Trust, bundle_name

    source, prefix = _source(look.home, settings, stick, now_s)
    if source is None:
        return look.outcome("no-wish", text="neither updates.url nor updates.folder is set in device.toml")
    look.source = source
    trust = Trust(look.home.updates, source, look.now_s)
    assigned = trust.refresh(f"{prefix}assignments")
    wish = _assignments(look.home, assigned, source)
    _check_serial(trust.floors.serial("assignments"), wish.serial)
    trust.floors.raise_to("assignments", assigned.keys, serial=wish.serial)
    look.desired = wish.desired(settings.device_id)
    released = trust.refresh("media" if prefix else "releases")
    floor = released.floor()
    target = None if look.desired is None else released.target(bundle_name(look.desired))
    ready = _prepare(look, target, floor)
    if ready is not None:
        return ready
    assert look.desired is not None
    assert target is not None
    data = _fetch(look, source, released, target)
    _try(look, data)
    return _install(look, data)


def _prepare(look: _Look, target: Target | None, floor: int) -> Outcome | None:
    """All that can be done without fetching; None if the release has to be fetched.

    The floor rises first, whatever is wanted. A trial of another release is given up only for one that can be had.
    """
    with slots_locked(look.home):
        slots = Slots(look.home.slots)
        slots.raise_floor(floor)
        if look.desired is None:
            return look.outcome("no-wish", text="no release is assigned to this device")
        look.counter = _counter(target, look.desired)
        running = slots.running()
        if running and running.sha256 == look.desired:
            text = "it is on trial" if slots.on_trial else ""
            return look.outcome("up-to-date", text=text)
        _check_release(look, slots, target)
        if slots.on_trial:
            slots.abandon("another release is wanted now")
            running = slots.running()
            if running and running.sha256 == look.desired:
                look.method = "slot"
                return look.outcome("returned", text=f"release {running.counter} runs again, as assigned")
        held = slots.holding(look.desired)
        if held is None:
            return None
        slots.begin_trial(held)
        look.method = "slot"
        return look.outcome("installed", text=f"release {look.counter} was here still; it starts on trial")


def _check_release(look: _Look, slots: Slots, target: Target | None) -> None:
    """Raise _Ended for a release that will not be installed, whatever is fetched."""
    if target is None:
        text = f"release {(look.desired or '')[:12]}… is assigned but was not released; both must be signed"
        raise _Ended("refused", "not-released", text)
    if look.counter is not None and look.counter < slots.floor:
        text = f"release {look.counter} lies below {slots.floor}, the lowest still allowed"
        raise _Ended("refused", "downgrade", text)
    if target.length > MAX_TOTAL_BYTES:
        raise _Ended("refused", "size", f"{target.length} bytes, at most {MAX_TOTAL_BYTES} are taken")
    if look.desired in slots.bad:
        before = last_outcome(look.home) or {}
        if before.get("sha256") == look.desired and before.get("state") == "refused":
            raise _Ended("refused", str(before.get("code")), str(before.get("text")))
        raise _Ended("refused", "bad", f"release {look.counter} failed on this device before; publish a better one")


def _counter(target: Target | None, sha256: str) -> int | None:
    """The signed counter of a release. Raises TrustError if what was signed is nonsense."""
    from headland_edge.trust import TrustError

    if target is None:
        return None
    counter = target.custom.get("counter")
    if target.sha256 != sha256 or type(counter) is not int or counter < 0:
        raise TrustError("signature", f"{target.name}: signed with another hash than its name, or without a counter")
    return counter


def _fetch(look: _Look, source: Source, released: Signed, target: Target) -> bytes:
    """The release's bytes, by patch if one was signed and is shorter than what is still to come, else whole."""
    downloads = look.home.updates / "downloads"
    whole = downloads / f"{target.sha256}.tar"
    running = Slots(look.home.slots).running()
    patch = _patch(released, running, target)
    wanted = {whole.name, f"{patch.sha256}.hpatch"} if patch else {whole.name}
    _clean(downloads, wanted)
    if patch and running and patch.length < target.length - _size(whole) - _size(_part(whole)):
        data = _patched(source, patch, downloads / f"{patch.sha256}.hpatch", running.path, target)
        if data is not None:
            look.method = "patch"
            return data
    look.method = "whole"
    return _downloaded(source, target, whole)


def _patch(released: Signed, running: Booted | None, target: Target) -> Target | None:
    from headland_edge.trust import patch_name

    return released.target(patch_name(running.sha256, target.sha256)) if running else None


def _patched(source: Source, patch: Target, to: Path, base: Path, target: Target) -> bytes | None:
    """The release by way of a patch; None if the patch is of no use. Only the result's signed hash counts."""
    from headland_edge.fetch import LengthError, MissingError
    from headland_edge.patches import PatchError, apply_patch

    try:
        return apply_patch(base.read_bytes(), _downloaded(source, patch, to), target.sha256)
    except (LengthError, MissingError, PatchError):
        return None


def _downloaded(source: Source, target: Target, to: Path) -> bytes:
    """Bytes of a signed file: those that came before, if they are whole, else from the source."""
    if _size(to) == target.length:
        data = to.read_bytes()
        if hashlib.sha256(data).hexdigest() == target.sha256:
            return data
    source.download(target.path, to, target.length, target.sha256)
    return to.read_bytes()


def _try(look: _Look, data: bytes) -> None:
    """Raise _Ended if the release does not do here what it should; it is not fetched again if the cause lies in it."""
    assert look.desired is not None
    try:
        accepted = look.accept(data, look.desired, Device.here(Slots(look.home.slots).floor))
        counter = accepted.bundle.manifest.release.counter
        if counter != look.counter:
            raise NotAccepted("format", f"says it is release {counter}, but was signed as {look.counter}")
    except NotAccepted as refused:
        if refused.code in _CAUSE_IN_RELEASE:
            with slots_locked(look.home):
                Slots(look.home.slots).mark_bad(look.desired)
            shutil.rmtree(look.home.updates / "downloads", ignore_errors=True)
        raise _Ended("refused", refused.code, f"release {look.counter}: {refused}") from None


def _install(look: _Look, data: bytes) -> Outcome:
    assert look.desired is not None
    assert look.counter is not None
    with slots_locked(look.home):
        slots = Slots(look.home.slots)
        slots.begin_trial(slots.install(data, look.desired, look.counter))
    shutil.rmtree(look.home.updates / "downloads", ignore_errors=True)
    return look.outcome("installed", text=f"release {look.counter} is installed; it starts on trial")


def _assignments(home: Home, signed: Signed, source: Source) -> Assignments:
    """The signed assignments; read again only if they are others than last time."""
    from headland_edge.fetch import LengthError
    from headland_edge.trust import ASSIGNMENTS

    target = signed.target(ASSIGNMENTS)
    if target is None:
        return Assignments(0)
    if target.length > MAX_BYTES:
        raise AssignmentError(f"assignments: {target.length} bytes, at most {MAX_BYTES} are read")
    kept = home.updates / ASSIGNMENTS
    data = kept.read_bytes() if _size(kept) == target.length else b""
    if hashlib.sha256(data).hexdigest() != target.sha256:
        data = source.read(target.path, target.length)
        if hashlib.sha256(data).hexdigest() != target.sha256:
            raise LengthError(f"{target.path}: not the bytes that were signed")
        write_bytes(kept, data)
    return decode(data)


def _check_serial(seen: int, serial: int) -> None:
    if serial < seen:
        text = f"these assignments (serial {serial}) are older than those this device knows (serial {seen})"
        raise _Ended("refused", "older", f"{text}; nothing is changed. A stick: make it again")


def _source(
    home: Home, settings: Settings, stick: Path | None, now_s: Callable[[], float]
) -> tuple[Source | None, Literal["", "media-"]]:
    """Where to look, and which twins of the repositories lie there."""
    from headland_edge.budget import Budget
    from headland_edge.fetch import FolderSource, HttpSource
    from headland_edge.trust import FAMILY, Floors

    if stick is not None:
        return FolderSource(_on_stick(stick)), "media-"
    if settings.updates.folder:
        folder = _on_stick(Path(settings.updates.folder))
        return FolderSource(folder), "" if (folder / "assignments").is_dir() else "media-"
    if not settings.updates.url:
        return None, ""
    floors = Floors(home.updates / "floors.json")
    floor_s = max(floors.issued_s(family) for family in FAMILY.values())
    budget = Budget(home.updates / "budget.json", settings.updates.daily_bytes, now_s, floor_s)
    try:
        return HttpSource(settings.updates.url, budget), ""
    except ValueError as error:
        raise _Ended("offline", "url", str(error)) from None


def _on_stick(folder: Path) -> Path:
    return folder / STICK_FOLDER if (folder / STICK_FOLDER).is_dir() else folder


@contextmanager
def _alone(home: Home) -> Iterator[bool]:
    """Whether this is the only look under way; the lock goes with its process."""
    try:
        home.updates.mkdir(parents=True, exist_ok=True)
        file = (home.updates / ".lock").open("ab")
    except OSError:  # nothing can be written by anybody
        yield True
        return
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def _clean(downloads: Path, wanted: set[str]) -> None:
    """Remove what earlier looks left and this one does not need."""
    if downloads.is_dir():
        for path in downloads.iterdir():
            if path.name.removesuffix(".part") not in wanted:
                path.unlink(missing_ok=True)
    for metadata in downloads.parent.glob("*/metadata"):
        for path in metadata.glob("tmp*"):  # tuf's, of a look that was killed
            path.unlink(missing_ok=True)


def _part(path: Path) -> Path:
    return path.with_name(path.name + ".part")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _plain(outcome: Outcome, time_s: float) -> dict[str, Any]:
    return {
        "state": outcome.state,
        "sha256": outcome.desired,
        "counter": outcome.counter,
        "code": outcome.code,
        "text": outcome.text,
        "time_s": time_s,
        "bytes_read": outcome.bytes_read,
        "method": outcome.method,
    }


def _disk_text(error: OSError) -> str:
    what = {errno.ENOSPC: "is full", errno.EROFS: "takes no write"}.get(error.errno or 0, f"fails ({error.strerror})")
    return f"the disk {what}: {error.filename or 'updates'}; what runs stays, and the next look tries again"
