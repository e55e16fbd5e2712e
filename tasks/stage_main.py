"""How a stage ends: an error that is meant for the user is one clear message and exit code 1, not a traceback."""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable, Iterable

_OURS = ("tasks.", "headland_edge.", "__main__")  # a stage that is run defines its errors in __main__


def end_of_stage(main: Callable[[], object]) -> None:
    """Run ``main`` and leave the process with exit code 0, or 1 after telling what went wrong.

    Errors that Headland defines name the thing and the remedy and are printed as they are. A full disk is said to be
    one. Anything else is a defect and keeps its traceback.
    """
    try:
        main()
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        print(f"error: no space left on the disk ({_place(error)}). Free some and start again:", file=sys.stderr)
        print("files are written aside and renamed, what was whole before is whole now.", file=sys.stderr)
        sys.exit(1)
    except Exception as error:
        if not type(error).__module__.startswith(_OURS):
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


def _place(error: OSError) -> str:
    return f"writing {error.filename}" if error.filename else "in the middle of a write"


def model_named(words: list[str], known: Iterable[str]) -> str:
    """The model on a stage's command line; leaves with code 2 if there is none, or none of that name."""
    if len(words) != 2:
        print(f"usage: python -m {words[0]} MODEL, an entry of models in params.yaml", file=sys.stderr)
        sys.exit(2)
    if words[1] not in known:
        print(f"{words[1]}: no such model. params.yaml has {', '.join(known)}.", file=sys.stderr)
        sys.exit(2)
    return words[1]
