"""A fleet's folder in the cloud: where everything of it lies.

repository/     signed metadata, bundles, patches: static files for devices
keys/           private keys, or links to where they lie
store.db        what devices have said
uplink/         batches as devices write them, and the receipts
quarantine/     what was refused on the way in, with its reason
quarantine-records/   records that came in and cannot be true
rollout.json    where the rollout stands: a copy, for people and programs; what counts is signed with the assignments
devices.json    names of the fleet's devices, a JSON list; without it every device is taken for one of the fleet
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from headland_edge.messages import DEVICE_ID

from tasks.fleet.repository import FleetError
from tasks.running import STATE_DIR


@dataclass(frozen=True)
class FleetFolder:
    """Paths below a fleet's folder."""

    root: Path

    @classmethod
    def of(cls, project: Path) -> FleetFolder:
        """The one a project has if no other is named."""
        return cls(project / STATE_DIR / "fleet")

    @property
    def keys(self) -> Path:
        """Private keys."""
        return self.root / "keys"

    @property
    def store(self) -> Path:
        """Messages."""
        return self.root / "store.db"

    @property
    def uplink(self) -> Path:
        """Batches and receipts."""
        return self.root / "uplink"

    @property
    def quarantine(self) -> Path:
        """What was refused."""
        return self.root / "quarantine"

    @property
    def refused_records(self) -> Path:
        """Records that cannot be true."""
        return self.root / "quarantine-records"

    @property
    def rollout(self) -> Path:
        """Copy of the rollout's state."""
        return self.root / "rollout.json"

    @property
    def devices(self) -> Path:
        """Names of the devices."""
        return self.root / "devices.json"

    def enrolled(self) -> frozenset[str] | None:
        """Names in ``devices.json``; None if there is none. Raises FleetError if it cannot be read."""
        try:
            names = json.loads(self.devices.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise FleetError(f"{self.devices}: {error}. Write a JSON list of device names") from None
        if not isinstance(names, list) or not all(isinstance(n, str) and DEVICE_ID.fullmatch(n) for n in names):
            raise FleetError(f"{self.devices}: must be a JSON list of names of lower-case letters, digits and hyphens")
        return frozenset(names)
