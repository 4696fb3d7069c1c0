"""Figures of NVIDIA's GPUs, where the package ``nvidia-ml-py`` is there to ask for them.

They come from the driver: no kernel on a GPU is waited for.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any

from holdfast.domain.gpus import Gpu

VISIBLE_VARIABLE = "CUDA_VISIBLE_DEVICES"


def gpu_figures(variables: Mapping[str, str]) -> Callable[[], list[Gpu]] | None:
    """What looks at the GPUs that this process may use; None if nothing here can."""
    try:
        nvml = importlib.import_module("pynvml")
        nvml.nvmlInit()
        handles = list(_handles(nvml, variables.get(VISIBLE_VARIABLE)))
    except Exception:  # no package, no driver, or one that does not fit: training needs none of them
        return None
    return lambda: _figures(nvml, handles)


def _handles(nvml: Any, visible: str | None) -> Iterator[Any]:
    """By number or UUID as CUDA has them; all of them where none are named."""
    if visible is None:
        names = [str(number) for number in range(nvml.nvmlDeviceGetCount())]
    else:
        names = [name.strip() for name in visible.split(",") if name.strip()]
    for name in names:
        if name.isdigit():
            yield nvml.nvmlDeviceGetHandleByIndex(int(name))
        else:
            yield nvml.nvmlDeviceGetHandleByUUID(name)


def _figures(nvml: Any, handles: list[Any]) -> list[Gpu]:
    try:
        return [_figures_of(nvml, number, handle) for number, handle in enumerate(handles)]
    except nvml.NVMLError:  # one that has fallen off the bus says so to training itself
        return []


def _figures_of(nvml: Any, number: int, handle: Any) -> Gpu:
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    limit, errors = None, None
    with suppress(nvml.NVMLError):
        limit = nvml.nvmlDeviceGetTemperatureThreshold(handle, nvml.NVML_TEMPERATURE_THRESHOLD_SLOWDOWN)
    with suppress(nvml.NVMLError):  # of consumers' cards, which have no ECC
        errors = nvml.nvmlDeviceGetTotalEccErrors(
            handle, nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, nvml.NVML_VOLATILE_ECC
        )
    return Gpu(
        name=f"GPU {number}",
        busy=nvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100,
        full=memory.used / memory.total,
        celsius=nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU),
        limit_celsius=limit,
        uncorrected=errors,
    )
