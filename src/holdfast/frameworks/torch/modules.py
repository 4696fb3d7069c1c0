"""Modules: parameters, all buffers, extra state, modes and flags, under canonical names."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from holdfast.domain.tensors import TensorRef
from holdfast.domain.tree import Component
from holdfast.errors import UnsupportedError
from holdfast.frameworks.base import CaptureWalk, Form, LoadWalk
from holdfast.frameworks.torch import forms, tensors
from holdfast.frameworks.torch.names import join, submodules
from holdfast.frameworks.torch.sparse import is_sparse

Modules = list[tuple[str, nn.Module]]


class Slot:
    """Where a module keeps a parameter or buffer; the tensor may be None."""

    def __init__(self, module: nn.Module, key: str, *, is_parameter: bool) -> None:
        self.module = module
        self.key = key
        self.is_parameter = is_parameter
        self.transient = not is_parameter and key in module._non_persistent_buffers_set

    @property
    def tensor(self) -> torch.Tensor | None:
        return (self.module._parameters if self.is_parameter else self.module._buffers)[self.key]

    @property
    def follows_script(self) -> bool:
        """Whether the script decides if there is a tensor here, not the training."""
        # a batch norm without statistics holds None for good
        return self.is_parameter or isinstance(self.module, nn.modules.batchnorm._NormBase)

    def put(self, tensor: torch.Tensor | None) -> None:
        self.module._buffers[self.key] = tensor


class ModuleAdapter:
    """Restores into the live tensors.

    Non-persistent buffers are kept too, since the next step may depend on them; as modules grow
    and build them at will, they need not match the live ones.
    """

    kind = "torch.module"

    def capture(self, value: nn.Module, path: str, walk: CaptureWalk) -> Any:
        modules = list(submodules(value))
        _refuse_divided(modules, path)
        slots = _slots(modules)
        form = _form(modules, slots)
        return walk.lasting(path, form, lambda: [self._captured(modules, slots, path, walk)])[0]

    def _captured(
        self, modules: Modules, slots: dict[str, Slot], path: str, walk: CaptureWalk
    ) -> dict[str, Any]:
        tied = _tied(slots)
        return {
            "tensors": {
                name: _capture_slot(slot, f"{path}/{name}", walk)
                for name, slot in slots.items()
                if name not in tied
            },
            "tied": tied,
            "transient": [name for name, slot in slots.items() if slot.transient],
            "requires_grad": [name for name, slot in slots.items() if _requires_grad(slot.tensor)],
            "training": {name: module.training for name, module in modules},
            "extra": {
                name: walk.value(module.get_extra_state(), f"{path}/{name}#extra")
                for name, module in _with_extra_state(modules)
            },
        }

    def plan(self, value: nn.Module, saved: Any, path: str, walk: LoadWalk) -> None:
        modules = list(submodules(value))
        slots = _slots(modules)
        _compare_ties(saved["tied"], _tied(slots), saved["tensors"].keys() | slots.keys(), path, walk)
        transient = set(saved["transient"])
        for name, slot in slots.items():
            known = name in saved["tensors"] or name in saved["tied"]
            if not known and not slot.transient and slot.tensor is not None:
                walk.missing(f"{path}/{name}")
        by_name = dict(modules)
        for name, old in saved["tensors"].items():
            if name in slots:
                _plan_slot(slots[name], old, f"{path}/{name}", walk)
            elif name in transient and name.rpartition(".")[0] in by_name:
                _plan_new_buffer(by_name[name.rpartition(".")[0]], name, old, path, walk)
            elif old is not None:
                walk.unexpected(f"{path}/{name}")
        _plan_extra(modules, saved["extra"], path, walk)
        known = saved["tensors"].keys() | saved["tied"].keys()
        modes, wanted = dict(saved["training"]), set(saved["requires_grad"])
        walk.then(lambda: _put_flags(value, known, wanted, modes))

    def given(self, value: nn.Module) -> dict[str, Any]:
        return {}

    def apply_given(self, value: nn.Module, changes: dict[str, Any]) -> None:
        """Nothing is given."""


def _refuse_divided(modules: Modules, path: str) -> None:
    """Of what FSDP has divided, each rank holds a piece in a shape that means nothing elsewhere."""
    divided = next((n for n, m in modules if type(m).__name__ == "FullyShardedDataParallel"), None)
    if divided is not None:
        raise UnsupportedError(
            f"{'/'.join(filter(None, (path, divided)))} is divided among ranks by FSDP.",
            do="Use DistributedDataParallel for now: what is divided cannot be kept exactly.",
        )


def _slots(modules: Modules) -> dict[str, Slot]:
    result = {}
    for prefix, module in modules:
        for key in module._parameters.keys():  # noqa: SIM118 (a scripted module has no iterator)
            result[join(prefix, key)] = Slot(module, key, is_parameter=True)
        for key in module._buffers.keys():  # noqa: SIM118
            result[join(prefix, key)] = Slot(module, key, is_parameter=False)
    return result


def _form(modules: Modules, slots: dict[str, Slot]) -> Form | None:
    """All that a capture goes by; None where it asks a module for its extra state, which can be anything."""
    names, modes = [name for name, _ in modules], [module.training for _, module in modules]
    held = [slot.tensor for slot in slots.values()]
    told = set(map(type, (*names, *slots))) <= {str} and set(map(type, modes)) <= {bool}
    if not told or any(_with_extra_state(modules)):
        return None
    facts = [names, modes, list(slots), [slot.transient for slot in slots.values()]]
    facts += [[tensor is not None for tensor in held], [_requires_grad(tensor) for tensor in held]]
    return forms.form(facts, [tensor for tensor in held if tensor is not None])


def _tied(slots: dict[str, Slot]) -> dict[str, str]:
    """Names that share one tensor with an earlier one, alphabetically, to that one."""
    first: dict[int, str] = {}
    tied = {}
    for name in sorted(slots):
        tensor = slots[name].tensor
        if tensor is not None and first.setdefault(id(tensor), name) != name:
            tied[name] = first[id(tensor)]
    return tied


def _compare_ties(saved: Any, live: dict[str, str], names: set[str], path: str, walk: LoadWalk) -> None:
    for name in sorted(names | saved.keys()):
        if saved.get(name) != live.get(name):
            walk.mismatched(f"{path}/{name}", _describe_tie(saved.get(name)), _describe_tie(live.get(name)))


def _describe_tie(leader: str | None) -> str:
    return "on its own" if leader is None else f"tied to {leader}"


def _capture_slot(slot: Slot, path: str, walk: CaptureWalk) -> Any:
    tensor = slot.tensor
    if tensor is not None and tensors.is_lazy(tensor):
        raise UnsupportedError(
            f"{path} is not initialised yet: its module is lazy and has seen no batch.",
            do="Run one batch through the model before the first save.",
        )
    return None if tensor is None else walk.value(tensor, path)


def _plan_slot(slot: Slot, saved: Any, path: str, walk: LoadWalk) -> None:
    live = slot.tensor
    if saved is None or live is None:
        _plan_absent(slot, saved, path, walk)
    elif isinstance(saved, TensorRef) and tensors.is_lazy(live):
        walk.read(saved, tensors.LazyTarget(live, walk.spec(saved)))
    elif slot.transient and not _fits(saved, live, walk):
        new = _new_value(saved, path, walk, live.device)
        walk.then(lambda: slot.put(new))
    else:
        walk.value(saved, live, path)


def _plan_absent(slot: Slot, saved: Any, path: str, walk: LoadWalk) -> None:
    if saved is None and slot.tensor is None:
        return
    if slot.follows_script:
        (walk.missing if saved is None else walk.unexpected)(path)
        return
    new = None if saved is None else _new_value(saved, path, walk, _home(slot.module))
    walk.then(lambda: slot.put(new))


def _plan_new_buffer(module: nn.Module, name: str, saved: Any, path: str, walk: LoadWalk) -> None:
    key = name.rpartition(".")[2]
    new = None if saved is None else _new_value(saved, f"{path}/{name}", walk, _home(module))
    walk.then(lambda: module.register_buffer(key, new, persistent=False))


def _fits(saved: Any, live: torch.Tensor, walk: LoadWalk) -> bool:
    if isinstance(saved, TensorRef) and tensors.refused(live) is None:
        return tensors.Target(live).spec == walk.spec(saved)
    return isinstance(saved, Component) and is_sparse(live)


def _new_value(saved: Any, path: str, walk: LoadWalk, device: torch.device | None) -> Any:
    if not isinstance(saved, TensorRef):
        return walk.value(saved, None, path)
    tensor, target = tensors.new_tensor(walk.spec(saved), device or saved.device)
    walk.read(saved, target)
    return tensor


def _home(module: nn.Module) -> torch.device | None:
    for tensor in (*module._parameters.values(), *module._buffers.values()):
        if tensor is not None:
            return tensor.device
    return None


def _with_extra_state(modules: Modules) -> Iterator[tuple[str, nn.Module]]:
    for name, module in modules:
        if type(module).get_extra_state is not nn.Module.get_extra_state:
            yield name, module


def _plan_extra(modules: Modules, saved: dict[str, Any], path: str, walk: LoadWalk) -> None:
    live = dict(_with_extra_state(modules))
    for name in sorted(live.keys() - saved.keys()):
        walk.missing(f"{path}/{name}#extra")
    for name, old in saved.items():
        if name not in live:
            walk.unexpected(f"{path}/{name}#extra")
            continue
        new = walk.value(old, None, f"{path}/{name}#extra")
        walk.then(_setter(live[name], new))


def _setter(module: nn.Module, state: Any) -> Callable[[], None]:
    return lambda: module.set_extra_state(state)


def _requires_grad(tensor: torch.Tensor | None) -> bool:
    return tensor is not None and tensor.requires_grad


def _put_flags(root: nn.Module, known: set[str], wanted: set[str], modes: dict[str, Any]) -> None:
    modules = list(submodules(root))
    for name, slot in _slots(modules).items():
        tensor = slot.tensor
        if tensor is None or name not in known or not tensor.is_leaf:
            continue
        if tensor.requires_grad != (name in wanted):
            tensor.requires_grad_(name in wanted)
    for name, module in modules:
        module.training = bool(modes.get(name, module.training))
