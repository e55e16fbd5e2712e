"""One step of a rollout: what is signed follows from what was said, whoever is killed and whatever is lost."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.fleet.assign import assigned, set_assignments, signed_state
from tasks.fleet.control import Standing, current, plan_of, report_of, take_step
from tasks.fleet.folder import FleetFolder
from tasks.fleet.keys import Keyring
from tasks.fleet.publish import released
from tasks.fleet.repository import FleetError, Repository
from tasks.fleet.rollout import Plan, State, Wave
from tasks.params import Params
from tests.fleet.rollouts import follow, make_fleet, publish_release, take_in

pytestmark = pytest.mark.usefixtures("quick_disk")

DEVICES = [f"field-{number:02d}" for number in range(20)]
PLAN = Plan(waves=(Wave(devices=1), Wave(share=0.5), Wave(share=1.0)), minimum_reports=3, soak_s=100.0)


@pytest.fixture
def fleet(tmp_path: Path) -> FleetFolder:
    """Twenty devices; release 1 is everybody's, release 2 is published."""
    made, (first, _) = make_fleet(tmp_path / "fleet", (1, 2))
    made.devices.write_text(json.dumps(DEVICES))
    set_assignments(made.root, Keyring(made.keys), base=first, now_s=0.0)
    return made


def act(fleet: FleetFolder, now_s: float, plan: Plan = PLAN, **more: Any) -> Standing:
    return take_step(fleet, Keyring(fleet.keys), plan, now_s=now_s, **more)


def to_the_end(fleet: FleetFolder, fate: Any = lambda device: "confirmed", first_s: float = 0.0) -> Standing:
    for number in range(20):
        standing = act(fleet, first_s + number * 200.0)
        if standing.is_over:
            return standing
        follow(fleet, DEVICES, fate, time_s=float(number))
        take_in(fleet)
    raise AssertionError(f"not over: {standing}")


def test_a_release_goes_out_wave_by_wave_until_all_have_it(fleet: FleetFolder) -> None:
    new = list(released(fleet.root))[-1]
    first = act(fleet, 0.0)
    assert [wave.devices for wave in first.waves][0::2] == [1, 20]
    assert [assigned(fleet.root).desired(device) for device in DEVICES].count(new) == 1
    done = to_the_end(fleet)
    assert (done.status, done.counter, assigned(fleet.root).base) == ("completed", 2, new)
    assert all(wave.status == "done" for wave in done.waves)
    assert act(fleet, 9e3).changed is False


def test_failures_halt_it_the_release_before_is_assigned_and_their_reasons_are_told(fleet: FleetFolder) -> None:
    old, new = released(fleet.root)
    halted = to_the_end(fleet, lambda device: "rolled_back")
    assert (halted.status, assigned(fleet.root).base) == ("halted", old)
    assert halted.state is not None
    assert "1 of 1" in halted.state.reason
    ((_, reason),) = halted.failures
    assert reason == "golden outputs | differ by 2"
    assert [assigned(fleet.root).desired(each) for each in DEVICES] == [old] * 20
    assert act(fleet, 1e6).status == "halted", "a halted release is not tried again"
    assert publish_release(fleet, 3) not in (old, new)
    assert to_the_end(fleet, first_s=2e6).counter == 3


def test_silence_keeps_it_where_it_is_and_the_next_release_takes_its_place(fleet: FleetFolder) -> None:
    old, _ = released(fleet.root)
    act(fleet, 0.0)
    stuck = act(fleet, 1e6)
    assert (stuck.status, stuck.waiting) == ("running", "waits for 1 more reports")
    third = publish_release(fleet, 3)
    following = act(fleet, 1e6)
    assert (following.counter, following.status) == (3, "running")
    assert {assigned(fleet.root).desired(device) for device in DEVICES} == {old, third}


def test_it_begins_and_gives_way_only_in_the_hours_of_waves(fleet: FleetFolder) -> None:
    night = replace(PLAN, hours_utc=(1, 4))
    waits = act(fleet, 12 * 3600.0, night)
    assert (waits.status, waits.waiting, waits.changed) == ("waiting", "waits for the hours of waves", False)
    assert act(fleet, 2 * 3600.0, night).status == "running"
    publish_release(fleet, 3)
    assert act(fleet, 12 * 3600.0, night).counter == 2
    assert act(fleet, 26 * 3600.0, night).counter == 3


def test_a_device_that_appears_in_the_last_wave_is_in_it(fleet: FleetFolder) -> None:
    to_the_end(fleet)
    assert assigned(fleet.root).desired("field-new") == list(released(fleet.root))[-1]


def test_the_first_release_of_all_returns_to_no_wish(tmp_path: Path) -> None:
    fleet, (only,) = make_fleet(tmp_path / "fleet")
    fleet.devices.write_text(json.dumps(DEVICES))
    act(fleet, 0.0)
    assert {assigned(fleet.root).desired(device) for device in DEVICES} == {only, None}
    to_the_end(fleet, lambda device: "refused")
    assert {assigned(fleet.root).desired(device) for device in DEVICES} == {None}


def test_what_lies_below_the_floor_is_no_release_to_return_to(fleet: FleetFolder) -> None:
    publish_release(fleet, 3, floor=3)
    act(fleet, 0.0)
    to_the_end(fleet, lambda device: "refused")
    assert assigned(fleet.root).base is None


def test_nothing_published_is_told(tmp_path: Path) -> None:
    fleet, _ = make_fleet(tmp_path / "fleet", ())
    with pytest.raises(FleetError, match="Nothing is published"):
        act(fleet, 0.0)


def test_a_dry_run_tells_and_changes_nothing(fleet: FleetFolder) -> None:
    before = {path: path.read_bytes() for path in fleet.root.rglob("*") if path.is_file()}
    told = act(fleet, 0.0, dry_run=True)
    assert (told.status, told.changed) == ("running", True)
    assert {path: path.read_bytes() for path in fleet.root.rglob("*") if path.is_file()} == before


def test_the_copy_is_written_again_and_what_it_says_counts_for_nothing(fleet: FleetFolder) -> None:
    act(fleet, 0.0)
    whole = fleet.rollout.read_text()
    for damage in (None, "", "{", whole.replace('"running"', '"completed"'), json.dumps([1])):
        fleet.rollout.unlink() if damage is None else fleet.rollout.write_text(damage)
        assert act(fleet, 1.0).status == "running"
        assert fleet.rollout.read_text() == whole
    assert State.from_dict(json.loads(whole)) == State.from_dict(signed_state(fleet.root))


def test_a_rollout_signed_without_its_state_is_read_from_the_assignments(fleet: FleetFolder) -> None:
    follow(fleet, DEVICES, lambda device: "confirmed")
    act(fleet, 0.0)
    follow(fleet, DEVICES, lambda device: "confirmed", 2.0)
    take_in(fleet)  # both at once, in the order of their hashes
    second = act(fleet, 200.0).state
    signed = assigned(fleet.root)
    keys = Keyring(fleet.keys)
    set_assignments(fleet.root, keys, base=signed.base, rollout=signed.rollout, state={"x": 1}, now_s=200.0)
    assert second is not None
    assert second.wave == 1
    assert current(fleet, PLAN, assigned(fleet.root)) == second


def test_what_an_engineer_changes_by_hand_stays(fleet: FleetFolder) -> None:
    old, new = released(fleet.root)
    keys = Keyring(fleet.keys)
    act(fleet, 0.0)
    signed = assigned(fleet.root)
    set_assignments(fleet.root, keys, base=signed.base, pins={"field-03": old}, rollout=signed.rollout, now_s=1.0)
    assert act(fleet, 2.0).status == "running"
    assert assigned(fleet.root).pins == {"field-03": old}
    set_assignments(fleet.root, keys, base=old, now_s=3.0)
    taken_back = act(fleet, 4.0)
    assert taken_back.state is not None
    assert (taken_back.status, taken_back.state.reason) == ("halted", "taken back by hand")
    set_assignments(fleet.root, keys, base=new, now_s=5.0)
    assert act(fleet, 6.0).status == "halted"
    assert assigned(fleet.root).base == new


def test_assignments_are_signed_again_before_devices_take_nothing_more(fleet: FleetFolder) -> None:
    day_s = 86_400.0
    act(fleet, 0.0)
    assert act(fleet, 20 * day_s).changed is False
    assert Repository(fleet.root, "assignments").days_left(20 * day_s) > 29


def test_the_plan_is_the_one_of_the_params(params: Params) -> None:
    plan = plan_of(params.rollout)
    assert [(wave.devices, wave.share) for wave in plan.waves] == [(1, 0.0), (0, 0.05), (0, 0.25), (0, 1.0)]
    assert plan.soak_s == 86_400.0
    assert plan_of(params.rollout.model_copy(update={"first_devices": 0})).waves[0].share == 0.05


json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9) | st.sampled_from(["a" * 64, "confirmed"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["release", "failed", "sha256", "state", "reason"]), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(body=st.dictionaries(st.sampled_from(["release", "failed", "x"]), json_like))
def test_any_health_message_is_a_report_or_none(body: dict[str, Any]) -> None:
    said = report_of(body, "a" * 64)
    assert said is None or said.state in ("trial", "confirmed", "rolled_back", "refused")


def test_a_device_that_confirmed_in_the_end_has_confirmed() -> None:
    both = {"release": {"sha256": "a", "state": "confirmed"}, "failed": {"sha256": "a", "state": "rolled_back"}}
    assert report_of(both, "a") == replace(report_of({"release": both["release"]}, "a"))  # type: ignore[type-var]
    tried = {"release": {"sha256": "a", "state": "trial"}, "failed": {"sha256": "b", "state": "refused"}}
    assert report_of(tried, "a") is not None
    assert report_of(tried, "c") is None


def interrupted(root: Path, left: int, how: str) -> tuple[int, int]:
    """A step in a process of its own that ends, or fails, at its write number ``left``; its end and writes seen."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        seen = 0

        def watch(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal seen
            reads = event == "open" and "r" in str(arguments[1])
            changes = event in ("open", "os.rename", "os.remove", "os.mkdir") and not reads
            if changes and any(str(root) in str(each) for each in arguments):
                seen += 1
                if seen == left and how == "kill":
                    os.kill(os.getpid(), signal.SIGKILL)
                if seen == left:
                    raise OSError(errno.ENOSPC, "No space left on device")

        sys.addaudithook(watch)
        try:
            act(FleetFolder(root), 200.0)
            os.write(write, str(seen).encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as said:
        writes = int(said.read() or 0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), writes


@pytest.mark.slow
@pytest.mark.parametrize("how", ["kill", "fail"])
def test_interrupted_at_every_write_the_next_step_comes_to_the_same_decision(fleet: FleetFolder, how: str) -> None:
    act(fleet, 0.0)
    follow(fleet, DEVICES, lambda device: "confirmed")
    take_in(fleet)

    def decided(root: Path) -> tuple[Any, ...]:
        twin = Repository(root, "media-assignments").content("assignments.json")
        return assigned(root), twin, signed_state(root), json.loads((root / "rollout.json").read_text())

    work = fleet.root.parent / "work"
    shutil.copytree(fleet.root, work)
    end, writes = interrupted(work, 0, how)
    wanted = decided(work)
    assert (end, wanted[0].serial) == (0, 3)
    assert writes > 10
    for number in range(1, writes + 1):
        shutil.rmtree(work)
        shutil.copytree(fleet.root, work)
        end, _ = interrupted(work, number, how)
        assert end == (-signal.SIGKILL if how == "kill" else 0)
        assert assigned(work).serial in (2, 3), "what is signed is whole at any moment"
        act(FleetFolder(work), 200.0)
        assert decided(work) == wanted
