"""What is worth keeping beside a bundle: the figures of ``metrics/`` and the lineage in its manifest."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from headland_edge.manifest import Manifest

_NOT_IN_A_KEY = re.compile(r"[^\w\-. /]", re.ASCII)
_LONGEST_TAG = 5000
_LONGEST_KEY = 250


class UnreadableError(Exception):
    """A metrics file can't be read; the message names it."""


def figures(folder: Path) -> dict[str, float]:
    """Every finite number in ``folder/**/*.json`` under a key such as ``compress/irrigation/int8/metric``.

    Raises:
        UnreadableError: a file is not JSON.
    """
    found: dict[str, float] = {}
    for file in sorted(folder.rglob("*.json")):
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UnreadableError(f"{file} is not JSON ({error}). Run the stage that writes it again.") from error
        found.update(_leaves(file.relative_to(folder).with_suffix("").as_posix(), content))
    return found


def _leaves(path: str, value: Any) -> Iterator[tuple[str, float]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _leaves(f"{path}/{_part(str(key))}", inner)
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _leaves(f"{path}/{number}", inner)
    elif isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        yield path[:_LONGEST_KEY], float(value)


def _part(key: str) -> str:
    """One part of a key, without what a registry would refuse or take for a path."""
    return _NOT_IN_A_KEY.sub("_", key).replace("/", "_").strip(" .") or "_"


def lineage(manifest: Manifest) -> dict[str, str]:
    """The manifest's release and lineage as tags: ``release.counter``, ``lineage.git_commit``, ..."""
    release = {"counter": manifest.release.counter, "as_of": manifest.release.as_of}
    sections: dict[str, Mapping[str, object]] = {"release": release, "lineage": manifest.lineage}
    return {
        f"{section}.{_part(key)}": _text(value)[:_LONGEST_TAG]
        for section, content in sections.items()
        for key, value in content.items()
    }


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)
