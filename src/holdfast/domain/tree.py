"""The typed tree: everything of a training state that is no tensor, exactly and without pickle.

`encode` turns Python values into nodes that MessagePack can carry; `decode` turns nodes
back. A scalar is its own node; everything else is an array whose first item is a tag.
`TensorRef` stands for tensors, `Component` for objects that have a state of their own.
"""

from __future__ import annotations

import datetime as dt
import enum
import sys
from collections import OrderedDict
from typing import Any, cast

import msgspec

from holdfast.domain.tensors import TensorRef
from holdfast.errors import DamagedError, UnsupportedError

Node = Any
"""nil, bool, int64, float, str, bytes or ``[tag, ...]``."""

MAX_DEPTH = 128
_INT64 = range(-(2**63), 2**63)
_PLAIN = (bool, float, str, bytes, type(None))


class Component(msgspec.Struct, frozen=True):
    """An object that keeps its own state (module, optimizer, generator ...).

    Attributes
    ----------
    kind : str
        Which capture wrote it and which load reads it, e.g. ``torch.optimizer``.
    state : object
        Plain values, containers and `TensorRef` only.
    """

    kind: str
    state: Any


def encode(value: object, path: str = "state") -> Node:
    """Turn a Python value into a node.

    Raises
    ------
    UnsupportedError
        Names the path of the first leaf that the tree cannot represent exactly.
    """
    return _encode(value, path, 0)


def _encode(value: object, path: str, depth: int) -> Node:
    if depth > MAX_DEPTH:
        raise UnsupportedError(
            f"{path} is nested deeper than {MAX_DEPTH} levels or contains itself.",
            do="Flatten it, or leave it out of the state.",
        )
    if type(value) in _PLAIN:
        return value
    if type(value) is int:
        return value if value in _INT64 else ["int", hex(value)]
    if isinstance(value, TensorRef):
        return ["tensor", value.name, value.framework, value.device]
    if isinstance(value, Component):
        return ["component", value.kind, _encode(value.state, path, depth + 1)]
    if isinstance(value, enum.Enum):
        return ["enum", _encode(value.value, path, depth + 1)]
    if _is_numpy_scalar(value):
        return _encode_numpy_scalar(value, path)
    return _encode_container(value, path, depth)


def _encode_container(value: object, path: str, depth: int) -> Node:
    if isinstance(value, dict):
        return ["dict", [_encode_item(k, v, path, depth) for k, v in value.items()]]
    if isinstance(value, list):
        return ["list", [_encode(v, f"{path}[{i}]", depth + 1) for i, v in enumerate(value)]]
    if isinstance(value, tuple):
        return ["tuple", [_encode(v, f"{path}[{i}]", depth + 1) for i, v in enumerate(value)]]
    if isinstance(value, set | frozenset):
        tag = "set" if isinstance(value, set) else "frozenset"
        nodes = [_encode(v, f"{path}{{}}", depth + 1) for v in value]
        return [tag, sorted(nodes, key=msgspec.msgpack.encode)]
    return _encode_scalar(value, path)


def _encode_item(key: object, value: object, path: str, depth: int) -> Node:
    return [_encode(key, f"{path} key {key!r}", depth + 1), _encode(value, f"{path}.{key}", depth + 1)]


def _encode_scalar(value: object, path: str) -> Node:
    if isinstance(value, complex):
        return ["complex", value.real, value.imag]
    if isinstance(value, bytearray):
        return ["bytearray", bytes(value)]
    if isinstance(value, dt.datetime | dt.date | dt.time):
        if getattr(value, "fold", 0) or not _iso_keeps(value):
            raise _unsupported(value, path)
        return [type(value).__name__, value.isoformat()]
    if isinstance(value, dt.timedelta):
        return ["timedelta", value.days, value.seconds, value.microseconds]
    for base in (bool, int, float, str, bytes):
        if isinstance(value, base):  # a subclass such as np.str_ or IntFlag: kept by value
            return _encode(base(value), path, 0)  # type: ignore[call-overload]
    raise _unsupported(value, path)


def _iso_keeps(value: dt.datetime | dt.date | dt.time) -> bool:
    zone = getattr(value, "tzinfo", None)
    return zone is None or isinstance(zone, dt.timezone)


def _unsupported(value: object, path: str) -> UnsupportedError:
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    return UnsupportedError(
        f"{path} is a {kind}, which cannot be kept exactly.",
        do="Give it state_dict() and load_state_dict(), turn it into plain values, or leave it out.",
    )


def _is_numpy_scalar(value: object) -> bool:
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(value, numpy.generic)


def _encode_numpy_scalar(value: Any, path: str) -> Node:
    dtype = value.dtype.newbyteorder("<")
    if value.dtype.kind not in "biufcmMSU":
        raise _unsupported(value, path)
    return ["numpy", dtype.str, value.astype(dtype).tobytes()]


def decode(node: Node, like: object = None) -> Any:
    """Turn a node back into a value.

    Parameters
    ----------
    node : Node
        From `encode`, possibly through MessagePack.
    like : object, optional
        The live value it will replace: decides between equal representations
        (an enum's class, a named tuple, an ordered dict). Nothing is imported by name.

    Raises
    ------
    DamagedError
        The node is not one that `encode` writes.
    """
    try:
        return _decode(node, like, 0)
    except (ValueError, TypeError, KeyError, IndexError, OverflowError) as error:
        raise DamagedError(f"The state tree holds a node that cannot be read: {error}.") from error


def _decode(node: Node, like: object, depth: int) -> Any:
    if depth > 2 * MAX_DEPTH:
        raise ValueError("nested too deeply")
    if not isinstance(node, list):
        return node
    tag, *rest = node
    return _DECODERS[tag](rest, like, depth + 1)


def _decode_list(rest: list[Any], like: object, depth: int) -> list[Any]:
    olds = like if isinstance(like, list | tuple) and len(like) == len(rest[0]) else [None] * len(rest[0])
    return [_decode(n, old, depth) for n, old in zip(rest[0], olds, strict=True)]


def _decode_tuple(rest: list[Any], like: object, depth: int) -> Any:
    items = _decode_list(rest, like, depth)
    named = isinstance(like, tuple) and len(getattr(like, "_fields", ())) == len(items) > 0
    return type(like)(*items) if named else tuple(items)


def _decode_dict(rest: list[Any], like: object, depth: int) -> dict[Any, Any]:
    olds = like if isinstance(like, dict) else {}
    result: dict[Any, Any] = OrderedDict() if isinstance(like, OrderedDict) else {}
    for key_node, value_node in rest[0]:
        key = _decode(key_node, None, depth)
        result[key] = _decode(value_node, olds.get(key), depth)
    return result


def _decode_enum(rest: list[Any], like: object, depth: int) -> Any:
    value = _decode(rest[0], None, depth)
    return type(like)(value) if isinstance(like, enum.Enum) else value


def _decode_numpy(rest: list[Any], like: object, depth: int) -> Any:
    import numpy as np

    dtype = np.dtype(cast("str", rest[0]))
    if dtype.kind not in "biufcmMSU":
        raise ValueError(f"numpy scalar of dtype {rest[0]!r}")
    return np.frombuffer(rest[1], dtype=dtype, count=1)[0]


_DECODERS: dict[str, Any] = {
    "int": lambda r, like, d: int(r[0], 16),
    "complex": lambda r, like, d: complex(r[0], r[1]),
    "bytearray": lambda r, like, d: bytearray(r[0]),
    "datetime": lambda r, like, d: dt.datetime.fromisoformat(r[0]),
    "date": lambda r, like, d: dt.date.fromisoformat(r[0]),
    "time": lambda r, like, d: dt.time.fromisoformat(r[0]),
    "timedelta": lambda r, like, d: dt.timedelta(days=r[0], seconds=r[1], microseconds=r[2]),
    "tensor": lambda r, like, d: TensorRef(str(r[0]), str(r[1]), str(r[2])),
    "component": lambda r, like, d: Component(str(r[0]), _decode(r[1], None, d)),
    "enum": _decode_enum,
    "numpy": _decode_numpy,
    "list": _decode_list,
    "tuple": _decode_tuple,
    "dict": _decode_dict,
    "set": lambda r, like, d: set(_decode_list(r, None, d)),
    "frozenset": lambda r, like, d: frozenset(_decode_list(r, None, d)),
}
