"""What bits depend on besides the state: versions, devices, switches."""

from __future__ import annotations

import os
from collections.abc import Callable

import torch

from holdfast.frameworks.base import Environment

_FLAGS: dict[str, Callable[[], object]] = {
    "threads": torch.get_num_threads,
    "cpu_capability": torch.backends.cpu.get_cpu_capability,
    "mkldnn": lambda: torch.backends.mkldnn.enabled,
    "default_dtype": torch.get_default_dtype,
    "deterministic_algorithms": torch.are_deterministic_algorithms_enabled,
    "matmul_precision": torch.get_float32_matmul_precision,
}
_CUDA_FLAGS: dict[str, Callable[[], object]] = {
    "cudnn": lambda: torch.backends.cudnn.enabled,
    "cudnn_deterministic": lambda: torch.backends.cudnn.deterministic,
    "cudnn_benchmark": lambda: torch.backends.cudnn.benchmark,
    "cudnn_tf32": lambda: torch.backends.cudnn.allow_tf32,
    "matmul_tf32": lambda: torch.backends.cuda.matmul.allow_tf32,
    "cublas_workspace": lambda: os.environ.get("CUBLAS_WORKSPACE_CONFIG", ""),
}


def environment() -> Environment:
    """The present environment; a device that is not in use is not started."""
    flags = {name: _read(flag) for name, flag in _FLAGS.items()}
    versions = {"torch": str(torch.__version__)}
    devices = {"torch": "cpu"}
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        flags.update({name: _read(flag) for name, flag in _CUDA_FLAGS.items()})
        versions["cuda"] = str(torch.version.cuda or torch.version.hip)
        versions["cudnn"] = str(torch.backends.cudnn.version())  # type: ignore[no-untyped-call]
        devices = {"torch": "cuda", "torch_name": torch.cuda.get_device_name()}
    elif torch.backends.mps.is_available():
        devices = {"torch": "mps"}
    return Environment(versions, devices, {f"torch_{k}": v for k, v in flags.items() if v is not None})


def _read(flag: Callable[[], object]) -> str | None:
    try:
        return str(flag()).removeprefix("torch.")
    except (AttributeError, RuntimeError):  # torch refuses some once newer names were used
        return None
