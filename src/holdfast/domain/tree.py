"""The typed tree: everything of a training state that is no tensor, exactly and without pickle.

`encode` turns Python values into nodes that MessagePack can carry; `decode` turns nodes
back. A scalar is its own node; everything else is an array whose first item is a tag.
`TensorRef` stands for tensors, `Component` for objects that have a state of their own.
"""

from __future__ import annotations

import datetime as dt
import enum
import re
import sys
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from holdfast.domain.tensors import TensorRef
from holdfast.errors import DamagedError, MismatchError, UnsupportedError

Node = Any
"""nil, bool, int64, float, str, bytes or ``[tag, ...]``."""

MAX_DEPTH = 128
_INT64 = range(-(2**63), 2**63)
_PLAIN = (bool, float, bytes, type(None))
_SCALARS = frozenset({*_PLAIN, int, str})
_NUMPY_DTYPE = re.compile(r"\|(?:b1|[iu]1)|<(?:[iu][248]|f[248]|c8|c16|[mM]8(?:\[\d{0,9}[a-zA-Zμ]{1,7}\])?)")
"""The numpy scalars whose bytes mean the same everywhere: ``longdouble`` is not one."""


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


class Lasting:
    """A value that does not change: it is encoded once, however often it is part of a tree."""

    def __init__(self, value: Any) -> None:
        self._value = value
        self._depth = -1
        self._node = msgspec.Raw()

    def node(self, path: str, depth: int) -> msgspec.Raw:
        if depth != self._depth:  # how deep a tree may be is told while it is encoded
            self._node = msgspec.Raw(msgspec.msgpack.encode(_encode(self._value, path, depth)))
            self._depth = depth
        return self._node


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
    if type(value) is str:
        return value if _is_unicode(value) else ["text", value.encode("utf-8", "surrogatepass")]
    if type(value) is int:
        return value if value in _INT64 else ["int", hex(value)]
    if type(value) is Lasting:
        return value.node(path, depth)
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
    if type(value) in (dt.datetime, dt.date, dt.time):  # a subclass may hold more, as pandas.Timestamp does
        if not _iso_keeps(value):
            raise _unsupported(value, path)
        return [type(value).__name__, value.isoformat()]  # type: ignore[attr-defined]  # all three have it
    if type(value) is dt.timedelta:
        return ["timedelta", value.days, value.seconds, value.microseconds]
    for base, exact in _EXACT.items():
        if isinstance(value, base):  # a subclass of the user's own: kept by value
            return _encode(exact(value), path, 0)
    raise _unsupported(value, path)


_EXACT: dict[type, Any] = {
    int: int.__int__,
    float: float.__float__,
    str: str.__str__,
    bytes: bytes.__bytes__,
}
"""Not ``int(value)``: a subclass may override what that calls."""


def _is_unicode(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:  # lone surrogates, as in names of files that are not UTF-8
        return False
    return True


def _iso_keeps(value: Any) -> bool:
    """Not a fold, a named zone with its rules, nor an offset below a second (which CPython misreads)."""
    back = type(value).fromisoformat(value.isoformat())
    zones = [getattr(v, "tzinfo", None) for v in (value, back)]
    return not getattr(value, "fold", 0) and bool(back == value) and zones[0] == zones[1]


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
    if value.dtype.kind == "S":
        return ["numpy", "S", bytes.__bytes__(value)]
    if value.dtype.kind == "U":
        return ["numpy", "U", str.__str__(value).encode("utf-8", "surrogatepass")]
    dtype = value.dtype.newbyteorder("<")
    if not _NUMPY_DTYPE.fullmatch(dtype.str):
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
    MismatchError
        The live enum has no member of the recorded value any more.
    """
    try:
        return _decode(node, like, 0)
    except (ValueError, TypeError, KeyError, IndexError, OverflowError) as error:
        raise DamagedError(f"The state tree holds a node that cannot be read: {error}.") from error


def _decode(node: Node, like: object, depth: int) -> Any:
    if depth > MAX_DEPTH:
        raise ValueError("nested too deeply")
    if type(node) in _SCALARS:
        return node
    if type(node) is not list:
        raise TypeError(f"a {type(node).__name__} is no node")
    tag, *rest = node
    fields, decoder = _DECODERS[tag]
    found = tuple(map(type, rest))
    if found != fields and not _fits(found, fields):
        raise ValueError(f"{tag} does not hold what it should")
    return decoder(rest, like, depth + 1)


def _fits(found: tuple[Any, ...], fields: tuple[Any, ...]) -> bool:
    return len(found) == len(fields) and all(f in (k, None) for k, f in zip(found, fields, strict=True))


def _decode_list(rest: list[Any], like: object, depth: int) -> list[Any]:
    olds = like if isinstance(like, list | tuple) and len(like) == len(rest[0]) else [None] * len(rest[0])
    return [_decode(n, old, depth) for n, old in zip(rest[0], olds, strict=True)]


def _decode_tuple(rest: list[Any], like: object, depth: int) -> Any:
    items = _decode_list(rest, like, depth)
    named = isinstance(like, tuple) and len(getattr(like, "_fields", ())) == len(items) > 0
    return type(like)(*items) if named else tuple(items)


def _decode_set(rest: list[Any], like: object, depth: int) -> set[Any]:
    live = like if isinstance(like, set | frozenset) else ()
    return {_decode(node, _enum_like(node, live), depth) for node in rest[0]}


def _decode_dict(rest: list[Any], like: object, depth: int) -> dict[Any, Any]:
    olds = like if isinstance(like, dict) else {}
    result: dict[Any, Any] = OrderedDict() if isinstance(like, OrderedDict) else {}
    for key_node, value_node in rest[0]:
        key = key_node if type(key_node) is str else _decode(key_node, _enum_like(key_node, olds), depth)
        result[key] = _decode(value_node, olds.get(key), depth)
    return result


def _enum_like(node: Node, live: Iterable[object]) -> object:
    """Find the member that an enum's node was, or another of its class, among live keys."""
    if type(node) is not list or node[:1] != ["enum"]:
        return None
    members = [key for key in live if isinstance(key, enum.Enum)]
    same = (m for m in members if encode(m) == node)
    return next(same, members[0] if members else None)


def _decode_enum(rest: list[Any], like: object, depth: int) -> Any:
    value = _decode(rest[0], None, depth)
    if not isinstance(like, enum.Enum):
        return value
    try:
        return type(like)(value)
    except ValueError as error:
        raise MismatchError(
            f"The checkpoint holds {value!r}, which is no {type(like).__name__} any more.",
            do=f"Give {type(like).__name__} a member of this value again.",
        ) from error


def _decode_numpy(rest: list[Any]) -> Any:
    import numpy as np

    name, raw = rest
    if name == "S":
        return np.bytes_(raw)
    if name == "U":
        return np.str_(raw.decode("utf-8", "surrogatepass"))
    if not _NUMPY_DTYPE.fullmatch(name):  # np.dtype() reads a small language: keep it from this text
        raise ValueError(f"numpy scalar of dtype {name!r}")
    (value,) = np.frombuffer(raw, dtype=np.dtype(name))
    return value


_DECODERS: dict[str, tuple[tuple[Any, ...], Any]] = {
    "int": ((str,), lambda r, like, d: int(r[0], 16)),
    "text": ((bytes,), lambda r, like, d: r[0].decode("utf-8", "surrogatepass")),
    "complex": ((float, float), lambda r, like, d: complex(r[0], r[1])),
    "bytearray": ((bytes,), lambda r, like, d: bytearray(r[0])),
    "datetime": ((str,), lambda r, like, d: dt.datetime.fromisoformat(r[0])),
    "date": ((str,), lambda r, like, d: dt.date.fromisoformat(r[0])),
    "time": ((str,), lambda r, like, d: dt.time.fromisoformat(r[0])),
    "timedelta": ((int, int, int), lambda r, like, d: dt.timedelta(r[0], r[1], r[2])),
    "tensor": ((str, str, str), lambda r, like, d: TensorRef(r[0], r[1], r[2])),
    "component": ((str, None), lambda r, like, d: Component(r[0], _decode(r[1], None, d))),
    "enum": ((None,), _decode_enum),
    "numpy": ((str, bytes), lambda r, like, d: _decode_numpy(r)),
    "list": ((list,), _decode_list),
    "tuple": ((list,), _decode_tuple),
    "dict": ((list,), _decode_dict),
    "set": ((list,), _decode_set),
    "frozenset": ((list,), lambda r, like, d: frozenset(_decode_set(r, like, d))),
}
"""By tag: the type of each item that follows it (None: any node), and what reads them."""


def references(value: object) -> Iterator[TensorRef]:
    """Every `TensorRef` in a decoded value."""
    if isinstance(value, TensorRef):
        yield value
    elif isinstance(value, Component):
        yield from references(value.state)
    elif isinstance(value, dict):
        for item in value.values():
            yield from references(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from references(item)
