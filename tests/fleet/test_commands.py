"""``headland fleet`` as its users meet it: the command itself, on a fleet on disk, with a device at the end."""

from __future__ import annotations

import json
import shutil
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from headland_edge.slots import Slots
from typer.testing import CliRunner

from tasks.cli import app
from tasks.fleet.assign import assigned
from tasks.fleet.media import write_stick
from tasks.fleet.repository import FleetError, Repository
from tests.fleet.made import NOW, gadget, put, release, ring, sha, tree

pytestmark = pytest.mark.usefixtures("quick_disk")
ROOT = Path(__file__).parents[2]


@pytest.fixture
def fleet(tmp_path: Path) -> Path:
    """Made by the command, now, as the signatures of the other commands are."""
    told(tmp_path / "fleet", "init")
    return tmp_path / "fleet"


def run(fleet: Path, *words: str) -> Result:
    return CliRunner().invoke(app, ["fleet", *words, "--fleet", str(fleet)])


def told(fleet: Path, *words: str) -> Any:
    done = run(fleet, *words, "--json")
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def publish(fleet: Path, *counters: int, floor: int = 0) -> None:
    for counter in counters:
        bundle = put(fleet.parent / "made", release(counter))
        told(fleet, "publish", "--bundle", str(bundle), "--floor", str(floor))


def test_the_whole_way_to_a_device_over_network_and_stick(fleet: Path, tmp_path: Path) -> None:
    publish(fleet, 1, 2)
    assert told(fleet, "assign", "--release", "1", "--all")["changed"]
    device = gadget(tmp_path / "device", fleet)
    device.now_s = time.time()
    assert device.look_and_confirm().counter == 1
    (tmp_path / "stick").mkdir()
    assert told(fleet, "assign", "--release", sha(release(2))[:8], "--all")["serial"] == 2
    written = told(fleet, "stick", str(tmp_path / "stick"))
    assert written["serial"] == 2
    assert written["files"] == len(tree(tmp_path / "stick"))
    outcome = device.look(stick=tmp_path / "stick")
    assert (outcome.state, device.runs) == ("installed", 2)


def test_init_tells_what_to_pin_and_may_be_repeated(fleet: Path) -> None:
    before = tree(fleet)
    again = told(fleet, "init")
    assert tree(fleet) == before
    assert sorted(again["roots"]) == ["assignments", "releases"]
    assert all(Path(root).name == "1.root.json" for root in again["roots"].values())
    assert "headland-edge init --device-id" in run(fleet, "init").stdout
    assert stat.S_IMODE((fleet / "keys" / "releases-1" / "key.pem").stat().st_mode) == 0o600


def test_publishing_tells_what_changed_and_a_dry_run_what_would(fleet: Path, tmp_path: Path) -> None:
    bundle = str(put(tmp_path / "made", release(1)))
    before = tree(fleet)
    dry = told(fleet, "publish", "--bundle", bundle, "--dry-run", "--keys", str(tmp_path / "no-keys"))
    assert tree(fleet) == before
    done = told(fleet, "publish", "--bundle", bundle)
    assert done == {**dry, "dry_run": False}
    assert (done["counter"], done["changed"]) == (1, ["releases", "media"])
    assert told(fleet, "publish", "--bundle", bundle)["changed"] == []
    assert "nothing to do" in run(fleet, "publish", "--bundle", bundle).stdout


@pytest.mark.slow
def test_without_any_bundle_the_command_that_makes_one_is_named(tmp_path: Path) -> None:
    from tests.toy import make_toy, python_environment

    toy = make_toy(tmp_path / "toy")
    words = [sys.executable, "-m", "tasks.cli", "fleet", "publish", "--dry-run"]
    done = subprocess.run(words, cwd=toy, env=python_environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "headland retrain" in done.stderr
    assert not (toy / ".headland" / "fleet").exists()


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["publish", "--bundle", "none.tar"], 7, "cannot be read"),
        (["assign", "--release", "9", "--all"], 1, "is not published; there are 1, 2"),
        (["assign", "--release", "1"], 2, "--all"),
        (["assign", "--release", "1", "--all", "--device", "field-1"], 2, "--all"),
        (["assign", "--release", "1", "--device", "../x"], 1, "pins"),
        (["assign", "--all"], 2, "--release"),
        (["keys", "rotate", "master"], 1, "no key 'master'"),
        (["renew", "everything"], 2, "media-assignments"),
        (["stick", "/nowhere/at/all"], 1, "is the stick in?"),
    ],
)
def test_what_is_refused_is_said_with_its_code(fleet: Path, words: list[str], code: int, said: str) -> None:
    publish(fleet, 1, 2)
    before = tree(fleet)
    done = run(fleet, *words)
    assert done.exit_code == code, done.output
    assert said in " ".join(done.output.split())
    assert "Traceback" not in done.output
    assert tree(fleet) == before


def test_a_release_below_the_floor_is_not_assigned(fleet: Path) -> None:
    publish(fleet, 1)
    publish(fleet, 2, floor=2)
    done = run(fleet, "assign", "--release", "1", "--all")
    assert done.exit_code == 1
    assert "below the floor 2" in done.output


def test_devices_are_named_one_by_one_and_given_back(fleet: Path) -> None:
    publish(fleet, 1, 2)
    told(fleet, "assign", "--release", "1", "--all")
    pinned = told(fleet, "assign", "--release", "2", "--device", "field-1", "--device", "field-2")
    assert pinned["pins"] == {"field-1": sha(release(2)), "field-2": sha(release(2))}
    assert pinned["base"] == sha(release(1))
    dry = told(fleet, "assign", "--release", "none", "--device", "field-1", "--dry-run")
    assert (dry["serial"], assigned(fleet).serial) == (3, 2)
    told(fleet, "assign", "--release", "none", "--device", "field-1")
    assert dict(assigned(fleet).pins) == {"field-2": sha(release(2))}
    assert told(fleet, "assign", "--release", "2", "--all")["pins"] == {}
    assert not told(fleet, "assign", "--release", "2", "--all")["changed"]


def test_keys_are_listed_rotated_and_revoked(fleet: Path) -> None:
    before = told(fleet, "keys", "list")
    assert before["releases-1"]["signs"] == ["releases", "roots of assignments", "roots of releases"]
    assert before["assignments"]["signs"] == ["assignments"]
    assert before["recovery"]["signs"] == ["roots of assignments", "roots of releases"]
    new = told(fleet, "keys", "rotate", "releases-1")
    ring(fleet).file("assignments").unlink()
    assert not told(fleet, "keys", "list")["assignments"]["at_hand"]
    assert "assignments" in run(fleet, "keys", "list").stdout
    told(fleet, "keys", "revoke", "assignments")
    after = told(fleet, "keys", "list")
    assert after["releases-1"]["id"] == new["id"] != before["releases-1"]["id"]
    assert after["assignments"]["id"] != before["assignments"]["id"]
    assert after["recovery"] == before["recovery"]
    publish(fleet, 1)
    told(fleet, "assign", "--release", "1", "--all")


def test_no_private_key_is_ever_printed(fleet: Path) -> None:
    outputs = [run(fleet, *words).output for words in (["keys", "list"], ["keys", "rotate", "recovery"], ["status"])]
    for name in ("releases-1", "recovery", "assignments"):
        lines = ring(fleet).file(name).read_text().splitlines()
        assert not any(line in output for output in outputs for line in lines)


def test_status_and_renewal(fleet: Path) -> None:
    publish(fleet, 1, 2)
    told(fleet, "assign", "--release", "1", "--all")
    status = told(fleet, "status")
    assert [(each["counter"], each["assigned"]) for each in status["releases"]] == [(1, True), (2, False)]
    assert status["assignments"]["serial"] == 1
    assert status["days_left"]["assignments"] == pytest.approx(30, abs=0.2)
    assert status["keys_at_hand"] == ["releases-1", "releases-2", "recovery", "assignments"]
    assert told(fleet, "renew") == {"signed": []}
    signers = ring(fleet).signers(["assignments"])
    Repository(fleet, "assignments").commit(Repository(fleet, "assignments").targets(), signers, NOW - 3e9)
    text = run(fleet, "status").stdout
    assert "1*, 2" in text
    assert "headland fleet renew assignments" in text
    for name in ("releases-1", "releases-2"):
        ring(fleet).file(name).unlink()
    assert told(fleet, "renew", "assignments", "media-assignments") == {"signed": ["assignments"]}


def test_before_the_fleet_is_made_every_command_says_what_to_do(tmp_path: Path) -> None:
    for words in (["status"], ["keys", "list"], ["stick", str(tmp_path)]):
        done = run(tmp_path / "none", *words)
        assert (done.exit_code, "headland fleet init" in done.output) == (1, True), words


def test_a_stick_is_written_whole_or_stays_as_it_was(fleet: Path, tmp_path: Path) -> None:
    publish(fleet, 1)
    stick = tmp_path / "stick"
    stick.mkdir()
    (stick / "photo.jpg").write_bytes(b"mine")
    write_stick(fleet, stick)
    before = tree(stick)
    publish(fleet, 2)
    stored = next((fleet / "repository" / "media" / "targets" / "bundles").glob(f"{sha(release(2))}*"))
    whole = stored.read_bytes()
    stored.write_bytes(b"x")
    with pytest.raises(FleetError, match="damaged"):
        write_stick(fleet, stick)
    assert tree(stick) == before
    stored.write_bytes(whole)
    write_stick(fleet, stick)
    assert len(tree(stick)) > len(before)
    assert (stick / "photo.jpg").read_bytes() == b"mine"
    (stick / "headland" / "letters").mkdir()
    with pytest.raises(FleetError, match="something else"):
        write_stick(fleet, stick)


def test_a_full_stick_keeps_what_it_held(fleet: Path, tmp_path: Path) -> None:
    """The real limit of a file's size stands in for a full stick."""
    publish(fleet, 1)
    (tmp_path / "stick").mkdir()
    write_stick(fleet, tmp_path / "stick")
    before = tree(tmp_path / "stick")
    publish(fleet, 2)
    program = (
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))\n"
        "from tasks.cli import main; main()\n"
    )
    words = [sys.executable, "-c", program, "fleet", "stick", str(tmp_path / "stick"), "--fleet", str(fleet)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("Error: ")
    assert tree(tmp_path / "stick") == before


def test_help_of_the_fleet_loads_nothing_heavy() -> None:
    text = (
        "import sys\nfrom typer.testing import CliRunner\nfrom tasks.cli import app\n"
        "for words in ['fleet', '--help'], ['fleet', 'keys', '--help'], ['fleet', 'publish', '--help']:\n"
        "    assert CliRunner().invoke(app, words).exit_code == 0\n"
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", text], cwd=ROOT, capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) & {"tuf", "cryptography", "numpy", "dvc", "mlflow", "prefect"} == set()


def test_a_slot_that_a_stick_filled_is_one_of_two(fleet: Path, tmp_path: Path) -> None:
    """A stick for a device that never had a network: its first release."""
    publish(fleet, 1)
    told(fleet, "assign", "--release", "1", "--device", "field-1")
    (tmp_path / "stick").mkdir()
    told(fleet, "stick", str(tmp_path / "stick"))
    device = gadget(tmp_path / "device", fleet, folder=str(tmp_path / "stick"))
    device.now_s = time.time()
    assert device.look().state == "installed"
    assert Slots(device.home.slots).holding(sha(release(1))) is not None
    shutil.rmtree(tmp_path / "stick")
    assert device.look().state == "offline"
    assert device.runs == 1


def test_the_base_of_the_next_release_is_the_last_one_published(
    fleet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(fleet, 1, 2)
    project = tmp_path / "project"
    project.mkdir()
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copy(ROOT / name, project)
    monkeypatch.chdir(project)
    assert told(fleet, "base")["sha256"] == sha(release(2))
    assert told(fleet, "base", "--bundle", str(put(tmp_path / "made", release(1))))["counter"] == 1
    described = json.loads((project / "data/base/release/base.json").read_text())
    assert described["bundle_sha256"] == sha(release(1))
    (tmp_path / "damaged.tar").write_bytes(release(3)[:-512])
    refused = run(fleet, "base", "--bundle", str(tmp_path / "damaged.tar"))
    assert refused.exit_code == 7
    assert "Nothing was put into data/base/release" in refused.output
