"""Kill trainer or agent at each system call of a save in the background; look at what that leaves.

Run as a program by the tests: ``python tests/crash_background.py FOLDER trainer|agent save|hold PART PARTS``.
``hold`` is a snapshot that stays in memory until its trainer is gone.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from agents import agents_of
from checkpoints import draft, make_state
from crash_scenarios import NEXT, RUN, Scenario, Stage, open_run
from holdfast.agent.serve import Agent
from holdfast.domain.keep_rules import KeepRule
from holdfast.domain.names import CheckpointId
from holdfast.node import channel, link, spawning
from holdfast.repository.persisting import Persister
from holdfast.repository.retaining import Retention
from holdfast.storage.local import LocalStorage
from holdfast.training.background import Background
from holdfast.training.opening import introduce
from holdfast.training.options import Options
from tracing import Trace, run_traced

SECONDS = 20.0
OPTIONS = Options(
    run=RUN,
    resume="auto",
    changed="refuse",
    save=None,
    memory=None,
    keep=KeepRule(last=None),
    on_fault="pause",
    signals=False,
    rng=False,
    grace_seconds=0.0,
    config={},
    background=True,
    on_busy="wait",
    compact="never",
    mirrors=(),
    publish=(),
    findings={},
    probe=None,
    staging_memory=None,
    memory_seconds=0.0,
)


class _Started:
    """In place of the process that starts an agent, where there is one already."""

    def wait(self) -> int:
        return 0


def way_to(storage: LocalStorage) -> Background:
    run = open_run(storage)
    attempt, base = run.attempts()[-1].id, run.latest()

    def persister(parent: CheckpointId | None) -> Persister:
        retention = Retention(run, attempt, OPTIONS.keep, print)
        return Persister(run, attempt, parent=parent, retention=retention, warn=print)

    return introduce(run, attempt, base, OPTIONS, persister, lambda text: None)


def train(storage: LocalStorage) -> bool:
    """Submit one save, wait until it is durable, and let go; whether it is."""
    way = way_to(storage)
    attempt = open_run(storage).attempts()[-1].id
    way.submit(draft(attempt, 4, NEXT, make_state(NEXT)), [], urgent=True, versions={})
    deadline = time.monotonic() + SECONDS
    outcomes = []
    while not outcomes and time.monotonic() < deadline:
        outcomes = way.outcomes(0.5)
    way.close(done=True)
    return bool(outcomes) and outcomes[0].checkpoint is not None


def hold(storage: LocalStorage) -> bool:
    """Hold one snapshot in memory, and let go: who kills the agent as well kills the snapshot."""
    way = way_to(storage)
    attempt = open_run(storage).attempts()[-1].id
    way.keep(draft(attempt, 4, NEXT, make_state(NEXT)), versions={})
    way.close(done=False)
    return True


TRAININGS = {"save": train, "hold": hold}


def address_of(storage: LocalStorage) -> bytes:
    run = open_run(storage)
    return channel.address(run.repository.id, storage.location, RUN)


def kill_trainer(stage: Stage, training: str, point: int | None) -> Trace:
    """The agent lives, and finishes what it was given; it may come to be after the trainer's death."""
    storage = stage.reset()
    read, write = os.pipe()
    listener = channel.listen(address_of(storage))
    assert listener is not None
    spawn, listen = link.spawn_agent, link.listen
    with listener:
        spawning.spawn_agent(address_of(storage), read, listener.fileno()).wait()
        link.spawn_agent, link.listen = lambda *_: _Started(), lambda _: listener.dup()
        try:
            trace = run_traced(lambda: 0 if TRAININGS[training](storage) else 1, kill_at=point)
        finally:
            link.spawn_agent, link.listen = spawn, listen
    os.write(write, b".")
    os.close(read), os.close(write)
    _wait_for_ends(stage, trace)
    return trace


def kill_agent(stage: Stage, training: str, point: int | None) -> Trace:
    """The trainer lives, and loses nothing."""
    storage = stage.reset()
    address = address_of(storage)
    program = [sys.executable, __file__, "train", training, str(stage.root)]
    trainer = subprocess.Popen(program, stdout=subprocess.PIPE)
    assert trainer.stdout is not None
    assert trainer.stdout.readline() == b"begins\n"

    def serve() -> int:
        listener = channel.listen(address)
        assert listener is not None
        _, never = os.pipe()
        Agent(listener, trainer.pid, os.dup(never)).serve()
        return 0

    trace = run_traced(serve, kill_at=point)
    assert trainer.wait(SECONDS) == 0, f"the trainer lost its save: {trace}"
    trainer.stdout.close()
    _wait_for_ends(stage, trace)
    return trace


def train_patiently(training: str, root: str) -> None:
    """As a trainer whose first agent is started by another, and whose next ones are real."""
    starts, listens = iter([lambda *_: _Started()]), iter([lambda _: None])
    real_start, real_listen = link.spawn_agent, link.listen

    def spawn_agent(*given: Any) -> Any:
        return next(starts, real_start)(*given)

    def listen(address: bytes) -> Any:
        return next(listens, real_listen)(address)

    link.spawn_agent, link.listen = spawn_agent, listen
    link.START_SECONDS = 2.0  # one that dies before it listens is not waited for any longer
    print("begins", flush=True)
    sys.exit(0 if TRAININGS[training](LocalStorage(Path(root))) else 1)


def _wait_for_ends(stage: Stage, trace: Trace) -> None:
    """Until no agent is left."""
    deadline = time.monotonic() + SECONDS
    while agents_of(stage.root, RUN):
        assert time.monotonic() < deadline, f"the agent does not end: {trace}"
        time.sleep(0.005)


def sweep(stage: Stage, who: str, training: str, part: int, parts: int) -> int:
    kill = kill_trainer if who == "trainer" else kill_agent
    total = kill(stage, training, None).calls
    tried = 0
    for point in range(1 + part, total + 1, parts):
        trace = kill(stage, training, point)
        try:
            if who == "agent" and training == "save":
                assert any(c.step == NEXT for c in open_run(LocalStorage(stage.root)).checkpoints())
            stage.check()
        except Exception as error:
            error.add_note(f"after a kill of the {who} at system call {point} of {total}: {trace}")
            raise
        tried += 1
    return tried


def main() -> None:
    if sys.argv[1] == "train":
        train_patiently(sys.argv[2], sys.argv[3])
    folder, who, training, part, parts = sys.argv[1:]
    with tempfile.TemporaryDirectory(dir=folder) as inner:
        stage = Stage(Scenario(lambda storage: None, commits=True), Path(inner))
        print(json.dumps({"tried": sweep(stage, who, training, int(part), int(parts))}))


if __name__ == "__main__":
    main()
