"""What the codecs gain on real training state, and how fast they are on one core, beside plain zstd.

``python benchmarks/codecs.py [--steps N] [--width N] [--json FILE]``: trains a small transformer in fp32 and
in bf16 with AdamW, cuts its state into chunks as a save does, and encodes and decodes each: alone, by the
same chunk some steps later, and as the rounding of a float32 master.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import blake3
import numpy as np
import torch
from sizes import Shape
from training_model import Trainer

from holdfast.codecs import registry
from holdfast.codecs.base import Base

CHUNK_BYTES = 1024 * 1024
SHAPE = Shape(384, 4, batch=2, context=128, rotations=1, segment_steps=0, long_turn=False)
ROUNDS = 6
APART = (1, 10, 100)
RATE = 3e-4
RUNS = (
    ("float32", torch.float32, RATE),
    ("bfloat16", torch.bfloat16, RATE),
    ("bfloat16, fine-tuned", torch.bfloat16, 1e-5),
)
Chunk = tuple[np.ndarray, str]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--width", type=int, default=SHAPE.width)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    shape = SHAPE._replace(width=options.width)
    found = {}
    for name, dtype, rate in RUNS:
        trainer = trained(shape, dtype, options.steps)
        chunks = list(chunks_of(trainer))
        found[name] = {"state_bytes": sum(len(raw) for raw, _ in chunks), **measure_all(chunks)}
        report(name, found[name])
        found[name]["apart"] = measure_apart(trainer, chunks, rate)
        report_apart(found[name]["apart"])
    found["copy"] = measure_copies(shape)
    report_apart({"bf16 copy of a master": found["copy"]})
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


def trained(shape: Shape, dtype: torch.dtype, steps: int) -> Trainer:
    trainer = Trainer(shape)
    trainer.model.to(dtype)
    learn(trainer, steps)
    return trainer


def learn(trainer: Trainer, steps: int) -> None:
    for _ in range(steps):
        trainer.learn()
        trainer.step()


def chunks_of(trainer: Trainer) -> Iterator[Chunk]:
    """Weights and AdamW's state, in chunks."""
    state = trainer.optimizer.state_dict()["state"]
    tensors = [*trainer.model.state_dict().values(), *(t for entry in state.values() for t in entry.values())]
    for tensor in tensors:
        yield from cut(tensor)


def cut(tensor: torch.Tensor) -> Iterator[Chunk]:
    raw = tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy()
    for start in range(0, len(raw), CHUNK_BYTES):
        yield raw[start : start + CHUNK_BYTES].copy(), str(tensor.dtype).removeprefix("torch.")


def measure_apart(trainer: Trainer, before: list[Chunk], rate: float) -> dict[str, dict[str, float]]:
    """Each chunk by the same one so many steps later, where that is clearly smaller."""
    for group in trainer.optimizer.param_groups:
        group["lr"] = rate
    found, done = {}, 0
    for apart in APART:
        learn(trainer, apart - done)
        done = apart
        bases = [[Base(blake3.blake3(raw.data).digest(), raw)] for raw, _ in chunks_of(trainer)]
        found[f"{apart} steps apart"] = measure_based(before, bases)
    return found


def measure_copies(shape: Shape) -> dict[str, float]:
    """The bfloat16 copy of trained float32 weights by these weights."""
    weights = trained(shape, torch.float32, 1).model.state_dict().values()
    pairs = [
        (chunk, [Base(blake3.blake3(raw.data).digest(), raw) for raw, _ in wide[2 * n : 2 * n + 2]])
        for tensor in weights
        for wide in [list(cut(tensor))]
        for n, chunk in enumerate(cut(tensor.to(torch.bfloat16)))
    ]
    return measure_based([chunk for chunk, _ in pairs], [bases for _, bases in pairs])


def measure_based(chunks: list[Chunk], bases: list[list[Base]]) -> dict[str, float]:
    """Ratio, and MB of raw bytes a second of one core, bases at hand."""
    raw_bytes = sum(len(raw) for raw, _ in chunks)
    encoded = [registry.encode(*chunk, near) for chunk, near in zip(chunks, bases, strict=True)]
    sizes = [len(e.data) if e else len(raw) for e, (raw, _) in zip(encoded, chunks, strict=True)]
    based = [
        (e, [base.raw for base in near], len(raw))
        for e, near, (raw, _) in zip(encoded, bases, chunks, strict=True)
        if e and e.bases
    ]
    out = np.empty(CHUNK_BYTES, np.uint8)

    def decode(e: registry.Encoded, below: tuple[list[np.ndarray], int]) -> None:
        registry.CODECS[e.codec].decode(np.frombuffer(e.data, np.uint8), out[: below[1]], below[0])

    seconds = best(lambda chunk, near: registry.encode(*chunk, near), list(zip(chunks, bases, strict=True)))
    result = {
        "ratio": raw_bytes / sum(sizes),
        "based": sum(size for *_, size in based) / raw_bytes,
        "encode_check": raw_bytes / seconds / 1e6,
    }
    if based:
        seconds = best(decode, [(e, (below, size)) for e, below, size in based])
        result["decode"] = sum(size for *_, size in based) / seconds / 1e6
    return result


def measure_all(chunks: list[Chunk]) -> dict[str, Any]:
    return {
        "holdfast": measure(chunks, encode_ours, decode_ours, check=registry.encode),
        "zstd -1": measure(chunks, encode_zstd(1), decode_zstd),
        "zstd -3": measure(chunks, encode_zstd(3), decode_zstd),
    }


def encode_ours(raw: np.ndarray, dtype: str) -> tuple[str, bytes]:
    """The same as `registry.encode`, without decoding and comparing."""
    for name in ("constant", "planes"):
        codec = registry.CODECS[name]
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
    from holdfast.domain.compressed import zstd

    return lambda raw, dtype: ("zstd", zstd.compress(raw, level))


def decode_zstd(stored: tuple[str, bytes], out: np.ndarray) -> None:
    from holdfast.domain.compressed import zstd

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


def report_apart(found: dict[str, dict[str, float]]) -> None:
    for name, row in found.items():
        print(
            f"  {name}: {row['ratio']:.3f}, {row['based']:4.0%} by bases, +check {row['encode_check']:.0f}, "
            f"decode {row.get('decode', 0):.0f} MB/s"
        )


if __name__ == "__main__":
    main()
