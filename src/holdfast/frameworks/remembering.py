"""Captures remembered from one save to the next, for as long as all that they depend on is the same.

An adapter tells a `Form`: plain values, tensors by their identity, address and metadata. No tensor is
held, so an identity may come again in another one; then the capture, which depends on nothing but the
form, is the same again, too, and the live tensors are taken from the form anew.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from holdfast.domain.tensors import TensorSource, TensorSpec
from holdfast.domain.tree import Lasting
from holdfast.frameworks.base import Form

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


class Known(msgspec.Struct, frozen=True):
    """What was captured of one object.

    Attributes
    ----------
    facts : list
        Of its form.
    pieces : list[Lasting]
        What the adapter made of it.
    sources : dict[str, TensorSource or None]
        Its tensors by name, in order; None where the source must be made anew.
    anew : list[tuple[str, int]]
        Names of those, and their places among the form's tensors.
    """

    facts: list[Any]
    pieces: list[Any]
    sources: dict[str, TensorSource | None]
    anew: list[tuple[str, int]]

    def again(self, form: Form) -> dict[str, TensorSource]:
        """The sources of the live tensors."""
        sources: dict[str, Any] = self.sources.copy()
        for name, index in self.anew:
            sources[name] = form.source(form.tensors[index], name)[0]
        return sources


class _Steady:
    """A tensor whose memory is known already."""

    def __init__(self, spec: TensorSpec, memory: npt.NDArray[np.uint8]) -> None:
        self.spec = spec
        self._memory = memory

    def read(self) -> npt.NDArray[np.uint8]:
        return self._memory


def remember(
    form: Form, pieces: list[Any], sources: Mapping[str, TensorSource], live: Mapping[str, Any]
) -> Known | None:
    """Remember a capture; None if it holds a tensor that the form does not tell of.

    Parameters
    ----------
    sources, live : mapping
        Source and live tensor of each name that was captured.
    """
    places = {id(tensor): index for index, tensor in enumerate(form.tensors)}
    kept: dict[str, TensorSource | None] = {}
    anew = []
    for name, source in sources.items():
        index = places.get(id(live.get(name)))
        if index is None:
            return None
        steady = form.is_steady(form.tensors[index])
        kept[name] = _Steady(source.spec, source.read()) if steady else None
        if not steady:
            anew.append((name, index))
    return Known(form.facts, [Lasting(piece) for piece in pieces], kept, anew)


class Memory:
    """What the last capture of a state has left for the next one, by path."""

    def __init__(self) -> None:
        self._known: dict[str, Known] = {}

    def __getitem__(self, path: str) -> Known | None:
        return self._known.get(path)

    def renew(self, known: dict[str, Known]) -> None:
        """Remember these, and nothing else."""
        self._known = known


Make = Callable[[], list[Any]]
"""Captures an object in pieces, each of which is as lasting as its form."""
