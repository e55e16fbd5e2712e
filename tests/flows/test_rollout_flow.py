"""The rollout from the registry to a simulated fleet: judged, published, in waves, and killed at any moment."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from headland_edge.bundle import write_bundle
from prefect.client.schemas.objects import StateType

from tasks.fleet.assign import assigned, signed_state
from tasks.fleet.candidate import GateRefusedError
from tasks.fleet.folder import FleetFolder
from tasks.fleet.keys import Keyring, create
from tasks.fleet.publish import released
from tasks.registry.register import register
from tests.edge.small_bundle import WINDOW_DAYS, conv_net, parts
from tests.fleet.rollouts import follow, make_fleet, publish_release
from tests.toy import REPOSITORY, make_toy, python_environment
from tests.training.water_balance import make_windows

pytestmark = pytest.mark.usefixtures("prefect")

DEVICES = [f"field-{number:02d}" for number in range(12)]
GOOD, BETTER, BAD = (0.2, 0.4, 0.6), (0.25, 0.4, 0.55), (2.0, 3.0, 4.0)


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose waves do not soak, in the current folder."""
    folder = make_toy(tmp_path / "toy")
    content = yaml.safe_load((folder / "params.yaml").read_text())
    content["gate"]["fields_per_season"] = 0  # its one model knows no weather to farm in
    content["rollout"] |= {"wave_shares": [0.5, 1.0], "soak_h": 0.0, "minimum_reports": 3}
    (folder / "params.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    monkeypatch.chdir(folder)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return folder


def roll_out(**parameters: Any) -> Any:
    from flows.rollout import rollout

    return rollout(every_s=0.01, **parameters)


def artifact(key: str) -> Any:
    from prefect.artifacts import Artifact

    return asyncio.run(Artifact.aget(key))


def candidate(toy: Path, counter: int, quantiles: tuple[float, float, float]) -> str:
    """Register a bundle whose one net always says the same."""
    manifest, members = parts({"irrigation": conv_net(quantiles=quantiles)})
    path = toy / "data" / "bundle" / f"{counter}.tar"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bundle(path, {**manifest, "release": {"counter": counter, "as_of": 2009}}, members)
    return register(toy, path).sha256


def until_over(fleet: FleetFolder, fate: Any = lambda device: "confirmed") -> Any:
    for number in range(10):
        summary = roll_out(to_publish=False, once=True)
        if summary.standing.is_over:
            return summary
        follow(fleet, DEVICES, fate, time_s=float(number))
    raise AssertionError("not over")


@pytest.mark.slow
def test_a_candidate_is_judged_published_and_rolled_out_and_a_worse_one_is_refused(toy: Path) -> None:
    make_windows(toy / "data/windows/irrigation", fields=10, mornings=40, window_days=WINDOW_DAYS)
    fleet = FleetFolder.of(toy)
    create(fleet.root, Keyring(fleet.keys))
    fleet.devices.write_text(json.dumps(DEVICES))
    first = candidate(toy, 1, GOOD)
    told = roll_out(dry_run=True)
    assert (told.published.changed, told.standing.waiting) == (("releases", "media"), "waits for a first release")
    assert released(fleet.root) == {}
    begun = roll_out(once=True)
    assert (begun.published.sha256, begun.published.changed) == (first, ("releases", "media"))
    assert (begun.standing.status, begun.standing.waves[0].devices) == ("running", 1)
    assert until_over(fleet).standing.status == "completed"
    assert artifact("rollout").data == 100.0
    assert {"what": "confirmed", "value": "12"} in json.loads(artifact("rollout-wave-3").data)

    candidate(toy, 2, BAD)
    with pytest.raises(GateRefusedError, match=r"irrigation: error \+"):
        roll_out(once=True)
    candidate(toy, 1, BETTER)
    with pytest.raises(GateRefusedError, match=r"raise release\.minor"):
        roll_out(once=True)
    assert list(released(fleet.root)) == [first]
    third = candidate(toy, 3, BETTER)
    dry = roll_out(dry_run=True)
    assert (dry.published.dry_run, list(released(fleet.root))) == (True, [first])
    assert roll_out(once=True).standing.counter == 3
    again = roll_out(once=True)
    assert (again.published.changed, again.standing.changed, list(released(fleet.root))) == ((), False, [first, third])


def test_a_halted_rollout_is_told_with_reasons(toy: Path) -> None:
    fleet, (old,) = make_fleet(FleetFolder.of(toy).root, (1,))
    fleet.devices.write_text(json.dumps(DEVICES))
    until_over(fleet)
    publish_release(fleet, 2)
    summary = until_over(fleet, lambda device: "refused")
    assert summary.is_halted
    assert assigned(fleet.root).base == old
    rows = json.loads(artifact("rollout-wave-1").data)
    assert [row["value"] for row in rows if row["what"].startswith("failed: ")] == ["golden outputs | differ by 2"]
    state = roll_out(to_publish=False, once=True, return_state=True)
    assert (state.type, state.name) == (StateType.COMPLETED, "Halted")


def command(toy: Path, *words: str) -> subprocess.Popen[str]:
    """``headland rollout`` as a process, at the Prefect server of these tests."""
    from prefect.settings import PREFECT_API_URL

    kept = {name: value for name, value in python_environment().items() if not name.startswith(("PREFECT_", "MLFLOW_"))}
    return subprocess.Popen(
        [sys.executable, "-m", "tasks.cli", "rollout", "--no-publish", "--every-s", "0.2", *words],
        cwd=toy,
        env={**kept, "PREFECT_API_URL": PREFECT_API_URL.value()},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.mark.slow
@pytest.mark.parametrize(("state", "code"), [("confirmed", 0), ("rolled_back", 6)])
def test_killed_and_started_again_it_goes_on_to_the_same_end(toy: Path, state: str, code: int) -> None:
    """Real processes, killed with all they started as soon as a wave has begun; devices answer meanwhile."""
    fleet, (old,) = make_fleet(FleetFolder.of(toy).root, (1,))
    fleet.devices.write_text(json.dumps(DEVICES))
    until_over(fleet)
    new = publish_release(fleet, 2)
    rng, waves, kills, answered = random.Random(code), [0], 0, -1
    process = command(toy, "--json")
    deadline_s = time.monotonic() + 240
    while process.poll() is None and time.monotonic() < deadline_s:
        plain = signed_state(fleet.root)
        wave = plain["wave"] if plain["release"] == new else -1
        if wave > answered:
            # In the first wave all is well, so that there is a second one to be halted in.
            follow(fleet, DEVICES, lambda device, good=wave == 0: "confirmed" if good else state, time_s=float(wave))
            answered = wave
        if wave >= 0 and kills <= wave and kills < 2:
            time.sleep(rng.random() * 0.3)
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            kills += 1
            waves.append(signed_state(fleet.root)["wave"])
            process = command(toy, "--json")
        time.sleep(0.1)
    said, errors = process.communicate(timeout=60)
    assert process.returncode == code, errors
    assert kills >= 1
    assert waves == sorted(waves), "no wave is ever taken back"
    assert json.loads(said)["status"] == ("completed" if code == 0 else "halted")
    assert assigned(fleet.root).base == (new if code == 0 else old)
    assert assigned(fleet.root).rollout is None


def test_the_deployment_takes_one_step_and_needs_no_offline_key() -> None:
    from flows.rollout import EVERY_FEW_MINUTES, rollout

    deployments = yaml.safe_load((REPOSITORY / "prefect.yaml").read_text())["deployments"]
    (deployment,) = (each for each in deployments if each["name"] == "waves")
    assert deployment["entrypoint"] == "flows/rollout.py:rollout"
    rollout.validate_parameters(deployment["parameters"])
    assert (deployment["parameters"]["once"], deployment["parameters"]["to_publish"]) == (True, False)
    assert deployment["schedules"][0]["cron"] == EVERY_FEW_MINUTES
