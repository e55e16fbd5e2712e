"""Runs inside the device's own environment: seconds to the first advice, then the latency of many, as JSON.

usage: python on_device.py BUNDLE RECORDS MODE COUNT     (MODE: advise, or import-only for the peer)
"""

from __future__ import annotations

import json
import os
import sys
import time

started = time.perf_counter()
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def peak_rss_mb() -> float:
    """Most memory this program held. Not ``ru_maxrss``: that remembers the process it was forked from."""
    from pathlib import Path

    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024 / 1e6


def main() -> None:
    from pathlib import Path

    bundle_path, records_path, mode, count = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
    found: dict[str, float] = {}
    if mode == "import-only":
        import numpy  # noqa: F401  # the peer: what an interpreter with NumPy costs before Headland does anything
    else:
        from headland_edge.advisor import Advisor
        from headland_edge.bundle import open_bundle
        from headland_edge.records import read_csv

        records = read_csv(records_path)
        advisor = Advisor(open_bundle(bundle_path))
        advisor.advise(records)
        found["first_advice_s"] = time.perf_counter() - started
        times = []
        for _ in range(count):
            before = time.perf_counter()
            advisor.advise(records)
            times.append((time.perf_counter() - before) * 1000.0)
        times.sort()
        found |= {"latency_p50_ms": times[count // 2], "latency_p99_ms": times[int(count * 0.99)]}
    found["peak_rss_mb"] = peak_rss_mb()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
