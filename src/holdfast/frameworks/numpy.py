"""NumPy: dense arrays of any layout, and every kind of random generator."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from holdfast.domain.tensors import ITEM_BYTES, TensorSource, TensorSpec, TensorTarget
from holdfast.errors import DamagedError, MismatchError, UnsupportedError
from holdfast.frameworks.base import (
    CaptureWalk,
    ComponentAdapter,
    Environment,
    LoadWalk,
    PositionedLoader,
)

_NATIVE = frozenset(name for name in ITEM_BYTES if hasattr(np, name))
_PLAIN_CLASSES = (np.ndarray, np.memmap, np.matrix)
_BIT_GENERATORS: dict[str, Callable[[], np.random.BitGenerator]] = {
    "MT19937": np.random.MT19937,
    "PCG64": np.random.PCG64,
    "PCG64DXSM": np.random.PCG64DXSM,
    "Philox": np.random.Philox,
    "SFC64": np.random.SFC64,
}
_LARGEST_POSITION = {"pos": 624, "buffer_pos": 4}
"""NumPy itself reads beyond its tables where these are larger."""
_LARGEST_POOL = 1024

Array = npt.NDArray[Any]


class _Source:
    """An array whose bytes can be read."""

    def __init__(self, array: Array) -> None:
        self._array = np.asarray(array)
        self.spec = _spec(array)

    @property
    def in_place(self) -> bool:
        return self._array.flags.c_contiguous and self._array.dtype == _little(self._array.dtype)

    def read(self) -> npt.NDArray[np.uint8]:
        dense = np.ascontiguousarray(self._array, dtype=_little(self._array.dtype))
        return dense.reshape(-1).view(np.uint8)


class _Target:
    """An array to restore into: its own memory where that is dense and little-endian."""

    def __init__(self, array: Array) -> None:
        self._array = np.asarray(array)
        self._staged: Array | None = None
        self.spec = _spec(array)

    def buffer(self) -> npt.NDArray[np.uint8]:
        dense, little = self._array, _little(self._array.dtype)
        if not dense.flags.c_contiguous or dense.dtype != little:
            dense = self._staged = np.empty(dense.shape, dtype=little)
        return dense.reshape(-1).view(np.uint8)

    def commit(self) -> None:
        if self._staged is not None:
            self._array[...] = self._staged
            self._staged = None


def _spec(array: Array) -> TensorSpec:
    return TensorSpec(array.dtype.name, array.shape)


def _little(dtype: np.dtype[Any]) -> np.dtype[Any]:
    return dtype.newbyteorder("<") if dtype.kind in "iufc" else dtype


def _check(array: Array, path: str) -> None:
    if type(array) not in _PLAIN_CLASSES:
        what = f"a {type(array).__module__}.{type(array).__qualname__}, which holds more than its values"
    elif array.dtype.name not in ITEM_BYTES:
        what = f"a NumPy array of dtype {array.dtype.name}, which cannot be kept exactly"
    else:
        return
    raise UnsupportedError(
        f"{path} is {what}.", do="Keep it as a plain numeric array, or leave it out of the state."
    )


def _dtype(name: str) -> np.dtype[Any]:
    if name in _NATIVE:
        return np.dtype(name)
    try:
        import ml_dtypes  # type: ignore[import-not-found,unused-ignore]  # optional

        dtype: np.dtype[Any] = np.dtype(getattr(ml_dtypes, name))  # TensorSpec lets only known names in
    except (ImportError, AttributeError) as error:
        raise UnsupportedError(
            f"The checkpoint holds a NumPy array of dtype {name}, which NumPy does not know here.",
            do="Install ml_dtypes, or load it into a live tensor of a framework that has this dtype.",
        ) from error
    return dtype


class _RandomAdapter:
    """A random generator: its state, and the seed sequence that its children come from."""

    def __init__(
        self,
        kind: str,
        wrap: Callable[[Any], Any],
        read: Callable[[Any], Any],
        write: Callable[[Any, Any], None],
    ) -> None:
        self.kind = kind
        self.wrap = wrap
        self._read = read
        self._write = write

    def capture(self, value: Any, path: str, walk: CaptureWalk) -> Any:
        _check_random(value, path)
        return _plain(self._read(value))

    def plan(self, value: Any, saved: Any, path: str, walk: LoadWalk) -> None:
        live = self._read(value)
        try:
            state = self.fitting(saved, live)
        except (ValueError, TypeError, KeyError, OverflowError):
            walk.mismatched(path, _algorithm(saved), _algorithm(live))
        else:
            walk.then(lambda: self._write(value, state))

    def fitting(self, saved: Any, live: Any) -> Any:
        """The saved state in the types of the live one, tried on a generator that nobody uses."""
        state = _typed(saved, live)
        self._write(self.wrap(_BIT_GENERATORS[_algorithm(state)]()), state)
        return state

    def given(self, value: Any) -> dict[str, Any]:
        return {}

    def apply_given(self, value: Any, changes: dict[str, Any]) -> None:
        pass


def _check_random(value: Any, path: str) -> None:
    bits = getattr(value, "bit_generator", value)
    if isinstance(bits, np.random.BitGenerator) and type(bits).__name__ not in _BIT_GENERATORS:
        raise UnsupportedError(
            f"{path} draws from a {type(bits).__name__}, whose state is not known here.",
            do=f"Use one of {', '.join(_BIT_GENERATORS)}.",
        )


def _read_bits(bits: Any) -> dict[str, Any]:
    sequence = bits.seed_seq
    seeds = sequence.state if type(sequence) is np.random.SeedSequence else None
    return {"state": bits.state, "seeds": seeds}


def _write_bits(bits: Any, saved: dict[str, Any]) -> None:
    if saved["seeds"] is not None:
        try:
            bits.__setstate__((saved["state"], np.random.SeedSequence(**saved["seeds"])))
        except TypeError:  # NumPy 1 cannot be given a seed sequence: only later spawn() differs
            pass
        else:
            return
    bits.state = saved["state"]


def _read_generator(generator: Any) -> dict[str, Any]:
    return _read_bits(generator.bit_generator)


def _write_generator(generator: Any, saved: dict[str, Any]) -> None:
    _write_bits(generator.bit_generator, saved)


def _read_legacy(state: Any) -> dict[str, Any]:
    return {"state": state.get_state(legacy=False)}


def _write_legacy(state: Any, saved: dict[str, Any]) -> None:
    state.set_state(saved["state"])


def _plain(state: Any) -> Any:
    """Arrays as lists of numbers."""
    if isinstance(state, dict):
        return {key: _plain(value) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(_plain(value) for value in state)
    return state.tolist() if isinstance(state, np.ndarray | np.generic) else state


def _typed(saved: Any, live: Any, name: str = "") -> Any:
    if name == "seeds":
        return _seeds(saved)
    if isinstance(live, dict):
        if not isinstance(saved, dict) or saved.keys() != live.keys():
            raise ValueError("other parts")
        return {key: _typed(saved[key], value, key) for key, value in live.items()}
    if isinstance(live, np.ndarray):
        array = np.array(saved, dtype=live.dtype)
        if array.shape != live.shape:
            raise ValueError("another size")
        return array
    if type(saved) is not type(_plain(live)) or (isinstance(live, str) and saved != live):
        raise ValueError("another kind of value")
    if name in _LARGEST_POSITION and not 0 <= saved <= _LARGEST_POSITION[name]:
        raise ValueError("a position out of bounds")
    return saved


def _seeds(saved: Any) -> dict[str, Any] | None:
    if saved is None:
        return None
    if not 0 < saved["pool_size"] <= _LARGEST_POOL:
        raise ValueError("a pool out of bounds")
    return dict(np.random.SeedSequence(**saved).state)


def _algorithm(state: Any) -> str:
    try:
        return str(state["state"]["bit_generator"])
    except (TypeError, KeyError):
        return "a damaged generator"


_GENERATOR = _RandomAdapter("numpy.generator", np.random.Generator, _read_generator, _write_generator)
_RANDOM_STATE = _RandomAdapter("numpy.random_state", np.random.RandomState, _read_legacy, _write_legacy)
_BITS = _RandomAdapter("numpy.bit_generator", lambda bits: bits, _read_bits, _write_bits)


def _builder(adapter: _RandomAdapter) -> Callable[[Any, str, LoadWalk], Any]:
    def build(saved: Any, path: str, walk: LoadWalk) -> Any:
        make = _BIT_GENERATORS.get(_algorithm(saved))
        if make is None:
            raise DamagedError(f"{path} is a random generator that NumPy does not have: {_algorithm(saved)}.")
        value = adapter.wrap(make())
        adapter.plan(value, saved, path, walk)
        return value

    return build


class NumpyFramework:
    """The NumPy side of `holdfast.frameworks.base.Framework`."""

    name = "numpy"

    def is_tensor(self, value: object) -> bool:
        return isinstance(value, np.ndarray)

    def source(self, value: Any, path: str) -> tuple[TensorSource, str]:
        _check(value, path)
        return _Source(value), "cpu"

    def target(self, value: Any) -> TensorTarget:
        _check(value, "A live array")
        return _Target(value)

    def new_tensor(self, spec: TensorSpec, device: str) -> tuple[Any, TensorTarget]:
        array = np.empty(spec.shape, dtype=_dtype(spec.dtype))
        return array, _Target(array)

    def component(self, value: object) -> ComponentAdapter | None:
        if isinstance(value, np.random.Generator):
            return _GENERATOR
        if isinstance(value, np.random.RandomState):
            return _RANDOM_STATE
        return _BITS if isinstance(value, np.random.BitGenerator) else None

    def rng_state(self) -> Any:
        return _plain(_read_legacy(np.random))

    def set_rng_state(self, saved: Any) -> None:
        live = _read_legacy(np.random)
        try:
            state = _RANDOM_STATE.fitting(saved, live)
        except (ValueError, TypeError, KeyError, OverflowError) as error:
            raise MismatchError(
                f"NumPy's global generator is a {_algorithm(live)} here and {_algorithm(saved)} in the "
                "checkpoint.",
                do="Call numpy.random.set_bit_generator() as the script did when it saved.",
            ) from error
        _write_legacy(np.random, state)

    def data_seed(self) -> int | None:
        return None

    def environment(self) -> Environment:
        return Environment(versions={"numpy": np.__version__})

    def loader(self, value: object) -> PositionedLoader | None:
        return None

    def watch_steps(
        self,
        values: Iterable[object],
        on_step: Callable[[], None],
        before_step: Callable[[], None] | None = None,
    ) -> Callable[[], None]:
        return lambda: None

    def changed_by_steps_only(self, values: Iterable[object]) -> dict[tuple[int, int], Callable[[], int]]:
        return {}

    def has_gradients(self, values: Iterable[object]) -> bool:
        return False

    def learning_rates(self, value: object) -> list[float]:
        return []

    def collective_seconds(self, value: object) -> tuple[int, float] | None:
        return None

    def scalar(self, value: object) -> float | None:
        single = isinstance(value, np.generic) or (isinstance(value, np.ndarray) and value.ndim == 0)
        return float(value) if single and value.dtype.kind in "biuf" else None  # type: ignore[attr-defined,arg-type]


FRAMEWORK = NumpyFramework()
BUILDERS = {adapter.kind: _builder(adapter) for adapter in (_GENERATOR, _RANDOM_STATE, _BITS)}
