"""A device's folder: where everything of it lies, and the settings a technician writes.

device.toml     settings
slots/          two releases and the pointer to the one that runs
updates/        pinned roots, signed metadata, downloads, the floor of time, the day's bytes
journal.db      advice given
outbox.db       what still has to be sent
ring/           raw records, bounded
inbox/          where sensors' files arrive; rejected/ keeps what could not be read
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from headland_edge.durable import write_bytes
from headland_edge.messages import DEVICE_ID

_CROPS = ("maize", "wheat")


class SettingsError(ValueError):
    """Settings that cannot be used; the message names file and key, and what to write."""


@dataclass(frozen=True)
class Updates:
    """Where releases come from: ``url`` or ``folder``, neither for none.

    Args:
        url: of the repository's folder on a static file server, https:// (http:// on loopback only).
        folder: of a repository on a stick or a shared drive.
        daily_bytes: at most as many are downloaded a day.
        every_s: seconds between two looks for an update.
    """

    url: str = ""
    folder: str = ""
    daily_bytes: int = 20_000_000
    every_s: float = 3600.0


@dataclass(frozen=True)
class UplinkSettings:
    """Where the field's data goes.

    Args:
        kind: ``folder``, ``mqtt`` or ``none``.
        folder: for ``folder``: a stick, a shared drive; empty: ``outgoing`` in the device's folder.
        host: of the MQTT broker.
        port: of the broker.
        ca_file: that signed the broker's certificate.
        password_file: this device's password.
        daily_bytes: at most as many are sent a day.
        every_s: seconds between two attempts.
        fields: columns of records that may leave the device; empty for all.
        record_share: share of a season's records, by bytes, that may be sent once it is over; 0 for none.
        random_share: share of records sent whatever they say, the honest control; at least 0.1.
        keep_raw: whether raw records stay on the device at all.
        ring_bytes: most that raw records take.
    """

    kind: str = "folder"
    folder: str = ""
    host: str = ""
    port: int = 8883
    ca_file: str = ""
    password_file: str = ""
    daily_bytes: int = 200_000
    every_s: float = 600.0
    fields: tuple[str, ...] = ()
    record_share: float = 0.1
    random_share: float = 0.1
    keep_raw: bool = True
    ring_bytes: int = 4_000_000


@dataclass(frozen=True)
class Local:
    """What neighbours on the device's own network get.

    Args:
        http_port: of the loopback endpoint; 0 for none.
        mqtt_host: broker of sensors and irrigation controller; empty for none.
        mqtt_port: of that broker.
        probation_advices: advices a new release gives before it is confirmed.
        poll_s: seconds between two looks into the inbox.
    """

    http_port: int = 8321
    mqtt_host: str = ""
    mqtt_port: int = 1883
    probation_advices: int = 3
    poll_s: float = 1.0


@dataclass(frozen=True)
class Settings:
    """All of ``device.toml``.

    Args:
        device_id: lower-case letters, digits and hyphens.
        crop: what grows on its field.
    """

    device_id: str
    crop: str
    updates: Updates = field(default_factory=Updates)
    uplink: UplinkSettings = field(default_factory=UplinkSettings)
    local: Local = field(default_factory=Local)


@dataclass(frozen=True)
class Home:
    """Paths below a device's folder."""

    root: Path

    @property
    def settings_file(self) -> Path:
        """What a technician edits."""
        return self.root / "device.toml"

    @property
    def slots(self) -> Path:
        """Two releases."""
        return self.root / "slots"

    @property
    def updates(self) -> Path:
        """Trust, downloads, budgets."""
        return self.root / "updates"

    @property
    def journal(self) -> Path:
        """Advice given."""
        return self.root / "journal.db"

    @property
    def outbox(self) -> Path:
        """What has to be sent."""
        return self.root / "outbox.db"

    @property
    def ring(self) -> Path:
        """Raw records."""
        return self.root / "ring"

    @property
    def inbox(self) -> Path:
        """Where sensors' files arrive."""
        return self.root / "inbox"

    @property
    def rejected(self) -> Path:
        """Files of sensors that could not be read."""
        return self.root / "rejected"

    def settings(self) -> Settings:
        """Read and check ``device.toml``. Raises SettingsError naming file and key."""
        path = self.settings_file
        try:
            plain = tomllib.loads(path.read_text())
        except OSError:
            raise SettingsError(f"{path}: cannot be read. Write it with device_id and crop at least") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise SettingsError(f"{path}: not TOML: {error}") from None
        try:
            return parse(plain)
        except SettingsError as error:
            raise SettingsError(f"{path}, {error}") from None


def parse(plain: dict[str, Any]) -> Settings:
    """Settings from their plain form. Raises SettingsError naming the key."""
    groups: dict[str, type[Any]] = {"updates": Updates, "uplink": UplinkSettings, "local": Local}
    made: dict[str, Any] = {}
    for name, value in plain.items():
        if name in groups:
            if not isinstance(value, dict):
                raise SettingsError(f"{name}: must be a table, [{name}]")
            made[name] = _group(groups[name], name, value)
        elif name in ("device_id", "crop"):
            made[name] = value
        else:
            raise SettingsError(f"{name}: unknown. Known are device_id, crop, {', '.join(groups)}")
    device_id, crop = made.get("device_id"), made.get("crop")
    if not isinstance(device_id, str) or not DEVICE_ID.fullmatch(device_id):
        raise SettingsError("device_id: give 1 to 63 lower-case letters, digits and hyphens")
    if crop not in _CROPS:
        raise SettingsError(f"crop: give one of {', '.join(_CROPS)}")
    settings = Settings(**made)
    if settings.uplink.kind not in ("folder", "mqtt", "none"):
        raise SettingsError("uplink.kind: give folder, mqtt or none")
    if not settings.uplink.record_share <= 1.0:
        raise SettingsError("uplink.record_share: give 0 to 1: a share of what all records would take")
    if not 0.1 <= settings.uplink.random_share <= 1.0:
        raise SettingsError("uplink.random_share: give 0.1 to 1: a tenth of what is sent is an honest control")
    return settings


def _group(kind: type[Any], name: str, plain: dict[str, Any]) -> Any:
    known = {each.name: each.default for each in fields(kind)}
    for key, value in plain.items():
        if key not in known:
            raise SettingsError(f"{name}.{key}: unknown. Known are {', '.join(known)}")
        default = known[key]
        fits = (
            isinstance(value, list) and all(isinstance(v, str) for v in value)
            if isinstance(default, tuple)
            else (type(value) is type(default) or (isinstance(default, float) and type(value) is int))
        )
        if not fits or (isinstance(value, int | float) and value < 0):
            raise SettingsError(f"{name}.{key}: {value!r} does not fit; the default is {default!r}")
    return kind(**{key: tuple(value) if isinstance(value, list) else value for key, value in plain.items()})


def to_toml(settings: Settings) -> str:
    """``device.toml`` with every key."""
    lines = [f'device_id = "{settings.device_id}"', f'crop = "{settings.crop}"']
    for name in ("updates", "uplink", "local"):
        group = getattr(settings, name)
        lines += ["", f"[{name}]", *(f"{each.name} = {_toml(getattr(group, each.name))}" for each in fields(group))]
    return "\n".join(lines) + "\n"


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return "[" + ", ".join(_toml(each) for each in value) + "]"
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return repr(value)


def make(root: Path, settings: Settings) -> Home:
    """Make a device's folder and its settings; one that is there keeps all its state."""
    home = Home(root)
    parse(tomllib.loads(to_toml(settings)))
    for folder in (home.slots, home.updates, home.ring, home.inbox, home.rejected):
        folder.mkdir(parents=True, exist_ok=True)
    write_bytes(home.settings_file, to_toml(settings).encode())
    return home
