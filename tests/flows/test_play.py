"""``make seasons`` before its flow starts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from flows.play import changes
from tests.conftest import ROOT


def test_values_are_read_as_yaml() -> None:
    words = ["seed=7", "models=[yield]", "release.minor=0", "note=a=b"]
    assert changes(words) == {"seed": 7, "models": ["yield"], "release.minor": 0, "note": "a=b"}


def test_prefect_starts_with_the_projects_settings(tmp_path: Path) -> None:
    """A machine that trains something else answers late, and nothing lands in the home."""
    text = (
        "import sys, flows.play\n"
        "assert 'prefect' not in sys.modules\n"
        "import types\n"
        "def seasons(**told):\n"
        "    from prefect.settings import get_current_settings as now\n"
        "    print(now().server.ephemeral.startup_timeout_seconds, now().home, told)\n"
        "sys.modules['flows.seasons'] = types.SimpleNamespace(seasons=seasons)\n"
        "flows.play.main(['--first', '2009', '--set', 'seed=7'])\n"
    )
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    environment = {**kept, "PREFECT_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", text], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split(maxsplit=2) == ["300", str(tmp_path), "{'changes': {'seed': 7}, 'first': 2009}\n"]
