"""Pickles of other programs, read without running anything that they name.

Only what ``paddle.save`` writes is known: containers, numbers, text, NumPy arrays; and what a reader of
another kind of file adds. Even NumPy's own constructors are not called with what a file says: stand-ins
check it and build the array.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import IO, Any, ClassVar

import numpy as np
import numpy.typing as npt

from holdfast.errors import DamagedError, UnsupportedError

_LINE_BYTES = 4096
_MAX_DIMENSIONS = 64
_UNREADABLE = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    RecursionError,
    TypeError,
    ValueError,
    pickle.UnpicklingError,
)


class _Dtype:
    """Stands for ``numpy.dtype`` while its state is being told."""

    __slots__ = ("order", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self.order = "<"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] not in ("<", "|", ">", "=") or any(part is not None for part in state[2:5]):
            raise ValueError("a structured dtype")
        self.order = state[1]

    def plain(self) -> np.dtype[Any]:
        dtype = np.dtype(self.text).newbyteorder(self.order)  # type: ignore[arg-type]  # checked above
        if dtype.kind not in "biufc":
            raise ValueError(f"an array of dtype {self.text}")
        return dtype


class PickledArray:
    """An array that a pickle described."""

    __slots__ = ("array",)
    array: npt.NDArray[Any]

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, is_fortran, raw = state
        data = raw.encode("latin1") if isinstance(raw, str) else raw
        plain = dtype.plain()
        if len(shape) > _MAX_DIMENSIONS or len(data) != prod(shape) * plain.itemsize:
            raise ValueError("an array whose bytes do not fit its shape")
        flat = np.frombuffer(data, dtype=plain).astype(plain.newbyteorder("<"), copy=False)
        self.array = flat.reshape(shape, order="F" if is_fortran else "C")


class Record:
    """Stands for an object of a class that a pickle may name: its fields are kept, nothing of it runs."""

    __slots__ = ("fields",)
    fields: Any

    def __setstate__(self, state: Any) -> None:
        self.fields = state


class _Call:
    """A function that a pickle may name; nothing can be set on it."""

    __slots__ = ("_function",)
    _function: Callable[..., Any]

    def __init__(self, function: Callable[..., Any]) -> None:
        object.__setattr__(self, "_function", function)

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(name)


def _array(*_: Any) -> PickledArray:
    return PickledArray()


def _dtype(text: Any, *_: Any) -> _Dtype:
    if not isinstance(text, str) or len(text) > 8 or not text.isalnum():  # NumPy parses ",8" as Python
        raise ValueError("a structured dtype")
    return _Dtype(text)


def _scalar(dtype: Any, raw: Any) -> Any:
    data = raw.encode("latin1") if isinstance(raw, str) else raw
    return np.frombuffer(data, dtype=dtype.plain(), count=1)[0].item()


def _encoded(text: str, encoding: str) -> bytes:
    if encoding not in ("latin1", "latin-1"):
        raise ValueError(f"text in {encoding}")
    return text.encode("latin1")


def _container(kind: type) -> Callable[..., Any]:
    def make(*arguments: Any) -> Any:
        # nothing that a size could be given to
        if any(type(a) not in (list, tuple, dict, PickledArray) for a in arguments):
            raise ValueError(f"a {kind.__name__} of something else")
        return kind(*arguments)

    return make


def _number(real: float, imaginary: float = 0.0) -> complex:
    return complex(float(real), float(imaginary))


def _not_called(*_: Any) -> Any:
    raise ValueError("a bare array type")


_NUMPY = {
    ("multiarray", "_reconstruct"): _array,
    ("multiarray", "scalar"): _scalar,
}
Known = dict[tuple[str, str], Callable[..., Any] | type[Record] | str]
"""What stands for each name: a function that checks what it is given, a class of records, a plain text."""
_KNOWN: Known = {
    **{(f"numpy.{core}.{m}", n): f for core in ("core", "_core") for (m, n), f in _NUMPY.items()},
    ("numpy", "ndarray"): _not_called,
    ("numpy", "dtype"): _dtype,
    ("_codecs", "encode"): _encoded,
    ("collections", "OrderedDict"): _container(dict),
    **{
        (module, kind.__name__): _container(kind)
        for module in ("builtins", "__builtin__")
        for kind in (tuple, list, dict, set, frozenset, bytes)
    },
    ("builtins", "complex"): _number,
    ("__builtin__", "complex"): _number,
}


class _Bounded:
    """A file that is never asked for more than it holds: a pickle may claim any size."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._left_bytes = file.seek(0, 2)
        file.seek(0)

    def read(self, size_bytes: int) -> bytes:
        if not 0 <= size_bytes <= self._left_bytes:
            raise EOFError("it ends too soon")
        self._left_bytes -= size_bytes
        return self._file.read(size_bytes)

    def readline(self) -> bytes:
        line = self._file.readline(_LINE_BYTES)
        self._left_bytes -= len(line)
        return line


_FORBIDDEN = (
    pickle.EXT1,
    pickle.EXT2,
    pickle.EXT4,
    pickle.PERSID,
    pickle.BINPERSID,
    pickle.BYTEARRAY8,
    pickle.NEXT_BUFFER,
)


# The pure Python one: its memo is a dict, where C's is an array as long as the largest index named.
class _Unpickler(pickle._Unpickler):
    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = {
        code: load for code, load in pickle._Unpickler.dispatch.items() if bytes([code]) not in _FORBIDDEN
    }

    def __init__(self, file: _Bounded, known: Known) -> None:
        super().__init__(file, encoding="latin1")
        self._known = known

    def find_class(self, module: str, name: str) -> Any:
        stand_in = self._known.get((module, name))
        if stand_in is None:
            raise UnsupportedError(
                f"The file names {module}.{name}, which only running code could build; it was not run.",
                do="Save plain tensors, numbers and containers, and import that.",
            )
        if isinstance(stand_in, str) or (isinstance(stand_in, type) and issubclass(stand_in, Record)):
            return stand_in
        return _Call(stand_in)


def unpickle(path: Path, known: Known | None = None) -> Any:
    """The containers, numbers, `PickledArray` and `Record` of a file.

    Parameters
    ----------
    known : dict, optional
        What stands for further names than those that ``paddle.save`` writes.

    Raises
    ------
    UnsupportedError
        It names anything else; nothing was run.
    DamagedError
        It is cut short, or no such file.
    """
    with path.open("rb") as file:
        try:
            return _Unpickler(_Bounded(file), _KNOWN | (known or {})).load()
        except _UNREADABLE as error:
            raise DamagedError(
                f"{path.name} is not a whole pickle of plain values: {error or type(error).__name__}.",
                do="Fetch or write it again.",
            ) from error


def stand_ins() -> list[tuple[Callable[..., Any], str]]:
    """What another restricted loader is to use in place of NumPy's own: stand-ins by full name."""
    found = [(f, f"numpy.{core}.{m}.{n}") for core in ("core", "_core") for (m, n), f in _NUMPY.items()]
    # Set up after they are made, so the loader wants their classes; no file can name a line break.
    return [*found, (_dtype, "numpy.dtype"), (PickledArray, "numpy.ndarray"), (_Dtype, "\n")]
