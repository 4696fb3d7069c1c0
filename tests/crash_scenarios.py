"""What a process may be doing when it dies, and what must hold afterwards."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from checkpoints import (
    BytesTensor,
    assert_restores,
    begin,
    draft,
    make_repository,
    make_state,
    orphans,
    prune,
    read,
    save,
)
from holdfast.domain.names import AttemptId, CheckpointId
from holdfast.errors import DamagedError
from holdfast.node import lease
from holdfast.repository import adopting, compact, layout, records, writing
from holdfast.repository.commit import commit
from holdfast.repository.forking import fork
from holdfast.repository.keyring import entries
from holdfast.repository.keyring.raw import RawKey
from holdfast.repository.repository import Repository, read_config
from holdfast.repository.retention import packs_of
from holdfast.repository.run import Run
from holdfast.repository.sync_plan import Route
from holdfast.repository.syncing import sync_run
from holdfast.repository.thinning import make_thin
from holdfast.storage.local import LocalStorage
from holdfast.storage.probe import Features, probe
from keys import KEY, OTHER_KEY

RUN = "digits"
STEPS = (100, 200, 300)  # of the checkpoints that are there before
NEXT = 400
BRANCH = "branch"
TEMPLATE = "template"

FEATURES: dict[str, tuple[str, ...]] = {
    "all": (),
    "no-direct": ("direct",),
    "named": ("unnamed_files",),
    "no-links": ("unnamed_files", "hard_links"),
    "no-rename": ("unnamed_files", "hard_links", "exclusive_rename"),
    "whole-sync": ("directory_sync",),
    "no-locks": ("exclusive_locks",),
}


@dataclass(frozen=True)
class Scenario:
    """``work`` is what the killed process does.

    Attributes
    ----------
    commits : bool
        Whether it may leave a newer checkpoint, step `NEXT`.
    drops : tuple[int, ...]
        Steps that it may remove.
    damaged : bool
        The newest checkpoint is unreadable, so the one before it counts.
    empty : bool
        It starts without a repository.
    rewrites : bool
        It rewrites packs: checkpoints hold zeros, and a failure may leave chunks in two packs.
    synced : bool
        It works in a copy of the first checkpoint, and brings it what the template has more.
    sealed : bool
        The repository is sealed; `KEY` and `OTHER_KEY` are given.
    also : callable
        What else must hold; looked at before anything goes on.
    """

    work: Callable[[LocalStorage], None]
    commits: bool = False
    drops: tuple[int, ...] = ()
    damaged: bool = False
    empty: bool = False
    rewrites: bool = False
    synced: bool = False
    sealed: bool = False
    also: Callable[[Stage], None] = lambda stage: None


def open_run(storage: LocalStorage) -> Run:
    return Repository.open(storage).run(RUN)


def _resumed(storage: LocalStorage) -> Run:
    """A run whose last checkpoint dedup may rely on."""
    run = open_run(storage)
    latest = run.latest()
    assert latest is not None
    run.repository.dependable |= packs_of(run, latest)
    return run


def _attempt_of(run: Run) -> AttemptId:
    return run.attempts()[-1].id


def _save(storage: LocalStorage) -> None:
    run = open_run(storage)
    save(run, _attempt_of(run), 4, NEXT)


def _save_and_prune(storage: LocalStorage) -> None:
    run = _resumed(storage)
    attempt = _attempt_of(run)
    save(run, attempt, 4, NEXT)
    result = prune(run, 2, attempt)
    assert not result.busy
    assert len(result.checkpoints) == 2 or not storage.exclusive_locks


def _save_in_packs(storage: LocalStorage) -> None:
    run = open_run(storage)
    before = writing.PACK_BYTES
    writing.PACK_BYTES = 8192
    try:
        save(run, _attempt_of(run), 4, NEXT)
    finally:
        writing.PACK_BYTES = before


def _walk_back(storage: LocalStorage) -> None:
    run = open_run(storage)
    for checkpoint in list(run.recovery_points()):
        try:
            read(run, checkpoint)
        except DamagedError as error:
            run.reject(checkpoint, error.what)
            continue
        run.record_base(run.begin_attempt(), checkpoint)
        return
    raise AssertionError("no checkpoint left")


def _attempt(storage: LocalStorage) -> None:
    run = open_run(storage)
    with storage.lock(lease.claim_lock_name(RUN), shared=False, wait_seconds=0):
        lease.refuse_if_held(storage, run.layout.leases, RUN)
        attempt = run.begin_attempt()
        held = lease.take(storage, run.layout.lease(attempt))
    run.record_base(attempt, run.latest())
    run.record_end(attempt, "finished", NEXT, done=True)
    held.release()


def _tag(storage: LocalStorage) -> None:
    run = open_run(storage)
    first, *_, last = run.checkpoints()
    run.set_tag("moved", first)
    run.set_tag("moved", last)
    run.set_tag("gone", first)
    run.remove_tag("gone")


def _repair(storage: LocalStorage) -> None:
    """Rewrite records in place, as a repair does."""
    config = records.read(storage, layout.CONFIG, records.RepositoryConfig)
    storage.put(layout.CONFIG, [records.encode(config)])
    run = open_run(storage)
    for checkpoint in run.checkpoints():
        hint = records.HintRecord(sorted(packs_of(run, checkpoint)))
        storage.put(run.layout.hint(checkpoint), [records.encode(hint)])
    run.repository.index.record_damage("0" * 32, [b"x" * 32], "test")


def _thin(storage: LocalStorage) -> None:
    run = open_run(storage)
    attempt, last = _attempt_of(run), run.checkpoints()[-1]
    make_thin(run, last, lambda value: getattr(value, "name", "") == "weight")
    save(run, attempt, 4, NEXT)
    prune(run, 2, attempt)


def _compact(storage: LocalStorage) -> None:
    """Some packs at a time, some of their chunks encoded."""
    repository = Repository.open(storage)
    before = compact.BATCH_BYTES
    compact.BATCH_BYTES = 24 * 1024
    try:
        compact.apply(compact.plan(repository))
    finally:
        compact.BATCH_BYTES = before


def _create(storage: LocalStorage) -> None:
    run = make_repository(storage).run(RUN)
    attempt = begin(run)
    save(run, attempt, 1, NEXT)


def _fork(storage: LocalStorage) -> None:
    run = open_run(storage)
    fork(run, run.resolve(STEPS[1]), BRANCH)


def _check_fork(stage: Stage) -> None:
    """It is there whole, or can be made."""
    run = open_run(stage.storage)
    branch = run.repository.run(BRANCH)
    found = branch.latest() or fork(run, run.resolve(STEPS[1]), BRANCH).id
    assert branch.checkpoints() == [found]
    assert_restores(branch, {found: make_state(STEPS[1])})


def _source(storage: LocalStorage) -> Repository:
    return Repository.open(LocalStorage(Path(storage.location).parent / TEMPLATE))


def _sync(storage: LocalStorage) -> None:
    """In packs of two chunks."""
    before = adopting.BROUGHT_PACK_BYTES
    adopting.BROUGHT_PACK_BYTES = 8192
    try:
        source = _source(storage)
        target = Repository.create(storage, chunk_bytes=source.chunk_bytes, repository_id=source.id)
        sync_run(Route(source, target), RUN)
    finally:
        adopting.BROUGHT_PACK_BYTES = before


def _check_sync(stage: Stage) -> None:
    """It stands where it stood, or where the source stands; and the next one finishes."""
    run, source = make_repository(stage.storage).run(RUN), _source(stage.storage).run(RUN)
    newest = source.latest()
    assert run.latest() in {newest, *(c for c in stage.known if c.step == STEPS[0])}
    assert_restores(run, {c: stage.known[c] for c in run.all_checkpoints()})
    _sync(stage.storage)
    run = open_run(stage.storage)
    assert run.latest() == newest
    assert set(run.all_checkpoints()) == set(stage.known)
    assert run.attempts() == source.attempts()
    assert run.tags() == source.tags()


def _change_key(storage: LocalStorage) -> None:
    """From one of the two keys that are given to the other, and back."""
    config = read_config(storage)
    for old, new in ((KEY, OTHER_KEY), (OTHER_KEY, KEY)):
        secret, entry = entries.opened(storage, config, [RawKey(old)])
        entries.add(storage, config, secret, RawKey(new))
        entries.remove(storage, config, entry.id)


SCENARIOS = {
    "save": Scenario(_save, commits=True),
    "save-prune": Scenario(_save_and_prune, commits=True, drops=STEPS[:2]),
    "save-threads": Scenario(_save_in_packs, commits=True),
    "walk-back": Scenario(_walk_back, damaged=True),
    "attempt": Scenario(_attempt),
    "tag": Scenario(_tag),
    "repair": Scenario(_repair),
    "thin": Scenario(_thin, commits=True, drops=STEPS[:2]),
    "compact": Scenario(_compact, rewrites=True),
    "fork": Scenario(_fork, also=_check_fork),
    "sync": Scenario(_sync, synced=True, also=_check_sync),
    "create": Scenario(_create, commits=True, empty=True),
    "sealed-create": Scenario(_create, commits=True, empty=True, sealed=True),
    "sealed-save-prune": Scenario(_save_and_prune, commits=True, drops=STEPS[:2], sealed=True),
    "sealed-walk-back": Scenario(_walk_back, damaged=True, sealed=True),
    "sealed-compact": Scenario(_compact, rewrites=True, sealed=True),
    "sealed-sync": Scenario(_sync, synced=True, also=_check_sync, sealed=True),
    "key": Scenario(_change_key, sealed=True),
}


def _give_keys(folder: Path, *, sealed: bool) -> None:
    for name in ("HOLDFAST_KEY", "HOLDFAST_KEY_FILE"):
        os.environ.pop(name, None)
    if sealed:
        other = folder / "other.key"
        other.write_text(OTHER_KEY)
        other.chmod(0o600)
        os.environ |= {"HOLDFAST_KEY": KEY, "HOLDFAST_KEY_FILE": str(other)}


class Stage:
    """A scenario in a folder: the repository as it was, restored for each try."""

    def __init__(self, scenario: Scenario, folder: Path, without: tuple[str, ...] = ()) -> None:
        self.scenario = scenario
        _give_keys(folder, sealed=scenario.sealed)
        self._template, self.root = folder / TEMPLATE, folder / "repository"
        storage = LocalStorage(self._template, create=True)
        found = probe(self._template)
        self.features: Features = msgspec.structs.replace(found, **dict.fromkeys(without, False))
        self._start = folder / "start" if scenario.synced else self._template
        self.known: dict[CheckpointId, dict[str, bytes]] = {}
        if not scenario.empty:
            self._fill(LocalStorage(self._template, features=found), storage)

    def _fill(self, storage: LocalStorage, seen: LocalStorage) -> None:
        run = make_repository(storage).run(RUN)
        attempt = begin(run)
        for sequence, step in enumerate(STEPS, start=1):
            state = make_state(step) | ({"zeros": bytes(9000)} if self.scenario.rewrites else {})
            self.known[save(run, attempt, sequence, step, state).id] = state
            if self.scenario.synced and step == STEPS[0]:
                _sync(LocalStorage(self._start, create=True))
                attempt = begin(run)
                run.set_tag("old", run.resolve(step))
        if self.scenario.damaged:
            newest = max(self.known, key=lambda c: c.step)
            del self.known[newest]
            own = next(p for p in run.hints(newest) if all(p not in run.hints(c) for c in self.known))
            pack = self._template / layout.pack(own)
            data = bytearray(pack.read_bytes())
            data[100] ^= 1
            pack.write_bytes(data)

    def reset(self) -> LocalStorage:
        shutil.rmtree(self.root, ignore_errors=True)
        shutil.copytree(self._start, self.root)
        return self.storage

    @property
    def storage(self) -> LocalStorage:
        """The place with fresh eyes."""
        return LocalStorage(self.root, features=self.features)

    # -- what must hold ----------------------------------------------------------------

    def check(self) -> None:
        """Look with fresh eyes; then go on working, and leave nothing behind."""
        self.scenario.also(self)
        storage = self.storage
        run = make_repository(storage).run(RUN)
        before = self._check_present(run)
        self._go_on(storage, run)
        after = {c: s for c, s in before.items() if c in run.all_checkpoints()}
        assert_restores(open_run(storage), after)

    def _check_present(self, run: Run) -> dict[CheckpointId, dict[str, bytes]]:
        scenario, present = self.scenario, run.all_checkpoints()
        missing = [c for c in self.known if c not in present]
        assert all(c.step in scenario.drops for c in missing), f"{missing} are gone"
        new = [c for c in present if c.step == NEXT]
        assert not new or scenario.commits
        assert not missing or new, "old ones removed before the new one was committed"
        expected = {c: s for c, s in self.known.items() if c in present}
        expected.update({c: make_state(NEXT) for c in new})
        assert_restores(run, expected)
        for thin in (c for c in present if c.kind == "thin"):
            assert read(run, thin) == {"weight": make_state(thin.step)["weight"]}
        for checkpoint in run.tags().values():
            assert checkpoint in present
        self._check_latest(run, expected)
        return expected

    def _check_latest(self, run: Run, expected: dict[CheckpointId, dict[str, bytes]]) -> None:
        rejected = run.rejected()
        points = [c for c in run.recovery_points() if c in expected]
        assert not any(str(c) in rejected for c in expected)
        newest = max(expected, key=lambda c: c.step, default=None)
        assert next(iter(points), None) == newest

    def _go_on(self, storage: LocalStorage, run: Run) -> None:
        lease.refuse_if_held(storage, run.layout.leases, RUN)
        base = next(
            (c for c in run.recovery_points() if c.step in STEPS[:2] or not self.scenario.damaged), None
        )
        attempt = begin(run, base)
        assert run.is_highest(attempt)
        if base is not None:
            run.repository.dependable |= packs_of(run, base)
        new = commit(run, draft(attempt, 1, NEXT + 100, make_state(NEXT + 100))).id
        assert run.latest() == new
        assert read(run, new) == make_state(NEXT + 100)
        with no_grace():
            for _ in range(2):
                result = prune(run, 2, attempt, sweep=True)
                assert not result.busy
        assert run.latest() == new
        if not self.scenario.damaged:
            assert orphans(run.repository) == set()
        if not storage.exclusive_locks:
            _age(self.root)  # without proof that its writer is dead, one stays for a day
        storage.sweep_temporaries(older_than_seconds=-60)
        assert temporaries(self.root) == []


@contextmanager
def no_grace() -> Iterator[None]:
    from holdfast.repository import retention

    before = retention.GRACE_SECONDS
    retention.GRACE_SECONDS = 0.0
    try:
        yield
    finally:
        retention.GRACE_SECONDS = before


def _age(root: Path) -> None:
    for folder, _, names in os.walk(root):
        for name in names:
            if name.startswith(".tmp-"):
                os.utime(Path(folder, name), (0, 0))


def temporaries(root: Path) -> list[str]:
    return [n for _, _, names in os.walk(root) for n in names if n.startswith(".tmp-")]


__all__ = ["FEATURES", "NEXT", "SCENARIOS", "BytesTensor", "Scenario", "Stage"]
