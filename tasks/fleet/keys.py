"""Keys: who may say what exists, and who may say who runs it.

    releases-1, releases-2   offline; both must sign what may exist
    assignments              online; signs who runs what, nothing else
    recovery                 in a safe; stands in for one lost release key when roots change, signs nothing else

Roots of both families need two of releases-1, releases-2 and recovery, so that the online key can be replaced without
its owner, and one lost key does not lose the fleet. A private key is a PEM file, readable by its owner only, packed
with a passphrase if one is given (file or environment); it is never printed and never part of an error.

``rotate`` and ``revoke`` are repeatable: what a crash left half done is completed by the next call.
"""

from __future__ import annotations

import copy
import os
import stat
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from securesystemslib.signer import CryptoSigner  # type: ignore[attr-defined]
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Root, Snapshot, Targets, Timestamp  # type: ignore[attr-defined]

from tasks.fleet.repository import FleetError, Repository, dated, locked, new_root, repositories

RELEASES = ("releases-1", "releases-2")
ASSIGNMENTS = ("assignments",)
ROOT = (*RELEASES, "recovery")
NAMES = (*ROOT, *ASSIGNMENTS)
ROLE_KEYS = {"releases": RELEASES, "assignments": ASSIGNMENTS}
ROOT_THRESHOLD = 2
PASSPHRASE_ENV = "HEADLAND_KEY_PASSPHRASE"
PASSPHRASE_FILE_ENV = "HEADLAND_KEY_PASSPHRASE_FILE"
KEY_NAME_FIELD = "x-headland-key"
"""In a root beside each public key, so that a key whose file is lost is known by its name."""
_ROLES = (Targets.type, Snapshot.type, Timestamp.type)


@dataclass(frozen=True)
class Keyring:
    """Where the private keys lie.

    Args:
        folder: holds a folder for each key; a link where a key lies on a stick.
        passphrase: of all of them, or None; hidden from ``repr``.
    """

    folder: Path
    passphrase: Secret | None = None

    def file(self, name: str, part: str = "key.pem") -> Path:
        """Where a key lies."""
        if name not in NAMES:
            raise FleetError(f"no key {name!r}: there are {', '.join(NAMES)}")
        return self.folder / name / part

    def has(self, name: str) -> bool:
        """Whether the private key is at hand."""
        return self.file(name).is_file()

    def signer(self, name: str, part: str = "key.pem") -> CryptoSigner:
        """A key, ready to sign. Raises FleetError if it is missing, open to others, or the passphrase is wrong."""
        path = self.file(name, part)
        try:
            mode = path.stat().st_mode
            data = path.read_bytes()
        except OSError as error:
            raise FleetError(f"{path}: cannot be read ({error.strerror}); is the stick with the key in?") from None
        if stat.S_IMODE(mode) & 0o077:
            raise FleetError(f"{path}: others may read it; if nobody did: chmod 600 {path}, else revoke the key")
        try:
            key = load_pem_private_key(data, self.passphrase.value if self.passphrase else None)
        except (ValueError, TypeError):
            raise FleetError(
                f"{path}: cannot be opened; give its passphrase in {PASSPHRASE_ENV} or {PASSPHRASE_FILE_ENV}, "
                "none if it has none"
            ) from None
        if not isinstance(key, Ed25519PrivateKey):
            raise FleetError(f"{path}: must be an ed25519 key")
        return _signer(key, name)

    def signers(self, names: Sequence[str]) -> list[CryptoSigner]:
        """Several keys."""
        return [self.signer(name) for name in names]

    def generate(self, name: str, part: str = "key.pem") -> CryptoSigner:
        """Make a new key. Raises FleetError if there is one."""
        path = self.file(name, part)
        if path.exists():
            raise FleetError(f"{path}: is there already; rotate or revoke it instead")
        key = Ed25519PrivateKey.generate()
        packing: KeySerializationEncryption = NoEncryption()
        if self.passphrase:
            packing = BestAvailableEncryption(self.passphrase.value)
        _write_secret(path, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, packing))
        return _signer(key, name)


class Secret:
    """Bytes that never show in a message."""

    def __init__(self, value: bytes) -> None:
        self.value = value

    def __repr__(self) -> str:
        return "Secret(…)"


def _signer(key: Ed25519PrivateKey, name: str) -> CryptoSigner:
    signer = CryptoSigner(key)
    signer.public_key.unrecognized_fields[KEY_NAME_FIELD] = name
    return signer


def keyring(folder: Path, environment: Mapping[str, str] = os.environ) -> Keyring:
    """The keys below ``folder`` with the passphrase of the environment, if any."""
    if file := environment.get(PASSPHRASE_FILE_ENV):
        try:
            return Keyring(folder, Secret(Path(file).read_bytes().rstrip(b"\r\n")))
        except OSError as error:
            raise FleetError(f"{PASSPHRASE_FILE_ENV}={file}: cannot be read ({error.strerror})") from None
    text = environment.get(PASSPHRASE_ENV, "")
    return Keyring(folder, Secret(text.encode()) if text else None)


def create(fleet: Path, keys: Keyring, now_s: float | None = None) -> None:
    """Make all keys and empty, signed repositories; what is there already stays as it is."""
    now = time.time() if now_s is None else now_s
    with locked(fleet):
        _create(fleet, keys, now)


def _create(fleet: Path, keys: Keyring, now: float) -> None:
    for name in NAMES:
        if not keys.has(name):
            if any(repository.roots() for repository in repositories(fleet, "releases")):
                raise FleetError(f"{keys.file(name)}: is missing, and roots are out already; bring it, or revoke it")
            keys.generate(name)
    for family, role_keys in ROLE_KEYS.items():
        first = next(repositories(fleet, family))
        if not first.roots():
            role_signers = keys.signers(role_keys)
            root = new_root(family, keys.signers(ROOT), role_signers, (ROOT_THRESHOLD, len(role_keys)), now)
            first.write_root(_signed_root(root, keys.signers(ROOT)))
        for repository in repositories(fleet, family):
            _share_roots(first, repository)
            if repository.timestamp() is None:
                repository.commit({}, keys.signers(role_keys), now)


def rotate(fleet: Path, keys: Keyring, name: str, now_s: float | None = None) -> str:
    """Replace a key that is still good; the old one is kept beside it. Returns the new key's id."""
    return _replace(fleet, keys, name, time.time() if now_s is None else now_s, keep=True)


def revoke(fleet: Path, keys: Keyring, name: str, now_s: float | None = None) -> str:
    """Replace a key that was stolen or lost; if its file is there it is deleted. Returns the new key's id.

    Two of releases-1, releases-2 and recovery must be at hand.
    """
    return _replace(fleet, keys, name, time.time() if now_s is None else now_s, keep=False)


def _replace(fleet: Path, keys: Keyring, name: str, now_s: float, *, keep: bool) -> str:
    """New key aside; metadata signed by old and new; roots; metadata by new alone; the new key in its place.

    As long as the old key is at hand, devices find valid metadata whichever root they know.
    """
    keys.file(name)
    with locked(fleet):
        return _replaced(fleet, keys, name, now_s, keep=keep)


def _replaced(fleet: Path, keys: Keyring, name: str, now_s: float, *, keep: bool) -> str:
    pending = keys.file(name, "next.pem").exists()
    new = keys.signer(name, "next.pem") if pending else keys.generate(name, "next.pem")
    families = [family for family, role_keys in ROLE_KEYS.items() if name in (*ROOT, *role_keys)]
    for family in families:
        role_keys = ROLE_KEYS[family]
        if name in role_keys and all(keys.has(each) for each in role_keys):
            _sign_again(fleet, family, [*keys.signers(role_keys), new], now_s)
        _replace_in_root(fleet, family, keys, name, new, now_s)
        if name in role_keys:
            _sign_again(fleet, family, [new, *keys.signers([each for each in role_keys if each != name])], now_s)
    old = keys.file(name)
    if old.exists() and keep:
        old.replace(old.with_name(f"retired-{keys.signer(name).public_key.keyid[:12]}.pem"))
    keys.file(name, "next.pem").replace(old)
    return str(new.public_key.keyid)


def _replace_in_root(fleet: Path, family: str, keys: Keyring, name: str, new: CryptoSigner, now_s: float) -> None:
    """Write the next root of ``family`` unless a call before this one did."""
    first = next(repositories(fleet, family))
    published = first.root()
    if new.public_key.keyid not in published.signed.keys:
        root = copy.deepcopy(published.signed)
        roles = ([Root.type] if name in ROOT else []) + (list(_ROLES) if name in ROLE_KEYS[family] else [])
        for role in roles:
            for keyid in _ids_of(root, role, name):
                root.revoke_key(keyid, role)
            root.add_key(new.public_key, role)
        root.version += 1
        old_signers = [keys.signer(each) for each in ROOT if keys.has(each)]
        metadata = _signed_root(dated(root, family, now_s), [*old_signers, *([new] if name in ROOT else [])])
        _check_signed(published.signed, metadata)
        first.write_root(metadata)
    for repository in repositories(fleet, family):
        _share_roots(first, repository)


def _signed_root(root: Root, signers: Sequence[CryptoSigner]) -> Metadata[Root]:
    metadata = Metadata(root)
    for signer in signers:
        metadata.sign(signer, append=True)
    _check_signed(root, metadata)
    return metadata


def _check_signed(by: Root, metadata: Metadata[Root]) -> None:
    try:
        by.verify_delegate(Root.type, metadata.signed_bytes, metadata.signatures)
    except RepositoryError:
        raise FleetError(f"too few keys at hand: a root needs {ROOT_THRESHOLD} of {', '.join(ROOT)}") from None


def key_ids(root: Root, name: str) -> list[tuple[str, str]]:
    """Roles in which ``root`` knows the key called ``name``, each with the key's id."""
    return [(role, keyid) for role in (Root.type, *_ROLES) for keyid in _ids_of(root, role, name)]


def _ids_of(root: Root, role: str, name: str) -> list[str]:
    """Ids under which ``root`` knows the key called ``name`` in ``role``."""
    return [each for each in root.roles[role].keyids if root.keys[each].unrecognized_fields.get(KEY_NAME_FIELD) == name]


def _sign_again(fleet: Path, family: str, signers: Sequence[CryptoSigner], now_s: float) -> None:
    for repository in repositories(fleet, family):
        repository.commit(repository.targets(), signers, now_s)


def _share_roots(first: Repository, other: Repository) -> None:
    """A family's repositories stand below the same roots."""
    there = {path.name for path in other.roots()}
    for path in first.roots():
        if path.name not in there:
            other.write_root(Metadata[Root].from_file(str(path)))


def _write_secret(path: Path, data: bytes) -> None:
    """Readable by the owner from its first byte on; whole or absent."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
