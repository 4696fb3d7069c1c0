"""Summaries that are read ahead: each checkpoint's own, or its own error."""

from __future__ import annotations

import random

import pytest

from checkpoints import begin, make_repository, save
from holdfast.errors import DamagedError, NotFoundError
from holdfast.repository.run import Run
from holdfast.repository.summaries import FEWEST, Summaries
from holdfast.storage.memory import MemoryStorage

COUNT = 5 * FEWEST


@pytest.fixture(scope="module")
def run() -> Run:
    run = make_repository(MemoryStorage()).run("main")
    attempt = begin(run)
    for number in range(1, COUNT + 1):
        save(run, attempt, number, number, {"w": b"x"})
    return run


@pytest.mark.parametrize("order", ["first to last", "last to first", "any"])
def test_each_gets_its_own_in_any_order(run: Run, order: str) -> None:
    asked = run.checkpoints()
    summaries = Summaries(run, asked)
    if order != "first to last":
        asked = random.Random(3).sample(asked, COUNT) if order == "any" else asked[::-1]
    assert [summaries.of(c).progress.step for c in asked] == [c.step for c in asked]
    assert summaries.of(asked[0]).progress.step == asked[0].step  # once more, too


def test_an_error_is_of_the_checkpoint_that_has_it() -> None:
    run = make_repository(MemoryStorage()).run("main")
    attempt = begin(run)
    one, two, three = [save(run, attempt, number, number, {"w": b"x"}).id for number in (1, 2, 3)]
    summaries = Summaries(run, [one, two, three])
    run.storage.delete(run.layout.checkpoint(one))
    run.storage.put(run.layout.checkpoint(two), [b"damage"])
    assert summaries.of(three).progress.step == 3
    with pytest.raises(DamagedError):
        summaries.of(two)
    with pytest.raises(NotFoundError):
        summaries.of(one)


def test_who_asks_for_one_reads_few(monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    read: list[int] = []
    monkeypatch.setattr(Run, "summary", lambda self, c: read.append(c.step))
    Summaries(run, run.checkpoints()).of(run.checkpoints()[-1])
    assert read == [COUNT]
    read.clear()
    Summaries(run, run.checkpoints()).of(run.checkpoints()[0])
    assert sorted(read) == list(range(1, FEWEST + 1))
