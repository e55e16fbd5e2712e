"""``make seasons`` (``python -m flows.play``): ``flows.seasons`` with what the command line says.

A module of its own: Prefect reads its settings when it is imported, so they are made before.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def changes(words: Sequence[str]) -> dict[str, Any]:
    """``KEY=VALUE`` words as a mapping, each value read as YAML."""
    import yaml

    return {key: yaml.safe_load(value) for key, _, value in (word.partition("=") for word in words)}


def main(arguments: Sequence[str] | None = None) -> None:
    """Play the seasons that are not over yet."""
    parser = argparse.ArgumentParser(
        prog="python -m flows.play", description="Ten seasons in a row; see flows.seasons."
    )
    for number in ("first", "last", "devices", "fields-per-device"):
        parser.add_argument(f"--{number}", type=int, default=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, default=argparse.SUPPRESS, help="where to play")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a value of params to change")
    options = vars(parser.parse_args(arguments))
    from tasks.environment import prepare_environment
    from tasks.stages import find_root

    prepare_environment(find_root(Path.cwd()))
    from flows.seasons import seasons

    seasons(changes=changes(options.pop("set")), **options)


if __name__ == "__main__":
    main()
