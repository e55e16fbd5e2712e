"""How wide a net has to be: error on seasons a net did not see, size and latency, for several widths of each model.

``python -m benchmarks.frontier [MODEL ...]`` prints a table and writes ``metrics/bench/frontier.json``. The error is
cross-validated over the *training* seasons only, so that choosing widths by it touches no test season; its standard
error is over seasons. The peer in each run is climatology: the quantiles of all other seasons' truths.
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tasks.training.nets import Architecture
    from tasks.training.train import Run
    from tasks.training.windows import Windows

WIDTHS = ((16, 24, 32), (32, 48, 64), (64, 96, 128), (128, 160, 192))
FOLDS = 3
LATENCY_RUNS = 1000


def point(run: Run, widths: tuple[int, ...]) -> dict[str, Any]:
    """Error of nets of these widths on seasons they did not see."""
    from tasks.training.crossfit import unseen_answers
    from tasks.training.train import plan_of

    architecture = replace(run.architecture, widths=widths, head=widths[-1])
    said = unseen_answers(run.windows, architecture, replace(plan_of(run), label=""), FOLDS)
    losses = season_losses(run.windows, said.which, said.quantiles)
    return {"widths": list(widths), **summary(losses)}


def season_losses(windows: Windows, which: NDArray[np.int64], quantiles: NDArray[np.floating]) -> list[float]:
    """Pinball loss of each season, in the target's unit."""
    import numpy as np

    from tasks.training.quantiles import score

    groups = windows.group[which]
    here = [groups == season for season in np.unique(groups)]
    return [score(quantiles[h], windows.targets[which[h]], windows.target.scale).pinball for h in here]


def climatology(windows: Windows) -> dict[str, Any]:
    """The peer: each season is answered with the quantiles of all others' truths, crop by crop."""
    import numpy as np

    from tasks.training.quantiles import LEVELS

    known = np.sort(np.concatenate([windows.training, windows.validation]))
    groups, targets = windows.group[known], windows.targets[known]
    wheat = windows.features[windows.index[known], windows.channels.index("is_wheat")] > 0.5
    said = np.empty((known.size, 3))
    for season in np.unique(groups):
        for crop in (False, True):
            asked, others = (groups == season) & (wheat == crop), (groups != season) & (wheat == crop)
            if asked.any():
                said[asked] = np.quantile(targets[others], LEVELS)
    return summary(season_losses(windows, known, said))


def summary(losses: list[float]) -> dict[str, Any]:
    """Mean over seasons and its standard error."""
    import numpy as np

    mean, error = np.mean(losses), np.std(losses, ddof=1) / len(losses) ** 0.5
    return {"pinball": round(float(mean), 5), "pinball_se": round(float(error), 5), "seasons": len(losses)}


def cost(windows: Windows, architecture: Architecture) -> dict[str, Any]:
    """Size and latency of an untrained net of this shape, on floats and on onnxruntime's integers."""
    import numpy as np
    import torch

    from tasks.compression.measure import latencies
    from tasks.compression.onnx_graph import export, tidy
    from tasks.compression.quantize import control
    from tasks.training.nets import build, folded, parameter_count

    torch.manual_seed(0)
    net = build(architecture)
    fp32 = tidy(export(folded(net), architecture.channels, architecture.window_days))
    files = {
        "fp32": fp32,
        "int8": control(fp32, windows.gather(np.sort(windows.training[:: len(windows.training) // 256]))),
    }
    timed = latencies(files, windows, LATENCY_RUNS)
    return {
        "parameters": parameter_count(net),
        **{f"{name}_kb": round(len(file) / 1e3, 1) for name, file in files.items()},
        **{f"{name}_p50_ms": timed[name].p50_ms for name in files},
    }


def frontier(model: str) -> dict[str, Any]:
    """All points of one model."""
    from joblib import Parallel, delayed

    from tasks.params import load
    from tasks.training.train import Folders, prepare

    run = prepare(model, load(), Folders(Path(), model))
    points = list(Parallel(n_jobs=-1)(delayed(_quiet_point)(run, widths) for widths in WIDTHS))
    for entry, widths in zip(points, WIDTHS, strict=True):  # one after the other: neighbours would share the cores
        entry |= cost(run.windows, replace(run.architecture, widths=widths, head=widths[-1]))
    shipped = list(run.settings.widths)
    return {
        "unit": run.windows.target.unit,
        "shipped": shipped,
        "climatology": climatology(run.windows),
        "points": points,
    }


def _quiet_point(run: Run, widths: tuple[int, ...]) -> dict[str, Any]:
    import torch

    from tasks.training.train import share_cores

    share_cores()
    torch.set_num_threads(1)
    return point(run, widths)


def table(model: str, found: dict[str, Any]) -> list[str]:
    """Lines for a terminal."""
    peer = found["climatology"]
    lines = [f"{model}, pinball in {found['unit']}; climatology {peer['pinball']:g} +- {peer['pinball_se']:g}"]
    for entry in found["points"]:
        mark = "*" if entry["widths"] == found["shipped"] else " "
        lines.append(
            f" {mark} {'-'.join(map(str, entry['widths'])):>12}  {entry['pinball']:.4g} +- {entry['pinball_se']:.2g}  "
            f"{entry['parameters'] / 1e3:5.0f} k  fp32 {entry['fp32_kb']:6.0f} kB {entry['fp32_p50_ms']:.3f} ms  "
            f"int8 {entry['int8_kb']:5.0f} kB {entry['int8_p50_ms']:.3f} ms"
        )
    return lines


def main(arguments: list[str] | None = None) -> int:
    """Measure and print; 1 if the windows are not there yet."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from benchmarks.machine import describe
    from tasks.durable import write_json
    from tasks.params import load
    from tasks.training.windows import WindowsError

    models = (sys.argv[1:] if arguments is None else arguments) or list(load().models)
    found: dict[str, Any] = {"machine": describe(), "folds": FOLDS}
    for model in models:
        try:
            found[model] = frontier(model)
        except WindowsError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        print("\n".join(table(model, found[model])), flush=True)
    write_json(Path("metrics/bench/frontier.json"), found)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
