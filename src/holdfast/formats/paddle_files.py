"""Paddle's own files, written as ``paddle.save`` does and read without running anything."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from holdfast.domain.tensors import TensorRef, TensorSpec
from holdfast.domain.tree import Component, references
from holdfast.errors import DamagedError, UnsupportedError
from holdfast.formats.bounds import check_bounds
from holdfast.formats.reading import Advance, HostTarget, SavedState
from holdfast.formats.unpickling import PickledArray, unpickle
from holdfast.formats.views import PADDLE_NAMES

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_PARTS = "UnpackBigParamInfor@@"
"""Paddle's own key for parameters that old pickles divide."""

_NO_FORM = frozenset(
    {"float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu"}
    | {"float4_e2m1fn_x2", "complex32"}
)
_PROTOCOL = 4  # Paddle's own


def save_view(
    saved: SavedState,
    view: dict[str, Any],
    names: Mapping[str, str],
    file: IO[bytes],
    advance: Advance | None = None,
) -> None:
    """Write one state dict.

    Parameters
    ----------
    names : mapping
        Paddle's name of each parameter, by structured name.
    """
    arrays = _arrays(saved, view, advance)
    nested = any(True for item in view.values() for _ in references(item) if not isinstance(item, TensorRef))
    if nested:  # Paddle looks for pairs of name and array where tensors are not all on top
        content = _pairs(view, arrays, "tensor")
    else:
        content = {k: arrays[v.name] if isinstance(v, TensorRef) else v for k, v in view.items()}
        content[PADDLE_NAMES] = {k: names.get(k, k) for k, v in view.items() if isinstance(v, TensorRef)}
    pickle.dump(content, file, protocol=_PROTOCOL)


def _pairs(view: Any, arrays: Mapping[str, Any], name: str) -> Any:
    if isinstance(view, TensorRef):
        return (name, arrays[view.name])
    if isinstance(view, dict):
        return {key: _pairs(item, arrays, str(key)) for key, item in view.items()}
    if isinstance(view, list | tuple):
        return [_pairs(item, arrays, name) for item in view]
    return view


def _arrays(saved: SavedState, view: Any, advance: Advance | None) -> dict[str, npt.NDArray[Any]]:
    targets: dict[str, HostTarget] = {}
    _refuse_sparse(view)
    for ref in references(view):
        spec = saved.spec(ref)
        if spec.dtype in _NO_FORM:
            raise UnsupportedError(
                f"The tensor {ref.name} has dtype {spec.dtype}, which Paddle's files cannot hold.",
                do="Export to .safetensors.",
            )
        targets[ref.name] = HostTarget(spec)
    saved.fill(list(targets.items()), advance)
    return {name: _as_array(target) for name, target in targets.items()}


def _as_array(target: HostTarget) -> npt.NDArray[Any]:
    import numpy as np

    dtype = "uint16" if target.spec.dtype == "bfloat16" else target.spec.dtype  # as Paddle has it
    array: npt.NDArray[Any] = target.buffer().view(np.dtype(dtype)).reshape(target.spec.shape)
    return array


def _refuse_sparse(view: Any) -> None:
    if isinstance(view, Component):
        raise UnsupportedError(
            "The state holds a sparse tensor, which Paddle's files cannot hold.",
            do="Leave it out with only=.",
        )
    for item in view.values() if isinstance(view, dict) else view if isinstance(view, list | tuple) else ():
        _refuse_sparse(item)


class ArraySource:
    """An array from a file of Paddle's; 16-bit unsigned numbers there are bfloat16."""

    def __init__(self, array: npt.NDArray[Any]) -> None:
        self._array = array
        name = "bfloat16" if array.dtype.name == "uint16" else array.dtype.name
        self.spec = TensorSpec(name, array.shape)

    def read(self) -> npt.NDArray[np.uint8]:
        import numpy as np

        return np.ascontiguousarray(self._array).reshape(-1).view(np.uint8)


AddTensor = Callable[[str, ArraySource], TensorRef]


def load_view(path: Path, add: AddTensor) -> tuple[Any, dict[str, str]]:
    """What a file of ``paddle.save`` holds, and the table of Paddle's names in it.

    Parameters
    ----------
    add : callable
        Takes a path and a tensor; returns what stands for it.
    """
    content = unpickle(path)
    check_bounds(content, path.name)
    names: dict[str, str] = {}
    if isinstance(content, dict):
        _join_parts(content, path)
        table = content.pop(PADDLE_NAMES, {})
        if isinstance(table, dict):
            names = {str(key): str(name) for key, name in table.items()}
    return _referenced(content, add, "", {}), names


def _referenced(value: Any, add: AddTensor, path: str, known: dict[int, TensorRef]) -> Any:
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[1], PickledArray):
        value = value[1]  # a pair of name and array
    if isinstance(value, PickledArray):
        if id(value) not in known:
            known[id(value)] = add(path or "tensor", ArraySource(value.array))
        return known[id(value)]
    if isinstance(value, dict):
        return {key: _referenced(item, add, _below(path, key), known) for key, item in value.items()}
    if isinstance(value, list | tuple):
        items = [_referenced(item, add, _below(path, i), known) for i, item in enumerate(value)]
        return items if isinstance(value, list) else tuple(items)
    return value


def _below(path: str, key: object) -> str:
    return f"{path}/{key}" if path else str(key)


def _join_parts(content: dict[Any, Any], path: Path) -> None:
    """Put parameters together that a pickle of protocol 2 or 3 holds in parts."""
    import numpy as np

    try:
        for name, entry in content.pop(_PARTS, {}).items():
            whole = PickledArray()
            parts = [content.pop(part).array for part in entry["slices"]]
            whole.array = np.concatenate(parts).reshape(entry["OriginShape"])
            content[name] = whole
    except (KeyError, AttributeError, TypeError, ValueError) as error:
        raise DamagedError(f"{path.name} has a parameter in parts that do not fit: {error}.") from error
