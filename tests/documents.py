"""The project's documents, taken apart for the tests that hold them to the code."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
REFERENCE = ROOT / "docs" / "reference"
DOCUMENTS = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *ROOT.glob("[a-z]*/README.md")])
_FENCE = re.compile(r"^ *```\w*\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_CODE_PATH = re.compile(r"(?<![\w/.-])((?:tasks|flows|edge|tests|benchmarks|docs)/[\w./-]*\w)")


def name_of(document: Path) -> str:
    """Its path in the project."""
    return document.relative_to(ROOT).as_posix()


def prose_of(document: Path) -> str:
    """The text without fenced blocks."""
    return _FENCE.sub("", document.read_text())


def links_of(document: Path) -> list[str]:
    """Targets of all links to other places of the project."""
    outward = ("http:", "https:", "mailto:")
    return [link for link in _LINK.findall(prose_of(document)) if not link.startswith(outward)]


def code_of(document: Path) -> list[str]:
    """What stands as code: lines of fenced blocks, with continued lines joined, and words between backticks."""
    blocks = _FENCE.findall(document.read_text())
    lines = [line.strip() for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [*lines, *(words.replace("\n", " ") for words in coded(prose_of(document)))]


def paths_of(text: str) -> list[str]:
    """Paths of the project's code in ``text``."""
    return _CODE_PATH.findall(_LINK.sub("", text))


def rows_of(document: Path) -> list[list[str]]:
    """Cells of every table row, without the lines that part head and body."""
    lines = [line.strip() for line in document.read_text().splitlines()]
    rows = [line for line in lines if re.match(r"\|(?!-)", line)]
    return [[cell.strip() for cell in row.strip("|").split(" | ")] for row in rows]


def coded(text: str) -> list[str]:
    """Words between backticks."""
    return re.findall(r"`([^`]+)`", text)


def table_of(document: Path, columns: int) -> dict[str, list[str]]:
    """Rows of ``columns`` cells by the first word of code in their first cell; rows without one are left out."""
    rows = [(coded(row[0]), row) for row in rows_of(document) if len(row) == columns]
    return {words[0]: row for words, row in rows if words}


def anchors_of(document: Path) -> set[str]:
    """Names by which a link can point to a heading."""
    heads = re.findall(r"^#+ (.+)$", prose_of(document), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head).strip().lower().replace(" ", "-") for head in heads}
