"""Packs that the newest recovery points do not need are squeezed harder, where that gives something."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from checkpoints import assert_restores, begin, make_repository, packs, prune, save
from holdfast.domain.names import CheckpointId
from holdfast.repository import assembling, cold, compact
from holdfast.repository.forking import fork
from holdfast.repository.repository import Repository
from holdfast.repository.run import Run
from holdfast.storage.local import LocalStorage

Known = dict[CheckpointId, dict[str, bytes]]
STEPS = range(1, 3 * cold.WARM)


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    return LocalStorage(tmp_path / "repository", create=True)


@pytest.fixture
def run(storage: LocalStorage, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setattr(compact, "SMALL_BYTES", 1)
    monkeypatch.setattr(assembling, "SMALL_BYTES", 1)
    return make_repository(storage).run("digits")


def fresh(storage: LocalStorage) -> Repository:
    return Repository.open(storage)


def repeating(step: int, size: int = 40_000) -> bytes:
    """Short words over and over: noise to who counts bytes, not to who looks for them."""
    chance = random.Random(step)
    words = [chance.randbytes(6) for _ in range(40)]
    return b"".join(chance.choice(words) for _ in range(size // 6))


def saved(run: Run, what: Callable[[int], bytes] = repeating) -> Known:
    attempt = begin(run)
    known: Known = {}
    for step in STEPS:
        state = {"words": what(step), "step": b"%d" % step}
        known[save(run, attempt, step, step, state).id] = state
    return known


def size_of(storage: LocalStorage) -> int:
    return sum(s.size_bytes for k in packs(storage) if (s := storage.stat(k)) is not None)


def squeezed(storage: LocalStorage) -> compact.Compacted:
    return compact.apply(compact.plan(fresh(storage), hard=True))


def test_what_is_cold_is_squeezed_and_restores(storage: LocalStorage, run: Run) -> None:
    known = saved(run)
    compact.apply(compact.plan(fresh(storage)))
    warm = {p for c in list(run.recovery_points())[: cold.WARM] for p in run.hints(c)}
    planned, before = compact.plan(fresh(storage), hard=True), size_of(storage)
    assert planned.victims
    assert not warm & {victim.pack for victim in planned.victims}
    done = compact.apply(planned)
    assert done.bytes_after == size_of(storage) < 0.8 * before
    assert size_of(storage) == pytest.approx(planned.expected_bytes, rel=0.1)
    assert_restores(fresh(storage).run("digits"), known)
    assert all(any(pack in key for key in packs(storage)) for pack in warm)


def test_once_is_enough(storage: LocalStorage, run: Run) -> None:
    known = saved(run)
    compact.apply(compact.plan(fresh(storage)))
    squeezed(storage)
    before = packs(storage)
    assert compact.plan(fresh(storage), hard=True).victims == []
    assert compact.plan(fresh(storage)).victims == []
    assert squeezed(storage).packs_written == 0
    assert packs(storage) == before
    assert_restores(fresh(storage).run("digits"), known)


def test_what_hardly_shrinks_is_left_alone(storage: LocalStorage, run: Run) -> None:
    saved(run, lambda step: random.Random(step).randbytes(40_000))
    assert compact.plan(fresh(storage), hard=True).victims == []


def test_what_a_fork_resumes_from_is_warm(storage: LocalStorage, run: Run) -> None:
    known = saved(run)
    oldest = min(known, key=lambda c: c.step)
    fork(run, oldest, "other")
    planned = compact.plan(fresh(storage), hard=True)
    assert not set(run.hints(oldest)) & {victim.pack for victim in planned.victims}


def test_removing_frees_what_was_squeezed(storage: LocalStorage, run: Run) -> None:
    known = saved(run)
    squeezed(storage)
    late = fresh(storage).run("digits")
    attempt = max(a.id for a in late.attempts())
    prune(late, 2, attempt, sweep=True)
    left = {c: known[c] for c in late.checkpoints()}
    assert len(left) == 2
    assert_restores(fresh(storage).run("digits"), left)
    assert len(packs(storage)) <= 2


def test_a_damaged_pack_is_left_to_repair(storage: LocalStorage, run: Run, tmp_path: Path) -> None:
    known = saved(run)
    oldest = min(known, key=lambda c: c.step)
    (pack,) = run.hints(oldest)
    path = tmp_path / "repository" / "packs" / pack[:2] / f"{pack}.pack"
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.chmod(0o600)
    path.write_bytes(data)
    done = squeezed(storage)
    assert done.unread <= 1
    assert path.exists()
    assert_restores(fresh(storage).run("digits"), {c: s for c, s in known.items() if c != oldest})
