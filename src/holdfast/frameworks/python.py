"""Plain Python: dataclasses, deques, ``random``, and any object that has a state of its own to give."""

from __future__ import annotations

import copy
import dataclasses
import numbers
import platform
import random
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, NoReturn

from holdfast.domain.tensors import TensorSource, TensorSpec, TensorTarget
from holdfast.errors import DamagedError, UnsupportedError
from holdfast.frameworks import registry
from holdfast.frameworks import walk as walks
from holdfast.frameworks.base import (
    CaptureWalk,
    ComponentAdapter,
    Environment,
    LoadWalk,
    PositionedLoader,
)

_PLAIN = (type(None), bool, int, float, complex, str, bytes, dict, list, tuple, set)


class _StateDictAdapter:
    """Anything that says itself what its state is: captured as it says, given back whole."""

    kind = "python.state_dict"

    def capture(self, value: Any, path: str, walk: CaptureWalk) -> Any:
        return walk.value(value.state_dict(), path)

    def plan(self, value: Any, saved: Any, path: str, walk: LoadWalk) -> None:
        state = walk.value(saved, _skeleton(value.state_dict()), path)
        walk.then(lambda: _loads_state(value)(state))

    def given(self, value: Any) -> dict[str, Any]:
        return {}

    def apply_given(self, value: Any, changes: dict[str, Any]) -> None:
        pass


def _skeleton(live: Any) -> Any:
    """What the live state is built of, but not its containers and tensors: those will be new."""
    if isinstance(live, dict):
        items = {key: _skeleton(value) for key, value in live.items()}
        return items if type(live) is dict else _like(live, items)
    if type(live) in (list, tuple):
        return [_skeleton(value) for value in live]
    is_new = type(live) is deque or any(f.is_tensor(live) for f in registry.active())
    return None if is_new else live


def _like(live: dict[Any, Any], items: dict[Any, Any]) -> dict[Any, Any]:
    new = copy.copy(live)  # with its factory, or whatever else a class keeps beside the items
    new.clear()
    new.update(items)
    return new


def _loads_state(value: object) -> Any:
    return getattr(value, "load_state_dict", None) or getattr(value, "set_state_dict", None)


def _keeps_state(value: object) -> bool:
    return callable(getattr(value, "state_dict", None)) and callable(_loads_state(value))


class _DataclassAdapter:
    """Field by field: in place, or as a new object where it is frozen."""

    kind = "python.dataclass"

    def capture(self, value: Any, path: str, walk: CaptureWalk) -> Any:
        return {name: walk.value(field, f"{path}/{name}") for name, field in _fields(value).items()}

    def plan(self, value: Any, saved: Any, path: str, walk: LoadWalk) -> Any:
        if not isinstance(saved, dict):
            walk.mismatched(path, type(saved).__name__, self.kind)
            return None
        live = _fields(value)
        for name in live.keys() - saved.keys():
            walk.missing(f"{path}/{name}")
        for name in saved.keys() - live.keys():
            walk.unexpected(f"{path}/{name}")
        new = {name: walk.held(saved[name], live[name], f"{path}/{name}") for name in live if name in saved}
        changed = {name: field for name, field in new.items() if field is not live[name]}
        if not changed:
            return None
        if not type(value).__dataclass_params__.frozen:
            walk.then(lambda: _set_fields(value, changed, setattr))
            return None
        rebuilt = copy.copy(value)
        _set_fields(rebuilt, changed, object.__setattr__)
        return rebuilt

    def given(self, value: Any) -> dict[str, Any]:
        return walks.given(_fields(value))

    def apply_given(self, value: Any, changes: dict[str, Any]) -> None:
        walks.apply_given(_fields(value), changes)


def _fields(value: Any) -> dict[str, Any]:
    names = [field.name for field in dataclasses.fields(value)]
    return {name: getattr(value, name) for name in names if hasattr(value, name)}


def _set_fields(value: Any, fields: dict[str, Any], put: Callable[[Any, str, Any], None]) -> None:
    for name, field in fields.items():
        put(value, name, field)


class _DequeAdapter:
    """A ``collections.deque``: a buffer of the last so many, filled in place."""

    kind = "python.deque"

    def capture(self, value: deque[Any], path: str, walk: CaptureWalk) -> Any:
        return {"maxlen": value.maxlen, "items": walk.value(list(value), path)}

    def plan(self, value: deque[Any], saved: Any, path: str, walk: LoadWalk) -> None:
        if saved["maxlen"] != value.maxlen:
            walk.mismatched(path, f"a deque with maxlen={saved['maxlen']}", f"maxlen={value.maxlen}")
            return
        if not isinstance(saved["items"], list):
            raise TypeError("its items are no list")
        items = walk.value(saved["items"], None, path)  # of new ones: which were at which place is past
        walk.then(lambda: _refill(value, items))

    def given(self, value: deque[Any]) -> dict[str, Any]:
        return {}

    def apply_given(self, value: deque[Any], changes: dict[str, Any]) -> None:
        pass


def _refill(value: deque[Any], items: list[Any]) -> None:
    value.clear()
    value.extend(items)


def _build_deque(saved: Any, path: str, walk: LoadWalk) -> deque[Any]:
    value: deque[Any] = deque(maxlen=saved["maxlen"])
    _DEQUE.plan(value, saved, path, walk)
    return value


class _RandomAdapter:
    """A generator of Python's ``random``."""

    kind = "python.random"

    def capture(self, value: Any, path: str, walk: CaptureWalk) -> Any:
        if isinstance(value, random.SystemRandom):
            raise UnsupportedError(
                f"{path} is a SystemRandom, which never repeats what it drew.", do="Use random.Random(seed)."
            )
        return value.getstate()

    def plan(self, value: Any, saved: Any, path: str, walk: LoadWalk) -> None:
        if _fits(saved):
            walk.then(lambda: value.setstate(saved))
        else:
            walk.mismatched(path, "a damaged generator", self.kind)

    def given(self, value: Any) -> dict[str, Any]:
        return {}

    def apply_given(self, value: Any, changes: dict[str, Any]) -> None:
        pass


def _fits(state: Any) -> bool:
    try:
        random.Random(0).setstate(state)
    except (ValueError, TypeError, IndexError, OverflowError):
        return False
    return isinstance(state[2], float | None)


def _build_random(saved: Any, path: str, walk: LoadWalk) -> random.Random:
    value = random.Random()
    _RANDOM.plan(value, saved, path, walk)
    return value


_STATE_DICT = _StateDictAdapter()
_DATACLASS = _DataclassAdapter()
_DEQUE = _DequeAdapter()
_RANDOM = _RandomAdapter()


class PythonFramework:
    """The plain side of `holdfast.frameworks.base.Framework`; asked after all others."""

    name = "python"

    def is_tensor(self, value: object) -> bool:
        return False

    def source(self, value: Any, path: str) -> tuple[TensorSource, str]:
        self._has_no_tensors()

    def target(self, value: Any) -> TensorTarget:
        self._has_no_tensors()

    def new_tensor(self, spec: TensorSpec, device: str) -> tuple[Any, TensorTarget]:
        self._has_no_tensors()

    def _has_no_tensors(self) -> NoReturn:
        raise DamagedError("The checkpoint holds a tensor of plain Python, which has none.")

    def component(self, value: object) -> ComponentAdapter | None:
        if type(value) in _PLAIN or isinstance(value, type):
            return None
        if _keeps_state(value):
            return _STATE_DICT
        if isinstance(value, random.Random):
            return _RANDOM
        if type(value) is deque:
            return _DEQUE
        return _DATACLASS if dataclasses.is_dataclass(value) else None

    def rng_state(self) -> Any:
        return random.getstate()

    def set_rng_state(self, saved: Any) -> None:
        if not _fits(saved):
            raise DamagedError("The checkpoint's state of Python's random generator cannot be read.")
        random.setstate(saved)

    def data_seed(self) -> int | None:
        return None

    def environment(self) -> Environment:
        return Environment(
            versions={"python": platform.python_version()}, devices={"python": platform.machine()}
        )

    def loader(self, value: object) -> PositionedLoader | None:
        from holdfast.frameworks.data.plain import positioned

        return positioned(value)

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
        return float(value) if isinstance(value, numbers.Real) else None


FRAMEWORK = PythonFramework()
BUILDERS = {_RANDOM.kind: _build_random, _DEQUE.kind: _build_deque}
