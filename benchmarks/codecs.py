"""What the codecs gain on real training state, and how fast they are on one core, beside plain zstd.

``python benchmarks/codecs.py [--steps N] [--json FILE]``: trains a small transformer in fp32 and in
bf16 with AdamW, cuts its state into chunks as a save does, and encodes and decodes each.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sizes import Shape
from training_model import Trainer

from holdfast.codecs import registry

CHUNK_BYTES = 1024 * 1024
SHAPE = Shape(384, 4, batch=2, context=128, rotations=1, segment_steps=0, long_turn=False)
ROUNDS = 12
Chunk = tuple[np.ndarray, str]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    found = {}
    for dtype in (torch.float32, torch.bfloat16):
        chunks = list(trained_chunks(dtype, options.steps))
        name = str(dtype).removeprefix("torch.")
        found[name] = {"state_bytes": sum(len(raw) for raw, _ in chunks), **measure_all(chunks)}
        report(name, found[name])
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


def trained_chunks(dtype: torch.dtype, steps: int) -> Iterator[Chunk]:
    """Weights and AdamW's state after so many steps, in chunks."""
    trainer = Trainer(SHAPE)
    trainer.model.to(dtype)
    for _ in range(steps):
        trainer.learn()
        trainer.step()
    for tensor in trainer.tensors:
        raw = tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy()
        for start in range(0, len(raw), CHUNK_BYTES):
            yield raw[start : start + CHUNK_BYTES].copy(), str(tensor.dtype).removeprefix("torch.")


def measure_all(chunks: list[Chunk]) -> dict[str, Any]:
    return {
        "holdfast": measure(chunks, encode_ours, decode_ours, check=registry.encode),
        "zstd -1": measure(chunks, encode_zstd(1), decode_zstd),
        "zstd -3": measure(chunks, encode_zstd(3), decode_zstd),
    }


def encode_ours(raw: np.ndarray, dtype: str) -> tuple[str, bytes]:
    """The same as `registry.encode`, without decoding and comparing."""
    for name, codec in registry.CODECS.items():
        if (stored := codec.encode(raw, dtype)) is not None:
            return name, stored
    return "raw", raw.tobytes()


def decode_ours(stored: tuple[str, bytes], out: np.ndarray) -> None:
    name, data = stored
    if name == "raw":
        np.copyto(out, np.frombuffer(data, np.uint8))
    else:
        registry.CODECS[name].decode(np.frombuffer(data, np.uint8), out)


def encode_zstd(level: int) -> Callable[[np.ndarray, str], tuple[str, bytes]]:
    from holdfast.codecs.planes import zstd

    return lambda raw, dtype: ("zstd", zstd.compress(raw, level))


def decode_zstd(stored: tuple[str, bytes], out: np.ndarray) -> None:
    from holdfast.codecs.planes import zstd

    np.copyto(out, np.frombuffer(zstd.decompress(stored[1]), np.uint8))


def measure(chunks: list[Chunk], encode: Any, decode: Any, check: Any = None) -> dict[str, float]:
    """Ratio, and MB of raw bytes a second of one core."""
    raw_bytes = sum(len(raw) for raw, _ in chunks)
    encoded = [encode(raw, dtype) for raw, dtype in chunks]
    out = np.empty(CHUNK_BYTES, np.uint8)
    for (raw, _), stored in zip(chunks, encoded, strict=True):
        decode(stored, out[: len(raw)])
        assert np.array_equal(out[: len(raw)], raw)
    outputs = [(stored, out[: len(raw)]) for stored, (raw, _) in zip(encoded, chunks, strict=True)]
    result = {
        "ratio": raw_bytes / sum(len(data) for _, data in encoded),
        "encode": raw_bytes / best(encode, chunks) / 1e6,
        "decode": raw_bytes / best(decode, outputs) / 1e6,
    }
    if check is not None:
        result["encode_check"] = raw_bytes / best(check, chunks) / 1e6
    return result


def best(work: Callable[[Any, Any], object], pairs: list[tuple[Any, Any]]) -> float:
    """CPU seconds: of each chunk the best of several rounds, so that what else runs here counts little."""
    seconds = [float("inf")] * len(pairs)
    for _ in range(ROUNDS):
        for number, (one, other) in enumerate(pairs):
            started = time.thread_time()
            work(one, other)
            seconds[number] = min(seconds[number], time.thread_time() - started)
    return sum(seconds)


def report(name: str, found: dict[str, Any]) -> None:
    print(f"{name}: {found['state_bytes'] / 1e6:.0f} MB of state")
    print(f"  {'':10} {'ratio':>7} {'encode':>9} {'+check':>9} {'decode':>9}  MB/s per core")
    for codec in ("holdfast", "zstd -1", "zstd -3"):
        row = found[codec]
        check = f"{row['encode_check']:9.0f}" if "encode_check" in row else " " * 9
        print(f"  {codec:10} {row['ratio']:7.3f} {row['encode']:9.0f} {check} {row['decode']:9.0f}")


if __name__ == "__main__":
    main()
