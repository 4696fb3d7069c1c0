"""Hugging Face style folders: weights in ``.safetensors``, in shards where large, with JSON beside them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from holdfast.domain import tree as trees
from holdfast.domain.tensors import TensorRef
from holdfast.errors import DamagedError, NotFoundError
from holdfast.formats.files import new_folder
from holdfast.formats.flat import flatten, origin
from holdfast.formats.reading import Advance, SavedState
from holdfast.formats.safetensors import Layout, SafetensorsFile

SHARD_BYTES = 5_000_000_000
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
ADAPTER, PICKLED = "adapter_model.safetensors", "pytorch_model.bin"
_CONFIG, _PROGRESS = "config.json", "trainer_state.json"
_WRITTEN = (WEIGHTS, "model-[0-9]*-of-[0-9]*.safetensors", INDEX, _CONFIG, _PROGRESS)
_MAX_JSON_BYTES = 100_000_000
_LARGEST_STEP = 10**18 - 1
_LARGEST_EPOCH = 1e9


def save_folder(
    saved: SavedState,
    view: Any,
    label: str,
    path: Path,
    *,
    overwrite: bool,
    advance: Advance | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write one model's tensors, its config where the state or the run has one, and the progress."""
    table = flatten(view)
    shards = _shards(saved, table.tensors, shard_bytes)
    with new_folder(path, overwrite=overwrite, replaceable=_WRITTEN) as folder:
        weights: dict[str, str] = {}
        for number, shard in enumerate(shards, start=1):
            name = WEIGHTS if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
            tied = {a: n for a, n in table.tied.items() if n in shard}
            layout = Layout(
                {n: saved.spec(ref) for n, ref in shard.items()},
                {**tied, **origin(saved), "format": label},
            )
            with (folder / name).open("xb") as file:
                layout.write(file, saved.stream([shard[n].name for n in layout.order], advance))
            weights.update(dict.fromkeys(shard, name))
        if len(shards) > 1:
            total = sum(saved.spec(ref).size_bytes for ref in table.tensors.values())
            _put_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": weights})
        _put_json(folder / _PROGRESS, _progress(saved))
        if config := _config(saved):
            _put_json(folder / _CONFIG, config)


def _shards(
    saved: SavedState, tensors: Mapping[str, TensorRef], shard_bytes: int
) -> list[dict[str, TensorRef]]:
    shards: list[dict[str, TensorRef]] = [{}]
    size_bytes = 0
    for name, ref in tensors.items():
        if shards[-1] and size_bytes + saved.spec(ref).size_bytes > shard_bytes:
            shards.append({})
            size_bytes = 0
        shards[-1][name] = ref
        size_bytes += saved.spec(ref).size_bytes
    return shards


def _progress(saved: SavedState) -> dict[str, Any]:
    """With the keys that other trainers know, and no others."""
    summary = saved.manifest.summary
    progress = summary.progress
    log = {"epoch": float(progress.epoch), "step": progress.step, **summary.metrics}
    return {"epoch": float(progress.epoch), "global_step": progress.step, "log_history": [log]}


def _config(saved: SavedState) -> dict[str, Any]:
    """The entry ``config`` of the state, else the hyperparameters recorded; what JSON can say."""
    config = saved.everything.get("config")
    if not isinstance(config, dict):
        given = saved.manifest.details.given.items()
        config = {k.removeprefix("config."): trees.decode(v) for k, v in given if k.startswith("config.")}
    return {str(key): value for key, value in config.items() if _is_json(value)}


def _is_json(value: object) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return False
    return True


def _put_json(path: Path, value: dict[str, Any]) -> None:
    with path.open("x", encoding="utf-8") as file:
        json.dump(value, file, indent=2)
        file.write("\n")


# -- reading -------------------------------------------------------------------------------


class _Index(msgspec.Struct):
    weight_map: dict[str, str]


class Told(msgspec.Struct):
    """What ``trainer_state.json`` tells.

    Attributes
    ----------
    log_history : list[dict[str, Any]]
        Metrics, each entry with its ``step``.
    """

    global_step: int = 0
    epoch: float | None = 0.0
    log_history: list[dict[str, Any]] = []

    @property
    def epoch_number(self) -> int:
        """Epochs completed."""
        whole = self.epoch if self.epoch is not None and math.isfinite(self.epoch) else 0.0
        return max(int(min(whole, _LARGEST_EPOCH)), 0)

    @property
    def metrics(self) -> dict[str, float]:
        """What was logged at the very step of the checkpoint."""
        entries = (entry for entry in self.log_history if entry.get("step") == self.global_step)
        named = (pair for entry in entries for pair in entry.items() if pair[0] not in ("step", "epoch"))
        return {n: float(v) for n, v in named if isinstance(v, int | float) and not isinstance(v, bool)}


def weight_files(folder: Path) -> list[Path]:
    """The ``.safetensors`` files of a folder; names in an index are data, never paths.

    Raises
    ------
    NotFoundError, DamagedError
    """
    if (folder / INDEX).exists():
        names = sorted(set(_json(folder / INDEX, _Index).weight_map.values()))
        for name in names:
            if Path(name).name != name or not name.endswith(".safetensors"):
                raise DamagedError(f"The index of {folder.name} names {name!r}, which is no file of its own.")
        files = [folder / name for name in names]
    else:
        adapter = (folder / ADAPTER).is_file() and not (folder / WEIGHTS).exists()
        files = [folder / (ADAPTER if adapter else WEIGHTS)]
    if absent := [file.name for file in files if not file.is_file()]:
        raise NotFoundError(f"The folder {folder} has no {', '.join(absent)}.", do="Fetch it whole.")
    return files


def open_weights(folder: Path) -> list[SafetensorsFile]:
    """Open every file of weights; the caller closes them."""
    opened: list[SafetensorsFile] = []
    try:
        for path in weight_files(folder):
            opened.append(SafetensorsFile(path))
    except BaseException:
        for file in opened:
            file.close()
        raise
    return opened


def read_config(folder: Path) -> dict[str, Any] | None:
    """``config.json``, if there is one."""
    path = folder / _CONFIG
    return _json(path, dict[str, Any]) if path.is_file() else None


def read_progress(folder: Path) -> Told:
    """What ``trainer_state.json`` tells; nothing if there is none."""
    path = folder / _PROGRESS
    told: Told = _json(path, Told) if path.is_file() else Told()
    if not 0 <= told.global_step <= _LARGEST_STEP:
        raise DamagedError(f"{path} tells the step {told.global_step}, which is none.", do="Fetch it again.")
    return told


def pickled_weights(folder: Path) -> Path | None:
    """Weights as ``torch.save`` wrote them, where there are no ``.safetensors``."""
    path = folder / PICKLED
    return path if path.is_file() and not any((folder / n).exists() for n in (WEIGHTS, INDEX)) else None


def is_one(folder: Path) -> bool:
    """Whether there is a model in a folder."""
    return any((folder / name).is_file() for name in (WEIGHTS, INDEX, ADAPTER, PICKLED))


def _json(path: Path, kind: Any) -> Any:
    with path.open("rb") as file:
        data = file.read(_MAX_JSON_BYTES)  # of a longer one the rest is missing, so it does not parse
    try:  # Python's own reader: trainers write NaN, which no other one takes
        return msgspec.convert(json.loads(data), type=kind)
    except (msgspec.ValidationError, ValueError, OverflowError, RecursionError) as error:
        raise DamagedError(f"{path} cannot be read: {error}.", do="Fetch it again.") from error
