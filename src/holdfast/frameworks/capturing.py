"""The walk that captures a live state: tensors by reference, objects by their adapters."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from typing import Any

from holdfast.domain.tensors import TensorRef, TensorSource
from holdfast.domain.tree import Component
from holdfast.errors import UnsupportedError
from holdfast.frameworks import classes, registry
from holdfast.frameworks.base import Form
from holdfast.frameworks.remembering import Known, Make, Memory, remember

_PLAIN = frozenset({type(None), bool, int, float, str, bytes})
"""Exactly of these classes, a value is no tensor and no object of any framework."""


class Capture:
    """What one safe point holds.

    Parameters
    ----------
    state : mapping
    memory : Memory, optional
        What earlier captures of this state have left.

    Attributes
    ----------
    tree : dict[str, Any]
        Plain values with `TensorRef` and `Component` in place of tensors and objects.
    tensors : dict[str, TensorSource]
        The live tensors by name.
    """

    def __init__(self, state: Mapping[str, object], memory: Memory | None = None) -> None:
        self.state = state
        self.tree: dict[str, Any] = {}
        self.tensors: dict[str, TensorSource] = {}
        self._memory = memory
        self._known: dict[str, Known] = {}
        self._live: dict[str, Any] = {}
        self._renamed = False

    def value(self, value: object, path: str) -> Any:
        if type(value) in _PLAIN:
            return value
        for framework in registry.active():
            if framework.is_tensor(value):
                source, device = framework.source(value, path)
                ref = self.tensor(path, framework.name, device, source)
                self._live[ref.name] = value
                return ref
            adapter = framework.component(value)
            if adapter is not None:
                return Component(adapter.kind, adapter.capture(value, path, self))
        if isinstance(value, dict):
            items = {self._hashed(k, path): self.value(v, f"{path}/{k}") for k, v in value.items()}
            return classes.kept(value, items)
        if isinstance(value, list):
            return classes.kept(value, [self.value(v, f"{path}/{i}") for i, v in enumerate(value)])
        if isinstance(value, tuple):
            return classes.kept(value, tuple(self.value(v, f"{path}/{i}") for i, v in enumerate(value)))
        return self._hashable(value, path)

    def _hashable(self, value: object, path: str) -> Any:
        """A key of a dict, an element of a set, or what may be one."""
        if isinstance(value, enum.Enum):
            return classes.kept(value, value.value)
        for plain in (tuple, frozenset, set):
            if isinstance(value, plain):
                return classes.kept(value, plain(self._hashed(v, path) for v in value))
        return value

    def _hashed(self, value: object, path: str) -> Any:
        result = self._hashable(value, path)
        try:
            hash(result)
        except TypeError:
            raise UnsupportedError(
                f"{path} holds {value!r}, whose value cannot be hashed.", do="Give its class hashable values."
            ) from None
        return result

    def tensor(self, path: str, framework: str, device: str, source: TensorSource) -> TensorRef:
        name, copy = path, 2
        while name in self.tensors:
            name, copy = f"{path}~{copy}", copy + 1
            self._renamed = True
        self.tensors[name] = source
        return TensorRef(name, framework, device)

    def lasting(self, path: str, form: Form | None, make: Make) -> list[Any]:
        if self._memory is None or form is None:
            return make()
        known = self._memory[path]
        if known is None or known.facts != form.facts or not self._are_free(known.sources):
            return self._made(path, form, make)
        self.tensors |= known.again(form)
        self._known[path] = known
        return known.pieces

    def _are_free(self, names: Mapping[str, object]) -> bool:
        return names.keys().isdisjoint(self.tensors)

    def _made(self, path: str, form: Form, make: Make) -> list[Any]:
        before = len(self.tensors)
        pieces = make()
        sources = dict(islice(self.tensors.items(), before, None))
        known = None if self._renamed else remember(form, pieces, sources, self._live)
        if known is None:
            return pieces
        self._known[path] = known
        self.tensors |= known.again(form)
        return known.pieces

    def finish(self) -> None:
        """Leave to the next capture what this one has learned."""
        if self._memory is not None:
            self._memory.renew(self._known)


def capture(state: Mapping[str, object], memory: Memory | None = None) -> Capture:
    """Capture every entry of the user's state dict; tensors are referenced, not copied."""
    result = Capture(state, memory)
    with refusing_endless():
        for key, value in state.items():
            result.tree[key] = result.value(value, key)
    result.finish()
    return result


@contextmanager
def refusing_endless() -> Iterator[None]:
    """Refuse a state that holds itself in one sentence, not with a RecursionError."""
    try:
        yield
    except RecursionError as error:
        raise UnsupportedError(
            "The state holds itself, or is nested too deeply.", do="Leave the way back to itself out of it."
        ) from error
