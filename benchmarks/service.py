"""The device's service at work and at rest: memory, idle CPU, and latency of advice while the journal writes.

``python -m benchmarks.service`` prints JSON and writes ``metrics/bench/service.json``. The service runs in the device's
own environment, with the code of this checkout and the season's bundle. Eight fields get a season's records morning by
morning. ``advice_ms`` is by the clock, ``advice_cpu_ms`` what the adviser's own thread took: on a machine that does
other work the first says more about that work. The peer is the same advice in a process that does nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from headland_edge.bundle import Bundle, open_bundle
from headland_edge.home import Home, Local, Settings, UplinkSettings, make
from headland_edge.records import COLUMNS, Records, write_csv
from headland_edge.slots import Slots

from benchmarks.device import EDGE, installed_mb, run
from benchmarks.machine import describe
from tasks.durable import write_json
from tasks.evaluation.evaluate import bundle_file
from tasks.fleet.live import free_port
from tasks.params import load

FIELDS, MORNINGS = 8, 140
IDLE_S = 30.0
_PATIENCE_S = 120.0


def device(root: Path, bundle: Bundle) -> Home:
    """A device whose confirmed release is ``bundle``."""
    local = Local(http_port=free_port(), poll_s=1.0)
    home = make(root, Settings("bench-1", "maize", uplink=UplinkSettings(every_s=600.0), local=local))
    slots = Slots(home.slots)
    slots.begin_trial(slots.install(bundle.path.read_bytes(), bundle.sha256, bundle.manifest.release.counter))
    slots.confirm()
    return home


@contextmanager
def service(home: Home, times: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The service of ``home``; it ends in order, and leaves its advices' times."""
    code = Path(__file__).resolve().parents[1] / "edge"
    words = [str(EDGE), str(Path(__file__).with_name("in_service.py")), str(home.root), str(times)]
    environment = {**os.environ, "PYTHONPATH": str(code), "OPENBLAS_NUM_THREADS": "1"}  # as the command sets it
    with (home.root / "device.log").open("wb") as log:
        process = subprocess.Popen(words, stdout=log, stderr=log, env=environment)
    try:
        yield process
        process.terminate()
        process.wait(_PATIENCE_S)
    finally:
        process.kill()
        process.wait()


def asked(home: Home) -> dict[str, Any]:
    """Every field's answer; empty while there is none."""
    port = home.settings().local.http_port
    with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/advice", timeout=5) as answer:
        found: dict[str, Any] = json.loads(answer.read())
        return found
    return {}


def made_up() -> Records:
    """A season of one field."""
    usual = {"et0_mm": 4.0, "tmin_c": 10.0, "tmax_c": 22.0, "depletion_frac": 0.4, "taw_mm": 120.0, "lai": 2.0}
    values = np.tile([usual.get(name, 0.0) for name in COLUMNS], (MORNINGS, 1))
    values += np.random.default_rng(0).uniform(0.0, 0.05, values.shape)
    return Records("maize", date(2009, 4, 20), values)


def played(home: Home) -> None:
    """A season of every field, a morning at a time. Raises TimeoutError if the service does not answer."""
    season = made_up()
    for morning in range(MORNINGS):
        known = season.until(morning)
        for field in range(FIELDS):
            write_csv(home.inbox / f"field-{field}.csv", known)
        deadline_s = time.monotonic() + _PATIENCE_S
        while sum(said["date"] == known.last_date.isoformat() for said in asked(home).values()) < FIELDS:
            if time.monotonic() > deadline_s:
                raise TimeoutError((home.root / "device.log").read_text()[-1000:])
            time.sleep(0.02)


def cpu_s(pid: int) -> float:
    """CPU time of a process until now, seconds."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def memory_mb(pid: int, key: str) -> float:
    """``VmRSS`` or ``VmHWM`` of a process, MB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith(key))


def quantiles(values: Any) -> dict[str, float]:
    """Median and the slow end."""
    return {f"p{q:g}": round(float(np.percentile(values, q)), 3) for q in (50, 95, 99)}


def measure(bundle: Bundle) -> dict[str, Any]:
    """All figures of one run."""
    with tempfile.TemporaryDirectory() as folder:
        home, times = device(Path(folder) / "device", bundle), Path(folder) / "times.json"
        settings = home.settings_file.read_text()
        home.settings_file.write_text(settings.replace("poll_s = 1.0", "poll_s = 0.02"))
        with service(home, times) as process:
            played(home)
            peak_mb = memory_mb(process.pid, "VmHWM")
        taken = np.array(json.loads(times.read_text()))
        home.settings_file.write_text(settings)
        with service(home, times) as process:
            while len(asked(home)) < FIELDS:
                time.sleep(0.1)
            time.sleep(2.0)  # what was said is written by now
            before_s = cpu_s(process.pid)
            time.sleep(IDLE_S)
            idle = (cpu_s(process.pid) - before_s) / IDLE_S
            rss_mb = memory_mb(process.pid, "VmRSS")
        write_csv(Path(folder) / "season.csv", made_up())
        peer = run("advise", bundle.path, Path(folder) / "season.csv", len(taken))
    return {
        "advices": len(taken),
        "advice_ms": quantiles(taken[:, 0]),
        "advice_cpu_ms": quantiles(taken[:, 1]),
        "peer_without_service": {key: round(value, 3) for key, value in peer.items() if key.endswith("_ms")},
        "peak_rss_mb": round(peak_mb, 1),
        "idle_rss_mb": round(rss_mb, 1),
        "idle_cpu_percent": round(idle * 100, 3),
    }


def main() -> int:
    """Measure and print; 1 if there is no bundle yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--bundle", type=Path, help="by default the season's")
    path = parser.parse_args().bundle or bundle_file(load())
    if not path.exists() or not EDGE.exists():
        print(f"error: {path if EDGE.exists() else EDGE} is missing; run `make demo` first", file=sys.stderr)
        return 1
    bundle = open_bundle(path)
    found: dict[str, Any] = {"machine": describe(), "fields": FIELDS, "mornings": MORNINGS}
    found |= measure(bundle)
    found["bundle_kib"] = round(path.stat().st_size / 1024, 1)
    found["installed_mb"] = installed_mb()
    write_json(Path("metrics/bench/service.json"), found)
    print(json.dumps(found, indent=2))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
