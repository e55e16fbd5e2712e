"""Who runs what: the cloud's side of ``headland_edge.assignment``, signed with the online key."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from headland_edge.assignment import Assignments, Rollout, decode, encode

from tasks.fleet.keys import ASSIGNMENTS, Keyring
from tasks.fleet.publish import locked, released, signed_floor
from tasks.fleet.repository import File, FleetError, Repository, target_of

NAME = "assignments.json"
_REPOSITORIES = ("assignments", "media-assignments")


def assigned(fleet: Path) -> Assignments:
    """Assignments as published; serial 0 and no wish before the first."""
    repository = Repository(fleet, "assignments")
    return decode(repository.content(NAME)) if NAME in repository.targets() else Assignments(0)


def set_assignments(
    fleet: Path,
    keys: Keyring,
    *,
    base: str | None,
    pins: Mapping[str, str] | None = None,
    rollout: Rollout | None = None,
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
        file = File(encode(wish), {"serial": wish.serial})
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
