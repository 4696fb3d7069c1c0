"""What exactness depends on besides the state: Paddle's version, device and switches."""

from __future__ import annotations

import paddle
from paddle.base import core

from holdfast.frameworks.base import Environment

_FLAGS = (
    "FLAGS_cudnn_deterministic",
    "FLAGS_cudnn_exhaustive_search",
    "FLAGS_embedding_deterministic",
    "FLAGS_gemm_use_half_precision_compute_type",
    "FLAGS_paddle_num_threads",
    "FLAGS_use_autotune",
    "FLAGS_use_onednn",
    "FLAGS_use_stride_kernel",
)
"""Those a build has; the set depends on how it was compiled."""


def environment() -> Environment:
    kind, _, _ = paddle.device.get_device().partition(":")
    device = "cuda" if kind == "gpu" else kind
    return Environment(versions=_versions(device), devices={"paddle": _model(device)}, flags=_flags())


def _versions(device: str) -> dict[str, str]:
    versions = {"paddle": f"{paddle.__version__} ({paddle.version.commit[:12]})"}
    if device == "cuda":
        versions["paddle.cuda"] = str(paddle.version.cuda())
        versions["paddle.cudnn"] = str(paddle.version.cudnn())
    return versions


def _model(device: str) -> str:
    return f"cuda ({paddle.device.cuda.get_device_name()})" if device == "cuda" else device


def _flags() -> dict[str, str]:
    known = core.globals()
    present = set(known.keys())
    return {f"paddle.{name}": str(known[name]) for name in _FLAGS if name in present}
