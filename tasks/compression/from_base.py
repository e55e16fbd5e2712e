"""A release based on an earlier one: the earlier int8 net learns on, within its own integers.

Its teachers are the newly trained net and itself as it was: the mean of two nets is mostly better than either (Hinton,
Vinyals & Dean 2015), and holds what learns near to where it started. The newly trained net is also the measure: what
comes out must lose no more against it than any other integer file may. Devices that hold the earlier release then fetch
a fraction of the bytes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor, nn

from tasks.compression.base import Base, BaseError
from tasks.compression.choose import Candidate, Candidates, choose
from tasks.compression.ladder import FINETUNE_RATE, Job, Rung, described, float_candidate, judged, tell
from tasks.compression.pinned import FloatLayerError, PinError, as_floats, integers_of, learner, rewritten
from tasks.compression.quantize import Attempt, control
from tasks.training.calibrate import keep_band
from tasks.training.fit import Plan, fit
from tasks.training.nets import Architecture
from tasks.training.trainer import ONE_PROCESS

SETTING = "pinned"


@dataclass(frozen=True)
class Based:
    """What learning on from an earlier release came to.

    Args:
        rung: the files, in the form the ladder gives.
        counter: of the earlier release.
        bundle_sha256: of its bundle.
        base_metric: of the earlier release's net on today's validation windows.
        moved_frac: share of the integer weights that are others than the earlier release's.
        refused: why it must not ship; empty if it may.
    """

    rung: Rung
    counter: int
    bundle_sha256: str
    base_metric: float
    moved_frac: float
    refused: str

    def as_dict(self) -> dict[str, Any]:
        """For ``choice.json`` and the metrics."""
        return {
            "counter": self.counter,
            "bundle_sha256": self.bundle_sha256,
            "base_metric": self.base_metric,
            "moved_frac": round(self.moved_frac, 4),
        }


class Mean(nn.Module):
    """What two nets say, in the middle."""

    def __init__(self, one: nn.Module, other: nn.Module) -> None:
        super().__init__()
        self.one, self.other = one, other

    def forward(self, windows: Tensor) -> Tensor:
        """[batch, channels, days] -> [batch, 3]."""
        answers: Tensor = (self.one(windows) + self.other(windows)) / 2
        return answers


def learn_on(job: Job, base: Base) -> Based | str:
    """Let the earlier release's net learn on today's windows, with scales and zero points as they were.

    The earlier net itself stands for election too: where learning made nothing better, nothing moves.

    Returns:
        What it came to, or why the earlier file cannot learn on: a fallback left some of its layers on floats.

    Raises:
        BaseError: the earlier net has another structure than the trained one.
    """
    plan = _plan(job)
    try:
        net = _learner(job, base, plan)
    except FloatLayerError as error:
        return f"{job.model} of release {base.counter} {error}"
    architecture = _architecture(job, base, net)
    fp32 = float_candidate("fp32", job.trained, job.windows)
    before = judged("int8", base.model, _parameters(net), job.windows)
    tell(job, f"trained net: {described(fp32)}")
    tell(job, f"release {base.counter}: {described(before)}")
    fit(net, job.windows, plan, ONE_PROCESS, teacher=Mean(job.trained, as_floats(net)))
    floats = as_floats(net)
    keep_band(floats, job.trained, job.windows)
    learned = judged("int8", rewritten(base.model, net, last_layer(floats)), before.parameters, job.windows)
    tell(job, f"learned on: {described(learned)}, loss {learned.loss_frac(fp32):+.2%}")
    if before.score.pinball <= learned.score.pinball:
        floats, learned = as_floats(learner(base.model)), before
    candidates = _candidates(job, fp32, floats, learned)
    choice = choose(candidates, job.settings.ship, job.max_loss_frac)
    attempt = Attempt(SETTING, learned.score.pinball, learned.model)
    rung = Rung(_ratio(job.architecture, architecture), architecture, candidates, [attempt])
    moved = float(np.mean(integers_of(learned.model) != integers_of(base.model)))
    refused = "" if choice.name == "int8" else choice.reason
    return Based(rung, base.counter, base.bundle_sha256, before.score.pinball, moved, refused)


def last_layer(floats: nn.Sequential) -> nn.Linear:
    """The layer that answers."""
    out = floats.get_submodule("out")
    assert isinstance(out, nn.Linear)
    return out


def _plan(job: Job) -> Plan:
    training, settings = job.params.training, job.params.compression
    return Plan(
        epochs=settings.base_epochs,
        windows_per_epoch=job.settings.windows_per_epoch,
        global_batch=training.global_batch,
        learning_rate=training.learning_rate * FINETUNE_RATE,
        weight_decay=training.weight_decay,
        patience=training.patience,
        seed=job.params.seed + 2,
        label=f"{job.model}, from the base",
    )


def _learner(job: Job, base: Base, plan: Plan) -> nn.Sequential:
    # A one-cycle schedule runs at half its peak on average: what moves the same way at every step gets as far as this.
    farthest = 0.5 * plan.learning_rate * max(1, plan.steps)
    try:
        return learner(base.model, job.params.compression.base_reach_steps / farthest)
    except FloatLayerError:
        raise
    except PinError as error:
        raise BaseError(f"{job.model} of release {base.counter} {error}. {_OTHERWISE}") from None


_OTHERWISE = "Set compression.from_base: false in params.yaml for a release that devices fetch whole."


def _architecture(job: Job, base: Base, net: nn.Sequential) -> Architecture:
    """The earlier net's, which must be the trained one's with channels left out."""
    weights = [layer.get_parameter("move") for name, layer in net.named_children() if name.startswith("conv")]
    widths, trained = tuple(weight.shape[0] for weight in weights), job.architecture
    found = replace(trained, widths=widths[:-1], head=widths[-1], kernel=weights[0].shape[2])
    wanted = (*trained.widths, trained.head)
    too_wide = len(widths) != len(wanted) or any(w > t for w, t in zip(widths, wanted, strict=True))
    if too_wide or found.kernel != trained.kernel or weights[-1].shape[2] != trained.days_left:
        theirs = f"widths {list(widths[:-1])}, kernel {found.kernel}"
        ours = f"widths {list(trained.widths)}, kernel {trained.kernel}"
        raise BaseError(f"{job.model} of release {base.counter} has {theirs}, params.yaml {ours}. {_OTHERWISE}")
    return found


def _parameters(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


def _ratio(trained: Architecture, found: Architecture) -> float:
    """Share of channels that the earlier release had left out."""
    kept = sum(found.widths) + found.head
    return round(1 - kept / (sum(trained.widths) + trained.head), 4)


def _candidates(job: Job, fp32: Candidate, floats: nn.Sequential, learned: Candidate) -> Candidates:
    pruned = float_candidate("pruned", floats, job.windows)
    controlled = judged("control", control(pruned.model, job.shown()), pruned.parameters, job.windows)
    return {"fp32": fp32, "pruned": pruned, "int8": learned, "control": controlled}
