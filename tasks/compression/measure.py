"""What an ONNX file is worth and what it costs, all through onnxruntime."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from tasks.compression.onnx_graph import INPUT, one_thread
from tasks.training.quantiles import Score, score
from tasks.training.windows import Windows

_BATCH = 256
_WARM_UP_RUNS = 20
_TURN_RUNS = 20


@dataclass(frozen=True)
class Latency:
    """Time of one window on one thread."""

    p50_ms: float
    p99_ms: float


def judge(model: bytes, windows: Windows) -> Score:
    """Score of an ONNX file on the validation windows, in the target's unit."""
    session = one_thread(model)
    parts = []
    for start in range(0, len(windows.validation), _BATCH):
        batch = windows.gather(windows.validation[start : start + _BATCH])
        parts.append(session.run(None, {INPUT: batch})[0])
    return score(np.concatenate(parts), windows.targets[windows.validation], windows.target.scale)


def latencies(models: dict[str, bytes], windows: Windows, runs: int) -> dict[str, Latency]:
    """Time each file on one validation window after the other, taking turns, so that all meet the same machine."""
    sessions = {name: one_thread(model) for name, model in models.items()}
    shown = windows.gather(windows.validation[:_TURN_RUNS])
    taken: dict[str, list[float]] = {name: [] for name in models}
    for session in sessions.values():
        for _ in range(_WARM_UP_RUNS):
            session.run(None, {INPUT: shown[:1]})
    for turn in range(0, runs, _TURN_RUNS):
        for name, session in sessions.items():
            for i in range(min(_TURN_RUNS, runs - turn)):
                window = shown[i % len(shown)][None]
                start = time.perf_counter()
                session.run(None, {INPUT: window})
                taken[name].append(time.perf_counter() - start)
    return {name: _summary(times) for name, times in taken.items()}


def _summary(seconds: list[float]) -> Latency:
    p50, p99 = np.percentile(np.array(seconds) * 1e3, [50, 99])
    return Latency(round(float(p50), 4), round(float(p99), 4))
