"""One launch, from its start to the end of its last process."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Sequence

import msgspec

from holdfast.domain.events import LaunchAsked, Listener, unheard
from holdfast.node import groups
from holdfast.node.groups import Group
from holdfast.node.memory import MemoryKills
from holdfast.node.pulse import PLACE_VARIABLE, STACKS_SIGNAL, Page, Phase, Seen
from holdfast.supervisor.causes import Cause, Evidence, classify, first_to_fail, signal_of, told
from holdfast.supervisor.deciding import Launch
from holdfast.supervisor.losses import Losses
from holdfast.supervisor.notices import Notices
from holdfast.supervisor.signals import Signals
from holdfast.supervisor.silence import Bounds, Silence, Suspicion, deadline_seconds, is_debugged

NOTICE_SECONDS = 5.0
STACKS_SECONDS = 2.0
_STACKS_LOOK_SECONDS = 0.05
_WORKING = 0.01
"""Of a processor, what tells a command that computes from one that waits."""
ENDS = {signal.SIGTERM: Cause.PREEMPTED, signal.SIGINT: Cause.INTERRUPTED}


class Watching(msgspec.Struct, frozen=True, kw_only=True):
    """How launches are watched.

    Attributes
    ----------
    look_seconds : float
        Between two looks at the page.
    grace_seconds : float
        From asking a launch to end to killing it, unless it saves.
    bounds : Bounds or None
        Of the deadlines; None: nothing is taken for a hang.
    notices : Notices
    not_finite_steps : int
        So many steps in a row without a finite loss end the launch; 0: none do.
    explosion : float
        A loss this many times what it was ends the launch; 0: none does.
    """

    look_seconds: float = 0.2
    grace_seconds: float = 30.0
    bounds: Bounds | None = Bounds()
    notices: Notices = Notices()
    not_finite_steps: int = 20
    explosion: float = 0.0


class Audience(msgspec.Struct, frozen=True, kw_only=True):
    """Who is told what.

    Attributes
    ----------
    say : callable
        Takes a line for people.
    emit : callable
        Takes every event.
    look : callable
        Takes the page at every look.
    """

    say: Callable[[str], None]
    emit: Listener = unheard
    look: Callable[[Seen], None] = lambda seen: None


class Watch:
    """Watches a group that has just been started.

    Parameters
    ----------
    group : Group
    pages : sequence of Page
        Where the trainer in it writes; of several ranks each, rank 0 first.
    signals : Signals
        Of this process.
    how : Watching
    audience : Audience
        Who is told what.
    number : int
        The launch's, from 1.
    """

    def __init__(
        self,
        group: Group,
        pages: Sequence[Page],
        signals: Signals,
        how: Watching,
        audience: Audience,
        number: int,
    ) -> None:
        self._group = group
        self._page = pages[0]
        self._pages = pages
        self._signals = signals
        self._how = how
        self._audience = audience
        self._number = number
        self._began = time.monotonic()
        self._memory_kills = MemoryKills()
        self._memory_kills.follow(group.pid)
        self._had_lost_terminal = signals.terminal_gone
        self._silence, self._suspicion = Silence(self._began), Suspicion()
        self._losses = Losses(how.explosion)
        self._stopped_for: Cause | None = None
        self._detail = self._stacks = ""
        self._patient_until = self._cpu_seconds = 0.0
        self._notices_at = 0.0

    def until_the_end(self) -> int:
        """Return the exit code, once nothing of the group is left."""
        while (code := self._group.poll()) is None:
            self._turn(self._signals.wait(self._how.look_seconds))
        if left := [pid for pid in self._trainers() if pid != self._group.pid]:
            self._end_orphans(left, code)
        self._kill()
        return code

    def _trainers(self) -> list[int]:
        """Those that live, rank 0 first."""
        return [pid for page in self._pages if self._holds(pid := page.look().pid)]

    def _holds(self, pid: int) -> bool:
        """Whether a living process is of this launch: launchers put each rank into a group of its own."""
        return self._group.holds(pid) or (pid > 0 and pid in self._scattered())

    def _scattered(self) -> list[int]:
        """Processes of ranks, wherever they are; those of one that is alone end with its group."""
        found = groups.given if len(self._pages) > 1 else groups.ranks
        return found(PLACE_VARIABLE, self._page.place)

    def _kill(self) -> None:
        self._group.signal_all(signal.SIGKILL)
        for pid in self._scattered():
            groups.send(pid, signal.SIGKILL)

    def _turn(self, heard: signal.Signals | None) -> None:
        seen, now = self._page.look(), time.monotonic()
        self._audience.look(seen)
        for pid in {self._group.pid, *(page.look().pid for page in self._pages)}:
            self._memory_kills.follow(pid)
        if heard in ENDS:
            self._stop(ENDS[heard], heard.name, heard)
        elif heard is signal.SIGUSR1 and self._holds(seen.pid) and groups.catches(seen.pid, heard):
            groups.send(seen.pid, heard)  # before its loops, and after them, it would kill
        if self._stopped_for is not None:
            self._lose_patience(seen, now)
            return
        self._look_for_notices(now)
        self._judge(seen, now)

    # -- what is found -----------------------------------------------------------------

    def _look_for_notices(self, now: float) -> None:
        if now < self._notices_at:
            return
        self._notices_at = now + NOTICE_SECONDS
        notice = self._how.notices.found(time.time())
        if notice is not None:
            self._stop(Cause.PREEMPTED, notice, signal.SIGTERM)

    def _judge(self, seen: Seen, now: float) -> None:
        silent = self._silent(seen, now)
        if self._how.bounds is not None:
            self._judge_silence(seen, silent, deadline_seconds(seen, self._how.bounds))
        limit = self._how.not_finite_steps
        if limit and seen.not_finite >= limit:
            self._stop(Cause.NOT_FINITE, f"{seen.not_finite} steps without a finite loss", signal.SIGTERM)
        elif (rise := self._losses.rise(seen)) is not None:
            self._stop(Cause.EXPLOSION, f"the loss is {rise:.3g} times what it was", signal.SIGTERM)

    def _judge_silence(self, seen: Seen, silent: float, deadline: float) -> None:
        if self._stopped_for is not None or not self._suspicion.wants_stacks(silent, deadline):
            return
        if (not seen.pid or seen.phase is Phase.ENDING) and self._works(silent):
            self._silence.seconds = 0.0
            return
        stacks = "\n".join(filter(None, map(self._ask_stacks, self._pages)))
        if is_debugged(stacks):
            self._audience.say("a debugger holds the training: it is given time.")
            self._silence.seconds = 0.0
        elif self._suspicion.hangs(silent, deadline, stacks):
            self._stacks = stacks
            what = f"nothing moved for {silent:.0f} s while {seen.phase.name.lower()}"
            self._stop(Cause.HANG, f"{what}; {deadline:.0f} s are allowed", signal.SIGTERM)

    def _works(self, silent: float) -> bool:
        """Whether a command outside of its Checkpointer computes; nothing else is known of it."""
        before, self._cpu_seconds = self._cpu_seconds, self._group.cpu_seconds(self._scattered())
        return self._cpu_seconds - before > _WORKING * silent

    def _ask_stacks(self, page: Page) -> str:
        """Where all threads of a trainer are now; empty if there is no trainer to ask."""
        pid = page.look().pid
        if not self._holds(pid):
            return ""
        before, said = len(page.stacks()), ""
        groups.send(pid, STACKS_SIGNAL)
        until = time.monotonic() + STACKS_SECONDS
        while time.monotonic() < until:
            time.sleep(_STACKS_LOOK_SECONDS)
            now = page.stacks()[before:]
            if now and now == said:
                break  # all is written
            said = now
        return said

    # -- what is done ------------------------------------------------------------------

    def _stop(self, cause: Cause, why: str, number: signal.Signals) -> None:
        """Ask the launch to end; asked again (a second Ctrl-C), it is told again."""
        if self._stopped_for is None or cause in ENDS.values():
            if self._stopped_for is None:
                self._audience.say(f"{cause}: {why}; asking the training to end.")
                step, run = self._page.look().step, self._page.story().run
                self._audience.emit(LaunchAsked(run, self._number, step, cause, why))
                self._patient_until = time.monotonic() + self._how.grace_seconds
            self._stopped_for, self._detail = cause, why
        pid = self._page.look().pid
        if self._holds(pid):
            groups.send(pid, number)  # not to its data workers: they would die before the state is saved
        else:
            self._group.signal_all(number)

    def _lose_patience(self, seen: Seen, now: float) -> None:
        """Kill what has not ended in time; a preempted training that saves, and does not hang, may."""
        is_saving = seen.phase is Phase.SAVING and self._stopped_for is not Cause.HANG
        if is_saving and not self._is_late(seen, now):
            self._patient_until = now + self._how.grace_seconds  # and then it has to leave
        elif now > self._patient_until:
            self._kill()

    def _silent(self, seen: Seen, now: float) -> float:
        return self._silence.look(seen, now, lambda: groups.is_paused(seen.pid or self._group.pid))

    def _is_late(self, seen: Seen, now: float) -> bool:
        silent = self._silent(seen, now)
        return self._how.bounds is not None and silent >= deadline_seconds(seen, self._how.bounds)

    def _end_orphans(self, pids: Sequence[int], code: int) -> None:
        """The command was a wrapper or a launcher, and died before its trainers: let these save."""
        if self._stopped_for is None:
            lost = Cause.NODE_LOST if len(self._pages) > 1 else Cause.CRASH
            asked = next((cause for number, cause in ENDS.items() if number == signal_of(code)), None)
            self._stopped_for = asked or lost
            self._detail = "" if asked else "the command died, and left its trainer"
        self._patient_until = time.monotonic() + self._how.grace_seconds
        groups.send(pids[0], signal.SIGTERM)
        while any(map(self._holds, pids)):
            self._turn(self._signals.wait(self._how.look_seconds))

    # -- what is known afterwards ------------------------------------------------------

    def _evidence(self, rank: int, code: int, *, first: bool) -> Evidence:
        page = self._pages[rank]
        seen, story = page.look(), page.story()
        return Evidence(
            code=code,
            stopped_for=self._stopped_for,
            entered=bool(story.run),
            steps=seen.steps_here,
            first=first,
            ended=story.ended,
            ending=story.ending,
            lost_terminal=self._signals.terminal_gone and not self._had_lost_terminal,
            kills=self._memory_kills.count(),
            ranks=len(self._pages),
            rank=rank,
        )

    def launch(self, code: int, *, first: bool) -> Launch:
        """Tell what this launch was."""
        seen, story = self._page.look(), self._page.story()
        ranks = range(len(self._pages))
        evidence = first_to_fail([self._evidence(rank, code, first=first) for rank in ranks])
        cause = classify(evidence)
        return Launch(
            cause=cause,
            detail=self._detail or told(evidence, cause),
            code=code,
            began_seconds=self._began,
            ended_seconds=time.monotonic(),
            resumed=story.resumed,
            step=seen.step,
            steps=seen.steps_here,
            first_step_seconds=seen.first_step_seconds,
            stacks=self._stacks,
            location=story.location,
            run=story.run,
            rank=evidence.rank,
        )
