"""Manifests of version 1, as they were written before names and shapes were compressed."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.domain.manifest_file import decode_manifest, decode_needs, encode_manifest
from holdfast.errors import DamagedError, FormatError
from manifests import CHUNK, DETAILS, sealed_first

HUGE = 2**63
TABLE: dict[str, Any] = {
    "a": ["uint8", [CHUNK + 1], [[[0], [CHUNK + 1], b"x" * 32 + b"y" * 32]]],
    "b": ["float32", [], [[[], [], b"y" * 32]]],
    "c": ["int64", [0, 4], [[[0, 0], [0, 4], b""]]],
    "divided": ["uint8", [4], [[[0], [2], b"v" * 32], [[2], [2], b"w" * 32]]],
}


def test_they_are_read_and_written_as_the_newest() -> None:
    checkpoint, data = sealed_first([CHUNK, TABLE])
    read = decode_manifest(data, checkpoint)
    assert list(read.tensors) == list(TABLE)
    assert read.tensors["divided"].shards[1].chunks == b"w" * 32
    assert read.details == DETAILS
    assert read.digests() == {b"v" * 32, b"w" * 32, b"x" * 32, b"y" * 32}
    assert decode_needs(data, checkpoint).digests == read.digests()
    again = decode_manifest(*reversed(encode_manifest(read)))
    assert again.tensors == read.tensors
    assert list(again.tensors) == list(TABLE)


TABLES: dict[str, Any] = {
    "no chunk size": [0, {}],
    "huge chunk size": [1 << 31, {}],
    "unknown dtype": [CHUNK, {"a": ["float7", [1], []]}],
    "negative shape": [CHUNK, {"a": ["uint8", [-1], []]}],
    "deep shape": [CHUNK, {"a": ["uint8", [1] * 65, []]}],
    "shard outside": [CHUNK, {"a": ["uint8", [4], [[[2], [3], b"x" * 32]]]}],
    "shard of another rank": [CHUNK, {"a": ["uint8", [4], [[[0, 0], [4, 1], b"x" * 32]]]}],
    "shard that begins elsewhere": [CHUNK, {"a": ["uint8", [4], [[[1], [4], b"x" * 32]]]}],
    "too few chunks": [CHUNK, {"a": ["uint8", [CHUNK + 1], [[[0], [CHUNK + 1], b"x" * 32]]]}],
    "a claim of petabytes": [CHUNK, {"a": ["uint8", [HUGE], [[[0], [HUGE], b"x" * 32]]]}],
    "half a digest": [CHUNK, {"a": ["uint8", [1], [[[0], [1], b"x" * 31]]]}],
    "extra item": [CHUNK, {}, 1],
    "not a table": {"a": 1},
    "nothing": None,
}


@pytest.mark.parametrize("name", TABLES)
def test_a_table_that_makes_no_sense_is_damage(name: str) -> None:
    checkpoint, data = sealed_first(TABLES[name])
    for read in (decode_manifest, decode_needs):
        with pytest.raises(DamagedError, match="step 500"):
            read(data, checkpoint)


@pytest.mark.parametrize(
    "sizes", [{"summary": 1 << 40}, {"details": HUGE, "table": HUGE}, {"table": 0}, {"details": 0}]
)
def test_lengths_that_lie_are_damage(sizes: dict[str, int]) -> None:
    checkpoint, data = sealed_first([CHUNK, {}], header=sizes)
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
    checkpoint, data = sealed_first(table, details=details, head=head)
    try:
        decode_needs(data, checkpoint)
        read = decode_manifest(data, checkpoint)
    except (DamagedError, FormatError):
        return
    for made in read.tensors.values():
        assert made.spec.size_bytes >= 0


def test_one_nested_without_end_is_damage() -> None:
    deep = b"\x91" * 100_000 + b"\xc0"
    details = b"\x84" + b"\xa4tree" + deep + b"\xa8training\xc0\xa5given\x80\xabenvironment\x80"
    checkpoint, data = sealed_first([CHUNK, {}], details=details)
    with pytest.raises(DamagedError):
        decode_manifest(data, checkpoint)


def test_details_that_make_no_sense_are_damage() -> None:
    checkpoint, data = sealed_first([CHUNK, {}], details=msgspec.msgpack.encode([1]))
    with pytest.raises(DamagedError):
        decode_manifest(data, checkpoint)
    assert decode_needs(data, checkpoint).digests == set()
