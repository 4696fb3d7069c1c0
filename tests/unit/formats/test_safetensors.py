from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from holdfast.domain.tensors import TensorSpec
from holdfast.errors import DamagedError, HoldfastError, UnsupportedError
from holdfast.formats.safetensors import DTYPES, Layout, SafetensorsFile


def write(path: Path, arrays: dict[str, Any], metadata: dict[str, str] | None = None) -> None:
    specs = {name: TensorSpec(a.dtype.name, a.shape) for name, a in arrays.items()}
    layout = Layout(specs, metadata or {})
    with path.open("wb") as file:
        layout.write(file, (arrays[name].reshape(-1).view(np.uint8) for name in layout.order))


ARRAYS = {
    "ragged": np.arange(3, dtype=np.uint8),
    "a.b": np.arange(6, dtype=np.float64).reshape(2, 3),
    "none": np.zeros((0, 4), np.float32),
    "scalar": np.array(7, np.int64),
    "flags": np.array([True, False]),
    "../odd name\u2028": np.arange(4, dtype=np.float16),
}


def test_its_own_library_reads_what_is_written(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write(path, ARRAYS, {"format": "np", "why": "ü"})
    loaded = load_file(path)
    assert loaded.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert loaded[name].dtype == array.dtype
        np.testing.assert_array_equal(loaded[name], array)
    with safe_open(path, "np") as file:
        assert file.metadata() == {"format": "np", "why": "ü"}


def test_what_its_own_library_writes_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file(ARRAYS, path, {"a": "b"})
    with SafetensorsFile(path) as file:
        assert file.metadata == {"a": "b"}
        assert file.tensors.keys() == ARRAYS.keys()
        for name, array in ARRAYS.items():
            assert file.tensors[name].spec == TensorSpec(array.dtype.name, array.shape)
            assert file.tensors[name].read().tobytes() == array.tobytes()


def test_every_dtype_round_trips_and_is_aligned(tmp_path: Path) -> None:
    specs = {name: TensorSpec(name, (3,)) for name in DTYPES}
    layout = Layout(specs, {})
    raw = {name: np.random.default_rng(0).bytes(spec.size_bytes) for name, spec in specs.items()}
    with (tmp_path / "x").open("wb") as file:
        layout.write(file, (np.frombuffer(raw[name], np.uint8) for name in layout.order))
    header = json.loads(layout.header[8:])
    assert len(layout.header) % 8 == 0
    for name, spec in specs.items():
        assert header[name]["data_offsets"][0] % (spec.size_bytes // 3) == 0
    with SafetensorsFile(tmp_path / "x") as opened:
        assert {name: t.read().tobytes() for name, t in opened.tensors.items()} == raw
        assert {name: t.spec for name, t in opened.tensors.items()} == specs


def test_a_dtype_without_a_name_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="tensor w has dtype complex128"):
        Layout({"w": TensorSpec("complex128", (1,))}, {})


def test_one_large_tensor_is_in_memory_at_a_time(tmp_path: Path) -> None:
    alive: list[int] = []

    class Counted(np.ndarray[Any, Any]):
        def __del__(self) -> None:
            alive.remove(id(self.base))

    def parts() -> Any:
        for name in layout.order:
            base = np.full(specs[name].size_bytes, 3, np.uint8)
            alive.append(id(base))
            part = base.view(Counted)
            del base
            assert len(alive) == 1
            yield part
            del part

    specs = {f"t{i}": TensorSpec("uint8", (1000,)) for i in range(4)}
    layout = Layout(specs, {})
    with (tmp_path / "x").open("wb") as file:
        layout.write(file, parts())
    assert not alive


def header(entries: Any, data: bytes = b"") -> bytes:
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text + data


ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"1234567",
        struct.pack("<Q", 2**63),
        struct.pack("<Q", 100) + b"{}",
        header(b"[]"),
        header(b"{"),
        header(b"\xff\xfe"),
        header(b"[" * 100_000),
        header({"t": ENTRY}),
        header({"t": ENTRY}, b"x" * 9),
        header({"t": {**ENTRY, "data_offsets": [-8, 0]}}, b"x" * 8),
        header({"t": {**ENTRY, "data_offsets": [8, 16]}}, b"x" * 16),
        header({"t": {**ENTRY, "shape": [-2]}}, b"x" * 8),
        header({"t": {**ENTRY, "shape": [2**70]}}, b"x" * 8),
        header({"t": {**ENTRY, "shape": [1] * 65}}, b"x" * 4),
        header({"t": {**ENTRY, "shape": "x"}}, b"x" * 8),
        header({"a": ENTRY, "b": ENTRY}, b"x" * 8),
        header({"__metadata__": {"a": 1}}),
    ],
)
def test_a_broken_file_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.safetensors").write_bytes(content)
    with pytest.raises(DamagedError, match=r"bad\.safetensors is not a whole"):
        SafetensorsFile(tmp_path / "bad.safetensors")


def test_an_unknown_dtype_is_named(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(header({"t": {**ENTRY, "dtype": "Q4"}}, b"x" * 8))
    with pytest.raises(UnsupportedError, match="unknown dtype Q4"):
        SafetensorsFile(tmp_path / "x")


@given(st.binary(max_size=200), st.integers(0, 300))
def test_any_bytes_are_read_or_refused(tmp_path_factory: Any, noise: bytes, at: int) -> None:
    whole = header({"t": ENTRY, "__metadata__": {"a": "b"}}, b"x" * 8)
    at = min(at, len(whole))
    path = tmp_path_factory.mktemp("noise") / "x"
    path.write_bytes(whole[:at] + noise + whole[at + len(noise) :])
    try:
        with SafetensorsFile(path) as file:
            for tensor in file.tensors.values():
                assert len(tensor.read()) == tensor.spec.size_bytes
    except HoldfastError:
        pass
