"""PaddlePaddle: layers, optimizers, schedulers, scalers, tensors, generators."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import paddle
from paddle.amp import AmpScaler
from paddle.optimizer.lr import LRScheduler

from holdfast.domain.tensors import TensorSource, TensorSpec, TensorTarget
from holdfast.errors import UnsupportedError
from holdfast.frameworks.base import ComponentAdapter, Environment, LoadWalk, PositionedLoader
from holdfast.frameworks.paddle import environment, fencing, rng, sparse, stepping, tensors
from holdfast.frameworks.paddle.imported import IMPORTERS as IMPORTERS
from holdfast.frameworks.paddle.layers import LayerAdapter
from holdfast.frameworks.paddle.optimizers import OptimizerAdapter
from holdfast.frameworks.paddle.scalers import ScalerAdapter
from holdfast.frameworks.paddle.schedulers import SchedulerAdapter

_ADAPTERS: tuple[tuple[type, ComponentAdapter], ...] = (
    (paddle.nn.Layer, LayerAdapter()),
    (paddle.optimizer.Optimizer, OptimizerAdapter()),
    (LRScheduler, SchedulerAdapter()),
    (AmpScaler, ScalerAdapter()),
)
_GENERATOR = rng.GeneratorAdapter()
_SPARSE = sparse.SparseAdapter()


class PaddleFramework:
    """See `holdfast.frameworks.base.Framework`."""

    name = "paddle"

    def is_tensor(self, value: object) -> bool:
        return isinstance(value, paddle.Tensor) and not tensors.is_sparse(value)

    def source(self, value: Any, path: str) -> tuple[TensorSource, str]:
        return tensors.source(value, path)

    def target(self, value: Any) -> TensorTarget:
        return tensors.target(value)

    def new_tensor(self, spec: TensorSpec, device: str) -> tuple[Any, TensorTarget]:
        return tensors.new_tensor(spec, device)

    def component(self, value: object) -> ComponentAdapter | None:
        for owner, adapter in _ADAPTERS:
            if isinstance(value, owner):
                return adapter
        if tensors.is_sparse(value):
            return _SPARSE
        if rng.is_generator(value):
            return _GENERATOR
        if isinstance(value, paddle.static.ExponentialMovingAverage):
            raise UnsupportedError(
                "paddle.static.ExponentialMovingAverage keeps its state in a static program.",
                do="Use paddle.incubate.ModelAverage, or keep the averages in a second Layer.",
            )
        return None

    def rng_state(self) -> Any:
        return rng.rng_state()

    def set_rng_state(self, saved: Any) -> None:
        rng.set_rng_state(saved)

    def data_seed(self) -> int | None:
        return rng.data_seed()

    def environment(self) -> Environment:
        return environment.environment()

    def loader(self, value: object) -> PositionedLoader | None:
        from holdfast.frameworks.paddle.loaders import positioned

        return positioned(value)

    def watch_steps(
        self,
        values: Iterable[object],
        on_step: Callable[[], None],
        before_step: Callable[[], None] | None = None,
    ) -> Callable[[], None]:
        return stepping.watch_steps(values, on_step, before_step)

    def changed_by_steps_only(self, values: Iterable[object]) -> dict[tuple[int, int], Callable[[], int]]:
        return fencing.changed_by_steps_only(values)

    def has_gradients(self, values: Iterable[object]) -> bool:
        return stepping.has_gradients(values)

    def learning_rates(self, value: object) -> list[float]:
        return stepping.learning_rates(value)

    def collective_seconds(self, value: object) -> tuple[int, float] | None:
        return None

    def scalar(self, value: object) -> float | None:
        if not self.is_tensor(value):
            return None
        tensor: Any = value
        return float(tensor.item()) if tensor.size == 1 and not tensor.is_complex() else None


FRAMEWORK = PaddleFramework()

BUILDERS: dict[str, Callable[[Any, str, LoadWalk], Any]] = {"paddle.sparse": sparse.build}
