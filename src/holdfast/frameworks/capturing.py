"""The walk that captures a live state: tensors by reference, objects by their adapters."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from holdfast.domain.tensors import TensorRef, TensorSource
from holdfast.domain.tree import Component
from holdfast.errors import UnsupportedError
from holdfast.frameworks import classes, registry


class Capture:
    """What one safe point holds.

    Attributes
    ----------
    tree : dict[str, Any]
        Plain values with `TensorRef` and `Component` in place of tensors and objects.
    tensors : dict[str, TensorSource]
        The live tensors by name.
    """

    def __init__(self, state: Mapping[str, object]) -> None:
        self.state = state
        self.tree: dict[str, Any] = {}
        self.tensors: dict[str, TensorSource] = {}

    def value(self, value: object, path: str) -> Any:
        for framework in registry.active():
            if framework.is_tensor(value):
                source, device = framework.source(value, path)
                return self.tensor(path, framework.name, device, source)
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
        self.tensors[name] = source
        return TensorRef(name, framework, device)


def capture(state: Mapping[str, object]) -> Capture:
    """Capture every entry of the user's state dict; tensors are referenced, not copied."""
    result = Capture(state)
    with refusing_endless():
        for key, value in state.items():
            result.tree[key] = result.value(value, key)
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
