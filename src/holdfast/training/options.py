"""What the user chose for a Checkpointer, checked and parsed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from holdfast.domain.keep_rules import KeepRule
from holdfast.domain.mirrors import Mirror
from holdfast.domain.publications import Publication
from holdfast.domain.save_rules import SaveRule


class Options(msgspec.Struct, frozen=True):
    """As `Checkpointer` takes them.

    Attributes
    ----------
    save, memory : SaveRule or None
        When to make a checkpoint; when to hold a snapshot in memory.
    findings : dict[str, str]
        What is done about each kind of finding.
    probe : callable or None
        Tells a state by a number.
    staging_memory : int or None
        Bytes that staging may take of a device's memory.
    memory_seconds : float
        For how long memory is held for a successor of this process, should it die.
    mirrors : tuple[Mirror, ...]
        Where each checkpoint is brought as well, and the keep rule there.
    publish : tuple[Publication, ...]
        Plain files that are kept current, by their whole paths.
    sent_to : int or None
        The step that a program above has named in place of ``resume``.
    skip : dict[int, int]
        After so many steps pass over so many batches.
    """

    run: str
    resume: int | str
    changed: str
    save: SaveRule | None
    memory: SaveRule | None
    keep: KeepRule
    on_fault: str
    signals: bool
    rng: bool
    grace_seconds: float
    config: dict[str, Any]
    background: bool
    on_busy: str
    compact: str
    mirrors: tuple[Mirror, ...]
    publish: tuple[Publication, ...]
    findings: dict[str, str]
    probe: Callable[[], Any] | None
    staging_memory: int | None
    memory_seconds: float
    sent_to: int | None = None
    skip: dict[int, int] = {}
