"""The bundle: one deterministic tar that carries everything a device gets from the cloud.

A bundle has exactly one valid form: plain ustar, members sorted by name, times and owners zero, and last a
member ``manifest.sha256`` with the manifest's hash; the manifest holds the hashes of all others. Reading parses
the headers by hand, compares each with the one the writer would have made, and hashes every member, so that no
byte of the file can differ unnoticed. This guards against damage; who made the bundle is for signatures to say.
"""

from __future__ import annotations

import hashlib
import io
import re
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from headland_edge.durable import write_bytes
from headland_edge.features import FEATURES, FEATURES_VERSION
from headland_edge.manifest import Manifest, ManifestError, manifest_bytes, parse_manifest
from headland_edge.sketch import CropSketch, SketchError, parse_sketch

Float32Array = NDArray[np.float32]

MANIFEST = "manifest.json"
MANIFEST_HASH = "manifest.sha256"
MAX_MEMBERS = 64
MAX_MEMBER_BYTES = 32 * 1024 * 1024
MAX_TOTAL_BYTES = 64 * 1024 * 1024

_BLOCK = 512
_RECORD = 20 * _BLOCK
_NAME = re.compile(r"[A-Za-z0-9._/-]{1,100}")
_ADVICE = "fetch the bundle again"


class BundleError(ValueError):
    """A bundle is damaged, malicious or does not fit; the message names the member and what to do."""


@dataclass(frozen=True)
class Bundle:
    """An opened bundle, every byte of it verified."""

    path: Path
    sha256: str
    """Of the file."""
    manifest: Manifest
    members: dict[str, bytes]
    """By name, without the manifest and its hash."""

    def model_bytes(self, name: str) -> bytes:
        """The ONNX file of model ``name``; KeyError if the bundle has no such model."""
        return self.members[self.manifest.models[name].file]

    def array(self, member: str) -> Float32Array:
        """A float32 ``.npy`` member; raises BundleError if it is none."""
        try:
            array = np.load(io.BytesIO(self.members[member]), allow_pickle=False)
        except (ValueError, EOFError, OSError, MemoryError) as error:
            raise BundleError(f"{self.path}, member {member}: not an .npy file ({error})") from None
        if not isinstance(array, np.ndarray) or array.dtype != np.float32:
            raise BundleError(f"{self.path}, member {member}: must hold one float32 array")
        return array

    @cached_property
    def sketch(self) -> dict[str, CropSketch]:
        """Of the training data, by crop; empty in a bundle without one. Raises BundleError if it is none."""
        member = self.manifest.sketch
        if member is None:
            return {}
        try:
            return parse_sketch(self.members[member.file])
        except SketchError as error:
            raise BundleError(f"{self.path}, member {member.file}: {error}") from None

    def verify_golden(self) -> dict[str, tuple[float, float]]:
        """Run every model and every advantage net on its golden inputs on this machine.

        Returns:
            By model, and by crop as ``advantage/CROP``: the largest difference from the expected outputs and the
            tolerance, in scaled units or USD/ha.

        Raises:
            BundleError: a model does not load, or differs by more than its tolerance; names the member.
        """
        from headland_edge.golden import verify, verify_advantage

        found = {name: verify(self, name) for name in sorted(self.manifest.models)}
        nets = (crop for crop, policy in sorted(self.manifest.policy.items()) if policy.advantage)
        return found | {f"advantage/{crop}": verify_advantage(self, crop) for crop in nets}


def write_bundle(path: Path, manifest: Mapping[str, object], members: Mapping[str, bytes]) -> str:
    """Write a bundle, whole or not at all; the same content always gives the same bytes.

    Args:
        path: where to.
        manifest: plain form as in ``headland_edge.manifest``. ``files`` and every other ``sha256`` are filled in here.
        members: all other members by name.

    Returns:
        SHA-256 of the file.

    Raises:
        BundleError: a bad member name, a limit passed, or a manifest that does not fit its members.
    """
    data = encode_bundle(manifest, members)
    write_bytes(path, data)
    return hashlib.sha256(data).hexdigest()


def encode_bundle(manifest: Mapping[str, object], members: Mapping[str, bytes]) -> bytes:
    """The bytes of a bundle; see ``write_bundle``."""
    for reserved in (MANIFEST, MANIFEST_HASH):
        if reserved in members:
            raise BundleError(f"{reserved}: is written by the bundle itself; remove it from the members")
    text = manifest_bytes(_with_hashes(manifest, members))
    content = dict(sorted({**members, MANIFEST: bytes(text)}.items()))
    content[MANIFEST_HASH] = _hash_line(text)
    data = _encode_tar(content)
    decode_bundle(data, Path("new bundle"))
    return data


def open_bundle(path: Path) -> Bundle:
    """Read a bundle and verify all of it.

    Raises:
        BundleError: the file cannot be read, any byte is not as written, or the bundle is made for other
            features than this device derives.
    """
    try:
        if path.stat().st_size > MAX_TOTAL_BYTES:
            raise BundleError(f"{path}: larger than {MAX_TOTAL_BYTES} bytes, not a bundle")
        data = path.read_bytes()
    except OSError as error:
        raise BundleError(f"{path}: cannot be read ({error.strerror}); give the path of a bundle") from None
    return decode_bundle(data, path)


def decode_bundle(data: bytes, path: Path) -> Bundle:
    """Verify the bytes of a bundle; ``path`` stands in messages. See ``open_bundle``."""
    try:
        members = _decode_tar(data)
        manifest = _verified_manifest(members)
        _check_features(manifest)
    except ManifestError as error:
        raise BundleError(f"{path}, member {MANIFEST}: {error}") from None
    except BundleError as error:
        raise BundleError(f"{path}, {error}") from None
    bundle = Bundle(path, hashlib.sha256(data).hexdigest(), manifest, members)
    _ = bundle.sketch  # whoever opens a bundle may rely on all of it
    return bundle


def _with_hashes(manifest: Mapping[str, object], members: Mapping[str, bytes]) -> dict[str, object]:
    files = {name: hashlib.sha256(content).hexdigest() for name, content in members.items()}
    models = manifest.get("models")
    if not isinstance(models, Mapping):
        raise BundleError(f"{MANIFEST}: models must be an object")
    named = {
        name: {**model, "sha256": files.get(str(model.get("file")), "")} if isinstance(model, Mapping) else model
        for name, model in models.items()
    }
    whole = {**manifest, "models": named, "files": files}
    if isinstance(policies := manifest.get("policy"), Mapping):
        whole["policy"] = {crop: _with_net_hash(policy, files) for crop, policy in policies.items()}
    sketch = manifest.get("sketch")
    if isinstance(sketch, Mapping):
        whole["sketch"] = {**sketch, "sha256": files.get(str(sketch.get("file")), "")}
    return whole


def _with_net_hash(policy: object, files: Mapping[str, str]) -> object:
    net = policy.get("advantage") if isinstance(policy, Mapping) else None
    if not (isinstance(policy, Mapping) and isinstance(net, Mapping)):
        return policy
    return {**policy, "advantage": {**net, "sha256": files.get(str(net.get("file")), "")}}


def _verified_manifest(members: dict[str, bytes]) -> Manifest:
    """Take the manifest and its hash out of ``members`` and check all hashes."""
    for name in (MANIFEST, MANIFEST_HASH):
        if name not in members:
            raise BundleError(f"member {name}: is missing; this is not a headland bundle")
    text, told = members.pop(MANIFEST), members.pop(MANIFEST_HASH)
    if told != _hash_line(text):
        raise BundleError(f"member {MANIFEST}: its hash is not the one in {MANIFEST_HASH}; {_ADVICE}")
    manifest = parse_manifest(text)
    for name in sorted(manifest.files.keys() ^ members.keys()):
        where = "in the manifest but not in the bundle" if name in manifest.files else "not in the manifest"
        raise BundleError(f"member {name}: {where}; {_ADVICE}")
    for name, content in members.items():
        if hashlib.sha256(content).hexdigest() != manifest.files[name]:
            raise BundleError(f"member {name}: its hash is not the one in the manifest; {_ADVICE}")
    return manifest


def _check_features(manifest: Manifest) -> None:
    if manifest.features_version != FEATURES_VERSION:
        raise BundleError(
            f"member {MANIFEST}: made for features version {manifest.features_version}, this headland-edge derives "
            f"{FEATURES_VERSION}; install the release that fits"
        )
    ours = [(feature.name, feature.unit, feature.scale) for feature in FEATURES]
    theirs = [(channel.name, channel.unit, channel.scale) for channel in manifest.inputs]
    if ours != theirs:
        raise BundleError(f"member {MANIFEST}: inputs are not the features this headland-edge derives")


def _hash_line(text: bytes) -> bytes:
    return f"{hashlib.sha256(text).hexdigest()}  {MANIFEST}\n".encode()


def _header(name: str, size: int) -> bytes:
    """The one valid header block of a member."""
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o644
    return info.tobuf(tarfile.USTAR_FORMAT, "ascii", "strict")


def _check_name(name: str) -> None:
    parts = name.split("/")
    if not _NAME.fullmatch(name) or any(part in ("", ".", "..") for part in parts):
        raise BundleError(f"member {name!r}: not a safe relative name of letters, digits, '.', '_', '-' and '/'")


def _check_limits(name: str, count: int, size: int) -> None:
    if count > MAX_MEMBERS:
        raise BundleError(f"member {name}: a bundle holds at most {MAX_MEMBERS} members")
    if size > MAX_MEMBER_BYTES:
        raise BundleError(f"member {name}: {size} bytes, at most {MAX_MEMBER_BYTES} are allowed")


def _encode_tar(members: Mapping[str, bytes]) -> bytes:
    parts = []
    for count, (name, content) in enumerate(members.items(), start=1):
        _check_name(name)
        _check_limits(name, count, len(content))
        parts += [_header(name, len(content)), content, bytes(-len(content) % _BLOCK)]
    data = b"".join(parts) + bytes(2 * _BLOCK)
    data += bytes(-len(data) % _RECORD)
    if len(data) > MAX_TOTAL_BYTES:
        raise BundleError(f"bundle: {len(data)} bytes, at most {MAX_TOTAL_BYTES} are allowed")
    return data


def _decode_tar(data: bytes) -> dict[str, bytes]:
    """Members in the order of the file; refuses any byte the writer would not have written."""
    if len(data) > MAX_TOTAL_BYTES:
        raise BundleError(f"bundle: {len(data)} bytes, at most {MAX_TOTAL_BYTES} are allowed")
    members: dict[str, bytes] = {}
    end = 0
    for name, content, after in _walk(data):
        if name in members:
            raise BundleError(f"member {name}: stands twice")
        members[name], end = content, after
        _check_limits(name, len(members), len(content))
    expected = end + 2 * _BLOCK
    expected += -expected % _RECORD
    if len(data) != expected or any(data[end:]):
        raise BundleError(f"end of the archive: damaged, truncated or followed by other data; {_ADVICE}")
    order = [*sorted(members.keys() - {MANIFEST_HASH}), MANIFEST_HASH]
    if MANIFEST_HASH in members and list(members) != order:
        raise BundleError(f"order of the members: not sorted with {MANIFEST_HASH} last; {_ADVICE}")
    return members


def _walk(data: bytes) -> Iterator[tuple[str, bytes, int]]:
    """Yield name, content and end of each member until the first empty block."""
    at = 0
    while (block := data[at : at + _BLOCK]) and any(block):
        name, size = _parse_header(block, at)
        start, at = at + _BLOCK, at + _BLOCK + size + (-size % _BLOCK)
        if len(data) < at:
            raise BundleError(f"member {name}: the file ends inside it; {_ADVICE}")
        if any(data[start + size : at]):
            raise BundleError(f"member {name}: damaged after its content; {_ADVICE}")
        yield name, data[start : start + size], at


def _parse_header(block: bytes, at: int) -> tuple[str, int]:
    name = block[:100].rstrip(b"\0").decode("latin-1")
    _check_name(name)
    if block[156:157] != b"0":
        raise BundleError(f"member {name}: not a regular file; bundles hold no links, folders or extensions")
    digits = block[124:136].rstrip(b"\0 ")
    if not re.fullmatch(rb"[0-7]{1,11}", digits):
        raise BundleError(f"member {name}: damaged header at byte {at}; {_ADVICE}")
    size = int(digits, 8)
    _check_limits(name, 1, size)
    if block != _header(name, size):
        raise BundleError(f"member {name}: header at byte {at} is not in the form of a bundle; {_ADVICE}")
    return name, size
