"""The parts that a page is made of."""

from __future__ import annotations

from dataclasses import dataclass, field

from tasks.report.drawing import Figure, Kind
from tasks.report.tables import Table


@dataclass(frozen=True)
class Card:
    """The short answer for one crop."""

    title: str
    bottom: str
    headline: str
    points: list[str]
    verdict: str
    tags: tuple[tuple[Kind, str], ...]


@dataclass(frozen=True)
class Section:
    """One part of the page."""

    name: str
    title: str
    paragraphs: list[str] = field(default_factory=list)
    points: list[str] = field(default_factory=list)
    commands: list[tuple[str, str]] = field(default_factory=list)
    """What it does, and what to type."""
    cards: list[Card] = field(default_factory=list)
    figures: list[list[Figure]] = field(default_factory=list)
    """Groups that stand side by side where there is room."""
    tables: list[Table] = field(default_factory=list)
