"""Holdfast keeps machine-learning training alive: exact resume that survives any crash."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from holdfast.domain.keep_rules import keep as keep
    from holdfast.domain.progress import Progress as Progress
    from holdfast.domain.save_rules import every as every
    from holdfast.errors import BusyError as BusyError
    from holdfast.errors import ChangedError as ChangedError
    from holdfast.errors import DamagedError as DamagedError
    from holdfast.errors import FormatError as FormatError
    from holdfast.errors import HoldfastError as HoldfastError
    from holdfast.errors import MismatchError as MismatchError
    from holdfast.errors import NotFoundError as NotFoundError
    from holdfast.errors import PoisonedError as PoisonedError
    from holdfast.errors import RankError as RankError
    from holdfast.errors import RolledBackError as RolledBackError
    from holdfast.errors import SealedError as SealedError
    from holdfast.errors import SignatureError as SignatureError
    from holdfast.errors import StorageError as StorageError
    from holdfast.errors import SupersededError as SupersededError
    from holdfast.errors import UnsupportedError as UnsupportedError
    from holdfast.errors import UsageError as UsageError
    from holdfast.training.checkpointer import Checkpointer as Checkpointer
    from holdfast.training.oneshot import load as load
    from holdfast.training.oneshot import save as save
    from holdfast.training.saves import Save as Save
    from holdfast.training.views import Checkpoint as Checkpoint
    from holdfast.training.views import open_repository
    from holdfast.version import __version__ as __version__

    open = open_repository  # an import under another name is not an export to type checkers

_WHERE = {
    "__version__": "holdfast.version:__version__",
    "Checkpoint": "holdfast.training.views:Checkpoint",
    "Checkpointer": "holdfast.training.checkpointer:Checkpointer",
    "Progress": "holdfast.domain.progress:Progress",
    "Save": "holdfast.training.saving:Save",
    "every": "holdfast.domain.save_rules:every",
    "keep": "holdfast.domain.keep_rules:keep",
    "load": "holdfast.training.oneshot:load",
    "open": "holdfast.training.views:open_repository",
    "save": "holdfast.training.oneshot:save",
    **{
        name: f"holdfast.errors:{name}"
        for name in (
            "BusyError",
            "ChangedError",
            "DamagedError",
            "FormatError",
            "HoldfastError",
            "MismatchError",
            "NotFoundError",
            "PoisonedError",
            "RankError",
            "RolledBackError",
            "SealedError",
            "SignatureError",
            "StorageError",
            "SupersededError",
            "UnhealthyError",
            "UnsupportedError",
            "UsageError",
        )
    },
}

__all__ = [*_WHERE]  # noqa: PLE0604  # names are the keys


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for, so that the import itself costs nothing."""
    if name not in _WHERE:
        raise AttributeError(f"module 'holdfast' has no attribute {name!r}")
    module, _, attribute = _WHERE[name].partition(":")
    value = getattr(importlib.import_module(module), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
