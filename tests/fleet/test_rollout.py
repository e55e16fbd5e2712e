from __future__ import annotations

import json
from dataclasses import replace

import pytest
from headland_edge.assignment import Assignments, decode, encode
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tasks.fleet.rollout import (
    Plan,
    Report,
    ReportState,
    State,
    Wave,
    assignments,
    count,
    is_member,
    start,
    step,
    too_many,
)

NEW, OLD, NEWER = "a" * 64, "b" * 64, "c" * 64
PLAN = Plan(minimum_reports=3, soak_s=100.0)
FLEET = [f"device-{number:04d}" for number in range(400)]


def members(state: State, plan: Plan = PLAN) -> list[str]:
    return [device for device in FLEET if is_member(state, plan, device)]


def all_say(state: State, said: ReportState, plan: Plan = PLAN) -> dict[str, Report]:
    return {device: Report(state.release, said) for device in members(state, plan)}


def test_waves_reach_one_then_shares_then_everybody() -> None:
    state, sizes, now = start(NEW, OLD, FLEET, PLAN, 0.0), [], 0.0
    while state.status == "running":
        sizes.append(len(members(state)))
        now += 100.0
        state = step(state, PLAN, all_say(state, "confirmed"), FLEET, now)
    assert state.status == "completed"
    assert sizes[0] == 1
    assert 10 <= sizes[1] <= 31
    assert 75 <= sizes[2] <= 125
    assert sizes[3] == 400


def test_a_wave_waits_for_its_soak_time_and_for_enough_reports() -> None:
    state = step(start(NEW, OLD, FLEET, PLAN, 0.0), PLAN, {}, FLEET, 1e6)
    assert state.wave == 0
    one = all_say(state, "confirmed")
    assert step(state, PLAN, one, FLEET, 99.0).wave == 0
    second = step(state, PLAN, one, FLEET, 100.0)
    assert second.wave == 1
    few = dict(list(all_say(second, "confirmed").items())[:2])
    assert step(second, PLAN, few, FLEET, 1e6).wave == 1


def test_a_failing_first_device_halts_and_the_release_before_is_assigned() -> None:
    state = start(NEW, OLD, FLEET, PLAN, 0.0)
    halted = step(state, PLAN, all_say(state, "refused"), FLEET, 1.0)
    assert halted.status == "halted"
    assert "1 of 1" in halted.reason
    signed = assignments(halted, PLAN, assignments(state, PLAN, Assignments(7, OLD)))
    assert signed.serial == 9
    assert {signed.desired(device) for device in FLEET} == {OLD}


def test_a_few_failures_more_than_the_share_wait_for_more_reports_and_many_halt() -> None:
    state = replace(start(NEW, OLD, FLEET, PLAN, 0.0), wave=3)

    def after(failed: int, confirmed: int) -> State:
        said = ["refused"] * failed + ["confirmed"] * confirmed
        reports = {device: Report(NEW, each) for device, each in zip(FLEET, said, strict=False)}  # type: ignore[arg-type]
        return step(state, PLAN, reports, FLEET, 1e6)

    assert after(8, 71).status == "running"
    assert after(16, 63).status == "halted"
    assert after(8, 100).status == "completed"


def test_the_test_is_the_exact_binomial_one() -> None:
    from scipy.stats import binom

    for failed, judged in ((1, 10), (3, 10), (8, 79), (13, 79), (120, 1000)):
        chance = binom.sf(failed - 1, judged, 0.1)
        assert too_many(failed, judged, 0.1) == (failed > 0.1 * judged and chance <= 0.1)


def test_silent_devices_are_pending_and_never_halt_a_rollout() -> None:
    state = replace(start(NEW, OLD, FLEET, PLAN, 0.0), wave=3)
    loud = {device: Report(NEW, "confirmed") for device in FLEET[:300]}
    found = count(state, PLAN, loud, FLEET)
    assert (found.assigned, found.confirmed, found.pending) == (400, 300, 100)
    assert step(state, PLAN, loud, FLEET, 1e6).status == "completed"


def test_reports_on_another_release_and_of_devices_outside_the_wave_do_not_count() -> None:
    state = start(NEW, OLD, FLEET, PLAN, 0.0)
    outside = {device: Report(NEW, "rolled_back") for device in FLEET if not is_member(state, PLAN, device)}
    of_old = {device: Report(OLD, "rolled_back") for device in members(state)}
    assert step(state, PLAN, {**outside, **of_old}, FLEET, 1e6) == state


def test_devices_that_appear_later_join() -> None:
    state = replace(start(NEW, OLD, FLEET[:10], PLAN, 0.0), wave=3)
    signed = assignments(state, PLAN, Assignments(1, OLD))
    assert signed.desired("device-new") == NEW


def test_waves_start_only_in_their_hours() -> None:
    night = replace(PLAN, hours_utc=(1, 4), weekdays=(0, 1, 2, 3))
    state = start(NEW, OLD, FLEET, night, 0.0)
    noon, two_oclock = 12 * 3600.0, 26 * 3600.0  # 1 January 1970 was a Thursday, day 3
    assert step(state, night, all_say(state, "confirmed"), FLEET, noon).wave == 0
    assert step(state, night, all_say(state, "confirmed"), FLEET, two_oclock).wave == 0  # a Friday
    assert step(state, night, all_say(state, "confirmed"), FLEET, 2 * 3600.0).wave == 1


def test_a_stuck_rollout_does_not_block_the_next() -> None:
    stuck = start(NEW, OLD, FLEET, PLAN, 0.0)
    signed = assignments(stuck, PLAN, Assignments(1, OLD))
    following = start(NEWER, OLD, FLEET, PLAN, 1e6)
    signed = assignments(following, PLAN, signed)
    assert {signed.desired(device) for device in FLEET} == {NEWER, OLD}


def test_what_is_signed_already_is_not_signed_again() -> None:
    state = start(NEW, OLD, FLEET, PLAN, 0.0)
    once = assignments(state, PLAN, Assignments(1, OLD))
    assert assignments(state, PLAN, once) is once
    assert decode(encode(once)) == once


def test_a_plan_that_leaves_devices_out_is_refused() -> None:
    with pytest.raises(ValueError, match=r"share 1\.0"):
        Plan(waves=(Wave(devices=1), Wave(share=0.5)))
    with pytest.raises(ValueError, match="rise"):
        Plan(waves=(Wave(share=0.5), Wave(share=0.2), Wave(share=1.0)))


class AnyFleet(RuleBasedStateMachine):
    """Reports that come late, twice, in any order or never, and a controller killed between any two steps."""

    @initialize()
    def begin(self) -> None:
        self.plan = Plan(minimum_reports=3, soak_s=10.0)
        self.fleet, self.now = list(FLEET[:40]), 0.0
        self.state = start(NEW, OLD, self.fleet, self.plan, 0.0)
        self.signed = assignments(self.state, self.plan, Assignments(1, OLD))
        self.reports: dict[str, Report] = {}
        self.waves = [0]

    @rule(number=st.integers(0, 39), said=st.sampled_from(["trial", "confirmed", "rolled_back", "refused"]))
    def report(self, number: int, said: ReportState) -> None:
        device = self.fleet[number]
        if self.signed.desired(device) == NEW:
            self.reports[device] = Report(NEW, said)

    @rule()
    def all_well(self) -> None:
        for device in self.fleet:
            if self.signed.desired(device) == NEW:
                self.reports[device] = Report(NEW, "confirmed")

    @rule(seconds=st.floats(-20, 200))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def a_device_appears(self) -> None:
        self.fleet.append(f"late-{len(self.fleet)}")

    @rule(killed=st.booleans())
    def control(self, killed: bool) -> None:
        before = self.state
        after = step(before, self.plan, self.reports, self.fleet, self.now)
        if killed:  # nothing was written: the next one starts from the state on the disk and comes to the same
            before = State.from_dict(json.loads(json.dumps(before.as_dict())))
            assert step(before, self.plan, self.reports, self.fleet, self.now) == after
        found = count(before, self.plan, self.reports, self.fleet)
        if after.wave > before.wave or (after.status == "completed" != before.status):
            assert found.confirmed >= self.plan.success_share * found.judged
            assert found.judged >= min(self.plan.minimum_reports, found.assigned)
            assert self.now - before.wave_started_s >= self.plan.soak_s
        self.state = after
        self.signed = assignments(after, self.plan, self.signed)
        self.waves.append(after.wave)

    @invariant()
    def what_is_signed_is_what_was_decided(self) -> None:
        if not hasattr(self, "state"):
            return
        assert self.waves == sorted(self.waves)
        wanted = {device: self.signed.desired(device) for device in self.fleet}
        if self.state.status == "completed":
            assert set(wanted.values()) == {NEW}
        elif self.state.status == "halted":
            assert set(wanted.values()) == {OLD}
        else:
            for device, release in wanted.items():
                assert (release == NEW) == is_member(self.state, self.plan, device)


TestAnyFleet = AnyFleet.TestCase
TestAnyFleet.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
