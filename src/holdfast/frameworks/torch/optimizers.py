"""Optimizers: state by parameter name, assigned as it was, without the casts of torch.

torch keys the state by the order of parameters, which a script can change without noticing (a
set of names has another order in each process). Here it goes by name where the training state
tells the names: those of the modules that stand beside the optimizer.
"""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import torch
from torch.optim import LBFGS, Optimizer

from holdfast.domain.tensors import TensorRef, TensorSpec
from holdfast.frameworks.base import CaptureWalk, Form, LoadWalk
from holdfast.frameworks.torch import forms, gradients, tensors
from holdfast.frameworks.torch.names import parameter_names, parameters_by_name
from holdfast.frameworks.torch.values import Capturing, Renewing, assign_like, plain_value

_NOT_VALUES = ("params", "param_names")
_COUNTS = (type(None), bool, int, str)
"""Values of which equal ones of the same class are the same, to the last bit."""


class OptimizerAdapter:
    """Captures groups and state as they are; lazily created state may be absent."""

    kind = "torch.optimizer"

    def capture(self, value: Optimizer, path: str, walk: CaptureWalk) -> dict[str, Any]:
        capturing = Capturing(walk)
        known = parameter_names(walk.state)
        names = [_group_names(group, known) for group in value.param_groups]
        described = [
            _describe_parameters(group, n) for group, n in zip(value.param_groups, names, strict=True)
        ]
        paths = [[f"{path}/{n or f'{i}.{j}'}" for j, n in enumerate(group)] for i, group in enumerate(names)]
        values = [
            {k: capturing.value(v, f"{path}/groups/{i}/{k}") for k, v in group.items() if k != "params"}
            for i, group in enumerate(value.param_groups)
        ]
        states = [[value.state.get(p) for p in group["params"]] for group in value.param_groups]
        form = _form(described, states, capturing)
        shared = {k: v for k, v in value.state.items() if not isinstance(k, torch.Tensor)}

        def capture_states() -> list[Any]:
            captured = [
                [None if s is None else capturing.value(s, where) for s, where in zip(*group, strict=True)]
                for group in zip(states, paths, strict=True)
            ]
            return [*described, *captured]

        lasting = walk.lasting(path, None if shared else form, capture_states)
        parts = zip(lasting, values, lasting[len(values) :], strict=False)
        return {
            "type": type(value).__name__,
            "stepped": bool(getattr(value, "_opt_called", False)),
            "groups": [{"parameters": p, "values": v, "state": s} for p, v, s in parts],
            "shared": {k: capturing.value(v, f"{path}/shared/{k}") for k, v in shared.items()},
        }

    def plan(self, value: Optimizer, saved: Any, path: str, walk: LoadWalk) -> None:
        if saved["type"] != type(value).__name__:
            walk.mismatched(path, saved["type"], type(value).__name__)
            return
        loading = _Loading(value, walk, path)
        groups = saved["groups"]
        for index in range(len(groups), len(value.param_groups)):
            walk.mismatched(f"{path}/groups/{index}", "absent", "a group of parameters")
        for index, group in enumerate(groups):
            loading.group(index, group)
        shared = dict(loading.renewing.value(saved["shared"], {}, f"{path}/shared"))
        stepped = bool(saved["stepped"])
        walk.then(lambda: loading.finish(shared, stepped=stepped))

    def given(self, value: Optimizer) -> dict[str, Any]:
        result = {}
        for index, group in enumerate(value.param_groups):
            for key in group.keys() - {*_NOT_VALUES, "initial_lr"}:
                # beside a scheduler, the lr that the script chose is the initial one
                plain = plain_value(group.get("initial_lr", group[key]) if key == "lr" else group[key])
                if plain is not NotImplemented:
                    result[_given_name(value, index, key)] = plain
        return result

    def apply_given(self, value: Optimizer, changes: dict[str, Any]) -> None:
        for index, group in enumerate(value.param_groups):
            for key in group.keys() - set(_NOT_VALUES):
                name = _given_name(value, index, key)
                if name in changes:
                    _apply(group, key, changes[name])


class _Loading:
    """One optimizer's restore as it is being planned."""

    def __init__(self, optimizer: Optimizer, walk: LoadWalk, path: str) -> None:
        self.renewing = Renewing(walk, reuse=True)
        self._optimizer = optimizer
        self._walk = walk
        self._path = path
        self._names = parameter_names(walk.state)
        self._groups: list[tuple[dict[str, Any] | None, dict[str, Any]]] = []
        self._state: dict[torch.Tensor, Any] = {}
        self._gradients: list[tuple[torch.Tensor, bool]] = []

    def group(self, index: int, saved: Any) -> None:
        live = self._optimizer.param_groups[index] if index < len(self._optimizer.param_groups) else None
        where = f"{self._path}/groups/{index}"
        parameters = self._added(saved, where) if live is None else self._matched(saved, live, where)
        if parameters is None:
            return
        old = live or {}
        values = {
            k: self.renewing.value(v, old.get(k), f"{where}/{k}")
            for k, v in saved["values"].items()
            if k != "param_names" or live is None  # the live names go with the live order
        }
        if live is None:
            values = {"params": parameters, **values}
        self._groups.append((live, values))
        for position, parameter in enumerate(parameters):
            self._plan_state(saved, position, parameter, f"{where}/{position}", values)

    def _plan_state(
        self, saved: Any, position: int, parameter: torch.Tensor, path: str, values: dict[str, Any]
    ) -> None:
        described, state = saved["parameters"][position], saved["state"][position]
        self._gradients.append((parameter, bool(described.get("gradient"))))
        if list(parameter.shape) != described["shape"] and not tensors.is_lazy(parameter):
            self._walk.mismatched(path, described["shape"], list(parameter.shape))
        elif state is not None:
            home = _Home(
                parameter, described["device"], bool(values.get("fused") or values.get("capturable"))
            )
            live = self._optimizer.state.get(parameter)
            self._state[parameter] = self.renewing.value(state, live, path, home.make)

    def _matched(self, saved: Any, live: dict[str, Any], where: str) -> list[torch.Tensor] | None:
        """The live parameters in the order of the saved ones: by name where names are known."""
        described, parameters = saved["parameters"], list(live["params"])
        old = [d["name"] for d in described]
        new = _group_names(live, self._names)
        if None in old or None in new:
            if len(old) != len(new):
                self._walk.mismatched(where, f"{len(old)} parameters", f"{len(new)} parameters")
                return None
            return parameters
        if Counter(old) != Counter(new):
            self._report_names(old, new, where)
            return None
        if old != new and isinstance(self._optimizer, LBFGS):
            self._walk.mismatched(where, "other order of parameters", "LBFGS keeps them as one vector")
            return None
        by_name = dict(zip(new, parameters, strict=True))
        return [by_name[name] for name in old]

    def _report_names(self, old: list[Any], new: list[Any], where: str) -> None:
        for name in sorted(set(new) - set(old)):
            self._walk.missing(f"{where}/{name}")
        for name in sorted(set(old) - set(new)):
            self._walk.unexpected(f"{where}/{name}")

    def _added(self, saved: Any, where: str) -> list[torch.Tensor] | None:
        """Parameters of a group that was added during training, found by name."""
        known = parameters_by_name(self._walk.state)
        names = [d["name"] for d in saved["parameters"]]
        absent = [str(name) for name in names if name not in known]
        if absent:
            self._walk.unexpected(f"{where} (a group added later, of {', '.join(absent)})")
            return None
        return [known[name] for name in names]

    def finish(self, shared: dict[Any, Any], *, stepped: bool) -> None:
        for live, values in self._groups:
            if live is None:
                self._optimizer.param_groups.append(values)
            else:
                live.update(values)
        self._optimizer.state.clear()
        self._optimizer.state.update(self._state)
        self._optimizer.state.update(shared)
        for parameter, held in self._gradients:
            gradients.reset(parameter, held=held)
        if stepped:  # else torch warns that the scheduler stepped first
            self._optimizer._opt_called = True  # type: ignore[attr-defined]


class _Home:
    """Where the state of a parameter lives: by it, unless it was kept on the host on purpose."""

    def __init__(self, parameter: torch.Tensor, saved_device: str, beside: bool) -> None:
        self._parameter = parameter
        self._saved_device = saved_device
        self._beside = beside

    def make(self, ref: TensorRef, spec: TensorSpec) -> torch.Tensor:
        parameter = self._parameter
        moved = parameter.device.type != self._saved_device
        if ref.device != self._saved_device:
            home = tensors.usable_device(ref.device)
        elif moved and self._saved_device == "cpu" and not spec.shape and not self._beside:
            home = torch.device("cpu")  # a step counter, which stays on the host
        else:
            home = parameter.device
        tensor = tensors.new_tensor(spec, home)[0]
        same_form = spec.shape == tuple(parameter.shape) and parameter.layout is torch.strided
        return torch.empty_like(parameter.detach(), dtype=tensor.dtype, device=home) if same_form else tensor


def _group_names(group: dict[str, Any], names: dict[int, str]) -> list[str | None]:
    own = group.get("param_names") or [None] * len(group["params"])
    return [names.get(id(p), name) for p, name in zip(group["params"], own, strict=True)]


def _describe_parameters(group: dict[str, Any], names: list[str | None]) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "shape": [] if tensors.is_lazy(p) else list(p.shape),
            "device": p.device.type,
            "gradient": gradients.is_held(p),
        }
        for p, name in zip(group["params"], names, strict=True)
    ]


def _form(
    described: list[list[dict[str, Any]]], states: list[list[Any]], capturing: Capturing
) -> Form | None:
    """All that the capture of these states goes by; None if they hold more than tensors and counts."""
    names = {type(parameter["name"]) for group in described for parameter in group}
    if not names <= {str, type(None)}:
        return None
    facts: list[Any] = [described]
    live: list[torch.Tensor] = []
    for state in itertools.chain.from_iterable(states):
        if state is None:
            facts.append(None)
            continue
        if type(state) is not dict or not set(map(type, state)) <= {str}:
            return None
        facts.append(list(state))
        for value in state.values():
            if isinstance(value, torch.Tensor):
                live.append(value)
            elif type(value) in _COUNTS:
                facts.append((len(live), type(value), value))
            else:
                return None
    return None if capturing.has_met(live) else forms.form(facts, live)


def _given_name(optimizer: Optimizer, index: int, key: str) -> str:
    return key if len(optimizer.param_groups) == 1 else f"groups[{index}].{key}"


def _apply(group: dict[str, Any], key: str, value: Any) -> None:
    if key == "lr" and "initial_lr" in group:
        old = plain_value(group["initial_lr"])
        assign_like(group, "initial_lr", value)
        # the schedule so far stays: only what it started from changes
        value = plain_value(group["lr"]) * (value / old) if old else value
    assign_like(group, key, value)
