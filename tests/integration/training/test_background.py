"""Saving in the background: the death of trainer, agent or both; storage that fails or is slow."""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import random
import signal
import subprocess
import sys
import time
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from tests import killing
from tests.integration.training.launching import (
    Tell,
    at,
    count,
    ends_in,
    launch,
    run_of,
    send_self,
    steps_in,
    wait_until,
)

import holdfast
from agents import agent_of, agents_of, stop_agent
from holdfast.node.arena import Slot
from holdfast.repository import layout
from holdfast.repository.commit import commit
from holdfast.repository.repository import Repository
from holdfast.storage.local import LocalStorage
from holdfast.training import background, flights, saving, slots

Said = pytest.CaptureFixture[str]
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory shared without a name is Linux's")


@pytest.fixture(autouse=True)
def in_background(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    monkeypatch.setenv("HOLDFAST_BACKGROUND", "1")
    yield
    if (tmp_path / "holdfast.json").exists():
        assert wait_until(lambda: not agents_of(tmp_path)), "an agent is left that nobody needs"


def way(ckpt: holdfast.Checkpointer) -> Any:
    return ckpt._entered._saver._way


def slots_of(ckpt: holdfast.Checkpointer) -> list[weakref.ref[Slot]]:
    found = [weakref.ref(slot) for _, slot in way(ckpt)._slots]
    assert found
    return found


def all_freed(held: list[weakref.ref[Slot]]) -> bool:
    gc.collect()
    return all(slot() is None for slot in held)


def check(repository: Path, until: int = 6, size: int = 100) -> None:
    """Everything verifies, and the newest checkpoint holds what so many steps make."""
    state: dict[str, Any] = {"weights": np.zeros(size), "log": []}
    assert holdfast.load(repository, state).step == until
    assert state["log"] == list(range(until))
    assert state["weights"].tolist() == (np.arange(size) * sum(range(until))).tolist()
    holdfast.open(repository)["main"].latest.verify()


def test_what_is_saved_is_what_saving_in_the_loop_saves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count(tmp_path / "a", save="every 2 steps", keep="all", size=300_000)
    monkeypatch.setenv("HOLDFAST_BACKGROUND", "0")
    count(tmp_path / "b", save="every 2 steps", keep="all", size=300_000)
    assert steps_in(tmp_path / "a") == steps_in(tmp_path / "b") == [2, 4, 6]
    one, other = killing.left_behind(tmp_path / "a"), killing.left_behind(tmp_path / "b")
    assert one == other
    run = run_of(tmp_path / "a")
    parents = [run.summary(c).parent for c in run.checkpoints()]
    assert parents == [None, *map(str, run.checkpoints()[:-1])]


def test_the_loop_does_not_wait_for_the_disk(tmp_path: Path) -> None:
    def while_stopped(ckpt: holdfast.Checkpointer, t: int) -> None:
        if t == 2:
            stop_agent(ckpt)
        if t == 4:
            assert len(way(ckpt)._flights) == 2
            assert ckpt.progress.step == 5
            os.kill(agent_of(ckpt), signal.SIGCONT)

    count(tmp_path, each=while_stopped, save="every 1 step")
    check(tmp_path)


def test_a_killed_trainer_loses_nothing_that_was_staged(tmp_path: Path) -> None:
    def train(tell: Tell) -> None:
        def die_staged(ckpt: holdfast.Checkpointer, t: int) -> None:
            if t == 3:
                stop_agent(ckpt)
            if t == 4:
                assert way(ckpt)._flights
                tell(str(agent_of(ckpt)))
                send_self(signal.SIGKILL)

        count(tmp_path, each=die_staged, save="every 1 step")

    process = launch(train)
    agent = int(process.heard())
    assert process.wait() == -signal.SIGKILL
    assert 4 not in steps_in(tmp_path)
    os.kill(agent, signal.SIGCONT)
    with holdfast.Checkpointer(tmp_path, {"weights": np.zeros(100), "log": []}) as ckpt:
        assert ckpt.progress.step == 4  # waited for
    assert count(tmp_path)["log"] == list(range(6))
    check(tmp_path)


@pytest.mark.parametrize(("verb", "left"), [("mv", [1, 2, 3, 4]), ("rm", [])])
def test_a_run_is_renamed_and_removed_with_what_its_killed_trainer_has_staged(
    verb: str, left: list[int], tmp_path: Path
) -> None:
    def train(tell: Tell) -> None:
        def die_staged(ckpt: holdfast.Checkpointer, t: int) -> None:
            if t == 3:
                stop_agent(ckpt)
            if t == 4:
                tell(str(agent_of(ckpt)))
                send_self(signal.SIGKILL)

        count(tmp_path, each=die_staged, save="every 1 step", keep="all")

    process = launch(train)
    agent = int(process.heard())
    assert process.wait() == -signal.SIGKILL
    words = {"mv": ["mv", "main", "other"], "rm": ["rm", "main", "--yes"]}[verb]
    command = subprocess.Popen([sys.executable, "-m", "holdfast", *words, "-R", str(tmp_path)])
    with contextlib.suppress(subprocess.TimeoutExpired):  # it waits for the agent
        command.wait(3.0)
    os.kill(agent, signal.SIGCONT)
    assert command.wait(30.0) == 0
    assert steps_in(tmp_path, "other") == left
    assert wait_until(lambda: not agents_of(tmp_path))
    assert not run_of(tmp_path).exists()


def test_a_trainer_killed_before_its_agent_is_there_loses_nothing_that_was_staged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = tmp_path / "slow-python"
    slow.write_text(f'#!/bin/sh\nsleep 1\nexec {sys.executable} "$@"\n')
    slow.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(slow))
    repository = tmp_path / "repository"

    def die_staged(ckpt: holdfast.Checkpointer, t: int) -> None:
        if t == 2:
            assert way(ckpt)._agent._link._agent_pid is None
            send_self(signal.SIGKILL)

    process = launch(lambda tell: count(repository, each=die_staged, save="every 1 step") and None)
    assert process.wait() == -signal.SIGKILL
    assert steps_in(repository) == []
    assert wait_until(lambda: steps_in(repository) == [1, 2])
    assert wait_until(lambda: not agents_of(repository))


def test_a_killed_agent_is_followed_by_another_which_loses_nothing(tmp_path: Path, capsys: Said) -> None:
    agents: list[int] = []

    def kill(ckpt: holdfast.Checkpointer, t: int) -> None:
        if t in (2, 4):
            agents.append(stop_agent(ckpt))  # it will have something to lose
        if t in (3, 5):
            assert way(ckpt)._flights
            os.kill(agents[-1], signal.SIGKILL)

    count(tmp_path, each=kill, save="every 1 step", keep="all")
    assert steps_in(tmp_path) == [1, 2, 3, 4, 5, 6]
    assert len(set(agents)) == 2
    assert capsys.readouterr().err.count("another one goes on with its work") == 2
    check(tmp_path)


def test_an_agent_that_dies_having_committed_is_not_asked_to_save_again(tmp_path: Path) -> None:
    def kill(ckpt: holdfast.Checkpointer, t: int) -> None:
        if t == 2:
            agent = agent_of(ckpt)
            assert wait_until(lambda: 2 in steps_in(tmp_path))  # and its answer has not been read yet
            os.kill(agent, signal.SIGKILL)

    count(tmp_path, each=kill, save="every 1 step", keep="all")
    assert steps_in(tmp_path) == [1, 2, 3, 4, 5, 6]


def test_an_agent_that_dies_having_committed_and_not_yet_tagged_costs_no_tag(tmp_path: Path) -> None:
    agents: list[int] = []
    saves: list[holdfast.Save] = []

    def kill(ckpt: holdfast.Checkpointer, t: int) -> None:
        if t == 2:
            agents.append(stop_agent(ckpt))
            saves.append(ckpt.save(tag="paper"))
        if t == 3:
            (flight,) = way(ckpt)._flights.values()
            commit(run_of(tmp_path), flight.draft, details=flight.details)  # as the agent does
            os.kill(agents[0], signal.SIGKILL)

    count(tmp_path, each=kill, save=None, keep="last 1")
    (save,) = saves
    tags = run_of(tmp_path).tags()
    assert save.checkpoint is not None
    assert tags == {"paper": save.checkpoint}
    assert save.checkpoint in run_of(tmp_path).checkpoints()


def test_agents_that_keep_dying_leave_saving_to_the_trainer(
    tmp_path: Path, capsys: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "PATIENCE_DEATHS", 0)
    agents: list[int] = []

    def kill(ckpt: holdfast.Checkpointer, t: int) -> None:
        if t == 2:
            agents.append(stop_agent(ckpt))
        if t == 4:
            assert len(way(ckpt)._flights) == 2
            os.kill(agents[0], signal.SIGKILL)

    count(tmp_path, each=kill, save="every 1 step", keep="all")
    assert steps_in(tmp_path) == [1, 2, 3, 4, 5, 6]
    assert capsys.readouterr().err.count("saves hold up training from now on") == 1


def test_an_agent_that_no_other_can_follow_costs_no_save(
    tmp_path: Path, capsys: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its death is noticed when it is to be told of a new slot."""
    state: dict[str, Any] = {"w": np.zeros(10)}
    with holdfast.Checkpointer(tmp_path, state, save="every 1 step", keep="all") as ckpt:
        for t in ckpt.steps(6):
            if t == 3:
                ckpt._entered._saver.wait()
                held = slots_of(ckpt)
                os.kill(agent := agent_of(ckpt), signal.SIGKILL)
                assert wait_until(lambda: agent not in agents_of(tmp_path))
                monkeypatch.setattr(sys, "executable", "/nonexistent/python")
                state["w"] = np.zeros(1_000_000)
            if t == 5:
                assert all_freed(held)
    assert steps_in(tmp_path) == [1, 2, 3, 4, 5, 6]
    assert capsys.readouterr().err.count("saves hold up training from now on") == 1


def test_an_agent_that_dies_where_no_more_files_can_be_opened_ends_no_training(
    tmp_path: Path, capsys: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left() -> tuple[int, int]:
        raise OSError(errno.EMFILE, "Too many open files")

    def kill(ckpt: holdfast.Checkpointer, t: int) -> None:
        ckpt._entered._saver.wait()
        if t == 3:
            os.kill(agent := agent_of(ckpt), signal.SIGKILL)
            assert wait_until(lambda: agent not in agents_of(tmp_path))
        monkeypatch.setattr("holdfast.node.link.os.pipe", none_left if t == 3 else pipe)

    pipe = os.pipe
    count(tmp_path, each=kill, save="every 1 step", keep="all")
    assert steps_in(tmp_path) == [1, 2, 3, 4, 5, 6]
    assert "no agent can be started ([Errno 24] Too many open files)" in capsys.readouterr().err


@pytest.mark.parametrize("seed", range(4))
def test_trainer_and_agent_killed_at_random_moments(seed: int, tmp_path: Path) -> None:
    chance = random.Random(seed)

    def train(tell: Tell) -> None:
        def each(ckpt: holdfast.Checkpointer, t: int) -> None:
            tell(f"{t} {agent_of(ckpt)}")

        count(tmp_path, until=40, each=each, save="every 1 step", size=20_000)

    for _ in range(4):
        process = launch(train)
        agent = 0
        for _ in range(chance.randrange(2, 8)):
            line = process.heard()
            agent = int(line.split()[1]) if line else agent
        time.sleep(chance.random() * 0.02)
        if chance.random() < 0.5 and agent:
            with contextlib.suppress(ProcessLookupError):
                os.kill(agent, signal.SIGKILL)
        if chance.random() < 0.3:
            time.sleep(chance.random() * 0.02)
        process.signal(signal.SIGKILL)
        process.wait()
    count(tmp_path, until=40, save="every 1 step", size=20_000)
    check(tmp_path, until=40, size=20_000)
    assert not list(holdfast.open(tmp_path)["main"]._run.rejected())  # type: ignore[attr-defined]


# -- storage that does not keep up -------------------------------------------------------------


def crowd(repository: Path, on_busy: str) -> list[int]:
    """Ten steps, each saved, while the agent stands still; then it goes on."""

    def each(ckpt: holdfast.Checkpointer, t: int) -> None:
        if t == 1:
            stop_agent(ckpt)
        if t == 9:
            os.kill(agent_of(ckpt), signal.SIGCONT)

    count(repository, until=10, each=each, save="every 1 step", keep="all", on_busy=on_busy)
    return steps_in(repository)


def test_skipping_is_counted_and_said_rarely(tmp_path: Path, capsys: Said) -> None:
    assert crowd(tmp_path, "skip") == [1, 2, 3, 10]
    said = capsys.readouterr().err
    assert "step 4 was not saved: storage does not keep up" in said
    assert "step 7 was not saved (4 so far)" in said
    assert said.count("does not keep up") <= 4


def test_replacing_keeps_the_newest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "_WAIT_SECONDS", 0.05)  # the stopped agent does not answer
    steps = crowd(tmp_path, "replace")
    assert steps[0] == 1
    assert steps[-1] == 10
    assert len(steps) < 8


def test_replacing_does_not_wait_for_the_save_that_was_begun(tmp_path: Path) -> None:
    with contextlib.ExitStack() as waiting:

        def each(ckpt: holdfast.Checkpointer, t: int) -> None:
            if t == 2:
                ckpt._entered._saver.wait()
                storage = LocalStorage(tmp_path)
                lock = storage.lock(layout.TURN_LOCK, shared=False, wait_seconds=10)
                assert waiting.enter_context(lock)  # no save is made meanwhile
            if t == 3:
                time.sleep(0.3)  # the agent has begun with it
            if t == 8:
                assert list(way(ckpt)._flights) == [3, 8]
                waiting.close()

        count(tmp_path, until=10, each=each, save="every 1 step", keep="all", on_busy="replace")
    assert set(steps_in(tmp_path)) >= {1, 2, 3, 10}


def test_waiting_saves_every_one(tmp_path: Path) -> None:
    def each(ckpt: holdfast.Checkpointer, t: int) -> None:
        if t == 1:
            agent = stop_agent(ckpt)
            os.system(f"(sleep 0.5; kill -CONT {agent}) &")

    count(tmp_path, until=10, each=each, save="every 1 step", keep="all", on_busy="wait")
    assert steps_in(tmp_path) == list(range(1, 11))


def test_a_save_past_its_deadline_is_given_up_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Said
) -> None:
    monkeypatch.setattr(background, "DEADLINE_SECONDS", 0.2)
    monkeypatch.setattr(saving, "FIRST_PAUSE_SECONDS", 0.01)

    def each(ckpt: holdfast.Checkpointer, t: int) -> None:
        if t == 1:
            stop_agent(ckpt)
        if t == 2:
            time.sleep(0.5)

    count(tmp_path, each=each, save="every 1 step", keep="all")
    said = capsys.readouterr().err
    assert "was not durable after 0 s and was given up" in said
    assert "saving of main works again" in said
    check(tmp_path)


def test_a_save_is_not_given_up_because_the_whole_job_was_suspended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Said
) -> None:
    monkeypatch.setattr(background, "DEADLINE_SECONDS", 2.0)
    monkeypatch.setattr(flights, "LONGEST_LOOK_SECONDS", 0.1)
    stopped = []

    def each(ckpt: holdfast.Checkpointer, t: int) -> None:
        if t == 1:
            stopped.append(stop_agent(ckpt))
        if t == 2:
            time.sleep(3)  # to the training loop the same as SIGSTOP to all
            os.kill(stopped[0], signal.SIGCONT)

    count(tmp_path, each=each, save="every 1 step", keep="all")
    assert "given up" not in capsys.readouterr().err
    assert steps_in(tmp_path) == list(range(1, 7))


def test_what_is_asked_for_can_be_waited_for(tmp_path: Path) -> None:
    state: dict[str, Any] = {"w": np.zeros(5)}
    with holdfast.Checkpointer(tmp_path, state, save=None) as ckpt:
        saves = []
        for _ in ckpt.steps(3):
            saves.append(ckpt.save(tag=f"t{ckpt.progress.step}"))
        assert saves[0].wait_durable(10).step == 1
        stop_agent(ckpt)
        late = ckpt.save(tag="late")
        with pytest.raises(TimeoutError, match=r"not durable after 0\.1 s"):
            late.wait_durable(0.1)
        os.kill(agent_of(ckpt), signal.SIGCONT)
        assert late.wait_durable().step == 3
    assert run_of(tmp_path).tags().keys() == {"t0", "t1", "t2", "late"}


def test_a_base_that_is_removed_before_the_first_save_ends_no_training(tmp_path: Path) -> None:
    count(tmp_path, until=3, keep="all")

    def remove(ckpt: holdfast.Checkpointer, t: int) -> None:
        for manifest in tmp_path.glob("runs/main/checkpoints/*-full-*") if t == 3 else ():
            manifest.unlink()

    count(tmp_path, until=6, each=remove, save="every 1 step", keep="all")
    assert steps_in(tmp_path) == [4, 5, 6]
    check(tmp_path)


# -- faults ------------------------------------------------------------------------------------


def test_a_folder_that_vanishes_is_reported_at_the_next_call_and_saving_resumes(
    tmp_path: Path, capsys: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saving, "FIRST_PAUSE_SECONDS", 0.02)
    repository, away = tmp_path / "checkpoints", tmp_path / "away"

    def each(ckpt: holdfast.Checkpointer, t: int) -> None:
        if t == 5:
            ckpt._entered._saver.wait()
            repository.rename(away)
        if t == 15:
            away.rename(repository)
            time.sleep(0.7)
        time.sleep(0.03)

    count(repository, until=20, each=each, save="every 1 step")
    said = capsys.readouterr().err
    assert "could not be saved" in said
    assert "vanished" in said
    assert said.count("works again") == 1
    check(repository, until=20)


def test_a_fault_stops_the_run_where_that_is_wanted(tmp_path: Path) -> None:
    repository, away = tmp_path / "checkpoints", tmp_path / "away"
    with pytest.raises(holdfast.StorageError, match="vanished"):
        count(
            repository,
            until=50,
            save="every 1 step",
            on_fault="raise",
            each=lambda ckpt, t: (time.sleep(0.05), repository.rename(away) if t == 3 else None),
        )


def test_too_little_memory_is_said_once_and_costs_no_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Said
) -> None:
    monkeypatch.setattr(slots, "SPARE_BYTES", 1 << 60)
    count(tmp_path, save="every 1 step", keep="all")
    assert steps_in(tmp_path) == [1, 2, 3, 4, 5, 6]
    assert capsys.readouterr().err.count("needs 4 MB of memory, which is not there") == 1


def test_without_an_agent_training_saves_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Said
) -> None:
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    count(tmp_path, save="every 1 step", keep="all")
    assert steps_in(tmp_path) == [1, 2, 3, 4, 5, 6]
    assert capsys.readouterr().err.count("no agent can be started") == 1


# -- compaction --------------------------------------------------------------------------------


def codecs_in(repository: Path) -> set[str]:
    index = Repository.open(LocalStorage(repository)).index
    index.load_all()
    return {entry.codec for pack in index.packs() for entry in index.entries(pack)}


def compacting(repository: Path) -> list[int]:
    lines = {p.pid: p.info["cmdline"] or [] for p in psutil.process_iter(["cmdline"])}
    return [pid for pid, line in lines.items() if "compact" in line and str(repository) in line]


@pytest.mark.timeout(400)
def test_what_was_saved_is_made_smaller_when_nothing_else_is_to_be_done(tmp_path: Path) -> None:
    size = 300_000

    def wait_for_compaction(ckpt: holdfast.Checkpointer, t: int) -> None:
        if t == 4:
            assert wait_until(lambda: codecs_in(tmp_path) > {"raw"}, 150), "nothing was compacted"

    count(tmp_path, each=wait_for_compaction, save="every 1 step", keep="all", size=size, compact="idle")
    assert wait_until(lambda: not agents_of(tmp_path) and not compacting(tmp_path), 150)
    check(tmp_path, size=size)
    for checkpoint in holdfast.open(tmp_path)["main"]:
        checkpoint.verify()
    assert sum(p.stat().st_size for p in (tmp_path / "packs").rglob("*.pack")) < 6 * 8 * size / 1.5


@pytest.mark.timeout(240)
def test_a_compaction_that_fails_is_said_once_and_harms_nothing(tmp_path: Path, capsys: Said) -> None:
    said = ""

    def wait_for_failure(ckpt: holdfast.Checkpointer, t: int) -> None:
        nonlocal said
        if t == 2:
            ckpt._entered._saver.wait()
            one = next((tmp_path / "runs/main/checkpoints").glob("*.manifest"))
            unreadable = tmp_path / "runs/other/checkpoints" / one.name
            unreadable.parent.mkdir(parents=True)
            unreadable.write_bytes(b"damage")
        said += capsys.readouterr().err
        if t >= 4 and "not compacted any more" not in said:
            time.sleep(2)  # a warning comes with the answer to a save

    count(tmp_path, until=60, each=wait_for_failure, save="every 1 step", keep="all", compact="idle")
    said += capsys.readouterr().err
    assert said.count("not compacted any more") == 1, said
    check(tmp_path, until=60)


# -- ends --------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_leaving_by_a_signal_waits_until_the_save_is_durable(number: int, tmp_path: Path) -> None:
    process = launch(
        lambda tell: count(tmp_path, each=at(3, lambda _: send_self(number)), save=None) and None
    )
    assert process.wait() == (143 if number == signal.SIGTERM else 130)
    assert steps_in(tmp_path) == [4]


def test_an_exception_leaves_what_was_staged_durable(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        count(tmp_path, each=at(3, lambda _: 1 // 0), save="every 1 step")
    assert steps_in(tmp_path)[-1] == 3
    assert ends_in(tmp_path)[-1].step == 4


def test_ctrl_c_amid_a_save_leaves_the_next_ones_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any) -> bool:
        raise KeyboardInterrupt

    state: dict[str, Any] = {"w": np.zeros(5)}
    with holdfast.Checkpointer(tmp_path, state, save=None, signals=False) as ckpt:
        ckpt.step()
        with monkeypatch.context() as patched:
            patched.setattr(background.Background, "_is_linked", interrupted)
            with pytest.raises(KeyboardInterrupt):
                ckpt.save()
        state["w"] += 1
        ckpt.step()
        assert ckpt.save().wait_durable(10).step == 2
    assert holdfast.open(tmp_path)["main"].latest.load()["w"].tolist() == [1.0] * 5


def test_memory_goes_at_the_end_though_somebody_still_has_the_checkpointer(tmp_path: Path) -> None:
    held: list[weakref.ref[Slot]] = []
    with holdfast.Checkpointer(tmp_path, {"w": np.zeros(5)}, save="every 1 step") as ckpt:
        for t in ckpt.steps(4):
            held += slots_of(ckpt) if t == 3 else []
    assert all_freed(held)
    assert ckpt.progress.step == 4


def test_a_state_that_grows_gets_more_memory(tmp_path: Path) -> None:
    state: dict[str, Any] = {"w": np.zeros(10), "more": {}}
    with holdfast.Checkpointer(tmp_path, state, save="every 1 step", keep="all") as ckpt:
        for t in ckpt.steps(6):
            state["more"][t] = np.full(400_000 * (t + 1), t, np.float64)
    assert steps_in(tmp_path) == [1, 2, 3, 4, 5, 6]
    loaded = holdfast.open(tmp_path)["main"].latest.load()
    assert [int(v[-1]) for v in loaded["more"].values()] == list(range(6))
    holdfast.open(tmp_path)["main"].latest.verify()


def test_a_forked_child_keeps_neither_memory_nor_connection(tmp_path: Path) -> None:
    def each(ckpt: holdfast.Checkpointer, t: int) -> None:
        if t == 3:
            ckpt._entered._saver.wait()
            inside = killing.in_child(lambda: sys.exit(len(_shared_descriptors())))
            assert os.waitstatus_to_exitcode(inside) == 0
            assert _shared_descriptors()

    count(tmp_path, each=each, save="every 1 step")


def _shared_descriptors() -> list[str]:
    links = []
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            links.append(str(entry.readlink()))
    return [link for link in links if "holdfast-snapshot" in link]


@pytest.mark.timeout(600)
def test_two_thousand_saves_leak_nothing(tmp_path: Path) -> None:
    seen: list[tuple[int, int, int, int]] = []

    def each(ckpt: holdfast.Checkpointer, t: int) -> None:
        if t in (500, 1999):
            ckpt._entered._saver.wait()
            trainer, agent = psutil.Process(), psutil.Process(agent_of(ckpt))
            seen.append(
                (trainer.num_fds(), agent.num_fds(), trainer.memory_info().rss, agent.memory_info().rss)
            )

    count(tmp_path, until=2000, each=each, save="every 1 step", keep="last 2")
    first, last = seen
    assert all(after <= before + 4 for before, after in zip(first[:2], last[:2], strict=True)), seen
    assert last[2] - first[2] < 30_000_000
    assert last[3] - first[3] < 30_000_000
    assert len(steps_in(tmp_path)) == 2


@pytest.mark.parametrize(
    ("said", "given", "expected"),
    [("", None, True), ("1", None, True), ("0", None, False), ("0", True, True), ("1", False, False)],
)
def test_it_is_the_default_and_what_is_given_counts_more_than_what_is_set(
    said: str, given: bool | None, expected: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOLDFAST_BACKGROUND", said)
    with holdfast.Checkpointer(tmp_path, {"x": 1}, background=given) as ckpt:
        assert isinstance(way(ckpt), background.Background) is expected


def test_a_setting_that_says_neither_yes_nor_no_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOLDFAST_BACKGROUND", "perhaps")
    with pytest.raises(holdfast.UsageError, match="HOLDFAST_BACKGROUND=perhaps says neither yes nor no"):
        holdfast.Checkpointer(tmp_path, {})


def test_where_no_other_process_can_save_the_loop_does_it_without_a_word(capsys: Said) -> None:
    with holdfast.Checkpointer("memory://quiet", {"x": 1}) as ckpt:
        for _ in ckpt.steps(2):
            pass
    assert "WARNING" not in capsys.readouterr().err
