from __future__ import annotations

import numpy as np
import pytest
import torch

from holdfast.domain.tensors import ITEM_BYTES
from holdfast.repository.numbers import as_numbers
from holdfast.repository.reindex import find_chunks


@pytest.mark.parametrize("dtype", sorted(ITEM_BYTES))
def test_every_dtype_decodes_as_torch_does(dtype):
    rng = np.random.default_rng(0)
    data = np.concatenate([np.arange(256, dtype=np.uint8), rng.integers(0, 256, 4096, np.uint8)])
    if dtype == "bool":
        data &= 1
    decoded = as_numbers(data, dtype)
    if dtype == "float4_e2m1fn_x2":
        assert decoded is None
        return
    wide = torch.complex128 if dtype.startswith("complex") else torch.float64
    expected = torch.from_numpy(data).view(getattr(torch, dtype)).to(wide).numpy()
    np.testing.assert_array_equal(decoded, expected)


def test_chunks_are_found_by_digest_and_size_alone():
    import blake3

    pieces = [bytes([i]) * n for i, n in enumerate((4096, 100, 4096, 7))]
    known = {blake3.blake3(p).digest(): len(p) for p in pieces}
    data = b"HFPACK\x00\x01" + b"".join(pieces) + bytes(300)
    found = find_chunks(memoryview(data), known)
    assert [f.size for f in found] == [4096, 100, 4096, 7]
    assert find_chunks(memoryview(data), {}) == []
    broken = bytearray(data)
    broken[8 + 4096] ^= 1
    assert [f.size for f in find_chunks(memoryview(broken), known)] == [4096, 4096, 7]
