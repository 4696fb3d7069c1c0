"""Thin checkpoints: the model's bytes again, at a cost that does not depend on how many tensors there are."""

from __future__ import annotations

from collections import Counter

import msgspec
import pytest

from checkpoints import begin, draft, make_repository, make_state, read, save
from holdfast.domain.keep_rules import parse
from holdfast.repository import pruning, retaining
from holdfast.repository.commit import commit
from holdfast.repository.thinning import make_thin
from holdfast.storage.memory import MemoryStorage


def test_a_thin_checkpoint_descends_from_what_its_full_one_did() -> None:
    run = make_repository(MemoryStorage()).run("digits")
    attempt = begin(run)
    first = save(run, attempt, 1, 100).id
    second = save(run, attempt, 2, 200, parent=first).id
    assert make_thin(run, second, lambda value: value.name == "weight")
    thin = next(c for c in run.checkpoints() if c.kind == "thin")
    assert run.summary(thin).parent == run.summary(second).parent == str(first)
    assert read(run, thin) == {"weight": make_state(200)["weight"]}
    assert not make_thin(run, first, lambda value: False)


@pytest.mark.parametrize("by_hand", [False, True])
@pytest.mark.parametrize("rule", ["last 1, then thin every 300 steps", "last 1, every 300 steps"])
def test_of_a_copy_and_its_full_one_that_was_not_removed_one_stays(
    rule: str, by_hand: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader held the repository, or it was killed in between."""
    monkeypatch.setattr(retaining, "is_model", lambda value: True)
    for _ in range(6):  # digests are random
        run = make_repository(MemoryStorage()).run("digits")
        attempt = begin(run)
        made = [save(run, attempt, n, n * 100).id for n in range(1, 8)]
        assert make_thin(run, made[2], lambda value: True)
        if by_hand:
            planned = pruning.plan(run, parse(rule), is_model=lambda value: True)
            pruning.apply(run, planned, is_model=lambda value: True)
        else:
            retaining.Retention(run, attempt, parse(rule), pytest.fail)._apply()
        kind = "thin" if "thin" in rule else "full"
        left = [(c.step, c.kind) for c in run.checkpoints()]
        assert left == [(300, kind), (600, "full"), (700, "full")]


def test_a_full_one_whose_copy_is_damaged_stays() -> None:
    run = make_repository(MemoryStorage()).run("digits")
    full = save(run, begin(run), 1, 100).id
    assert make_thin(run, full, lambda value: True)
    run.reject(next(c for c in run.checkpoints() if c.kind == "thin"), "damaged")
    assert not make_thin(run, full, lambda value: True)


def test_a_copy_was_saved_when_its_full_one_was() -> None:
    """Else one that is thinned hours later takes the place of that hour's own."""
    run = make_repository(MemoryStorage()).run("digits")
    made = draft(begin(run), 1, 100, make_state(100))
    made.saved_seconds = 1000.0
    assert make_thin(run, commit(run, made).id, lambda value: True)
    assert [run.summary(c).saved_seconds for c in run.checkpoints()] == [1000.0, 1000.0]


class Counting(MemoryStorage):
    """Counts how often each object is read."""

    def __init__(self) -> None:
        super().__init__()
        self.reads: Counter[str] = Counter()

    def get(self, key: str, start: int = 0, stop: int | None = None) -> bytes:
        self.reads[key] += 1
        return super().get(key, start, stop)


def test_a_thin_one_holds_what_is_kept_and_nothing_else() -> None:
    storage = Counting()
    run = make_repository(storage).run("digits")
    state = {f"t{n}": bytes([n]) * 50 for n in range(60)}
    made = draft(begin(run), 1, 10, state)
    kept = {name: state[name] for name in list(state)[:40]}
    made.tree = {
        "model": {n: made.tree[n] for n in kept},
        "rest": {n: made.tree[n] for n in state if n not in kept},
    }
    full = commit(run, made).id
    storage.reads.clear()

    assert make_thin(run, full, lambda value: "t0" in value)

    thin = next(c for c in run.checkpoints() if c.kind == "thin")
    assert msgspec.structs.replace(thin, kind="full", digest=full.digest) == full
    assert read(run, thin) == kept
    assert storage.reads[run.layout.checkpoint(full)] == 1
    assert storage.reads[run.layout.hint(full)] == 1
