"""Dense torch tensors as bytes: where they are read from, and written to, without a detour."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from holdfast.domain.tensors import ITEM_BYTES, TensorSpec
from holdfast.errors import UnsupportedError
from holdfast.frameworks.host import bytes_at

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

DTYPES: dict[str, torch.dtype] = {
    name: dtype for name in ITEM_BYTES if isinstance(dtype := getattr(torch, name, None), torch.dtype)
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
ORDINARY = {torch.Tensor, torch.nn.Parameter}
"""Classes of tensors that are nothing but their values."""
_LEAVE_OUT = "Keep it as a plain dense tensor, or leave it out of the state."


class Source:
    """A live dense tensor whose bytes can be read."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor
        self.spec = TensorSpec(_NAMES[tensor.dtype], tuple(tensor.shape))

    @property
    def in_place(self) -> bool:
        on_cuda = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]  # torch's
        # to pinned memory a device may write
        return is_plain_memory(self.tensor) and not (on_cuda and self.tensor.is_pinned())

    def read(self) -> npt.NDArray[np.uint8]:
        if is_plain_memory(self.tensor):
            return _memory(self.tensor)
        return _memory(_bits(self.tensor.detach().resolve_conj().resolve_neg()).cpu().contiguous())


class Target:
    """A tensor to restore into: its own memory where that is dense on the host, else a copy."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self._tensor = tensor
        self._staged: torch.Tensor | None = None
        self.spec = TensorSpec(_NAMES[tensor.dtype], tuple(tensor.shape))

    def buffer(self) -> npt.NDArray[np.uint8]:
        if is_plain_memory(self._tensor):
            return _memory(self._tensor)
        if self._staged is None:
            self._staged = torch.empty(self.spec.shape, dtype=self._tensor.dtype)
        return _memory(self._staged)

    def commit(self) -> None:
        if self._staged is not None:
            _copy_bits(self._tensor, self._staged)
            self._staged = None
        # autograd must notice that values which it saved are gone
        torch.autograd.graph.increment_version(self._tensor)


class LazyTarget:
    """A parameter of a lazy module: gets its shape with its values."""

    def __init__(self, tensor: Any, spec: TensorSpec) -> None:
        self._tensor = tensor
        self._staged = torch.empty(spec.shape, dtype=DTYPES[spec.dtype])
        self.spec = spec

    def buffer(self) -> npt.NDArray[np.uint8]:
        return _memory(self._staged)

    def commit(self) -> None:
        self._tensor.materialize(self.spec.shape, dtype=self._staged.dtype)
        _copy_bits(self._tensor, self._staged)


def source(tensor: torch.Tensor, path: str) -> tuple[Source, str]:
    """Bytes of a tensor and its kind of device; refuses by name what is not plain and dense."""
    what = refused(tensor)
    if what is not None:
        raise UnsupportedError(f"{path} is {what}, which cannot be kept exactly.", do=_LEAVE_OUT)
    if tensor.is_cuda:
        from holdfast.frameworks.torch.cuda import CudaSource

        return CudaSource(tensor), tensor.device.type
    return Source(tensor), tensor.device.type


def target(tensor: torch.Tensor) -> Target:
    what = refused(tensor)
    if what is not None:
        raise UnsupportedError(f"A checkpoint cannot be restored into {what}.", do=_LEAVE_OUT)
    return Target(tensor)


def new_tensor(spec: TensorSpec, device: str | torch.device) -> tuple[torch.Tensor, Target]:
    """A fresh tensor to restore into; on the CPU where there is no such device."""
    if spec.dtype not in DTYPES:
        raise UnsupportedError(
            f"This version of torch ({torch.__version__}) has no dtype {spec.dtype}.",
            do="Use the version of torch that the checkpoint was saved with.",
        )
    home = device if isinstance(device, torch.device) else usable_device(device)
    tensor = torch.empty(spec.shape, dtype=DTYPES[spec.dtype], device=home)
    return tensor, Target(tensor)


def usable_device(kind: str) -> torch.device:
    """The current device of this kind where there is one, else the CPU."""
    backend = torch.backends.mps if kind == "mps" else getattr(torch, kind, None)
    available = kind != "cpu" and backend is not None and backend.is_available()
    return torch.device(kind if available else "cpu")


def refused(tensor: torch.Tensor) -> str | None:
    """What keeps a tensor from being stored as bytes; None if nothing does."""
    if type(tensor).__torch_dispatch__ is not torch.Tensor.__torch_dispatch__:
        return f"a {type(tensor).__module__}.{type(tensor).__qualname__}"
    if is_lazy(tensor):
        return "not initialised yet (its module is lazy and has seen no batch)"
    if tensor.is_nested:
        return "a nested tensor"
    if tensor.is_quantized or tensor.dtype not in _NAMES:
        return f"a tensor of dtype {tensor.dtype}"
    if tensor.layout is not torch.strided:
        return f"a tensor of layout {tensor.layout}"
    if tensor.is_meta:
        return "a tensor on the meta device, without values"
    return None


def is_lazy(tensor: torch.Tensor) -> bool:
    # the first of these is quick, the other is code of torch
    return type(tensor) not in ORDINARY and isinstance(tensor, UninitializedParameter | UninitializedBuffer)


def is_plain_memory(tensor: torch.Tensor) -> bool:
    return tensor.is_cpu and tensor.is_contiguous() and not tensor.is_conj() and not tensor.is_neg()


def _memory(tensor: torch.Tensor) -> npt.NDArray[np.uint8]:
    """The bytes of a contiguous tensor on the host, of whatever dtype, not copied."""
    storage = tensor.untyped_storage()  # kept alive by the array, whatever becomes of the tensor
    start = storage.data_ptr() + int(tensor.storage_offset()) * tensor.element_size()
    return bytes_at(start, tensor.nbytes, storage)


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    """As integers of the same size, which every device can copy without touching a bit."""
    bits = _BITS.get(tensor.element_size())
    return tensor if bits is None or tensor.dtype is bits else tensor.view(bits)


def _copy_bits(live: torch.Tensor, staged: torch.Tensor) -> None:
    with torch.inference_mode(live.is_inference()), torch.no_grad():
        if live.is_conj() or live.is_neg():
            live.detach().copy_(staged)
            return
        # an expanded tensor holds each value once
        once = tuple(slice(0, 1) if stride == 0 else slice(None) for stride in live.stride())
        _bits(live.detach())[once].copy_(_bits(staged)[once])
