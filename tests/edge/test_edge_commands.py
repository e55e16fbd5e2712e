"""Commands for a device's folder, each as a technician runs it."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from headland_edge.bundle import Bundle
from headland_edge.cli import main
from headland_edge.home import Home, Settings
from headland_edge.journal import Entry, Journal, advice_id
from headland_edge.messages import Message
from headland_edge.outbox import Outbox
from headland_edge.raw_records import RawRecords
from headland_edge.records import read_csv, write_csv
from headland_edge.ring import Ring
from headland_edge.slots import Slots
from headland_edge.uplink import unpack, write_ack

from tests.documents import ROOT, coded, rows_of
from tests.edge.small_bundle import constant_nets, lost, make_bundle, make_home, season


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp("release") / "release.tar", constant_nets(0.5), 7)


def command(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, Any, str]:
    """Exit code, what was printed, and what was complained about."""
    capsys.readouterr()
    code = main([str(word) for word in words])
    out, complaint = capsys.readouterr()
    return code, json.loads(out) if out else None, complaint


def test_init_makes_a_folder_and_later_changes_only_what_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = tmp_path / "device"
    told = ("--home", home, "--device-id", "north-7", "--crop", "wheat", "--url", "https://releases.example")
    assert command(capsys, "init", *told, "--set", "uplink.daily_bytes=5000")[0] == 0
    assert command(capsys, "init", "--home", home, "--set", "local.mqtt_host=10.0.0.2", "--json")[0] == 0
    settings = Home(home).settings()
    assert (settings.device_id, settings.crop, settings.updates.url) == ("north-7", "wheat", "https://releases.example")
    assert (settings.uplink.daily_bytes, settings.local.mqtt_host) == (5000, "10.0.0.2")


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--crop", "maize"], "device_id"),
        (["--device-id", "a", "--crop", "rice"], "crop"),
        (["--device-id", "a", "--crop", "maize", "--set", "uplink.speed=3"], "uplink.speed: unknown"),
        (["--device-id", "a", "--crop", "maize", "--set", "local.http_port=x"], "local.http_port"),
        (["--device-id", "a", "--crop", "maize", "--set", "nonsense"], "KEY=VALUE"),
        (["--device-id", "a", "--crop", "maize", "--set", "crop.of=1"], "crop"),
    ],
)
def test_init_refuses_settings_that_cannot_be_and_makes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], complaint: str
) -> None:
    code, _, said = command(capsys, "init", "--home", tmp_path / "device", *words)
    assert code == 1
    assert complaint in said
    assert not (tmp_path / "device").exists()


def test_a_root_that_is_none_is_7(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home = make_home(tmp_path / "device")
    (tmp_path / "root.json").write_text("{}")
    code, _, said = command(capsys, "init", "--home", home.root, "--root-releases", tmp_path / "root.json")
    assert code == 7
    assert "not a root of releases" in said


def test_a_first_release_by_hand_is_tried_here_and_a_second_one_is_not_taken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], release: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = make_home(tmp_path / "device")
    broken = tmp_path / "broken.tar"
    broken.write_bytes(release.path.read_bytes()[:-512])
    assert command(capsys, "init", "--home", home.root, "--bundle", broken)[0] == 7
    assert Slots(home.slots).running() is None
    _, done, _ = command(capsys, "init", "--home", home.root, "--bundle", release.path)
    assert done["installed"] == {"sha256": release.sha256, "counter": 7}
    assert not Slots(home.slots).on_trial
    other = make_bundle(tmp_path / "other.tar", constant_nets(0.4), 8)
    code, _, said = command(capsys, "init", "--home", home.root, "--bundle", other.path)
    assert code == 1
    assert "release 7 runs here already" in said
    assert command(capsys, "init", "--home", home.root, "--bundle", release.path)[0] == 0


def test_advise_and_verify_use_the_release_that_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], release: Bundle
) -> None:
    home = make_home(tmp_path / "device", release)
    write_csv(home.inbox / "north.csv", season("maize", 41))
    code, advice, _ = command(capsys, "advise", "--home", home.root, "--field", "north")
    assert (code, advice["bundle_sha256"], advice["irrigation_mm"]) == (0, release.sha256, 30.0)
    write_csv(home.inbox / "north.csv", lost(season("maize", 41), "depletion_frac", 20))
    assert command(capsys, "advise", "--home", home.root, "--field", "north")[0] == 3
    assert command(capsys, "verify", "--home", home.root)[1]["bundle_sha256"] == release.sha256
    assert command(capsys, "verify", "--home", tmp_path)[0] == 7


def test_status_tells_what_runs_without_a_service(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], release: Bundle
) -> None:
    home = make_home(tmp_path / "device", release)
    with Outbox(home.outbox) as outbox:
        outbox.put(Message("field-1", "event", 1.0, {"event": "damaged"})).result(10)
    code, found, _ = command(capsys, "status", "--home", home.root)
    assert code == 0
    assert found["release"] == {"sha256": release.sha256, "counter": 7, "slot": "a", "state": "confirmed"}
    assert (found["service"], found["outbox"]["waiting"]) == ("does not answer", 1)
    assert command(capsys, "status", "--home", tmp_path / "nowhere")[0] == 1


def test_trace_repeats_the_very_advice(tmp_path: Path, capsys: pytest.CaptureFixture[str], release: Bundle) -> None:
    home = make_home(tmp_path / "device", release)
    records = season("maize", 41, lai=np.nan)
    found = advice_id("north", release.sha256, records)
    told = {"bundle_sha256": release.sha256, "counter": 7, "git_commit": "0" * 40}
    with Journal(home.journal) as journal:
        journal.put(Entry(found, 1.0, "north", records.last_date, {"fallbacks": []}, told, records)).result(10)
    code, plain, _ = command(capsys, "trace", found[:7], "--home", home.root, "--records", tmp_path / "saw.csv")
    assert (code, plain["release"], plain["advice_id"]) == (0, told, found)
    assert np.array_equal(read_csv(tmp_path / "saw.csv").values, records.values, equal_nan=True)
    code, _, said = command(capsys, "trace", "0000", "--home", home.root)
    assert code == 1
    assert "no advice" in said


def test_a_stick_carries_messages_out_and_receipts_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], release: Bundle
) -> None:
    home, stick = make_home(tmp_path / "device", release), tmp_path / "stick"
    with Outbox(home.outbox) as outbox:
        for number in range(5):
            outbox.put(Message("field-1", "event", float(number), {"event": "damaged"})).result(10)
    assert command(capsys, "import", stick, "--home", home.root)[0] == 1
    assert command(capsys, "export", stick, "--home", home.root)[1]["messages"] == 5
    assert command(capsys, "export", stick, "--home", home.root)[1]["messages"] == 0
    (batch,) = (stick / "outgoing").iterdir()
    write_ack(stick, batch.name, [json.loads(line)["id"] for line in unpack(batch.name, batch.read_bytes())])
    assert command(capsys, "import", stick, "--home", home.root)[1] == {"receipts": 5, "update": None}
    assert command(capsys, "status", "--home", home.root)[1]["outbox"]["waiting"] == 0
    assert not list((stick / "acks").iterdir())


def test_raw_records_leave_only_where_policy_allows_and_only_allowed_columns(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import zstandard

    home, stick = make_home(tmp_path / "device"), tmp_path / "stick"
    assert command(capsys, "init", "--home", home.root, "--set", 'uplink.fields=["rain_mm"]')[0] == 0
    raw = RawRecords(Ring(home.ring, 1_000_000))
    raw.put("north", season("maize", 4))
    raw.close()
    assert command(capsys, "export", stick, "--home", home.root, "--raw")[1]["raw_records"] == 4
    (file,) = (stick / "raw").iterdir()
    lines = zstandard.ZstdDecompressor().decompress(file.read_bytes(), max_output_size=100_000).splitlines()
    assert [json.loads(line)["values"] for line in lines] == [{"rain_mm": 0.0}] * 4
    assert command(capsys, "init", "--home", home.root, "--set", "uplink.keep_raw=false")[0] == 0
    assert command(capsys, "export", stick, "--home", home.root, "--raw")[0] == 1


def test_update_without_a_source_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home = make_home(tmp_path / "device")
    code, outcome, _ = command(capsys, "update", "--home", home.root)
    assert (code, outcome["state"]) == (0, "no-wish")
    assert command(capsys, "update", "--home", home.root, "--stick", tmp_path / "none")[0] in (1, 7)
    assert command(capsys, "status", "--home", home.root)[1]["update"]["state"] in ("offline", "signature", "waiting")


def test_update_can_forgive_what_failed_here(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home = make_home(tmp_path / "device")
    Slots(home.slots).mark_bad("ab" * 32)
    assert command(capsys, "update", "--home", home.root)[0] == 0
    assert Slots(home.slots).bad == {"ab" * 32}
    assert command(capsys, "update", "--home", home.root, "--forgive")[0] == 0
    assert Slots(home.slots).bad == frozenset()


def test_the_service_loads_nothing_of_updates() -> None:
    modules = "headland_edge.cli, headland_edge.commands, headland_edge.service, headland_edge.local_mqtt"
    program = f"import sys\nimport {modules}\nprint(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert "headland_edge.release" in loaded
    assert not {"tuf", "securesystemslib", "cryptography", "paho", "onnxruntime", "ssl", "http"} & set(loaded)


def test_every_setting_is_explained_with_its_default() -> None:
    rows = [row for row in rows_of(ROOT / "docs" / "how-to" / "device.md") if len(row) == 3]
    told = {coded(row[0])[0]: row[1] for row in rows if coded(row[0])}
    settings = Settings("a", "maize")
    for group in ("updates", "uplink", "local"):
        for each in fields(getattr(settings, group)):
            default = {"": "none", "()": "all", "True": "true"}.get(str(each.default), str(each.default))
            assert told[f"{group}.{each.name}"] == default.removesuffix(".0"), each.name
