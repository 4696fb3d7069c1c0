"""An optimizer's own attributes and group options: which are state, which the script gives."""

from __future__ import annotations

from typing import Any

import paddle

from holdfast.frameworks.paddle.parameters import is_optimizer, option_groups
from holdfast.frameworks.paddle.settings import dump, is_plain, is_setting, undump

_ELSEWHERE = frozenset(
    {
        "_accumulators",
        "_accumulators_holder",
        "_already_create_accumulator",
        "_default_dict",
        "_learning_rate",
        "_learning_rate_map",
        "_master_grads",
        "_master_weights",
        "_opti_name_list",
        "_param_device_map",
        "_param_groups",
        "_parameter_list",
        "_params_name",  # AdamW: names in use, never read
        "_used_master_weights",  # Lamb: parameter name to master name, never read
        "_fuse_buffer_version",
        "_need_refuse",
        "clear_gradients",
        "fusion_storage",
        "helper",
        "merged_model_params",
        "_name",
        "_numel_cache",
        "_params",
        "type",
    }
)
"""Attributes kept in another form, or bound to Paddle's names."""

_MOVING = frozenset(
    {"_auxiliary_vars", "_global_step_var", "_k_var", "_master_grad", "_n_tensor", "_sign", "state"}
)
"""Plain attributes that training changes by itself."""

_OBJECTS = {"regularization": "regularization", "_grad_clip": "grad_clip"}
_TENSOR = paddle.Tensor


def attributes(optimizer: Any) -> dict[str, Any]:
    """Attributes that the next step may depend on; code and Paddle's own objects are left out.

    Objects of a subclass's own are left in, so that what cannot be kept is refused by name.
    """
    return {
        name: item
        for name, item in vars(optimizer).items()
        if name not in _ELSEWHERE
        and name not in _OBJECTS
        and not _is_derived(item)
        and (is_data(item) or is_optimizer(item) or not _is_code(item))
    }


def _is_code(item: object) -> bool:
    return callable(item) or type(item).__module__.partition(".")[0] == "paddle"


def is_data(item: object) -> bool:
    """Whether an attribute is plain values and tensors, so that it can be made anew."""
    if isinstance(item, dict):
        return all(is_plain(k) and is_data(v) for k, v in item.items())
    if isinstance(item, list | tuple):
        return all(is_data(v) for v in item)
    return is_plain(item) or isinstance(item, _TENSOR)


def _is_derived(item: object) -> bool:
    return isinstance(item, dict) and item.keys() == {"FP32_DenseTensor", "FP16_DenseTensor"}


def set_attribute(optimizer: Any, name: str, new: Any) -> None:
    live = getattr(optimizer, name)
    if isinstance(live, dict) and isinstance(new, dict):
        live.clear()
        live.update(new)
    else:
        setattr(optimizer, name, new)


def objects(optimizer: Any) -> dict[str, Any]:
    """Regularizer, gradient clip and the defaults of groups, as plain values."""
    settings = {name: dump(getattr(optimizer, name, None)) for name in _OBJECTS}
    return settings | {"defaults": options(optimizer._default_dict)}


def options(group: dict[str, Any]) -> dict[str, Any]:
    """Options of a group as plain values; callables are the script's code."""
    return {k: dump(v) for k, v in group.items() if k != "params" and is_setting(v)}


def restore(optimizer: Any, saved: dict[str, Any], groups: list[dict[str, Any]]) -> None:
    for name in _OBJECTS:
        setattr(optimizer, name, undump(saved[name], getattr(optimizer, name, None)))
    _update(optimizer._default_dict, saved["defaults"])
    for group, old in zip(option_groups(optimizer), groups, strict=False):
        _update(group, old)


def _update(group: dict[str, Any], saved: dict[str, Any]) -> None:
    for key, old in saved.items():
        if key != "params":
            group[key] = undump(old, group.get(key))


def given(optimizer: Any) -> dict[str, Any]:
    """What the script constructs, by name; a group's step must not have changed it."""
    defaults = optimizer._default_dict
    result = {
        name.lstrip("_"): defaults.get(name.lstrip("_"), item)
        for name, item in attributes(optimizer).items()
        if is_plain(item) and name not in _MOVING
    }
    for name, public in _OBJECTS.items():
        result[public] = dump(getattr(optimizer, name, None))
    for index, group in enumerate(option_groups(optimizer)):
        result.update({f"groups.{index}.{k}": v for k, v in options(group).items()})
    rates = {name: attr["learning_rate"] for name, attr in _rates(optimizer).items()}
    return result | {name: rate for name, rate in rates.items() if rate != 1.0}


def _rates(optimizer: Any) -> dict[str, dict[str, Any]]:
    """Where ``ParamAttr`` put parameters' factors of the learning rate; groups have their own."""
    tensors = [] if option_groups(optimizer) else optimizer._param_groups or []
    attrs = {f"parameters.{i}.learning_rate": getattr(t, "optimize_attr", {}) for i, t in enumerate(tensors)}
    return {name: attr for name, attr in attrs.items() if "learning_rate" in attr}


def inner_optimizers(optimizer: Any) -> dict[str, Any]:
    """Optimizers that it drives (LookAhead)."""
    return {name: item for name, item in attributes(optimizer).items() if is_optimizer(item)}


def apply(optimizer: Any, changes: dict[str, Any]) -> None:
    """Put the script's values back."""
    own = attributes(optimizer)
    for name, public in _OBJECTS.items():
        if public in changes:
            setattr(optimizer, name, undump(changes[public], getattr(optimizer, name, None)))
    for name, item in own.items():
        if name not in _MOVING and name.lstrip("_") in changes:
            new = changes[name.lstrip("_")]
            is_tensor = isinstance(item, _TENSOR)  # Rprop turns its settings into tensors
            set_attribute(optimizer, name, paddle.to_tensor(new, dtype=item.dtype) if is_tensor else new)
    for name in optimizer._default_dict:
        if name in changes:
            optimizer._default_dict[name] = undump(changes[name], optimizer._default_dict[name])
    for index, group in enumerate(option_groups(optimizer)):
        _apply_group(group, f"groups.{index}.", changes)
    for name, attr in _rates(optimizer).items():
        if name in changes:
            attr["learning_rate"] = changes[name]


def _apply_group(group: dict[str, Any], prefix: str, changes: dict[str, Any]) -> None:
    mine = {n.removeprefix(prefix): v for n, v in changes.items() if n.startswith(prefix)}
    _update(group, mine)
    for tensor in group["params"]:  # as Optimizer._add_param_group does
        if "learning_rate" in mine:
            tensor.optimize_attr["learning_rate"] = mine["learning_rate"]
        if "weight_decay" in mine:
            decay = group["weight_decay"]
            tensor.regularizer = paddle.regularizer.L2Decay(decay) if isinstance(decay, float) else decay
