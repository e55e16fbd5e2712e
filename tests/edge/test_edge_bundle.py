from __future__ import annotations

import hashlib
import io
import random
import tarfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from headland_edge.bundle import (
    MANIFEST,
    MANIFEST_HASH,
    MAX_MEMBER_BYTES,
    MAX_TOTAL_BYTES,
    Bundle,
    BundleError,
    decode_bundle,
    encode_bundle,
    open_bundle,
    write_bundle,
)

from tests.edge.small_bundle import conv_net, npy, parts

Member = tuple[tarfile.TarInfo, bytes]


def repacked(bundle: Bundle, change: Callable[[list[Member]], list[Member]]) -> bytes:
    """The bundle's members as ``change`` leaves them, in a tar that is well-formed otherwise."""
    with tarfile.open(bundle.path) as archive:
        members = [(info, archive.extractfile(info).read()) for info in archive.getmembers()]  # type: ignore[union-attr]
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for info, content in change(members):
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def entry(name: str, content: bytes = b"", **attributes: Any) -> Member:
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(content), 0o644
    for key, value in attributes.items():
        setattr(info, key, value)
    return info, content


def leave_out(name: str, members: list[Member]) -> list[Member]:
    return [member for member in members if member[0].name != name]


def refused(data: bytes) -> str:
    with pytest.raises(BundleError) as caught:
        decode_bundle(data, Path("b.tar"))
    assert "b.tar" in str(caught.value)
    return str(caught.value)


def test_writing_is_deterministic(tmp_path: Path, bundle: Bundle) -> None:
    manifest, members = parts()
    sha256 = write_bundle(tmp_path / "a.tar", manifest, members)
    write_bundle(tmp_path / "b.tar", dict(reversed(manifest.items())), dict(reversed(members.items())))
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes() == bundle.path.read_bytes()
    assert sha256 == bundle.sha256 == hashlib.sha256(bundle.path.read_bytes()).hexdigest()


def test_a_bundle_opens_with_all_its_members(bundle: Bundle) -> None:
    manifest, members = parts()
    assert bundle.members == members
    assert bundle.model_bytes("yield") == conv_net(2)
    assert bundle.manifest.files == {name: hashlib.sha256(data).hexdigest() for name, data in members.items()}
    assert bundle.manifest.policy["wheat"].rule.to_dict() == manifest["policy"]["wheat"]["rule"]


def test_any_tar_program_can_read_it(bundle: Bundle) -> None:
    with tarfile.open(bundle.path) as archive:
        names = archive.getnames()
        assert archive.extractfile(MANIFEST).read().startswith(b"{")  # type: ignore[union-attr]
        assert {(info.mtime, info.uid, info.gid, info.uname, info.mode) for info in archive} == {(0, 0, 0, "", 0o644)}
    assert names == [*sorted(names[:-1]), MANIFEST_HASH]


def test_unpacking_and_packing_again_gives_the_same_bytes(bundle: Bundle) -> None:
    assert repacked(bundle, lambda members: members) == bundle.path.read_bytes()


def header_bytes(data: bytes) -> list[int]:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return [info.offset + k for info in archive for k in range(512)]


def test_a_flipped_bit_anywhere_is_refused(bundle: Bundle) -> None:
    data = bytearray(bundle.path.read_bytes())
    rng = random.Random(1)
    places = {*rng.sample(range(len(data)), 300), *header_bytes(bytes(data)), 0, len(data) - 1}
    taken = []
    for place in sorted(places):
        bit = 1 << rng.randrange(8)
        data[place] ^= bit
        try:
            decode_bundle(bytes(data), bundle.path)
        except BundleError:
            pass
        else:
            taken.append(place)
        data[place] ^= bit
    assert taken == []
    assert decode_bundle(bytes(data), bundle.path).sha256 == bundle.sha256


def test_a_flip_names_the_member(bundle: Bundle) -> None:
    data = bytearray(bundle.path.read_bytes())
    at = data.index(bundle.model_bytes("yield")) + 100
    data[at] ^= 1
    assert "member models/yield.onnx" in refused(bytes(data))
    data[at] ^= 1
    data[data.index(b'"counter"') + 12] ^= 1
    assert "member manifest.json" in refused(bytes(data))


@pytest.mark.parametrize("keep", [0, 1, 511, 512, 700, 5000, -10240, -1024, -513, -1])
def test_a_truncated_bundle_is_refused(bundle: Bundle, keep: int) -> None:
    refused(bundle.path.read_bytes()[:keep])


@pytest.mark.parametrize("tail", [b"\0", b"x", bytes(512), bytes(10240), b"x" * 10240])
def test_trailing_data_is_refused(bundle: Bundle, tail: bytes) -> None:
    assert "end of the archive" in refused(bundle.path.read_bytes() + tail)


@pytest.mark.parametrize(
    ("member", "named"),
    [
        (entry("../evil", b"x"), "safe relative name"),
        (entry("a/../../evil", b"x"), "safe relative name"),
        (entry("/etc/passwd", b"x"), "safe relative name"),
        (entry("a//b", b"x"), "safe relative name"),
        (entry("./a", b"x"), "safe relative name"),
        (entry("a b", b"x"), "safe relative name"),
        (entry("a\nb", b"x"), "safe relative name"),
        (entry("link", type=tarfile.SYMTYPE, linkname="/etc/passwd"), "not a regular file"),
        (entry("link", type=tarfile.LNKTYPE, linkname="manifest.json"), "not a regular file"),
        (entry("folder", type=tarfile.DIRTYPE), "safe relative name"),
        (entry("device", type=tarfile.CHRTYPE), "not a regular file"),
        (entry("pipe", type=tarfile.FIFOTYPE), "not a regular file"),
        (entry("MODEL_CARD.md", b"x"), "twice"),
        (entry("extra.txt", b"x"), "sorted"),
        (entry("owned", b"x", uid=1000), "not in the form"),
        (entry("dated", b"x", mtime=1), "not in the form"),
        (entry("program", b"x", mode=0o755), "not in the form"),
    ],
)
def test_a_malicious_member_is_refused(bundle: Bundle, member: Member, named: str) -> None:
    message = refused(repacked(bundle, lambda members: [*members, member]))
    assert named in message


def test_a_member_slipped_in_or_taken_out_is_refused(bundle: Bundle) -> None:
    extra = [entry("extra", b"x")]
    slipped = repacked(bundle, lambda members: sorted(members[:-1] + extra, key=lambda m: m[0].name) + members[-1:])
    assert "member extra: not in the manifest" in refused(slipped)
    taken = repacked(bundle, partial(leave_out, "mlbom.cdx.json"))
    assert "mlbom.cdx.json: in the manifest but not in the bundle" in refused(taken)
    for name in (MANIFEST, MANIFEST_HASH):
        without = repacked(bundle, partial(leave_out, name))
        assert f"member {name}: is missing" in refused(without)


def test_swapped_members_are_refused(bundle: Bundle) -> None:
    assert "sorted" in refused(repacked(bundle, lambda m: [m[1], m[0], *m[2:]]))


def test_a_member_that_claims_to_be_huge_is_refused_before_it_is_read() -> None:
    info = tarfile.TarInfo("models/bomb.onnx")
    info.size, info.mode = 8 * 1024**3 - 1, 0o644
    assert str(MAX_MEMBER_BYTES) in refused(info.tobuf(tarfile.USTAR_FORMAT) + bytes(1024))


def test_too_many_members_are_refused() -> None:
    block = b"".join(entry(f"m{k:03d}")[0].tobuf(tarfile.USTAR_FORMAT) for k in range(65))
    assert "at most 64" in refused(block + bytes(1024))


def test_a_huge_file_is_refused_unread(tmp_path: Path) -> None:
    with (tmp_path / "huge.tar").open("wb") as file:
        file.truncate(MAX_TOTAL_BYTES + 1)
    with pytest.raises(BundleError, match="not a bundle"):
        open_bundle(tmp_path / "huge.tar")


@pytest.mark.parametrize("data", [b"", b"not a tar", bytes(10240), b"\x1f\x8b" + bytes(600)])
def test_what_is_no_bundle_is_refused(data: bytes) -> None:
    refused(data)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere.tar", tmp_path):
        with pytest.raises(BundleError, match="cannot be read"):
            open_bundle(path)


@pytest.mark.parametrize("name", ["../x", "/x", "a b", "x" * 101, MANIFEST, MANIFEST_HASH, ""])
def test_the_writer_refuses_bad_names_and_writes_nothing(tmp_path: Path, name: str) -> None:
    manifest, members = parts()
    with pytest.raises(BundleError, match=name if name.isalpha() else "member|manifest"):
        write_bundle(tmp_path / "b.tar", manifest, {**members, name: b"x"})
    assert list(tmp_path.iterdir()) == []


def test_the_writer_keeps_the_good_bundle_when_the_new_one_is_bad(tmp_path: Path) -> None:
    manifest, members = parts()
    write_bundle(tmp_path / "b.tar", manifest, members)
    before = (tmp_path / "b.tar").read_bytes()
    with pytest.raises(BundleError, match=r"release\.counter"):
        write_bundle(tmp_path / "b.tar", {**manifest, "release": {"counter": -1, "as_of": 2009}}, members)
    with pytest.raises(BundleError, match=str(MAX_MEMBER_BYTES)):
        write_bundle(tmp_path / "b.tar", manifest, {**members, "big": bytes(MAX_MEMBER_BYTES + 1)})
    assert (tmp_path / "b.tar").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["b.tar"]


@pytest.mark.parametrize("change", ["version", "scale", "order"])
def test_a_bundle_for_other_features_is_refused(change: str) -> None:
    manifest, members = parts()
    if change == "version":
        manifest["features_version"] += 1
    elif change == "scale":
        manifest["inputs"][0] = {**manifest["inputs"][0], "scale": 99.0}
    else:
        manifest["inputs"].reverse()
    with pytest.raises(BundleError, match="features"):
        encode_bundle(manifest, members)


def test_golden_outputs_are_reproduced(bundle: Bundle) -> None:
    differences = bundle.verify_golden()
    assert set(differences) == {"irrigation", "nitrogen", "yield"}
    assert all(difference <= tolerance == 1e-4 for difference, tolerance in differences.values())


@pytest.mark.parametrize(
    ("member", "content", "named"),
    [
        ("golden/yield.outputs.npy", npy(np.full((3, 3), 0.9, np.float32)), "yield.onnx: golden outputs differ"),
        ("golden/yield.outputs.npy", npy(np.full((3, 3), np.nan, np.float32)), "yield.onnx: golden outputs differ"),
        ("golden/yield.outputs.npy", npy(np.zeros((3, 2), np.float32)), "do not fit"),
        ("golden/yield.outputs.npy", npy(np.zeros((3, 3))), "float32"),
        ("golden/yield.inputs.npy", b"\x93NUMPY garbage", "not an .npy file"),
        ("golden/yield.inputs.npy", npy(np.zeros((3, 1, 16), np.float32)), "do not fit"),
        ("models/yield.onnx", b"not onnx", "models/yield.onnx: does not load"),
    ],
)
def test_golden_outputs_that_do_not_match(tmp_path: Path, member: str, content: bytes, named: str) -> None:
    manifest, members = parts()
    write_bundle(tmp_path / "b.tar", manifest, {**members, member: content})
    bundle = open_bundle(tmp_path / "b.tar")
    with pytest.raises(BundleError) as caught:
        bundle.verify_golden()
    assert named in str(caught.value)
