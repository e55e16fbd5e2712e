"""The service as a real process: fed through its inbox, asked over HTTP, killed and started again."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from headland_edge.bundle import Bundle
from headland_edge.cli import HOME
from headland_edge.home import Home, Local, UplinkSettings, make
from headland_edge.journal import find
from headland_edge.messages import Message, decode
from headland_edge.outbox import Outbox
from headland_edge.raw_records import read
from headland_edge.records import to_csv, write_csv
from headland_edge.release import told
from headland_edge.ring import Ring
from headland_edge.slots import Slots, slots_locked
from headland_edge.uplink import FolderUplink, unpack, write_ack

from tests.edge.small_bundle import constant_nets, free_port, lost, make_bundle, make_home, put_release, season
from tests.fleet.made import assign, gadget, make_fleet, release, sha

_PATIENCE_S = 60.0


@dataclass
class Running:
    """A device that runs."""

    home: Home
    process: subprocess.Popen[bytes]
    log: Path

    def ask(self, path: str) -> Any:
        port = self.home.settings().local.http_port
        with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return json.loads(answer.read())
        return None

    def wait(self, until: Callable[[], Any]) -> Any:
        deadline_s = time.monotonic() + _PATIENCE_S
        while not (found := until()):
            assert time.monotonic() < deadline_s, self.log.read_text()[-3000:]
            time.sleep(0.02)
        return found

    def advice(self, field: str = "north", date: str | None = None, **expected: Any) -> dict[str, Any]:
        """The answer for a field, once it is there and as expected."""

        def found() -> dict[str, Any] | None:
            said: dict[str, Any] | None = (self.ask("/advice") or {}).get(field)
            fits = said and (date is None or said["date"] == date)
            return said if said and fits and expected.items() <= said.items() else None

        answer: dict[str, Any] = self.wait(found)
        return answer

    def health(self, until: Callable[[dict[str, Any]], Any] = bool) -> dict[str, Any]:
        def found() -> dict[str, Any] | None:
            said: dict[str, Any] | None = self.ask("/health")
            return said if said and until(said) else None

        answer: dict[str, Any] = self.wait(found)
        return answer

    def tells(self, *expected: str) -> None:
        """Wait until the events in the outbox are these."""
        self.wait(lambda: events(self.home) == list(expected))

    def stop(self) -> int:
        self.process.terminate()
        return self.process.wait(_PATIENCE_S)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


def start(home: Home, *prelude: str) -> Running:
    """The service of a device; ``prelude`` is Python run before, in its process."""
    run = f"from headland_edge.cli import main; raise SystemExit(main(['run', '--home', {str(home.root)!r}]))"
    command = ["-c", "\n".join([*prelude, run])] if prelude else ["-m", "headland_edge", "run", "--home", home.root]
    log = home.root / "device.log"
    with log.open("ab") as out:
        process = subprocess.Popen([sys.executable, *command], stdin=subprocess.DEVNULL, stdout=out, stderr=out)
    return Running(home, process, log)


@contextmanager
def running(home: Home, *prelude: str) -> Iterator[Running]:
    device = start(home, *prelude)
    try:
        yield device
    finally:
        device.kill()


def sow(home: Home, mornings: int = 41, field: str = "north", crop: str = "maize") -> None:
    write_csv(home.inbox / f"{field}.csv", season(crop, mornings))


def messages(home: Home, kind: str) -> list[Message]:
    with Outbox(home.outbox) as outbox:
        return [message for message in outbox.pending() if message.kind == kind]


def events(home: Home) -> list[str]:
    return [message.body["event"] for message in messages(home, "event")]


@pytest.fixture(scope="module")
def releases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bundle]:
    """Two that work, and one whose nets do not run on the tenth morning."""
    folder = tmp_path_factory.mktemp("releases")
    return {
        "old": make_bundle(folder / "old.tar", constant_nets(0.5), 1),
        "new": make_bundle(folder / "new.tar", constant_nets(0.6), 2),
        "fails": make_bundle(folder / "fails.tar", constant_nets(0.7, fails_on_day=9), 3),
    }


def test_records_become_advice_journal_messages_and_raw_rows(tmp_path: Path, releases: dict[str, Bundle]) -> None:
    home = make_home(tmp_path / "device", releases["old"])
    sow(home, 41)
    sow(home, 33, "south-2", "wheat")
    with running(home) as device:
        said = device.advice("north", "2009-05-30", crop="maize", irrigation_mm=30.0)
        assert device.advice("south-2")["nitrogen_kg_ha"] == 35.0
        sow(home, 42)
        device.advice("north", "2009-05-31")
        health = device.health()
        assert (health["device_id"], health["advised"], health["refused"]) == ("field-1", 3, 0)
        assert health["release"]["state"] == "confirmed"
        assert health["release"]["sha256"] == said["bundle_sha256"] == releases["old"].sha256
        assert device.stop() == 0
    told_of = {(m.body["field"], m.body["date"]): m for m in messages(home, "advice")}
    assert set(told_of) == {("north", "2009-05-30"), ("north", "2009-05-31"), ("south-2", "2009-05-22")}
    assert told_of["north", "2009-05-30"].body["advice_id"] == said["advice_id"]
    found = find(home.journal, said["advice_id"][:8])
    assert found.release["git_commit"] == "0" * 40
    assert (found.records.n_mornings, found.field) == (41, "north")
    rows = [(row["field"], row["day"]) for row in read(Ring(home.ring, home.settings().uplink.ring_bytes))]
    assert sorted(rows) == [("north", day) for day in range(42)] + [("south-2", day) for day in range(33)]


def test_after_a_kill_everything_is_answered_again_and_nothing_stands_twice(
    tmp_path: Path, releases: dict[str, Bundle]
) -> None:
    home = make_home(tmp_path / "device", releases["old"])
    sow(home)
    ids = set()
    for _ in range(3):
        with running(home) as device:
            ids.add(device.advice("north", "2009-05-30")["advice_id"])
            device.wait(lambda: messages(home, "advice"))
            device.kill()
    assert len(ids) == len(messages(home, "advice")) == 1
    assert find(home.journal, ids.pop()).date.isoformat() == "2009-05-30"
    days = [row["day"] for row in read(Ring(home.ring, home.settings().uplink.ring_bytes))]
    assert sorted(days) == sorted(set(days))


def test_a_refusal_is_an_answer(tmp_path: Path, releases: dict[str, Bundle]) -> None:
    home = make_home(tmp_path / "device", releases["old"])
    write_csv(home.inbox / "north.csv", lost(season("maize", 41), "depletion_frac", 20))
    with running(home) as device:
        said = device.advice("north", "2009-05-30")
        assert "check the probe" in said["refused"]
        assert device.health()["refused"] == 1
        assert "check the probe" in device.wait(lambda: find_or_none(home, said["advice_id"])).advice["refused"]


def find_or_none(home: Home, advice_id: str) -> Any:
    with suppress(LookupError):
        return find(home.journal, advice_id)
    return None


def test_what_cannot_be_read_is_moved_away_with_its_reason_and_told(
    tmp_path: Path, releases: dict[str, Bundle]
) -> None:
    home = make_home(tmp_path / "device", releases["old"])
    (tmp_path / "secret").write_text("not for you")
    with running(home) as device:
        (home.inbox / "north.csv").write_text("crop,date\n")
        (home.inbox / "weighed.harvest.json").write_text("[]")
        (home.inbox / "Upper Case.csv").write_text("x")
        (home.inbox / "big.csv").write_bytes(bytes(3_000_000))
        (home.inbox / "link.csv").symlink_to(tmp_path / "secret")
        os.mkfifo(home.inbox / "pipe.csv")
        device.wait(lambda: len(list(home.rejected.glob("*.reason.txt"))) == 6)
        assert not list(home.inbox.iterdir())
        device.wait(lambda: events(home).count("rejected_input") == 6)
        sow(home)
        device.advice("north")
    assert "column 'sowing_date' is missing" in (home.rejected / "1-north.csv.reason.txt").read_text()
    assert (home.rejected / "1-big.csv").stat().st_size < 100_000
    assert not (home.rejected / "1-link.csv").exists()
    assert (tmp_path / "secret").read_text() == "not for you"


def test_without_a_release_it_stays_up_and_takes_over_the_first_one(
    tmp_path: Path, releases: dict[str, Bundle]
) -> None:
    home = make_home(tmp_path / "device")
    sow(home)
    with running(home) as device:
        assert "no release" in device.advice("north")["refused"]
        assert device.health()["release"] is None
        with slots_locked(home):
            put_release(home, releases["old"], on_trial=True)
        device.advice("north", irrigation_mm=30.0)
        assert device.health(lambda said: said["release"]["state"] == "confirmed")["release"]["counter"] == 1
        assert device.process.poll() is None
        device.tells("no_release", "installed", "confirmed")


def test_an_installed_release_is_started_by_itself_and_confirmed_after_its_probation(
    tmp_path: Path, releases: dict[str, Bundle]
) -> None:
    home = make_home(tmp_path / "device", releases["old"])
    with running(home) as device:
        sow(home, 1)
        device.advice("north", "2009-04-20")
        with slots_locked(home):
            put_release(home, releases["new"], on_trial=True)
        sow(home, 2)
        device.advice("north", "2009-04-21", bundle_sha256=releases["new"].sha256)
        assert device.health()["release"] == {
            "sha256": releases["new"].sha256, "counter": 2, "as_of": 2009, "state": "trial",
        }  # fmt: skip
        sow(home, 3)
        device.health(lambda said: said["release"]["state"] == "confirmed")
        device.tells("installed", "confirmed")
    assert Slots(home.slots).on_trial is False


def test_a_release_on_trial_that_fails_on_its_tenth_record_is_rolled_back_at_once(
    tmp_path: Path, releases: dict[str, Bundle]
) -> None:
    local = Local(http_port=free_port(), poll_s=0.05, probation_advices=12)
    home = make_home(tmp_path / "device", releases["old"], local=local)
    put_release(home, releases["fails"], on_trial=True)
    with running(home) as device:
        for mornings in range(7, 10):
            sow(home, mornings)
            device.advice(
                "north", season("maize", mornings).last_date.isoformat(), bundle_sha256=releases["fails"].sha256
            )
        sow(home, 10)
        said = device.advice("north", "2009-04-29")
        assert said["bundle_sha256"] == releases["old"].sha256
        health = device.health()
        assert health["release"]["counter"] == 1
        assert health["failed"]["sha256"] == releases["fails"].sha256
        assert health["failed"]["state"] == "rolled_back"
        assert "does not run" in health["failed"]["reason"]
        device.tells("installed", "rolled_back")
    assert releases["fails"].sha256 in Slots(home.slots).bad
    assert told(home)["failed"]["counter"] == 3
    with running(home) as device:
        assert device.health()["failed"]["state"] == "rolled_back"


def test_a_confirmed_release_that_fails_gives_way_to_the_one_before_and_stays_where_there_is_none(
    tmp_path: Path, releases: dict[str, Bundle]
) -> None:
    home = make_home(tmp_path / "device", releases["old"])
    put_release(home, releases["fails"])
    sow(home, 12, "other")
    with running(home) as device:
        device.advice("other", bundle_sha256=releases["fails"].sha256)
        sow(home, 10)
        device.advice("north", bundle_sha256=releases["old"].sha256)
        # What the failed release said elsewhere is replaced.
        device.advice("other", bundle_sha256=releases["old"].sha256)
    alone = make_home(tmp_path / "alone", releases["fails"])
    sow(alone, 10)
    sow(alone, 12, "other")
    with running(alone) as device:
        assert "release failed" in device.advice("north")["refused"]
        assert "refused" not in device.advice("other")
        assert device.process.poll() is None


_ABORTS = """
import os
from headland_edge.advisor import Advisor
advise = Advisor.advise
def crash(self, records, *more):
    if self._bundle.manifest.release.counter == 2 and records.n_mornings == 10:
        os.abort()
    return advise(self, records, *more)
Advisor.advise = crash
"""


@pytest.mark.slow
@pytest.mark.parametrize("on_trial", [True, False])
def test_a_release_that_takes_the_process_down_is_given_up(
    tmp_path: Path, releases: dict[str, Bundle], on_trial: bool
) -> None:
    home = make_home(tmp_path / "device", releases["old"])
    put_release(home, releases["new"], on_trial=on_trial)
    sow(home, 10)
    starts = 0
    for _ in range(5):
        with running(home, _ABORTS) as device:
            starts += 1
            device.wait(lambda: device.process.poll() is not None or (device.ask("/advice") or {}).get("north"))
            if device.process.poll() is None:
                assert device.advice("north")["bundle_sha256"] == releases["old"].sha256
                assert device.health()["failed"]["sha256"] == releases["new"].sha256
                device.wait(lambda: "rolled_back" in events(home))
                break
    assert starts == 4


@pytest.mark.slow
def test_kills_count_against_no_confirmed_release(tmp_path: Path, releases: dict[str, Bundle]) -> None:
    home = make_home(tmp_path / "device", releases["old"])
    put_release(home, releases["new"])
    sow(home)
    for _ in range(4):
        with running(home) as device:
            device.advice("north", bundle_sha256=releases["new"].sha256)


def test_a_damaged_bundle_gives_way_to_the_other_slot(tmp_path: Path, releases: dict[str, Bundle]) -> None:
    home = make_home(tmp_path / "device", releases["old"])
    put_release(home, releases["new"])
    running_now = Slots(home.slots).running()
    assert running_now is not None
    data = bytearray(running_now.path.read_bytes())
    data[5000] ^= 1
    running_now.path.write_bytes(data)
    sow(home)
    with running(home) as device:
        device.advice("north", bundle_sha256=releases["old"].sha256)
        device.tells("damaged")
        assert device.health()["failed"] is None


@pytest.mark.slow
@pytest.mark.parametrize("year", [1970, 2100])
def test_the_clock_does_not_matter_for_advice(tmp_path: Path, releases: dict[str, Bundle], year: int) -> None:
    home = make_home(tmp_path / "device", releases["old"])
    sow(home)
    with running(home) as device:
        right = device.advice("north")
        device.wait(lambda: messages(home, "advice"))
    now_s = (year - 1970) * 365.25 * 86400 + 5
    with running(home, f"import time\ntime.time = lambda: {now_s}") as device:
        assert device.advice("north") == right
        device.wait(lambda: any(m.time_s in (now_s, 4_102_444_800.0) for m in messages(home, "health")))
    assert len(messages(home, "advice")) == 1


def test_messages_leave_by_the_folder_and_go_when_the_cloud_has_them(
    tmp_path: Path, releases: dict[str, Bundle]
) -> None:
    stick = tmp_path / "stick"
    uplink = UplinkSettings(folder=str(stick), every_s=0.1)
    home = make_home(tmp_path / "device", releases["old"], uplink=uplink)
    sow(home)
    kinds: set[str] = set()
    ids: set[str] = set()
    with running(home) as device:
        device.advice("north")

        def received() -> bool:
            for path in (stick / "outgoing").glob("*.zst"):
                lines = [decode(line) for line in unpack(path.name, path.read_bytes())]
                write_ack(stick, path.name, [message.id for message in lines])
                kinds.update(message.kind for message in lines)
                ids.update(message.id for message in lines if message.kind == "advice")
            return {"advice", "health"} <= kinds

        device.wait(received)
        device.wait(lambda: not messages(home, "advice"))
        assert device.process.poll() is None
    assert len(ids) == 1


def test_a_day_offline_sends_each_message_once_and_no_more_than_the_days_bytes(
    tmp_path: Path, releases: dict[str, Bundle]
) -> None:
    uplink = UplinkSettings(every_s=0.05, daily_bytes=3000)
    home = make_home(tmp_path / "device", releases["old"], uplink=uplink)
    with running(home) as device:
        for mornings in range(1, 25):
            sow(home, mornings)
            device.advice("north", season("maize", mornings).last_date.isoformat())
    batches = list((home.root / "outgoing").glob("*.zst"))
    sent = [decode(line).id for path in batches for line in unpack(path.name, path.read_bytes())]
    assert sum(path.stat().st_size for path in batches) <= 3000
    assert len(sent) == len(set(sent)) > 0
    assert FolderUplink(home.root, "field-1").under_way() == frozenset(sent)


def test_a_look_for_an_update_is_a_child_and_its_release_is_taken_over(
    tmp_path: Path, releases: dict[str, Bundle]
) -> None:
    home = make_home(tmp_path / "device", releases["old"])
    home.settings_file.write_text(
        home.settings_file.read_text().replace(
            'folder = ""\ndaily_bytes = 20', f'folder = "{tmp_path}"\ndaily_bytes = 20'
        )
    )
    sow(home)
    with running(home) as device:
        device.advice("north")
        device.process.send_signal(1)  # SIGHUP: look now
        update = device.health(lambda said: said["update"])["update"]
        assert update["state"] in ("offline", "signature", "waiting")
        assert device.stop() == 0


@pytest.mark.slow
def test_from_an_empty_device_to_a_signed_release_and_the_next_one_while_it_runs(tmp_path: Path) -> None:
    """Real looks, each in its child process, at a repository that was really signed."""
    fleet = make_fleet(tmp_path / "fleet", time.time())
    home = gadget(tmp_path / "device", fleet, every_s=0.5).home
    quick = replace(home.settings(), local=Local(http_port=free_port(), poll_s=0.05))
    make(home.root, replace(quick, uplink=UplinkSettings(every_s=0.2)))
    sow(home)
    with running(home) as device:
        device.advice("north", bundle_sha256=sha(release(1)))
        device.tells("no_release", "installed", "confirmed")
        assign(fleet, release(2), time.time())
        device.advice("north", bundle_sha256=sha(release(2)))
        health = device.health(lambda said: said["release"]["state"] == "confirmed" and said["update"])
        assert health["release"]["counter"] == 2
        assert device.process.poll() is None
    assert len(list(home.slots.glob("[ab]/bundle.tar"))) == 2


def test_http_answers_get_of_two_paths_only(tmp_path: Path, releases: dict[str, Bundle]) -> None:
    home = make_home(tmp_path / "device", releases["old"])
    with running(home) as device:
        device.health()
        port = home.settings().local.http_port
        for path, method, status in (("/etc/passwd", "GET", 404), ("/advice", "POST", 405), ("/health?x", "GET", 200)):
            request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", method=method)
            try:
                found = urllib.request.urlopen(request, timeout=5).status
            except urllib.error.HTTPError as error:
                found = error.code
            assert found == status
        for nonsense in (
            b"",
            b"\r\n",
            b"\xff\xfe" * 9000,
            b"GET /advice\r\n\r\n",
            b"GET /a HTTP/1.1\r\n" + b"x: y\r\n" * 200,
        ):
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5) as client:
                client.sendall(nonsense)
                client.shutdown(socket.SHUT_WR)
                assert client.recv(100)[:12] in (b"HTTP/1.1 400", b"")
        assert device.health()


def test_it_tells_the_service_manager_that_it_is_up_alive_and_going(
    tmp_path: Path, releases: dict[str, Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    home = make_home(tmp_path / "device", releases["old"])
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(_PATIENCE_S)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        with running(home) as device:
            told = set()
            while told < {b"READY=1", b"WATCHDOG=1"}:
                told.add(manager.recv(100))
            device.process.terminate()
            while manager.recv(100) != b"STOPPING=1":
                pass
            assert device.process.wait(_PATIENCE_S) == 0


def test_the_unit_starts_the_service_and_waits_for_what_it_tells() -> None:
    text = (Path(__file__).parents[2] / "edge" / "headland-edge.service").read_text()
    lines = dict(line.split("=", 1) for line in text.splitlines() if "=" in line and not line.startswith("#"))
    words = lines["ExecStart"].split()
    assert (words[0].rpartition("/")[2], words[1:]) == ("headland-edge", ["run", "--home", str(HOME)])
    assert (lines["Type"], lines["Restart"], lines["StartLimitIntervalSec"]) == ("notify", "always", "0")
    assert int(lines["WatchdogSec"]) > 10 * Local().poll_s
    assert HOME.name == lines["StateDirectory"]


MOSQUITTO = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")


@pytest.mark.skipif(MOSQUITTO is None, reason="mosquitto is not installed: apt-get install mosquitto")
def test_records_come_and_advice_goes_over_the_local_broker_that_may_be_away(
    tmp_path: Path, releases: dict[str, Bundle]
) -> None:
    from paho.mqtt.client import Client
    from paho.mqtt.enums import CallbackAPIVersion

    port = free_port()
    local = Local(http_port=free_port(), poll_s=0.05, mqtt_host="127.0.0.1", mqtt_port=port)
    home = make_home(tmp_path / "device", releases["old"], local=local)
    sow(home)
    broker: list[subprocess.Popen[bytes]] = []
    heard: dict[str, Any] = {}
    client = Client(CallbackAPIVersion.VERSION2)
    client.on_message = lambda _client, _data, message: heard.update({message.topic: json.loads(message.payload)})
    with running(home) as device:
        device.advice("north")  # the broker is not there yet
        try:
            assert MOSQUITTO is not None
            broker.append(subprocess.Popen([MOSQUITTO, "-p", str(port)], stderr=subprocess.DEVNULL))
            device.wait(lambda: _connects(client, port))
            client.subscribe("headland/field-1/advice/+", 1)
            client.loop_start()
            device.wait(lambda: "headland/field-1/advice/north" in heard)
            client.publish("headland/field-1/records/UP", b"x", 1)
            client.publish("headland/field-1/records/north", b"x" * 300_000, 1)
            client.publish("headland/field-1/records/south", to_csv(season("wheat", 33)).encode(), 1)
            device.wait(lambda: "headland/field-1/advice/south" in heard)
            assert heard["headland/field-1/advice/south"]["nitrogen_kg_ha"] == 35.0
            assert heard["headland/field-1/advice/south"] == device.advice("south")
            assert sorted(path.name for path in home.inbox.iterdir()) == ["north.csv", "south.csv"]
        finally:
            client.disconnect()
            client.loop_stop()
            for each in broker:
                each.kill()
                each.wait()
        sow(home, 42)
        device.advice("north", "2009-05-31")


def _connects(client: Any, port: int) -> bool:
    with suppress(OSError):
        client.connect("127.0.0.1", port)
        return True
    return False


def test_settings_that_cannot_be_used_end_it_with_a_sentence(tmp_path: Path) -> None:
    home = make_home(tmp_path / "device")
    home.settings_file.write_text('device_id = "A"\n')
    with running(home) as device:
        assert device.process.wait(_PATIENCE_S) == 1
        assert "device_id" in device.log.read_text()
        assert "Traceback" not in device.log.read_text()
