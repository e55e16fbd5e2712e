"""How the ``headland`` command tells an error: one message, and an exit code."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

import typer


@contextmanager
def errors_told(debug: bool) -> Iterator[None]:
    """Tell an error as one message and leave with its exit code; with ``debug`` let the traceback through."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo(
            "\nStopped. The stage that was running is ended; finished stages are kept. Run again to go on.", err=True
        )
        raise typer.Exit(130) from None
    except (typer.Exit, typer.Abort):
        raise
    except Exception as error:
        if debug:
            raise
        typer.echo(f"Error: {_told(error)}", err=True)
        raise typer.Exit(getattr(error, "cli_exit_code", 1)) from None


def _told(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        place = f" at {error.filename}" if error.filename else ""
        return f"The disk is full{place}. Make room, then run again: finished stages are kept."
    ours = type(error).__module__.partition(".")[0] in {"tasks", "flows", "headland_edge"}
    return str(error) if ours else f"{type(error).__name__}: {error}\nFor the traceback, run again with --debug."
