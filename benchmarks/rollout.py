"""A fleet at protocol level: how long 10,000 simulated devices take through all waves, and where the rollout ends.

``python -m benchmarks.rollout`` prints JSON and writes ``metrics/bench/rollout.json``. Devices are simulated: each
reads the assignments, and some rounds later reports, fails or stays silent. What is measured is the controller. Three
fleets meet the same plan: 5 % failing and 20 % silent (to be completed), 35 % failing and 20 % silent (to be halted),
and the peer, a fleet without trouble.
"""

from __future__ import annotations

import json
import random
import time
from pathlib import Path
from typing import Any

from headland_edge.assignment import Assignments, decode, encode

from benchmarks.machine import describe
from tasks.durable import write_json
from tasks.fleet.rollout import Plan, Report, ReportState, assignments, count, start, step

DEVICES = 10_000
ROUND_S = 3600.0
MOST_ROUNDS = 24 * 60
NEW, OLD = "a" * 64, "b" * 64


def roll_out(failing: float, silent: float, seed: int = 1) -> dict[str, Any]:
    """One rollout over a fleet; shares of devices that fail the release, and that never say anything."""
    rng = random.Random(seed)
    fleet = [f"field-{number:05d}" for number in range(DEVICES)]
    fate: dict[str, ReportState | None] = {}
    for device in fleet:
        luck = rng.random()
        fate[device] = None if luck < silent else "rolled_back" if luck < silent + failing else "confirmed"
    plan = Plan(minimum_reports=20, soak_s=24 * 3600.0)
    began, now = time.perf_counter(), 0.0
    state = start(NEW, OLD, fleet, plan, now)
    signed = assignments(state, plan, Assignments(1, OLD))
    reports: dict[str, Report] = {}
    rounds = 0
    while state.status == "running" and rounds < MOST_ROUNDS:
        rounds, now = rounds + 1, now + ROUND_S
        seen = decode(encode(signed))
        for device in fleet:
            said = fate[device]
            if said and device not in reports and seen.desired(device) == NEW and rng.random() < 0.2:
                reports[device] = Report(NEW, said)
        state = step(state, plan, reports, fleet, now)
        signed = assignments(state, plan, signed)
    found = count(state, plan, reports, fleet)
    return {
        "status": state.status,
        "reason": state.reason,
        "waves": state.wave + 1,
        "simulated_days": round(now / 86_400, 1),
        "confirmed": found.confirmed,
        "failed": found.failed,
        "pending": found.pending,
        "base_is_new": signed.base == NEW,
        "seconds": round(time.perf_counter() - began, 2),
    }


def main() -> int:
    """Measure and print; 1 if a rollout did not end as it should."""
    found: dict[str, Any] = {
        "machine": describe(),
        "devices": DEVICES,
        "fails_5_silent_20": roll_out(0.05, 0.20),
        "fails_35_silent_20": roll_out(0.35, 0.20),
        "peer_without_trouble": roll_out(0.0, 0.0),
    }
    write_json(Path("metrics/bench/rollout.json"), found)
    print(json.dumps(found, indent=2))
    ends = [found[name]["status"] for name in ("fails_5_silent_20", "fails_35_silent_20", "peer_without_trouble")]
    return 0 if ends == ["completed", "halted", "completed"] else 1


if __name__ == "__main__":
    raise SystemExit(main())
