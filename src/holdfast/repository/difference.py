"""What differs between two checkpoints, tensor by tensor."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import msgspec

from holdfast.domain.manifest import Manifest
from holdfast.domain.names import CheckpointId
from holdfast.domain.tensors import ITEM_BYTES, TensorSpec
from holdfast.repository.run import Run
from holdfast.repository.stored import StoredTensor

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Bytes = npt.NDArray[np.uint8]

_ELEMENTS = 1 << 20
"""Compared at a time, so that numbers never take much more memory than the two tensors."""


class TensorDifference(msgspec.Struct, frozen=True):
    """One tensor in two checkpoints.

    Attributes
    ----------
    status : str
        ``equal`` (bit for bit), ``changed``, ``reshaped`` (other dtype or shape), ``only a`` or ``only b``.
    bit_equal : float or None
        Share of elements whose bits are equal.
    max_abs, relative_l2 : float or None
        Largest absolute difference, and length of the difference over that of ``a``, over
        elements finite in both; None where the dtype is no number.
    not_finite : int
        Changed elements that are infinite or NaN in either.
    """

    name: str
    status: str
    a: TensorSpec | None
    b: TensorSpec | None
    bit_equal: float | None = None
    max_abs: float | None = None
    relative_l2: float | None = None
    not_finite: int = 0


class Side:
    """A checkpoint to compare, with its manifest read once."""

    def __init__(self, run: Run, checkpoint: CheckpointId) -> None:
        self.manifest: Manifest = run.manifest(checkpoint)
        self._run = run
        self._hints = run.hints(checkpoint)

    def read(self, name: str) -> Bytes:
        """Verified bytes of one tensor."""
        with self._run.repository.holding():
            return StoredTensor(self._run, self.manifest, self._hints, name).read()


def compare(
    a: Side, b: Side, advance: Callable[[int], None] = lambda size: None
) -> Iterator[TensorDifference]:
    """Compare every tensor; those with equal digests are not read."""
    ours, theirs = a.manifest.tensors, b.manifest.tensors
    for name in [*ours, *(n for n in theirs if n not in ours)]:
        one, other = ours.get(name), theirs.get(name)
        spec_a, spec_b = one.spec if one else None, other.spec if other else None
        if one is None or other is None:
            yield TensorDifference(name, "only b" if one is None else "only a", spec_a, spec_b)
        elif spec_a != spec_b:
            yield TensorDifference(name, "reshaped", spec_a, spec_b)
        elif same_chunks(a, b, name):
            yield TensorDifference(name, "equal", spec_a, spec_b, 1.0, 0.0, 0.0)
        else:
            yield _measure(name, one.spec, a.read(name), b.read(name))
        advance(one.spec.size_bytes if one is not None else 0)


def same_chunks(a: Side, b: Side, name: str) -> bool:
    """Whether digests alone prove two tensors equal."""
    one, other = a.manifest.tensors[name], b.manifest.tensors[name]
    return a.manifest.chunk_bytes == b.manifest.chunk_bytes and one.shards == other.shards


def _measure(name: str, spec: TensorSpec, a: Bytes, b: Bytes) -> TensorDifference:
    import numpy as np

    with np.errstate(over="ignore"):  # the difference of huge numbers is rightly infinite
        return _measured(name, spec, a, b)


def _measured(name: str, spec: TensorSpec, a: Bytes, b: Bytes) -> TensorDifference:
    import numpy as np

    from holdfast.repository.numbers import as_numbers

    item_bytes = ITEM_BYTES[spec.dtype]
    equal = not_finite = 0
    max_abs = squares = reference = 0.0
    numeric = True
    for start in range(0, len(a), _ELEMENTS * item_bytes):
        x, y = a[start : start + _ELEMENTS * item_bytes], b[start : start + _ELEMENTS * item_bytes]
        same = (x == y).reshape(-1, item_bytes).all(axis=1)
        equal += int(same.sum())
        u, v = as_numbers(x, spec.dtype), as_numbers(y, spec.dtype)
        if u is None or v is None:
            numeric = False
            continue
        finite = np.isfinite(u) & np.isfinite(v)
        not_finite += int((~finite & ~same).sum())
        difference = np.abs(u[finite] - v[finite])
        max_abs = max(max_abs, float(difference.max(initial=0.0)))
        squares += float(difference @ difference)
        reference += float(np.sum(np.abs(u[finite]) ** 2))
    count = len(a) // item_bytes
    return TensorDifference(
        name,
        "changed" if equal < count else "equal",
        spec,
        spec,
        bit_equal=equal / count if count else 1.0,
        max_abs=max_abs if numeric else None,
        relative_l2=_ratio(squares, reference) if numeric else None,
        not_finite=not_finite,
    )


def _ratio(squares: float, reference: float) -> float:
    """Length of the difference over that of the first; infinite where only that is zero."""
    if squares == 0:
        return 0.0
    return float((squares / reference) ** 0.5) if reference else float("inf")
