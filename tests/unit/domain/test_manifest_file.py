from __future__ import annotations

import tracemalloc
from typing import Any

import blake3
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.domain.compressed import compress, zstd
from holdfast.domain.manifest import Details, Manifest, Shard, TensorEntry
from holdfast.domain.manifest_body import FREE_BYTES, MOST_RATIO
from holdfast.domain.manifest_file import (
    HEADER,
    MAGIC,
    decode_manifest,
    decode_needs,
    decode_summary,
    encode_manifest,
    summary_bytes,
)
from holdfast.domain.names import CheckpointId
from holdfast.errors import DamagedError, FormatError
from manifests import ATTEMPT, CHUNK, DETAILS, entry, manifest, sealed, sealed_first

TRANSFORMER = ("attn.q", "attn.k", "attn.v", "attn.o", "mlp.up", "mlp.down", "norm1", "norm2")


def transformer(tensors: int) -> Manifest:
    """Weights and Adam's moments, named and referred to as a capture does."""
    names = [
        f"{group}/h.{n // 8}.{TRANSFORMER[n % 8]}.weight"
        for group in ("model", "optimizer/exp_avg", "optimizer/exp_avg_sq")
        for n in range(tensors // 3)
    ]
    digests = {name: blake3.blake3(name.encode()).digest() for name in names}
    shapes = {name: (64, 8 * (n % 8 + 1)) for n, name in enumerate(names)}
    entries = {
        name: TensorEntry("float32", shapes[name], (Shard((0, 0), shapes[name], digests[name]),))
        for name in names
    }
    tree = ["dict", [[name.partition("/")[2], ["tensor", name, "torch", "cpu"]] for name in names]]
    return Manifest(manifest().summary, Details(tree, None, {}, {}), 1 << 20, entries)


def test_what_is_encoded_comes_back() -> None:
    made = manifest(
        a=entry(3 * CHUNK + 1), b=entry(0), c=TensorEntry("float32", (), (Shard((), (), b"x" * 32),))
    )
    checkpoint, data = encode_manifest(made)
    assert (checkpoint.step, checkpoint.attempt) == (500, ATTEMPT)
    assert (checkpoint.sequence, checkpoint.kind) == (2, "full")
    read = decode_manifest(data, checkpoint)
    assert read.tensors == made.tensors
    assert list(read.tensors) == ["a", "b", "c"]
    assert msgspec.msgpack.encode(read) == msgspec.msgpack.encode(made)
    assert encode_manifest(read) == (checkpoint, data)
    assert len(read.digests()) == 4 + 1  # those of b and of equal chunks once
    assert str(read.specs()["c"]) == "float32[]"


def test_a_divided_tensor_comes_back() -> None:
    shards = (Shard((0, 0), (2, 3), b"a" * 32), Shard((2, 0), (CHUNK, 3), b"bcd" * 32))
    made = manifest(a=TensorEntry("uint8", (CHUNK + 2, 3), shards), b=TensorEntry("uint8", (5,), ()))
    read = decode_manifest(*reversed(encode_manifest(made)))
    assert read.tensors == made.tensors


def test_a_tensor_costs_at_most_eighty_bytes() -> None:
    _, data = encode_manifest(transformer(1002))
    assert len(data) / 1002 <= 80
    _, data = encode_manifest(transformer(102))
    assert len(data) / 102 <= 80


def test_what_is_needed_is_what_the_whole_manifest_says() -> None:
    made = manifest(a=entry(3 * CHUNK + 1), b=entry(0), c=entry(7))
    checkpoint, data = encode_manifest(made)
    needs = decode_needs(data, checkpoint)
    assert needs.digests == decode_manifest(data, checkpoint).digests()
    assert len(needs.digests) == 4
    assert needs.summary.repository == "r"
    for place in range(0, len(data), 7):
        flipped = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
        for read in (decode_needs, decode_manifest):
            with pytest.raises(DamagedError):
                read(flipped, checkpoint)


def test_the_summary_is_read_from_the_front_alone() -> None:
    checkpoint, data = encode_manifest(manifest(a=entry(CHUNK * 400)))
    need = summary_bytes(data[: HEADER.size], checkpoint)
    assert decode_summary(data[:need], checkpoint).reason == "every 100 steps"
    with pytest.raises(DamagedError):
        decode_summary(data[: need - 1], checkpoint)


@pytest.mark.parametrize("make", [sealed, sealed_first])
def test_a_newer_version_is_no_damage(make: Any) -> None:
    checkpoint, data = make([CHUNK, {}], header={"magic": MAGIC[:7] + b"\x04"})
    for read in (decode_manifest, decode_needs, decode_summary):
        with pytest.raises(FormatError):
            read(data, checkpoint)


@pytest.mark.parametrize("step", [499, 5000])
def test_a_name_that_says_otherwise_is_damage(step: int) -> None:
    checkpoint, data = encode_manifest(manifest())
    with pytest.raises(DamagedError):
        decode_manifest(data, msgspec.structs.replace(checkpoint, step=step))
    with pytest.raises(DamagedError):
        decode_summary(data, msgspec.structs.replace(checkpoint, sequence=7))


HUGE = 2**63
TABLES: dict[str, tuple[Any, bytes]] = {
    "no chunk size": ([0, {}], b""),
    "huge chunk size": ([1 << 31, {}], b""),
    "unknown dtype": ([CHUNK, {"a": ["float7", [1]]}], b"x" * 32),
    "negative shape": ([CHUNK, {"a": ["uint8", [-1]]}], b""),
    "deep shape": ([CHUNK, {"a": ["uint8", [1] * 65]}], b"x" * 32),
    "shard outside": ([CHUNK, {"a": ["uint8", [4], [[[2], [3]]]]}], b"x" * 32),
    "shard before": ([CHUNK, {"a": ["uint8", [4], [[[-1], [3]]]]}], b"x" * 32),
    "shard of another rank": ([CHUNK, {"a": ["uint8", [4], [[[0, 0], [4, 1]]]]}], b"x" * 32),
    "too few chunks": ([CHUNK, {"a": ["uint8", [CHUNK + 1]]}], b"x" * 32),
    "too many chunks": ([CHUNK, {"a": ["uint8", [CHUNK]]}], b"x" * 64),
    "chunks of nothing": ([CHUNK, {}], b"x" * 32),
    "a claim of petabytes": ([CHUNK, {"a": ["uint8", [HUGE]]}], b"x" * 32),
    "a claim beyond all numbers": ([1, {"a": ["uint8", [HUGE] * 64]}], b"x" * 32),
    "extra item": ([CHUNK, {}, 1], b""),
    "a tensor's extra item": ([CHUNK, {"a": ["uint8", [0], None, 1]}], b""),
    "not a table": ({"a": 1}, b""),
    "nothing": (None, b""),
}


@pytest.mark.parametrize("name", TABLES)
def test_a_table_that_makes_no_sense_is_damage(name: str) -> None:
    checkpoint, data = sealed(*TABLES[name])
    with pytest.raises(DamagedError, match="step 500"):
        decode_manifest(data, checkpoint)


def test_half_a_digest_is_damage() -> None:
    checkpoint, data = sealed([CHUNK, {"a": ["uint8", [1]]}], b"x" * 31)
    for read in (decode_manifest, decode_needs):
        with pytest.raises(DamagedError):
            read(data, checkpoint)


@pytest.mark.parametrize(
    "sizes",
    [{"summary": 1 << 40}, {"packed": HUGE}, {"packed": 1 << 20}, {"packed": 5}, {"raw": HUGE}, {"raw": 0}],
)
def test_lengths_that_lie_are_damage(sizes: dict[str, int]) -> None:
    checkpoint, data = sealed([CHUNK, {}], header=sizes)
    with pytest.raises(DamagedError):
        decode_manifest(data, checkpoint)


BOMB_BYTES = 300 * 1024 * 1024
BOMB = zstd.compress(bytes(BOMB_BYTES))


@pytest.mark.parametrize("claimed", [BOMB_BYTES, FREE_BYTES, MOST_RATIO * len(BOMB), 100])
def test_a_frame_that_would_fill_the_memory_takes_none(claimed: int) -> None:
    checkpoint, data = sealed([CHUNK, {}], packed=BOMB, header={"raw": claimed})
    tracemalloc.start()
    with pytest.raises(DamagedError):
        decode_manifest(data, checkpoint)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 3 * FREE_BYTES


def test_a_frame_with_a_window_beyond_bounds_is_damage() -> None:
    raw = msgspec.msgpack.encode([DETAILS, CHUNK, {}]) * 3_000
    frame = zstd.compress(raw, options={zstd.CompressionParameter.window_log: 27})
    decompressor = zstd.ZstdDecompressor()
    assert decompressor.decompress(frame) == raw
    wide = zstd.ZstdCompressor(options={zstd.CompressionParameter.window_log: 27})
    unsized = wide.compress(raw) + wide.flush()  # without a size in front, the window counts
    checkpoint, data = sealed(raw, packed=unsized)
    with pytest.raises(DamagedError):
        decode_manifest(data, checkpoint)


def test_bytes_behind_a_frame_are_damage() -> None:
    frame = compress(msgspec.msgpack.encode([DETAILS, CHUNK, {}]) + bytes(200))
    checkpoint, data = sealed([CHUNK, {}], packed=frame + b"x")
    with pytest.raises(DamagedError):
        decode_manifest(data, checkpoint)


def test_what_shrinks_too_well_is_stored_as_it_is() -> None:
    """What a reader would have to take for a bomb is not written."""
    tree = ["list", [0] * (3 * FREE_BYTES)]
    made = Manifest(manifest().summary, Details(tree, None, {}, {}), CHUNK, {})
    checkpoint, data = encode_manifest(made)
    assert len(data) > 3 * FREE_BYTES
    assert decode_manifest(data, checkpoint).details == made.details


nodes = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text()
    | st.binary(max_size=80),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text() | st.integers(0, 9), inner, max_size=4)
    ),
    max_leaves=12,
)
regions = st.tuples(
    st.lists(st.integers(-2, 5), max_size=3).map(tuple), st.lists(st.integers(-2, 5), max_size=3).map(tuple)
)
described = st.tuples(
    st.sampled_from(["uint8", "float32", "x"]) | nodes,
    st.lists(st.integers(-2, 9), max_size=3) | nodes,
    st.none() | st.lists(regions, max_size=2) | nodes,
)
tables = st.tuples(
    st.sampled_from([CHUNK, 1]) | nodes, st.dictionaries(st.text(max_size=3), described, max_size=3) | nodes
).map(list)


@given(
    table=tables | nodes | st.binary(max_size=60),
    details=st.just(DETAILS) | nodes,
    digests=st.integers(0, 5).map(lambda n: b"x" * 32 * n) | st.binary(max_size=70),
)
def test_no_content_at_all_raises_anything_else(table: Any, details: Any, digests: bytes) -> None:
    """Valid digests around random content: the parser is reached, and only damage comes out."""
    checkpoint, data = sealed(table, digests, details=details)
    try:
        read = decode_manifest(data, checkpoint)
    except (DamagedError, FormatError):
        return
    assert decode_needs(data, checkpoint).digests == read.digests()
    for made in read.tensors.values():
        assert made.spec.size_bytes >= 0


@given(st.binary(max_size=200), st.booleans())
def test_random_bytes_are_damage(data: bytes, with_magic: bool) -> None:
    data = MAGIC + data if with_magic else data
    named = CheckpointId(500, ATTEMPT, 2, "full", blake3.blake3(data).hexdigest())
    for read in (decode_manifest, decode_needs, decode_summary, summary_bytes):
        try:
            read(data, named)
        except (DamagedError, FormatError):
            continue
        assert read is summary_bytes


def test_a_manifest_nested_without_end_is_damage() -> None:
    deep = b"\x91" * 100_000 + b"\xc0"
    details = b"\x84" + b"\xa4tree" + deep + b"\xa8training\xc0\xa5given\x80\xabenvironment\x80"
    checkpoint, data = sealed(b"\x93" + details + msgspec.msgpack.encode(CHUNK) + b"\x80")
    with pytest.raises(DamagedError):
        decode_manifest(data, checkpoint)
