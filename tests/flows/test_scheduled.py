"""Runs that a real Prefect server starts, by schedule and for an operator, end like any other."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.toy import dvc, make_toy, python_environment, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

OVER = ("COMPLETED", "FAILED", "CRASHED")

# What ``python -m flows.seasonal_retrain`` does, on a schedule that a test can wait for.
SERVE = """
from datetime import timedelta
from flows.seasonal_retrain import seasonal_retrain
every = timedelta(seconds={seconds})
seasonal_retrain.serve(name="seasonal", interval=every, limit=1, parameters={{"to_registry": False}})
"""


class Server:
    """A Prefect server on loopback with a home of its own."""

    def __init__(self, home: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}/api"
        self.environment = {
            **{k: v for k, v in python_environment().items() if not k.startswith("PREFECT_")},
            "PREFECT_HOME": str(home),
            "PREFECT_API_URL": self.url,
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "DO_NOT_TRACK": "1",
        }
        command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
        self.process = start(command, home, self.environment)
        wait_until(self.answers, timeout_s=180)

    def answers(self) -> bool:
        """Whether it is up."""
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=5) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """What it answers to a question in JSON."""
        request = urllib.request.Request(
            f"{self.url}/{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.loads(answer.read())

    def run(self, run_id: str) -> dict[str, Any]:
        """A flow run as it stands."""
        (found,) = self.post("flow_runs/filter", {"flow_runs": {"id": {"any_": [run_id]}}})
        return dict(found)

    def scheduled(self) -> list[dict[str, Any]]:
        """Runs that a schedule made and that are over, the earliest first: the next one may be cut off by the end."""
        over = {"flow_runs": {"state": {"type": {"any_": list(OVER)}}}}
        runs = [run for run in self.post("flow_runs/filter", over) if run["auto_scheduled"]]
        return sorted(runs, key=lambda run: str(run["start_time"]))


def start(command: list[str], folder: Path, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    """A process in a session of its own, so that it ends with all it started; what it says goes to a file."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "said.txt").open("ab") as said:
        return subprocess.Popen(command, cwd=folder, env=environment, stdout=said, stderr=said, start_new_session=True)


def end(process: subprocess.Popen[bytes]) -> None:
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    started = Server(tmp_path_factory.mktemp("prefect"))
    yield started
    end(started.process)


def serve(server: Server, toy: Path, seconds: int) -> subprocess.Popen[bytes]:
    return start([sys.executable, "-c", SERVE.format(seconds=seconds)], toy, server.environment)


def test_a_scheduled_run_builds_the_season_and_dvc_finds_nothing_left(server: Server, tmp_path: Path) -> None:
    toy = make_toy(tmp_path / "toy")
    served = serve(server, toy, seconds=20)
    try:
        wait_until(lambda: server.scheduled(), timeout_s=240)
    finally:
        end(served)
    (run, *_) = server.scheduled()
    assert run["state_type"] == "COMPLETED", (toy / "said.txt").read_text()[-3000:]
    assert (toy / "data" / "bundle" / "headland-2009.tar").exists()
    assert "up to date" in dvc(toy, "status").stdout


def test_a_run_started_by_an_operator_takes_its_parameters(server: Server, tmp_path: Path) -> None:
    toy = make_toy(tmp_path / "toy")
    served = serve(server, toy, seconds=86_400)
    try:
        name = {"deployments": {"name": {"any_": ["seasonal"]}}}
        wait_until(lambda: "Your flow" in (toy / "said.txt").read_text(), timeout_s=120)
        (deployment, *_) = server.post("deployments/filter", name)
        body = {"parameters": {"to_registry": False, "force": ["weather"]}, "state": {"type": "SCHEDULED"}}
        made = server.post(f"deployments/{deployment['id']}/create_flow_run", body)
        wait_until(lambda: server.run(made["id"])["state_type"] in OVER, timeout_s=240)
    finally:
        end(served)
    run = server.run(made["id"])
    assert run["state_type"] == "COMPLETED", (toy / "said.txt").read_text()[-3000:]
    assert run["parameters"]["force"] == ["weather"]
    assert (toy / "data" / "bundle" / "headland-2009.tar").exists()
