"""Intact tensors of a damaged checkpoint, as plain files that anything can read."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from holdfast.domain.manifest import Manifest
from holdfast.domain.names import CheckpointId
from holdfast.domain.tensors import ITEM_BYTES, TensorSpec
from holdfast.errors import DamagedError, StorageError, UsageError
from holdfast.repository.difference import Side
from holdfast.repository.run import Run
from holdfast.storage.faults import told_plainly

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

INDEX = "tensors.json"


class Salvaged(msgspec.Struct, frozen=True):
    """What was written where.

    Attributes
    ----------
    files : dict[str, str]
        Tensor → file.
    lost : dict[str, str]
        Tensor → why it is not there.
    """

    files: dict[str, str]
    lost: dict[str, str]


def salvage(
    run: Run,
    checkpoint: CheckpointId,
    folder: Path,
    values: Callable[[Manifest], Any],
    advance: Callable[[int], None] = lambda size: None,
) -> Salvaged:
    """Write every tensor that verifies to a ``.npy`` file of its own, and what they are to `INDEX`.

    Files are numbered: names from a repository are data, never paths. dtypes that NumPy lacks
    are written as unsigned integers of their size; `INDEX` tells the real one.

    Parameters
    ----------
    values : callable
        Makes of the manifest what `INDEX` says under ``values``: what is no tensor.

    Raises
    ------
    UsageError
        The folder has contents.
    DamagedError
        The manifest itself is damaged: nobody knows what the bytes mean.
    """
    side = Side(run, checkpoint)
    with told_plainly("preparing the folder", str(folder)):
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise UsageError(f"The folder {folder} is not empty.", do="Name a new or empty one.")
    files, lost = {}, {}
    for number, (name, entry) in enumerate(side.manifest.tensors.items(), start=1):
        try:
            data = side.read(name)
        except (DamagedError, StorageError) as error:
            if isinstance(error, StorageError) and error.errno != errno.EIO:
                raise
            lost[name] = error.what.strip()  # of a dying disk the rest is wanted all the more
        else:
            files[name] = f"{number:06d}.npy"
            _write(folder / files[name], data, entry.spec)
        advance(entry.spec.size_bytes)
    _write_index(folder, run, side.manifest, Salvaged(files, lost), values)
    return Salvaged(files, lost)


def _write(path: Path, data: npt.NDArray[np.uint8], spec: TensorSpec) -> None:
    import numpy as np

    with told_plainly(f"writing {path.name}", str(path.parent)):
        np.save(path, as_array(data, spec), allow_pickle=False)


def as_array(data: npt.NDArray[np.uint8], spec: TensorSpec) -> npt.NDArray[Any]:
    """The tensor's bytes as an array; dtypes unknown to NumPy as unsigned integers of their size."""
    import numpy as np

    try:
        dtype = np.dtype(spec.dtype)
    except TypeError:
        dtype = np.dtype(f"u{ITEM_BYTES[spec.dtype]}")
    return data.view(dtype.newbyteorder("<")).reshape(spec.shape)


def _write_index(
    folder: Path, run: Run, manifest: Manifest, salvaged: Salvaged, values: Callable[[Manifest], Any]
) -> None:
    tensors = {
        name: {"file": salvaged.files[name], "dtype": entry.dtype, "shape": list(entry.shape)}
        for name, entry in manifest.tensors.items()
        if name in salvaged.files
    }
    told = {
        "run": run.name,
        "step": manifest.summary.progress.step,
        "tensors": tensors,
        "lost": salvaged.lost,
        "values": values(manifest),
    }
    with told_plainly(f"writing {INDEX}", str(folder)):
        (folder / INDEX).write_text(json.dumps(told, indent=2))
