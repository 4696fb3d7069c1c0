"""Compare two checkpoints bit for bit: every tensor, every value, what comes next in training."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import holdfast
from holdfast.domain import tree


@dataclass
class Comparison:
    """What was compared, and the first difference of each kind."""

    tensors: int = 0
    size_bytes: int = 0
    steps: int = 0
    samples: int = 0
    differences: dict[str, str] = field(default_factory=dict)

    @property
    def equal(self) -> bool:
        return not self.differences


def compare(reference: holdfast.Checkpoint, other: holdfast.Checkpoint) -> Comparison:
    """Compare everything that training goes on from, and all that was logged on the way.

    Both states hold ``history``, a list of [step, loss, the samples of its batch].
    """
    ours, theirs = reference.load(), other.load()
    history, their_history = ours.pop("history"), theirs.pop("history")
    result = Comparison(
        tensors=len(reference.manifest().tensors),
        size_bytes=reference.summary.size_bytes,
        steps=len(history),
        samples=sum(len(samples) for _, _, samples in history),
    )
    pairs = {
        "tensors and values of the training state": (ours, theirs),
        "losses": ([h[:2] for h in history], [h[:2] for h in their_history]),
        "order of samples": ([h[2] for h in history], [h[2] for h in their_history]),
        "random generators, data position": (_next(reference), _next(other)),
        "progress and metrics": (_reached(reference), _reached(other)),
    }
    result.differences = {
        what: difference
        for what, (a, b) in pairs.items()
        if (difference := next(differences(a, b), None)) is not None
    }
    return result


def _next(checkpoint: holdfast.Checkpoint) -> Any:
    return tree.decode(checkpoint.manifest().details.training)


def _reached(checkpoint: holdfast.Checkpoint) -> Any:
    progress = checkpoint.summary.progress
    return [progress.step, progress.epoch, progress.batch, progress.samples, checkpoint.metrics]


def differences(a: Any, b: Any, path: str = "") -> Iterator[str]:
    """Where two nested values differ, in order, down to the bit."""
    if type(a) is not type(b):
        yield f"{path or 'all'}: {_short(a)} and {_short(b)}"
    elif isinstance(a, dict):
        for key in [*a, *(k for k in b if k not in a)]:
            if key in a and key in b:
                yield from differences(a[key], b[key], f"{path}/{key}".lstrip("/"))
            else:
                yield f"{path}/{key}: only in {'the first' if key in a else 'the second'}"
    elif isinstance(a, list | tuple):
        if len(a) != len(b):
            yield f"{path}: {len(a)} and {len(b)} items"
        for index, (x, y) in enumerate(zip(a, b, strict=False)):
            yield from differences(x, y, f"{path}[{index}]")
    elif hasattr(a, "numpy") or isinstance(a, np.ndarray):
        yield from _tensor_differences(_array(a), _array(b), path)
    elif _bits(a) != _bits(b):
        yield f"{path}: {_short(a)} and {_short(b)}"


def _tensor_differences(a: Any, b: Any, path: str) -> Iterator[str]:
    if a.shape != b.shape or a.dtype != b.dtype:
        yield f"{path}: {a.dtype}{list(a.shape)} and {b.dtype}{list(b.shape)}"
    elif a.tobytes() != b.tobytes():
        unequal = [x.tobytes() != y.tobytes() for x, y in zip(a.flat, b.flat, strict=True)]
        where = np.unravel_index(unequal.index(True), a.shape)
        index = ", ".join(map(str, where))
        yield f"{path}[{index}]: {a[where]!r} and {b[where]!r} ({sum(unequal)} of {a.size} elements differ)"


def _array(value: Any) -> Any:
    return value if isinstance(value, np.ndarray) else value.detach().cpu().numpy()


def _bits(value: Any) -> Any:
    return struct.pack("<d", value) if isinstance(value, float) else value


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
