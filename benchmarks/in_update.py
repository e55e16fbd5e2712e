"""What runs inside the device's environment for ``benchmarks/update.py``: one update after the other, CPU of each.

Modes: ``quick`` without the trial in a process of its own, ``trial`` with it, ``command`` as the service starts it, a
process for each look, ``peer`` a plain download. Prints medians, in ms of CPU (``_wall_ms`` by the clock), by kind.
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from headland_edge.accept import Accepted, Device, NotAccepted, _fits, _whole
from headland_edge.home import Home, to_toml
from headland_edge.slots import Slots
from headland_edge.update import last_outcome, update


def main(mode: str, root: str, states: str, kinds: list[str]) -> int:
    """Take every release in turn; the first of each kind only warms up."""
    act: Callable[[Home, str], None] = {"quick": quick, "trial": trial, "command": command, "peer": peer}[mode]
    home, taken = Home(Path(root)), dict[str, list[tuple[float, float, float]]]()
    for number, kind in enumerate(kinds):
        state = f"{states.rstrip('/')}/{number}"
        point_to(home, state)
        before = (time.process_time(), child_s(), time.perf_counter())
        act(home, state)
        after = (time.process_time(), child_s(), time.perf_counter())
        own, child, wall = (round((b - a) * 1e3, 3) for a, b in zip(before, after, strict=True))
        taken.setdefault(kind, []).append((own, child, wall))
        if mode != "peer":
            check_and_confirm(home, "whole" if kind == "first" else kind)
    found = {}
    for kind in ("whole", "patch"):
        own, child, wall = (statistics.median(column) for column in zip(*taken[kind][1:], strict=True))
        found[kind] = {"cpu_ms": round(own + child, 1), "wall_ms": round(wall, 1)}
        if mode == "trial":
            found[kind] |= {"trial_cpu_ms": round(child, 1)}
    print(json.dumps(found))
    return 0


def quick(home: Home, state: str) -> None:
    """Everything but the trial."""
    update(home, accepting=untried)


def trial(home: Home, state: str) -> None:
    """Everything; a machine that does other work may find a release slow, which is not what is measured here."""
    from headland_edge.accept import accept

    def patiently(data: bytes, sha256: str, device: Device) -> Accepted:
        try:
            return accept(data, sha256, device)
        except NotAccepted as refused:
            if refused.code != "slow":
                raise
            return untried(data, sha256, device)

    update(home, accepting=patiently)


def command(home: Home, state: str) -> None:
    """As the service does, without the trial: interpreter, imports and all."""
    program = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[2]); import in_update\n"
        "from headland_edge.home import Home; in_update.quick(Home(Path(sys.argv[1])), '')\n"
    )
    words = [sys.executable, "-c", program, str(home.root), str(Path(__file__).parent)]
    subprocess.run(words, check=True)


def peer(home: Home, state: str) -> None:
    """Download the release, hash it, flush it to the disk."""
    with urllib.request.urlopen(f"{state}/latest.tar") as response, (home.root / "release.tar").open("wb") as file:
        digest = hashlib.sha256()
        while chunk := response.read(65536):
            digest.update(chunk)
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())


def untried(data: bytes, sha256: str, device: Device) -> Accepted:
    """All checks of a release that need no process of their own."""
    bundle = _whole(data, sha256)
    _fits(bundle, device)
    return Accepted(bundle, 0.0, 0.0)


def point_to(home: Home, state: str) -> None:
    """Let the device look there."""
    settings = home.settings()
    is_url = state.startswith("http")
    updates = replace(settings.updates, url=state if is_url else "", folder="" if is_url else state)
    home.settings_file.write_text(to_toml(replace(settings, updates=updates)))


def check_and_confirm(home: Home, method: str) -> None:
    """Raise unless the last look installed a release by ``method``; then let it have proved itself."""
    told = last_outcome(home)
    if told is None or (told["state"], told["method"]) != ("installed", method):
        raise RuntimeError(f"the update did not go as it should: {told}")
    slots = Slots(home.slots)
    slots.boot()
    slots.confirm()


def child_s() -> float:
    """CPU of all processes that were started and have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4:]))
