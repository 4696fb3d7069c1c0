"""When optimizers step: ``step()``, and ``minimize()`` which does not call it."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterable
from typing import Any

import paddle
from paddle.optimizer import LBFGS, Optimizer
from paddle.optimizer.lr import LRScheduler

from holdfast.frameworks.paddle import tensors
from holdfast.frameworks.paddle.parameters import is_optimizer, option_groups

_ENTRIES = ("step", "minimize", "_apply_optimize")
"""Every way into an update; each may call the next."""
_CHANGES = (
    (Optimizer, "_apply_optimize"),
    (LBFGS, "step"),
    (paddle.Tensor, "set_value"),
    (paddle.Tensor, "copy_"),
)
"""One of these is passed by every update of any optimizer, and by writes that move no tensor's version."""
_before_any: list[tuple[int, Callable[[], None]]] = []
"""What is called before those of a thread."""


def watch_steps(
    values: Iterable[object], on_step: Callable[[], None], before_step: Callable[[], None] | None = None
) -> Callable[[], None]:
    """Call these around each update of the optimizers among ``values``; returns the undo.

    ``before_step`` is called before `_CHANGES` as well: an optimizer that came since, or is no part of the
    state, may change the same parameters, and so may a script that swaps weights for an evaluation.
    """
    undos = [_watch(value, on_step, before_step) for value in values if is_optimizer(value)]
    if undos and before_step is not None:
        undos.append(_hear_all(before_step))

    def undo() -> None:
        for one in undos:
            one()

    return undo


def has_gradients(values: Iterable[object]) -> bool:
    """Whether any parameter of the optimizers among ``values`` holds a gradient.

    Zeros count as none: ``clear_grad()`` leaves them behind by default.
    """
    return any(_has_gradient(t) for v in values if is_optimizer(v) for t in _tensors(v))


def learning_rates(value: Any) -> list[float]:
    """That of an optimizer, unless it is a tensor; none if it is not one."""
    rate = value._learning_rate if is_optimizer(value) else None
    rate = rate.last_lr if isinstance(rate, LRScheduler) else rate
    return [float(rate)] if isinstance(rate, int | float) else []


def _tensors(optimizer: Any) -> list[Any]:
    groups = [group["params"] for group in option_groups(optimizer)]
    return [t for group in groups for t in group] if groups else list(optimizer._param_groups or [])


def _has_gradient(tensor: Any) -> bool:
    found = (tensor._grad_ivar(), getattr(tensor, "main_grad", None))
    return any(g is not None and (g.is_selected_rows() or tensors.Source(g).read().any()) for g in found)


def _watch(
    optimizer: Any, on_step: Callable[[], None], before_step: Callable[[], None] | None
) -> Callable[[], None]:
    depth = 0

    def wrap(entry: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(entry)
        def watched(*args: Any, **kwargs: Any) -> Any:
            nonlocal depth
            if depth == 0 and before_step is not None:
                before_step()
            depth += 1
            try:
                result = entry(*args, **kwargs)
            finally:
                depth -= 1
            if depth == 0:  # one update, however many entries and groups it went through
                on_step()
            return result

        return watched

    before = {name: vars(optimizer).get(name) for name in _ENTRIES}
    for name in _ENTRIES:
        setattr(optimizer, name, wrap(getattr(optimizer, name)))
    return lambda: _unwatch(optimizer, before)


def _unwatch(optimizer: Any, before: dict[str, Any]) -> None:
    for name, entry in before.items():
        if entry is None:
            delattr(optimizer, name)
        else:
            setattr(optimizer, name, entry)


def _hear_all(before_step: Callable[[], None]) -> Callable[[], None]:
    """Call this before each of `_CHANGES` in this thread; returns the undo."""
    for owner, name in () if _before_any else _CHANGES:
        setattr(owner, name, _heard(vars(owner)[name]))
    hearing = threading.get_ident(), before_step
    _before_any.append(hearing)

    def undo() -> None:
        _before_any.remove(hearing)
        for owner, name in () if _before_any else _CHANGES:
            entry = vars(owner)[name]
            if hasattr(entry, "heard"):  # else somebody has wrapped it since, and that stays
                setattr(owner, name, entry.heard)

    return undo


def _heard(entry: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(entry)
    def heard(*args: Any, **kwargs: Any) -> Any:
        for thread, before_step in list(_before_any):
            if thread == threading.get_ident():
                before_step()
        return entry(*args, **kwargs)

    vars(heard)["heard"] = entry
    return heard
