"""Tensor bytes as numbers, by NumPy alone: also the dtypes that it does not know."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

_FLOAT8 = {
    # exponent bits and bias
    "float8_e4m3fn": (4, 7),
    "float8_e5m2": (5, 15),
    "float8_e4m3fnuz": (4, 8),
    "float8_e5m2fnuz": (5, 16),
}
_NUMPY = {
    *("bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64"),
    *("float16", "float32", "float64", "complex64", "complex128"),
}


def as_numbers(data: npt.NDArray[np.uint8], dtype: str) -> npt.NDArray[Any] | None:
    """Decode the bytes of a dense tensor.

    Parameters
    ----------
    data : uint8[n]
        Little-endian.
    dtype : str
        By its name in the format.

    Returns
    -------
    array or None
        ``float64[m]`` or ``complex128[m]``; None where elements are not whole bytes.
    """
    with np.errstate(invalid="ignore"):  # a signalling NaN becomes a quiet one
        return _decoded(data, dtype)


def _decoded(data: npt.NDArray[np.uint8], dtype: str) -> npt.NDArray[Any] | None:
    if dtype == "bfloat16":
        return (data.view("<u2").astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    if dtype in _FLOAT8 or dtype == "float8_e8m0fnu":
        return _table(dtype)[data]
    if dtype == "complex32":
        return data.view("<f2").astype(np.float64).view(np.complex128)
    if dtype not in _NUMPY:
        return None
    native = data.view(np.dtype(dtype).newbyteorder("<"))
    return native.astype(np.complex128 if dtype.startswith("complex") else np.float64)


@cache
def _table(dtype: str) -> npt.NDArray[np.float64]:
    codes = np.arange(256)
    if dtype == "float8_e8m0fnu":
        values = np.ldexp(1.0, codes - 127)
        values[255] = np.nan
        return values
    exponent_bits, bias = _FLOAT8[dtype]
    mantissa_bits = 7 - exponent_bits
    exponent = (codes >> mantissa_bits) & ((1 << exponent_bits) - 1)
    fraction = (codes & ((1 << mantissa_bits) - 1)) / (1 << mantissa_bits)
    small = np.ldexp(fraction, 1 - bias)
    values = np.where(exponent == 0, small, np.ldexp(1.0 + fraction, exponent - bias))
    values = np.where(codes >= 128, -values, values)
    _mark_special(values, dtype)
    return values


def _mark_special(values: npt.NDArray[np.float64], dtype: str) -> None:
    if dtype.endswith("fnuz"):  # no negative zero: its code is the only NaN
        values[0x80] = np.nan
    elif dtype == "float8_e4m3fn":
        values[[0x7F, 0xFF]] = np.nan
    else:
        values[[0x7C, 0xFC]] = np.inf, -np.inf
        values[[0x7D, 0x7E, 0x7F, 0xFD, 0xFE, 0xFF]] = np.nan
