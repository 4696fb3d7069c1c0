from __future__ import annotations

import pytest

from holdfast.domain.manifest import chunk_sizes, split_digests
from manifests import CHUNK, entry, manifest


@pytest.mark.parametrize(
    ("size_bytes", "sizes"),
    [(0, []), (1, [1]), (CHUNK, [CHUNK]), (CHUNK + 1, [CHUNK, 1]), (2 * CHUNK, [CHUNK] * 2)],
)
def test_chunks_are_of_one_size_but_the_last(size_bytes: int, sizes: list[int]) -> None:
    assert chunk_sizes(size_bytes, CHUNK) == sizes


def test_digests_split_as_they_were_joined() -> None:
    assert split_digests(b"a" * 32 + b"b" * 32) == [b"a" * 32, b"b" * 32]
    assert split_digests(b"") == []


def test_a_manifest_names_each_chunk_once() -> None:
    made = manifest(a=entry(3 * CHUNK + 1), b=entry(0), c=entry(7))
    assert len(made.digests()) == 4
    assert str(made.specs()["c"]) == "uint8[7]"
