"""Effect: one step of a rollout, from what the fleet has said to what is signed next.

The rollout's state is signed together with the assignments that follow from it, in one commit: a controller that is
killed anywhere finds both as they were, or both as they were to become, and comes to the same decision again. The copy
in ``rollout.json`` is for people and programs; if it is lost, the next step writes it again.

The newest published release is what is rolled out. A halted one is not tried again; one that is under way gives way to
a newer one in the next hours of waves.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

from headland_edge.assignment import Assignments
from headland_edge.trust import ISSUED_FIELD

from tasks.durable import write_json
from tasks.fleet.assign import assigned, set_assignments, signed_state
from tasks.fleet.folder import FleetFolder
from tasks.fleet.keys import Keyring
from tasks.fleet.publish import released, renew, signed_floor
from tasks.fleet.repository import FleetError, Repository
from tasks.fleet.rollout import (
    FAILED,
    Plan,
    Report,
    State,
    Wave,
    assignments,
    count,
    start,
    step,
    waiting_for,
)
from tasks.fleet.store import Store
from tasks.params import Rollout

ONLINE = ("assignments", "media-assignments")
MOST_FAILURES = 100
_REASON_CHARS = 200


@dataclass(frozen=True)
class WaveStanding:
    """How the devices of one wave and those before it stand.

    Args:
        number: from 1.
        reach: how far it reaches, in words.
        status: ``done``, ``running``, ``halted`` or ``to come``.
        devices: in it.
        confirmed: of them, run the release for good.
        failed: of them, went back or refused it.
        pending: of them, have said nothing on it yet.
    """

    number: int
    reach: str
    status: str
    devices: int
    confirmed: int
    failed: int
    pending: int


@dataclass(frozen=True)
class Standing:
    """Where a rollout stands after a step.

    Args:
        state: of the rollout; None before the first, and while one waits for its hours.
        counter: release counter of what is rolled out.
        serial: of the assignments.
        changed: whether this step signed anything (or would have, on a dry run).
        devices: that are known.
        waves: all of them.
        failures: device and its reason, at most ``MOST_FAILURES``.
        waiting: in words, what it waits for; empty if it moved or is over.
    """

    state: State | None
    counter: int
    serial: int
    changed: bool
    devices: int
    waves: tuple[WaveStanding, ...]
    failures: tuple[tuple[str, str], ...]
    waiting: str

    @property
    def status(self) -> str:
        """``waiting``, ``running``, ``completed`` or ``halted``."""
        return self.state.status if self.state else "waiting"

    @property
    def is_over(self) -> bool:
        """Whether further steps change nothing."""
        return self.status in ("completed", "halted")

    def as_dict(self) -> dict[str, Any]:
        """Plain form for JSON."""
        return {**asdict(self), "state": self.state and self.state.as_dict(), "status": self.status}


def plan_of(params: Rollout) -> Plan:
    """The plan that ``params.yaml`` describes."""
    first = (Wave(devices=params.first_devices),) if params.first_devices else ()
    return Plan(
        waves=(*first, *(Wave(share=share) for share in params.wave_shares)),
        success_share=params.success_share,
        error_share=params.error_share,
        minimum_reports=params.minimum_reports,
        soak_s=params.soak_h * 3600.0,
        hours_utc=params.hours_utc,
        weekdays=params.weekdays,
    )


def take_step(fleet: FleetFolder, keys: Keyring, plan: Plan, *, now_s: float, dry_run: bool = False) -> Standing:
    """Decide from what is signed and what was reported, and sign what follows; repeatable at any moment.

    Args:
        fleet: its repositories and store.
        keys: the online key is needed, unless ``dry_run``.
        plan: how careful.
        now_s: seconds since 1970.
        dry_run: only tell.

    Raises:
        FleetError: nothing is published yet, or repositories or keys are not as they must be.
    """
    if dry_run and not released(fleet.root):
        return Standing(None, 0, assigned(fleet.root).serial, False, 0, (), (), "waits for a first release")
    with _one_at_a_time(fleet, dry_run=dry_run):
        health = _health(fleet)
        enrolled = fleet.enrolled()
        devices = frozenset(health) if enrolled is None else enrolled
        signed = assigned(fleet.root)
        before = current(fleet, plan, signed)
        # A new release begins in the hours of waves; until then the one that is under way goes on.
        release = newest(fleet) if before is None or plan.is_open(now_s) else before.release
        reports = {device: said for device, body in health.items() if (said := report_of(body, release))}
        # Signed JSON knows no fractions.
        after = _decide(before, release, signed, plan, reports, devices, int(now_s))
        wish = signed
        if after and (after != before or after.status == "running"):
            wish = _above_the_floor(fleet, assignments(after, plan, signed))
        done = set_assignments(
            fleet.root,
            keys,
            base=wish.base,
            pins=wish.pins,
            rollout=wish.rollout,
            state=after.as_dict() if after else None,
            dry_run=dry_run,
            now_s=now_s,
        )
        if not dry_run:
            renew(fleet.root, keys, names=ONLINE, now_s=now_s)
            _copy(fleet, after)
        waves = _waves(after, plan, reports, devices) if after else ()
        waiting = _waiting(after, plan, reports, devices, now_s)
        counter, changed = int(released(fleet.root)[release]["counter"]), done.serial != signed.serial
        failures = _failures(reports, health)
        return Standing(after, counter, done.serial, changed, len(devices), waves, failures, waiting)


def newest(fleet: FleetFolder) -> str:
    """SHA-256 of the release published with the highest counter. Raises FleetError if there is none."""
    known = released(fleet.root)
    if not known:
        raise FleetError(
            "Nothing is published yet, so there is nothing to roll out. Make a candidate with: headland retrain"
        )
    return list(known)[-1]


def current(fleet: FleetFolder, plan: Plan, signed: Assignments) -> State | None:
    """The rollout as it is signed; None if there was none. What was changed by hand since then counts."""
    rollout = signed.rollout
    try:
        state = State.from_dict(signed_state(fleet.root))
    except (TypeError, KeyError, ValueError):
        state = None
    if state and state.status == "running" and rollout is None:
        return replace(state, previous=signed.base, status="halted", reason="taken back by hand")
    if rollout is None or (state and state.release == rollout.release):
        return replace(state, previous=signed.base) if state and state.status == "running" else state
    # Signed by hand, or by a controller that did not sign its state: what can be read from it, and a new soak.
    reached = [wave for wave in range(len(plan.waves)) if _reach_of(plan, wave) <= rollout.up_to]
    issued_s = _issued_s(fleet)
    wave = reached[-1] if reached else 0
    return State(rollout.id, rollout.release, signed.base, rollout.salt, rollout.first, wave, issued_s)


def report_of(body: Mapping[str, Any], release: str) -> Report | None:
    """What a health message says of a release; None if nothing. The message may hold anything."""
    running, failed = body.get("release"), body.get("failed")
    state = running.get("state") if isinstance(running, dict) and running.get("sha256") == release else None
    if state == "confirmed":
        return Report(release, "confirmed")
    if isinstance(failed, dict) and failed.get("sha256") == release and failed.get("state") in FAILED:
        return Report(release, "refused" if failed["state"] == "refused" else "rolled_back")
    return Report(release, "trial") if state == "trial" else None


def _decide(
    before: State | None,
    release: str,
    signed: Assignments,
    plan: Plan,
    reports: Mapping[str, Report],
    devices: frozenset[str],
    now_s: int,
) -> State | None:
    """The rollout after this step; None while there is none to be."""
    if before and before.release == release:
        return step(before, plan, reports, devices, now_s)
    if signed.base == release and signed.rollout is None:
        return State(release[:12], release, None, release[:16], (), len(plan.waves) - 1, now_s, "completed")
    return start(release, signed.base, devices, plan, now_s) if plan.is_open(now_s) else None


def _above_the_floor(fleet: FleetFolder, wish: Assignments) -> Assignments:
    """A release that devices would refuse is no base to return to: then each keeps what it runs."""
    floor = signed_floor(Repository(fleet.root, "releases").targets())
    known = released(fleet.root)
    fits = wish.base in known and known[wish.base]["counter"] >= floor
    return wish if wish.base is None or fits else replace(wish, base=None)


def _reach_of(plan: Plan, wave: int) -> int:
    rollout = assignments(State("-", "0" * 64, None, "-", (), wave, 0.0), plan, Assignments(0)).rollout
    return rollout.up_to if rollout else 0


def _issued_s(fleet: FleetFolder) -> int:
    timestamp = Repository(fleet.root, "assignments").timestamp()
    return int(timestamp.signed.unrecognized_fields.get(ISSUED_FIELD, 0)) if timestamp else 0


def _health(fleet: FleetFolder) -> dict[str, dict[str, Any]]:
    if not fleet.store.exists():
        return {}
    with Store(fleet.store) as store:
        return store.latest_health()


def _copy(fleet: FleetFolder, state: State | None) -> None:
    """Bring ``rollout.json`` to the state that is signed."""
    try:
        there = json.loads(fleet.rollout.read_bytes())
    except (OSError, ValueError):
        there = None
    if state and there != state.as_dict():
        write_json(fleet.rollout, state.as_dict())


def _waves(
    state: State, plan: Plan, reports: Mapping[str, Report], devices: frozenset[str]
) -> tuple[WaveStanding, ...]:
    standings = []
    for number, wave in enumerate(plan.waves):
        found = count(replace(state, wave=number), plan, reports, devices)
        reach = f"{wave.devices} devices" if wave.devices else f"{wave.share:.0%}"
        done = number < state.wave or state.status == "completed"
        status = "done" if done else state.status if number == state.wave else "to come"
        standings.append(
            WaveStanding(number + 1, reach, status, found.assigned, found.confirmed, found.failed, found.pending)
        )
    return tuple(standings)


def _waiting(
    state: State | None, plan: Plan, reports: Mapping[str, Report], devices: frozenset[str], now_s: float
) -> str:
    if state is None:
        return "waits for the hours of waves"
    running = state.status == "running"
    return waiting_for(state, plan, count(state, plan, reports, devices), now_s) if running else ""


def _failures(reports: Mapping[str, Report], health: Mapping[str, Mapping[str, Any]]) -> tuple[tuple[str, str], ...]:
    failed = sorted(device for device, report in reports.items() if report.state in FAILED)
    return tuple((device, _reason(health[device])) for device in failed[:MOST_FAILURES])


def _reason(body: Mapping[str, Any]) -> str:
    """A device's own words, cut to a line."""
    failed = body.get("failed")
    reason = failed.get("reason") if isinstance(failed, dict) else None
    return " ".join(str(reason or "no reason given").split())[:_REASON_CHARS]


@contextmanager
def _one_at_a_time(fleet: FleetFolder, *, dry_run: bool) -> Iterator[None]:
    """Between reading what is signed and signing again nobody else decides; the lock goes with its process."""
    if dry_run:
        yield
        return
    fleet.root.mkdir(parents=True, exist_ok=True)
    with (fleet.root / ".rollout.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
