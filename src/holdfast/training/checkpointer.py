"""`Checkpointer`: what a training script talks to."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Any, Self

from holdfast.domain import finding_rules, keep_rules, save_rules
from holdfast.domain.changes import flatten_config
from holdfast.domain.events import Listener, Reported, Warned
from holdfast.domain.keep_rules import KeepRule
from holdfast.domain.names import validate_run
from holdfast.domain.progress import Progress
from holdfast.domain.save_rules import SaveRule
from holdfast.errors import UsageError
from holdfast.node.eventlog import event_log
from holdfast.node.pulse import Pulse, Unwatched, open_pulse
from holdfast.repository import signatures
from holdfast.repository.repository import Repository
from holdfast.storage.urls import chosen_place, open_storage
from holdfast.training import console, open_sessions
from holdfast.training.announcing import launched
from holdfast.training.arguments import (
    check_elsewhere,
    check_grace,
    check_probe,
    check_save,
    check_staging_memory,
    check_state,
    chosen_background,
    chosen_memory_seconds,
)
from holdfast.training.loops import Turns
from holdfast.training.mirroring import fetch
from holdfast.training.options import Options
from holdfast.training.overrides import read as read_overrides
from holdfast.training.publishing import check_publish
from holdfast.training.ranks.launch import Place, place, rank_told
from holdfast.training.restoring import check_resume
from holdfast.training.saves import Save
from holdfast.training.session import Session
from holdfast.training.views import Checkpoint


class Checkpointer:
    """Keeps a training run alive: restores on entering, saves at safe points, saves on leaving.

    Parameters
    ----------
    repository : str or path, optional
        Folder or URL; by default ``$HOLDFAST_REPOSITORY``, else ``./checkpoints``.
    state : dict, optional
        Everything the next step depends on, by name: models, optimizers, schedulers, scalers,
        generators, tensors, plain values. Restored in place; plain values are replaced in it.
    run : str, optional
        Name of the run; by default ``$HOLDFAST_RUN``, else ``main``.
    config : dict, Namespace or dataclass, optional
        Hyperparameters to record and compare at the next launch.
    resume : {"auto", "must", "never"} or int or str
        From the newest recovery point if there is one; there must be one; there must be none;
        from a step, ``"best"`` or a tag.
    changed : {"refuse", "keep", "apply"}
        If the script gives other values (``lr``, ``config`` ...) than the checkpoint recorded.
    save : SaveRule or str, optional
        When to save, besides signals, requests and the end: ``"auto"`` (by what a save costs and how
        often training fails; at most 1 % of the time, at least every 30 min), ``every(steps=100)``,
        ``"every 10 minutes"`` ... With
        ``"memory every 1 step, disk every 100 steps"`` snapshots stay in memory, too.
    keep : KeepRule or str
        What to keep: ``"last 3"``, ``keep(last=3, best=2, monitor="val_loss")`` ...
    on_fault : {"pause", "raise"}
        When storage fails: warn, train on and save again once it works; or stop.
    on_finding : str
        What to do when training is not well: ``"warn"``, ``"ignore"``, ``"save"``, ``"stop"`` or
        ``"back"`` (to an earlier recovery point, below ``holdfast run``) for everything, or by
        kind: ``"spike: save, plateau: ignore"``. ``"auto"`` warns, but below ``holdfast run``
        goes back from a resume that does not join what was before.
    probe : callable, optional
        Gives a number that tells a state, such as the loss of one fixed batch. Asked at each save
        and right after a restore, where it has to give the same again.
    signals : bool
        Save and leave on SIGTERM and Ctrl-C; save and go on on SIGUSR1.
    rng : bool
        Keep the global random generators.
    grace_seconds : float
        How long after SIGTERM to wait for the next safe point.
    background : bool, optional
        Let training go on once the state is copied, and a process beside it make it durable; by
        default ``$HOLDFAST_BACKGROUND`` (1 or 0), else wherever that can be: on Linux, with a
        repository on a local disk. Takes memory for up to two copies of the state, or four with
        snapshots in memory.
    on_busy : {"wait", "skip", "replace"}
        In the background, what a save does that finds two others on their way: wait for the
        first, be left out, or take the place of the newer one if that was not begun. Saves that
        somebody asked for always wait.
    compact : {"never", "idle"}
        Whether the process beside it makes what was saved smaller whenever it has nothing else to
        do, as ``holdfast compact`` does, on one core, at the lowest priority.
    mirror : str, path or list of them, optional
        Another repository, such as ``"s3://bucket/prefix"``, to which each checkpoint is brought
        behind training; where this one has none of the run yet, it starts from there.
    mirror_keep : str or list, optional
        What to keep at the mirror, as for ``keep``; by default everything that came there. A list
        has a rule, or None, for each mirror.
    publish : str or list of str, optional
        Plain files to keep current behind training: ``"best -> out/best.safetensors"``, also
        ``latest`` or a tag.
    staging_memory : int, optional
        Bytes of a GPU's memory that a save in the background may take for copies of what training
        changes at once; by default half of what is free. Beyond it the copy holds up training.
    listeners : iterable of callables
        Called with each event of the run, such as those of `holdfast.integrations`.

    Raises
    ------
    HoldfastError
        From entering: what cannot be resumed, kept or opened is refused before training.
    """

    def __init__(
        self,
        repository: str | os.PathLike[str] | None = None,
        state: dict[str, Any] | None = None,
        *,
        run: str | None = None,
        config: object = None,
        resume: int | str = "auto",
        changed: str = "refuse",
        save: SaveRule | str | None = "auto",
        keep: KeepRule | str = "last 3",
        on_fault: str = "pause",
        on_finding: str = "auto",
        probe: Callable[[], Any] | None = None,
        signals: bool = True,
        rng: bool = True,
        grace_seconds: float = 20,
        background: bool | None = None,
        on_busy: str = "wait",
        compact: str = "never",
        mirror: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None = None,
        mirror_keep: str | Sequence[str | None] | None = None,
        publish: str | list[str] | None = None,
        staging_memory: int | None = None,
        listeners: Iterable[Listener] = (),
    ) -> None:
        overrides = read_overrides(os.environ)
        check_resume(resume)
        _check_choice("changed", changed, ("refuse", "keep", "apply"))
        _check_choice("on_fault", on_fault, ("pause", "raise"))
        _check_choice("on_busy", on_busy, ("wait", "skip", "replace"))
        _check_choice("compact", compact, ("never", "idle"))
        check_grace(grace_seconds)
        if state is not None:
            check_state(state)
        self._location = chosen_place(overrides.place(repository))
        self._state = {} if state is None else state
        asked = check_save(save, keep_rules.parse(keep))
        on_disk, in_memory = save_rules.tiers(save_rules.parse(overrides.save or asked))
        self._options = Options(
            run=validate_run(run if run not in (None, "") else os.environ.get("HOLDFAST_RUN") or "main"),
            resume=overrides.resumed(resume),
            changed=changed,
            save=on_disk,
            memory=in_memory,
            keep=keep_rules.parse(overrides.keep or keep),
            on_fault=on_fault,
            signals=signals,
            rng=rng,
            grace_seconds=grace_seconds,
            config=flatten_config(config),
            background=chosen_background(background, in_memory=in_memory is not None),
            on_busy=on_busy,
            compact=compact,
            mirrors=check_elsewhere(overrides.mirrors(mirror, mirror_keep), self._location),
            publish=check_publish(publish, keep_rules.parse(keep)) if overrides.repository is None else (),
            findings=finding_rules.parse(overrides.on_finding or on_finding),
            probe=check_probe(probe),
            staging_memory=check_staging_memory(staging_memory),
            memory_seconds=chosen_memory_seconds(),
            sent_to=overrides.resume,
            skip=overrides.skip,
        )
        log = event_log(os.environ, "trainer", console.say)
        self._own_listeners: list[Listener] = [console.show, log]
        self._listeners = [*listeners]
        self._place = Place()
        self._session: Session | None = None
        self._left = False

    def __enter__(self) -> Self:
        if self._session is not None and not self._left:
            raise UsageError("This Checkpointer is entered already.", do="Make another one.")
        rank = rank_told(os.environ)
        pulse = open_pulse(os.environ, rank) if not open_sessions.any_open() else Unwatched()
        try:
            self._place = place(os.environ)
            signatures.check_given()
            session = self._opened(pulse)
            session.enter()
        except BaseException as error:
            pulse.ends(None, error)
            raise
        self._session, self._left = session, False
        try:
            self._emit(launched(session.run, self._options.config, self.progress.step))
        except BaseException as error:
            self.__exit__(type(error), error, error.__traceback__)
            raise
        return self

    def _opened(self, pulse: Pulse | Unwatched) -> Session:
        arguments = (self._state, self._options, self._emit, pulse)
        if self._place.world_size == 1:
            return Session(self._repository(), *arguments)
        from holdfast.training.ranks.opening import open_ranks

        names = str(self._location), self._options.run
        return open_ranks(self._place, names, self._repository, self._warn, arguments)

    def _repository(self) -> Repository:
        options = self._options
        if options.mirrors and self._place.rank == 0 and options.resume != "never":
            fetch(self._location, options.run, options.mirrors, options.keep)
        if options.resume in ("auto", "never"):
            return Repository.create(open_storage(self._location, create=True))
        return Repository.open(open_storage(self._location))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        session, self._left = self._entered, True
        session.exit(kind, error, trace)

    @property
    def _entered(self) -> Session:
        if self._session is None or self._left:
            raise UsageError(_NOT_ENTERED, do=_HOW_TO_ENTER)
        return self._session

    @property
    def _seen(self) -> Session:
        """What can be looked at afterwards, too."""
        if self._session is None:
            raise UsageError(_NOT_ENTERED, do=_HOW_TO_ENTER)
        return self._session

    def _emit(self, event: Any) -> None:
        is_told = self._place.rank == 0 or isinstance(event, Warned)  # of all else rank 0 tells
        for listener in [*(self._own_listeners if is_told else ()), *self._listeners]:
            listener(event)

    def _warn(self, text: str) -> None:
        self._emit(Warned(self._options.run, text))

    # -- loops -------------------------------------------------------------------------

    def epochs(self, count: int | None = None, *, steps: int | None = None) -> Turns:
        """Iterate over the epochs still to do: up to ``count`` epochs, or ``steps`` steps, in all."""
        return self._entered.loops.epochs(count, steps)

    def batches(self, loader: Iterable[Any]) -> Turns:
        """Iterate over the batches of one pass that are still to do; sized if the loader is."""
        return self._entered.loops.batches(loader)

    def steps(self, total: int) -> Turns:
        """Iterate over steps, for training without a loader; a turn counts one step."""
        return self._entered.loops.steps(total)

    def step(self, **metrics: Any) -> int:
        """Count one optimizer step and note its metrics; returns the steps so far.

        Numbers or 0-d tensors; a tensor is read only if a save follows. A step whose ``loss``
        is not finite is not saved.
        """
        return self._entered.step(metrics)

    def report(self, **metrics: Any) -> None:
        """Attach metrics, such as a validation loss, to the state as it is now."""
        self._entered.report(metrics)
        self._emit(Reported(self._options.run, self.progress.step, metrics))

    def stop(self, reason: str = "stopped") -> None:
        """End the loops at the end of the present turn; a later launch yields no turns."""
        self._entered.loops.stop(reason)

    def save(self, *, tag: str | None = None) -> Save:
        """Ask for a checkpoint: now if outside the loops, else at the end of the present turn."""
        return self._entered.ask_save(tag)

    # -- where the run is --------------------------------------------------------------

    @property
    def progress(self) -> Progress:
        """Steps, epochs, batches of this epoch, and samples so far."""
        return self._seen.loops.progress

    @property
    def restored(self) -> Checkpoint | None:
        """The checkpoint that this launch resumed from; None for a fresh start."""
        return self._seen.restored_checkpoint()


_NOT_ENTERED = "This Checkpointer is not entered."
_HOW_TO_ENTER = "Use it as: with Checkpointer(...) as ckpt:"


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise UsageError(f"{name}={value!r} is unknown.", do=f"Use one of: {', '.join(map(repr, choices))}.")
