"""What field seasons by the million cost: CPU time, memory and disk, of a few and of four times as many.

``python -m benchmarks.worlds`` in a folder where the weather stage has run prints JSON and writes
``metrics/bench/worlds.json``. The few are the peer: memory must not grow with the number. CPU time is that of the
command and all its processes, start and compiled model included; memory is their sum, looked at five times a second,
with what they share counted for each.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil

from benchmarks.machine import describe
from tasks.durable import write_json

FEW, TIMES = 4000, 4
MOST_GROWTH = 1.2
_LOOK_EVERY_S = 0.2


def cost(field_seasons: int, crop: str) -> dict[str, float]:
    """Farm into a folder that goes away again."""
    with TemporaryDirectory() as folder:
        words = ["-m", "tasks.cli", "worlds", "--to", folder, "--field-seasons", str(field_seasons), "--crop", crop]
        before, began, peak = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic(), 0
        process = subprocess.Popen([sys.executable, *words], stdout=subprocess.DEVNULL)
        while process.poll() is None:
            peak = max(peak, _family_bytes(process.pid))
            time.sleep(_LOOK_EVERY_S)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        if process.returncode:
            raise SystemExit(f"headland worlds ended with {process.returncode}")
        disk = sum(file.stat().st_size for file in Path(folder).rglob("*.parquet"))
    return {
        "field_seasons": field_seasons,
        "cpu_s": round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 1),
        "seconds": round(time.monotonic() - began, 1),
        "peak_rss_mb": round(peak / 1e6),
        "disk_mb": round(disk / 1e6, 1),
    }


def _family_bytes(pid: int) -> int:
    try:
        leader = psutil.Process(pid)
        return sum(each.memory_info().rss for each in (leader, *leader.children(recursive=True)))
    except psutil.Error:
        return 0


def main() -> int:
    """Measure and print; 1 if more field seasons take more memory."""
    found: dict[str, Any] = {"machine": describe()}
    grown = []
    for crop in ("maize", "wheat"):
        few, many = cost(FEW, crop), cost(TIMES * FEW, crop)
        each_s = (many["cpu_s"] - few["cpu_s"]) / (many["field_seasons"] - few["field_seasons"])
        found[crop] = {"few": few, "many": many, "million_cpu_h": round(each_s * 1e6 / 3600, 2)}
        grown.append(many["peak_rss_mb"] / few["peak_rss_mb"])
    write_json(Path("metrics/bench/worlds.json"), found)
    print(json.dumps(found, indent=2))
    return 0 if max(grown) <= MOST_GROWTH else 1


if __name__ == "__main__":
    raise SystemExit(main())
