"""What samplers and datasets hold from pass to pass: generators, and plain attributes that move."""

from __future__ import annotations

import random
import sys
from array import array
from collections.abc import Callable, Iterator
from functools import partial
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any, NamedTuple

MAX_OBJECTS = 1000
MAX_ENTRIES = 64
_OPAQUE = (str, bytes, bytearray, int, float, complex, type, ModuleType, FunctionType, MethodType)
_OPAQUE += (BuiltinFunctionType, range)  # type: ignore[assignment]
_PLAIN = (bool, int, float, str, type(None))
_NOT_PLAIN = object()


def reachable(root: Any, skip: frozenset[str] = frozenset()) -> Iterator[tuple[str, Any]]:
    """Objects within ``root``, nearest first, by path; bounded, never calls the objects' code."""
    queue, seen = [("", root)], {id(root)}
    for path, value in queue:
        yield path, value
        for name, child in _children(value):
            if name in skip or id(child) in seen or isinstance(child, _OPAQUE) or len(queue) >= MAX_OBJECTS:
                continue
            seen.add(id(child))
            queue.append((f"{path}.{name}" if path else name, child))


def _children(value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, dict | list | tuple):
        if len(value) > MAX_ENTRIES:  # told before they are copied: there may be millions
            return []
        entries = value.items() if isinstance(value, dict) else enumerate(value)
        return [(str(k), v) for k, v in entries]
    if is_generator(value) or hasattr(type(value), "dtype"):  # arrays and tensors hold no objects
        return []
    return [(str(k), v) for k, v in getattr(value, "__dict__", {}).items()]


def is_generator(value: Any) -> bool:
    """Whether ``value`` is a random generator of Python, NumPy or torch whose state can be kept."""
    if isinstance(value, random.Random):
        return not isinstance(value, random.SystemRandom)
    return _is_numpy(value) or _is_torch(value)


def _is_numpy(value: Any) -> bool:
    numpy = sys.modules.get("numpy")
    if numpy is None:
        return False
    return isinstance(value, numpy.random.Generator | numpy.random.RandomState)


def _is_torch(value: Any) -> bool:
    return type(value).__name__ == "Generator" and type(value).__module__.startswith("torch")


def generators(root: Any, skip: frozenset[str] = frozenset()) -> dict[str, Any]:
    """Every random generator held by ``root``, by path."""
    return {path: value for path, value in reachable(root, skip) if is_generator(value)}


def read(generator: Any) -> Any:
    """Its state as plain values."""
    if isinstance(generator, random.Random):
        version, words, gauss = generator.getstate()
        return [version, array("I", words).tobytes(), gauss]
    if _is_torch(generator):
        return bytes(generator.get_state().numpy().tobytes())
    if hasattr(generator, "bit_generator"):
        return _flat(generator.bit_generator.state)
    return _flat(generator.get_state(legacy=False))


def write(generator: Any, state: Any) -> None:
    """Put back what `read` returned."""
    if isinstance(generator, random.Random):
        version, words, gauss = state
        generator.setstate((version, tuple(array("I", words)), gauss))
    elif _is_torch(generator):
        import numpy as np

        tensor = generator.get_state()  # a fresh copy of the right type and size
        tensor.numpy()[:] = np.frombuffer(state, dtype=np.uint8)
        generator.set_state(tensor)
    elif hasattr(generator, "bit_generator"):
        generator.bit_generator.state = _full(state)
    else:
        generator.set_state(_full(state))


def reseed(generator: Any, entropy: bytes) -> None:
    """Seed a generator from 32 bytes."""
    if isinstance(generator, random.Random):
        generator.seed(entropy)
    elif _is_torch(generator):
        generator.manual_seed(int.from_bytes(entropy[:8], "little") >> 1)
    elif hasattr(generator, "bit_generator"):
        fresh = type(generator.bit_generator)(int.from_bytes(entropy, "little"))
        generator.bit_generator.state = fresh.state
    else:
        generator.seed(list(array("I", entropy)))


def _flat(state: Any) -> Any:
    """NumPy arrays within a state dict as (dtype, bytes)."""
    if isinstance(state, dict):
        return {k: _flat(v) for k, v in state.items()}
    if hasattr(state, "tobytes") and hasattr(state, "shape"):
        return ("array", state.dtype.str, state.tobytes()) if state.shape else state.item()
    return state


def _full(state: Any) -> Any:
    import numpy as np

    if isinstance(state, dict):
        return {k: _full(v) for k, v in state.items()}
    if isinstance(state, tuple):
        return np.frombuffer(state[2], dtype=state[1]).copy()
    return state


class _Cell(NamedTuple):
    """One thing that may move: how to read it, how to put it back."""

    read: Callable[[], Any]
    write: Callable[[Any], None]
    unseeded: bool  # may differ from launch to launch before anyone used it
    generator: bool


class Held:
    """Watches what ``root`` holds, over the passes of one process.

    It is looked for anew each time: scripts replace generators (``set_epoch``), or make them late.

    Parameters
    ----------
    root : object
        A sampler, or a dataset loaded in this process.
    skip : frozenset of str
        Attributes not to follow.
    attributes : bool
        Also plain attributes (``epoch`` counters), not only generators.
    """

    def __init__(self, root: Any, skip: frozenset[str] = frozenset(), *, attributes: bool = True) -> None:
        self._cells = partial(_cells, root, skip, attributes=attributes)
        self._first = self._now()
        self._start = self._first
        self._end: dict[str, Any] | None = None
        self._touched: dict[str, bool] = {}

    def _now(self) -> dict[str, Any]:
        return {path: cell.read() for path, cell in self._cells()}

    def begin(self) -> None:
        """Note what is held as a pass begins, and whether the script changed it since the last."""
        self._start = self._now()
        if self._end is not None:
            for path, value in self._start.items():
                self._touched[path] = self._touched.get(path, False) or value != self._end.get(path)

    def end(self) -> None:
        """Note what is held as a pass ends."""
        self._end = self._now()

    def state(self) -> dict[str, Any]:
        """Plain: ``[first seen, at the pass's start, now, touched by the script]`` of all that moved."""
        result = {}
        for path, cell in self._cells():
            absent, now = None if cell.generator else _NOT_PLAIN, cell.read()
            first, start = self._first.get(path, absent), self._start.get(path, absent)
            if not first == start == now and not any(v is _NOT_PLAIN for v in (first, start, now)):
                result[path] = [first, start, now, self._touched.get(path)]
        return result

    def resume(self, saved: dict[str, Any]) -> None:
        """Go back to where the saved pass began."""
        self._put(saved, 1, lambda path, cell, entry: not (cell.generator and entry[1] is None))
        self._start = self._now()

    def carry(self, saved: dict[str, Any]) -> None:
        """Bring along what an earlier pass left behind, except what the script sets itself."""
        self._put(saved, 2, self._left_alone)

    def share(self, saved: dict[str, Any]) -> None:
        """Put generators where the saved pass stood: the training loop may draw from them, too."""
        self._put(saved, 2, lambda path, cell, entry: cell.generator)

    def latest(self, saved: dict[str, Any]) -> None:
        """Go to where the saved pass stood."""
        self._put(saved, 2, lambda path, cell, entry: True)

    def lacks(self, saved: dict[str, Any]) -> str | None:
        """Why what follows may differ: a generator was held when this was saved, and is not (yet) now."""
        lost = sorted(saved.keys() - dict(self._cells()).keys())
        made = "is made only when it is needed: make it in __init__()"
        return f"the generator {lost[0]} of the dataset {made}" if lost else None

    def _left_alone(self, path: str, cell: _Cell, entry: list[Any]) -> bool:
        """Whether the script does not set it before each pass."""
        first, start, _, touched = entry
        if touched is not None and not cell.generator:
            return not touched
        live = cell.read()
        if live == first:  # a script may set the same each time; one that only drew from it sets nothing
            return not (touched and start == first)
        return cell.unseeded or (self._end is not None and live == self._end.get(path))

    def _put(self, saved: dict[str, Any], which: int, wanted: Callable[..., bool]) -> None:
        cells = dict(self._cells())
        for path, entry in saved.items():
            if path not in cells:
                continue
            if wanted(path, cells[path], entry):
                cells[path].write(entry[which])
            self._first[path] = entry[0]
            if entry[3] is not None:
                self._touched[path] = entry[3]
        self._end = None


def _cells(root: Any, skip: frozenset[str], *, attributes: bool) -> Iterator[tuple[str, _Cell]]:
    objects = dict(reachable(root, skip))
    for path, value in objects.items():
        if is_generator(value):
            owner = objects.get(path.rpartition(".")[0])
            yield path, _generator(value, owner)
        elif attributes and not isinstance(value, dict | list | tuple):
            for name, plain in list(getattr(value, "__dict__", {}).items()):
                if type(plain) in _PLAIN and name not in skip:
                    yield f"{path}:{name}", _attribute(value, name)


def _generator(generator: Any, owner: Any) -> _Cell:
    # torchdata's samplers seed theirs from the global one; NumPy's are often made unseeded
    unseeded = _draws_of_the_system(generator) or type(owner).__module__.startswith("torchdata")
    return _Cell(lambda: read(generator), lambda state: write(generator, state), unseeded, generator=True)


def _draws_of_the_system(generator: Any) -> bool:
    """Whether NumPy took its seed from the system, as far as its size tells."""
    bits = getattr(generator, "bit_generator", None)
    entropy = getattr(getattr(bits, "seed_seq", None), "entropy", 2**64)
    return bits is not None and isinstance(entropy, int) and entropy >= 2**64


def _attribute(owner: Any, name: str) -> _Cell:
    def get() -> Any:
        value = owner.__dict__.get(name, _NOT_PLAIN)
        return value if type(value) in _PLAIN else _NOT_PLAIN

    def put(value: Any) -> None:
        owner.__dict__[name] = value

    return _Cell(get, put, unseeded=False, generator=False)
