"""Tensors as values: dtype by name, shape, regions, and where their bytes come from or go to."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    import numpy.typing as npt

DIGEST_BYTES = 32

ITEM_BYTES: dict[str, int] = {
    "bool": 1,
    "uint8": 1,
    "uint16": 2,
    "uint32": 4,
    "uint64": 8,
    "int8": 1,
    "int16": 2,
    "int32": 4,
    "int64": 8,
    "float16": 2,
    "bfloat16": 2,
    "float32": 4,
    "float64": 8,
    "float8_e4m3fn": 1,
    "float8_e4m3fnuz": 1,
    "float8_e5m2": 1,
    "float8_e5m2fnuz": 1,
    "float8_e8m0fnu": 1,
    "float4_e2m1fn_x2": 1,
    "complex32": 4,
    "complex64": 8,
    "complex128": 16,
}
"""Bytes per element of every dtype that the format knows, by name; all little-endian."""


class TensorSpec(msgspec.Struct, frozen=True, gc=False, array_like=True, forbid_unknown_fields=True):
    """dtype (a key of `ITEM_BYTES`) and shape of a tensor."""

    dtype: str
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.dtype not in ITEM_BYTES or (self.shape and min(self.shape) < 0):
            raise ValueError(f"{self} is no tensor that the format knows")

    @property
    def size_bytes(self) -> int:
        """Bytes of the dense, contiguous tensor."""
        return ITEM_BYTES[self.dtype] * prod(self.shape)

    def __str__(self) -> str:
        return f"{self.dtype}[{', '.join(map(str, self.shape))}]"


class TensorRef(msgspec.Struct, frozen=True, gc=False):
    """Stands in the state tree where a tensor stood.

    Attributes
    ----------
    name : str
        Key in the manifest's table of tensors, e.g. ``model/conv1.weight``.
    framework : str
        Which framework the value belonged to: ``torch``, ``paddle``, ``numpy`` ...
    device : str
        Kind of device it lived on: ``cpu``, ``cuda`` ...
    """

    name: str
    framework: str
    device: str = "cpu"


class TensorSource(Protocol):
    """A live or staged tensor whose bytes can be read."""

    @property
    def spec(self) -> TensorSpec: ...

    def read(self) -> npt.NDArray[np.uint8]:
        """Bytes of the dense tensor, ``uint8[size_bytes]``, C order, little-endian.

        Zero-copy where the memory already is so; else a copy that lives as long as
        the caller keeps it.
        """
        ...


class HostSource(TensorSource, Protocol):
    """A tensor of a framework, wherever it is."""

    @property
    def in_place(self) -> bool:
        """Whether `read` gives the tensor's own memory, and only the processor writes to that."""
        ...


class DeviceCopy(NamedTuple):
    """A tensor on a device, and the host memory that its bytes are to fill.

    ``held``: nothing changes the tensor until the copy has been waited for.
    """

    source: Any
    target: npt.NDArray[np.uint8]
    held: bool


class DeviceSource(TensorSource, Protocol):
    """A tensor on a device that copies to the host beside its other work."""

    @property
    def address(self) -> int:
        """Of its memory; no other tensor has it, on whatever device."""
        ...

    @property
    def begin(
        self,
    ) -> Callable[[Sequence[DeviceCopy], npt.NDArray[np.uint8], int | None], Callable[[], None]]:
        """Copies tensors of this kind, many at once: ``begin(copies, slot, limit_bytes)``.

        It copies what they hold now, whatever the device is asked to do with them later; ``slot`` is
        the memory in which all targets lie, ``limit_bytes`` what may be taken of the device's memory.
        Returns what waits until the bytes are there.
        """
        ...


class TensorTarget(Protocol):
    """Where the bytes of a tensor go on restore."""

    @property
    def spec(self) -> TensorSpec: ...

    def buffer(self) -> npt.NDArray[np.uint8]:
        """Writable ``uint8[size_bytes]``: the tensor's own memory where it is dense on the host."""
        ...

    def commit(self) -> None:
        """Called once all bytes are in the buffer and verified: move them to where they belong."""
        ...
