"""The device: installed size, memory, start and latency of advice, in its own environment.

``python -m benchmarks.device`` prints JSON and writes ``metrics/bench/device.json``. The peer of memory and size is
the bare interpreter with NumPy in the same environment; the peer of speed is the trained fp32 net, whose latency
stands in ``metrics/compress``.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.machine import describe
from tasks.durable import write_json
from tasks.evaluation.evaluate import bundle_file
from tasks.params import load

EDGE = Path(".venv-edge/bin/python")
RUNS = 5


def run(mode: str, bundle: Path, records: Path, count: int) -> dict[str, float]:
    """One process in the device's environment."""
    here = Path(__file__).with_name("on_device.py")
    words = [str(EDGE), "-I", str(here), str(bundle), str(records), mode, str(count)]
    before = time.perf_counter()
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return {**found, "process_s": time.perf_counter() - before}


def median(runs: list[dict[str, float]]) -> dict[str, float]:
    """Median of each figure over the runs."""
    return {key: round(sorted(each[key] for each in runs)[len(runs) // 2], 4) for key in runs[0]}


def installed_mb() -> dict[str, float]:
    """Bytes below the environment's site-packages, pip left out, by package folder."""
    site = next((EDGE.parents[1] / "lib").glob("python3*/site-packages"))
    sizes = {}
    for folder in site.iterdir():
        if not folder.name.startswith(("pip", "setuptools", "_distutils", "__pycache__")):
            files = folder.rglob("*") if folder.is_dir() else [folder]
            sizes[folder.name] = (
                sum(f.stat().st_size for f in files if f.is_file() and "__pycache__" not in f.parts) / 1e6
            )
    largest = dict(sorted(sizes.items(), key=lambda item: -item[1])[:6])
    return {"total": round(sum(sizes.values()), 1), **{name: round(size, 1) for name, size in largest.items()}}


def main() -> int:
    """Measure and print; 1 if the demo has not been run yet."""
    bundle = bundle_file(load())
    if not bundle.exists() or not EDGE.exists():
        print(f"error: {bundle if EDGE.exists() else EDGE} is missing; run `make demo` first", file=sys.stderr)
        return 1
    found: dict[str, Any] = {"machine": describe(), "runs": RUNS, "installed_mb": installed_mb()}
    found["bundle_kib"] = round(bundle.stat().st_size / 1024, 1)
    for crop in ("maize", "wheat"):
        records = Path(f"data/evaluation/records_{crop}.csv")
        found[crop] = median([run("advise", bundle, records, 2000) for _ in range(RUNS)])
    found["peer_numpy_only"] = median([run("import-only", bundle, bundle, 0) for _ in range(RUNS)])
    write_json(Path("metrics/bench/device.json"), found)
    print(json.dumps(found, indent=2))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
