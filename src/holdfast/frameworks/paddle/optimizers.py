"""Optimizers: accumulators, master weights, groups and learning rate, of every class of Paddle.

Paddle keys accumulators by names from a counter that shifts as soon as a second model is
built, and its own loading only warns of what is missing. Here they are keyed by the
parameter's name in the state (else its place) and kind, compared, and placed exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import paddle
from paddle.optimizer.lr import LRScheduler

from holdfast.domain.tensors import TensorRef, TensorSpec
from holdfast.errors import UnsupportedError
from holdfast.frameworks.base import CaptureWalk, Form, LoadWalk
from holdfast.frameworks.paddle import forms, hyperparameters, tensors
from holdfast.frameworks.paddle.parameters import (
    Accumulators,
    Parameter,
    option_groups,
    parameters,
)
from holdfast.frameworks.paddle.schedulers import SchedulerAdapter
from holdfast.frameworks.paddle.settings import dump, is_plain, undump

_STATIC = frozenset({"DistributedFusedLamb", "RecomputeOptimizer"})


class OptimizerAdapter:
    """Restores into live accumulators, makes those that are missing, removes those too many."""

    kind = "paddle.optimizer"

    def capture(self, value: Any, path: str, walk: CaptureWalk) -> dict[str, Any]:
        if type(value).__name__ in _STATIC:
            raise UnsupportedError(
                f"{path} is a {type(value).__name__}, which keeps its state in a static program.",
                do="Use an optimizer of paddle.optimizer.",
            )
        return {
            "class": type(value).__name__,
            "name": value._name,
            "learning_rate": walk.value(value._learning_rate, f"{path}/learning_rate"),
            "attributes": {
                name: walk.value(item, f"{path}/{name}")
                for name, item in hyperparameters.attributes(value).items()
            },
            "objects": hyperparameters.objects(value),
            "groups": [hyperparameters.options(group) for group in option_groups(value)],
            "parameters": _capture_parameters(value, path, walk),
        }

    def plan(self, value: Any, saved: Any, path: str, walk: LoadWalk) -> None:
        if saved["class"] != type(value).__name__:
            walk.mismatched(path, saved["class"], type(value).__name__)
            return
        pairs = _pair(saved["parameters"], parameters(value, walk.state), path, walk)
        accumulators = Accumulators(value)
        for old, parameter in pairs:
            _plan_parameter(accumulators, parameter, old, path, walk)
        walk.then(accumulators.settle)
        _plan_learning_rate(value, saved["learning_rate"], path, walk)
        _plan_attributes(value, saved["attributes"], path, walk)
        walk.then(lambda: hyperparameters.restore(value, saved["objects"], saved["groups"]))
        walk.then(lambda: _put_options(pairs))
        walk.then(lambda: _put_gradients(pairs))

    def given(self, value: Any) -> dict[str, Any]:
        result = hyperparameters.given(value)
        if not isinstance(value._learning_rate, LRScheduler):
            result.setdefault("learning_rate", value._learning_rate)
        for name, adapter, inner in self._inner(value):
            result.update({f"{name}.{n}": v for n, v in adapter.given(inner).items()})
        return result

    def apply_given(self, value: Any, changes: dict[str, Any]) -> None:
        if "learning_rate" in changes and not isinstance(value._learning_rate, LRScheduler):
            value.set_lr(changes["learning_rate"])
        hyperparameters.apply(value, changes)
        for name, adapter, inner in self._inner(value):
            mine = {n.removeprefix(f"{name}."): v for n, v in changes.items() if n.startswith(f"{name}.")}
            adapter.apply_given(inner, mine)

    def _inner(self, value: Any) -> Iterator[tuple[str, Any, Any]]:
        if isinstance(value._learning_rate, LRScheduler):
            yield "learning_rate", SchedulerAdapter(), value._learning_rate
        for name, inner in hyperparameters.inner_optimizers(value).items():
            yield name, self, inner


def _capture_parameters(value: Any, path: str, walk: CaptureWalk) -> list[Any]:
    groups = parameters(value, walk.state)
    kept = Accumulators(value)
    form = _form(value, groups)
    return walk.lasting(
        path, form, lambda: [[_capture_parameter(kept, p, path, walk) for p in group] for group in groups]
    )


def _form(optimizer: Any, groups: list[list[Parameter]]) -> Form | None:
    """All that the capture of these goes by; None where it is more than can be told cheaply."""
    every = [parameter for group in groups for parameter in group]
    if not every:
        return None
    by_kind, masters = optimizer._accumulators, optimizer._master_weights
    rates = [getattr(p.tensor, "optimize_attr", {}).get("learning_rate", 1.0) for p in every]
    regular = [getattr(p.tensor, "regularizer", None) is not None for p in every]
    if optimizer._accumulators_holder or any(regular) or not set(map(type, rates)) <= {float}:
        return None
    facts: list[Any] = [
        list(map(len, groups)),
        [(p.label, p.tensor.name, _has_dense_gradient(p.tensor)) for p in every],
        list(map(repr, rates)),
        optimizer._name,
        set(optimizer._already_create_accumulator),
        [(kind, list(by_name)) for kind, by_name in by_kind.items()],
        [(name, master.name) for name, master in masters.items()],
    ]
    states = [tensor for by_name in by_kind.values() for tensor in by_name.values()]
    return forms.form(facts, [*(p.tensor for p in every), *states, *masters.values()])


def _capture_parameter(kept: Accumulators, parameter: Parameter, path: str, walk: CaptureWalk) -> Any:
    tensor, where = parameter.tensor, f"{path}/{parameter.label}"
    master = kept.master(tensor)
    return {
        "label": parameter.label,
        "name": tensor.name,  # for export: Paddle's own files go by it
        "spec": str(tensors.spec_of(tensor)),
        "created": kept.created(tensor),
        "accumulators": {k: walk.value(v, f"{where}/{k}") for k, v in sorted(kept.due(tensor).items())},
        "master": None if master is None else walk.value(master, f"{where}/master"),
        "gradient": _has_dense_gradient(tensor),
        "learning_rate": getattr(tensor, "optimize_attr", {}).get("learning_rate", 1.0),
        "regularizer": dump(getattr(tensor, "regularizer", None)),
    }


def _pair(
    saved: list[list[Any]], live: list[list[Parameter]], path: str, walk: LoadWalk
) -> list[tuple[Any, Parameter]]:
    """Saved and live parameters that belong together: by name where both have one, else by place."""
    olds, news = [p for group in saved for p in group], [p for group in live for p in group]
    if [len(group) for group in saved] != [len(group) for group in live] and len(olds) == len(news):
        walk.mismatched(f"{path} groups", [len(g) for g in saved], [len(g) for g in live])
    if not _named(p["label"] for p in olds) or not _named(p.label for p in news):
        if len(olds) != len(news):
            walk.mismatched(f"{path} parameters", len(olds), len(news))
        return list(zip(olds, news, strict=False))
    by_label = {p.label: p for p in news}
    for old in olds:
        if old["label"] not in by_label:
            walk.unexpected(f"{path}/{old['label']}")
    for label in by_label.keys() - {old["label"] for old in olds}:
        walk.missing(f"{path}/{label}")
    return [(old, by_label[old["label"]]) for old in olds if old["label"] in by_label]


def _named(labels: Any) -> bool:
    return not any(label.replace(".", "", 1).isdigit() for label in labels)


def _plan_parameter(kept: Accumulators, parameter: Parameter, saved: Any, path: str, walk: LoadWalk) -> None:
    tensor, where = parameter.tensor, f"{path}/{parameter.label}"
    if saved["spec"] != str(tensors.spec_of(tensor)):
        walk.mismatched(where, saved["spec"], tensors.spec_of(tensor))
        return
    live = kept.live(tensor)
    new = {kind: _plan_tensor(ref, live.get(kind), walk) for kind, ref in saved["accumulators"].items()}
    master = saved["master"]
    if master is not None:
        master = _plan_tensor(master, kept.master(tensor), walk)
    walk.then(lambda: kept.place(tensor, new, master, created=saved["created"]))


def _plan_tensor(ref: TensorRef, live: Any, walk: LoadWalk) -> Any:
    """The live tensor where it fits, else a fresh one: an accumulator's form follows the checkpoint."""
    spec: TensorSpec = walk.spec(ref)
    if live is not None and tensors.spec_of(live) == spec:
        walk.read(ref, tensors.target(live))
        return live
    new, target = tensors.new_tensor(spec, ref.device)
    walk.read(ref, target)
    return new


def _plan_learning_rate(value: Any, saved: Any, path: str, walk: LoadWalk) -> None:
    live = value._learning_rate
    if isinstance(live, LRScheduler) or not isinstance(saved, int | float):
        walk.value(saved, live, f"{path}/learning_rate")
    else:
        # also into the tensor that the kernels read, once there is one
        walk.then(lambda: value.set_lr(saved))


def _plan_attributes(value: Any, saved: dict[str, Any], path: str, walk: LoadWalk) -> None:
    live = hyperparameters.attributes(value)
    for name in live.keys() - saved.keys():
        if not is_plain(live[name]):
            walk.missing(f"{path}/{name}")
    for name, old in saved.items():
        if name not in vars(value):
            walk.unexpected(f"{path}/{name}")
        elif name in live:
            # fresh tensors, never filled in place: Paddle lets flags of several objects share one
            like = None if hyperparameters.is_data(live[name]) else live[name]
            new = walk.value(old, like, f"{path}/{name}")
            if like is None or new is not like:
                walk.then(_setter(value, name, new))


def _setter(value: Any, name: str, new: Any) -> Callable[[], None]:
    return lambda: hyperparameters.set_attribute(value, name, new)


def _put_options(pairs: list[tuple[Any, Parameter]]) -> None:
    for saved, parameter in pairs:
        tensor = parameter.tensor
        if hasattr(tensor, "optimize_attr"):
            tensor.optimize_attr["learning_rate"] = saved["learning_rate"]
        if hasattr(tensor, "regularizer"):
            tensor.regularizer = undump(saved["regularizer"], tensor.regularizer)


def _has_dense_gradient(tensor: Any) -> bool:
    gradient = tensor._grad_ivar()  # a sparse one becomes none when it is cleared
    return gradient is not None and not gradient.is_selected_rows()


def _put_gradients(pairs: list[tuple[Any, Parameter]]) -> None:
    """Zeros where a gradient stood, none elsewhere.

    ``clear_grad()`` leaves zeros behind, and a parameter with zeros is stepped (its moments
    decay) in a batch that does not reach it, while one without a gradient is skipped.
    """
    for saved, parameter in pairs:
        parameter.tensor.clear_gradient(saved["gradient"])
        if saved["gradient"] and not _has_dense_gradient(parameter.tensor):
            parameter.tensor.grad = paddle.zeros_like(parameter.tensor)
