"""From the trained net to the four files, by the strongest pruning that the task's metric bears.

``prune_ratio`` is tried first, then half of it, then none. Each rung is pruned, fine-tuned with the trained net as
teacher, calibrated, and quantized both by Neural Compressor and by onnxruntime; the first rung with an integer file
that meets the criteria is the one to go on with. All rungs together are the model's frontier.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from tasks.compression.choose import Candidate, Candidates, Name, fault
from tasks.compression.measure import judge
from tasks.compression.onnx_graph import export, kernels, tidy
from tasks.compression.prune import prune
from tasks.compression.quantize import Attempt, control, quantize
from tasks.params import Model, Params
from tasks.training.calibrate import keep_band
from tasks.training.fit import Plan, fit
from tasks.training.nets import Architecture, folded, parameter_count
from tasks.training.store import load_net
from tasks.training.train import Folders
from tasks.training.trainer import ONE_PROCESS
from tasks.training.windows import Windows, open_windows

FINETUNE_RATE = 0.5
_REFIT_TIMES = 8


@dataclass(frozen=True)
class Job:
    """What one compression works on."""

    model: str
    params: Params
    windows: Windows
    trained: nn.Sequential
    architecture: Architecture
    bands: dict[str, dict[str, float]]
    """Factors of the band by crop that the device applies."""

    @property
    def settings(self) -> Model:
        """The model's own parameters."""
        return self.params.model[self.model]

    @property
    def max_loss_frac(self) -> float:
        """Greatest share of the metric that may be lost."""
        return self.params.compression.max_metric_loss_frac

    def training_sample(self, times: int = 1) -> npt.NDArray[np.int64]:
        """Training windows to calibrate and judge by, ``times`` as many as ``calibration_windows``."""
        picked = np.random.default_rng(self.params.seed).permutation(self.windows.training)
        return np.sort(picked[: times * self.params.compression.calibration_windows])

    def shown(self, times: int = 1) -> npt.NDArray[np.float32]:
        """Those windows, float32 [n, channels, days]."""
        return self.windows.gather(self.training_sample(times))


@dataclass(frozen=True)
class Rung:
    """One ratio that was tried, with the files it led to.

    Args:
        ratio: share of channels pruned.
        architecture: of the pruned net.
        candidates: all four files.
        attempts: quantization settings tried.
    """

    ratio: float
    architecture: Architecture
    candidates: Candidates
    attempts: list[Attempt]

    def passes(self, name: Name, max_loss_frac: float) -> bool:
        """Whether a file of this rung may ship."""
        return not fault(self.candidates[name], self.candidates, max_loss_frac)

    @property
    def best_attempt(self) -> Attempt:
        """The quantization setting of the lowest metric, the earlier one of equals."""
        return min(self.attempts, key=lambda attempt: attempt.metric)

    def as_dict(self) -> dict[str, Any]:
        """A point of the frontier for the metrics."""
        losses = {f"{name}_loss_frac": c.loss_frac(self.candidates["fp32"]) for name, c in self.candidates.items()}
        sizes = {f"{name}_size_bytes": len(candidate.model) for name, candidate in self.candidates.items()}
        return {
            "prune_ratio": self.ratio,
            "widths": [*self.architecture.widths, self.architecture.head],
            "parameters": self.candidates["pruned"].parameters,
            "settings_tried": [{"setting": a.setting, "metric": a.metric} for a in self.attempts],
            **losses,
            **sizes,
        }


def open_job(model: str, params: Params, root: Path) -> Job:
    """Open and check what a compression needs. Raises NetError or WindowsError naming the file that is bad."""
    folders = Folders(root, model)
    trained, architecture, meaning = load_net(folders.trained)
    bands = meaning.get("bands", {})
    return Job(model, params, open_windows(folders.windows), trained, architecture, bands)


def climb(job: Job) -> list[Rung]:
    """Try milder and milder ratios until an integer file meets the criteria; the last rung is without pruning."""
    fp32 = float_candidate("fp32", job.trained, job.windows)
    tell(job, f"trained net: {described(fp32)}")
    ratio = job.settings.prune_ratio
    rungs: list[Rung] = []
    for share in dict.fromkeys((ratio, ratio / 2, 0.0)):
        rungs.append(rung(job, fp32, share))
        if any(rungs[-1].passes(name, job.max_loss_frac) for name in ("int8", "control")):
            break
    return rungs


def settle(rungs: list[Rung], max_loss_frac: float) -> Rung:
    """The rung to go on with: the first with an integer file that may ship, else the first with a float one."""
    for names in (("int8", "control"), ("pruned",)):
        for candidate in rungs:
            if any(candidate.passes(name, max_loss_frac) for name in names):
                return candidate
    return rungs[-1]


def rung(job: Job, fp32: Candidate, ratio: float) -> Rung:
    """Prune by ``ratio`` and make all files."""
    net, architecture = pruned_net(job, ratio) if ratio else (job.trained, job.architecture)
    pruned = float_candidate("pruned", net, job.windows)
    tell(job, f"pruned by {ratio:g}: {described(pruned)}, loss {pruned.loss_frac(fp32):+.2%}")
    attempts = quantized(job, net, fp32, pruned)
    best = min(attempts, key=lambda attempt: attempt.metric)
    int8 = judged("int8", best.model, pruned.parameters, job.windows)
    controlled = judged("control", control(pruned.model, job.shown()), pruned.parameters, job.windows)
    candidates: Candidates = {"fp32": fp32, "pruned": pruned, "int8": int8, "control": controlled}
    for candidate in (int8, controlled):
        tell(job, f"{candidate.name}: {described(candidate)}, loss {candidate.loss_frac(fp32):+.2%}")
    return Rung(ratio, architecture, candidates, attempts)


def pruned_net(job: Job, ratio: float) -> tuple[nn.Sequential, Architecture]:
    """Prune, fine-tune, keep the calibrated band."""
    picked = job.training_sample()
    sample = torch.from_numpy(job.windows.gather(picked)), torch.from_numpy(job.windows.targets[picked])
    net, architecture = prune(job.trained, job.architecture, ratio, sample)
    finetune(job, net)
    keep_band(net, job.trained, job.windows)
    return net, architecture


def finetune(job: Job, net: nn.Sequential) -> None:
    """Let a pruned net learn again, in place, in one process."""
    training, settings = job.params.training, job.settings
    if settings.finetune_epochs == 0:
        return
    plan = Plan(
        epochs=settings.finetune_epochs,
        windows_per_epoch=settings.windows_per_epoch,
        global_batch=training.global_batch,
        learning_rate=training.learning_rate * FINETUNE_RATE,
        weight_decay=training.weight_decay,
        patience=training.patience,
        seed=job.params.seed + 1,
        label=f"{job.model}, pruned",
    )
    fit(net, job.windows, plan, ONE_PROCESS, teacher=job.trained)


def quantized(job: Job, net: nn.Sequential, fp32: Candidate, pruned: Candidate) -> list[Attempt]:
    """Quantize with what pruning has left of the loss allowed, so that pruning and integers share one allowance."""
    left = (1 + job.max_loss_frac) * fp32.score.pinball / pruned.score.pinball - 1
    return quantize(
        folded(net),
        job.shown(),
        job.params.compression.fallback,
        lambda model: judge(model, job.windows).pinball,
        max(0.0, min(left, job.max_loss_frac)),
        refit_windows=job.shown(_REFIT_TIMES),
    )


def float_candidate(name: Name, net: nn.Sequential, windows: Windows) -> Candidate:
    """A net as a float ONNX file, judged."""
    model = tidy(export(folded(net), len(windows.channels), windows.window_days))
    return judged(name, model, parameter_count(net), windows)


def judged(name: Name, model: bytes, parameters: int, windows: Windows) -> Candidate:
    """An ONNX file with its score and kernels."""
    return Candidate(name, judge(model, windows), kernels(model), parameters, model)


def described(candidate: Candidate) -> str:
    """A candidate in a line."""
    size = f"{candidate.parameters / 1e3:.0f} k parameters, {len(candidate.model) / 1e3:.0f} kB"
    return f"{size}, metric {candidate.score.pinball:.5g}"


def tell(job: Job, text: str) -> None:
    """One line of progress."""
    print(f"{job.model}: {text}", flush=True)
