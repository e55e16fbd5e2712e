from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
import zstandard
from headland_edge.home import SettingsError, UplinkSettings
from headland_edge.messages import Message, encode
from headland_edge.mqtt_session import ACK, UP, Session, parse_topic, topic_of
from headland_edge.mqtt_uplink import MqttUplink
from headland_edge.outbox import Outbox
from headland_edge.uplink import SUFFIX, UplinkError, pack
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt.client import MQTTMessage

from tasks.fleet.broker import CLOUD, Address, init, remove
from tasks.fleet.ingest import Ingested
from tasks.fleet.mqtt_ingest import consume, judge_message
from tasks.fleet.repository import FleetError
from tasks.fleet.store import Store
from tests.fleet.broker import RunningBroker, needs_mosquitto, running_broker
from tests.toy import python_environment

A, B = "field-1", "field-2"


def message(number: int, device: str = A, kind: str = "record") -> Message:
    return Message(device, kind, float(number), {"number": number})


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[RunningBroker]:
    with running_broker(tmp_path, (A, B)) as broker:
        known_cloud(broker)
        yield broker


def known_cloud(broker: RunningBroker) -> None:
    """The cloud's session exists from here on, as it does in a fleet that works."""
    session(broker, CLOUD, f"{UP}/+/+").close()


def session(broker: RunningBroker, name: str, topic: str) -> Session:
    opened = Session(broker.folder.login(name), topic)
    opened.open()
    return opened


@contextmanager
def consuming(fleet: Path) -> Iterator[list[Ingested]]:
    """The cloud's ingest in a thread; what it came to is in the list afterwards."""
    stop, found = threading.Event(), list[Ingested]()
    thread = threading.Thread(target=lambda: found.append(consume(fleet, stop)))
    thread.start()
    try:
        yield found
    finally:
        stop.set()
        thread.join(30)
    assert found, "the ingest ended with an error"


def wait_for(done: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 60
    while not done():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def hear(uplink: MqttUplink, count: int) -> None:
    """Wait until the uplink has told ``count`` ids."""
    heard: set[str] = set()

    def told() -> bool:
        heard.update(uplink.acknowledged())
        return len(heard) >= count

    wait_for(told)
    assert len(heard) == count


def kept(fleet: Path, kind: str = "record") -> list[int]:
    with Store(fleet / "store.db") as store:
        return sorted(each.body["number"] for each in store.messages(kind))


@needs_mosquitto
def test_from_the_outbox_into_the_store_the_outbox_is_empty_and_nothing_stays_open(broker: RunningBroker) -> None:
    files, threads = len(os.listdir("/proc/self/fd")), threading.active_count()  # noqa: PTH208  # a count is all
    with consuming(broker.fleet) as found, Outbox(broker.fleet / "outbox.db") as outbox, broker.uplink(A) as uplink:
        for number in range(20):
            outbox.put(message(number)).result(10)
        uplink.send(outbox.pending())
        outbox.delivered(uplink.acknowledged()).result(10)
        assert outbox.pending() == []
        assert uplink.acknowledged() == frozenset()
    assert (found[0].batches, found[0].new) == (1, 20)
    assert kept(broker.fleet) == list(range(20))
    assert (len(os.listdir("/proc/self/fd")), threading.active_count()) == (files, threads)  # noqa: PTH208  # as above


@needs_mosquitto
def test_a_device_that_was_offline_hears_of_the_answer(broker: RunningBroker) -> None:
    with broker.uplink(A, answer_s=0.0) as uplink:
        uplink.send([message(1)])
        assert uplink.acknowledged() == frozenset()
    with consuming(broker.fleet):
        wait_for(lambda: kept(broker.fleet) == [1])
    with broker.uplink(A) as uplink:
        assert uplink.acknowledged() == {message(1).id}


@needs_mosquitto
def test_what_is_sent_again_is_kept_once_and_answered_again(broker: RunningBroker) -> None:
    with consuming(broker.fleet) as found, broker.uplink(A) as uplink:
        for _ in range(3):
            uplink.send([message(1)])
            assert uplink.acknowledged() == {message(1).id}
    assert kept(broker.fleet) == [1]
    assert (found[0].new, found[0].repeated) == (1, 2)


@needs_mosquitto
def test_a_wrong_password_and_no_password_are_refused(broker: RunningBroker, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_text("wrong\n")
    settings = broker.settings(A, password_file=str(wrong))
    with MqttUplink(settings, A) as uplink, pytest.raises(PermissionError, match=f"does not take {A}"):
        uplink.send([message(1)])
    # A device's own password does not make it another device.
    with MqttUplink(broker.settings(A), B) as uplink, pytest.raises(PermissionError):
        uplink.send([message(1, B)])
    wrong.write_text("")
    with MqttUplink(settings, A) as uplink, pytest.raises(OSError, match="no password"):
        uplink.send([message(1)])
    login = replace(broker.folder.login(), password_file=broker.folder.secret(A))
    with pytest.raises(FleetError, match="Cannot listen"):
        consume(broker.fleet, threading.Event(), broker=login)


@needs_mosquitto
def test_a_broker_that_the_ca_did_not_sign_gets_nothing(broker: RunningBroker, tmp_path: Path) -> None:
    other = init(tmp_path / "other", ()).ca
    with (
        MqttUplink(broker.settings(A, ca_file=str(other)), A) as uplink,
        pytest.raises(ssl.SSLCertVerificationError),
    ):
        uplink.send([message(1)])
    with pytest.raises(FleetError, match="Cannot listen"):
        consume(broker.fleet, threading.Event(), broker=replace(broker.folder.login(), ca_file=other))
    # Signed by the right CA, but for another name.
    init(broker.fleet, (), replace(broker.address, bind="127.0.0.2"))
    broker.restart()
    with MqttUplink(broker.settings(A, host="127.0.0.2"), A) as uplink, pytest.raises(OSError, match=r"127\.0\.0\.2"):
        uplink.send([message(1)])


@needs_mosquitto
def test_nothing_listens_is_an_oserror_and_nobody_has_ever_listened_too(tmp_path: Path) -> None:
    with running_broker(tmp_path, (A,)) as broker:
        with broker.uplink(A) as uplink, pytest.raises(ConnectionError, match="nobody has ever listened"):
            uplink.send([message(1)])
        broker.kill()
        with broker.uplink(A, answer_s=0.0) as uplink:
            with pytest.raises(ConnectionRefusedError):
                uplink.send([message(1)])
            assert uplink.acknowledged() == frozenset()


def test_something_that_speaks_no_tls_or_hangs_up_is_an_oserror(tmp_path: Path) -> None:
    folder = init(tmp_path, (A,))
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            connection.close()

        thread = threading.Thread(target=answer)
        thread.start()
        settings = UplinkSettings(
            "mqtt",
            host="127.0.0.1",
            port=server.getsockname()[1],
            ca_file=str(folder.ca),
            password_file=str(folder.secret(A)),
        )
        with MqttUplink(settings, A) as uplink, pytest.raises(OSError, match=r"."):
            uplink.send([message(1)])
        thread.join()


def test_settings_that_mqtt_needs_are_named() -> None:
    with pytest.raises(SettingsError, match=r"uplink\.ca_file"):
        MqttUplink(UplinkSettings("mqtt", host="h", password_file="p"), A)


def arrived(listener: Session) -> bool:
    listener.turn(0.1)
    return bool(listener.arrived)


@needs_mosquitto
def test_a_device_speaks_and_hears_as_itself_only(broker: RunningBroker) -> None:
    name, data = pack([message(1, B)], B)
    for topic in (topic_of(UP, B, name), topic_of(ACK, A, name), topic_of(ACK, B, name)):
        device = session(broker, A, topic_of(ACK, A, "+"))
        with pytest.raises(PermissionError, match="ACL"):
            device.deliver(topic, data)
        device.close()
    # Mosquitto grants any subscription, and checks each message before it hands it on.
    spy = session(broker, A, "headland/#")
    own, own_data = pack([message(2)], A)
    with consuming(broker.fleet), broker.uplink(B) as other:
        other.send([message(3, B)])
        assert other.acknowledged() == {message(3, B).id}
        spy.deliver(topic_of(UP, A, own), own_data)
        wait_for(lambda: arrived(spy))
    assert [each.topic for each in spy.arrived] == [topic_of(ACK, A, own)]
    spy.close()
    assert kept(broker.fleet) == [2, 3]


@needs_mosquitto
def test_a_session_name_cannot_be_taken_by_another_device(broker: RunningBroker) -> None:
    with broker.uplink(A) as uplink, consuming(broker.fleet):
        uplink.send([message(1)])
        thief = Session(replace(broker.folder.login(B), username=B), topic_of(ACK, B, "+"))
        thief._made = lambda made=thief._made: _named(made(), A)  # type: ignore[method-assign,misc]  # the wrong name
        thief.open()
        assert uplink.acknowledged() == {message(1).id}
        assert not thief.arrived
        thief.close()


def _named(client: object, name: str) -> object:
    client._client_id = name.encode()  # type: ignore[attr-defined]  # paho has no public way to change it
    return client


def packed(lines: list[bytes], device: str = A) -> tuple[str, bytes]:
    text = b"".join(line + b"\n" for line in lines)
    return f"{device}-{hashlib.sha256(text).hexdigest()[:16]}{SUFFIX}", zstandard.compress(text)


@needs_mosquitto
def test_behind_a_broker_that_lets_everything_through_the_ingest_still_refuses(broker: RunningBroker) -> None:
    (broker.folder.root / "acl").write_text("pattern readwrite #\n")
    broker.restart()
    known_cloud(broker)
    good, other = encode(message(1)), encode(message(2, B))
    name, data = packed([good])
    bomb = zstandard.compress(bytes(50_000_000))
    hostile = session(broker, A, topic_of(ACK, A, "+"))
    with consuming(broker.fleet) as found:
        for topic, payload in (
            (topic_of(UP, A, name), data),
            (topic_of(UP, A, name), data),  # replayed
            (topic_of(UP, B, name), data),  # his batch on another's topic
            (topic_of(UP, B, packed([good], B)[0]), packed([good], B)[1]),  # his message in another's batch
            (topic_of(UP, A, name), b"no zstd"),
            (topic_of(UP, A, f"{A}-0123456789abcdef{SUFFIX}"), bomb),
            (topic_of(UP, A, "..%2f..%2fsecret"), data),
            (topic_of(UP, "..", name), data),
            (
                topic_of(UP, A, packed([other, good.replace(b"1", b"NaN")])[0]),
                packed([other, b"NaN", b'"' * 70_000])[1],
            ),
            (topic_of(UP, A, packed([other, b"NaN", b'"' * 70_000])[0]), packed([other, b"NaN", b'"' * 70_000])[1]),
        ):
            hostile.deliver(topic, payload)
        with broker.uplink(B) as uplink:
            uplink.send([message(3, B)])
            assert uplink.acknowledged() == {message(3, B).id}
        hostile.drain()
        assert topic_of(ACK, A, name) in {each.topic for each in hostile.arrived}
        hostile.close()
    assert kept(broker.fleet) == [1, 3]
    assert (found[0].new, found[0].repeated) == (2, 1)
    wanted = {"not-yours": 3, "damaged": 2, "oversized": 2, "name": 1, "topic": 1, "not-finite": 1}
    assert found[0].refused == wanted
    with Store(broker.fleet / "store.db") as store:
        assert store.counts()["refused"] == wanted
    told = [json.loads(file.read_text()) for file in (broker.fleet / "quarantine").iterdir()]
    assert sorted(each["code"] for each in told) == sorted(code for code, count in wanted.items() for _ in range(count))


@needs_mosquitto
def test_what_is_larger_than_the_broker_takes_does_not_leave(broker: RunningBroker) -> None:
    device = session(broker, A, topic_of(ACK, A, "+"))
    with pytest.raises(OSError, match="connection is lost"):
        device.deliver(topic_of(UP, A, packed([b"x"])[0]), random.Random(1).randbytes(6_000_000))
    with broker.uplink(A, answer_s=0.0) as uplink:
        uplink.send([message(1)])


@needs_mosquitto
def test_one_consumer_a_fleet_and_one_whose_session_was_taken_comes_back(broker: RunningBroker) -> None:
    with consuming(broker.fleet), broker.uplink(A, answer_s=0.0) as uplink:
        uplink.send([message(1)])
        hear(uplink, 1)
        with pytest.raises(FleetError, match="listens for this fleet already"):
            consume(broker.fleet, threading.Event())
        session(broker, CLOUD, f"{UP}/+/+").close()
        uplink.send([message(2)])
        hear(uplink, 1)


@needs_mosquitto
def test_kill_9_of_the_broker_between_sending_and_answering_loses_nothing(broker: RunningBroker) -> None:
    with broker.uplink(A, answer_s=0.0) as uplink:
        uplink.send([message(number) for number in range(5)])
        broker.restart()
        known_cloud(broker)
        with consuming(broker.fleet):
            uplink.send([message(number) for number in range(7)])
            hear(uplink, 7)
    assert kept(broker.fleet) == list(range(7))


KILLED = """
import os, signal, sys, threading
from pathlib import Path
from tasks.fleet import mqtt_ingest
fleet, where = Path(sys.argv[1]), sys.argv[2]
keep, answer = mqtt_ingest._keep, mqtt_ingest._answer
def end(*_): os.kill(os.getpid(), signal.SIGKILL)
if where == "before the commit": mqtt_ingest._keep = end
if where == "before the answer": mqtt_ingest._answer = end
if where == "after the answer": mqtt_ingest._answer = lambda *given: (answer(*given), end())
mqtt_ingest.consume(fleet, threading.Event())
"""


@needs_mosquitto
@pytest.mark.parametrize("where", ["before the commit", "before the answer", "after the answer"])
def test_kill_9_of_the_ingest_loses_and_doubles_nothing(broker: RunningBroker, where: str) -> None:
    with broker.uplink(A, answer_s=0.0) as uplink:
        uplink.send([message(number) for number in range(5)])
    command = [sys.executable, "-c", KILLED, str(broker.fleet), where]
    done = subprocess.run(command, env=python_environment(), capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert kept(broker.fleet) == ([] if where == "before the commit" else list(range(5)))
    with consuming(broker.fleet), broker.uplink(A, answer_s=20.0) as uplink:
        uplink.send([message(9)])
        hear(uplink, 6)
    assert kept(broker.fleet) == [*range(5), 9]


@needs_mosquitto
def test_a_store_that_cannot_be_written_acknowledges_nothing(broker: RunningBroker) -> None:
    from tasks.fleet.store import StoreError

    with broker.uplink(A, answer_s=0.0) as uplink:
        uplink.send([message(1)])
    (broker.fleet / "quarantine").write_text("a file where a folder must be")
    name, data = packed([b"bad"])
    device = session(broker, A, topic_of(ACK, A, "+"))
    device.deliver(topic_of(UP, A, name), data)
    device.close()
    with pytest.raises(StoreError, match="the broker has it still"):
        consume(broker.fleet, threading.Event())
    (broker.fleet / "quarantine").unlink()
    with consuming(broker.fleet) as found:
        wait_for(lambda: len(list((broker.fleet / "quarantine").glob("*.json"))) == 1)
    assert kept(broker.fleet) == [1]
    assert found[0].refused == {"malformed": 1}


names = st.from_regex(r"[a-z0-9][a-z0-9-]{0,62}", fullmatch=True)


@given(names, st.from_regex(r"[0-9a-f]{16}", fullmatch=True), st.sampled_from([UP, ACK]))
def test_a_topic_is_read_as_it_was_written(device: str, digits: str, way: str) -> None:
    name = f"{device}-{digits}{SUFFIX}"
    assert parse_topic(way, topic_of(way, device, name)) == (device, name)


pieces = st.sampled_from(
    [UP, ACK, "headland", "up", "/", "//", "+", "#", A, B, f"{A}-0123456789abcdef", SUFFIX, "..", "\0", "%u", " ", "A"]
)


@given(st.one_of(st.text(), st.lists(pieces).map("".join), st.lists(pieces).map("/".join)))
def test_any_other_topic_is_refused(topic: str) -> None:
    with suppress(UplinkError):
        device, name = parse_topic(UP, topic)
        assert topic == f"{UP}/{device}/{name}"
        assert name.startswith(f"{device}-")
        assert "/" not in device + name


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_a_message_with_anything_in_it_is_judged_not_raised(topic: bytes, payload: bytes) -> None:
    arrived = MQTTMessage(1, topic)
    arrived.payload = payload
    judged = judge_message(arrived)
    assert not judged.whole
    assert judged.refused[0].code in ("topic", "name", "not-yours")


def test_the_brokers_folder_is_kept_private_and_brought_up_to_date(tmp_path: Path) -> None:
    folder = init(tmp_path, (A,))
    before = {path: path.read_bytes() for path in (folder.ca, folder.secret(A), folder.secret(CLOUD))}
    server = (folder.root / "server.pem").read_bytes()
    init(tmp_path, (B,))
    assert folder.names() == [CLOUD, A, B]
    assert {path: path.read_bytes() for path in before} == before
    assert (folder.root / "server.pem").read_bytes() == server
    init(tmp_path, (), Address(host="broker.example.org", port=1234, bind="0.0.0.0"))
    assert (folder.root / "server.pem").read_bytes() != server
    assert folder.login(A).host == "broker.example.org"
    assert "listener 1234 0.0.0.0" in folder.conf.read_text()
    private = [
        *(folder.root / "secrets").iterdir(),
        *(folder.root / name for name in ("ca.key", "server.key", "passwords")),
    ]
    assert {path.stat().st_mode & 0o777 for path in private} == {0o600}
    assert folder.root.stat().st_mode & 0o777 == 0o700
    for name in ("../x", CLOUD, "A", "", "a\nb:c"):
        with pytest.raises(FleetError, match="device's id"):
            init(tmp_path, (name,))
    with pytest.raises(FleetError, match="no broker"):
        init(tmp_path / "other", ()).__class__(tmp_path / "nowhere").login()
    with pytest.raises(FleetError, match="no password"):
        folder.login("field-9")


@needs_mosquitto
def test_a_device_that_was_removed_is_refused_after_the_broker_read_its_files(broker: RunningBroker) -> None:
    remove(broker.fleet, B)
    assert broker.process is not None
    init(broker.fleet, (B,))
    fresh = broker.folder.login(B)
    with pytest.raises(PermissionError):
        Session(fresh, topic_of(ACK, B, "+")).open()  # a new password the broker has not read yet
    broker.process.send_signal(signal.SIGHUP)

    def let_in() -> bool:
        opened = Session(fresh, topic_of(ACK, B, "+"))
        with suppress(PermissionError):
            opened.open()
        was_open = opened.is_open
        opened.close()
        return was_open

    wait_for(let_in)
    with broker.uplink(A, answer_s=0.0) as uplink:
        uplink.send([message(1)])
