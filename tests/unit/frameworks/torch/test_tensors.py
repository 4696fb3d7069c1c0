from __future__ import annotations

import gc

import numpy as np
import pytest
import torch

from holdfast.domain.tensors import TensorSpec
from holdfast.errors import UnsupportedError
from holdfast.frameworks.torch import tensors


def _address(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.float8_e5m2, torch.bool, torch.complex64]
)
def test_contiguous_memory_is_not_copied(dtype):
    tensor = torch.zeros(4, 6).to(dtype)[1:]
    source, device = tensors.source(tensor, "x")
    assert device == "cpu"
    assert _address(source.read()) == tensor.data_ptr()
    assert _address(tensors.target(tensor).buffer()) == tensor.data_ptr()
    assert source.read().nbytes == source.spec.size_bytes


def test_a_parameter_is_read_and_written_without_autograd():
    parameter = torch.nn.Parameter(torch.zeros(3))
    target = tensors.target(parameter)
    target.buffer()[:] = np.frombuffer(np.float32([1, 2, 3]).tobytes(), np.uint8)
    version = parameter._version
    target.commit()
    assert parameter.tolist() == [1.0, 2.0, 3.0]
    assert parameter.grad_fn is None
    assert parameter._version > version


def test_nothing_moves_before_commit_where_a_copy_is_needed():
    whole = torch.zeros(3, 2)
    target = tensors.target(whole[:, 0])
    target.buffer()[:4] = 1
    target.buffer()[4:] = 1  # the same memory each time
    assert whole.count_nonzero() == 0
    target.commit()
    assert whole[:, 0].count_nonzero() == 3
    assert whole[:, 1].count_nonzero() == 0


def test_a_read_outlives_its_tensor():
    source, _ = tensors.source(torch.full((1000,), 7, dtype=torch.uint8), "x")
    view = source.read()
    del source
    gc.collect()
    assert (view == 7).all()


def test_inference_tensors():
    with torch.inference_mode():
        tensor, strided = torch.zeros(3), torch.zeros(2, 3).t()
    for live in (tensor, strided):
        target = tensors.target(live)
        target.buffer()[:] = 255
        target.commit()
        assert live.isnan().all()


def test_new_tensors(monkeypatch):
    tensor, target = tensors.new_tensor(TensorSpec("bfloat16", (2, 3)), "cuda")
    assert tensor.device.type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert target.spec == TensorSpec("bfloat16", (2, 3))
    monkeypatch.delitem(tensors.DTYPES, "float8_e8m0fnu")  # as in an older version
    with pytest.raises(UnsupportedError, match="no dtype float8_e8m0fnu"):
        tensors.new_tensor(TensorSpec("float8_e8m0fnu", (1,)), "cpu")


def test_a_subclass_with_memory_of_its_own_is_plain():
    class Marked(torch.nn.Parameter):
        pass

    source, _ = tensors.source(Marked(torch.ones(2)), "x")
    assert source.read().nbytes == 8


def test_a_subclass_that_only_wraps_is_refused():
    class Wrapper(torch.Tensor):
        @staticmethod
        def __new__(cls, inner):
            return torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype)

        @classmethod
        def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
            raise AssertionError

    with pytest.raises(UnsupportedError, match=r"model/x is a .*Wrapper"):
        tensors.source(Wrapper(torch.ones(2)), "model/x")
    with pytest.raises(UnsupportedError, match="Wrapper"):
        tensors.target(Wrapper(torch.ones(2)))
