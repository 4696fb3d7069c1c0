"""What Hugging Face's Trainer keeps beside the weights: optimizer, scheduler, scaler, random generators."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from holdfast.errors import DamagedError
from holdfast.formats import torch_files

_STATES = {
    "optimizer": ("optimizer.pt", "optimizer.bin"),
    "scheduler": ("scheduler.pt",),
    "scaler": ("scaler.pt",),
}
_RNG = "rng_state.pth"
_NEVER_READ = "training_args.bin"


def state_files(folder: Path) -> dict[str, Path]:
    """The file of each entry that is there."""
    found = {
        entry: [folder / name for name in names if (folder / name).is_file()]
        for entry, names in _STATES.items()
    }
    return {entry: paths[0] for entry, paths in found.items() if paths}


def read_rng(folder: Path) -> tuple[dict[str, Any] | None, list[str]]:
    """The generators' states, as Holdfast keeps them; and files that are there but not taken.

    Raises
    ------
    DamagedError
    """
    left_out = sorted(path.name for path in folder.glob("rng_state_*.pth"))  # one for each of several ranks
    left_out += [_NEVER_READ] if (folder / _NEVER_READ).exists() else []
    path = folder / _RNG
    if not path.is_file():
        return None, left_out
    saved = torch_files.load_values(path)
    try:
        return _converted(saved), left_out
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DamagedError(
            f"{path.name} holds no state of random generators: {error}.",
            do="Fetch it again, or take it away.",
        ) from error


def _converted(saved: Any) -> dict[str, Any]:
    states: dict[str, Any] = {"python": saved["python"], "numpy": _numpy(*saved["numpy"])}
    states["torch"] = {"cpu": _bytes(saved["cpu"])}
    if (cuda := saved.get("cuda")) is not None:
        states["torch"]["cuda"] = [_bytes(state) for state in (cuda if isinstance(cuda, list) else [cuda])]
    return states


def _numpy(name: str, key: Any, position: int, has_gauss: int, cached: float) -> dict[str, Any]:
    state = {"key": key.tolist(), "pos": int(position)}
    return {
        "state": {
            "bit_generator": str(name),
            "state": state,
            "has_gauss": int(has_gauss),
            "gauss": float(cached),
        }
    }


def _bytes(state: Any) -> bytes:
    raw: bytes = state.numpy().tobytes()
    return raw
