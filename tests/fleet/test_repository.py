from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tasks.fleet.keys import RELEASES
from tasks.fleet.publish import bundle_name
from tasks.fleet.repository import LIFETIME_DAYS, File, FleetError, Repository, locked
from tests.fleet.made import DAY, NOW, copied_at_every_write, pinned, release, ring, see, sha, tree

pytestmark = pytest.mark.usefixtures("quick_disk")


@pytest.fixture
def fleet(signed_fleet: Path, tmp_path: Path) -> Path:
    return shutil.copytree(signed_fleet, tmp_path / "fleet")


def test_what_was_signed_is_what_a_device_sees(fleet: Path, tmp_path: Path) -> None:
    updates = pinned(tmp_path / "updates", fleet)
    for name in ("releases", "media"):
        signed = see(updates, fleet, name)
        target = signed.target(bundle_name(sha(release(2))))
        assert target is not None
        assert (fleet / "repository" / target.path).read_bytes() == release(2)
        assert target.custom == {"as_of": 2009, "counter": 2, "floor": 0}
        assert Repository(fleet, name).content(target.name) == release(2)
        assert sorted(Repository(fleet, name).targets()) == signed.names()


def test_too_few_signatures_write_nothing(fleet: Path) -> None:
    repository, before = Repository(fleet, "releases"), tree(fleet)
    for name in ("releases-1", "releases-2", "assignments", "recovery"):
        with pytest.raises(FleetError, match="not signed by enough"):
            repository.commit({}, [ring(fleet).signer(name)], NOW)
    with pytest.raises(FleetError, match="not signed by enough"):
        repository.commit({}, ring(fleet).signers(["releases-1", "recovery"]), NOW)
    assert tree(fleet) == before


def test_a_writer_killed_at_any_write_leaves_one_state_and_the_next_writer_completes(
    fleet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    signers = ring(fleet).signers(RELEASES)
    files = {"more/file.txt": File(b"more", {})}
    writes = ["tasks.fleet.repository.write_bytes"]
    with copied_at_every_write(monkeypatch, fleet, tmp_path / "copies", writes) as copies:
        repository = Repository(fleet, "releases")
        repository.commit({**repository.targets(), **repository.add_files(files)}, signers, NOW)
    assert len(copies) == 5
    seen = []
    for number, copy in enumerate(copies):
        updates = pinned(tmp_path / f"updates{number}", copy)
        seen.append("more/file.txt" in see(updates, copy, "releases").names())
        again = Repository(copy, "releases")
        again.commit({**again.targets(), **again.add_files(files)}, signers, NOW)
        assert "more/file.txt" in see(updates, copy, "releases").names()
    assert seen == [False] * 4 + [True]


def test_a_damaged_file_is_named(fleet: Path) -> None:
    repository = Repository(fleet, "releases")
    name = bundle_name(sha(release(1)))
    stored = next((fleet / "repository" / "releases" / "targets" / "bundles").glob(f"{sha(release(1))}.*"))
    stored.write_bytes(b"x")
    with pytest.raises(FleetError, match=r"damaged; publish it again"):
        repository.content(name)
    stored.unlink()
    with pytest.raises(FleetError, match="not there"):
        repository.content(name)
    (fleet / "repository" / "releases" / "metadata" / "timestamp.json").write_bytes(b"{")
    with pytest.raises(FleetError, match="backup"):
        repository.timestamp()


def test_without_a_root_the_command_that_makes_it_is_named(tmp_path: Path) -> None:
    with pytest.raises(FleetError, match="headland fleet init"):
        Repository(tmp_path, "releases").root()


def test_each_repository_has_its_own_life(fleet: Path) -> None:
    for name, days in LIFETIME_DAYS.items():
        assert Repository(fleet, name).days_left(NOW + DAY) == pytest.approx(days - 1)
    assert Repository(fleet / "none", "releases").days_left(NOW) == 0.0


def test_one_writer_at_a_time_and_a_killed_one_frees_the_lock(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from tasks.fleet.repository import locked\n"
        "with locked(Path(sys.argv[1])): print('held', flush=True); time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"held\n"
        done = threading.Event()

        def take() -> None:
            with locked(tmp_path):
                done.set()

        taker = threading.Thread(target=take)
        taker.start()
        with locked(tmp_path, dry_run=True):
            assert not done.wait(0.2)
        child.kill()
        taker.join(60)
    assert done.is_set()
