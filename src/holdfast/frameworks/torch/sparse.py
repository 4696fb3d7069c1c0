"""Sparse torch tensors, kept exactly: their indices and values as dense parts."""

from __future__ import annotations

from typing import Any

import torch

from holdfast.errors import DamagedError
from holdfast.frameworks.base import CaptureWalk, LoadWalk
from holdfast.frameworks.torch import tensors

_LAYOUTS = {
    torch.sparse_coo: "coo",
    torch.sparse_csr: "csr",
    torch.sparse_csc: "csc",
    torch.sparse_bsr: "bsr",
    torch.sparse_bsc: "bsc",
}
_BY_NAME = {name: layout for layout, name in _LAYOUTS.items()}


def is_sparse(value: object) -> bool:
    return isinstance(value, torch.Tensor) and value.layout in _LAYOUTS


class SparseAdapter:
    """Restores into the live sparse tensor, whatever number of values that holds."""

    kind = "torch.sparse"

    def capture(self, value: torch.Tensor, path: str, walk: CaptureWalk) -> dict[str, Any]:
        return {
            "layout": _LAYOUTS[value.layout],
            "shape": list(value.shape),
            "coalesced": value.layout is torch.sparse_coo and value.is_coalesced(),
            "parts": {name: walk.value(part, f"{path}/{name}") for name, part in _parts(value).items()},
        }

    def plan(self, value: torch.Tensor, saved: Any, path: str, walk: LoadWalk) -> None:
        dtype = walk.spec(saved["parts"]["values"]).dtype
        described = f"{saved['layout']} {dtype}{saved['shape']}"
        live = f"{_LAYOUTS[value.layout]} {str(value.dtype).removeprefix('torch.')}{list(value.shape)}"
        if described != live:
            walk.mismatched(path, described, live)
            return
        built = build(saved, path, walk, device=value.device)
        walk.then(lambda: _assign(value, built))

    def given(self, value: torch.Tensor) -> dict[str, Any]:
        return {}

    def apply_given(self, value: torch.Tensor, changes: dict[str, Any]) -> None:
        """Nothing is given."""


def build(saved: Any, path: str, walk: LoadWalk, *, device: torch.device | None = None) -> torch.Tensor:
    """A sparse tensor over fresh parts, which the plan will fill; checked once they are."""
    parts = []
    for ref in saved["parts"].values():
        part, target = tensors.new_tensor(walk.spec(ref), device or ref.device)
        walk.read(ref, target)
        parts.append(part)
    shape = torch.Size(saved["shape"])
    layout = _BY_NAME[saved["layout"]]
    walk.then(lambda: _check(layout, parts, shape, path))
    if layout is torch.sparse_coo:
        indices, values = parts
        coalesced = bool(saved["coalesced"])
        return torch.sparse_coo_tensor(indices, values, shape, check_invariants=False, is_coalesced=coalesced)
    outer, inner, values = parts
    return torch.sparse_compressed_tensor(outer, inner, values, shape, layout=layout, check_invariants=False)


def _parts(value: torch.Tensor) -> dict[str, torch.Tensor]:
    value = value.detach()
    if value.layout is torch.sparse_coo:
        return {"indices": value._indices(), "values": value._values()}
    by_row = value.layout in (torch.sparse_csr, torch.sparse_bsr)
    outer, inner = (
        (value.crow_indices(), value.col_indices()) if by_row else (value.ccol_indices(), value.row_indices())
    )
    return {"outer": outer, "inner": inner, "values": value.values()}


def _check(layout: torch.layout, parts: list[torch.Tensor], shape: torch.Size, path: str) -> None:
    try:
        if layout is torch.sparse_coo:
            indices, values = parts
            torch._validate_sparse_coo_tensor_args(indices, values, shape)
        else:
            outer, inner, values = parts
            torch._validate_sparse_compressed_tensor_args(outer, inner, values, shape, layout)
    except RuntimeError as error:
        raise DamagedError(f"The sparse tensor {path} has indices that do not fit it: {error}.") from error


def _assign(live: torch.Tensor, built: torch.Tensor) -> None:
    with torch.no_grad():
        if live.layout is not torch.sparse_coo:
            live.resize_as_sparse_(built)
        live.copy_(built)
