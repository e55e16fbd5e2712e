"""Doing nothing: how long an unchanged season takes through each door.

``python -m benchmarks.pipeline`` prints JSON and writes ``metrics/bench/pipeline.json``. The peer of ``headland
retrain`` is ``dvc repro`` on the same unchanged project.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.machine import describe
from tasks.durable import write_json

DOORS = {
    "retrain_s": [str(Path(sys.executable).with_name("headland")), "retrain"],
    "repro_s": [sys.executable, "-m", "dvc", "repro"],
    "help_s": [str(Path(sys.executable).with_name("headland")), "--help"],
}


def main() -> int:
    """Measure and print; 1 if a door fails."""
    found: dict[str, object] = {"machine": describe()}
    for name, words in DOORS.items():
        before = time.perf_counter()
        done = subprocess.run(words, capture_output=True, text=True)
        found[name] = round(time.perf_counter() - before, 2)
        if done.returncode:
            print(f"error: {' '.join(words)} ended with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
            return 1
    write_json(Path("metrics/bench/pipeline.json"), found)
    print(json.dumps(found, indent=2))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
