"""Snapshots that stay in memory: what the next launch finds when the trainer has died."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from tests.integration.training.launching import (
    Launched,
    Tell,
    at,
    count,
    ended,
    launch,
    run_of,
    send_self,
    steps_in,
    wait_until,
)
from typer.testing import CliRunner

import holdfast
from agents import agent_of, agents_of, stop_agent
from holdfast.cli.app import app
from holdfast.node import legacy, link, memory
from holdfast.node.channel import address
from holdfast.node.messages import Inherit
from holdfast.training import background, slots

Said = pytest.CaptureFixture[str]
pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="memory shared without a name is Linux's"),
    pytest.mark.usefixtures("held_for_a_while"),
]
RULE = "memory every 1 step, disk every 100 steps"
SIZE = 50_000


def killed_at(repository: Path, step: int, *, until: int = 20, save: str = RULE, **options: Any) -> None:
    """A trainer that is killed in the turn after so many steps."""

    def train(tell: Tell) -> None:
        def die(ckpt: holdfast.Checkpointer) -> None:
            agent_of(ckpt)  # it is there
            send_self(signal.SIGKILL)

        count(repository, until=until, each=at(step, die), save=save, size=SIZE, **options)

    code, said = ended(train)
    assert code == -signal.SIGKILL, said


def finish(repository: Path, *, until: int = 20, save: str = RULE, **options: Any) -> None:
    """Go on to the end, and see that it is the end of a run that was never interrupted."""
    state = count(repository, until=until, save=save, size=SIZE, **options)
    assert state["log"] == list(range(until))
    assert (state["weights"] == np.arange(SIZE) * sum(range(until))).all()


def test_a_killed_trainer_loses_the_step_it_was_in_and_no_more(tmp_path: Path, capsys: Said) -> None:
    for step in (7, 8, 13):
        killed_at(tmp_path, step)
    finish(tmp_path)
    assert "resumes after step 13 (epoch 0), restored from memory" in capsys.readouterr().err
    assert steps_in(tmp_path)[-1] == 20
    holdfast.open(tmp_path)["main"].latest.verify()


def test_it_is_found_by_another_path_to_the_same_repository(tmp_path: Path, capsys: Said) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "there")
    killed_at(tmp_path / "there", 7)
    finish(tmp_path / "link")
    assert "resumes after step 7 (epoch 0), restored from memory" in capsys.readouterr().err


def test_what_was_in_memory_only_becomes_a_checkpoint_like_any_other(tmp_path: Path) -> None:
    killed_at(tmp_path, 7)
    assert wait_until(lambda: steps_in(tmp_path) == [7])
    latest = holdfast.open(tmp_path)["main"].latest
    latest.verify()
    assert latest.summary.reason == "memory every 1 step"
    assert latest.load()["log"] == list(range(7))


def test_nothing_touches_the_disk_while_the_trainer_lives(tmp_path: Path) -> None:
    seen: list[list[int]] = []
    count(tmp_path, until=12, save="memory every 1 step, disk every 5 steps", size=SIZE, keep="all")
    assert steps_in(tmp_path) == [5, 10, 12]
    look = at(9, lambda ckpt: seen.append(steps_in(tmp_path, "other")))
    count(tmp_path, until=12, save=RULE, size=SIZE, each=look, run="other")
    assert seen == [[]]


def test_the_newest_counts_whether_it_was_for_disk_or_for_memory(tmp_path: Path, capsys: Said) -> None:
    save = "memory every 2 steps, disk every 5 steps"
    killed_at(tmp_path, 6, save=save)
    killed_at(tmp_path, 10, save=save)
    finish(tmp_path, save=save)
    assert "resumes after step 10 (epoch 0), restored from memory" in capsys.readouterr().err


def test_without_a_rule_for_memory_the_last_save_is_there(tmp_path: Path, capsys: Said) -> None:
    killed_at(tmp_path, 6, save="every 5 steps", background=True)
    finish(tmp_path, save="every 5 steps", background=True)
    assert "resumes after step 5 (epoch 0), restored from memory" in capsys.readouterr().err


def test_a_launch_that_saves_in_its_loop_takes_it_over_and_lets_the_memory_go(tmp_path: Path) -> None:
    killed_at(tmp_path, 7)
    with holdfast.Checkpointer(
        tmp_path, {"weights": np.zeros(SIZE), "log": []}, save=None, background=False
    ) as ckpt:
        assert ckpt.progress.step == 7
        assert wait_until(lambda: not agents_of(tmp_path))


def test_a_snapshot_that_is_being_written_over_is_not_saved_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "WITH_SNAPSHOTS", 1)  # there is memory for no more
    monkeypatch.setenv("HOLDFAST_MEMORY_SECONDS", "0")

    def train(tell: Tell) -> None:
        def die(ckpt: holdfast.Checkpointer) -> None:
            agent_of(ckpt)
            staged = background.stage

            def dies(*arguments: Any, **options: Any) -> None:
                staged(*arguments, **options)  # the record is that of the snapshot before, still
                send_self(signal.SIGKILL)

            monkeypatch.setattr(background, "stage", dies)

        save = "memory every 1 step, disk every 4 steps"
        count(tmp_path, until=20, each=at(3, die), save=save, size=SIZE)

    code, said = ended(train)
    assert code == -signal.SIGKILL, said
    assert wait_until(lambda: not agents_of(tmp_path))
    for checkpoint in holdfast.open(tmp_path)["main"]:
        expected = np.arange(SIZE) * sum(range(checkpoint.step))
        assert (checkpoint.load()["weights"] == expected).all(), "it is of two moments"
    finish(tmp_path)


def test_an_agent_that_follows_another_knows_which_snapshot_is_the_newest(tmp_path: Path) -> None:
    def train(tell: Tell) -> None:
        agents: list[int] = []

        def each(ckpt: holdfast.Checkpointer, t: int) -> None:
            if t == 3:
                agents.append(stop_agent(ckpt))
            if t == 5:  # step 4 is on its way to the disk, step 5 in memory
                os.kill(agents[0], signal.SIGKILL)
                saver = ckpt._entered._saver
                assert wait_until(lambda: saver.poll() or agent_of(ckpt) != agents[0])
                send_self(signal.SIGKILL)

        save = "memory every 1 step, disk every 4 steps"
        count(tmp_path, until=20, each=each, save=save, size=SIZE)

    code, said = ended(train)
    assert code == -signal.SIGKILL, said
    assert wait_until(lambda: 5 in steps_in(tmp_path)), steps_in(tmp_path)


def test_an_agent_that_stands_still_holds_no_training_up_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Said
) -> None:
    monkeypatch.setattr("holdfast.node.channel.SEND_SECONDS", 1)
    save = "memory every 1 step, disk every 1000 steps"
    stopped: list[int] = []
    count(tmp_path, until=500, each=at(5, lambda ckpt: stopped.append(stop_agent(ckpt))), save=save)
    assert "another one goes on with its work" in capsys.readouterr().err
    assert steps_in(tmp_path) == [500]
    assert wait_until(lambda: not psutil.pid_exists(stopped[0]))


def test_an_exception_leaves_it_to_the_next_launch_of_the_same_process(tmp_path: Path, capsys: Said) -> None:
    with pytest.raises(ZeroDivisionError):
        count(tmp_path, until=20, each=at(7, lambda _: 1 // 0), save=RULE, size=SIZE)
    finish(tmp_path)
    assert "resumes after step 7 (epoch 0), restored from memory" in capsys.readouterr().err


def test_an_exception_leaves_it_to_another_agent_where_the_one_that_had_it_is_dead(tmp_path: Path) -> None:
    def fail(ckpt: holdfast.Checkpointer) -> None:
        os.kill(agent := agent_of(ckpt), signal.SIGKILL)
        assert wait_until(lambda: agent not in agents_of(tmp_path))
        raise MemoryError

    with pytest.raises(MemoryError):
        count(tmp_path, until=20, each=at(7, fail), save=RULE, size=SIZE)
    assert wait_until(lambda: steps_in(tmp_path) == [7])


def test_an_exception_leaves_it_to_an_agent_that_is_stopped_and_goes_on_later(tmp_path: Path) -> None:
    agents: list[int] = []

    def fail(ckpt: holdfast.Checkpointer) -> None:
        agents.append(agent_of(ckpt))
        os.kill(agents[0], signal.SIGSTOP)
        raise MemoryError

    with pytest.raises(MemoryError):
        count(tmp_path, until=20, each=at(7, fail), save=RULE, size=SIZE)
    assert steps_in(tmp_path) == []
    os.kill(agents[0], signal.SIGCONT)
    assert wait_until(lambda: steps_in(tmp_path) == [7])
    assert agents_of(tmp_path) == agents


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_leaving_by_a_signal_saves_and_leaves_no_memory(number: int, tmp_path: Path) -> None:
    code, _ = ended(
        lambda tell: (
            count(tmp_path, until=20, each=at(7, lambda _: send_self(number)), save=RULE, size=SIZE) and None
        )
    )
    assert code == (143 if number == signal.SIGTERM else 130)
    assert wait_until(lambda: not agents_of(tmp_path))
    assert steps_in(tmp_path) == [8]


def test_without_a_safe_point_in_time_the_last_snapshot_is_made_durable(tmp_path: Path) -> None:
    def train(tell: Tell) -> None:
        def hang(ckpt: holdfast.Checkpointer) -> None:
            agent_of(ckpt)
            send_self(signal.SIGTERM)
            time.sleep(30)

        count(tmp_path, until=20, each=at(7, hang), save=RULE, size=SIZE, grace_seconds=0.3)

    code, said = ended(train)
    assert code == 143, said
    assert wait_until(lambda: not agents_of(tmp_path))
    assert steps_in(tmp_path) == [7]


def test_the_end_leaves_no_memory(tmp_path: Path) -> None:
    count(tmp_path, save=RULE, size=SIZE)
    assert wait_until(lambda: not agents_of(tmp_path))


def test_memory_is_held_for_so_long_and_the_disk_has_it_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Said
) -> None:
    monkeypatch.setenv("HOLDFAST_MEMORY_SECONDS", "0")
    killed_at(tmp_path, 7)
    assert wait_until(lambda: not agents_of(tmp_path))
    finish(tmp_path)
    assert "resumes after step 7 (epoch 0), restored in" in capsys.readouterr().err


def test_an_agent_that_dies_with_it_costs_no_more_than_the_steps_since_the_last_checkpoint(
    tmp_path: Path, capsys: Said
) -> None:
    def train(tell: Tell) -> None:
        def each(ckpt: holdfast.Checkpointer, t: int) -> None:
            if t == 8:
                ckpt._entered._saver.wait()
                os.kill(agent_of(ckpt), signal.SIGSTOP)
            if t == 9:
                os.kill(agent_of(ckpt), signal.SIGKILL)
                send_self(signal.SIGKILL)

        count(tmp_path, until=20, each=each, save="memory every 1 step, disk every 5 steps", size=SIZE)

    assert launch(train).wait() == -signal.SIGKILL
    finish(tmp_path)
    assert "resumes after step 5 (epoch 0), restored in" in capsys.readouterr().err


def test_an_agent_that_dies_is_followed_by_one_that_is_told_of_it(tmp_path: Path, capsys: Said) -> None:
    def train(tell: Tell) -> None:
        def each(ckpt: holdfast.Checkpointer, t: int) -> None:
            if t == 6:
                os.kill(agent_of(ckpt), signal.SIGKILL)
                time.sleep(0.3)  # its threads may outlive its process for a moment
            if t == 8:
                agent_of(ckpt)  # the next one is there
                send_self(signal.SIGKILL)

        count(tmp_path, until=20, each=each, save=RULE, size=SIZE)

    code, said = ended(train)
    assert code == -signal.SIGKILL
    assert "another one goes on with its work" in said
    finish(tmp_path)
    assert "resumes after step 8 (epoch 0), restored from memory" in capsys.readouterr().err


def test_memory_that_went_bad_is_noticed_and_the_disk_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Said
) -> None:
    killed_at(tmp_path, 7)
    tensors = legacy.Legacy.tensors

    def spoiled(self: legacy.Legacy, checkpoint: str) -> Any:
        found = tensors(self, checkpoint)
        assert found
        found["weights"][1234] ^= 1
        return found

    monkeypatch.setattr(legacy.Legacy, "tensors", spoiled)
    finish(tmp_path)
    assert "resumes after step 7 (epoch 0), restored in" in capsys.readouterr().err


def test_a_table_that_went_bad_is_noticed_and_the_disk_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Said
) -> None:
    killed_at(tmp_path, 7)
    tensors = legacy.Legacy.tensors

    def spoiled(self: legacy.Legacy, checkpoint: str) -> Any:
        assert self.kept is not None
        self.slots[self.kept.slot].memory[self.kept.start :] = 0xC1  # no MessagePack begins so
        return tensors(self, checkpoint)

    monkeypatch.setattr(legacy.Legacy, "tensors", spoiled)
    finish(tmp_path)
    assert "resumes after step 7 (epoch 0), restored in" in capsys.readouterr().err


def test_a_checkpoint_asked_for_by_its_step_is_that_one(tmp_path: Path) -> None:
    killed_at(tmp_path, 7, save="memory every 1 step, disk every 5 steps")
    with holdfast.Checkpointer(tmp_path, {"weights": np.zeros(SIZE), "log": []}, save=None, resume=5) as ckpt:
        assert ckpt.progress.step == 5


def test_a_run_started_afresh_takes_nothing_from_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOLDFAST_REPOSITORY", str(tmp_path))
    killed_at(tmp_path, 7)
    assert wait_until(lambda: steps_in(tmp_path) == [7])
    assert CliRunner().invoke(app, ["restart", "main", "--yes"]).exit_code == 0
    state = count(tmp_path, until=3, save=RULE, size=SIZE)
    assert state["log"] == [0, 1, 2]


def test_a_trainer_that_only_sleeps_leaves_its_memory_to_nobody(tmp_path: Path) -> None:
    def train(tell: Tell) -> None:
        def stop(ckpt: holdfast.Checkpointer) -> None:
            agent_of(ckpt)
            tell("stopped")
            send_self(signal.SIGSTOP)

        count(tmp_path, until=20, each=at(7, stop), save=RULE, size=SIZE)

    process = launch(train)
    assert process.heard() == "stopped"
    run = run_of(tmp_path)
    left = legacy.inherit(address(run.repository.id, run.storage.location, "main"), holdfast.__version__, 10)
    assert left is not None
    assert steps_in(tmp_path) == [7]  # what it had staged is durable
    assert left.slots == []
    assert left.kept is None
    left.decline()
    process.signal(signal.SIGKILL)
    process.wait()
    finish(tmp_path)


@pytest.mark.parametrize("lives", [True, False])
def test_an_heir_that_only_sleeps_shares_its_memory_with_nobody(lives: bool, tmp_path: Path) -> None:
    killed_at(tmp_path, 7)
    run = run_of(tmp_path)
    place = address(run.repository.id, run.storage.location, "main")

    def inherit(tell: Tell) -> None:
        first = legacy.inherit(place, holdfast.__version__, 10)
        tell("something" if first is not None and first.kept is not None else "nothing")
        send_self(signal.SIGSTOP)

    heir = launch(inherit)
    assert heir.heard() == "something"
    if not lives:
        heir.signal(signal.SIGKILL)
        heir.wait()
    left = legacy.inherit(place, holdfast.__version__, 10)
    assert left is not None
    assert bool(left.slots) is not lives
    assert (left.kept is None) is lives
    left.decline()
    if lives:
        heir.signal(signal.SIGKILL)
        heir.wait()
    finish(tmp_path)


def test_an_agent_of_another_version_hands_over_what_is_durable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Said
) -> None:
    killed_at(tmp_path, 7)
    monkeypatch.setattr(legacy, "Inherit", lambda version: Inherit("0.0.1"))
    finish(tmp_path)
    assert "resumes after step 7 (epoch 0), restored in" in capsys.readouterr().err


def test_a_loss_that_is_not_finite_is_not_held(tmp_path: Path) -> None:
    def train(tell: Tell) -> None:
        with holdfast.Checkpointer(tmp_path, {"w": np.zeros(10)}, save=RULE) as ckpt:
            for t in ckpt.steps(20):
                ckpt.step(loss=float("nan") if t >= 5 else 1.0)
                if t == 7:
                    agent_of(ckpt)
                    send_self(signal.SIGKILL)

    launch(train).wait()
    with holdfast.Checkpointer(tmp_path, {"w": np.zeros(10)}, save=None) as ckpt:
        assert ckpt.progress.step == 5


def test_where_the_disk_fails_as_well_the_next_launch_says_what_is_lost(tmp_path: Path, capsys: Said) -> None:
    packs = tmp_path / "packs"

    def train(tell: Tell) -> None:
        def each(ckpt: holdfast.Checkpointer, t: int) -> None:
            if t == 6:
                ckpt._entered._saver.wait()
                packs.rename(tmp_path / "away")
                packs.write_bytes(b"no folder")
            if t == 7:
                send_self(signal.SIGKILL)

        count(tmp_path, until=20, each=each, save="memory every 1 step, disk every 5 steps", size=SIZE)

    assert launch(train).wait() == -signal.SIGKILL
    time.sleep(0.5)
    state: dict[str, Any] = {"weights": np.zeros(SIZE), "log": []}
    with pytest.raises(holdfast.HoldfastError):
        holdfast.Checkpointer(tmp_path, state, save=RULE).__enter__()
    assert "the newest snapshot of the launch before, in memory only, is lost" in capsys.readouterr().err
    packs.unlink()
    (tmp_path / "away").rename(packs)
    finish(tmp_path)
    assert "resumes after step 5" in capsys.readouterr().err


def test_a_snapshot_without_room_beside_the_last_one_is_left_out_and_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Said
) -> None:
    room = iter([1 << 60])
    monkeypatch.setattr(slots, "available_bytes", lambda: next(room, 0))
    count(tmp_path, save="memory every 1 step, disk every 3 steps", size=SIZE, keep="all")
    assert steps_in(tmp_path) == [3, 6]
    assert capsys.readouterr().err.count("there is no memory to hold a snapshot while the next is taken") == 1


def test_where_no_other_process_can_save_it_is_said(capsys: Said) -> None:
    with holdfast.Checkpointer("memory://here", {"x": 1}, save=RULE) as ckpt:
        for _ in ckpt.steps(3):
            pass
    assert "no snapshots are kept in memory: no other process can save to memory:" in (
        capsys.readouterr().err
    )


def test_it_is_refused_where_nothing_may_run_in_the_background(tmp_path: Path) -> None:
    with pytest.raises(holdfast.UsageError, match="nothing may run in the background"):
        holdfast.Checkpointer(tmp_path, {}, save=RULE, background=False)


@pytest.mark.parametrize("seconds", ["soon", "-1", "nan"])
def test_a_time_that_is_none_is_refused(
    seconds: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOLDFAST_MEMORY_SECONDS", seconds)
    with pytest.raises(holdfast.UsageError, match="is not a number of seconds"):
        holdfast.Checkpointer(tmp_path, {})


def test_agents_survive_their_trainers_one_after_the_other(tmp_path: Path) -> None:
    """One agent serves launch after launch; its memory does not grow."""
    killed_at(tmp_path, 3)
    agents = agents_of(tmp_path)
    for step in range(4, 12):
        killed_at(tmp_path, step)
    assert agents_of(tmp_path) == agents
    held = 0
    for entry in Path(f"/proc/{agents[0]}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed as we looked
            held += "holdfast-snapshot" in str(entry.readlink())
    assert held <= slots.WITH_SNAPSHOTS
    finish(tmp_path)


def test_a_launch_that_dies_before_its_first_step_leaves_it_for_the_one_after(
    tmp_path: Path, capsys: Said
) -> None:
    killed_at(tmp_path, 7)

    def enter_and_die(tell: Tell) -> None:
        with holdfast.Checkpointer(tmp_path, {"weights": np.zeros(SIZE), "log": []}, save=RULE) as ckpt:
            assert ckpt.progress.step == 7
            agent_of(ckpt)
            send_self(signal.SIGKILL)

    for _ in range(3):
        assert Launched(enter_and_die).wait() == -signal.SIGKILL
    finish(tmp_path)
    assert "resumes after step 7 (epoch 0), restored from memory" in capsys.readouterr().err


def test_an_agent_that_does_not_answer_its_heir_is_followed_by_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed_at(tmp_path, 7)
    monkeypatch.setattr(link, "LEFT_SECONDS", 0.0)
    finish(tmp_path)


def test_status_shows_what_is_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOLDFAST_REPOSITORY", str(tmp_path))
    killed_at(tmp_path, 7)
    assert wait_until(lambda: steps_in(tmp_path) == [7])
    told = json.loads(CliRunner().invoke(app, ["status", "--json"]).stdout)["runs"]
    assert [(one["run"], one["state"], one["memory"]["step"]) for one in told] == [("main", "killed", 7)]
    assert told[0]["memory"]["durable"]
    assert told[0]["memory"]["size_bytes"] > 2 * SIZE * 8
    assert ", step 7" in CliRunner().invoke(app, ["status"]).stdout
    finish(tmp_path)
    assert wait_until(lambda: not agents_of(tmp_path))
    assert json.loads(CliRunner().invoke(app, ["status", "--json"]).stdout)["runs"] == []
    assert (
        json.loads(CliRunner().invoke(app, ["status", "main", "--json"]).stdout)["runs"][0]["memory"] is None
    )


def test_doctor_says_how_much_memory_it_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = []

    def look(ckpt: holdfast.Checkpointer, t: int) -> None:
        told = CliRunner().invoke(app, ["status", "--json", "--repository", str(tmp_path)]).stdout
        held.append(json.loads(told)["runs"][0]["memory"]["size_bytes"])

    count(tmp_path, size=SIZE, each=look, save=RULE, until=4)
    assert max(held) in [slots * 4 << 20 for slots in (2, 3, 4)], "as 'status' says"
    said = CliRunner().invoke(app, ["doctor", str(tmp_path)]).stdout
    assert (
        "The run main takes up to 8.0 MiB for saves in the background, 16.0 MiB with snapshots"
        in " ".join(said.split())
    )
    monkeypatch.setattr(memory, "available_bytes", lambda: 1000)
    said = CliRunner().invoke(app, ["doctor", str(tmp_path)]).stdout
    assert "one at a time, or hold up training" in " ".join(said.split())


@pytest.mark.parametrize("seed", range(3))
def test_kills_at_random_moments_cost_a_step_each(seed: int, tmp_path: Path) -> None:
    chance = random.Random(seed)

    def train(tell: Tell) -> None:
        def each(ckpt: holdfast.Checkpointer, t: int) -> None:
            agent_of(ckpt)
            tell(f"{ckpt.restored.step if ckpt.restored else 0} {t}")

        count(tmp_path, until=400, each=each, save=RULE, size=SIZE)  # more than it comes to

    reached = 0
    for _ in range(6):
        process = launch(train)
        for number in range(chance.randrange(1, 9)):
            resumed, turn = map(int, process.heard().split())
            assert number or resumed >= reached, "more than the step that it was in is lost"
            reached = turn
        time.sleep(chance.random() * 0.01)
        process.signal(signal.SIGKILL)
        process.wait()
    finish(tmp_path, until=400)


@pytest.mark.timeout(240)
def test_a_thousand_snapshots_leak_nothing(tmp_path: Path) -> None:
    seen: list[tuple[int, int, int]] = []

    def each(ckpt: holdfast.Checkpointer, t: int) -> None:
        if t in (200, 999):
            ckpt._entered._saver.wait()  # a save has files open
            trainer, agent = psutil.Process(), psutil.Process(agent_of(ckpt))
            seen.append(
                (trainer.num_fds() + agent.num_fds(), trainer.memory_info().rss, agent.memory_info().rss)
            )

    count(tmp_path, until=1000, each=each, save=RULE, keep="last 2")
    first, last = seen
    assert last[0] <= first[0] + 4, seen
    assert last[1] - first[1] < 30_000_000
    assert last[2] - first[2] < 30_000_000
