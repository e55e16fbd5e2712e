from __future__ import annotations

import hashlib
import json
import random
import struct
from typing import Any

import numpy as np
import pytest
import zstandard
from headland_edge.bundle import MAX_MEMBER_BYTES, encode_bundle
from headland_edge.patches import MAGIC, PatchError, apply_patch, make_patch

from tests.edge.small_bundle import parts


def bundle(weights: np.ndarray[Any, Any] | None = None, **members: bytes) -> bytes:
    manifest, own = parts()
    if weights is not None:
        own["models/weights.bin"] = weights.astype(np.int8).tobytes()
    return encode_bundle(manifest, {**own, **members})


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def weights(count: int = 400_000) -> np.ndarray[Any, Any]:
    return np.clip(np.round(np.random.default_rng(1).normal(0, 40, count)), -127, 127)


def patch_of(header: object, *payloads: bytes) -> bytes:
    packed = zstandard.ZstdCompressor().compress(json.dumps(header).encode())
    return b"".join([MAGIC, struct.pack(">I", len(packed)), packed, *payloads])


@pytest.mark.parametrize("moves", [[-3, -2, -1, 1, 2, 3], [-1, 0, 1]])
def test_a_fine_tuned_net_travels_in_a_third_of_its_bytes(moves: list[int]) -> None:
    rng = np.random.default_rng(2)
    old = weights()
    new = np.clip(old + rng.choice(moves, old.shape), -128, 127)
    before, after = bundle(old), bundle(new)
    patch = make_patch(before, after)
    whole = len(zstandard.ZstdCompressor(level=19).compress(after))
    assert whole > 0.8 * len(after), "the weights must be as incompressible as real ones for the ratio to say anything"
    assert len(patch) < 0.35 * len(after)
    assert apply_patch(before, patch, sha(after)) == after


def test_few_weights_changed_cost_little() -> None:
    rng = np.random.default_rng(3)
    old = weights()
    moved = np.where(rng.random(old.shape) < 0.1, rng.choice([-2, -1, 1, 2], old.shape), 0)
    before, after = bundle(old), bundle(np.clip(old + moved, -128, 127))
    assert len(make_patch(before, after)) < 0.12 * len(after)


def test_moved_text_uses_the_old_member_as_dictionary() -> None:
    noise = random.Random(4).randbytes(50_000)
    before = bundle(None, **{"card.bin": noise})
    after = bundle(None, **{"card.bin": b"a new first line" + noise})
    patch = make_patch(before, after)
    assert len(patch) < 3000
    assert apply_patch(before, patch, sha(after)) == after


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({"a.bin": b"x" * 900}, {}),
        ({}, {"a.bin": b"x" * 900}),
        ({"a.bin": b""}, {"a.bin": b"x"}),
        ({"a.bin": b"x"}, {"a.bin": b""}),
        ({"a.bin": b"same"}, {"a.bin": b"same"}),
        ({"a.bin": b"long" * 99}, {"a.bin": b"lo"}),
    ],
)
def test_members_that_come_go_grow_and_shrink(old: dict[str, bytes], new: dict[str, bytes]) -> None:
    before, after = bundle(None, **old), bundle(None, **new)
    patch = make_patch(before, after)
    assert patch == make_patch(before, after)
    assert apply_patch(before, patch, sha(after)) == after


def test_a_damaged_patch_never_gives_other_bytes() -> None:
    before, after = bundle(weights(3000)), bundle(weights(3000) // 2)
    patch = make_patch(before, after)
    chance = random.Random(5)
    for _ in range(150):
        at = chance.randrange(len(patch))
        damaged = patch[:at] + bytes([patch[at] ^ (1 << chance.randrange(8))]) + patch[at + 1 :]
        try:
            assert apply_patch(before, damaged, sha(after)) == after
        except PatchError:
            continue
    for cut in (0, 5, len(MAGIC) + 4, len(patch) // 2, len(patch) - 1):
        with pytest.raises(PatchError):
            apply_patch(before, patch[:cut], sha(after))
    with pytest.raises(PatchError):
        apply_patch(before, patch + b"x", sha(after))


def test_a_patch_between_other_bundles_is_refused() -> None:
    one, two, three = bundle(), bundle(None, x=b"2"), bundle(None, x=b"3")
    patch = make_patch(one, two)
    for old, wanted in ((two, two), (one, three)):
        with pytest.raises(PatchError, match="other bundles"):
            apply_patch(old, patch, sha(wanted))


BIG = MAX_MEMBER_BYTES


@pytest.mark.parametrize(
    ("rows", "payload"),
    [
        ([["a", "whole", BIG + 1, 0]], b""),
        ([[f"m{k}", "whole", 1, 0] for k in range(65)], b""),
        ([[f"m{k}", "whole", BIG, 0] for k in range(3)], b""),
        ([["a", "whole", -1, 0]], b""),
        ([["a", "whole", True, 0]], b""),
        ([["a", "whole", 1.0, 0]], b""),
        ([["a", "shell", 1, 0]], b""),
        ([["a", ["copy"], 1, 0]], b""),
        ([["MODEL_CARD.md", "copy", 9, 0], ["MODEL_CARD.md", "copy", 9, 0]], b""),
        ([["nowhere", "copy", 1, 0]], b""),
        ([["nowhere", "subtract", 1, 0]], b""),
        ([["../evil", "whole", 1, 10]], zstandard.ZstdCompressor().compress(b"x")),
        ([["a", "whole", 10, 9]], zstandard.ZstdCompressor().compress(b"")),
        ([], b""),
        ({}, b""),
        ([None], b""),
    ],
)
def test_a_hostile_patch_is_refused(rows: object, payload: bytes) -> None:
    old = bundle()
    with pytest.raises(PatchError):
        apply_patch(old, patch_of({"from": sha(old), "to": "0" * 64, "members": rows}, payload), "0" * 64)


@pytest.mark.parametrize("hidden", [True, False])
def test_a_bomb_is_refused_before_it_unpacks(hidden: bool) -> None:
    old = bundle()
    packer = zstandard.ZstdCompressor(level=3, write_content_size=not hidden)
    bomb = packer.compress(bytes(200_000_000))
    rows = [["a", "whole", 1000, len(bomb)]]
    with pytest.raises(PatchError, match="another size"):
        apply_patch(old, patch_of({"from": sha(old), "to": "0" * 64, "members": rows}, bomb), "0" * 64)


def test_a_header_bomb_is_refused() -> None:
    packed = zstandard.ZstdCompressor().compress(b" " * 100_000_000)
    with pytest.raises(PatchError):
        apply_patch(bundle(), MAGIC + struct.pack(">I", len(packed)) + packed, "0" * 64)
    with pytest.raises(PatchError, match="header too long"):
        apply_patch(bundle(), MAGIC + struct.pack(">I", 2**31) + packed, "0" * 64)
