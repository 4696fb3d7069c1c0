"""The parameters of an optimizer and what it keeps for each, apart from Paddle's shifting names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec
import paddle
from paddle.utils import unique_name

from holdfast.frameworks.paddle.names import parameter_names

_MASTER_SUFFIX = "_fp32_master"


class Parameter(msgspec.Struct):
    """One parameter as its optimizer sees it.

    Attributes
    ----------
    label : str
        Its name in the state, or ``group.index`` where no layer of the state holds it.
    tensor : object
        The live parameter.
    """

    label: str
    tensor: Any


def parameters(optimizer: Any, state: Mapping[str, object]) -> list[list[Parameter]]:
    """Parameters by group, in order; a name is used only if all of them have one."""
    groups = [group["params"] for group in option_groups(optimizer)] or [optimizer._param_groups or []]
    names = parameter_names(state)
    named = all(id(tensor) in names for group in groups for tensor in group)
    return [
        [Parameter(names[id(t)] if named else f"{g}.{i}", t) for i, t in enumerate(group)]
        for g, group in enumerate(groups)
    ]


def option_groups(optimizer: Any) -> list[dict[str, Any]]:
    """Groups with options of their own; none if the optimizer was given a plain list."""
    groups = optimizer._param_groups or []
    return groups if groups and isinstance(groups[0], dict) else []


class Accumulators:
    """Everything that an optimizer keeps per parameter, read and placed without its names.

    Values that `set_state_dict` left waiting for the first step count as accumulators.
    """

    def __init__(self, optimizer: Any) -> None:
        self._optimizer = optimizer
        self._prefix = f"{optimizer._name}_" if optimizer._name is not None else ""

    def live(self, tensor: Any) -> dict[str, Any]:
        """Accumulators that exist for a parameter, by kind."""
        keys = self._keys(tensor)
        return {
            kind.removeprefix(self._prefix): by_key[key]
            for kind, by_key in self._optimizer._accumulators.items()
            for key in keys
            if key in by_key
        }

    def due(self, tensor: Any) -> dict[str, Any]:
        """Accumulators that its next step will use: live ones, or those that wait."""
        return self._waiting(tensor) | self.live(tensor)

    def master(self, tensor: Any) -> Any:
        """Its fp32 master weight, or None."""
        return self._masters.get(tensor.name)

    def created(self, tensor: Any) -> bool:
        return tensor.name in self._optimizer._already_create_accumulator

    def place(self, tensor: Any, new: dict[str, Any], master: Any, *, created: bool) -> None:
        """Make these, and no others, the accumulators of a parameter."""
        for by_key in self._optimizer._accumulators.values():
            for key in self._keys(tensor):
                by_key.pop(key, None)
        if master is None:
            self._masters.pop(tensor.name, None)
        else:
            self._masters[tensor.name] = _adopt(master, f"{tensor.name}{_MASTER_SUFFIX}")
        owner = tensor if master is None else master
        for kind, value in new.items():
            adopted = _adopt(value, f"{owner.name}_{self._prefix}{kind}")
            self._optimizer._accumulators[self._prefix + kind][owner.name] = adopted
        mark = self._optimizer._already_create_accumulator
        (mark.add if created else mark.discard)(tensor.name)

    def settle(self) -> None:
        """After the last `place`: nothing waits any more, and derived lists are built anew."""
        optimizer = self._optimizer
        optimizer._accumulators_holder = {}
        for kind in [kind for kind, by_key in optimizer._accumulators.items() if not by_key]:
            del optimizer._accumulators[kind]
        optimizer._opti_name_list = [
            value.name for by_key in optimizer._accumulators.values() for value in by_key.values()
        ]
        optimizer.need_refuse()
        for name in [n for n in vars(optimizer) if _is_multi_tensor(getattr(optimizer, n))]:
            lists = getattr(optimizer, name)
            setattr(optimizer, name, {k: v and [[] for _ in v] for k, v in lists.items()})

    @property
    def _masters(self) -> dict[str, Any]:
        masters: dict[str, Any] = self._optimizer._master_weights
        return masters

    def _keys(self, tensor: Any) -> list[str]:
        master = self.master(tensor)
        return [tensor.name] if master is None else [tensor.name, master.name]

    def _waiting(self, tensor: Any) -> dict[str, Any]:
        if not self._optimizer._accumulators_holder:
            return {}
        owner = rf"{re.escape(tensor.name)}(?:{_MASTER_SUFFIX}_\d+)?"
        pattern = re.compile(rf"{owner}_{re.escape(self._prefix)}([A-Za-z]\w*)_\d+")
        found = {}
        for name, value in self._optimizer._accumulators_holder.items():
            if match := pattern.fullmatch(name):
                found[match[1]] = value
        return found


def _adopt(value: Any, name: str) -> Any:
    """Name a fresh tensor as Paddle would, so that its own ``state_dict()`` goes on working."""
    if not value.persistable:
        value.name = unique_name.generate(name)
        value.persistable = True
    return value


def _is_multi_tensor(value: object) -> bool:
    return isinstance(value, dict) and value.keys() == {"FP32_DenseTensor", "FP16_DenseTensor"}


def is_optimizer(value: object) -> bool:
    return isinstance(value, paddle.optimizer.Optimizer)
