from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from headland_edge.assignment import AssignmentError, Rollout

from tasks.fleet.assign import assigned, set_assignments
from tasks.fleet.repository import FleetError, Repository
from tests.fleet.made import NOW, copied_at_every_write, issue, pinned, release, ring, see, sha, tree

pytestmark = pytest.mark.usefixtures("quick_disk")
ONE, TWO = sha(release(1)), sha(release(2))


@pytest.fixture
def fleet(signed_fleet: Path, tmp_path: Path) -> Path:
    return shutil.copytree(signed_fleet, tmp_path / "fleet")


def test_the_same_wish_twice_changes_nothing_another_raises_the_serial(fleet: Path) -> None:
    before = tree(fleet)
    assert set_assignments(fleet, ring(fleet), base=ONE, now_s=NOW + 5).serial == 1
    assert tree(fleet) == before
    rollout = Rollout("r1", TWO, "salt", 500, ("field-1",))
    wish = set_assignments(fleet, ring(fleet), base=ONE, pins={"field-9": TWO}, rollout=rollout, now_s=NOW)
    assert wish.serial == 2
    assert assigned(fleet) == wish
    assert [wish.desired(device) for device in ("field-1", "field-9")] == [TWO, TWO]
    assert set_assignments(fleet, ring(fleet), base=ONE, now_s=NOW).serial == 3


def test_the_online_key_is_enough_and_a_dry_run_needs_none(fleet: Path) -> None:
    for name in ("releases-1", "releases-2", "recovery"):
        ring(fleet).file(name).unlink()
    set_assignments(fleet, ring(fleet), base=TWO, now_s=NOW)
    ring(fleet).file("assignments").unlink()
    before = tree(fleet)
    assert set_assignments(fleet, ring(fleet), base=ONE, dry_run=True, now_s=NOW).serial == 3
    assert tree(fleet) == before
    with pytest.raises(FleetError, match="assignments"):
        set_assignments(fleet, ring(fleet), base=ONE, now_s=NOW)


def test_only_what_is_released_and_not_below_the_floor_is_assigned(fleet: Path) -> None:
    with pytest.raises(FleetError, match="not published"):
        set_assignments(fleet, ring(fleet), base="a" * 64, now_s=NOW)
    issue(fleet, release(3), floor=2)
    with pytest.raises(FleetError, match="below the floor 2"):
        set_assignments(fleet, ring(fleet), base=ONE, now_s=NOW)
    with pytest.raises(AssignmentError, match="pins"):
        set_assignments(fleet, ring(fleet), base=TWO, pins={"../x": TWO}, now_s=NOW)
    assert assigned(fleet).base == sha(release(3))


def test_before_the_first_there_is_no_wish(tmp_path: Path, fleet: Path) -> None:
    from tasks.fleet.keys import create

    create(tmp_path / "new", ring(tmp_path / "new"), NOW)
    assert assigned(tmp_path / "new").serial == 0
    assert set_assignments(tmp_path / "new", ring(tmp_path / "new"), base=None, now_s=NOW).serial == 0


def test_killed_at_any_write_network_and_stick_agree_after_the_next_call(
    fleet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with copied_at_every_write(
        monkeypatch, fleet, tmp_path / "copies", ["tasks.fleet.repository.write_bytes"]
    ) as copies:
        set_assignments(fleet, ring(fleet), base=TWO, now_s=NOW)
    for number, copy in enumerate(copies):
        updates = pinned(tmp_path / f"updates{number}", copy)
        see(updates, copy, "assignments")
        assert set_assignments(copy, ring(copy), base=TWO, now_s=NOW).serial == 2
        for name in ("assignments", "media-assignments"):
            target = see(updates, copy, name).target("assignments.json")
            assert target is not None
            assert target.custom == {"serial": 2}
            assert Repository(copy, name).content("assignments.json") == Repository(fleet, name).content(
                "assignments.json"
            )
    assert len(copies) == 9
