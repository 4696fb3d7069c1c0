"""Bytes as one zstd frame, of which a short one cannot ask for much memory."""

from __future__ import annotations

import sys

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

__all__ = ["compress", "decompress", "zstd"]

_LEVEL = 3
_WINDOW_LOG = 21
_OPTIONS: dict[int, int] = {
    zstd.CompressionParameter.compression_level: _LEVEL,
    zstd.CompressionParameter.window_log: _WINDOW_LOG,
}
_BOUNDS: dict[int, int] = {zstd.DecompressionParameter.window_log_max: _WINDOW_LOG}


def compress(raw: bytes) -> bytes:
    """A frame, or the bytes themselves where that is no longer."""
    frame = zstd.compress(raw, options=_OPTIONS)
    return frame if len(frame) < len(raw) else raw


def decompress(stored: bytes, raw_bytes: int) -> bytes:
    """Undo `compress`; takes memory for no more than so many bytes, whatever the frame claims.

    Raises
    ------
    ValueError
        It is no frame of so many bytes.
    """
    if len(stored) == raw_bytes:
        return stored
    decompressor = zstd.ZstdDecompressor(options=_BOUNDS)
    try:
        raw = decompressor.decompress(stored, max_length=raw_bytes)
    except zstd.ZstdError as error:
        raise ValueError(str(error)) from error
    if len(raw) != raw_bytes or not decompressor.eof or decompressor.unused_data:
        raise ValueError(f"it is no frame of {raw_bytes} bytes")
    return raw
