"""PyTorch's own files: written plain, read only through its restricted loader."""

from __future__ import annotations

import datetime as dt
import errno
import pickle
import zipfile
from pathlib import Path
from typing import IO, Any

from holdfast.errors import DamagedError, UnsupportedError
from holdfast.formats.bounds import check_bounds
from holdfast.formats.unpickling import PickledArray, stand_ins
from holdfast.frameworks import registry

_CUT_SHORT = ("unexpected EOF", "central directory", "not a ZIP archive")  # PyTorch's words for it


def save_values(values: Any, file: IO[bytes]) -> None:
    """Write values that ``torch.load(weights_only=True)`` reads."""
    import torch

    torch.save(_loadable(values), file)


def _loadable(value: Any) -> Any:
    """With equals in place of what the restricted loader refuses."""
    import numpy as np

    if isinstance(value, dict):
        return {_loadable(key): _loadable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_loadable(item) for item in value]
    if isinstance(value, tuple):
        return tuple(_loadable(item) for item in value)
    if isinstance(value, set | frozenset):
        return {_loadable(item) for item in value}
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, dt.datetime | dt.date | dt.time):
        return value.isoformat()
    if isinstance(value, dt.timedelta):
        return value.total_seconds()
    return bytearray() if value == b"" and isinstance(value, bytes) else value


def load_values(path: Path) -> Any:
    """What a file of ``torch.save`` holds; large tensors stay on disk until they are read.

    Raises
    ------
    UnsupportedError
        It holds anything but tensors and plain values; nothing was run. Or PyTorch is not here.
    DamagedError
        It is empty, cut short, or no such file.
    """
    return _loaded(path, path.name, mmap=zipfile.is_zipfile(path))


def load_stream(file: IO[bytes], name: str) -> Any:
    """The same from an open file.

    Raises
    ------
    UnsupportedError, DamagedError
    """
    return _loaded(file, name, mmap=False)


def _loaded(file: Path | IO[bytes], name: str, *, mmap: bool) -> Any:
    registry.framework("torch")  # or it is said in plain words that it is not here
    import torch

    try:
        with torch.serialization.safe_globals([*stand_ins()]):
            values = torch.load(file, map_location="cpu", weights_only=True, mmap=mmap)
    except pickle.UnpicklingError as error:
        if "global" not in str(error).lower():
            raise _broken(file, name, error) from error
        raise UnsupportedError(
            f"{name} holds Python objects that only running code could build; it was not run.",
            do="Load it where you trust it, and save plain state dicts: torch.save(model.state_dict(), ...).",
        ) from error
    except OSError as error:
        if error.errno not in (None, errno.EINVAL):  # a file too short is mapped as an invalid argument
            raise
        raise _broken(file, name, error) from error
    except (RuntimeError, ValueError, TypeError, LookupError, AttributeError, EOFError) as error:
        raise _broken(file, name, error) from error
    check_bounds(values, name)
    return _with_arrays(values)


def _with_arrays(value: Any) -> Any:
    if isinstance(value, PickledArray):
        return value.array
    if isinstance(value, dict):
        for key, item in value.items():
            value[key] = _with_arrays(item)
    if isinstance(value, list):
        value[:] = [_with_arrays(item) for item in value]
    return tuple(_with_arrays(item) for item in value) if type(value) is tuple else value


def _broken(file: Path | IO[bytes], name: str, error: Exception) -> DamagedError:
    if isinstance(file, Path) and not file.stat().st_size:
        what = "is empty"
    elif isinstance(error, EOFError | OSError) or any(words in str(error) for words in _CUT_SHORT):
        what = "is cut short: its end is missing"
    else:
        what = "is no file of torch.save, or a damaged one"
    return DamagedError(f"{name} {what}.", do="Fetch or write it again.")
