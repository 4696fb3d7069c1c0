"""PyTorch: what Holdfast captures of it, and how it is loaded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.optimizer import register_optimizer_step_pre_hook

from holdfast.domain.tensors import TensorSource, TensorSpec, TensorTarget
from holdfast.frameworks.base import ComponentAdapter, Environment, PositionedLoader
from holdfast.frameworks.torch import gradients, rng, sparse, tensors
from holdfast.frameworks.torch.environment import environment
from holdfast.frameworks.torch.fencing import changed_by_steps_only
from holdfast.frameworks.torch.imported import IMPORTERS as IMPORTERS
from holdfast.frameworks.torch.modules import ModuleAdapter
from holdfast.frameworks.torch.optimizers import OptimizerAdapter
from holdfast.frameworks.torch.parallel import collective_seconds
from holdfast.frameworks.torch.scaling import ScalerAdapter
from holdfast.frameworks.torch.schedulers import SchedulerAdapter

_ADAPTERS: list[tuple[type, ComponentAdapter]] = [
    (torch.nn.Module, ModuleAdapter()),
    (Optimizer, OptimizerAdapter()),
    (LRScheduler, SchedulerAdapter()),
    (torch.amp.GradScaler, ScalerAdapter()),
    (torch.Generator, rng.GeneratorAdapter()),
]
_SPARSE = sparse.SparseAdapter()


class TorchFramework:
    """The torch side of `holdfast.frameworks.base.Framework`."""

    name = "torch"

    def is_tensor(self, value: object) -> bool:
        return isinstance(value, torch.Tensor) and not sparse.is_sparse(value)

    def source(self, value: Any, path: str) -> tuple[TensorSource, str]:
        return tensors.source(value, path)

    def target(self, value: Any) -> TensorTarget:
        return tensors.target(value)

    def new_tensor(self, spec: TensorSpec, device: str) -> tuple[Any, TensorTarget]:
        return tensors.new_tensor(spec, device)

    def component(self, value: object) -> ComponentAdapter | None:
        if sparse.is_sparse(value):
            return _SPARSE
        for kind, adapter in _ADAPTERS:
            if isinstance(value, kind):
                return None if _keeps_own_state(value) else adapter
        return None

    def rng_state(self) -> Any:
        return rng.rng_state()

    def set_rng_state(self, saved: Any) -> None:
        rng.set_rng_state(saved)

    def data_seed(self) -> int | None:
        return torch.initial_seed()

    def environment(self) -> Environment:
        return environment()

    def loader(self, value: object) -> PositionedLoader | None:
        from holdfast.frameworks.torch.loaders import positioned

        return positioned(value)

    def watch_steps(
        self,
        values: Iterable[object],
        on_step: Callable[[], None],
        before_step: Callable[[], None] | None = None,
    ) -> Callable[[], None]:
        def stepped(optimizer: Optimizer, *_: Any) -> None:
            gradients.spend(optimizer)
            on_step()

        def steps(*_: Any) -> None:
            if before_step is not None:
                before_step()

        optimizers = list(_optimizers(values))
        handles = [o.register_step_post_hook(stepped) for o in optimizers]
        # of any optimizer: one that came since, or is no part of the state, may step the same parameters
        handles += [register_optimizer_step_pre_hook(steps)] if optimizers else []

        def undo() -> None:
            for handle in handles:
                handle.remove()

        return undo

    def changed_by_steps_only(self, values: Iterable[object]) -> dict[tuple[int, int], Callable[[], int]]:
        return changed_by_steps_only(values)

    def has_gradients(self, values: Iterable[object]) -> bool:
        groups = (group for optimizer in _optimizers(values) for group in optimizer.param_groups)
        return any(gradients.is_accumulated(parameter) for group in groups for parameter in group["params"])

    def learning_rates(self, value: object) -> list[float]:
        groups = value.param_groups if isinstance(value, Optimizer) else []
        return [float(g["lr"]) for g in groups if isinstance(g.get("lr"), int | float)]

    def collective_seconds(self, value: object) -> tuple[int, float] | None:
        return collective_seconds(value)

    def scalar(self, value: object) -> float | None:
        if isinstance(value, torch.Tensor) and value.dim() == 0 and not value.is_complex():
            return float(value.item())
        return None


def _optimizers(values: Iterable[object]) -> Iterator[Optimizer]:
    return (value for value in values if isinstance(value, Optimizer))


def _keeps_own_state(value: object) -> bool:
    """Whether a class outside torch says itself what the state of its optimizer or scheduler is."""
    if not isinstance(value, Optimizer | LRScheduler | torch.amp.GradScaler):
        return False
    return not type(value).state_dict.__module__.startswith("torch.")


FRAMEWORK = TorchFramework()
BUILDERS = {"torch.sparse": sparse.build, "torch.generator": rng.build_generator}
