"""Dense Paddle tensors as bytes, read and written through their own memory.

``Tensor.numpy()`` copies, DLPack refuses bf16 and fp8, so the memory is reached by address;
a detached handle keeps it alive.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import paddle

from holdfast.domain.tensors import ITEM_BYTES, TensorSpec
from holdfast.errors import UnsupportedError
from holdfast.frameworks.host import bytes_at

# not uint16: Paddle has the name, but makes a bfloat16 tensor of it
DTYPES: dict[str, Any] = {
    name: getattr(paddle, name) for name in ITEM_BYTES if hasattr(paddle, name) and name != "uint16"
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_LEAVE_OUT = "Keep it as a plain dense tensor, or leave it out of the state."


class Source:
    """A live dense tensor whose bytes can be read."""

    def __init__(self, tensor: Any) -> None:
        self._tensor = tensor.detach()
        self.spec = spec_of(tensor)

    @property
    def in_place(self) -> bool:
        # to pinned memory a device may write
        return bool(self._tensor.place.is_cpu_place() and self._tensor.is_contiguous())

    def read(self) -> npt.NDArray[np.uint8]:
        tensor = self._tensor if on_host(self._tensor) else self._tensor.cpu()
        if tensor.is_contiguous():
            return _memory(tensor, self.spec.size_bytes)
        copy = np.empty(self.spec.size_bytes, np.uint8)
        _elements(copy, tensor)[...] = _strided(tensor)
        return copy


class Target:
    """A live tensor to fill: directly where it is dense on the host, else through a copy."""

    def __init__(self, tensor: Any) -> None:
        self._tensor = tensor
        self.spec = spec_of(tensor)
        self._staged: Any = None

    def buffer(self) -> npt.NDArray[np.uint8]:
        if on_host(self._tensor) and self._tensor.is_contiguous():
            return _memory(self._tensor.detach(), self.spec.size_bytes)
        if self._staged is None:
            self._staged = empty(self.spec, paddle.CPUPlace())
        return _memory(self._staged, self.spec.size_bytes)

    def commit(self) -> None:
        if self._staged is not None and on_host(self._tensor):
            staged = _memory(self._staged, self.spec.size_bytes)
            _strided(self._tensor)[...] = _elements(staged, self._tensor)
        elif self._staged is not None:
            with paddle.no_grad():
                self._tensor.set_value(self._staged)
        self._staged = None
        self._tensor._bump_inplace_version()  # autograd must notice that values it saved are gone


def spec_of(tensor: Any) -> TensorSpec:
    return TensorSpec(_NAMES[tensor.dtype], tuple(tensor.shape))


def is_sparse(value: object) -> bool:
    return isinstance(value, paddle.Tensor) and value.is_sparse()


def source(tensor: Any, path: str) -> tuple[Source, str]:
    """Bytes of a tensor and its kind of device; refuses by name what is not plain and dense."""
    if what := refused(tensor):
        raise UnsupportedError(f"{path} is {what}, which cannot be kept exactly.", do=_LEAVE_OUT)
    return Source(tensor), device_kind(tensor)


def target(tensor: Any) -> Target:
    if what := refused(tensor):
        raise UnsupportedError(f"A checkpoint cannot be restored into {what}.", do=_LEAVE_OUT)
    return Target(tensor)


def new_tensor(spec: TensorSpec, device: str) -> tuple[Any, Target]:
    """A fresh tensor to restore into; on the CPU where there is no such device."""
    if spec.dtype not in DTYPES:
        raise UnsupportedError(
            f"This version of Paddle ({paddle.__version__}) has no dtype {spec.dtype}.",
            do="Use the version of Paddle that the checkpoint was saved with.",
        )
    tensor = empty(spec, place(device))
    return tensor, Target(tensor)


def empty(spec: TensorSpec, where: Any) -> Any:
    """An uninitialised tensor at a place, whatever the current device is."""
    dtype = DTYPES[spec.dtype]
    signed = {paddle.uint32: "int32", paddle.uint64: "int64"}.get(dtype)  # these can only be viewed
    tensor = paddle.empty(list(spec.shape), dtype=signed or dtype, device=where)
    return tensor.view(dtype) if signed else tensor


def place(device: str) -> Any:
    """The current device of this kind where there is one, else the CPU."""
    current = paddle.framework._current_expected_place_()
    if device == "cuda" and paddle.is_compiled_with_cuda() and paddle.device.cuda.device_count():
        return current if current.is_gpu_place() else paddle.CUDAPlace(0)
    if device not in ("cpu", "cuda") and _place_kind(current) == device:
        return current
    return paddle.CPUPlace()


def device_kind(tensor: Any) -> str:
    return _place_kind(tensor.place)


def _place_kind(where: Any) -> str:
    if where.is_cpu_place() or where.is_cuda_pinned_place():
        return "cpu"
    if where.is_gpu_place():
        return "cuda"
    return "xpu" if where.is_xpu_place() else str(where.custom_device_type())


def on_host(tensor: Any) -> bool:
    return device_kind(tensor) == "cpu"


def refused(tensor: Any) -> str | None:
    """What keeps a tensor from being stored as bytes; None if nothing does."""
    if tensor.is_dist():
        return "a distributed tensor"
    if tensor.is_selected_rows():
        return "a tensor of selected rows"
    if not tensor.is_dense():
        return "not a dense tensor"
    if tensor.dtype not in _NAMES:
        return f"a tensor of dtype {tensor.dtype}"
    if not tensor._is_initialized() and tensor.size:  # in this order: asking for a size is slow
        return "not initialised yet (built under LazyGuard)"
    return None


def _memory(tensor: Any, size_bytes: int) -> npt.NDArray[np.uint8]:
    """The first bytes behind a tensor on the host, not copied; keeps the tensor alive."""
    return bytes_at(tensor.data_ptr() if size_bytes else 0, size_bytes, tensor)


def _elements(data: npt.NDArray[np.uint8], tensor: Any) -> npt.NDArray[np.void]:
    """Dense bytes in a tensor's shape, each element opaque so that no bit can change."""
    return data.view(f"V{tensor.element_size()}").reshape(tuple(tensor.shape))


def _strided(tensor: Any) -> npt.NDArray[np.void]:
    """A host tensor's own memory in its own strides, each element opaque."""
    item, shape, strides = tensor.element_size(), tuple(tensor.shape), tuple(tensor.strides)
    span = 1 + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
    memory = _memory(tensor.detach(), span * item if tensor.size else 0)
    steps = tuple(step * item for step in strides)
    return np.ndarray(shape, f"V{item}", buffer=memory, strides=steps)
