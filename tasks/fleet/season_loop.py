"""Seasons in a row: what a company does each year, with the commands it would type, and a fleet that really runs.

    params of the season ─► headland retrain ─► headland rollout ─► a season without network ─► headland sync ─► next

The parts of a season, each repeatable; ``flows/seasons.py`` puts them in order. Everything lies in one folder:
``project`` (a copy, each season a commit), ``devices`` (their homes) and ``history.json``, to which a season is added
once it is over. Stopped anywhere, the season under way is played again from its start: what was published, rolled out
and received stays as it is.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headland_edge.bundle import open_bundle
from headland_edge.durable import unsealed
from headland_edge.messages import encode
from headland_edge.trust import bundle_name, patch_name

from tasks.crops.farm import farm
from tasks.crops.interface import CROPS, Crop
from tasks.durable import write_json
from tasks.fleet.folder import FleetFolder
from tasks.fleet.ingest import ingest_folder
from tasks.fleet.live import LiveDevice, put_records, running
from tasks.fleet.repository import FleetError, Repository
from tasks.fleet.season_devices import LOOK_OFFLINE_EVERY_S, crop_of, make_devices, network, wait_for_silence
from tasks.fleet.season_play import Played, clear_fields, fleet_fields, home_site, play_season, season_params
from tasks.fleet.season_project import change_params, commit, make_project, set_season
from tasks.fleet.store import Store
from tasks.params import Params, load
from tasks.policies.growers import Nothing
from tasks.sources.daily import read_sites

Say = Callable[[str], None]
GATE_REFUSED, HALTED = 4, 6
_COMMISSIONING_MORNINGS = 30
SILENCE_S = 300.0
_ANSWER_S = 120.0
_CHOOSING_S = 300.0
# Waves follow on each other as fast as devices report; what a wave waits for in the field is a day, here seconds.
_AT_ONCE = {"rollout.soak_h": 0.0, "rollout.minimum_reports": 2, "rollout.wave_shares": [0.25, 1.0]}


class SeasonError(Exception):
    """A season cannot go on; the message names the command and its log."""


@dataclass(frozen=True)
class Play:
    """A play of seasons.

    Args:
        folder: where everything of it lies.
        devices: of the fleet; every third stands in wheat.
        fields_per_device: that each advises on.
        say: takes lines for people.
    """

    folder: Path
    devices: int
    fields_per_device: int
    say: Say

    @property
    def project(self) -> Path:
        """The copy of the project."""
        return self.folder / "project"

    @property
    def fleet(self) -> FleetFolder:
        """Its fleet."""
        return FleetFolder.of(self.project)

    def bundle(self, as_of: int) -> Path:
        """What a season's retrain makes."""
        return self.project / "data" / "bundle" / f"headland-{as_of}.tar"

    @property
    def history(self) -> list[dict[str, Any]]:
        """Seasons that are over, in order."""
        path = self.folder / "history.json"
        return list(json.loads(path.read_text())) if path.exists() else []

    def params(self) -> Params:
        """Of the season under way."""
        return load(self.project / "params.yaml")


def open_play(source: Path, play: Play, changes: dict[str, Any]) -> None:
    """Make what is not there yet: the project, its fleet's keys and repositories."""
    make_project(source, play.project, {**_AT_ONCE, **changes})
    if not play.fleet.keys.exists():
        command(play, "fleet", "init")


def retrain(play: Play, as_of: int) -> str:
    """Bring the project to season ``as_of``, learning on from the release before; returns the commit."""
    set_season(play.project, as_of)
    if play.history:
        command(play, "fleet", "base")
        change_params(play.project / "params.yaml", {"compression.from_base": True})
    made_from = commit(play.project, f"Season {as_of}")
    command(play, "retrain", "--until", "bundle")
    return made_from


def roll_out(play: Play) -> dict[str, Any]:
    """Judge, publish and bring the candidate to the devices, which run; what came of it."""
    done, said = command(play, "rollout", "--every-s", "1", "--json", may_end_with=(GATE_REFUSED, HALTED))
    if done == GATE_REFUSED:
        return {"status": "refused by the gate", "reason": said.strip()[-500:]}
    found = json.loads(said[said.index("{") :])
    return {
        "status": found["status"],
        "counter": found["counter"],
        "waves": found["waves"],
        "failures": found["failures"],
    }


def bring_to_devices(play: Play, as_of: int) -> dict[str, Any]:
    """Roll the season's release out to the devices, which have a network meanwhile; what came of it.

    Returns:
        What ``roll_out`` does, and ``running``: the release counter of each device afterwards, None without one.

    Raises:
        FleetError: devices still have something to say after ``SILENCE_S``.
    """
    devices = make_devices(play.folder / "devices", play.fleet, play.devices)
    with network(play.folder / "devices", play.fleet):
        commission(play, devices, as_of)
        with running(devices):
            rollout = roll_out(play)
            wait_for_silence(devices, lambda: receive(play), SILENCE_S)
            return {**rollout, "running": [_running_release(device) for device in devices]}


def farm_offline(play: Play, as_of: int) -> list[Played]:
    """Let the devices farm the season without a network, and choose what to send of it."""
    bundle = play.bundle(as_of)
    devices = make_devices(play.folder / "devices", play.fleet, play.devices, LOOK_OFFLINE_EVERY_S)
    with running(devices) as fleet:
        fleet.wait(lambda device: device.ask("/health"), _ANSWER_S, "answer")
        if all(_running_release(device) is None for device in devices):
            raise FleetError(f"no device has a release to farm {as_of} with; {play.folder}/log/rollout.txt says why")
        clear_fields(devices)
        played = _farm(play, devices, bundle)
        fleet.wait(lambda device: _has_chosen(device, played), _CHOOSING_S, "choose records of their season")
    for each in played:
        play.say(f"{each.crop} {each.season}: {each.fields} fields, {each.advised} mornings advised")
    return played


def bring_home(play: Play, as_of: int) -> dict[str, Any]:
    """Give the devices a network until all is said, and make a version of the field's data of it.

    Returns:
        ``messages``, ``bytes`` and ``events`` of this season, ``total`` of all so far, ``version`` and ``rows``;
        ``worth`` to the next season as ``tasks.fleet.season_worth`` measures it.

    Raises:
        FleetError: devices still have something to say after ``SILENCE_S``.
    """
    devices = make_devices(play.folder / "devices", play.fleet, play.devices)
    with network(play.folder / "devices", play.fleet), running(devices):
        wait_for_silence(devices, lambda: receive(play), SILENCE_S)
    said = command(play, "sync", "--json")[1]
    synced = json.loads(said[said.index("{") :])
    commit(play.project, f"Field data of season {as_of}")
    # Counted from the last season that is over: one that was stopped and is played again counts once.
    total = _counts(play)
    before = play.history[-1]["sync"]["total"] if play.history else {part: {} for part in total}
    worth = _worth(play, devices)
    return {
        **_since(before, total),
        "total": total,
        "version": synced["version"],
        "rows": synced["rows"],
        "worth": worth,
    }


def _worth(play: Play, devices: Sequence[LiveDevice]) -> dict[str, Any] | None:
    from tasks.fleet.season_worth import season_worth  # torch

    params = play.params()
    sites = read_sites(params, play.project / "data" / "weather")
    with Store(play.fleet.store) as store:
        return season_worth(play.project, params, sites, devices, list(store.messages("record")))


def _farm(play: Play, devices: Sequence[LiveDevice], bundle: Path) -> list[Played]:
    """Farm the season's fields of each crop, both crops at a time."""
    params = play.params()
    sites = read_sites(params, play.project / "data" / "weather")

    def one(crop: Crop) -> Played:
        mine = [device for device in devices if device.home.settings().crop == crop]
        return play_season(params, crop, mine, play.fields_per_device, sites[home_site(params, crop)], bundle)

    grown = [crop for crop in CROPS if any(device.home.settings().crop == crop for device in devices)]
    with ThreadPoolExecutor(len(grown)) as pool:
        return list(pool.map(one, grown))


def commission(play: Play, devices: Sequence[LiveDevice], as_of: int) -> None:
    """Give each device whose inbox is empty last year's mornings of a field, for a release on trial to answer for."""
    params = season_params(play.params(), as_of - 1)
    sites = read_sites(params, play.project / "data" / "weather")
    for number, device in enumerate(devices):
        if any(device.home.inbox.iterdir()):
            continue
        crop = crop_of(number)
        site = sites[home_site(params, crop)]
        (field,) = fleet_fields(params, crop, params.season_of(site.name), 1)
        weather = {site.name: site.season_weather(field.season)}
        log = farm((field,), weather, params.sensors, params.seed, Nothing())
        put_records(device, field, log.records[0, :_COMMISSIONING_MORNINGS])


def receive(play: Play) -> None:
    """What devices have sent, into the store."""
    with Store(play.fleet.store) as store:
        ingest_folder(play.fleet.uplink, store, play.fleet.quarantine, received_s=time.time())


def command(play: Play, *words: str, may_end_with: Sequence[int] = ()) -> tuple[int, str]:
    """Run ``headland`` in the project; returns exit code and standard output, lines for people go to ``say``.

    Raises:
        SeasonError: it ended with another code than 0 and those of ``may_end_with``.
    """
    play.say(f"headland {' '.join(words)}")
    log = play.folder / "log" / f"{words[0]}.txt"
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PREFECT_", "MLFLOW_"))}
    environment["PYTHONPATH"] = os.pathsep.join([str(play.project), str(play.project / "edge")])
    with log.open("ab") as errors:
        done = subprocess.run(
            [sys.executable, "-m", "tasks.cli", *words],
            cwd=play.project,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            check=False,
        )
        errors.write(done.stdout)
    if done.returncode not in (0, *may_end_with):
        tail = log.read_text(errors="replace").strip()[-800:]
        raise SeasonError(f"headland {' '.join(words)} ended with {done.returncode}; see {log}\n{tail}")
    return done.returncode, done.stdout.decode(errors="replace")


def add_to_history(
    play: Play, as_of: int, made_from: str, rollout: dict[str, Any], played: Sequence[Played], sync: dict[str, Any]
) -> None:
    """A season is over."""
    found = {
        "as_of": as_of,
        "commit": made_from,
        "release": release_of(play, as_of),
        "rollout": rollout,
        "played": [each.as_dict() for each in played],
        "sync": sync,
    }
    write_json(play.folder / "history.json", [*play.history, found])


def release_of(play: Play, as_of: int) -> dict[str, Any]:
    """What a season's retrain made: its size, and that of its patch from the latest release before, if there is one."""
    bundle = play.bundle(as_of)
    opened = open_bundle(bundle)
    signed = Repository(play.fleet.root, "releases").targets()
    earlier = [each["release"]["sha256"] for each in play.history]
    patches = [
        signed[patch_name(sha256, opened.sha256)].length
        for sha256 in earlier
        if patch_name(sha256, opened.sha256) in signed
    ]
    return {
        "sha256": opened.sha256,
        "counter": opened.manifest.release.counter,
        "published": bundle_name(opened.sha256) in signed,
        "bytes": bundle.stat().st_size,
        "patch_bytes": patches[-1] if patches else None,
    }


def _running_release(device: LiveDevice) -> int | None:
    """Counter of the release that a device says it runs."""
    release = (device.ask("/health") or {}).get("release") or {}
    counter = release.get("counter")
    return counter if isinstance(counter, int) else None


def _has_chosen(device: LiveDevice, played: Sequence[Played]) -> bool:
    """Whether a device has chosen what to send of the season that is over."""
    crop = device.home.settings().crop
    season = next(each.season for each in played if each.crop == crop)
    return f"{crop} {season}" in (unsealed(device.home.root / "selected.json") or {}).get("seasons", [])


def _counts(play: Play) -> dict[str, dict[str, int]]:
    """Messages and bytes in the store so far, by kind, and events by word."""
    if not play.fleet.store.exists():
        return {"messages": {}, "bytes": {}, "events": {}}
    messages: dict[str, int] = {}
    sizes: dict[str, int] = {}
    events: dict[str, int] = {}
    with Store(play.fleet.store) as store:
        for kind in ("health", "event", "advice", "record"):
            for message in store.messages(kind):
                messages[kind] = messages.get(kind, 0) + 1
                sizes[kind] = sizes.get(kind, 0) + len(encode(message))
                if kind == "event":
                    word = str(message.body.get("event"))
                    events[word] = events.get(word, 0) + 1
    return {"messages": messages, "bytes": sizes, "events": events}


def _since(before: dict[str, dict[str, int]], after: dict[str, dict[str, int]]) -> dict[str, dict[str, int]]:
    """What was added, part by part."""
    return {
        part: {name: count - before[part].get(name, 0) for name, count in counts.items()}
        for part, counts in after.items()
    }
