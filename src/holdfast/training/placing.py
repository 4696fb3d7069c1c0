"""Where the tensors of a snapshot lie in its slot: worked out once, for as long as they are the same."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from holdfast.domain.tensors import TensorSource, TensorSpec
from holdfast.node.arena import Place, Slot, SlotSource, lay_out


class Layout(msgspec.Struct, frozen=True):
    """Places of tensors by name.

    Attributes
    ----------
    size_bytes : int
        What they take together.
    encoded : Any
        The places, as a field of a record.
    """

    specs: dict[str, TensorSpec]
    left_out: frozenset[str]
    places: dict[str, Place]
    size_bytes: int
    encoded: Any

    @classmethod
    def of(cls, specs: dict[str, TensorSpec], left_out: frozenset[str]) -> Layout:
        places, size_bytes = lay_out(specs, left_out)
        return cls(specs, left_out, places, size_bytes, msgspec.Raw(msgspec.msgpack.encode(places)))

    def sources(self, slot: Slot) -> Mapping[str, TensorSource]:
        """The tensors once they are copied there."""
        return _Copies(slot, self.places)


class _Copies(Mapping[str, TensorSource]):
    """Sources that are made when asked for: as a rule the agent is the only one to read a slot."""

    def __init__(self, slot: Slot, places: Mapping[str, Place]) -> None:
        self._slot = slot
        self._places = places

    def __getitem__(self, name: str) -> TensorSource:
        return SlotSource(self._slot, self._places[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


class Placing:
    """Remembers the last layout."""

    def __init__(self) -> None:
        self._last = Layout.of({}, frozenset())

    def layout(self, sources: Mapping[str, TensorSource], left_out: frozenset[str]) -> Layout:
        specs = {name: source.spec for name, source in sources.items()}
        same = specs == self._last.specs and list(specs) == list(self._last.specs)
        if not same or left_out != self._last.left_out:
            self._last = Layout.of(specs, left_out)
        return self._last
