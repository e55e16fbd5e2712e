"""Settings for Prefect and MLflow, made before they are imported: nothing leaves the machine or lands in the home.

A value the user has set is never overridden.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

from tasks.running import STATE_DIR


def prepare_environment(root: Path, *, debug: bool = False) -> None:
    """Call this once, before ``prefect`` is imported; library modules never do.

    Args:
        root: the project; without a server its run history is kept under ``.headland/prefect``.
        debug: let Prefect and MLflow talk on the terminal.
    """
    ours = {
        "DO_NOT_TRACK": "1",
        "DVC_NO_ANALYTICS": "true",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_HOME": str(root / STATE_DIR / "prefect"),
        # Twenty seconds, as Prefect has it, are not enough on a machine that trains something else meanwhile.
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "300",
        # The terminal shows the stages' own lines; the API still gets everything.
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "INFO" if debug else "CRITICAL",
        "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
        "MLFLOW_LOGGING_LEVEL": "INFO" if debug else "ERROR",
    }
    (root / STATE_DIR).mkdir(exist_ok=True)
    for name, value in ours.items():
        os.environ.setdefault(name, value)


def start_prefect() -> None:
    """Start Prefect's temporary server, or greet the one named by ``PREFECT_API_URL``.

    Ctrl-C reaches every process of a terminal's foreground group. A temporary server that ended with it could not note
    how the run ended, and its silence would hide the Ctrl-C itself; so it is started with SIGINT blocked.
    It ends with this process.
    """
    from prefect.client.orchestration import get_client

    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        with get_client(sync_client=True):
            pass
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
