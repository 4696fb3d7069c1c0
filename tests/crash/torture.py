"""`make torture`: many processes on one repository, killed at random moments, all compared with a model.

``python tests/crash/torture.py --seconds N --seed S [--folder F]``. Trainers save in the loop, in the
background and by hand, while others compact, prune, fork, sync, tag, remove, rename, verify and restore.
``torture_work`` has what each of them does, ``torture_finale`` what must hold at the end.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # for what tests share

import torture_finale as finale
from agents import address_of, agents_at, errands_below
from holdfast.repository.repository import Repository
from holdfast.storage.local import LocalStorage
from torture_acts import Acts
from torture_herd import STUCK_SECONDS, Herd, Job, TortureError
from torture_world import World

CHUNK_BYTES = 64 * 1024
TOLD_SECONDS = 5.0
MEMORY_SECONDS = "2"
"""For how long agents keep what a killed trainer has left."""
AGENT_SECONDS = 3.0
"""The next agent is killed within so long."""


class Torture:
    """From an empty folder to the last look."""

    def __init__(self, folder: Path, seed: int) -> None:
        chance = random.Random(seed)
        self._chance = chance
        self._world = World(folder)
        self._repository = Repository.create(
            LocalStorage(self._world.places[0], create=True), chunk_bytes=CHUNK_BYTES
        )
        self.herd = Herd(folder, chance)
        self._acts = Acts(self._world, self.herd, chance, seed)
        self._next_dies_at = 0.0

    def go_on(self, seconds: float) -> None:
        until, tells_at = time.monotonic() + seconds, 0.0
        while time.monotonic() < until:
            self._acts.start_some()
            self.herd.let_fate_come()
            self._kill_some()
            self.herd.reap()
            if time.monotonic() >= tells_at:
                tells_at = time.monotonic() + TOLD_SECONDS
                print(f"{until - time.monotonic():5.0f} s left; {self}", flush=True)
            time.sleep(0.01)

    def __str__(self) -> str:
        herd = self.herd
        counts = f"kills: {_told(herd.kills)}; done: {_told(herd.done)}; refused: {_told(herd.refused)}"
        return f"{herd.saves} saves; {counts}; {herd.restores} restores compared"

    def let_go(self) -> None:
        """Everybody finishes; all runs are launched once more; then everything is looked at."""
        self.herd.let_go()
        self._acts.finish()
        for run, way in self._acts.runs.items():
            self._do("last launch", run, partial(finale.launch_again, self._world, run, way))
        self._wait_for_agents()
        self._do("settle", "all", partial(finale.settle, self._world))
        self._do("last look", "all", partial(finale.check, self._world, list(self._acts.runs.items())))

    def _do(self, kind: str, what: str, work: finale.Work) -> None:
        print(f"then: {kind}, {what}", flush=True)
        self.herd.start(Job(kind, f"{kind}: {what}", work), spared=True)
        self.herd.wait()

    # -- agents, and what they have done beside them -----------------------------------

    def _agents(self) -> list[int]:
        return agents_at({address_of(self._repository, run) for run in self._world.runs})

    def _errands(self) -> list[int]:
        return errands_below(self._world.folder)

    def _kill_some(self) -> None:
        if time.monotonic() >= self._next_dies_at:
            self._next_dies_at = time.monotonic() + AGENT_SECONDS * self._chance.random()
            self._kill_one("agent", self._agents())
            self._kill_one("errand", self._errands() if self._chance.random() < 0.3 else [])

    def _kill_one(self, kind: str, found: list[int]) -> None:
        if found:
            victim = self._chance.choice(found)
            self.herd.tell(f"kills {kind} {victim}")
            with suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)
                self.herd.kills[kind] += 1

    def _wait_for_agents(self) -> None:
        deadline = time.monotonic() + STUCK_SECONDS
        while left := [*self._agents(), *self._errands()]:
            if time.monotonic() > deadline:
                raise TortureError(f"These agents and errands do not end: {left}")
            time.sleep(0.05)

    def end(self) -> None:
        """Leave no process behind."""
        self.herd.end()
        for pid in (*self._agents(), *self._errands()):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _told(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items())) or "none"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--seconds", type=float, default=60.0, help="how long, before everything is looked at"
    )
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--folder", type=Path, help="where; one that is not there yet")
    given = parser.parse_args()
    os.environ["HOLDFAST_MEMORY_SECONDS"] = MEMORY_SECONDS
    folder = given.folder or Path(tempfile.mkdtemp(prefix="torture-"))
    folder.mkdir(parents=True, exist_ok=given.folder is None)
    torture = Torture(folder, given.seed)
    try:
        torture.go_on(given.seconds)
        torture.let_go()
    except Exception as error:
        print(*torture.herd.events, f"{type(error).__name__}: {error}", sep="\n")
        print(f"FAILED with --seed {given.seed}; everything is left in {folder}. {torture}")
        return 1
    finally:
        torture.end()
    print(f"All as it must be, --seed {given.seed}: {torture}")
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
