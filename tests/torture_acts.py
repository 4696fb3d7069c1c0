"""What may be done next to the repositories, chosen at random."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torture_work as work
from torture_herd import BUSY, DONE, Herd, Job
from torture_model import Line
from torture_training import train
from torture_world import World

RUNS = {f"{way}/a": way for way in ("loop", "back", "held", "skip", "idle", "mirr", "kept", "hand")}
TRAINERS, OTHERS, MOST_RUNS = 3, 3, 14
PRUNED = ("loop/*", "back/*", "hand/*", "fork/*", "moved/*")


class Acts:
    """Starts trainers and whoever else there is, and knows which runs there are.

    Attributes
    ----------
    runs : dict[str, str]
        Those that are trained, each with the way; what is being renamed or removed as well.
    """

    def __init__(self, world: World, herd: Herd, chance: random.Random, seed: int) -> None:
        self._world = world
        self._herd = herd
        self._chance = chance
        self._leaving: set[str] = set()
        self._unfinished: list[Job] = []
        self.runs = dict(RUNS)
        for number, run in enumerate(RUNS):
            world.put_line(run, Line.of(4 * seed + number))
        self._often = {
            self._compare: 6,
            self._check_promises: 3,
            self._compact: 3,
            self._prune: 3,
            self._sync: 3,
            self._verify: 1,
            self._look: 1,
            self._fork: 2,
            self._tag: 2,
            self._remove_one: 1,
            self._remove_run: 1,
            self._rename: 1,
        }

    def start_some(self) -> None:
        trained = self._herd.trained
        free = [run for run in self.runs if run not in trained | self._leaving]
        if len(trained) < TRAINERS and free:
            self._train(self._chance.choice(free))
        if len(self._herd.children) - len(trained) < OTHERS:
            if self._unfinished and self._chance.random() < 0.5:
                self._herd.start(self._unfinished.pop(0))
            else:
                self._chance.choices(list(self._often), list(self._often.values()))[0]()

    def finish(self) -> None:
        """What was killed half way and must be done."""
        while self._unfinished:
            self._herd.start(self._unfinished.pop(0), spared=True)
            self._herd.wait()

    def _train(self, run: str) -> None:
        job = partial(train, self._world, run, self.runs[run])
        self._herd.start(Job("train", f"train {run}", job, run=run))

    # -- readers -----------------------------------------------------------------------

    def _compare(self) -> None:
        place = self._any_place()
        self._herd.start(Job("compare", f"restore {place}", partial(work.compare, self._world, place)))

    def _check_promises(self) -> None:
        run = self._chance.choice([run for run in self.runs if run not in self._leaving])
        job = partial(work.check_promises, self._world, run)
        self._herd.start(Job("promises", f"promises {run}", job))

    def _verify(self) -> None:
        self._command("verify", "-R", self._any_place())

    def _look(self) -> None:
        verbs = [("ls",), ("ls", "--graph"), ("du",), ("status",)]
        self._command(*self._chance.choice(verbs), "-R", self._any_place())

    # -- those who change something ----------------------------------------------------

    def _compact(self) -> None:
        place = self._any_place()
        self._herd.start(Job("compact", f"compact {place}", partial(work.rewrite, place)))

    def _prune(self) -> None:
        rule = ("--keep", "last 3") if self._chance.random() < 0.6 else ()
        which = (self._chance.choice(PRUNED),) if rule else ()
        self._command("prune", *which, *rule, "--yes", "-R", self._any_place())

    def _sync(self) -> None:
        first, second, third = self._world.places
        again = _is_there(second) and self._chance.random() < 0.5
        self._command("sync", *((second, third) if again else (first, second)))

    def _tag(self) -> None:
        name = f"tag-{self._herd.started}"
        self._herd.start(Job("tag", name, partial(work.tag, self._world, name)))

    def _remove_one(self) -> None:
        self._herd.start(Job("rm", "rm an old one", partial(work.remove_one, self._world)))

    def _fork(self) -> None:
        if len(self.runs) >= MOST_RUNS:
            return
        run, way = (
            f"fork/{self._herd.started:05}",
            self._chance.choice(["loop", "back", "held", "skip", "idle"]),
        )
        job = partial(work.fork, self._world, run, seed=10_000 + self._herd.started)

        def after(code: int | None) -> None:
            if code == DONE:
                self.runs[run] = way

        self._herd.start(Job("fork", f"fork {run}", job, after))

    def _remove_run(self) -> None:
        run = self._resting()
        if run is not None:
            job = partial(work.remove_run, self._world, run)
            self._insist("rm run", f"rm {run}", job, lambda: self._forget(run))

    def _rename(self) -> None:
        run = self._resting()
        if run is None:
            return
        new = f"moved/{self._herd.started:05}"

        def then() -> None:
            self._world.renamed(run, new)
            self.runs[new] = self.runs[run]
            self._forget(run)

        self._insist("mv", f"mv {run} {new}", partial(work.rename, self._world, run, new), then)

    def _resting(self) -> str | None:
        """A run that nobody trains, and that may go; it is trained no more."""
        busy = {*RUNS, *self._herd.trained, *self._leaving}
        free = [run for run in self.runs if run not in busy]
        if len(free) < 3:
            return None
        run = self._chance.choice(free)
        self._leaving.add(run)
        return run

    def _forget(self, run: str) -> None:
        del self.runs[run]
        self._leaving.discard(run)

    def _insist(self, kind: str, words: str, job: Callable[[], None], then: Callable[[], None]) -> None:
        """Do it until it is done: what was killed half way is begun again."""

        def after(code: int | None) -> None:
            if code in (None, BUSY):
                self._unfinished.append(Job(kind, words, job, after))
            else:
                then()

        self._herd.start(Job(kind, words, job, after))

    def _command(self, verb: str, *words: str) -> None:
        self._herd.start(Job(verb, " ".join((verb, *words)), partial(work.command, verb, *words)))

    def _any_place(self) -> str:
        places = self._world.places
        return self._chance.choices(places, [2 * _is_there(places[0]), *map(_is_there, places[1:])])[0]


def _is_there(place: str) -> bool:
    return (Path(place) / "holdfast.json").exists()
