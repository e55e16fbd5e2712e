"""What a sync came to, in words and as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tasks.field.collect import Collected
from tasks.field.version import read_card
from tasks.fleet.ingest import Ingested


@dataclass(frozen=True)
class SyncSummary:
    """A finished sync.

    Args:
        ingested: what came in through the folder.
        collected: what the records of the store came to.
        is_new: whether this run made a new version of the data.
        version: MD5 by which DVC knows it; empty if there is no data yet.
        rows: mornings in it.
    """

    ingested: Ingested
    collected: Collected
    is_new: bool
    version: str
    rows: int

    def as_dict(self) -> dict[str, Any]:
        """Plain form for JSON."""
        return asdict(self)

    def headline(self) -> str:
        """One line."""
        if not self.version:
            return "No records yet."
        return f"{'New version' if self.is_new else 'Nothing new: version'} {self.version}, {self.rows} mornings."

    def in_words(self) -> Iterator[tuple[str, str]]:
        """What a person wants to know, a line each."""
        came, kept = self.ingested, self.collected
        yield "came in", f"{came.new} messages in {came.batches} batches, {came.repeated} known already"
        yield "records", f"{kept.messages} in the store, {kept.messages - sum(kept.refused.values())} of use"
        for where, reasons in (("on the way in", came.refused), ("as records", kept.refused)):
            if reasons:
                yield f"refused {where}", ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
        if kept.dropped:
            yield "faulty readings", ", ".join(f"{count} {name}" for name, count in kept.dropped.items())
        yield "changed", ", ".join(kept.changed) or "no file"
        yield "version", self.headline()


def summarize(folder: Path, ingested: Ingested, collected: Collected, is_new: bool) -> SyncSummary:
    """A sync that ended, with the version that lies in ``folder`` now."""
    card = read_card(folder)
    return SyncSummary(ingested, collected, is_new, str(card.get("md5", "")), int(card.get("rows", 0)))
