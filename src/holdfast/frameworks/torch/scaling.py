"""AMP's loss scaler, whose scale and growth tracker come to be with the first loss."""

from __future__ import annotations

from typing import Any

import torch

from holdfast.errors import UnsupportedError
from holdfast.frameworks.base import CaptureWalk, LoadWalk

_KNOBS = {
    "growth_factor": "_growth_factor",
    "backoff_factor": "_backoff_factor",
    "growth_interval": "_growth_interval",
}


class ScalerAdapter:
    """Keeps scale and tracker exactly, whether or not they live on a device yet."""

    kind = "torch.scaler"

    def capture(self, value: torch.amp.GradScaler, path: str, walk: CaptureWalk) -> dict[str, Any]:
        if value.is_enabled() and len(value._per_optimizer_states) > 0:
            raise UnsupportedError(
                f"{path} is between unscale_() or step() and update(), which cannot be kept.",
                do="Call update() on the GradScaler before the step is counted.",
            )
        return value.state_dict()

    def plan(self, value: torch.amp.GradScaler, saved: Any, path: str, walk: LoadWalk) -> None:
        if bool(saved) != value.is_enabled():
            walk.mismatched(path, _describe(bool(saved)), _describe(value.is_enabled()))
        elif saved:
            state = {name: saved[name] for name in value.state_dict()}
            walk.then(lambda: _load(value, state))

    def given(self, value: torch.amp.GradScaler) -> dict[str, Any]:
        knobs = {name: getattr(value, key) for name, key in _KNOBS.items()} if value.is_enabled() else {}
        return {"enabled": value.is_enabled(), **knobs}

    def apply_given(self, value: torch.amp.GradScaler, changes: dict[str, Any]) -> None:
        for name in _KNOBS.keys() & changes.keys():
            setattr(value, _KNOBS[name], changes[name])


def _load(scaler: torch.amp.GradScaler, saved: dict[str, Any]) -> None:
    scaler.load_state_dict(saved)
    scaler._per_optimizer_states.clear()


def _describe(enabled: bool) -> str:
    return "enabled" if enabled else "disabled"
