"""Runs the service and times every advice in it: ``in_service.py HOME TIMES``.

At the end TIMES holds, for each advice, milliseconds by the clock and of the adviser's own thread.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from headland_edge.advisor import Advisor
from headland_edge.cli import main

_TAKEN_MS: list[tuple[float, float]] = []
_advise = Advisor.advise


def timed(*arguments: Any) -> Any:
    """``Advisor.advise``, timed."""
    start, start_cpu = time.perf_counter(), time.thread_time()
    try:
        return _advise(*arguments)
    finally:
        _TAKEN_MS.append(((time.perf_counter() - start) * 1e3, (time.thread_time() - start_cpu) * 1e3))


if __name__ == "__main__":
    setattr(Advisor, "advise", timed)  # noqa: B010  # from outside, so that the device carries no stopwatch
    code = main(["run", "--home", sys.argv[1]])
    Path(sys.argv[2]).write_text(json.dumps(_TAKEN_MS))
    raise SystemExit(code)
