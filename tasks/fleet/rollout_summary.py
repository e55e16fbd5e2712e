"""What a run of a rollout came to, in words and as JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from tasks.fleet.control import Standing
from tasks.fleet.publish import Published

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class RolloutSummary:
    """A finished run; ``published`` is None if there was no candidate or publishing was not asked for."""

    published: Published | None
    standing: Standing

    @property
    def is_halted(self) -> bool:
        """Whether the release was taken back."""
        return self.standing.status == "halted"

    def as_dict(self) -> dict[str, Any]:
        """Plain form for JSON."""
        return {"published": self.published and asdict(self.published), **self.standing.as_dict()}


def progress_percent(standing: Standing) -> float:
    """How far a rollout is: waves done, and of the one under way the share of devices that reported."""
    if standing.status == "completed":
        return 100.0
    done = sum(wave.status == "done" for wave in standing.waves)
    now = next((wave for wave in standing.waves if wave.status in ("running", "halted")), None)
    part = (now.confirmed + now.failed) / now.devices if now and now.devices else 0.0
    return 100.0 * (done + part) / max(1, len(standing.waves))


def in_words(standing: Standing) -> str:
    """One line on where a rollout stands."""
    head = f"release {standing.counter} {standing.status}"
    if standing.state and standing.status == "halted":
        return f"{head}: {standing.state.reason}"
    now = next((wave for wave in standing.waves if wave.status == "running"), None)
    if now:
        head += (
            f", wave {now.number} of {len(standing.waves)} ({now.reach}): {now.devices} devices, "
            f"{now.confirmed} confirmed, {now.failed} failed, {now.pending} pending"
        )
    return f"{head}; {standing.waiting}" if standing.waiting else head


def waves_table(standing: Standing) -> Table:
    """A row for each wave."""
    from rich import box
    from rich.table import Table

    table = Table("wave", "reaches", "", "devices", "confirmed", "failed", "pending", box=box.SIMPLE)
    for column in (table.columns[0], *table.columns[3:]):
        column.justify = "right"
    for wave in standing.waves:
        numbers = (wave.devices, wave.confirmed, wave.failed, wave.pending)
        table.add_row(str(wave.number), wave.reach, wave.status, *(str(each) for each in numbers))
    return table
