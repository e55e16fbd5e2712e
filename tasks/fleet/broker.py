"""A mosquitto broker for a fleet: certificates, passwords and rights in one folder, and the command that runs it.

    <fleet>/broker/mosquitto.conf     written anew by each call
    <fleet>/broker/ca.pem, ca.key     a CA of its own, for tests and demos; in production bring your own
    <fleet>/broker/server.pem, .key   of the broker
    <fleet>/broker/passwords, acl     who may connect, and speak where
    <fleet>/broker/secrets/<name>     a password for each device and for the cloud, readable by the owner only
    <fleet>/broker/data/              sessions and what waits in them

A device may write below ``headland/up/<its id>/`` and read below ``headland/ack/<its id>/``, nothing else. The cloud's
name holds a character that no device's id can, so that no device is ever taken for it.
"""

from __future__ import annotations

import base64
import getpass
import hashlib
import ipaddress
import json
import os
import secrets
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from headland_edge.messages import DEVICE_ID
from headland_edge.mqtt_session import ACK, UP, Broker
from headland_edge.uplink import MAX_FILE_BYTES

from tasks.durable import write_bytes, write_json, write_text
from tasks.fleet.repository import FleetError

CLOUD = "_cloud"
AT_ONCE = 200
"""Most batches on their way to the cloud before it has to acknowledge some."""
_CA_DAYS, _SERVER_DAYS, _RENEW_DAYS = 3650, 825, 60
_PACKET_BYTES = MAX_FILE_BYTES + 65_536
_SAVE_S = 5
_QUEUED_BYTES = 512 * 1024 * 1024
# Mosquitto's own default; the passwords are random and as long as the hash, so that more rounds add nothing.
_ROUNDS = 101
_SALT_BYTES = 12


@dataclass(frozen=True)
class Address:
    """Where a broker is.

    Args:
        host: what devices and cloud connect to, the name in its certificate.
        port: that it listens on.
        bind: address of this machine that it listens on.
    """

    host: str = "127.0.0.1"
    port: int = 8883
    bind: str = "127.0.0.1"


@dataclass(frozen=True)
class BrokerFolder:
    """Paths below a fleet's ``broker`` folder."""

    root: Path

    @property
    def conf(self) -> Path:
        """What mosquitto is started with."""
        return self.root / "mosquitto.conf"

    @property
    def ca(self) -> Path:
        """What devices and cloud trust."""
        return self.root / "ca.pem"

    def secret(self, name: str) -> Path:
        """Password of a device, or of the cloud."""
        return self.root / "secrets" / name

    def names(self) -> list[str]:
        """Who has a password."""
        folder = self.root / "secrets"
        found = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
        return [name for name in found if name == CLOUD or DEVICE_ID.fullmatch(name)]

    def address(self) -> Address | None:
        """What ``init`` was told; None if there is no broker here."""
        try:
            told = json.loads((self.root / "address.json").read_text())
            return Address(str(told["host"]), int(told["port"]), str(told["bind"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def login(self, name: str = CLOUD) -> Broker:
        """How ``name`` connects. Raises FleetError if there is no broker here, or no such name."""
        address = self.address()
        if address is None:
            raise FleetError(f"{self.root}: no broker. Make one with: headland fleet broker init")
        if not self.secret(name).is_file():
            raise FleetError(f"{name} has no password here. Make it with: headland fleet broker init --device {name}")
        return Broker(address.host, address.port, self.ca, name, self.secret(name))


def broker_of(fleet: Path) -> BrokerFolder:
    """A fleet's broker."""
    return BrokerFolder((fleet / "broker").absolute())


def init(fleet: Path, devices: Sequence[str], address: Address | None = None) -> BrokerFolder:
    """Write a broker's folder, or bring it up to date; passwords, CA and sessions that are there stay.

    Args:
        fleet: its folder.
        devices: that may connect, besides those that may already.
        address: None for what it was told before, on loopback at first.

    Raises:
        FleetError: no device's id, or a CA that cannot be read.
    """
    for device in devices:
        if not DEVICE_ID.fullmatch(device):
            raise FleetError(f"{device!r}: a device's id is 1 to 63 lower-case letters, digits and hyphens")
    folder = broker_of(fleet)
    address = address or folder.address() or Address()
    (folder.root / "data").mkdir(parents=True, exist_ok=True)
    folder.root.chmod(0o700)
    for name in (CLOUD, *devices):
        if not folder.secret(name).exists():
            _write_private(folder.secret(name), secrets.token_urlsafe(48).encode() + b"\n")
    _certify(folder.root, address.host)
    hashed = "".join(f"{name}:{_hashed(folder.secret(name))}\n" for name in folder.names())
    _write_private(folder.root / "passwords", hashed.encode())
    _write_private(folder.root / "acl", _acl().encode())
    write_text(folder.conf, _conf(folder.root, address))
    write_json(folder.root / "address.json", asdict(address))
    return folder


def remove(fleet: Path, device: str) -> None:
    """Take a device's password away; the broker has to read its files again. Raises FleetError if it has none."""
    broker_of(fleet).login(device).password_file.unlink()
    init(fleet, ())


def command(folder: BrokerFolder) -> list[str]:
    """What runs the broker. Raises FleetError if mosquitto is not installed, or there is nothing to run."""
    program = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")
    if program is None:
        raise FleetError("mosquitto is not installed. On Debian: apt-get install mosquitto (2.0 or later)")
    folder.login()
    return [program, "-c", str(folder.conf)]


def run(fleet: Path) -> None:
    """Become the broker; it ends on SIGTERM, and reads passwords and rights again on SIGHUP. Raises FleetError."""
    words = command(broker_of(fleet))
    os.execv(words[0], words)


def _conf(root: Path, address: Address) -> str:
    lines: dict[str, object] = {
        "listener": f"{address.port} {address.bind}",
        "certfile": root / "server.pem",
        "keyfile": root / "server.key",
        "tls_version": "tlsv1.2",
        "allow_anonymous": "false",
        "password_file": root / "passwords",
        "acl_file": root / "acl",
        # Whoever connects under another's session name would get, and end, that session.
        "use_username_as_clientid": "true",
        "retain_available": "false",
        "max_packet_size": _PACKET_BYTES,
        "max_inflight_messages": AT_ONCE,
        "max_queued_messages": "0",
        "max_queued_bytes": _QUEUED_BYTES,
        "persistence": "true",
        "persistence_location": f"{root / 'data'}/",
        # Saving at every change writes all that waits each time, and still after the broker's receipt. What a crash
        # takes, at most so many seconds, devices send again: only the cloud's answer empties an outbox.
        "autosave_interval": _SAVE_S,
        "set_tcp_nodelay": "true",
        "sys_interval": "0",
        # Started by root it would become a user who cannot read this folder.
        "user": getpass.getuser(),
        "log_dest": "stderr",
    }
    logged = "".join(f"log_type {kind}\n" for kind in ("error", "warning", "notice"))
    return "".join(f"{key} {value}\n" for key, value in lines.items()) + logged


def _acl() -> str:
    return (
        f"pattern write {UP}/%u/+\npattern read {ACK}/%u/+\n\n"
        f"user {CLOUD}\ntopic read {UP}/+/+\ntopic write {ACK}/+/+\n"
    )


def _hashed(secret: Path) -> str:
    """As ``mosquitto_passwd`` writes it: PBKDF2 with SHA-512."""
    password = secret.read_bytes().splitlines()[0]
    salt = secrets.token_bytes(_SALT_BYTES)
    key = hashlib.pbkdf2_hmac("sha512", password, salt, _ROUNDS)
    return f"$7${_ROUNDS}${base64.b64encode(salt).decode()}${base64.b64encode(key).decode()}"


def _write_private(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.parent.chmod(0o700)
    write_bytes(path, data)
    path.chmod(0o600)


def _certify(root: Path, host: str) -> None:
    """A CA if there is none, and a certificate for ``host`` unless the one that is there still fits."""
    if not (root / "ca.key").exists():
        key = generate_private_key(SECP256R1())
        _write_private(root / "ca.key", _pem(key))
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Headland fleet CA, for tests and demos")])
        own = _certificate(name, key, name, key, _CA_DAYS, ca=True).sign(key, SHA256())
        write_bytes(root / "ca.pem", own.public_bytes(Encoding.PEM))
    if _fits(root / "server.pem", host):
        return
    try:
        authority = x509.load_pem_x509_certificate((root / "ca.pem").read_bytes())
        ca_key = load_pem_private_key((root / "ca.key").read_bytes(), None)
    except (OSError, ValueError, TypeError) as error:
        raise FleetError(f"{root}/ca.pem and ca.key: cannot be used ({error}). Remove both to make a new CA") from None
    if not isinstance(ca_key, EllipticCurvePrivateKey):
        raise FleetError(f"{root}/ca.key: not a key made here. Write server.pem and server.key with your own CA")
    key = generate_private_key(SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host[:64])])
    names = x509.SubjectAlternativeName([_general(each) for each in dict.fromkeys((host, "localhost", "127.0.0.1"))])
    builder = _certificate(subject, key, authority.subject, ca_key, _SERVER_DAYS, ca=False)
    usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
    made = builder.add_extension(names, critical=False).add_extension(usage, critical=False).sign(ca_key, SHA256())
    _write_private(root / "server.key", _pem(key))
    write_bytes(root / "server.pem", made.public_bytes(Encoding.PEM))


def _fits(path: Path, host: str) -> bool:
    try:
        found = x509.load_pem_x509_certificate(path.read_bytes())
        names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (OSError, ValueError, x509.ExtensionNotFound):
        return False
    lasts = found.not_valid_after_utc - datetime.now(UTC) > timedelta(days=_RENEW_DAYS)
    return lasts and _general(host) in names


def _certificate(
    subject: x509.Name,
    key: EllipticCurvePrivateKey,
    issuer: x509.Name,
    issuer_key: EllipticCurvePrivateKey,
    days: int,
    *,
    ca: bool,
) -> x509.CertificateBuilder:
    # From a day ago: the clock of a device may be behind.
    start = datetime.now(UTC) - timedelta(days=1)
    usage = x509.KeyUsage(not ca, False, False, False, False, ca, ca, False, False)
    return (
        x509.CertificateBuilder(issuer, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=0 if ca else None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
    )


def _general(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _pem(key: EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
