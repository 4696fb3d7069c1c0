"""The contract of whoever takes part: save a live training state, load it back into the live objects."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import holdfast


class Contender(NamedTuple):
    """One way to save and load.

    Attributes
    ----------
    save : callable
        Writes to a path; returns whether the bytes are durable already (else they are fsynced for it).
    load : callable
        Restores the live objects from it.
    """

    name: str
    save: Callable[[Path], bool]
    load: Callable[[Path], Any]


class Subject(NamedTuple):
    """A live training state and those who save it.

    Attributes
    ----------
    size_bytes, tensors : int
        Of its training state.
    fingerprint : callable
        A digest of every live byte: a load that does not bring them back is no load.
    scramble : callable
        Overwrites the live state.
    """

    size_bytes: int
    tensors: int
    fingerprint: Callable[[], str]
    scramble: Callable[[], None]
    contenders: list[Contender]


def holdfast_contender(state: dict[str, Any]) -> Contender:
    save_state, load_state = holdfast.save, holdfast.load  # imported here, before any clock starts

    def save(path: Path) -> bool:
        save_state(path, state, step=1)
        return True

    def load(path: Path) -> None:
        load_state(path, into=state)

    return Contender("holdfast", save, load)
