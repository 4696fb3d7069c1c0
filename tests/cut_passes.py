"""Cuts a run's passes at its safe points, goes on in a "new process", and compares what follows."""

from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from holdfast.domain import tree
from holdfast.frameworks import rng
from holdfast.training.position import BatchPass

Make = Callable[[], Any]


def through_bytes(value: Any) -> Any:
    """As a checkpoint would keep it: proves that the value is plain."""
    data = msgspec.msgpack.encode(tree.encode(value))
    return tree.decode(msgspec.msgpack.decode(data))


class Point:
    """A safe point of an uninterrupted run: the position saved there, and where its trace stood."""

    def __init__(self, number: int, current: BatchPass, trace: list[Any]) -> None:
        self.number = number
        self.exhausted = current.exhausted
        self.saved = through_bytes(current.state())
        self.rng = through_bytes(rng.capture_rng())
        self.at = len(trace)


def leave_alone(loader: Any, number: int) -> None:
    pass


class Cuts:
    """Parameters: seed every generator; draw from every generator; bytes of a batch."""

    def __init__(
        self,
        begin: Callable[[int], None],
        noise: Callable[[], list[float]],
        frozen: Callable[[Any], bytes],
    ) -> None:
        self._begin = begin
        self._noise = noise
        self._frozen = frozen

    def __call__(
        self,
        make: Make,
        passes: int = 3,
        before: Callable[[Any, int], None] = leave_alone,
        cuts: int = 0,
        unseeded: bool = False,
    ) -> None:
        """Cut at every safe point, or at ``cuts`` of them, and compare what follows."""
        trace, points = self._uninterrupted(make, passes, before)
        if not unseeded:
            assert self._uninterrupted(make, passes, before)[0] == trace
        assert len({repr(turn) for turn in trace}) == len(trace)
        if cuts:
            points = [points[round(i * (len(points) - 1) / (cuts - 1))] for i in range(cuts)]
        for point in points:
            assert self._resumed(make, passes, before, point) == trace[point.at :], (point.number, point.at)

    def _turns(self, current: BatchPass, trace: list[Any]) -> Iterator[None]:
        for batch in current:
            trace.append((current.delivered, self._frozen(batch), self._noise()))  # training draws too
            yield

    def _uninterrupted(
        self, make: Make, passes: int, before: Callable[[Any, int], None]
    ) -> tuple[list[Any], list[Point]]:
        self._begin(1)
        loader = make()
        trace: list[Any] = []
        points: list[Point] = []
        for number in range(passes):
            before(loader, number)
            current = BatchPass(loader, seed=5, number=number)
            iter(current)
            points.append(Point(number, current, trace))
            for _ in self._turns(current, trace):
                points.append(Point(number, current, trace))
            points.append(Point(number, current, trace))
            trace.append(("end", self._noise()))
        return trace, points

    def _resumed(
        self, make: Make, passes: int, before: Callable[[Any, int], None], point: Point
    ) -> list[Any]:
        self._begin(99)  # a new process: nothing may depend on what its generators were
        loader = make()
        rng.restore_rng(point.rng)
        trace: list[Any] = [("end", self._noise())] if point.exhausted else []
        saved = point.saved
        for number in range(point.number + point.exhausted, passes):
            before(loader, number)
            current = BatchPass(loader, seed=5, number=number, saved=saved, resume_rng=point.rng)
            for _ in self._turns(current, trace):
                pass
            assert current.inexact is None
            trace.append(("end", self._noise()))
            saved = None
        return trace
