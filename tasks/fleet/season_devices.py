"""The devices of a played fleet: real homes, real processes, and a network that can be taken away.

What devices know of the cloud is one folder, ``mast``: a link to the fleet's folder while there is a network, a link
to nowhere while there is none.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from headland_edge.home import Home, Local, Settings, UplinkSettings, make
from headland_edge.home import Updates as UpdateSettings
from headland_edge.trust import pin

from tasks.crops.interface import Crop
from tasks.fleet.folder import FleetFolder
from tasks.fleet.live import FleetError, LiveDevice, free_port
from tasks.fleet.repository import Repository

LOOK_EVERY_S, LOOK_OFFLINE_EVERY_S = 5.0, 3600.0
"""For updates: a look is a process of its own, and without a network a dozen of them are work for nothing."""
SYNC_EVERY_S = 2.0
_POLL_S = 0.02
_DEVICES_FOR_WHEAT = 3  # every so-manieth device stands in wheat


def crop_of(number: int) -> Crop:
    """What device ``number`` stands in."""
    return "wheat" if number % _DEVICES_FOR_WHEAT == _DEVICES_FOR_WHEAT - 1 else "maize"


def make_devices(folder: Path, fleet: FleetFolder, count: int, look_every_s: float = LOOK_EVERY_S) -> list[LiveDevice]:
    """Homes for ``count`` devices below ``folder``; those that are there keep all their state, on new ports."""
    devices = []
    for number in range(count):
        device_id = f"device-{number:02d}"
        home = Home(folder / device_id)
        settings = Settings(
            device_id,
            crop_of(number),
            UpdateSettings(folder=str(folder / "mast" / "repository"), every_s=look_every_s),
            UplinkSettings(folder=str(folder / "mast" / "uplink"), every_s=SYNC_EVERY_S),
            Local(http_port=free_port(), poll_s=_POLL_S),
        )
        if home.settings_file.exists():
            settings = replace(home.settings(), updates=settings.updates, local=settings.local)
        make(home.root, settings)
        for family in ("releases", "assignments"):
            if not (home.updates / family / "root.json").exists():
                pin(home.updates, family, Repository(fleet.root, family).roots()[0].read_bytes())
        devices.append(LiveDevice(home))
    return devices


@contextmanager
def network(folder: Path, fleet: FleetFolder) -> Iterator[None]:
    """There is a network inside the ``with``, and none after it."""
    _link(folder / "mast", fleet.root.resolve())
    try:
        yield
    finally:
        _link(folder / "mast", Path(os.devnull))


def _link(mast: Path, to: Path) -> None:
    aside = mast.with_name(f".{mast.name}")
    aside.unlink(missing_ok=True)
    mast.parent.mkdir(parents=True, exist_ok=True)
    aside.symlink_to(to)
    aside.replace(mast)


def wait_for_silence(devices: Sequence[LiveDevice], receive: Callable[[], object], timeout_s: float) -> None:
    """Let the cloud receive until no device has anything left to say.

    Raises:
        FleetError: some still have after ``timeout_s``, or do not answer; named.
    """
    until_s = time.monotonic() + timeout_s
    while True:
        receive()
        talking = [device for device in devices if _waiting(device)]
        if not talking:
            return
        if time.monotonic() > until_s:
            names = ", ".join(f"{device.device_id} ({device.log})" for device in talking[:3])
            raise FleetError(f"{len(talking)} devices still have something to say after {timeout_s:g} s: {names}")
        time.sleep(SYNC_EVERY_S / 2)


def _waiting(device: LiveDevice) -> bool:
    """Whether a device has messages that the cloud does not; one that does not answer may have."""
    said = device.ask("/health")
    return said is None or int(said["outbox"]["waiting"]) > 0
