"""Tensors that are as in the parent: their entries are taken over, and they are read only if need be."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pytest

from checkpoints import BytesTensor, begin, draft, make_repository, make_state, packs, read
from holdfast.domain.keep_rules import KeepRule
from holdfast.errors import StorageError
from holdfast.repository import signatures
from holdfast.repository.persisting import Persister
from holdfast.repository.repository import Repository
from holdfast.repository.retaining import Retention
from holdfast.storage.memory import MemoryStorage

if TYPE_CHECKING:
    from holdfast.repository.commit import Draft

FROZEN = frozenset({"frozen"})


class Absent(BytesTensor):
    """One that a snapshot was taken without."""

    def read(self) -> npt.NDArray[np.uint8]:
        raise StorageError("it is not here")


class Trainer:
    """Saves one draft after the other; starts anew where a test wants it to."""

    def __init__(self, repository: Repository | None = None) -> None:
        repository = repository or make_repository(MemoryStorage())
        self.run = repository.run("digits")
        self.attempt = begin(self.run)
        self.warned: list[str] = []
        self.sequence = 0
        self.begin()

    def begin(self) -> None:
        retention = Retention(self.run, self.attempt, KeepRule(last=2), self.warned.append)
        own = [c for c in self.run.checkpoints() if c.attempt == self.attempt]
        parent = own[-1] if own else None
        warn = self.warned.append
        self.persister = Persister(self.run, self.attempt, parent=parent, retention=retention, warn=warn)

    def draft(self, step: int) -> Draft:
        self.sequence += 1
        return draft(self.attempt, self.sequence, step, make_state(step))

    def without(self, step: int) -> Draft:
        made = self.draft(step)
        sources = {
            name: Absent(made.sources[name].spec.size_bytes) if name in FROZEN else source
            for name, source in made.sources.items()
        }
        made.sources, made.left_out = sources, FROZEN
        return made


def test_it_is_whole_without_them_being_read() -> None:
    trainer = Trainer()
    trainer.persister.persist(trainer.draft(1))
    for step in (2, 3, 4):
        persisted = trainer.persister.persist(trainer.without(step)).committed
        assert read(trainer.run, persisted.id) == make_state(step)
        assert list(persisted.manifest.tensors) == list(make_state(step))
        assert persisted.summary.size_bytes == sum(map(len, make_state(step).values()))
    assert len(trainer.run.checkpoints()) == 2, "the first one, which they were read for, is gone"


def test_whoever_goes_on_with_the_attempt_finds_them_in_the_parent() -> None:
    trainer = Trainer()
    trainer.persister.persist(trainer.draft(1))
    trainer.begin()
    persisted = trainer.persister.persist(trainer.without(2)).committed
    assert read(trainer.run, persisted.id) == make_state(2)


def test_what_the_repository_has_lost_is_read_again_where_it_can_be() -> None:
    trainer = Trainer()
    first = trainer.persister.persist(trainer.draft(1)).committed
    for pack in packs(trainer.run.storage):
        trainer.run.storage.delete(pack)
    with pytest.raises(StorageError, match="it is not here"):
        trainer.persister.persist(trainer.without(2))
    assert trainer.run.checkpoints() == [first.id], "nothing that is not whole"
    said = trainer.draft(2)
    said.left_out = FROZEN
    persisted = trainer.persister.persist(said).committed
    assert read(trainer.run, persisted.id) == make_state(2)


@pytest.mark.parametrize("parent", [False, True])
def test_what_the_parent_has_not_is_read(parent: bool) -> None:
    trainer = Trainer()
    if parent:
        other = trainer.draft(1)
        other.sources = {"frozen": BytesTensor(b"another size")}
        trainer.persister.persist(other)
    with pytest.raises(StorageError, match="it is not here"):
        trainer.persister.persist(trainer.without(2))


def test_what_is_compared_and_differs_is_said_and_saved_as_it_is() -> None:
    trainer = Trainer()
    trainer.persister.persist(trainer.draft(1))
    same = trainer.draft(2)
    same.compared = FROZEN
    trainer.persister.persist(same)
    assert trainer.warned == []
    state = make_state(3, frozen="thawed")
    other = draft(trainer.attempt, 3, 3, state)
    other.compared = FROZEN
    persisted = trainer.persister.persist(other).committed
    assert read(trainer.run, persisted.id) == state
    assert len(trainer.warned) == 1
    assert trainer.warned[0].startswith("frozen changed though the kernel saw")


def test_a_parent_from_before_they_were_so_is_not_believed() -> None:
    trainer = Trainer()
    trainer.persister.persist(trainer.draft(1))
    later = trainer.without(2)
    later.unchanged_since = 2
    with pytest.raises(StorageError, match="it is not here"):
        trainer.persister.persist(later)
    persisted = trainer.persister.persist(trainer.without(3)).committed
    assert read(trainer.run, persisted.id) == make_state(3)


@pytest.mark.parametrize("damaged", [False, True])
def test_a_parent_that_cannot_be_read_fails_no_training(damaged: bool) -> None:
    trainer = Trainer()
    first = trainer.persister.persist(trainer.draft(1)).committed
    trainer.begin()
    key = trainer.run.layout.checkpoint(first.id)
    trainer.run.storage.delete(key)
    if damaged:
        trainer.run.storage.put(key, [b"damage"])
    with pytest.raises(StorageError, match="it is not here"):
        trainer.persister.persist(trainer.without(2))
    said = trainer.draft(3)
    said.left_out = FROZEN
    persisted = trainer.persister.persist(said).committed
    assert read(trainer.run, persisted.id) == make_state(3)


@pytest.mark.parametrize("signed", [True, False])
def test_a_parent_that_nobody_trusted_signed_is_not_believed(
    signed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or what somebody else has put there would be signed by who goes on with the attempt."""
    private, public = signatures.generate()
    monkeypatch.setenv(signatures.SIGNING_KEY, private if signed else signatures.generate()[0])
    trainer = Trainer()
    trainer.persister.persist(trainer.draft(1))
    monkeypatch.setenv(signatures.SIGNING_KEY, private)
    monkeypatch.setenv(signatures.SIGNED_BY, public)
    trainer.begin()
    if signed:
        trainer.persister.persist(trainer.without(2))
    else:
        with pytest.raises(StorageError, match="it is not here"):
            trainer.persister.persist(trainer.without(2))
