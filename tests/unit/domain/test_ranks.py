"""One manifest of several ranks, and each rank's own view of it."""

from __future__ import annotations

from typing import Any

import blake3
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.domain.manifest import Details, Manifest, RankDetails, Shard, TensorEntry
from holdfast.domain.manifest_file import (
    HEADER,
    MAGIC,
    RANKS_MAGIC,
    decode_manifest,
    decode_needs,
    decode_summary,
    encode_manifest,
)
from holdfast.domain.names import CheckpointId
from holdfast.domain.ranks import joined, of_rank, world_size
from holdfast.errors import DamagedError, FormatError, UnsupportedError
from manifests import CHUNK, manifest, summary


def tensor(content: int) -> TensorEntry:
    return TensorEntry("uint8", (4,), (Shard((0,), (4,), blake3.blake3(bytes([content])).digest()),))


def part(tensors: dict[str, int], training: Any = None, tree: Any = None, **given: Any) -> Manifest:
    details = Details(tree or ["dict", []], training, given, {"versions": {}})
    return Manifest(summary(), details, CHUNK, {name: tensor(content) for name, content in tensors.items()})


def packed(one: Manifest) -> tuple[bytes, bytes]:
    return msgspec.msgpack.encode(one.details), msgspec.msgpack.encode(dict(sorted(one.tensors.items())))


def test_what_is_equal_is_held_once() -> None:
    whole = joined([part({"model/w": 1, "model/b": 2}), part({"model/w": 1, "model/b": 3}, rank=1)])
    assert list(whole.tensors) == ["model/w", "model/b", "rank 1/model/b"]
    assert whole.ranks == (RankDetails(None, None, {"rank": 1}),)
    assert (whole.summary.tensors, whole.summary.size_bytes) == (3, 12)
    assert world_size(whole) == 2
    assert world_size(part({})) == 1


def test_details_are_compared_by_their_bits() -> None:
    whole = joined([part({}, training=0.0, x=1), part({}, training=-0.0, x=True)])
    again = decode_manifest(*reversed(encode_manifest(whole)))
    assert str(of_rank(again, 1).details.training) == "-0.0"
    assert of_rank(again, 1).details.given["x"] is True
    assert joined([part({}, float("nan")), part({}, float("nan"))]).ranks == (RankDetails(),)


NAMES = st.sampled_from(["w", "b", "optimizer/m", "rank", "rank x/w"])
PARTS = st.lists(
    st.builds(
        part,
        st.dictionaries(NAMES, st.integers(0, 2)),
        st.sampled_from([["dict", []], 0.0, -0.0, ["int", "0x1"]]),
        st.sampled_from([["dict", []], ["dict", [["a", 1]]]]),
        lr=st.sampled_from([1, True, 1.0]),
    ),
    min_size=2,
    max_size=5,
)


@given(PARTS)
def test_each_rank_gets_back_what_was_its_own(parts: list[Manifest]) -> None:
    whole = joined(parts)
    read = decode_manifest(*reversed(encode_manifest(whole)))
    assert encode_manifest(read) == encode_manifest(whole)
    for rank, one in enumerate(parts):
        mine = of_rank(read, rank)
        had = {name: mine.tensors[name] for name in one.tensors}
        assert packed(msgspec.structs.replace(mine, tensors=had)) == packed(one)
    assert decode_needs(*reversed(encode_manifest(whole))).digests == {
        digest for one in parts for digest in one.digests()
    }


def test_a_name_that_looks_like_another_ranks_is_refused() -> None:
    with pytest.raises(UnsupportedError, match=r"'rank 1/w'"):
        joined([part({"rank 1/w": 1}), part({"w": 2})])


def test_older_versions_are_told_that_it_is_newer() -> None:
    checkpoint, data = encode_manifest(joined([part({"w": 1}), part({"w": 2})]))
    assert data[:8] == RANKS_MAGIC
    assert data[7] > MAGIC[7]  # which every version refuses as newer
    assert decode_summary(data, checkpoint).tensors == 2
    newer = data[:7] + b"\x04" + data[8:]
    with pytest.raises(FormatError):
        decode_manifest(newer, named(checkpoint, newer))
    assert encode_manifest(manifest())[1][:8] == MAGIC


@pytest.mark.parametrize(("magic", "ranks"), [(MAGIC, True), (RANKS_MAGIC, False)])
def test_a_version_that_does_not_fit_is_damage(magic: bytes, ranks: bool) -> None:
    made = joined([part({"w": 1}), part({"w": 2})]) if ranks else part({"w": 1})
    checkpoint, data = encode_manifest(made)
    forged = magic + data[8:]
    with pytest.raises(DamagedError, match="does not fit its ranks"):
        decode_manifest(forged, named(checkpoint, forged))


def test_every_flipped_bit_is_damage() -> None:
    checkpoint, data = encode_manifest(joined([part({"w": 1}), part({"w": 2})]))
    for place in range(0, len(data), 5):
        flipped = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
        with pytest.raises(DamagedError):
            decode_manifest(flipped, checkpoint)


def named(checkpoint: CheckpointId, data: bytes) -> CheckpointId:
    assert len(data) > HEADER.size
    return msgspec.structs.replace(checkpoint, digest=blake3.blake3(data).hexdigest())
