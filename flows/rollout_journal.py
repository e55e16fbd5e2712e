"""The story of a rollout, on the terminal and in Prefect: how far it is, and a table for each wave.

Prefect keeps every artifact for good, so that only what has changed is told.
"""

from __future__ import annotations

from dataclasses import asdict
from types import TracebackType
from typing import Any
from uuid import UUID

from prefect import get_run_logger
from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from rich.console import Console

from tasks.fleet.control import Standing, WaveStanding
from tasks.fleet.publish import Published
from tasks.fleet.rollout_summary import in_words, progress_percent
from tasks.registry.gate import Verdict


class RolloutJournal:
    """Use as a context inside a flow run; what people read goes to standard error."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True, soft_wrap=True)
        self._progress: UUID | None = None
        self._said = ""
        self._waves: dict[int, WaveStanding] = {}

    def __enter__(self) -> RolloutJournal:
        made = create_progress_artifact(progress=0.0, key="rollout", description="Devices and waves done")
        self._progress = made if isinstance(made, UUID) else None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, Exception):
            self._say(str(error))

    def judged(self, verdict: Verdict) -> None:
        """Tell how the candidate compares; one that was published already is not judged."""
        if not verdict.pinball:
            return
        rows = [
            f"| {name} | {loss.get('champion', '')} | {loss['candidate']} |" for name, loss in verdict.pinball.items()
        ]
        money = [
            f"| {crop} | {earned.get('rule', '')} | {earned.get('champion', '')} | {earned['device']} |"
            for crop, earned in verdict.earned_usd_ha.items()
        ]
        tables = [["| model | champion's error | candidate's error |", "|---|---:|---:|", *rows]]
        if money:
            head = "| crop | tuned rule, USD/ha | champion, USD/ha | candidate, USD/ha |"
            tables.append([head, "|---|---:|---:|---:|", *money])
        text = "\n\n".join("\n".join(table) for table in tables)
        create_markdown_artifact(markdown=text, key="rollout-gate", description="Candidate against champion")
        self._say("the gate lets the candidate pass")

    def published(self, published: Published) -> None:
        """Tell what was signed."""
        what = ", ".join(published.changed) or "nothing: it is there already"
        would = "would be signed" if published.dry_run else "signed"
        self._say(f"release {published.counter} ({published.sha256[:12]}…): {would}: {what}")

    def stands(self, standing: Standing) -> None:
        """Tell where the rollout stands, as far as that is news."""
        self._say(in_words(standing))
        changed = [wave for wave in standing.waves if self._waves.get(wave.number) != wave]
        self._waves |= {wave.number: wave for wave in changed}
        for wave in changed:
            if wave.status != "to come":
                _wave_table(standing, wave)
        if self._progress is not None and changed:
            update_progress_artifact(
                self._progress, progress=progress_percent(standing), description=in_words(standing)
            )

    def _say(self, text: str) -> None:
        if text != self._said:
            self._said = text
            get_run_logger().info("%s", text)
            self._console.print(text, markup=False, highlight=False)


def _wave_table(standing: Standing, wave: WaveStanding) -> None:
    """The wave itself, and while it runs every device that failed with its reason."""
    told = {"release": standing.counter, **asdict(wave)}
    rows: list[dict[str, Any]] = [{"what": key, "value": str(value)} for key, value in told.items()]
    if wave.status != "done":
        rows += [{"what": f"failed: {device}", "value": reason} for device, reason in standing.failures]
    create_table_artifact(table=rows, key=f"rollout-wave-{wave.number}", description=in_words(standing))
