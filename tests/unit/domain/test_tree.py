from __future__ import annotations

import datetime as dt
import enum
import math
import struct
from collections import OrderedDict, deque, namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.domain.tensors import TensorRef
from holdfast.domain.tree import MAX_DEPTH, Component, Lasting, decode, encode
from holdfast.errors import DamagedError, MismatchError, UnsupportedError


def through(value: object, like: object = None) -> Any:
    """What comes back of a value through the bytes of a manifest."""
    return decode(msgspec.msgpack.decode(msgspec.msgpack.encode(encode(value))), like)


def identical(left: Any, right: Any) -> bool:
    """Equal in type and in every bit, all the way down."""
    if type(left) is not type(right):
        return False
    if isinstance(left, np.generic):
        return left.dtype == right.dtype and left.tobytes() == right.tobytes()
    if isinstance(left, float):
        return struct.pack("<d", left) == struct.pack("<d", right)
    if isinstance(left, complex):
        return identical((left.real, left.imag), (right.real, right.imag))
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(identical, left, right))
    if isinstance(left, dict):
        return identical(list(left.items()), list(right.items()))
    if isinstance(left, set | frozenset):
        key = lambda v: (type(v).__name__, repr(v))  # noqa: E731
        return identical(sorted(left, key=key), sorted(right, key=key))
    if isinstance(left, Component):
        return left.kind == right.kind and identical(left.state, right.state)
    return bool(left == right)


bits64 = st.integers(0, 2**64 - 1).map(lambda bits: struct.unpack("<d", struct.pack("<Q", bits))[0])
text = st.text(st.characters(codec=None))
zones = st.none() | st.integers(-86_399, 86_399).map(lambda s: dt.timezone(dt.timedelta(seconds=s), "named"))
dtypes = ["?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "c8", "c16",
          "m8", "m8[s]", "M8[ns]", "M8[25us]", "M8[D]"]  # fmt: skip
numpy_scalars = st.sampled_from(dtypes).flatmap(
    lambda name: st.binary(min_size=np.dtype(name).itemsize, max_size=np.dtype(name).itemsize).map(
        lambda raw: np.frombuffer(raw if name != "?" else bytes([raw[0] & 1]), np.dtype(name))[0]
    )
) | st.one_of(text.map(np.str_), st.binary().map(np.bytes_))
hashable = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.integers(-3, 3).map(lambda n: n * 10**400),
    bits64,
    st.builds(complex, bits64, bits64),
    text,
    st.binary(),
    st.datetimes(timezones=zones).map(lambda d: d.replace(fold=0)),
    st.dates(),
    st.times().map(lambda t: t.replace(fold=0)),
    st.timedeltas(),
    st.builds(TensorRef, st.text(), st.text(), st.text()),
)
leaves = hashable | numpy_scalars | st.binary().map(bytearray) | st.sets(hashable) | st.frozensets(hashable)
values = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(hashable | st.tuples(hashable, hashable), inner, max_size=4),
        st.builds(Component, st.text(), inner),
    ),
    max_leaves=12,
)


@given(values)
def test_every_value_comes_back_bit_for_bit(value: object) -> None:
    assert identical(through(value), value)


@given(values)
def test_a_value_comes_back_whatever_stands_live_in_its_place(value: object) -> None:
    assert identical(through(value, like=value), value)


@given(values, values)
def test_the_live_value_changes_no_bits(value: object, like: object) -> None:
    assert identical(through(value, like=like), value)


@given(st.lists(st.text() | st.integers(-5, 5), unique=True))
def test_equal_sets_encode_alike(members: list[object]) -> None:
    backwards = members[::-1]
    assert encode(set(members)) == encode(set(backwards))


nodes = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text()
    | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=10,
)
TAGS = ["int", "text", "complex", "bytearray", "datetime", "date", "time", "timedelta", "tensor", "component",
        "enum", "numpy", "list", "tuple", "dict", "set", "frozenset"]  # fmt: skip
tagged = st.recursive(
    nodes
    | st.sampled_from(["<f8", "|O", "<U9999999", "<m8[s]", "2020-01-01", "0x" + "f" * 40])
    | st.just(2**40),
    lambda inner: st.tuples(
        st.sampled_from(TAGS), st.lists(inner | st.lists(inner, max_size=3), max_size=3)
    ).map(lambda pair: [pair[0], *pair[1]]),
    max_leaves=8,
)


@given(nodes | tagged)
def test_a_fuzzed_node_is_read_or_damaged_and_nothing_else(node: object) -> None:
    try:
        value = decode(msgspec.msgpack.decode(msgspec.msgpack.encode(node)))
    except DamagedError:
        return
    encode(value)


@given(values, st.data())
def test_a_flipped_byte_is_read_or_damaged_and_nothing_else(value: object, data: st.DataObject) -> None:
    raw = bytearray(msgspec.msgpack.encode(encode(value)))
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    try:
        node = msgspec.msgpack.decode(bytes(raw))
    except (msgspec.DecodeError, UnicodeDecodeError):
        return
    try:
        decode(node)
    except DamagedError:
        return


@pytest.mark.parametrize(
    "node",
    [
        [],
        {},
        {"a": 1},
        ["nonsense", 1],
        [["list"], []],
        ["bytearray", 2**40],
        ["list", "abc"],
        ["list", [1], [2]],
        ["dict", [["a"]]],
        ["dict", [[["list", []], 1]]],
        ["set", [["list", []]]],
        ["int", "12z"],
        ["int", 12],
        ["numpy", "|O", b"12345678"],
        ["numpy", "f8, (", b"12345678"],
        ["numpy", "<f8", b"1234567"],
        ["numpy", "<f8", b"12345678" * 2],
        ["numpy", "<f16", b"12345678" * 2],
        ["datetime", "yesterday"],
        ["timedelta", 10**12, 0, 0],
        ["tensor", "name", "torch"],
        ["component", 1, {}],
        dt.datetime(2020, 1, 1),
        msgspec.msgpack.Ext(5, b""),
    ],
)
def test_what_encode_never_writes_is_damaged(node: object) -> None:
    with pytest.raises(DamagedError):
        decode(node)


def test_a_node_nested_without_end_is_damaged() -> None:
    node: object = 1
    for _ in range(100_000):
        node = ["list", [node]]
    with pytest.raises(DamagedError, match="deep"):
        decode(node)
    while isinstance(node, list):  # taken apart here: freeing it whole would recurse
        node = node[1][0]


WRAPS: list[Callable[[Any], Any]] = [
    lambda v: [v],
    lambda v: (v,),
    lambda v: {"k": v},
    lambda v: Component("python.x", v),
    lambda v: frozenset([v]),
]


@pytest.mark.parametrize("wrap", WRAPS)
def test_what_is_nested_as_deep_as_allowed_comes_back(wrap: Callable[[Any], Any]) -> None:
    value: Any = 1
    for _ in range(MAX_DEPTH):
        value = wrap(value)
    assert encode(through(value)) == encode(value)
    with pytest.raises(UnsupportedError, match="deeper"):
        encode([value])


def test_what_contains_itself_is_refused() -> None:
    loop: list[object] = []
    loop.append(loop)
    with pytest.raises(UnsupportedError, match="contains itself"):
        encode(loop)


class Color(enum.Enum):
    RED = "r"
    BLUE = (1, 2)


class Phase(enum.IntEnum):
    WARM = 1
    HOT = 2


class Bits(enum.IntFlag):
    A = 1
    B = 2


Point = namedtuple("Point", "x y")


@pytest.mark.parametrize(
    ("value", "like"),
    [
        (Color.RED, Color.BLUE),
        (Color.BLUE, Color.RED),
        (Phase.HOT, Phase.WARM),
        (Bits.A | Bits.B, Bits.A),
        ({"p": [Color.RED]}, {"p": [Color.BLUE]}),
        ({Color.RED: 1, Phase.HOT: 2}, {Phase.HOT: 0, Color.RED: 0}),
        ({Color.RED: Point(1, Phase.HOT)}, {Color.RED: Point(0, Phase.WARM)}),
        ({Color.RED, Color.BLUE}, {Color.RED}),
        (frozenset({Phase.HOT}), frozenset({Phase.WARM})),
        (Point(1, (2, 3)), Point(0, 0)),
        (OrderedDict(a=1), OrderedDict()),
    ],
)
def test_the_live_value_decides_between_equal_representations(value: object, like: object) -> None:
    assert identical(through(value, like), value)


def test_without_a_live_value_an_enum_is_its_value() -> None:
    assert through({"a": Color.RED, Color.BLUE: Phase.HOT}) == {"a": "r", (1, 2): 2}


def test_an_enum_member_that_is_gone_is_a_mismatch_not_damage() -> None:
    with pytest.raises(MismatchError, match=r"'g'.*Color"):
        decode(["enum", "g"], like=Color.RED)


class Loud(str):
    def __str__(self) -> str:
        return "LOUD"


class Odd(int):
    def __int__(self) -> int:
        return 99


@pytest.mark.parametrize(("value", "plain"), [(Loud("quiet"), "quiet"), (Odd(3), 3)])
def test_a_subclass_of_a_plain_value_is_kept_by_value(value: object, plain: object) -> None:
    assert identical(through(value), plain)


@pytest.mark.parametrize("value", [np.str_("a\0"), np.bytes_(b"a\0"), np.str_(""), np.bytes_(b"")])
def test_numpy_text_keeps_its_trailing_zeros(value: Any) -> None:
    assert type(through(value)) is type(value)
    assert [*through(value)] == [*value]


def test_a_numpy_float64_does_not_become_a_float() -> None:
    assert type(through(np.float64(0.1))) is np.float64
    assert type(through({"a": [0.1]})["a"][0]) is float


def test_signs_of_zeros_and_nan_payloads_stay() -> None:
    assert math.copysign(1, through(-0.0)) == -1
    payload = struct.unpack("<d", struct.pack("<Q", 0xFFF8_0000_DEAD_BEEF))[0]
    assert identical(through([payload, complex(-0.0, payload)]), [payload, complex(-0.0, payload)])


class Stamp(dt.datetime):
    pass


@pytest.mark.parametrize(
    ("bad", "kind"),
    [
        (object(), "builtins.object"),
        (Path("a"), "Path"),
        (deque([1]), "collections.deque"),
        (lambda: 0, "builtins.function"),
        (iter([1]), "list_iterator"),
        (np.zeros(3), "numpy.ndarray"),
        (np.void(b"a"), "numpy.void"),
        (np.longdouble(1), "numpy"),
        (Stamp(2020, 1, 1), "Stamp"),
        (dt.datetime(2020, 10, 25, 2, 30, fold=1), "datetime.datetime"),
        (dt.datetime(2020, 1, 1, tzinfo=ZoneInfo("UTC")), "datetime.datetime"),
        (dt.datetime(2020, 1, 1, tzinfo=dt.timezone(dt.timedelta(microseconds=1))), "datetime.datetime"),
        (range(3), "builtins.range"),
        (int, "builtins.type"),
    ],
)
def test_a_leaf_that_cannot_be_kept_is_refused_by_its_path(bad: object, kind: str) -> None:
    with pytest.raises(UnsupportedError) as caught:
        encode({"trainer": {"history": [0, (bad,)]}})
    assert str(caught.value).startswith("state.trainer.history[1][0] is a ")
    assert kind in caught.value.what


def _bytes(value: object) -> bytes:
    return msgspec.msgpack.encode(encode(value))


def test_what_lasts_is_encoded_once_and_as_it_is() -> None:
    value = {"a": [1, TensorRef("t", "torch", "cpu")], "b": Component("kind", (1.5, None))}
    lasting = Lasting(value)
    assert _bytes({"x": Component("model", lasting)}) == _bytes({"x": Component("model", value)})
    assert encode(lasting) is encode(lasting)
    assert _bytes([[lasting]]) == _bytes([[value]])


def test_what_lasts_is_refused_where_it_is_too_deep() -> None:
    deep: Any = Lasting([[1]])
    encode(deep)
    for _ in range(MAX_DEPTH - 1):
        deep = [deep]
    with pytest.raises(UnsupportedError, match="nested deeper"):
        encode(deep)
