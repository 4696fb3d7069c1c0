from __future__ import annotations

import collections
import contextlib
import os
import pickle
import struct
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.errors import DamagedError, HoldfastError, UnsupportedError
from holdfast.formats.unpickling import PickledArray, unpickle


def read(tmp_path: Path, content: bytes) -> Any:
    (tmp_path / "x.pdparams").write_bytes(content)
    return unpickle(tmp_path / "x.pdparams")


@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize(
    "array",
    [
        np.arange(6, dtype=np.float32).reshape(2, 3),
        np.asfortranarray(np.arange(6, dtype=np.int16).reshape(2, 3)),
        np.arange(3, dtype=">f8"),
        np.zeros((0, 2), np.float64),
        np.array(True),
        np.array([1j], np.complex64),
    ],
)
def test_arrays_come_back(tmp_path: Path, protocol: int, array: Any) -> None:
    value = read(tmp_path, pickle.dumps({"a": array}, protocol=protocol))["a"]
    assert isinstance(value, PickledArray)
    assert value.array.dtype == array.dtype.newbyteorder("<")
    np.testing.assert_array_equal(value.array, array)


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4])
def test_plain_values_come_back(tmp_path: Path, protocol: int) -> None:
    value = {
        "list": [1, 2.5, None, True, "ü", b"\xff", 2**90],
        "tuple": (1, (2,)),
        "set": {1, 2},
        "complex": 1j,
        "scalar": np.float32(0.5),
        3: {"nested": []},
    }
    assert read(tmp_path, pickle.dumps(value, protocol=protocol)) == value
    ordered = collections.OrderedDict(a=1)
    again = read(tmp_path, pickle.dumps(ordered, protocol=protocol))
    assert (again, type(again)) == (ordered, dict)


class Calls:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self.reduced = (function, arguments)

    def __reduce__(self) -> Any:
        return self.reduced


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize(
    "call",
    [
        Calls(eval, "open('ran', 'w')"),
        Calls(os.system, "touch ran"),
        Calls(subprocess.call, ["touch", "ran"]),
        Calls(getattr, "x", "upper"),
        Calls(__import__, "os"),
        Calls(np.load, "ran"),
        Calls(np.ndarray, (2**40,)),
    ],
)
def test_nothing_named_is_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Calls, protocol: int
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises((UnsupportedError, DamagedError)):
        read(tmp_path, pickle.dumps([call], protocol=protocol))
    assert [p.name for p in tmp_path.iterdir()] == ["x.pdparams"]


GLOBAL = b"\x80\x02cnumpy\nndarray\n"
RECONSTRUCT = b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"hello",
        b"\x80\x04",
        b"\x80\x09.",
        GLOBAL + b"}U\x01aK\x01sb.",  # sets an attribute on what stands for a function
        RECONSTRUCT + b"}U\x09_functionK\x01s\x86b.",
        RECONSTRUCT + b"N}X\x09\x00\x00\x00_functionK\x01s\x86b.",
        b"\x80\x02c__builtin__\nbytearray\n\x8a\x06\x00\x00\x00\x00\x00\x01\x85R.",
        b"\x80\x02c__builtin__\nlist\n(K\x01t\x81.",
        b"\x80\x02\x82\x01.",  # a registered extension
        b"\x80\x02Pname\n.",  # a persistent id
        b"\x80\x05\x96" + struct.pack("<Q", 2**50) + b".",
        b"\x80\x04\x8e" + struct.pack("<Q", 2**60) + b".",
        b"\x80\x04\x95" + struct.pack("<Q", 2**60) + b".",
        b"\x80\x02r\xff\xff\xff\xff.",
        b"\x80\x02}]]s.",
    ],
)
def test_odd_pickles_are_refused(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(HoldfastError):
        read(tmp_path, content)


def test_an_array_larger_than_its_bytes_is_refused(tmp_path: Path) -> None:
    data = pickle.dumps(np.arange(4, dtype=np.uint8), protocol=2)
    assert data.count(b"K\x04\x85") == 1
    with pytest.raises(DamagedError, match="do not fit its shape"):
        read(tmp_path, data.replace(b"K\x04\x85", b"K\x05\x85"))


@pytest.mark.parametrize("dtype", ["O", "U3", "M8[s]", [("a", "f4")]])
def test_arrays_of_objects_are_refused(tmp_path: Path, dtype: Any) -> None:
    with pytest.raises(DamagedError):
        read(tmp_path, pickle.dumps(np.zeros(2, dtype=dtype), protocol=2))


def test_a_dtype_that_numpy_would_parse_as_python_is_refused(tmp_path: Path) -> None:
    data = pickle.dumps(np.zeros(2), protocol=2)
    assert b"f8" in data
    with pytest.raises(DamagedError, match="structured dtype"):
        read(tmp_path, data.replace(b"f8", b",8"))


WHOLE = pickle.dumps({"a": np.arange(3.0), "b": ("n", np.arange(2)), "c": {"d": 1.5}}, protocol=4)


@given(st.lists(st.tuples(st.integers(0, len(WHOLE) - 1), st.integers(0, 255)), min_size=1, max_size=4))
def test_any_bytes_are_read_or_refused(tmp_path_factory: Any, changes: list[tuple[int, int]]) -> None:
    data = bytearray(WHOLE)
    for at, byte in changes:
        data[at] = byte
    path = tmp_path_factory.mktemp("noise") / "x"
    path.write_bytes(data)
    with contextlib.suppress(HoldfastError):
        unpickle(path)
