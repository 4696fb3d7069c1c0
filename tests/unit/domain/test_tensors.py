from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.domain.tensors import ITEM_BYTES, TensorRef, TensorSpec

shapes = st.lists(st.integers(0, 10**6), max_size=5).map(tuple)
specs = st.builds(TensorSpec, st.sampled_from(sorted(ITEM_BYTES)), shapes)


@given(specs)
def test_size_is_elements_times_item(spec: TensorSpec) -> None:
    assert spec.size_bytes == math.prod(spec.shape) * ITEM_BYTES[spec.dtype]


@given(specs)
def test_a_spec_survives_messagepack(spec: TensorSpec) -> None:
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(spec), type=TensorSpec) == spec


def test_a_ref_survives_messagepack() -> None:
    ref = TensorRef("model/weight", "torch", "cuda")
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(ref), type=TensorRef) == ref


def test_item_bytes_agree_with_numpy_where_it_knows_the_dtype() -> None:
    known = [name for name in ITEM_BYTES if hasattr(np, name)]
    assert len(known) >= 14
    for name in known:
        assert np.dtype(name).itemsize == ITEM_BYTES[name]


@pytest.mark.parametrize(
    "damaged",
    [["float99", [1]], ["float32", [-1]], ["float32", [1.5]], ["float32"], ["float32", [1], 1], [3, [1]]],
)
def test_a_damaged_spec_does_not_decode(damaged: object) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.msgpack.decode(msgspec.msgpack.encode(damaged), type=TensorSpec)


def test_a_spec_reads_well() -> None:
    assert str(TensorSpec("bfloat16", (3, 4))) == "bfloat16[3, 4]"
    assert str(TensorSpec("float32", ())) == "float32[]"
