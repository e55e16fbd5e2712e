"""What a device survives: each fault tried on real processes, at every step and at random moments, and a table.

``python -m benchmarks.faults [--bundle FILE] [--kills N] [--only GROUP] [--json]`` prints it, writes
``metrics/bench/faults.json`` and ends with 1 if a fault was not survived. Survived: afterwards the device advises from
a release that was signed, every message whose ticket said that it is kept is in the outbox or with the cloud, and the
next update works.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from benchmarks import fault_service, fault_updates
from benchmarks.fault_world import Count, World
from benchmarks.machine import describe
from tasks.durable import write_json
from tasks.evaluation.evaluate import bundle_file
from tasks.params import load

KILLS = 1000
_SEED = 1
_RESULT = Path("metrics/bench/faults.json")


def groups(world: World, kills: int) -> dict[str, Callable[[], Iterable[Count]]]:
    """Every fault, by group; the slow ones are tried a share of ``kills`` times."""
    rng = random.Random(_SEED)
    some = max(2, kills // 25)
    return {
        "steps": lambda: fault_updates.kills_at_every_change(world),
        "random": lambda: [fault_updates.kills_at_random(world, kills, rng)],
        "command": lambda: [fault_updates.kills_of_the_command(world, some, rng)],
        "power": lambda: fault_updates.power_cuts(world),
        "service": lambda: [fault_service.kills_of_the_service(world, some, rng)],
        "publisher": lambda: fault_service.kills_of_the_publisher(world, 2 * some, max(2, some // 4), rng),
        "disk": lambda: _disks(world, some, rng),
        "flips": lambda: _flips(world, some, rng),
        "clock": lambda: [fault_updates.clocks(world), fault_service.service_at_wrong_clocks(world)],
        "attacks": lambda: fault_updates.attacks(world),
        "releases": lambda: _bad_releases(world),
        "offline": lambda: [fault_updates.month_offline(world)],
    }


def table(counts: list[Count]) -> str:
    """Fault, times tried, times survived."""
    wide = max(len(count.fault) for count in counts)
    lines = [f"{'fault':<{wide}}  tried  survived"]
    for count in counts:
        note = f"  ({count.note})" if count.note else ""
        lines.append(f"{count.fault:<{wide}}  {count.tried:>5}  {count.survived:>8}{note}")
    tried, survived = sum(count.tried for count in counts), sum(count.survived for count in counts)
    return "\n".join([*lines, f"{'all':<{wide}}  {tried:>5}  {survived:>8}"])


def _disks(world: World, times: int, rng: random.Random) -> Iterator[Count]:
    yield fault_updates.full_disks(world, times, rng)
    yield from fault_updates.small_disks(world, max(2, times // 4), rng)
    yield fault_service.service_without_a_disk(world)


def _flips(world: World, times: int, rng: random.Random) -> Iterator[Count]:
    home = fault_updates.lived_in(world, fault_service.worked(world))
    yield from fault_updates.flips_on_the_device(world, home, times, rng)
    yield fault_updates.flips_on_the_way(world, times, rng)


def _bad_releases(world: World) -> Iterator[Count]:
    yield from fault_updates.bad_releases(world)
    yield fault_service.crashes_on_the_tenth(world)


def main() -> int:
    """Try, print, write; 1 if something was not survived or there is no bundle."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path, help="made into releases; without it, the season's")
    parser.add_argument("--kills", type=int, default=KILLS, help="of updates at random moments")
    parser.add_argument("--only", default="", help="only this group; the others stay as they are in the file")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    given = parser.parse_args()
    bundle = given.bundle or bundle_file(load())
    if not bundle.exists():
        print(f"error: {bundle} is missing; run `make demo` first, or give --bundle", file=sys.stderr)
        return 1
    found: dict[str, Any] = {}
    counts = list[Count]()
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder), bundle)
        for name, group in groups(world, given.kills).items():
            if given.only not in ("", name):
                continue
            began_s, tried = time.monotonic(), list[Count]()
            for count in group():
                tried.append(count)
                print(f"{count.survived}/{count.tried}  {count.fault}", file=sys.stderr, flush=True)
                for failure in count.failures[:5]:
                    print(f"  {failure}", file=sys.stderr, flush=True)
            found[name] = {
                "machine": describe(),
                "bundle_kib": round(bundle.stat().st_size / 1024, 1),
                "minutes": round((time.monotonic() - began_s) / 60, 1),
                "faults": [vars(count) for count in tried],
            }
            counts += tried
    kept = json.loads(_RESULT.read_text()) if given.only and _RESULT.exists() else {}
    write_json(_RESULT, {**kept, **found})
    print(json.dumps(found, indent=2) if given.json else table(counts))
    return 0 if all(count.survived == count.tried for count in counts) else 1


if __name__ == "__main__":
    raise SystemExit(main())
