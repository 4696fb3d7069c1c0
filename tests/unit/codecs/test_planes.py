from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from holdfast.codecs import registry
from holdfast.codecs.planes import HEADER, PLANE, ZSTD, Planes, layout_of, zstd
from holdfast.domain.tensors import ITEM_BYTES
from holdfast.errors import DamagedError


def weights(count: int, dtype: str) -> np.ndarray[Any, Any]:
    values = (np.random.default_rng(3).standard_normal(count) * 0.02).astype("<f4")
    if dtype == "bfloat16":
        return (values.view("<u4") >> 16).astype("<u2").view(np.uint8)
    return values.astype(dtype).view(np.uint8)


@pytest.mark.parametrize(("dtype", "least"), [("float32", 1.15), ("bfloat16", 1.4), ("float64", 1.05)])
def test_weights_shrink(dtype: str, least: float) -> None:
    raw = weights(1 << 18, dtype)
    stored = Planes().encode(raw, dtype)
    assert stored is not None
    assert len(raw) / len(stored) > least


@pytest.mark.parametrize(
    ("dtype", "layout"),
    [
        ("float32", (4, True)),
        ("bfloat16", (2, True)),
        ("complex128", (8, True)),
        ("complex32", (2, True)),
        ("int64", (8, False)),
        ("float8_e4m3fn", (1, False)),
        ("bool", (1, False)),
    ],
)
def test_how_a_dtype_is_cut(dtype: str, layout: tuple[int, bool]) -> None:
    assert layout_of(dtype) == layout


def test_every_dtype_has_a_layout() -> None:
    assert all(layout_of(dtype)[0] in (1, 2, 4, 8) for dtype in ITEM_BYTES)


def test_noise_is_left_alone() -> None:
    noise = np.random.default_rng(1).integers(0, 256, 1 << 20, np.uint8)
    assert all(registry.encode(noise, dtype) is None for dtype in ("uint8", "float32", "int64"))


def test_an_encoder_that_errs_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = weights(1 << 14, "float32")
    right = Planes().encode(raw, "float32")
    assert right is not None
    wrong = bytearray(right)
    wrong[-1] ^= 1
    monkeypatch.setattr(Planes, "encode", lambda self, raw, dtype, bases=(): bytes(wrong))
    assert registry.encode(raw, "float32") is None


def lying(frame: bytes, count: int) -> bytes:
    """An encoding of ``count`` bytes whose only plane is this frame."""
    body = HEADER.pack(1, 0) + PLANE.pack(ZSTD, len(frame)) + frame
    return count.to_bytes(4, "little") + (8 + len(body)).to_bytes(4, "little") + body


def test_a_frame_of_another_size_is_damage() -> None:
    frame = zstd.compress(bytes(100))
    with pytest.raises(DamagedError):
        Planes().decode(np.frombuffer(lying(frame, 101), np.uint8), np.empty(101, np.uint8))


BOMBS = """
import resource, sys
import numpy as np
sys.path.insert(0, {tests!r})
from test_planes import lying, zstd
from holdfast.codecs.planes import Planes
from holdfast.errors import DamagedError
out = np.empty(1000, np.uint8)
large = zstd.compress(bytes(300 << 20))
wide = zstd.compress(np.random.default_rng(1).bytes(1 << 20) * 200, options={{
    zstd.CompressionParameter.window_log: 27, zstd.CompressionParameter.enable_long_distance_matching: 1}})
declared = bytearray.fromhex("28b52ffd") + b"\\xe0" + (1 << 50).to_bytes(8, "little") + b"\\0" * 9
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (24 << 20), -1))
for frame in (large, wide, bytes(declared)):
    try:
        Planes().decode(np.frombuffer(lying(frame, 1000), np.uint8), out)
    except DamagedError:
        pass
print("bounded")
"""


def test_a_frame_that_lies_takes_no_memory() -> None:
    from pathlib import Path

    code = BOMBS.format(tests=str(Path(__file__).parent))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "bounded\n", done.stderr
