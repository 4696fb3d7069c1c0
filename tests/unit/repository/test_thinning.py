"""Thin checkpoints: the model's bytes again, at a cost that does not depend on how many tensors there are."""

from __future__ import annotations

from collections import Counter

import msgspec
import pytest

from checkpoints import begin, draft, make_repository, make_state, read, save
from holdfast.domain.keep_rules import parse
from holdfast.repository.commit import commit
from holdfast.repository.pruning import apply, plan
from holdfast.repository.retaining import Retention
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


def test_a_thin_copy_that_is_rejected_is_made_again_while_the_full_one_stands() -> None:
    run = make_repository(MemoryStorage()).run("digits")
    full = save(run, begin(run), 1, 100).id
    assert make_thin(run, full, lambda value: value.name == "weight")
    (damaged,) = (c for c in run.checkpoints() if c.kind == "thin")
    run.reject(damaged, "test")
    assert make_thin(run, full, lambda value: value.name == "weight")
    (thin,) = (c for c in run.checkpoints() if c.kind == "thin" and c != damaged)
    assert read(run, thin) == {"weight": make_state(100)["weight"]}


@pytest.mark.parametrize("turn", range(6))  # names are random, and they decide which of the two sorts first
@pytest.mark.parametrize("live", [True, False])
def test_a_thin_copy_stays_where_its_full_one_could_not_go_at_once(live: bool, turn: int) -> None:
    run = make_repository(MemoryStorage()).run("digits")
    attempt, rule = begin(run), parse("last 1, then thin every 20 steps")
    made = [save(run, attempt, number, number * 10) for number in range(1, 7)]
    assert make_thin(run, made[1].id, lambda value: value.name == "weight")  # and then somebody was reading
    if live:
        Retention(run, attempt, rule, warn=print).after(made[-1])
    else:
        apply(run, plan(run, rule), is_model=lambda value: value.name == "weight")
    (thin,) = (c for c in run.checkpoints() if c.step == 20)
    assert read(run, thin) == {"weight": make_state(20)["weight"]}


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
