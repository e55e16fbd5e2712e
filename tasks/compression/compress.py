"""Stage: make one trained net small and fast, ``python -m tasks.compression.compress MODEL``.

    trained -> prune channels -> fine-tune with the trained net as teacher -> calibrate -> int8

Four files are made: ``fp32`` (the trained net), ``pruned``, ``int8`` (Neural Compressor) and ``control``
(onnxruntime's own quantization of the pruned net); the one that ships is copied to ``shipped.onnx`` and
``choice.json`` says why. Times stand in the metrics only, so that the files are the same bytes on every run.

With ``compression.from_base`` the int8 net of an earlier release learns on instead (``from_base``), and is taken if it
may ship by the same criteria; if not, the way above is gone after all, and ``choice.json`` says why.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tasks.compression.choose import Candidate, Choice
    from tasks.compression.ladder import Job, Rung
    from tasks.compression.measure import Latency
    from tasks.params import Params

PARAMS = ("seed", "model", "training", "compression")


def compress(model: str, params: Params, root: Path) -> Choice:
    """Compress ``model`` and write its files and metrics under ``root``.

    Raises:
        NetError: there is no trained net.
        WindowsError: the windows are missing or bad.
        QuantizeError: an unknown fallback setting.
        BaseError: the earlier release is damaged, or unlike the one to come.
    """
    from tasks.compression.choose import choose
    from tasks.compression.ladder import climb, open_job, settle, tell
    from tasks.durable import write_json

    started = time.monotonic()
    job = open_job(model, params, root)
    rung, said = learned_on(job, root) if params.compression.from_base else (None, {})
    rungs = [rung] if rung else climb(job)
    rung = rung or settle(rungs, job.max_loss_frac)
    choice = choose(rung.candidates, job.settings.ship, job.max_loss_frac)
    tell(job, f"ships {choice.name}: {choice.reason}")
    write_files(root, job, rung, choice, said)
    figures = {**figures_of(job, rung, choice), "frontier": [tried.as_dict() for tried in rungs], **said}
    write_json(
        root / "metrics" / "compress" / f"{model}.json", {**figures, "seconds": round(time.monotonic() - started, 1)}
    )
    return choice


def learned_on(job: Job, root: Path) -> tuple[Rung | None, dict[str, Any]]:
    """The files of a release based on the one in ``data/base``, None if it cannot or must not be; and what to say."""
    from tasks.compression.base import BASE, open_base
    from tasks.compression.from_base import learn_on
    from tasks.compression.ladder import tell

    base = open_base(root / BASE, job.model, job.windows)
    based = base if isinstance(base, str) else learn_on(job, base)
    if not isinstance(based, str) and not based.refused:
        tell(job, f"is based on release {based.counter}: {based.moved_frac:.1%} of its weights moved")
        return based.rung, {"based_on": based.as_dict()}
    why = based if isinstance(based, str) else based.refused
    tell(job, f"is not based on an earlier release: {why}")
    return None, {"not_based": why}


def write_files(root: Path, job: Job, rung: Rung, choice: Choice, more: dict[str, Any]) -> None:
    """The folder ``compressed``, whole or not at all; ``more`` goes into ``choice.json``."""
    from tasks.compression.choose import KINDS
    from tasks.durable import replacing_dir, write_bytes, write_json

    with replacing_dir(root / "data" / "models" / job.model / "compressed") as folder:
        for name, candidate in rung.candidates.items():
            write_bytes(folder / f"{name}.onnx", candidate.model)
        write_bytes(folder / "shipped.onnx", rung.candidates[choice.name].model)
        said = {
            "shipped": choice.name,
            "kind": KINDS[choice.name],
            "reason": choice.reason,
            "loss_frac": rung.candidates[choice.name].loss_frac(rung.candidates["fp32"]),
            "variants": {
                name: {"metric": candidate.score.pinball, "size_bytes": len(candidate.model)}
                for name, candidate in rung.candidates.items()
            },
            "bands": job.bands,
            "prune_ratio": rung.ratio,
            "setting": rung.best_attempt.setting,
            "channels": list(job.windows.channels),
            "window_days": job.windows.window_days,
            "target": asdict(job.windows.target),
            **more,
        }
        write_json(folder / "choice.json", said)


def figures_of(job: Job, rung: Rung, choice: Choice) -> dict[str, Any]:
    """Figures of every file; the times are measured here and now."""
    from tasks.compression.measure import latencies
    from tasks.compression.quantize import control

    candidates = rung.candidates
    models: dict[str, bytes] = {name: candidate.model for name, candidate in candidates.items()}
    # The trained net on integers without pruning: a small net's time is mostly the runtime's own, so that what
    # integers gain shows better on this one.
    models["trained_int8"] = control(models["fp32"], job.shown())
    timed = latencies(models, job.windows, job.params.compression.latency_runs)
    return {
        "metric_name": "pinball",
        "unit": job.windows.target.unit,
        **{name: row(candidate, candidates["fp32"], timed[name]) for name, candidate in candidates.items()},
        "shipped": choice.name,
        "reason": choice.reason,
        "loss_frac": candidates[choice.name].loss_frac(candidates["fp32"]),
        "int8_loss_frac": candidates["int8"].loss_frac(candidates["pruned"]),
        "prune_ratio": rung.ratio,
        "ratios": ratios(models, timed),
    }


def row(candidate: Candidate, fp32: Candidate, latency: Latency) -> dict[str, Any]:
    """One file's figures."""
    return {
        "metric": candidate.score.pinball,
        "mae": candidate.score.mae,
        "coverage": candidate.score.coverage,
        "loss_frac": candidate.loss_frac(fp32),
        "size_bytes": len(candidate.model),
        "latency_p50_ms": latency.p50_ms,
        "latency_p99_ms": latency.p99_ms,
        "parameters": candidate.parameters,
        "kernels": candidate.kernels,
    }


def ratios(models: dict[str, bytes], timed: dict[str, Latency]) -> dict[str, float]:
    """How many times smaller and faster: int8 against the float net it was made from, and against the trained."""

    def smaller(before: str, after: str) -> float:
        return round(len(models[before]) / len(models[after]), 2)

    def faster(before: str, after: str) -> float:
        return round(timed[before].p50_ms / timed[after].p50_ms, 2)

    return {
        "pruned_smaller": smaller("fp32", "pruned"),
        "pruned_faster": faster("fp32", "pruned"),
        "int8_smaller": smaller("pruned", "int8"),
        "int8_faster": faster("pruned", "int8"),
        "trained_int8_smaller": smaller("fp32", "trained_int8"),
        "trained_int8_faster": faster("fp32", "trained_int8"),
        "whole_smaller": smaller("fp32", "int8"),
        "whole_faster": faster("fp32", "int8"),
    }


def main(arguments: list[str] | None = None) -> int:
    """Command line of the stage; 0 done, 1 failed, 2 wrong usage."""
    parser = argparse.ArgumentParser(prog="python -m tasks.compression.compress", description="Compress one model.")
    parser.add_argument("model", help="an entry of models in params.yaml")
    wanted = parser.parse_args(arguments)

    from tasks import params as params_module
    from tasks.training.train import share_cores

    share_cores()
    try:
        params = params_module.load()
    except params_module.ParamsError as error:
        print(error, file=sys.stderr)
        return 1
    if wanted.model not in params.model:
        print(f"{wanted.model}: no such model. params.yaml has {', '.join(params.model)}.", file=sys.stderr)
        return 2

    from tasks.compression.base import BaseError
    from tasks.compression.quantize import QuantizeError
    from tasks.training.store import NetError
    from tasks.training.windows import WindowsError

    try:
        compress(wanted.model, params, Path())
    except (WindowsError, NetError, QuantizeError, BaseError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
