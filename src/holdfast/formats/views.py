"""Saved components as the frameworks' own ``state_dict`` shapes; nothing is read yet.

Leaves are `TensorRef`, plain values, and `Component` where a framework has to build the value
(a sparse tensor). A tied tensor is the same `TensorRef` under both names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from holdfast.domain.tensors import TensorRef
from holdfast.domain.tree import Component

MODEL_KINDS = ("torch.module", "paddle.layer")
LEAF_KINDS = ("torch.sparse", "paddle.sparse")
PADDLE_NAMES = "StructuredToParameterName@@"
"""Paddle's own key for the table from structured to parameter names."""

_EXTRA = "_extra_state"
_PADDLE_SCHEDULE = ("last_epoch", "last_lr", "cooldown_counter", "best", "num_bad_epochs")
_PADDLE_SCALER = (
    "scale",
    "incr_ratio",
    "decr_ratio",
    "incr_every_n_steps",
    "decr_every_n_nan_or_inf",
    "incr_count",
    "decr_count",
    "use_dynamic_loss_scaling",
)


def state_dicts(tree: Mapping[str, Any]) -> dict[str, Any]:
    """A checkpoint's tree with every component as its framework's ``state_dict``."""
    return {key: _view(value) for key, value in tree.items()}


def _view(value: Any) -> Any:
    if isinstance(value, Component):
        if value.kind in LEAF_KINDS:
            return value
        return _VIEWS.get(value.kind, _view)(value.state)
    if isinstance(value, dict):
        return {key: _view(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_view(item) for item in value]
    return tuple(_view(item) for item in value) if isinstance(value, tuple) else value


def _named_tensors(saved: dict[str, Any]) -> dict[str, Any]:
    """Parameters and lasting buffers by name, tied ones under each of their names."""
    passing = set(saved["transient"])
    result = {
        name: _view(item)
        for name, item in saved["tensors"].items()
        if item is not None and name not in passing
    }
    tied = {name: result[leader] for name, leader in saved["tied"].items() if leader in result}
    return result | {name: item for name, item in tied.items() if name not in passing}


def _paddle_imported(saved: dict[str, Any]) -> dict[str, Any]:
    return {key: _view(item) for key, item in saved.items() if key != PADDLE_NAMES}


def _torch_module(saved: dict[str, Any]) -> dict[str, Any]:
    extra = {f"{name}.{_EXTRA}" if name else _EXTRA: _view(item) for name, item in saved["extra"].items()}
    return _named_tensors(saved) | extra


def _torch_optimizer(saved: dict[str, Any]) -> dict[str, Any]:
    state: dict[Any, Any] = {}
    groups: list[dict[str, Any]] = []
    number = 0
    for group in saved["groups"]:
        numbers = list(range(number, number + len(group["parameters"])))
        number += len(numbers)
        kept = zip(numbers, group["state"], strict=True)
        state.update({i: _view(entry) for i, entry in kept if entry is not None})
        groups.append({**_view(group["values"]), "params": numbers})
    return {"state": {**state, **_view(saved["shared"])}, "param_groups": groups}


def _torch_scheduler(saved: dict[str, Any]) -> dict[str, Any]:
    result = dict(_view(saved["values"]))
    inner = [_view(item) for name, item in saved["nested"].items() if name.startswith("_schedulers[")]
    if inner:
        result["_schedulers"] = inner
    if saved["type"] in ("LambdaLR", "MultiplicativeLR"):
        # a function belongs to the script: None, as PyTorch writes it
        result["lr_lambdas"] = [
            _view(saved["callables"].get(f"lr_lambdas[{i}]")) for i in range(len(result["base_lrs"]))
        ]
    if saved["type"] == "CyclicLR":
        result["_scale_fn_custom"] = _view(saved["callables"].get("_scale_fn_custom"))
    return result


def _paddle_optimizer(saved: dict[str, Any]) -> dict[str, Any]:
    """Under the names that Paddle gives in a fresh process of the same script."""
    result: dict[str, Any] = {}
    masters: dict[str, Any] = {}
    prefix = f"{saved['name']}_" if saved.get("name") else ""
    for parameter in (p for group in saved["parameters"] for p in group):
        name = parameter.get("name") or parameter["label"]
        owner = name
        if parameter["master"] is not None:
            masters[name] = parameter["master"]
            owner = f"{name}_fp32_master_0"
        for kind, item in parameter["accumulators"].items():
            result[f"{owner}_{prefix}{kind}_0"] = item
    if masters:
        result["master_weights"] = masters
    if isinstance(saved["learning_rate"], Component):
        result["LR_Scheduler"] = _view(saved["learning_rate"])
    return result


def _paddle_scheduler(saved: dict[str, Any]) -> dict[str, Any]:
    attributes = saved["attributes"]
    result = {key: _view(attributes[key]) for key in _PADDLE_SCHEDULE if key in attributes}
    if isinstance(attributes.get("learning_rate"), Component):  # LinearWarmup's own
        result["LinearWarmup_LR"] = _view(attributes["learning_rate"])
    return result


def _paddle_scaler(saved: dict[str, Any]) -> dict[str, Any]:
    attributes = saved["attributes"]
    return {name: _view(attributes[f"_{name}"]) for name in _PADDLE_SCALER} if attributes["_enable"] else {}


_VIEWS: dict[str, Callable[[Any], Any]] = {
    "torch.module": _torch_module,
    "torch.optimizer": _torch_optimizer,
    "torch.scheduler": _torch_scheduler,
    "paddle.imported": _paddle_imported,
    "paddle.layer": _named_tensors,
    "paddle.optimizer": _paddle_optimizer,
    "paddle.scheduler": _paddle_scheduler,
    "paddle.scaler": _paddle_scaler,
}


def parameter_names(tree: Mapping[str, Any], model: str) -> dict[str, str]:
    """Paddle's name of each parameter of a model, by structured name, as its optimizers knew them."""
    result: dict[str, str] = {}
    for value in tree.values():
        if not is_optimizer(value):
            continue
        if value.kind == "paddle.imported":
            result.update(value.state[PADDLE_NAMES])
            continue
        for parameter in (p for group in value.state["parameters"] for p in group):
            entry, _, name = parameter["label"].partition("/")
            if entry == model and parameter.get("name"):
                result[name] = parameter["name"]
    return result


def is_model(value: object) -> bool:
    """Whether an entry is a model: a live one that was saved, or an imported flat ``state_dict``."""
    if not isinstance(value, Component):
        return False
    if value.kind in MODEL_KINDS:
        return True
    imported = value.kind.endswith(".imported") and PADDLE_NAMES not in value.state
    return imported and any(isinstance(item, TensorRef) for item in value.state.values())


def is_optimizer(value: object) -> bool:
    """Whether an entry is an optimizer of Paddle: its object, or its imported ``state_dict``."""
    if not isinstance(value, Component):
        return False
    imported = value.kind == "paddle.imported" and PADDLE_NAMES in value.state
    return value.kind == "paddle.optimizer" or imported


def framework_of(value: object) -> str | None:
    """Which framework's object an entry is; None for plain values and tensors."""
    name = value.kind.partition(".")[0] if isinstance(value, Component) else None
    return name if name in ("torch", "paddle") else None
