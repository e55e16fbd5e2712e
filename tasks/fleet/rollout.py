"""A rollout in waves, as a state machine: what was reported and what time it is decide what is assigned next.

    running -> (wave by wave) -> completed
        \\-> halted: everybody is assigned the release before

Nothing is remembered but the state, and nothing is asked of a device: who is in a wave follows from its name
(``headland_edge.assignment.bucket``), so one that appears later is in it as well. A device that says nothing is
pending, never failed: in a field without network that is how a healthy device looks. A rollout that is stuck stays
where it is and may be superseded by another at any moment.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any, Literal

from headland_edge.assignment import BUCKETS, Assignments, Rollout, bucket

Status = Literal["running", "completed", "halted"]
ReportState = Literal["trial", "confirmed", "rolled_back", "refused"]
_CHANCE = 0.1
FAILED: frozenset[str] = frozenset({"rolled_back", "refused"})


@dataclass(frozen=True)
class Wave:
    """How far a wave reaches: a number of devices, or a share of the fleet; one of the two."""

    devices: int = 0
    share: float = 0.0


@dataclass(frozen=True)
class Plan:
    """How careful a rollout is.

    Args:
        waves: in order; the last one reaches everybody.
        success_share: of the devices that reported, as many must have confirmed before the next wave starts.
        error_share: the rollout halts when so many of those that reported failed that a true share of this or less
            would show as many at most once in ten times (exact binomial test), or when all of them failed.
        minimum_reports: nothing is judged on fewer, or on the whole wave where that is smaller.
        soak_s: a wave lasts at least as long.
        hours_utc: waves start only from the first of these hours to before the second; (0, 24) for any time.
        weekdays: days on which waves start, Monday is 0.
    """

    waves: tuple[Wave, ...] = (Wave(devices=1), Wave(share=0.05), Wave(share=0.25), Wave(share=1.0))
    success_share: float = 0.9
    error_share: float = 0.1
    minimum_reports: int = 10
    soak_s: float = 86_400.0
    hours_utc: tuple[int, int] = (0, 24)
    weekdays: tuple[int, ...] = (0, 1, 2, 3, 4, 5, 6)

    def __post_init__(self) -> None:
        if not self.waves or self.waves[-1].share != 1.0:
            raise ValueError("rollout.waves: the last wave must have share 1.0, or some devices never get the release")
        reaches = [wave.share for wave in self.waves if not wave.devices]
        if reaches != sorted(reaches) or not all(0 < share <= 1 for share in reaches):
            raise ValueError("rollout.waves: shares must rise from above 0 to 1")
        if self.error_share + self.success_share > 1.0:
            raise ValueError("rollout: success_share and error_share together must not exceed 1")

    def is_open(self, now_s: float) -> bool:
        """Whether a wave may start now."""
        now = datetime.fromtimestamp(now_s, UTC)
        return now.weekday() in self.weekdays and self.hours_utc[0] <= now.hour < self.hours_utc[1]


@dataclass(frozen=True)
class Report:
    """What a device said last of a release."""

    release: str
    state: ReportState


@dataclass(frozen=True)
class State:
    """A rollout, whole.

    Args:
        id: its name.
        release: SHA-256 of what is rolled out.
        previous: SHA-256 of what a halt returns to; None for a first release.
        salt: of the buckets.
        first: devices of waves that count devices.
        wave: number of the wave under way, from 0.
        wave_started_s: when it started, seconds since 1970.
        status: where it stands.
        reason: why it halted; empty otherwise.
    """

    id: str
    release: str
    previous: str | None
    salt: str
    first: tuple[str, ...]
    wave: int
    wave_started_s: float
    status: Status = "running"
    reason: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Plain form for JSON."""
        return {**asdict(self), "first": list(self.first)}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> State:
        """Inverse of ``as_dict``; TypeError if a field is missing or unknown."""
        return cls(**{**plain, "first": tuple(plain["first"])})


@dataclass(frozen=True)
class Count:
    """How the devices of the waves so far stand."""

    assigned: int
    confirmed: int
    failed: int

    @property
    def judged(self) -> int:
        """Devices that said how it went."""
        return self.confirmed + self.failed

    @property
    def pending(self) -> int:
        """Devices that said nothing yet."""
        return self.assigned - self.judged


def start(
    release: str, previous: str | None, devices: Iterable[str], plan: Plan, now_s: float, name: str = ""
) -> State:
    """A rollout at its first wave. It takes the place of whatever rollout there was."""
    salt = (name or release)[:16]
    most = max((wave.devices for wave in plan.waves), default=0)
    first = tuple(sorted(devices, key=lambda device: (bucket(device, salt), device))[:most])
    return State(name or release[:12], release, previous, salt, first, 0, now_s)


def step(state: State, plan: Plan, reports: Mapping[str, Report], devices: Iterable[str], now_s: float) -> State:
    """Where the rollout stands now; the same inputs always give the same answer, and a decision is never taken back.

    Args:
        state: before.
        plan: how careful.
        reports: by device, the last one it gave.
        devices: all that are known, silent ones included.
        now_s: seconds since 1970; a clock that went back advances nothing.
    """
    if state.status != "running":
        return state
    found = count(state, plan, reports, devices)
    if found.judged < max(1, min(plan.minimum_reports, found.assigned)):
        return state
    if found.failed == found.judged or too_many(found.failed, found.judged, plan.error_share):
        reason = f"{found.failed} of {found.judged} devices that reported failed, in wave {state.wave + 1}"
        return replace(state, status="halted", reason=reason)
    enough = found.confirmed / found.judged >= plan.success_share
    if not enough or now_s - state.wave_started_s < plan.soak_s:
        return state
    if state.wave + 1 == len(plan.waves):
        return replace(state, status="completed")
    if not plan.is_open(now_s):
        return state
    return replace(state, wave=state.wave + 1, wave_started_s=now_s)


def too_many(failed: int, judged: int, share: float) -> bool:
    """Whether ``failed`` of ``judged`` speak for more than ``share``, by the exact binomial test at 10 %.

    A few reports scatter: with 6 % failing, 8 of 79 are nothing unusual, and no reason to take a release back.
    """
    from scipy.special import betainc

    return failed > share * judged and float(betainc(failed, judged - failed + 1, share)) <= _CHANCE


def waiting_for(state: State, plan: Plan, found: Count, now_s: float) -> str:
    """In words, why ``step`` leaves a running rollout where it is; empty if it does not."""
    missing = max(1, min(plan.minimum_reports, found.assigned)) - found.judged
    if missing > 0:
        return f"waits for {missing} more reports"
    if found.confirmed / found.judged < plan.success_share:
        return f"{found.confirmed / found.judged:.0%} of the reports confirm, {plan.success_share:.0%} are needed"
    soak_s = plan.soak_s - (now_s - state.wave_started_s)
    if soak_s > 0:
        return f"soaks for {soak_s / 3600:.1f} h more"
    return "" if state.wave + 1 == len(plan.waves) or plan.is_open(now_s) else "waits for the hours of waves"


def count(state: State, plan: Plan, reports: Mapping[str, Report], devices: Iterable[str]) -> Count:
    """How the devices of the waves so far stand."""
    members = [device for device in devices if is_member(state, plan, device)]
    known = [reports[device] for device in members if device in reports]
    said = [report.state for report in known if report.release == state.release]
    return Count(len(members), said.count("confirmed"), sum(each in FAILED for each in said))


def is_member(state: State, plan: Plan, device: str) -> bool:
    """Whether a device is in one of the waves so far."""
    reach, first = _reach(state, plan)
    return device in first or bucket(device, state.salt) < reach


def assignments(state: State, plan: Plan, before: Assignments) -> Assignments:
    """What has to be signed for a rollout to stand as it does; ``before`` itself if it says so already."""
    if state.status == "completed":
        wanted = replace(before, base=state.release, rollout=None)
    elif state.status == "halted":
        wanted = replace(before, base=state.previous, rollout=None)
    else:
        reach, first = _reach(state, plan)
        wanted = replace(
            before, base=state.previous, rollout=Rollout(state.id, state.release, state.salt, reach, first)
        )
    return before if wanted == before else replace(wanted, serial=before.serial + 1)


def _reach(state: State, plan: Plan) -> tuple[int, tuple[str, ...]]:
    """Buckets below which devices are in, and devices that are in by name."""
    so_far = plan.waves[: state.wave + 1]
    share = max((wave.share for wave in so_far if not wave.devices), default=0.0)
    named = max((wave.devices for wave in so_far), default=0)
    return math.ceil(share * BUCKETS), state.first[:named]
