"""Every fault of ``benchmarks/faults.py`` on a small bundle, a few times each; the command tries them far oftener."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from headland_edge.home import Home
from headland_edge.outbox import Outbox
from headland_edge.slots import Slots

from benchmarks import fault_service, fault_updates, faults
from benchmarks.fault_world import Count, World, advises, child, judge, judged, kept, look_and_write, point_to
from tests.edge.small_bundle import make_bundle

pytestmark = pytest.mark.slow
Tried = Callable[[World, random.Random], Iterable[Count]]

FAULTS: dict[str, Tried] = {
    "kills at steps": lambda world, rng: fault_updates.kills_at_every_change(world, stride=30),
    "kills at random": lambda world, rng: [fault_updates.kills_at_random(world, 8, rng)],
    "kills of the command": lambda world, rng: [fault_updates.kills_of_the_command(world, 2, rng)],
    "power cuts": lambda world, rng: fault_updates.power_cuts(world, stride=30),
    "full disks": lambda world, rng: [fault_updates.full_disks(world, 3, rng)],
    "flips on the way": lambda world, rng: [fault_updates.flips_on_the_way(world, 4, rng)],
    "clocks": lambda world, rng: [fault_updates.clocks(world, stride=2)],
    "attacks": lambda world, rng: fault_updates.attacks(world),
    "bad releases": lambda world, rng: fault_updates.bad_releases(world),
    "a month offline": lambda world, rng: [fault_updates.month_offline(world)],
    "kills of the service": lambda world, rng: [fault_service.kills_of_the_service(world, 3, rng)],
    "a crashing release": lambda world, rng: [fault_service.crashes_on_the_tenth(world)],
    "kills of the publisher": lambda world, rng: fault_service.kills_of_the_publisher(world, 4, 1, rng),
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    root = tmp_path_factory.mktemp("world")
    return World(root / "world", make_bundle(root / "bundle.tar").path)


def survived(counts: Iterable[Count]) -> int:
    """How many faults were tried; each was survived."""
    tried = 0
    for count in counts:
        assert count.failures == [], count.fault
        assert count.survived == count.tried
        tried += count.tried
    return tried


@pytest.mark.parametrize("fault", FAULTS)
def test_a_device_survives(world: World, fault: str) -> None:
    assert survived(FAULTS[fault](world, random.Random(1))) > 0


def test_a_device_survives_a_flipped_bit_in_each_part_of_its_state(world: World) -> None:
    home = fault_updates.lived_in(world, fault_service.worked(world))
    counts = list(fault_updates.flips_on_the_device(world, home, 2, random.Random(1)))
    assert survived(counts) == 2 * len(counts) == 14


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small disk")
def test_a_device_survives_a_small_disk_that_is_full_or_read_only(world: World) -> None:
    counts = [*fault_updates.small_disks(world, 2, random.Random(1)), fault_service.service_without_a_disk(world)]
    if not any(count.tried for count in counts):
        pytest.skip("a small disk cannot be mounted here")
    assert survived(counts) == 6


def test_the_judge_sees_a_device_that_did_not_survive(world: World) -> None:
    """Or else all of the above could not fail."""
    bricked = world.copy(world.warm, "bricked")
    (bricked.slots / "a" / "bundle.tar").write_bytes(b"")
    assert judge(bricked, world, then=()) == "no release runs"
    forgetful = world.copy(world.warm, "forgetful")
    point_to(forgetful, world.state(2))
    code, said = child(lambda say: look_and_write(forgetful, say))
    ids = [line for line in said if " " not in line]
    assert (code, len(ids)) == (0, 8)
    assert judge(forgetful, world, ids) == ""
    child(lambda say: _forget(forgetful, ids[3]))
    assert judge(forgetful, world, ids) == "1 messages lost"
    stuck = world.copy(world.warm, "stuck")
    child(lambda say: Slots(stuck.slots).mark_bad(world.signed[2]))
    assert "the next update ends refused" in judge(stuck, world)
    assert "never signed" in judged(*child(lambda say: say(f"judged {advises(world.warm, ['0' * 64])}")))
    assert "ended with 1" in judged(*child(lambda say: kept(Home(Path("/proc/none")), ())))


def _forget(home: Home, message_id: str) -> None:
    with Outbox(home.outbox) as outbox:
        outbox.delivered([message_id]).result()


def test_the_table_tells_each_fault_with_its_counts() -> None:
    good, bad = Count("one", note="so"), Count("another one")
    for _ in range(3):
        good.add("")
    bad.add("")
    bad.add("bricked", 7)
    assert faults.table([good, bad]).splitlines() == [
        "fault        tried  survived",
        "one              3         3  (so)",
        "another one      2         1",
        "all              5         4",
    ]
    assert bad.failures == ["7: bricked"]
