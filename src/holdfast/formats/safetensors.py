"""The safetensors format, written and read without its library: one tensor in memory at a time."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, Self

import msgspec

from holdfast.domain.tensors import ITEM_BYTES, TensorSpec
from holdfast.errors import DamagedError, UnsupportedError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

DTYPES = {
    "bool": "BOOL",
    "uint8": "U8",
    "int8": "I8",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e4m3fnuz": "F8_E4M3FNUZ",
    "float8_e5m2": "F8_E5M2",
    "float8_e5m2fnuz": "F8_E5M2FNUZ",
    "float8_e8m0fnu": "F8_E8M0",
    "uint16": "U16",
    "int16": "I16",
    "float16": "F16",
    "bfloat16": "BF16",
    "uint32": "U32",
    "int32": "I32",
    "float32": "F32",
    "uint64": "U64",
    "int64": "I64",
    "float64": "F64",
    "complex64": "C64",
}
"""The format's name of each dtype that it knows."""

MAX_HEADER_BYTES = 100_000_000  # as its own library has it
_NAMES = {code: name for name, code in DTYPES.items()}
_LENGTH = struct.Struct("<Q")
_METADATA = "__metadata__"


class Layout:
    """The header of a file to be, and the order in which its tensors must be written.

    Raises
    ------
    UnsupportedError
        Names a tensor that the format cannot hold.
    """

    def __init__(self, specs: Mapping[str, TensorSpec], metadata: Mapping[str, str]) -> None:
        # widest first, so that every tensor is aligned to its item size
        self.order = sorted(specs, key=lambda name: (-ITEM_BYTES[specs[name].dtype], name))
        entries: dict[str, Any] = {_METADATA: dict(metadata)} if metadata else {}
        start = 0
        for name in self.order:
            end = start + specs[name].size_bytes
            entries[name] = {
                "dtype": _code(name, specs[name]),
                "shape": list(specs[name].shape),
                "data_offsets": [start, end],
            }
            start = end
        text = msgspec.json.encode(entries)
        text += b" " * (-len(text) % 8)
        self.header = _LENGTH.pack(len(text)) + text
        self.size_bytes = start

    def write(self, file: IO[bytes], data: Iterable[npt.NDArray[np.uint8]]) -> None:
        """Write the header and then each tensor's bytes, given in `order`."""
        file.write(self.header)
        for part in data:
            file.write(part.data)
            del part  # else it lives while the next one is read


def _code(name: str, spec: TensorSpec) -> str:
    if spec.dtype not in DTYPES:
        raise UnsupportedError(
            f"The tensor {name} has dtype {spec.dtype}, which a .safetensors file cannot hold.",
            do="Export to .pt, or leave its entry out with only=.",
        )
    if name == _METADATA:
        raise UnsupportedError(f"A tensor named {name} cannot be written to a .safetensors file.")
    return DTYPES[spec.dtype]


class _Entry(msgspec.Struct, frozen=True):
    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]


class FileTensor:
    """One tensor of an open file, read when it is asked for; ``start``: where its bytes begin."""

    def __init__(self, descriptor: int, spec: TensorSpec, start: int, what: str) -> None:
        self.spec = spec
        self._descriptor = descriptor
        self.start = start
        self._what = what

    def read(self) -> npt.NDArray[np.uint8]:
        import numpy as np

        data = np.empty(self.spec.size_bytes, np.uint8)
        done = 0
        while done < len(data):
            got = os.preadv(self._descriptor, [data[done:].data], self.start + done)
            if got == 0:
                raise _broken(self._what, "it became shorter while it was read")
            done += got
        return data


class SafetensorsFile:
    """An open file: its tensors by name, and its metadata.

    Raises
    ------
    DamagedError
        It is cut short, or not of this format.
    """

    def __init__(self, path: Path) -> None:
        self._what = path.name
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            self.metadata, entries, start = self._header()
        except BaseException:
            self.close()
            raise
        self.tensors = {
            name: FileTensor(self._descriptor, spec, start + offset, self._what)
            for name, (spec, offset) in entries.items()
        }

    def _header(self) -> tuple[dict[str, str], dict[str, tuple[TensorSpec, int]], int]:
        size_bytes = os.fstat(self._descriptor).st_size
        prefix = os.pread(self._descriptor, _LENGTH.size, 0)
        header_bytes = _LENGTH.unpack(prefix)[0] if len(prefix) == _LENGTH.size else 0
        if not 2 <= header_bytes <= min(MAX_HEADER_BYTES, size_bytes - _LENGTH.size):
            raise _broken(self._what, "its header is cut short or is none")
        start = _LENGTH.size + header_bytes
        text = os.pread(self._descriptor, header_bytes, _LENGTH.size)
        try:
            raw = msgspec.json.decode(text, type=dict[str, msgspec.Raw])
            metadata = msgspec.json.decode(raw.pop(_METADATA, b"{}"), type=dict[str, str])
            entries = {name: msgspec.json.decode(item, type=_Entry) for name, item in raw.items()}
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise _broken(self._what, f"its header does not parse ({error})") from error
        return metadata, _checked(entries, size_bytes - start, self._what), start

    def close(self) -> None:
        os.close(self._descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _checked(entries: dict[str, _Entry], data_bytes: int, what: str) -> dict[str, tuple[TensorSpec, int]]:
    result = {}
    expected = 0
    for name, entry in sorted(entries.items(), key=lambda item: item[1].data_offsets):
        if entry.dtype not in _NAMES:
            raise UnsupportedError(f"The tensor {name} of {what} has the unknown dtype {entry.dtype}.")
        if len(entry.shape) > 64 or any(n < 0 for n in entry.shape):
            raise _broken(what, f"the tensor {name} has an impossible shape")
        spec = TensorSpec(_NAMES[entry.dtype], entry.shape)
        start, end = entry.data_offsets
        if start != expected or end - start != spec.size_bytes:
            raise _broken(what, f"the place of the tensor {name} does not fit its shape")
        result[name] = (spec, start)
        expected = end
    if expected != data_bytes:
        raise _broken(what, f"it holds {data_bytes} bytes of tensors instead of {expected}")
    return result


def _broken(what: str, why: str) -> DamagedError:
    return DamagedError(f"{what} is not a whole .safetensors file: {why}.", do="Fetch or write it again.")
