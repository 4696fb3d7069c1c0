"""States that users' samplers and datasets give, as bytes: plain values and small tensors."""

from __future__ import annotations

from typing import Any

import msgspec

from holdfast.domain import tree
from holdfast.domain.tensors import TensorSpec
from holdfast.domain.tree import Component
from holdfast.frameworks import registry

_TENSOR = "position.tensor"


def pack(value: Any, path: str) -> bytes:
    """Encode at once, so that what the owner changes later does not show.

    Raises
    ------
    UnsupportedError
        Names the leaf below ``path`` that cannot be kept exactly.
    """
    return msgspec.msgpack.encode(tree.encode(_plain(value, path), path))


def unpack(data: bytes) -> Any:
    """What `pack` was given."""
    return _full(tree.decode(msgspec.msgpack.decode(data)))


def _plain(value: Any, path: str) -> Any:
    for framework in registry.active():
        if framework.is_tensor(value):
            source, device = framework.source(value, path)
            spec = source.spec
            state = [framework.name, device, spec.dtype, list(spec.shape), source.read().tobytes()]
            return Component(_TENSOR, state)
    if type(value) is dict:
        return {k: _plain(v, f"{path}.{k}") for k, v in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_plain(v, f"{path}[{i}]") for i, v in enumerate(value))
    return value


def _full(value: Any) -> Any:
    if isinstance(value, Component) and value.kind == _TENSOR:
        return _tensor(*value.state)
    if type(value) is dict:
        return {k: _full(v) for k, v in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_full(v) for v in value)
    return value


def _tensor(framework: str, device: str, dtype: str, shape: list[int], data: bytes) -> Any:
    import numpy as np

    value, target = registry.framework(framework).new_tensor(TensorSpec(dtype, tuple(shape)), device)
    target.buffer()[:] = np.frombuffer(data, dtype=np.uint8)
    target.commit()
    return value
