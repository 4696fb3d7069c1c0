"""Moves and removals cut off at every operation on the storage, then begun again."""

from __future__ import annotations

import numpy as np
import pytest

from holdfast.domain.progress import Progress
from holdfast.domain.tensors import TensorRef, TensorSpec
from holdfast.repository import retention
from holdfast.repository.commit import Draft, commit
from holdfast.repository.moving import move
from holdfast.repository.removing import remove_run
from holdfast.repository.repository import Repository
from holdfast.repository.verify import Verifier
from mortal_storage import Killed, Mortal


class Source:
    def __init__(self, seed):
        self._data = np.random.default_rng(seed).integers(0, 255, 5000, np.uint8)
        self.spec = TensorSpec("uint8", (5000,))

    def read(self):
        return self._data


def built():
    """A run of two attempts with a tag and a rejection."""
    storage = Mortal()
    repository = Repository.create(storage, chunk_bytes=4096)
    run = repository.run("old")
    made, base = [], None
    for steps in ((1, 2), (3, 4)):
        attempt = run.begin_attempt()
        run.record_base(attempt, base)
        for sequence, step in enumerate(steps, start=1):
            draft = Draft(
                attempt=attempt,
                sequence=sequence,
                progress=Progress(step=step),
                reason="test",
                sources={"w": Source(step)},
                tree={"w": TensorRef("w", "numpy")},
            )
            base = commit(run, draft).id
            made.append(base)
    run.set_tag("mine", made[0])
    run.reject(made[3], "test")
    return storage, made


def changes_of(action):
    storage, _ = built()
    storage.left = 10**6
    action(Repository.open(storage))
    return 10**6 - storage.left


def moving(repository):
    move(repository.run("old"), repository.run("new/name"))


def removing(repository):
    remove_run(repository.run("old"))


@pytest.mark.parametrize("kill_at", range(changes_of(moving)))
def test_a_move_killed_anywhere_is_finished_by_the_next(kill_at):
    storage, made = built()
    storage.left = kill_at
    with pytest.raises(Killed):
        moving(Repository.open(storage))
    storage.left = 10**9
    repository = Repository.open(storage)
    old, new = repository.run("old"), repository.run("new/name")
    latest = {old.latest(), new.latest()}
    assert made[2] in latest
    assert latest <= {made[2], None}
    retention.sweep(repository)
    moving(Repository.open(storage))
    repository = Repository.open(storage)
    new = repository.run("new/name")
    assert new.checkpoints() == made
    assert new.latest() == made[2]
    assert new.tags() == {"mine": made[0]}
    assert len(new.attempts()) == 2
    assert [key for key in storage.list("runs/") if not key.startswith("runs/new/name/")] == []
    assert all(Verifier(repository).check(new, c).ok for c in made)


@pytest.mark.parametrize("kill_at", range(changes_of(removing)))
def test_a_removal_killed_anywhere_is_finished_by_the_next(kill_at):
    storage, made = built()
    storage.left = kill_at
    with pytest.raises(Killed):
        removing(Repository.open(storage))
    storage.left = 10**9
    repository = Repository.open(storage)
    run = repository.run("old")
    for checkpoint in run.checkpoints():
        verdict = Verifier(repository).check(run, checkpoint)
        assert verdict.ok
    assert run.latest() in (made[2], None)
    removing(Repository.open(storage))
    retention.sweep(Repository.open(storage))
    assert list(storage.list("")) == ["holdfast.json"]


@pytest.mark.parametrize("kill_at", range(changes_of(moving)))
def test_tags_that_change_while_a_move_is_half_done_are_moved_as_they_are(kill_at):
    storage, made = built()
    Repository.open(storage).run("old").set_tag("gone", made[1])
    storage.left = kill_at
    with pytest.raises(Killed):
        moving(Repository.open(storage))
    storage.left = 10**9
    run = Repository.open(storage).run("old")
    if storage.stat(run.layout.moved) is not None:
        return  # from here on the new name counts
    run.set_tag("mine", made[2])
    run.remove_tag("gone")
    moving(Repository.open(storage))
    assert Repository.open(storage).run("new/name").tags() == {"mine": made[2]}


def test_a_move_is_not_finished_over_a_run_that_went_on():
    storage, _ = built()
    storage.left = changes_of(moving) - 12
    with pytest.raises(Killed):
        moving(Repository.open(storage))
    storage.left = 10**9
    run = Repository.open(storage).run("old")
    attempt = run.begin_attempt()
    run.record_base(attempt, None)
    with pytest.raises(Exception, match="trained again"):
        moving(Repository.open(storage))
