"""Which file ships, decided by what repeats exactly: metric, size, kernels; never by a measured time."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from tasks.compression.onnx_graph import float_convolutions, integer_convolutions
from tasks.training.quantiles import Score

Name = Literal["fp32", "pruned", "int8", "control"]
KINDS: dict[Name, str] = {"fp32": "fp32", "pruned": "fp32", "int8": "int8", "control": "control"}
_BY_PREFERENCE: tuple[Name, ...] = ("int8", "control", "pruned")
_FLOAT_CONVOLUTIONS_ALLOWED = 1


@dataclass(frozen=True)
class Candidate:
    """A file that could ship.

    Args:
        name: which one.
        score: on validation windows.
        kernels: types and counts that onnxruntime runs.
        parameters: numbers learned.
        model: the file.
    """

    name: Name
    score: Score
    kernels: dict[str, int]
    parameters: int
    model: bytes = field(repr=False)

    def loss_frac(self, reference: Candidate) -> float:
        """Share by which the metric is worse than ``reference``'s; negative if better."""
        return self.score.pinball / reference.score.pinball - 1


@dataclass(frozen=True)
class Choice:
    """What ships and why."""

    name: Name
    reason: str


Candidates = dict[Name, Candidate]


def choose(candidates: Candidates, ship: Literal["int8", "best"], max_loss_frac: float) -> Choice:
    """Pick the file that ships.

    Args:
        candidates: all four.
        ship: ``int8``: the first of int8, control, pruned that meets the criteria, else fp32;
            ``best``: of those that meet them, and fp32, the one of the lowest metric.
        max_loss_frac: greatest loss against fp32.
    """
    faults = {name: fault(candidates[name], candidates, max_loss_frac) for name in _BY_PREFERENCE}
    passed = [name for name in _BY_PREFERENCE if not faults[name]]
    refused = "; ".join(f"{name} {text}" for name, text in faults.items() if text)
    if ship == "best":
        allowed: list[Name] = [*passed, "fp32"]
        best = min(allowed, key=lambda name: candidates[name].score.pinball)
        return Choice(best, _reason("lowest metric of those allowed", refused))
    if not passed:
        return Choice("fp32", _reason("no smaller file meets the criteria", refused))
    loss = candidates[passed[0]].loss_frac(candidates["fp32"])
    return Choice(passed[0], _reason(f"metric loss {loss:+.2%}, at most {max_loss_frac:.2%} allowed", refused))


def _reason(text: str, refused: str) -> str:
    return f"{text} (refused: {refused})" if refused else text


def fault(candidate: Candidate, candidates: Candidates, max_loss_frac: float) -> str:
    """Why ``candidate`` must not ship; empty if it may."""
    references: list[Name] = ["fp32"] if candidate.name == "pruned" else ["fp32", "pruned"]
    for reference in references:
        loss = candidate.loss_frac(candidates[reference])
        if not loss <= max_loss_frac:
            return f"loses {loss:.2%} of the metric against {reference}, {max_loss_frac:.2%} allowed"
    if candidate.name == "pruned":
        return "" if len(candidate.model) < len(candidates["fp32"].model) else "is no smaller than fp32"
    if len(candidate.model) >= len(candidates["pruned"].model):
        return f"is no smaller than the float file ({len(candidate.model)} bytes)"
    floats = float_convolutions(candidate.kernels)
    if floats > _FLOAT_CONVOLUTIONS_ALLOWED:
        total = floats + integer_convolutions(candidate.kernels)
        return f"runs {floats} of {total} convolutions on floats"
    return ""
