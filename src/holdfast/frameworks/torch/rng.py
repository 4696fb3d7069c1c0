"""Random generators of torch: the global ones and `torch.Generator` objects."""

from __future__ import annotations

from typing import Any

import torch

from holdfast.errors import DamagedError
from holdfast.frameworks.base import CaptureWalk, LoadWalk


def rng_state() -> dict[str, Any]:
    """States of the global generators of all devices in use; starts no device."""
    state: dict[str, Any] = {"cpu": _to_bytes(torch.get_rng_state())}
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        state["cuda"] = [_to_bytes(s) for s in torch.cuda.get_rng_state_all()]
    if torch.backends.mps.is_available():
        state["mps"] = _to_bytes(torch.mps.get_rng_state())
    return state


def set_rng_state(saved: dict[str, Any]) -> None:
    torch.set_rng_state(_from_bytes(saved["cpu"]))
    if torch.backends.cuda.is_built():  # type: ignore[no-untyped-call]
        # where CUDA has not started yet, torch keeps these until it does
        for index, state in enumerate(saved.get("cuda", [])):
            torch.cuda.set_rng_state(_from_bytes(state), index)
    if "mps" in saved and torch.backends.mps.is_available():
        torch.mps.set_rng_state(_from_bytes(saved["mps"]))


class GeneratorAdapter:
    """A generator of its own, as samplers and data sets hold."""

    kind = "torch.generator"

    def capture(self, value: torch.Generator, path: str, walk: CaptureWalk) -> dict[str, Any]:
        return {"device": value.device.type, "state": _to_bytes(value.get_state())}

    def plan(self, value: torch.Generator, saved: Any, path: str, walk: LoadWalk) -> None:
        if saved["device"] != value.device.type:
            walk.mismatched(path, f"generator on {saved['device']}", f"generator on {value.device.type}")
        else:
            state = _from_bytes(saved["state"])
            walk.then(lambda: _set(value, state, path))

    def given(self, value: torch.Generator) -> dict[str, Any]:
        return {}

    def apply_given(self, value: torch.Generator, changes: dict[str, Any]) -> None:
        """Nothing is given."""


def build_generator(saved: Any, path: str, walk: LoadWalk) -> torch.Generator:
    generator = torch.Generator(saved["device"])
    state = _from_bytes(saved["state"])
    walk.then(lambda: _set(generator, state, path))
    return generator


def _set(generator: torch.Generator, state: torch.Tensor, path: str) -> None:
    try:
        generator.set_state(state)
    except RuntimeError as error:
        raise DamagedError(f"The state of the generator {path} cannot be used: {error}.") from error


def _to_bytes(state: torch.Tensor) -> bytes:
    return state.numpy().tobytes()


def _from_bytes(state: bytes) -> torch.Tensor:
    return torch.frombuffer(bytearray(state), dtype=torch.uint8)
