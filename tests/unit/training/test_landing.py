from __future__ import annotations

import time

from checkpoints import begin, draft, make_repository, make_state, save
from holdfast.domain.manifest import Details
from holdfast.node.arena import LEFT_OUT, Place, Slot, SlotSource
from holdfast.node.messages import Staged
from holdfast.repository.commit import Draft
from holdfast.storage.memory import MemoryStorage
from holdfast.training.flights import Flight
from holdfast.training.landing import hand_over


class Taken:
    """A way that keeps what it is given."""

    def submit(self, given: Draft, tags: object, *, urgent: bool, details: object) -> None:
        self.draft = given


def test_what_a_snapshot_was_taken_without_is_read_from_the_parent() -> None:
    run = make_repository(MemoryStorage()).run("digits")
    attempt = begin(run)
    parent = save(run, attempt, 1, 100).id
    given = draft(attempt, 2, 200, make_state(200))
    there = given.sources["weight"]
    slot = Slot.__new__(Slot)  # nothing of it is read
    given.sources = {
        **given.sources,
        "weight": SlotSource(slot, Place(there.spec.dtype, there.spec.shape, LEFT_OUT)),
    }
    given.left_out, given.unchanged_since = frozenset({"weight"}), 1
    staged, now, way = Staged(2, 200, 0, 0, 0, (), True), time.monotonic(), Taken()
    hand_over([Flight(given, Details({}, {}, {}, {}), staged, False, 0.0, now)], way, run, parent)  # type: ignore[arg-type]
    assert way.draft.sources["weight"].read().tobytes() == make_state(100)["weight"]
