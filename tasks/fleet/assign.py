"""Who runs what: the cloud's side of ``headland_edge.assignment``, signed with the online key."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from headland_edge.assignment import Assignments, Rollout, decode, encode
from headland_edge.trust import ASSIGNMENTS as NAME

from tasks.fleet.keys import ASSIGNMENTS, Keyring
from tasks.fleet.publish import released, signed_floor
from tasks.fleet.repository import File, FleetError, Repository, locked, target_of

_REPOSITORIES = ("assignments", "media-assignments")


def assigned(fleet: Path) -> Assignments:
    """Assignments as published; serial 0 and no wish before the first."""
    repository = Repository(fleet, "assignments")
    return decode(repository.content(NAME)) if NAME in repository.targets() else Assignments(0)


def signed_state(fleet: Path) -> dict[str, Any]:
    """What was signed beside the assignments; empty if nothing."""
    target = Repository(fleet, "assignments").targets().get(NAME)
    state = target.custom.get("state") if target and target.custom else None
    return dict(state) if isinstance(state, dict) else {}


def set_assignments(
    fleet: Path,
    keys: Keyring,
    *,
    base: str | None,
    pins: Mapping[str, str] | None = None,
    rollout: Rollout | None = None,
    state: Mapping[str, Any] | None = None,
    dry_run: bool = False,
    now_s: float | None = None,
) -> Assignments:
    """Publish who runs what; the same wish twice changes nothing.

    Args:
        fleet: the fleet's folder.
        keys: the online key is needed, unless ``dry_run``.
        base: release of all devices not named otherwise, or None.
        pins: release by device.
        rollout: or None; a halted one is None, with ``base`` the release before.
        state: of the rollout, signed in the same breath so that neither is ever without the other; None keeps it.
        dry_run: only tell.
        now_s: time of signing, seconds since 1970; None for the system clock.

    Returns:
        What is (or would be) published; its serial is one higher if anything differs.

    Raises:
        FleetError: a release is not published, or lies below the floor.
        AssignmentError: a value does not fit.
    """
    with locked(fleet, dry_run=dry_run):
        before = assigned(fleet)
        wish = Assignments(before.serial, base, dict(pins or {}), rollout)
        if encode(wish) != encode(before):
            wish = replace(wish, serial=before.serial + 1)
        _check_releases(fleet, wish)
        told = signed_state(fleet) if state is None else dict(state)
        file = File(encode(wish), {"serial": wish.serial, **({"state": told} if told else {})})
        for name in () if dry_run else _REPOSITORIES:
            repository = Repository(fleet, name)
            if repository.differs({NAME: target_of(NAME, file)}):
                repository.commit(repository.add_files({NAME: file}), keys.signers(ASSIGNMENTS), now_s)
        return wish


def _check_releases(fleet: Path, wish: Assignments) -> None:
    known = released(fleet)
    floor = signed_floor(Repository(fleet, "releases").targets())
    for sha256 in sorted(wish.releases):
        if sha256 not in known:
            raise FleetError(f"release {sha256[:12]}… is not published; publish its bundle first")
        if known[sha256]["counter"] < floor:
            raise FleetError(
                f"release {known[sha256]['counter']} lies below the floor {floor}; devices would refuse it"
            )
