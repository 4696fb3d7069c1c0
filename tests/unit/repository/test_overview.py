"""Listings beside a live run: what is removed between two looks is no fault."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial

import pytest

from checkpoints import begin, make_repository, prune, save
from holdfast.domain.names import CheckpointId
from holdfast.errors import NotFoundError
from holdfast.repository.overview import RunOverview, entries, entry, overview
from holdfast.repository.removing import remove_run
from holdfast.repository.run import Run
from holdfast.repository.space import Survey
from holdfast.storage.memory import MemoryStorage


class Hooked(MemoryStorage):
    """Lets something happen right before the first manifest, or what ends so, is read."""

    before: Callable[[], object] | None = None
    ending = ".manifest"

    def __init__(self) -> None:
        super().__init__()
        self._happening = threading.RLock()

    def get(self, key: str, start: int = 0, stop: int | None = None) -> bytes:
        if key.endswith(self.ending):
            with self._happening:  # other threads' reads come after it
                before, self.before = self.before, None
                if before is not None:
                    before()
        return super().get(key, start, stop)


@pytest.fixture
def live() -> Run:
    """A run with a checkpoint, that keeps one and saves another one at that moment."""
    storage = Hooked()
    run = make_repository(storage).run("digits")
    attempt = begin(run)
    save(run, attempt, 1, 10)

    def saves() -> None:
        other = make_repository(storage).run("digits")
        save(other, attempt, 2, 20)
        prune(other, 1, attempt)

    storage.before = saves
    return run


def only(run: Run) -> CheckpointId:
    (checkpoint,) = run.checkpoints()
    return checkpoint


def test_a_run_whose_latest_is_replaced_meanwhile_is_told_with_the_new_one(live: Run) -> None:
    latest = overview(live).latest
    assert latest is not None
    assert latest.id == only(live)
    assert latest.id.step == 20


def test_one_that_is_removed_meanwhile_is_not_found(live: Run) -> None:
    with pytest.raises(NotFoundError, match="digits@10 was removed meanwhile"):
        entry(live, only(live))


def test_the_best_is_one_of_those_that_are_left(live: Run) -> None:
    storage = live.storage
    assert isinstance(storage, Hooked)
    saves, storage.before = storage.before, None
    left = save(live, only(live).attempt, 3, 5).id
    storage.before = saves
    assert live.best("loss", "min") == left


def test_space_counts_none_that_is_removed_meanwhile(live: Run) -> None:
    survey = Survey(live.repository)
    assert survey.by_run() == {}
    assert survey.whole().logical_bytes == 0


@pytest.mark.parametrize("look", [overview, entries])
def test_a_run_that_is_removed_meanwhile_has_nothing(look: Callable[[Run], object]) -> None:
    storage = Hooked()
    run = make_repository(storage).run("digits")
    save(run, begin(run), 1, 10)
    storage.ending = ".base"
    storage.before = partial(remove_run, make_repository(storage).run("digits"))
    assert look(run) in (RunOverview("digits"), [])
    assert storage.before is None
