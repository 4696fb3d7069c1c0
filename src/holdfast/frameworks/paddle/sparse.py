"""Sparse Paddle tensors, kept exactly: their indices and values as dense parts."""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle

from holdfast.errors import DamagedError
from holdfast.frameworks.base import CaptureWalk, LoadWalk
from holdfast.frameworks.paddle import tensors


class SparseAdapter:
    """Restores into the live sparse tensor, whatever number of values that holds."""

    kind = "paddle.sparse"

    def capture(self, value: Any, path: str, walk: CaptureWalk) -> dict[str, Any]:
        return {
            "layout": _layout(value),
            "shape": list(value.shape),
            "coalesced": value.is_sparse_coo() and value.is_coalesced(),
            "stop_gradient": value.stop_gradient,
            "parts": {name: walk.value(part, f"{path}/{name}") for name, part in _parts(value).items()},
        }

    def plan(self, value: Any, saved: Any, path: str, walk: LoadWalk) -> None:
        described = f"{saved['layout']} {walk.spec(saved['parts']['values']).dtype}{saved['shape']}"
        live = f"{_layout(value)} {tensors.spec_of(value).dtype}{list(value.shape)}"
        if described != live:
            walk.mismatched(path, described, live)
            return
        parts = _new_parts(saved, walk, tensors.device_kind(value))
        walk.then(lambda: value.copy_(_assemble(saved, parts, path), True))

    def given(self, value: Any) -> dict[str, Any]:
        return {}

    def apply_given(self, value: Any, changes: dict[str, Any]) -> None:
        """Nothing is given."""


def build(saved: Any, path: str, walk: LoadWalk) -> Any:
    """A sparse tensor where none awaits the value: empty until the parts are read."""
    parts = _new_parts(saved, walk, None)
    result = _placeholder(saved, walk)
    walk.then(lambda: result.copy_(_assemble(saved, parts, path), True))
    return result


def _layout(value: Any) -> str:
    return "coo" if value.is_sparse_coo() else "csr"


def _parts(value: Any) -> dict[str, Any]:
    if value.is_sparse_coo():
        return {"indices": value.indices(), "values": value.values()}
    return {"crows": value.crows(), "cols": value.cols(), "values": value.values()}


def _new_parts(saved: Any, walk: LoadWalk, device: str | None) -> list[Any]:
    parts = []
    for ref in saved["parts"].values():
        part, target = tensors.new_tensor(walk.spec(ref), device or ref.device)
        walk.read(ref, target)
        parts.append(part)
    return parts


def _placeholder(saved: Any, walk: LoadWalk) -> Any:
    """A valid sparse tensor of the right kind, to be assigned to."""
    specs = {name: walk.spec(ref) for name, ref in saved["parts"].items()}
    dtype, stop = tensors.DTYPES[specs["values"].dtype], saved["stop_gradient"]
    if saved["layout"] == "coo":
        indices = paddle.zeros([specs["indices"].shape[0], 1], dtype="int64")
        values = paddle.zeros([1, *specs["values"].shape[1:]], dtype=dtype)
        return paddle.sparse.sparse_coo_tensor(indices, values, saved["shape"], stop_gradient=stop)
    crows = paddle.zeros(list(specs["crows"].shape), dtype="int64")
    cols, values = paddle.zeros([0], dtype="int64"), paddle.zeros([0], dtype=dtype)
    return paddle.sparse.sparse_csr_tensor(crows, cols, values, saved["shape"], stop_gradient=stop)


def _assemble(saved: Any, parts: list[Any], path: str) -> Any:
    _check(saved, parts, path)
    stop = saved["stop_gradient"]
    if saved["layout"] == "csr":
        return paddle.sparse.sparse_csr_tensor(*parts, saved["shape"], stop_gradient=stop)
    result = paddle.sparse.sparse_coo_tensor(*parts, saved["shape"], stop_gradient=stop)
    # only sets the flag here: coalesced values are sorted and unique already
    return result.coalesce() if saved["coalesced"] else result


def _check(saved: Any, parts: list[Any], path: str) -> None:
    """Paddle's kernels trust indices: one out of bounds would write outside the tensor."""
    shape = saved["shape"]
    arrays = [part.numpy() for part in parts[:-1]]
    if saved["layout"] == "coo":
        bounds = np.array(shape[: len(arrays[0])]).reshape(-1, 1)
        fits = bool((arrays[0] >= 0).all() and (arrays[0] < bounds).all())
    else:
        crows, cols = arrays
        fits = bool((cols >= 0).all() and (cols < shape[-1]).all() and (crows >= 0).all())
        fits = fits and bool((crows <= len(cols)).all())
    if not fits:
        raise DamagedError(f"The sparse tensor {path} has indices that do not fit its shape {shape}.")
