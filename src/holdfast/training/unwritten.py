"""Tensors outside every optimizer that a save need not copy: nobody has written to them since an earlier one.

Frozen layers, the base of adapters, a teacher. The kernel tells (`node.written`): versions prove nothing,
and samples miss what changes in one place.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING

import msgspec

from holdfast.domain.tensors import TensorSource, TensorSpec
from holdfast.node.written import Watch, Watched, address_of

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Bytes = npt.NDArray[np.uint8]

Place = tuple[int, int]
"""Address and size of memory."""
Live = dict[Place, tuple["Bytes", dict[str, TensorSpec]]]
"""Memory, and the tensors that lie there."""
LEAST_BYTES = 1024 * 1024
"""Of a smaller tensor, the copy costs no more than the question."""
SAVES_TO_COMPARISON = 50
"""At every so manieth save all is copied, and what was called unchanged is compared."""


class Unchanged(msgspec.Struct, frozen=True):
    """Names of tensors that are as in the parent of the checkpoint to be.

    Attributes
    ----------
    left_out : frozenset[str]
        These need not be read.
    compared : frozenset[str]
        These are read all the same, to see whether that is so.
    since : int
        Number of the save from which on they are so.
    """

    left_out: frozenset[str] = frozenset()
    compared: frozenset[str] = frozenset()
    since: int = 0


class _Known(msgspec.Struct, frozen=True):
    """Memory that is watched.

    Attributes
    ----------
    sequence : int
        Number of the save that was taken when that began, or when the names came: this one and all
        after it hold by these names what the memory holds still.
    specs : dict[str, TensorSpec]
        What lies there, by name.
    """

    sequence: int
    specs: dict[str, TensorSpec]
    watched: Watched


class Unwritten:
    """What of a state stays as it was, from one save to the next.

    Parameters
    ----------
    mode : {"on", "off", "check"}
        Leave it out of saves; do not look for it; compare it at every save.
    """

    def __init__(self, mode: str) -> None:
        self._checks = mode == "check"
        self._watch = Watch.open() if mode != "off" else None
        self._known: dict[Place, _Known] = {}
        self._changing: set[Place] = set()
        self._durable = 0
        self._since_comparison = 0

    def among(
        self, sources: Mapping[str, TensorSource], sequence: int, stepped: Collection[int]
    ) -> Unchanged:
        """What of these need not be copied for this save; from now on the others are watched.

        Parameters
        ----------
        sequence : int
            Number of this save.
        stepped : collection of int
            Addresses of memory that optimizers change.
        """
        if self._watch is None:
            return Unchanged()
        live = _watchable(sources, stepped)
        self._forget_written(live, self._watch)
        found = list(self._same(live))
        same, since = frozenset(name for name, _ in found), max((number for _, number in found), default=0)
        self._rename(live, sequence)
        self._begin(live, sequence, self._watch)
        self._since_comparison += bool(same)
        if self._checks or self._since_comparison >= SAVES_TO_COMPARISON:
            self._since_comparison = 0
            return Unchanged(compared=same, since=since)
        return Unchanged(left_out=same, since=since)

    def durable(self, sequence: int) -> None:
        """The save of this number is a checkpoint."""
        self._durable = max(self._durable, sequence)

    def forget(self) -> None:
        """Leave nothing out of the next save."""
        for place in list(self._known):
            self._drop(place)

    def close(self) -> None:
        """Watch nothing any more."""
        if self._watch is not None:
            self._watch.close()
        self._watch, self._known = None, {}

    def _forget_written(self, live: Live, watch: Watch) -> None:
        """What was written to once is not watched again: each such write would cost a fault for each page."""
        for place, known in list(self._known.items()):
            if place not in live:
                self._drop(place)
            elif watch.is_written(known.watched, live[place][0]):
                self._changing.add(place)
                self._drop(place)

    def _same(self, live: Live) -> Iterator[tuple[str, int]]:
        """Names, and the save since which each is the same."""
        for place, known in self._known.items():
            if known.sequence <= self._durable:
                specs = live[place][1]
                same = (name for name, spec in specs.items() if known.specs.get(name) == spec)
                yield from ((name, known.sequence) for name in same)

    def _rename(self, live: Live, sequence: int) -> None:
        """What goes by other names than before may have left its own to others: this save tells where."""
        for place, known in self._known.items():
            if known.specs != live[place][1]:
                self._known[place] = _Known(sequence, live[place][1], known.watched)

    def _begin(self, live: Live, sequence: int, watch: Watch) -> None:
        new = [place for place in live if place not in self._known and place not in self._changing]
        new.sort(key=lambda place: -place[1])  # not all of very many can be watched
        for place, watched in zip(new, watch.begin([live[place][0] for place in new]), strict=True):
            if watched is not None:
                self._known[place] = _Known(sequence, live[place][1], watched)

    def _drop(self, place: Place) -> None:
        known = self._known.pop(place)
        if self._watch is not None:
            self._watch.end(known.watched)


def _watchable(sources: Mapping[str, TensorSource], stepped: Collection[int]) -> Live:
    """Large tensors in the memory of this process that no optimizer changes."""
    live: Live = {}
    for name, source in sources.items():
        if source.spec.size_bytes >= LEAST_BYTES and getattr(source, "in_place", False):
            data = source.read()
            place = address_of(data), len(data)
            if place[0] not in stepped:
                live.setdefault(place, (data, {}))[1][name] = source.spec
    return live
