"""One attempt of a run in this process, from entering to leaving: wires the parts together."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn

from holdfast.domain.events import Ended, Event, Started, Warned
from holdfast.domain.names import CheckpointId, validate_tag
from holdfast.errors import HoldfastError, UsageError
from holdfast.frameworks import registry, walk
from holdfast.frameworks.rng import capture_rng, restore_rng
from holdfast.node import lease
from holdfast.repository.history import reliability_before
from holdfast.repository.repository import Repository
from holdfast.repository.retaining import monitored_so_far
from holdfast.training import open_sessions, poison
from holdfast.training.asking import Asked
from holdfast.training.claiming import refuse_half_moved
from holdfast.training.endings import cause_of
from holdfast.training.environment import environment
from holdfast.training.health import Health
from holdfast.training.loops import Loops
from holdfast.training.opening import inherit_snapshots, open_saver, open_way
from holdfast.training.options import Options
from holdfast.training.overrides import still_there
from holdfast.training.probing import Probe, rejoin
from holdfast.training.pulsing import number_at_hand
from holdfast.training.ranks.launch import Place
from holdfast.training.reasons import Reasons
from holdfast.training.reports import Reports, detached
from holdfast.training.restoring import Restored, Restorer, restore_for_launch
from holdfast.training.saves import Save
from holdfast.training.saving import SavePoint, check_representable
from holdfast.training.stepping import StepWatch
from holdfast.training.timing import Timing
from holdfast.training.triggers import Triggers
from holdfast.training.views import Checkpoint
from holdfast.training.ways import Way

if TYPE_CHECKING:
    from holdfast.node.legacy import Legacy
    from holdfast.node.pulse import Pulse, Unwatched


class Session:
    """An entered Checkpointer.

    Parameters
    ----------
    repository : Repository
    state : dict[str, Any]
        The user's live dict.
    options : Options
    emit : callable
        Takes every event.
    pulse : Pulse or Unwatched
        Where a supervisor looks.
    """

    _place = Place()
    _saves_anywhere = True
    """Whether `ask_save` saves at once outside the loops."""

    def __init__(
        self,
        repository: Repository,
        state: dict[str, Any],
        options: Options,
        emit: Callable[[Event], None],
        pulse: Pulse | Unwatched,
    ) -> None:
        self._options = options
        self._pulse = pulse
        self._state = state
        self._emit = emit
        self.run = self._run = repository.run(options.run)
        self.pid = os.getpid()
        self._lease: lease.Lease | lease.Unheld = lease.Unheld()
        self._triggers = Triggers(options.grace_seconds)
        self._asked = Asked(self._run)
        self._outermost = True
        self._reports = Reports(options.keep, self.warn)
        self._prepared = False
        self._timing = Timing(options.save, options.memory)
        self._watch = StepWatch(state, self._before_step, self.warn)
        self._turns = 0
        self.loops = Loops(self, registry.data_seed(), options.skip)
        self._health = Health(options.run, options.findings, emit, self.loops.stop, supervised=pulse.watched)
        self._probe = Probe(options.probe, self.warn)
        self._reasons = Reasons(self._triggers, self._asked, self._health, self._reports, self._timing)
        self.restored: Restored | None = None
        self._legacy: Legacy | None = None

    # -- entering ----------------------------------------------------------------------

    def enter(self) -> None:
        """Take the lease, number the attempt, restore, record the base.

        Raises
        ------
        BusyError
            Another live process trains this run.
        HoldfastError
            Nothing was changed in the repository that counts.
        """
        given = walk.given(self._state) | {f"config.{k}": v for k, v in self._options.config.items()}
        surroundings = environment()
        check_representable(self._state, given)
        self._claim()
        try:
            self._restore(given, surroundings)
            poison.refuse(self._state.values())
            self._begin_pulse()
            if self.restored is not None:
                rejoin(self._health, self._probe, self.restored)
            self._record_base()
            self._make_saver(given, surroundings)
            self._watch.begin()
            self._health.watch(surroundings["devices"], self._state)
            self._timing.begin(self._state, lambda: reliability_before(self._run, self._attempt))
        except BaseException:
            if self._legacy is not None:
                self._legacy.decline()
            with contextlib.suppress(HoldfastError):
                self._lease.release()
            raise
        open_sessions.add(self)
        if self._options.signals and self._outermost and not self._triggers.install():
            self.warn("signals cannot save here: Python handles them in the main thread only.")

    def _begin_pulse(self) -> None:
        step = self.loops.steps_counted if self.restored is not None else None
        self._pulse.begins(self._run.storage.location, self._run.name, step)

    def _claim(self) -> None:
        storage, layout = self._run.storage, self._run.layout
        with lease.claiming(storage, self._run.name):
            lease.refuse_if_held(storage, layout.leases, f"The run {self._run.name}")
            refuse_half_moved(self._run)
            self._outermost = open_sessions.take_over(self._run)
            self._legacy = inherit_snapshots(self._run, self.warn)
            self._attempt = self._run.begin_attempt()
            self._lease = lease.take(storage, layout.lease(self._attempt))

    def _record_base(self) -> None:
        self._run.record_base(self._attempt, self._base)

    @property
    def _base(self) -> CheckpointId | None:
        return self.restored.id if self.restored is not None else None

    def _restore(self, given: dict[str, Any], surroundings: dict[str, dict[str, str]]) -> None:
        options = self._options
        restorer = Restorer(
            self._run,
            self._state,
            given=given,
            changed=options.changed,
            environment=surroundings,
            emit=self._emit,
            in_memory=self._legacy.tensors if self._legacy is not None else None,
            mirrors=options.mirrors,
            place=self._place,
        )
        self.restored = self._chosen(restorer)
        if self.restored is None:
            self._emit(Started(self._run.name, self._run.storage.location, str(self._attempt)))
            return
        self._continue_from(self.restored)

    def _chosen(self, restorer: Restorer) -> Restored | None:
        step = self._options.sent_to
        resume = self._options.resume if step is None else still_there(self._run, step, self.warn)
        return restore_for_launch(restorer, self._run, resume)

    def _continue_from(self, restored: Restored) -> None:
        training = restored.training
        rng = training.get("rng") if self._keeps_rng else None
        self.loops.go_on(training.get("position"), restored.manifest.summary.progress, rng)
        if rng is not None:
            restore_rng(rng)
        self._timing.saved(self._here)
        self.loops.metrics = dict(restored.manifest.summary.metrics)
        self._emit(restored.event(self._run.name, str(self._attempt)))

    @property
    def _here(self) -> tuple[int, int]:
        return self.loops.steps_counted, self.loops.epochs_counted

    def _make_saver(self, given: dict[str, Any], surroundings: dict[str, dict[str, str]]) -> None:
        given = self.restored.given if self.restored is not None else given
        self._saver = open_saver(
            self._run, self._attempt, self._state, self._way(), self._options, self._emit, given, surroundings
        )
        self._legacy = None  # it has a new owner
        self._saver.durable = self._timing.saved_here
        self._reports.monitored = monitored_so_far(self._run, self._options.keep)

    def _way(self) -> Way:
        return open_way(self._run, self._attempt, self._base, self._options, self.warn, self._legacy)

    @property
    def _keeps_rng(self) -> bool:
        return self._options.rng and self._outermost

    def restored_checkpoint(self) -> Checkpoint | None:
        """What this attempt resumed from, to look at."""
        return Checkpoint(self._run, self.restored.id, self.restored.manifest) if self.restored else None

    # -- what loops ask of their host --------------------------------------------------

    def turn(self) -> None:
        self._turns += 1
        self._pulse.turn()
        self._watch.turn()
        self._triggers.guard_workers()

    def _before_step(self) -> None:
        if os.getpid() == self.pid:
            self._saver.before_step()

    def stepped(self, step: int, metrics: dict[str, Any]) -> None:
        loss = number_at_hand(metrics.get("loss"))
        self._pulse.stepped(step, loss)
        self._health.stepped(loss, metrics)
        self._saver.stepped()

    def leaving(self) -> bool:
        return self._triggers.leaving_soon()

    def leave(self) -> NoReturn:
        self._triggers.leave()

    def warn(self, text: str) -> None:
        self._emit(Warned(self._run.name, text))

    def safe_point(self, *, counted: bool) -> None:
        """Save if something asks for it; leave if a signal asked for that."""
        if os.getpid() != self.pid:
            return  # a forked child has no say
        self._lease.renew_if_old(lambda: self._timing.choice(self._saver))
        self._learn_of_saves()
        self._health.act(self.loops.steps_counted)
        if self._outermost:
            self._asked.look(now=self._triggers.save_asked)
        reason = self._reasons.to_save(self._here, self._saver) if counted else None
        to_hold = self._timing.reason_to_hold(self._here, self._saver) if counted and reason is None else None
        if not counted or ((reason or to_hold) is not None and not self._watch.settled()):
            return  # it moves to the next safe point
        if reason is not None or to_hold is not None or not self._prepared:
            with self._pulse.saving():
                self._act(reason, to_hold, leaving=self._triggers.leaving is not None)

    def _act(self, reason: str | None, to_hold: str | None, *, leaving: bool) -> None:
        if leaving:
            self._triggers.begin_last_save()
        if reason is not None:
            self._save(reason, loud=leaving)
        elif to_hold is not None:
            self._hold(to_hold)
        else:  # only now is all of the optimizers' state there
            self._saver.prepare()
        self._prepared = True
        if leaving:
            self._saver.wait()
            self._triggers.leave()

    def _learn_of_saves(self) -> None:
        """A save that was taken and failed afterwards leaves the state as unsaved as before."""
        self._saver.poll()
        if self._saver.lost:
            self._saver.lost = False
            self._timing.left_out(self._saver.durable)
            self.loops.unmoved = False

    def _save(self, reason: str, *, done: bool = False, loud: bool = False, insist: bool = False) -> None:
        poison.refuse(self._state.values())
        loud = loud or bool(self._asked)
        if not (loud or insist) and self._saver.gives_way(self.loops.steps_counted):
            self._timing.left_out(self._here)
            return
        point = self._point(done=done, probe=self._probe.value())
        asked = self._reasons.take()
        try:
            taken = self._saver.save(point, reason, asked, loud=loud, insist=insist)
        finally:
            self._reasons.answered()
        if taken:
            self._timing.saved(self._here)
            self.loops.unmoved = True
            self._reports.unsaved = False

    def _hold(self, reason: str) -> None:
        poison.refuse(self._state.values())
        self._saver.hold(self._point(), reason)
        self._timing.held(self._here)

    def _point(self, *, done: bool = False, probe: float | None = None) -> SavePoint:
        training: dict[str, Any] = {"position": self.loops.state(), "losses": self._health.tail}
        if probe is not None:
            training["probe"] = probe
        if self._keeps_rng:
            training["rng"] = capture_rng()
        metrics = self.loops.metrics | self._reports.metrics
        return SavePoint(self.loops.progress, training, metrics, done=done)

    # -- what the user calls -----------------------------------------------------------

    def step(self, metrics: dict[str, Any]) -> int:
        own_loop = self.loops.between_turns  # there step() is the last line: reports come before it
        self._reports.before_step(own_loop=own_loop)
        count = self.loops.step({name: detached(value) for name, value in metrics.items()})
        self._reports.after_step(own_loop=own_loop)
        return count

    def report(self, metrics: dict[str, Any]) -> None:
        """Attach metrics to the state just evaluated."""
        self._reports.add(metrics, between_turns=self.loops.between_turns)
        self._timing.reported(metrics)
        self._health.reported(metrics)

    def ask_save(self, tag: str | None) -> Save:
        """Save now if outside the loops, else when the present turn ends."""
        save = Save(None if tag is None else validate_tag(tag))
        if os.getpid() != self.pid:
            save.error = UsageError("A forked child, such as a data worker, saves nothing.")
            return save
        self._asked.add(save)
        if self.loops.between_turns and self._saves_anywhere:
            self._watch.begin()
            with self._pulse.saving():
                self._save("save()")
        return save

    # -- leaving -----------------------------------------------------------------------

    def exit(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Save if leaving normally; record how the attempt ended; give everything back."""
        del trace
        if os.getpid() != self.pid:
            return
        ending = error
        try:
            with self._pulse.saving():
                if kind is None:
                    self._save_at_end()
                elif not issubclass(kind, KeyboardInterrupt):
                    self._saver.let_finish(self._options.grace_seconds)
        except BaseException as failure:
            ending = failure
            raise
        finally:
            self._close(ending)
        if kind is None and self._triggers.leaving is not None:
            self._triggers.leave()

    def _save_at_end(self) -> None:
        self._saver.wait()
        self._learn_of_saves()
        if self._wants_last_save():
            self._triggers.begin_last_save()
            self._save("end", done=True, insist=True)

    def _wants_last_save(self) -> bool:
        return not self.loops.unmoved or self._reports.unsaved or bool(self._asked)

    def abandon(self) -> None:
        """Let go of everything, another session takes its place."""
        self._let_go()
        self._saver.close(done=False)

    def _let_go(self) -> None:
        self._triggers.uninstall()
        self._watch.end()
        open_sessions.remove(self)

    def _close(self, error: BaseException | None) -> None:
        leaving = self._triggers.leaving
        cause = cause_of(error, leaving, self._run, self.loops, self.restored, self._turns)
        self._let_go()
        crashed = isinstance(error, Exception) and leaving is None
        self._saver.close(done=not crashed)
        with contextlib.suppress(HoldfastError):  # the storage may be what failed
            self._record_end(cause, done=error is None)
        with contextlib.suppress(HoldfastError):
            self._lease.release()
        self._pulse.ends(cause, error)
        self._emit(Ended(self._run.name, self.loops.steps_counted, cause, done=error is None))

    def _record_end(self, cause: str, *, done: bool) -> None:
        self._run.record_end(self._attempt, cause, self.loops.steps_counted, done=done)
