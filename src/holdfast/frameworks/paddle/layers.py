"""Layers: parameters, all buffers, modes and flags, under canonical names."""

from __future__ import annotations

from typing import Any

from holdfast.domain.tensors import TensorRef
from holdfast.domain.tree import Component
from holdfast.frameworks.base import CaptureWalk, Form, LoadWalk
from holdfast.frameworks.paddle import forms, tensors
from holdfast.frameworks.paddle.names import join, sublayers

Layers = list[tuple[str, Any]]


class Slot:
    """Where a layer keeps a parameter or buffer; the tensor may be None."""

    def __init__(self, layer: Any, key: str, *, is_parameter: bool) -> None:
        self.layer = layer
        self.key = key
        self.is_parameter = is_parameter
        self.transient = not is_parameter and key in layer._non_persistable_buffer_names_set

    @property
    def tensor(self) -> Any:
        return (self.layer._parameters if self.is_parameter else self.layer._buffers)[self.key]

    def put(self, tensor: Any) -> None:
        self.layer._buffers[self.key] = tensor


BLANK = "not initialised"
"""Stands for a buffer that a kernel will fill at its first use, such as an LSTM's dropout state."""


class LayerAdapter:
    """Restores into the live tensors.

    Non-persistable buffers are kept too, since the next step may depend on them; as layers grow
    and build them at will, they need not match the live ones.
    """

    kind = "paddle.layer"

    def capture(self, value: Any, path: str, walk: CaptureWalk) -> Any:
        layers = list(sublayers(value))
        slots = _slots(layers)
        form = _form(layers, slots)
        return walk.lasting(path, form, lambda: [self._captured(layers, slots, path, walk)])[0]

    def _captured(
        self, layers: Layers, slots: dict[str, Slot], path: str, walk: CaptureWalk
    ) -> dict[str, Any]:
        tied = _tied(slots)
        return {
            "tensors": {
                name: _captured(slot, f"{path}/{name}", walk)
                for name, slot in slots.items()
                if name not in tied
            },
            "tied": tied,
            "transient": [name for name, slot in slots.items() if slot.transient],
            "stop_gradient": {n: s.tensor.stop_gradient for n, s in slots.items() if s.tensor is not None},
            "training": {name: layer.training for name, layer in layers},
        }

    def plan(self, value: Any, saved: Any, path: str, walk: LoadWalk) -> None:
        layers = list(sublayers(value))
        slots, by_name = _slots(layers), dict(layers)
        _compare_ties(saved["tied"], _tied(slots), path, walk)
        for name, slot in slots.items():
            known = name in saved["tensors"] or name in saved["tied"]
            if not known and not slot.transient and slot.tensor is not None:
                walk.missing(f"{path}/{name}")
        transient = set(saved["transient"])
        for name, old in saved["tensors"].items():
            layer = by_name.get(name.rpartition(".")[0])
            if name in slots:
                _plan_slot(slots[name], old, f"{path}/{name}", walk)
            elif name in transient and layer is not None:
                _plan_new_buffer(layer, name.rpartition(".")[2], old, f"{path}/{name}", walk)
            elif old is not None:
                walk.unexpected(f"{path}/{name}")
        walk.then(lambda: _put_flags(value, saved))

    def given(self, value: Any) -> dict[str, Any]:
        return {}

    def apply_given(self, value: Any, changes: dict[str, Any]) -> None:
        """Nothing is given."""


def _slots(layers: Layers) -> dict[str, Slot]:
    result = {}
    for prefix, layer in layers:
        for key in layer._parameters:
            result[join(prefix, key)] = Slot(layer, key, is_parameter=True)
        for key in layer._buffers:
            result[join(prefix, key)] = Slot(layer, key, is_parameter=False)
    return result


def _form(layers: Layers, slots: dict[str, Slot]) -> Form | None:
    """All that a capture goes by."""
    names, modes = [name for name, _ in layers], [layer.training for _, layer in layers]
    held = [slot.tensor for slot in slots.values()]
    live = [tensor for tensor in held if tensor is not None]
    if not set(map(type, (*names, *slots))) <= {str} or not set(map(type, modes)) <= {bool}:
        return None
    facts = [names, modes, list(slots), [slot.transient for slot in slots.values()]]
    facts += [[tensor is not None for tensor in held], [tensor.stop_gradient for tensor in live]]
    return forms.form(facts, live)


def _tied(slots: dict[str, Slot]) -> dict[str, str]:
    """Names that share one tensor with an earlier one, alphabetically, to that one."""
    first: dict[int, str] = {}
    tied = {}
    for name in sorted(slots):
        tensor = slots[name].tensor
        if tensor is not None and first.setdefault(id(tensor), name) != name:
            tied[name] = first[id(tensor)]
    return tied


def _captured(slot: Slot, path: str, walk: CaptureWalk) -> Any:
    if slot.tensor is None:
        return None
    return BLANK if _is_blank(slot) else walk.value(slot.tensor, path)


def _is_blank(slot: Slot) -> bool:
    return slot.transient and slot.tensor is not None and not slot.tensor._is_initialized()


def _put_blank(slot: Slot) -> None:
    slot.put(slot.layer.create_variable(persistable=False, dtype=slot.tensor.dtype))


def _compare_ties(saved: Any, live: dict[str, str], path: str, walk: LoadWalk) -> None:
    for name in sorted(saved.keys() | live.keys()):
        if saved.get(name) != live.get(name):
            walk.mismatched(f"{path}/{name}", _describe_tie(saved.get(name)), _describe_tie(live.get(name)))


def _describe_tie(leader: str | None) -> str:
    return "on its own" if leader is None else f"tied to {leader}"


def _plan_slot(slot: Slot, saved: Any, path: str, walk: LoadWalk) -> None:
    live = slot.tensor
    if saved == BLANK or _is_blank(slot):
        _plan_blank(slot, saved, path, walk)
    elif slot.is_parameter and (saved is None) != (live is None):
        present = {True: "none", False: "a tensor"}
        walk.mismatched(path, present[saved is None], present[live is None])
    elif saved is not None and (live is None or (slot.transient and not _fits(saved, live, walk))):
        new = walk.value(saved, None, path)
        walk.then(lambda: slot.put(new))
    elif saved is None:
        walk.then(lambda: slot.put(None))
    else:
        walk.value(saved, live, path)


def _plan_blank(slot: Slot, saved: Any, path: str, walk: LoadWalk) -> None:
    """Either side is a buffer that no kernel has filled yet."""
    if saved == BLANK:
        if slot.transient and not _is_blank(slot) and slot.tensor is not None:
            walk.then(lambda: _put_blank(slot))
    elif saved is not None:
        new = walk.value(saved, None, path)
        walk.then(lambda: slot.put(new))


def _fits(saved: Any, live: Any, walk: LoadWalk) -> bool:
    if isinstance(saved, TensorRef) and tensors.refused(live) is None:
        return tensors.spec_of(live) == walk.spec(saved)
    return isinstance(saved, Component) and tensors.is_sparse(live)


def _plan_new_buffer(layer: Any, key: str, saved: Any, path: str, walk: LoadWalk) -> None:
    new = None if saved is None else walk.value(saved, None, path)
    walk.then(lambda: layer.register_buffer(key, new, persistable=False))


def _put_flags(root: Any, saved: Any) -> None:
    layers = list(sublayers(root))
    for name, slot in _slots(layers).items():
        wanted = saved["stop_gradient"].get(name)
        if slot.tensor is not None and wanted is not None and slot.tensor.stop_gradient != wanted:
            slot.tensor.stop_gradient = wanted
    for name, layer in layers:
        layer.training = bool(saved["training"].get(name, layer.training))
