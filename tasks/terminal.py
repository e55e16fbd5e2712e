"""What a person sees while stages run: one heading per stage, its lines below it, how far the run is.

On a terminal a bar at the bottom shows stages done and time passed; in a file or a pipe there are plain lines only.
"""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


class Terminal:
    """Use as a context; lines of text are printed as they are, never read as markup."""

    def __init__(self, total: int, console: Console | None = None) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        self._console = console or Console(soft_wrap=True)
        self._total = total
        self._place = 0
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        # A line as printed is a line in a log: no bar, no redrawing.
        self._bar = Progress(*columns, console=self._console, transient=True, disable=not self._console.is_terminal)
        self._task = self._bar.add_task("stages", total=total)

    def __enter__(self) -> Terminal:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def unchanged(self, stage: str) -> None:
        """One line for a stage that needs no work."""
        self._place += 1
        self._say(f"{self._heading(stage)} unchanged", "dim")
        self._bar.update(self._task, completed=self._place)

    def started(self, stage: str, why: str) -> None:
        """The heading of a stage, with the reason it runs."""
        self._place += 1
        self._say(f"{self._heading(stage)} {why}", "bold")
        self._bar.update(self._task, description=stage)

    def line(self, text: str) -> None:
        """A line the stage printed."""
        self._say(f"        {text}")

    def finished(self, seconds: float) -> None:
        """The end of the stage started last."""
        self._say(f"        done in {seconds:.1f} s", "green")
        self._bar.update(self._task, completed=self._place)

    def _heading(self, stage: str) -> str:
        return f"[{self._place:>2}/{self._total}] {stage}:"

    def _say(self, text: str, style: str = "") -> None:
        self._console.print(text, style=style, markup=False, highlight=False)


def say(text: str) -> None:
    """One line, at once, with the time of day: for work that takes hours."""
    from datetime import datetime

    print(f"{datetime.now():%H:%M:%S}  {text}", flush=True)
