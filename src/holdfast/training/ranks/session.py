"""The session of one of several ranks: what is saved is agreed on, and rank 0 alone decides and records."""

from __future__ import annotations

import os
from functools import partial
from typing import Any

from holdfast.domain.names import AttemptId
from holdfast.training import open_sessions
from holdfast.training.opening import open_persister
from holdfast.training.ranks.following import Follower
from holdfast.training.ranks.launch import Place
from holdfast.training.ranks.leading import Leader
from holdfast.training.ranks.ways import Following, Leading
from holdfast.training.ranks.words import Agreed
from holdfast.training.restoring import Restored, Restorer
from holdfast.training.session import Session
from holdfast.training.ways import Way


class RankSession(Session):
    """A session that goes step by step with those of the other ranks.

    Parameters
    ----------
    role : Leader or Follower
    place : Place
    arguments
        Those of `Session`.
    """

    _saves_anywhere = False  # another rank may be somewhere else

    def __init__(self, role: Leader | Follower, place: Place, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._role = role
        self._place = place
        self._epochs_passed = 0
        self._stop_wanted: str | None = None
        self._health.stop = self._want_stop

    # -- entering ----------------------------------------------------------------------

    def enter(self) -> None:
        """As the leader enters so do all; what stops one of them stops all."""
        try:
            super().enter()
        except BaseException as error:
            self._role.close(error)
            raise

    def _claim(self) -> None:
        if not self._role.leads:
            self._outermost = open_sessions.take_over(self._run)  # rank 0 does so as it claims the run
        self._attempt = self._role.attempt(self._claim_for_all)

    def _claim_for_all(self) -> AttemptId:
        super()._claim()
        return self._attempt

    def _chosen(self, restorer: Restorer) -> Restored | None:
        walks_back = self._options.resume in ("auto", "must")
        return self._role.restore(
            lambda: super(RankSession, self)._chosen(restorer),
            restorer.one,
            restorer.reject if walks_back else None,
        )

    def _record_base(self) -> None:
        self._role.begin(super()._record_base)
        self._epochs_passed = self.loops.epochs_counted

    def _way(self) -> Way:
        if isinstance(self._role, Follower):
            return Following(self._role, self._run)
        if self._legacy is not None:
            self._legacy.decline()
        if self._options.memory is not None:
            self.warn("no snapshots are kept in memory: there are several ranks.")
        join = partial(self._role.join, self._run)
        arguments = self._run, self._attempt, self._base, self._options, self.warn, join
        return Leading(open_persister(*arguments), self._role, self._run)

    # -- safe points -------------------------------------------------------------------

    def safe_point(self, *, counted: bool) -> None:
        """Save if all ranks have agreed to, and say what this one wants next."""
        if os.getpid() != self.pid:
            return
        self._lease.renew_if_old(lambda: self._timing.choice(self._saver))
        self._learn_of_saves()
        self._health.act(self.loops.steps_counted)
        if not counted and (self.loops.between_turns or not self._is_epoch_end()):
            return  # nothing could be saved, and in an evaluation other ranks may not be here
        at_once, self._epochs_passed = self._is_epoch_end(), self.loops.epochs_counted
        agreed = self._role.arrive(self._wish_now, lambda: self._is_ready(counted=counted), at_once=at_once)
        if agreed is not None:
            self._triggers.leaving = self._triggers.leaving or agreed.leaving
            with self._pulse.saving():
                self._act(agreed.reason, None, leaving=agreed.leaving is not None)
            if agreed.stop is not None:
                self.loops.stop(agreed.stop)
                self._stop_wanted = None  # once: a loop of the script's own may go on
        self._role.announce(self._wish_next())

    def _is_epoch_end(self) -> bool:
        return self.loops.epochs_counted != self._epochs_passed

    def _is_ready(self, *, counted: bool) -> bool:
        return counted and self._watch.settled()

    def _wish_now(self) -> Agreed | None:
        return self._wish(*self._here)

    def _wish_next(self) -> Agreed | None:
        """What is wanted at the next safe point: what a rule asks for there is announced now."""
        step, epoch = self._here
        return self._wish(step + 1, epoch)

    def _want_stop(self, reason: str) -> None:
        """Alone it would leave the others in the middle of a step: it is agreed on as a save is."""
        self._stop_wanted = reason

    def _wish(self, step: int, epoch: int) -> Agreed | None:
        if self._stop_wanted is not None:
            return Agreed(self._stop_wanted, self._triggers.leaving, self._stop_wanted)
        if isinstance(self._role, Follower):
            reason = self._reasons.urgent()
        else:
            self._asked.look(now=self._triggers.save_asked)
            reason = self._reasons.to_save((step, epoch), self._saver)
        return Agreed(reason, self._triggers.leaving) if reason is not None else None

    def _save(self, reason: str, *, done: bool = False, loud: bool = False, insist: bool = False) -> None:
        try:
            super()._save(reason, done=done, loud=loud, insist=insist)
        except BaseException as error:
            self._role.abandon(error)
            raise
        self._role.abandon(None)

    # -- leaving -----------------------------------------------------------------------

    def _wants_last_save(self) -> bool:
        wish = Agreed("end") if super()._wants_last_save() else None
        return self._role.arrive_at_end(wish) is not None

    def _record_end(self, cause: str, *, done: bool) -> None:
        if self._role.leads:
            super()._record_end(cause, done=done)

    def _close(self, error: BaseException | None) -> None:
        super()._close(error)
        self._role.close(None)
