"""The story of a run, told in two places at once: on the terminal, and in Prefect (log, progress, table)."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from uuid import UUID

from prefect import get_run_logger
from prefect.artifacts import create_markdown_artifact, create_progress_artifact, update_progress_artifact
from rich.console import Console

from tasks.registry.register import Registered
from tasks.summary import SeasonSummary, StageResult
from tasks.terminal import Terminal


class Journal:
    """Use as a context inside a flow run; whatever ends the run, the table says how far it came."""

    def __init__(self, stages: int, console: Console | None = None) -> None:
        self._terminal = Terminal(stages, console)
        self._total = max(1, stages)
        self._results: list[StageResult] = []
        self._running: StageResult | None = None
        self._progress: UUID | None = None

    def __enter__(self) -> Journal:
        made = create_progress_artifact(progress=0.0, key="stages", description="Stages done")
        self._progress = made if isinstance(made, UUID) else None
        self._terminal.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._terminal.__exit__(kind, error, trace)
        if self._running is not None:
            self._results.append(self._running)
        # After Ctrl-C the ephemeral server may be gone already: nothing more is sent.
        if error is None or isinstance(error, Exception):
            create_markdown_artifact(
                markdown=self._markdown(), key="seasonal-retrain", description="Stages of this run"
            )

    def started(self, stage: str, why: tuple[str, ...]) -> None:
        """Tell that ``stage`` runs now, and why."""
        self._running = StageResult(stage, "failed", why)
        self._terminal.started(stage, why[0] if len(why) == 1 else f"{why[0]} and {len(why) - 1} more")
        get_run_logger().info("%s runs: %s", stage, "; ".join(why))

    def line(self, text: str) -> None:
        """Tell a line the running stage printed; called inside its task run."""
        self._terminal.line(text)
        get_run_logger().info("%s", text)

    def finished(self, seconds: float) -> None:
        """Tell that the running stage succeeded."""
        assert self._running is not None
        self._terminal.finished(seconds)
        self._add(StageResult(self._running.name, "ran", self._running.why, seconds))

    def unchanged(self, stage: str) -> None:
        """Tell that ``stage`` needs no work."""
        self._terminal.unchanged(stage)
        get_run_logger().info("%s unchanged", stage)
        self._add(StageResult(stage, "unchanged"))

    def summary(self, bundle: Path | None, report: Path | None, registered: Registered | None) -> SeasonSummary:
        """The run so far."""
        return SeasonSummary(tuple(self._results), bundle, report, registered)

    def _add(self, result: StageResult) -> None:
        self._results.append(result)
        self._running = None
        if self._progress is not None:
            update_progress_artifact(self._progress, progress=100.0 * len(self._results) / self._total)

    def _markdown(self) -> str:
        rows = [f"| {r.name} | {r.status} | {r.seconds:.1f} | {'; '.join(r.why)} |" for r in self._results]
        return "\n".join(["| stage | status | seconds | why |", "|---|---|---:|---|", *rows])
