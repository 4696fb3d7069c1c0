"""What of copying from a CUDA device does not need one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from holdfast.domain.tensors import DeviceCopy
from holdfast.frameworks.torch import cuda
from holdfast.frameworks.torch.tensors import DTYPES, Source


class Room:
    def __init__(self, left_bytes: int) -> None:
        self.left_bytes = left_bytes

    take = cuda._Room.take


@pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental")
@pytest.mark.parametrize("name", sorted(DTYPES))
@pytest.mark.parametrize("shape", [(), (0,), (7,), (3, 5)])
def test_the_bytes_of_a_tensor_are_those_that_are_read(name: str, shape: tuple[int, ...]) -> None:
    size = max(torch.Size(shape).numel(), 1) * torch.empty(0, dtype=DTYPES[name]).element_size()
    tensor = torch.randint(0, 2, (size,), dtype=torch.uint8).view(DTYPES[name])
    tensor = tensor[: torch.Size(shape).numel()].reshape(shape)
    assert cuda._raw(tensor).numpy().tobytes() == Source(tensor).read().tobytes()


@pytest.mark.parametrize(
    "tensor",
    [torch.randn(4, 6).t(), torch.randn(9, 9)[::2, 1:], torch.randn(5, dtype=torch.complex64).conj()],
    ids=["transposed", "sliced", "conjugate"],
)
def test_what_is_not_dense_is_made_so(tensor: torch.Tensor) -> None:
    assert cuda._raw(tensor).numpy().tobytes() == Source(tensor).read().tobytes()


def copy_of(tensor: torch.Tensor, *, held: bool) -> DeviceCopy:
    return DeviceCopy(Source(tensor), np.zeros(tensor.nbytes, np.uint8), held)


def test_what_stays_as_it_is_needs_no_second_copy() -> None:
    tensor, room = torch.ones(100), Room(1000)
    settled = cuda._settled(copy_of(tensor, held=True), room)  # type: ignore[arg-type]
    assert settled is not None
    assert settled.data_ptr() == tensor.data_ptr()
    assert room.left_bytes == 1000


def test_second_copies_are_bounded_and_beyond_that_it_is_copied_at_once() -> None:
    tensor, room = torch.ones(100), Room(500)
    settled = cuda._settled(copy_of(tensor, held=False), room)  # type: ignore[arg-type]
    assert settled is not None
    assert settled.data_ptr() != tensor.data_ptr()
    assert room.left_bytes == 100
    beyond = copy_of(tensor, held=False)
    assert cuda._settled(beyond, room) is None  # type: ignore[arg-type]
    assert beyond.target.tobytes() == tensor.numpy().tobytes()


def test_what_was_joined_comes_apart_again() -> None:
    targets = [np.zeros(size, np.uint8) for size in (3, 0, 5)]
    cuda._scatter(np.arange(8, dtype=np.uint8), targets)
    assert [target.tolist() for target in targets] == [[0, 1, 2], [], [3, 4, 5, 6, 7]]
