"""Values that a script constructs objects with: which attributes are plain, and put them back."""

from __future__ import annotations

from typing import Any

import paddle

_PLAIN = (bool, int, float, complex, str, bytes, type(None))

_CLASSES: dict[str, Any] = {
    cls.__name__: cls
    for cls in (
        paddle.regularizer.L1Decay,
        paddle.regularizer.L2Decay,
        paddle.nn.ClipGradByNorm,
        paddle.nn.ClipGradByValue,
        paddle.nn.ClipGradByGlobalNorm,
    )
}
"""Regularizers and gradient clips: nothing but their attributes, so they can be made anew."""


def is_plain(value: object) -> bool:
    """Whether a value is data through and through (a tensor is not)."""
    if isinstance(value, list | tuple | set | frozenset):
        return all(is_plain(v) for v in value)
    if isinstance(value, dict):
        return all(is_plain(k) and is_plain(v) for k, v in value.items())
    return isinstance(value, _PLAIN)


def is_setting(value: object) -> bool:
    """Whether a value can be dumped: plain, a regularizer or a gradient clip."""
    return is_plain(value) or _is_object(value)


def _is_object(value: object) -> bool:
    bases = (paddle.regularizer.WeightDecayRegularizer, paddle.nn.clip.GradientClipBase)
    return isinstance(value, bases)


def dump(value: Any) -> Any:
    """A setting as plain values."""
    if not _is_object(value):
        return value
    values = {k: v for k, v in vars(value).items() if is_plain(v)}
    return {"class": type(value).__name__, "values": values}


def undump(saved: Any, live: Any) -> Any:
    """A setting from its plain values: ``live`` itself, changed in place, where it is of that class.

    A class of the script's own that is not there any more cannot be made: ``live`` stays.
    """
    if not (isinstance(saved, dict) and saved.keys() == {"class", "values"}):
        return saved
    if type(live).__name__ != saved["class"]:
        if saved["class"] not in _CLASSES:
            return live
        cls = _CLASSES[saved["class"]]
        live = cls.__new__(cls)
    vars(live).update(saved["values"])
    return live
