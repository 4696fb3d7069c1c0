from __future__ import annotations

from typing import Any

import blake3
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.domain.manifest import (
    HEADER,
    MAGIC,
    Details,
    Manifest,
    Shard,
    Summary,
    TensorEntry,
    chunk_sizes,
    decode_manifest,
    decode_needs,
    decode_summary,
    encode_manifest,
    split_digests,
    summary_bytes,
)
from holdfast.domain.names import AttemptId, CheckpointId
from holdfast.domain.progress import Progress
from holdfast.errors import DamagedError, FormatError

ATTEMPT = AttemptId(3, "9be1c2d4")
CHUNK = 4096


def summary(step: int = 500, **changes: Any) -> Summary:
    values: dict[str, Any] = {
        "repository": "r",
        "attempt": ATTEMPT,
        "sequence": 2,
        "kind": "full",
        "progress": Progress(step),
        "parent": None,
        "saved_seconds": 1.5,
        "reason": "every 100 steps",
        "metrics": {"loss": float("nan")},
        "size_bytes": 0,
        "tensors": 0,
    }
    return Summary(**{**values, **changes})


def entry(size_bytes: int, dtype: str = "uint8") -> TensorEntry:
    count = len(chunk_sizes(size_bytes, CHUNK))
    digests = b"".join(blake3.blake3(bytes([i % 256])).digest() for i in range(count))
    return TensorEntry(dtype, (size_bytes,), (Shard((0,), (size_bytes,), digests),))


def manifest(**tensors: TensorEntry) -> Manifest:
    return Manifest(summary(), Details(["dict", []], None, {"lr": 0.1}, {"versions": {}}), CHUNK, tensors)


def sealed(
    table: Any,
    *,
    header: dict[str, Any] | None = None,
    details: bytes | None = None,
    head: bytes | None = None,
) -> tuple[CheckpointId, bytes]:
    """A manifest with any content, all of whose digests are right."""
    head = msgspec.msgpack.encode(summary()) if head is None else head
    details = msgspec.msgpack.encode(manifest().details) if details is None else details
    body = table if isinstance(table, bytes) else msgspec.msgpack.encode(table)
    sizes = {
        "magic": MAGIC,
        "summary": len(head),
        "details": len(details),
        "table": len(body),
        **(header or {}),
    }
    front = HEADER.pack(*sizes.values(), blake3.blake3(head).digest())
    data = front + head + details + body
    return CheckpointId(500, ATTEMPT, 2, "full", blake3.blake3(data).hexdigest()), data


def test_what_is_encoded_comes_back() -> None:
    made = manifest(
        a=entry(3 * CHUNK + 1), b=entry(0), c=TensorEntry("float32", (), (Shard((), (), b"x" * 32),))
    )
    checkpoint, data = encode_manifest(made)
    assert (checkpoint.step, checkpoint.attempt, checkpoint.sequence, checkpoint.kind) == (
        500,
        ATTEMPT,
        2,
        "full",
    )
    read = decode_manifest(data, checkpoint)
    assert read.tensors == made.tensors
    assert msgspec.msgpack.encode(read) == msgspec.msgpack.encode(made)
    assert encode_manifest(read) == (checkpoint, data)
    assert len(read.digests()) == 4 + 1  # those of b and of equal chunks once
    assert str(read.specs()["c"]) == "float32[]"


def test_what_is_needed_is_what_the_whole_manifest_says() -> None:
    made = manifest(a=entry(3 * CHUNK + 1), b=entry(0), c=entry(7))
    checkpoint, data = encode_manifest(made)
    needs = decode_needs(data, checkpoint)
    assert needs.digests == decode_manifest(data, checkpoint).digests()
    assert len(needs.digests) == 4
    assert needs.summary.repository == "r"
    for place in range(0, len(data), 7):
        flipped = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
        with pytest.raises(DamagedError):
            decode_needs(flipped, checkpoint)


def test_the_summary_is_read_from_the_front_alone() -> None:
    checkpoint, data = encode_manifest(manifest(a=entry(CHUNK * 400)))
    need = summary_bytes(data[: HEADER.size], checkpoint)
    assert decode_summary(data[:need], checkpoint).reason == "every 100 steps"
    with pytest.raises(DamagedError):
        decode_summary(data[: need - 1], checkpoint)


@pytest.mark.parametrize(
    ("size_bytes", "sizes"),
    [(0, []), (1, [1]), (CHUNK, [CHUNK]), (CHUNK + 1, [CHUNK, 1]), (2 * CHUNK, [CHUNK] * 2)],
)
def test_chunks_are_of_one_size_but_the_last(size_bytes: int, sizes: list[int]) -> None:
    assert chunk_sizes(size_bytes, CHUNK) == sizes


def test_digests_split_as_they_were_joined() -> None:
    assert split_digests(b"a" * 32 + b"b" * 32) == [b"a" * 32, b"b" * 32]
    assert split_digests(b"") == []


def test_a_newer_version_is_no_damage() -> None:
    checkpoint, data = sealed([CHUNK, {}], header={"magic": MAGIC[:7] + b"\x02"})
    with pytest.raises(FormatError):
        decode_manifest(data, checkpoint)
    with pytest.raises(FormatError):
        decode_summary(data, checkpoint)


@pytest.mark.parametrize("step", [499, 5000])
def test_a_name_that_says_otherwise_is_damage(step: int) -> None:
    checkpoint, data = encode_manifest(manifest())
    with pytest.raises(DamagedError):
        decode_manifest(data, msgspec.structs.replace(checkpoint, step=step))
    with pytest.raises(DamagedError):
        decode_summary(data, msgspec.structs.replace(checkpoint, sequence=7))


HUGE = 2**63
TABLES: dict[str, Any] = {
    "no chunk size": [0, {}],
    "huge chunk size": [1 << 31, {}],
    "unknown dtype": [CHUNK, {"a": ["float7", [1], []]}],
    "negative shape": [CHUNK, {"a": ["uint8", [-1], []]}],
    "deep shape": [CHUNK, {"a": ["uint8", [1] * 65, []]}],
    "shard outside": [CHUNK, {"a": ["uint8", [4], [[[2], [3], b"x" * 32]]]}],
    "shard of another rank": [CHUNK, {"a": ["uint8", [4], [[[0, 0], [4, 1], b"x" * 32]]]}],
    "too few chunks": [CHUNK, {"a": ["uint8", [CHUNK + 1], [[[0], [CHUNK + 1], b"x" * 32]]]}],
    "a claim of petabytes": [CHUNK, {"a": ["uint8", [HUGE], [[[0], [HUGE], b"x" * 32]]]}],
    "half a digest": [CHUNK, {"a": ["uint8", [1], [[[0], [1], b"x" * 31]]]}],
    "extra item": [CHUNK, {}, 1],
    "not a table": {"a": 1},
    "nothing": None,
}


@pytest.mark.parametrize("name", TABLES)
def test_a_table_that_makes_no_sense_is_damage(name: str) -> None:
    checkpoint, data = sealed(TABLES[name])
    for read in (decode_manifest, decode_needs):
        with pytest.raises(DamagedError, match="step 500"):
            read(data, checkpoint)


@pytest.mark.parametrize(
    "sizes", [{"summary": 1 << 40}, {"details": HUGE, "table": HUGE}, {"table": 0}, {"details": 0}]
)
def test_lengths_that_lie_are_damage(sizes: dict[str, int]) -> None:
    checkpoint, data = sealed([CHUNK, {}], header=sizes)
    with pytest.raises(DamagedError):
        decode_manifest(data, checkpoint)


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
shards = st.tuples(
    st.lists(st.integers(-2, 5), max_size=3), st.lists(st.integers(-2, 5), max_size=3), st.binary(max_size=70)
)
entries = st.tuples(
    st.sampled_from(["uint8", "float32", "x"]) | nodes,
    st.lists(st.integers(-2, 9), max_size=3) | nodes,
    st.lists(shards, max_size=2) | nodes,
)
tables = st.tuples(
    st.sampled_from([CHUNK, 1]) | nodes, st.dictionaries(st.text(max_size=3), entries, max_size=3) | nodes
)


@given(
    table=tables | nodes | st.binary(max_size=60),
    details=nodes | st.binary(max_size=60),
    head=st.none() | nodes | st.binary(),
)
def test_no_content_at_all_raises_anything_else(table: Any, details: Any, head: Any) -> None:
    """Valid digests around random content: the parser is reached, and only damage comes out."""
    raw = details if isinstance(details, bytes) else msgspec.msgpack.encode(details)
    front = head if head is None or isinstance(head, bytes) else msgspec.msgpack.encode(head)
    checkpoint, data = sealed(table, details=raw, head=front)
    try:
        decode_needs(data, checkpoint)
        read = decode_manifest(data, checkpoint)
    except (DamagedError, FormatError):
        return
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
    checkpoint, data = sealed(
        [CHUNK, {}],
        details=b"\x84" + b"\xa4tree" + deep + b"\xa8training\xc0\xa5given\x80\xabenvironment\x80",
    )
    with pytest.raises(DamagedError):
        decode_manifest(data, checkpoint)
