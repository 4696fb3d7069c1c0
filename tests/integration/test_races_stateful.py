"""Random histories of savers, zombies, pruners and readers that interrupt one another and die.

Everything runs on a simulated disk, with kernel locks and without (then grace periods and the
clock count). A run is interrupted *inside* one of its storage operations by a whole run of
somebody else, and may crash or fail at any other.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
)

from checkpoints import drifting, make_repository, read, save
from holdfast.domain.names import AttemptId, CheckpointId
from holdfast.errors import BusyError, DamagedError, NotFoundError, StorageError
from holdfast.repository import compact
from holdfast.repository.retention import GRACE_SECONDS, Pruned, packs_of, remove, sweep
from holdfast.repository.run import Run
from simulated_store import Fault, SimulatedCrash, SimulatedDisk, SimulatedStore

KEEP = 1
CONTENTS = [drifting(n, 4096) for n in range(4)]  # few, for deduplication; near, for deltas


@dataclass
class Trainer:
    """A process that trains the run: the highest attempt, or a zombie that does not know."""

    store: SimulatedStore
    run: Run
    attempt: AttemptId
    base: CheckpointId | None
    sequence: int = 0
    own: list[CheckpointId] = field(default_factory=list)
    number: int = 0


class History(RuleBasedStateMachine):
    """Model: what was reported durable, what was removed on purpose, who is the highest."""

    has_locks = True

    def __init__(self) -> None:
        super().__init__()
        self.disk = SimulatedDisk(has_locks=self.has_locks)
        make_repository(SimulatedStore(self.disk))
        self.states: dict[int, dict[str, bytes]] = {}
        self.durable: set[CheckpointId] = set()
        self.removed: set[CheckpointId] = set()
        self.tagged: set[CheckpointId] = set()
        self.trainers: list[Trainer] = []
        self.step = 0

    trainers_bundle: Bundle[Trainer] = Bundle("trainers")

    def fresh(self) -> Run:
        return make_repository(SimulatedStore(self.disk)).run("digits")

    # -- the world ------------------------------------------------------------------------

    @initialize(target=trainers_bundle, zombie=st.booleans())
    def a_run_under_way(self, zombie: bool) -> MultipleResults[Trainer]:
        first = self.launch()
        for contents in ([0], [1, 2], [0, 1]):
            self._save(first, contents)
        return multiple(first, self.launch()) if zombie else multiple(first)

    @rule(target=trainers_bundle)
    @precondition(lambda self: len(self.trainers) < 4)
    def launches(self) -> Trainer:
        return self.launch()

    def launch(self) -> Trainer:
        store = SimulatedStore(self.disk)
        run = make_repository(store).run("digits")
        attempt = run.begin_attempt()
        base = self._verified(run)
        run.record_base(attempt, base)
        if base is not None:
            run.repository.dependable |= packs_of(run, base)
        trainer = Trainer(store, run, attempt, base, number=len(self.trainers))
        self.trainers.append(trainer)
        return trainer

    def _verified(self, run: Run) -> CheckpointId | None:
        """The newest that verifies, rejecting others, as a restore does."""
        for checkpoint in list(run.recovery_points()):
            try:
                assert read(run, checkpoint) == self.states[checkpoint.step]
            except BusyError:  # inside a prune; the real one waits for it
                return checkpoint
            except DamagedError as error:
                self._check_unreported(checkpoint)
                run.reject(checkpoint, error.what)
                continue
            return checkpoint
        return None

    def _check_unreported(self, checkpoint: CheckpointId) -> None:
        """Published after a pause longer than the grace, and its saver died before it looked again."""
        assert checkpoint not in self.durable
        assert not self.has_locks

    @rule(seconds=st.sampled_from([1.0, GRACE_SECONDS / 2, GRACE_SECONDS + 1]))
    def time_passes(self, seconds: float) -> None:
        self.disk.advance(seconds)

    @rule()
    def power_is_lost(self) -> None:
        self.disk.lose_power()
        for trainer in self.trainers:
            trainer.store.dead = True

    @rule(trainer=consumes(trainers_bundle))
    @precondition(lambda self: len(self.trainers) > 2)
    def is_killed(self, trainer: Trainer) -> None:
        trainer.store.dead = True

    # -- what trainers do -------------------------------------------------------------------

    @rule(
        trainer=trainers_bundle,
        contents=st.lists(st.integers(0, len(CONTENTS) - 1), min_size=1, max_size=3),
        at=st.integers(0, 30),
        more=st.integers(0, 2),
        fault=st.none() | st.sampled_from(Fault),
        other=st.none()
        | st.tuples(st.integers(0, 30), st.sampled_from(["prune", "sweep", "save"]), st.booleans()),
    )
    def saves(
        self,
        trainer: Trainer,
        contents: list[int],
        at: int,
        more: int,
        fault: Fault | None,
        other: tuple[int, str, bool] | None,
    ) -> None:
        for _ in range(more):
            self._save(trainer, [0])
        if other is not None:
            moment, what, long = other
            self._interrupt(trainer, moment, lambda: self._somebody(trainer, what, long))
        self._plan(trainer, at, fault)
        self._save(trainer, contents)
        self._calm(trainer)

    @rule(
        trainer=trainers_bundle,
        at=st.integers(0, 60),
        fault=st.none() | st.sampled_from(Fault),
        other=st.none()
        | st.tuples(st.integers(0, 60), st.sampled_from(["save", "sweep", "launch"]), st.booleans()),
    )
    def prunes(
        self, trainer: Trainer, at: int, fault: Fault | None, other: tuple[int, str, bool] | None
    ) -> None:
        if other is not None:
            moment, what, long = other
            self._interrupt(trainer, moment, lambda: self._somebody(trainer, what, long))
        self._plan(trainer, at, fault)
        self._prune(trainer)
        self._calm(trainer)

    @rule()
    def somebody_sweeps(self) -> None:
        self._sweep()

    @rule(
        at=st.integers(0, 80),
        fault=st.none() | st.sampled_from(Fault),
        other=st.none()
        | st.tuples(st.integers(0, 80), st.sampled_from(["save", "sweep", "prune", "compact"])),
    )
    @precondition(lambda self: self.trainers)
    def somebody_compacts(self, at: int, fault: Fault | None, other: tuple[int, str] | None) -> None:
        store = SimulatedStore(self.disk)
        moment, what = other or (-1, "")

        def before(number: int, verb: str, key: str) -> None:
            if number == moment:
                self._beside_a_compaction(what)

        store.before = before
        store.faults = {} if fault is None else {at: fault}
        self._compact(store)

    def _beside_a_compaction(self, what: str) -> None:
        trainer = self.trainers[-1]
        if what == "sweep":
            self._sweep()
        elif what == "compact":
            self._compact(SimulatedStore(self.disk))
        elif not trainer.store.dead and what == "save":
            self._save(trainer, [0, 1, 2])
        elif not trainer.store.dead:
            self._prune(trainer)

    def _compact(self, store: SimulatedStore) -> None:
        with suppress(SimulatedCrash, StorageError, BusyError, NotFoundError):
            repository = make_repository(store)
            compact.apply(compact.plan(repository), wait_seconds=0)

    @rule(which=st.integers(0, 11))
    @precondition(lambda self: self.durable - self.removed)
    def somebody_tags(self, which: int) -> None:
        run = self.fresh()
        there = [c for c in run.checkpoints() if c in self.durable]
        if there:
            chosen = there[which % len(there)]
            run.set_tag("kept", chosen)
            self.tagged = {chosen}

    @rule(moment=st.integers(0, 20))
    @precondition(lambda self: self.durable - self.removed)
    def somebody_reads_while_the_highest_prunes(self, moment: int) -> None:
        run = self.fresh()
        latest = run.latest()
        if latest is None:
            return
        store = run.storage
        assert isinstance(store, SimulatedStore)
        start = len(store.log)

        def before(number: int, verb: str, key: str) -> None:
            if number == start + moment and self.trainers:
                self._save(self.trainers[-1], [0, 1, 2])
                self._prune(self.trainers[-1])

        store.before = before
        if latest in self.durable:
            try:
                assert read(run, latest) == self.states[latest.step]
            except NotFoundError:  # removed between the choice and the lock: choose again
                assert self.has_locks
                latest = run.latest()
                assert latest is not None
                assert read(run, latest) == self.states[latest.step]

    # -- how ----------------------------------------------------------------------------------

    def _plan(self, trainer: Trainer, at: int, fault: Fault | None) -> None:
        trainer.store.faults = {} if fault is None else {len(trainer.store.log) + at: fault}

    def _interrupt(self, trainer: Trainer, moment: int, act: Callable[[], None]) -> None:
        start = len(trainer.store.log)

        def before(number: int, verb: str, key: str) -> None:
            if number == start + moment:
                act()

        trainer.store.before = before

    def _calm(self, trainer: Trainer) -> None:
        trainer.store.before = None
        trainer.store.faults = {}

    def _somebody(self, interrupted: Trainer, what: str, long: bool) -> None:
        others = [t for t in self.trainers if t is not interrupted and not t.store.dead]
        if what == "sweep":
            self._sweep()
        elif what == "launch":
            with suppress(BusyError):  # inside a prune; the real one waits for it
                self.launch()
        elif what == "save" and others:
            self._save(others[-1], [0, 1])
        elif what == "prune" and others:
            self._prune(others[-1])
        if long:  # it sleeps for longer than any save may take
            self.disk.advance(GRACE_SECONDS + 1)
            self._sweep()
            self.disk.advance(GRACE_SECONDS + 1)
            self._sweep()

    def _save(self, trainer: Trainer, contents: list[int]) -> None:
        self.step += 1
        trainer.sequence += 1
        step = self.step
        state = {f"t{n}": CONTENTS[c] for n, c in enumerate(contents)} | {"step": b"%d" % step}
        self.states[step] = state
        try:
            parent = trainer.own[-1] if trainer.own else trainer.base
            made = save(trainer.run, trainer.attempt, trainer.sequence, step, state, parent).id
        except (SimulatedCrash, StorageError, BusyError):
            return
        self.durable.add(made)
        trainer.own.append(made)
        if not self._is_highest(trainer):  # who is may have condemned it before it was reported
            self._learn_removed(is_highest=True)

    def _prune(self, trainer: Trainer) -> None:
        """As retention does: keep some of the line, the base, the tagged, and nothing doubtful counts."""
        run = trainer.run
        is_highest = self._is_highest(trainer)
        try:
            rejected = run.repository.doubtful
            line = [c for c in run.lineage() if str(c) not in rejected]
            kept = {*line[:KEEP], *([trainer.base] if trainer.base else [])}
            drop = [c for c in run.checkpoints() if c not in kept]
            candidates = set(run.all_checkpoints())
            self._took(candidates, remove(run, drop, may_delete=self._may_delete(trainer), wait_seconds=0))
        except (SimulatedCrash, StorageError, NotFoundError):
            pass
        finally:
            self._learn_removed(is_highest)

    def _is_highest(self, trainer: Trainer) -> bool:
        return trainer.attempt == max(t.attempt for t in self.trainers)

    def _may_delete(self, trainer: Trainer) -> Callable[[CheckpointId], bool]:
        run = trainer.run
        return lambda c: run.is_highest(trainer.attempt) and c not in run.tags(strict=True).values()

    def _took(self, candidates: set[CheckpointId], result: Pruned) -> None:
        assert set(result.checkpoints) <= candidates
        assert not self.tagged & set(result.checkpoints)

    def _learn_removed(self, is_highest: bool) -> None:
        """What the highest attempt condemned is gone on purpose; a zombie condemns nothing."""
        run = self.fresh()
        present, condemned = set(run.all_checkpoints()), run.condemned()
        gone = {c for c in self.durable - self.removed if c not in present or str(c) in condemned}
        assert is_highest or not gone
        self.removed |= gone

    def _sweep(self) -> None:
        run = self.fresh()
        before = set(run.all_checkpoints())
        sweep(run.repository, wait_seconds=0)
        assert set(run.all_checkpoints()) == before  # it removes packs, never checkpoints

    # -- what must hold -------------------------------------------------------------------------

    @invariant()
    def everything_reported_durable_restores_exactly(self) -> None:
        run = self.fresh()
        present = set(run.all_checkpoints())
        assert self.durable - self.removed <= present
        for checkpoint in present:
            try:
                assert read(run, checkpoint) == self.states[checkpoint.step]
            except DamagedError:
                self._check_unreported(checkpoint)

    @invariant()
    def latest_is_of_the_highest_attempt_or_its_base(self) -> None:
        run = self.fresh()
        latest = run.latest()
        if not self.trainers:
            assert latest is None
            return
        head = max(self.trainers, key=lambda t: t.attempt)
        rejected = run.rejected()
        own = [c for c in run.checkpoints() if c.attempt == head.attempt and str(c) not in rejected]
        if own:
            assert latest == max(own, key=lambda c: c.sequence)
        else:
            assert latest == head.base

    @invariant()
    def a_tagged_checkpoint_stays(self) -> None:
        assert self.tagged <= set(self.fresh().all_checkpoints())

    def teardown(self) -> None:
        """Whatever happened: a new process goes on, and cleans up."""
        trainer = self.launch()
        self._save(trainer, [0, 1, 2])
        for _ in range(4):
            self._prune(trainer)
            self.disk.advance(GRACE_SECONDS + 1)
            self._sweep()
        run = self.fresh()
        packs = set(run.storage.list("packs/"))
        needed = {f"packs/{p[:2]}/{p}.pack" for c in run.all_checkpoints() for p in packs_of(run, c)}
        assert packs == needed
        assert list(run.storage.list("condemned/")) == []


class HistoryWithoutLocks(History):
    has_locks = False


_SETTINGS = settings(
    max_examples=60,
    stateful_step_count=20,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # shrinking takes minutes: do it by hand
)
TestWithLocks = History.TestCase
TestWithLocks.settings = _SETTINGS
TestWithoutLocks = HistoryWithoutLocks.TestCase
TestWithoutLocks.settings = _SETTINGS
