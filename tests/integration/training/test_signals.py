"""Signals: what a trainer saves, how it leaves, and what becomes of handlers and children."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests import killing
from tests.integration.training import loop_styles
from tests.integration.training.launching import (
    SIGNALS,
    Tell,
    at,
    count,
    ended,
    ends_in,
    is_alive,
    launch,
    run_of,
    send_self,
    steps_in,
    wait_until,
)
from torch.utils.data import DataLoader

import holdfast
from holdfast.domain import tree

torch.set_num_threads(1)


@pytest.fixture(scope="module", autouse=True)
def warm(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Import here, once, what every forked child would import anew."""
    loop_styles.plain(tmp_path_factory.mktemp("warm"))


def test_ctrl_c_saves_at_the_next_safe_point_and_interrupts(tmp_path: Path) -> None:
    ctrl_c = at(3, lambda _: send_self(signal.SIGINT))
    code, _ = ended(lambda _: count(tmp_path, each=ctrl_c, save=None) and None)
    assert code == 130
    assert steps_in(tmp_path) == [4]
    assert ends_in(tmp_path)[0].cause == "SIGINT"
    assert not ends_in(tmp_path)[0].done


def test_a_second_ctrl_c_interrupts_at_once_and_saves_nothing(tmp_path: Path) -> None:
    reached: list[int] = []

    def twice(ckpt: holdfast.Checkpointer, t: int) -> None:
        if t == 3:
            send_self(signal.SIGINT)
            send_self(signal.SIGINT)
            reached.append(t)

    def train(tell: Tell) -> None:
        try:
            count(tmp_path, each=twice, save="every 2 steps")
        finally:
            tell(str(len(reached)))

    process = launch(train)
    assert process.heard() == "0"  # the line after it was never reached
    assert process.wait() == 130
    assert steps_in(tmp_path) == [2]


def test_sigterm_saves_and_leaves_with_143(tmp_path: Path) -> None:
    code, _ = ended(
        lambda _: count(tmp_path, each=at(3, lambda _: send_self(signal.SIGTERM)), save=None) and None
    )
    assert code == 143
    assert steps_in(tmp_path) == [4]
    assert run_of(tmp_path).summary(run_of(tmp_path).checkpoints()[0]).reason == "SIGTERM"
    assert count(tmp_path)["log"] == list(range(6))


def test_sigterm_after_the_last_turn_is_obeyed_once_the_end_is_saved(tmp_path: Path) -> None:
    def train(tell: Tell) -> None:
        with holdfast.Checkpointer(tmp_path, {"a": np.ones(3)}, save=None) as ckpt:
            for _ in ckpt.steps(2):
                pass
            send_self(signal.SIGTERM)
        tell("went on")

    process = launch(train)
    assert process.heard() == ""
    assert process.wait() == 143
    assert steps_in(tmp_path) == [2]


def test_without_a_safe_point_in_time_it_leaves_and_the_last_checkpoint_stands(tmp_path: Path) -> None:
    def hang(ckpt: holdfast.Checkpointer) -> None:
        send_self(signal.SIGTERM)
        time.sleep(60)

    started = time.monotonic()
    code, _ = ended(
        lambda _: count(tmp_path, each=at(3, hang), save="every 1 step", grace_seconds=0.2) and None
    )
    assert code == 143
    assert time.monotonic() - started < 10
    assert run_of(tmp_path).latest().step == 3
    assert count(tmp_path)["log"] == list(range(6))


class Slow:
    """Takes its time to be captured."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.armed = False

    def state_dict(self) -> dict[str, float]:
        time.sleep(self.seconds if self.armed else 0)
        return {"seconds": self.seconds}

    def load_state_dict(self, saved: dict[str, float]) -> None:
        self.seconds = saved["seconds"]


def test_a_save_that_began_in_time_is_not_cut_off_by_the_end_of_grace(tmp_path: Path) -> None:
    def train(_: Tell) -> None:
        slow = Slow(0.6)
        with holdfast.Checkpointer(tmp_path, {"slow": slow}, save=None, grace_seconds=0.2) as ckpt:
            for _t in ckpt.steps(3):
                slow.armed = True
                send_self(signal.SIGTERM)

    assert ended(train)[0] == 143
    assert steps_in(tmp_path) == [1]


def test_sigusr1_saves_and_goes_on(tmp_path: Path) -> None:
    code, _ = ended(
        lambda _: count(tmp_path, each=at(2, lambda _: send_self(signal.SIGUSR1)), save=None) and None
    )
    assert code == 0
    assert steps_in(tmp_path) == [3, 6]


# -- data workers, and signals to the whole group ------------------------------------------


class Watched(loop_styles.Noisy):
    """Says which process loads its samples."""

    def __getitem__(self, index: int) -> Any:
        sample, label = super().__getitem__(index)
        return sample, label, os.getpid()


def train_with_workers(
    repository: Path,
    tell: Tell | None,
    accumulate: int = 1,
    save: str | None = None,
    hold_at: int | None = None,
) -> None:
    state = loop_styles.parts()
    known: set[int] = set()
    with holdfast.Checkpointer(repository, state, save=save) as ckpt:
        for _ in ckpt.epochs(3):
            loader = DataLoader(Watched(), batch_size=2, shuffle=True, drop_last=True, num_workers=2)
            for number, (samples, labels, workers) in enumerate(ckpt.batches(loader)):
                loss_of = state["model"](samples).square().mean()
                loss_of.backward()
                state["seen"].append(labels.tolist())
                if number % accumulate == accumulate - 1:
                    state["optimizer"].step()
                    state["optimizer"].zero_grad()
                    ckpt.step(loss=loss_of)
                for pid in set(workers.tolist()) - known:
                    known.add(pid)
                    if tell is not None:
                        tell(f"worker {pid}")
                if tell is not None:
                    tell(f"batch {number}")
                if number == hold_at:
                    wait_until(lambda: ckpt._entered._triggers.leaving is not None, 3.0)
            state["optimizer"].zero_grad()
            state["scheduler"].step()


def heard_workers(process: Any, until: str) -> list[int]:
    workers = []
    while (line := process.heard()) != until:
        assert line, process.said
        if line.startswith("worker"):
            workers.append(int(line.split()[1]))
    return workers


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    repository = tmp_path_factory.mktemp("whole")
    assert killing.run(functools.partial(train_with_workers, tell=None), repository) == 0
    return killing.left_behind(repository)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda n: n.name)
@pytest.mark.parametrize("batch", [0, 3])
def test_a_signal_to_the_whole_group_saves_leaves_and_orphans_nobody(
    batch: int, number: signal.Signals, tmp_path: Path, whole: dict[str, Any]
) -> None:
    process = launch(functools.partial(train_with_workers, tmp_path, hold_at=batch), own_group=True)
    workers = heard_workers(process, f"batch {batch}")
    process.signal_group(number)
    assert process.wait() == (143 if number == signal.SIGTERM else 130), process.said
    assert workers
    assert wait_until(lambda: not any(is_alive(pid) for pid in workers))
    assert len(steps_in(tmp_path)) == 1, process.said
    assert killing.run(functools.partial(train_with_workers, tell=None), tmp_path) == 0
    assert killing.left_behind(tmp_path) == whole


def test_a_signal_to_the_trainer_alone_ends_its_workers_too(tmp_path: Path, whole: dict[str, Any]) -> None:
    process = launch(functools.partial(train_with_workers, tmp_path, hold_at=3), own_group=True)
    workers = heard_workers(process, "batch 3")
    process.signal(signal.SIGTERM)
    assert process.wait() == 143, process.said
    assert wait_until(lambda: not any(is_alive(pid) for pid in workers))
    assert len(steps_in(tmp_path)) == 1
    assert killing.run(functools.partial(train_with_workers, tell=None), tmp_path) == 0
    assert killing.left_behind(tmp_path) == whole


def test_a_killed_trainer_is_followed_at_once_though_its_workers_may_live_on(
    tmp_path: Path, whole: dict[str, Any]
) -> None:
    process = launch(functools.partial(train_with_workers, tmp_path, save="every 1 step", hold_at=1))
    orphans = heard_workers(process, "batch 1")
    process.signal(signal.SIGKILL)
    process.wait()
    try:
        assert killing.run(functools.partial(train_with_workers, tell=None), tmp_path) == 0
        assert killing.left_behind(tmp_path) == whole
    finally:
        for pid in orphans:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def test_workers_that_die_shortly_before_the_trainer_is_told_cost_no_save(tmp_path: Path) -> None:
    process = launch(functools.partial(train_with_workers, tmp_path, hold_at=1), own_group=True)
    for pid in heard_workers(process, "batch 1"):
        os.kill(pid, signal.SIGKILL)
    time.sleep(0.05)
    process.signal(signal.SIGTERM)
    assert process.wait() == 143, process.said
    assert len(steps_in(tmp_path)) == 1, process.said


def test_workers_that_die_of_themselves_are_an_error_as_ever(tmp_path: Path) -> None:
    process = launch(functools.partial(train_with_workers, tmp_path, hold_at=1), own_group=True)
    for pid in heard_workers(process, "batch 1"):
        os.kill(pid, signal.SIGKILL)
    assert process.wait() == 1
    assert "RuntimeError: DataLoader worker" in process.said
    assert ends_in(tmp_path)[0].cause.startswith("RuntimeError: DataLoader worker")


def test_a_group_signal_in_the_middle_of_an_accumulation_still_leaves_with_143(tmp_path: Path) -> None:
    process = launch(functools.partial(train_with_workers, tmp_path, accumulate=3, hold_at=3), own_group=True)
    heard_workers(process, "batch 3")
    process.signal_group(signal.SIGTERM)
    assert process.wait() == 143, process.said


# -- handlers ------------------------------------------------------------------------------


def test_handlers_are_put_back_on_leaving(tmp_path: Path) -> None:
    before = [signal.getsignal(n) for n in (*SIGNALS, signal.SIGCHLD)]
    count(tmp_path, until=2)
    with pytest.raises(ZeroDivisionError):
        count(tmp_path, until=4, each=lambda *_: 1 // 0)
    assert [signal.getsignal(n) for n in (*SIGNALS, signal.SIGCHLD)] == before


def test_the_guard_of_data_workers_is_put_back_on_leaving(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGCHLD)

    def mine(*_: object) -> None:
        pass

    signal.signal(signal.SIGCHLD, mine)
    try:
        seen: list[Any] = []
        count(tmp_path, until=2, each=lambda *_: seen.append(signal.getsignal(signal.SIGCHLD)))
        assert mine not in seen
        assert signal.getsignal(signal.SIGCHLD) is mine
    finally:
        signal.signal(signal.SIGCHLD, before)


def test_the_users_own_handlers_are_called_too(tmp_path: Path) -> None:
    def train(tell: Tell) -> None:
        for number in SIGNALS:
            signal.signal(number, lambda n, _: tell(signal.Signals(n).name))

        def both(ckpt: holdfast.Checkpointer, t: int) -> None:
            if t == 1:
                send_self(signal.SIGUSR1)
            if t == 3:
                send_self(signal.SIGTERM)
                tell("turn goes on")

        count(tmp_path, each=both, save=None)

    process = launch(train)
    assert [process.heard() for _ in range(3)] == ["SIGUSR1", "turn goes on", "SIGTERM"]
    assert process.wait() == 143
    assert steps_in(tmp_path) == [2, 4]


def test_a_handler_built_on_ours_still_works_after_leaving(tmp_path: Path) -> None:
    def train(tell: Tell) -> None:
        signal.signal(signal.SIGTERM, lambda *_: tell("mine"))
        with holdfast.Checkpointer(tmp_path, {"a": 1}):
            ours = signal.getsignal(signal.SIGTERM)
            assert callable(ours)
            signal.signal(signal.SIGTERM, lambda *seen: (tell("theirs"), ours(*seen))[0])
        send_self(signal.SIGTERM)

    process = launch(train)
    assert [process.heard(), process.heard()] == ["theirs", "mine"]
    assert process.wait() == 0


def test_an_ignored_signal_stays_ignored(tmp_path: Path) -> None:
    def train(_: Tell) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # as for a job in the background of a shell
        count(tmp_path, each=at(2, lambda _: send_self(signal.SIGINT)), save=None)

    assert ended(train)[0] == 0
    assert steps_in(tmp_path) == [6]


def test_with_signals_false_nothing_is_taken_over(tmp_path: Path) -> None:
    kill = at(3, lambda _: send_self(signal.SIGTERM))
    code, _ = ended(lambda _: count(tmp_path, each=kill, save="every 2 steps", signals=False) and None)
    assert code == -signal.SIGTERM
    assert steps_in(tmp_path) == [2]


def test_outside_the_main_thread_it_trains_without_signals_and_says_so(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = [signal.getsignal(n) for n in SIGNALS]
    thread = threading.Thread(target=lambda: count(tmp_path, save="every 2 steps"))
    thread.start()
    thread.join()
    assert [signal.getsignal(n) for n in SIGNALS] == before
    assert run_of(tmp_path).latest().step == 6
    assert "main thread" in capfd.readouterr().err


def test_in_a_forked_child_a_signal_means_what_it_always_meant(tmp_path: Path) -> None:
    def fork(tell: Tell) -> None:
        child = os.fork()
        if child == 0:
            try:
                send_self(signal.SIGTERM)
            finally:
                os._exit(0)
        tell(str(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])))

    def train(tell: Tell) -> None:
        count(tmp_path / "default", each=at(2, lambda _: fork(tell)), save=None)
        signal.signal(signal.SIGTERM, lambda *_: os._exit(5))
        count(tmp_path / "own", each=at(2, lambda _: fork(tell)), save=None)

    process = launch(train)
    assert process.heard() == str(-signal.SIGTERM)
    assert process.heard() == "5"
    assert process.wait() == 0
    assert steps_in(tmp_path / "default") == [6]


def test_a_forked_child_never_acts_on_the_checkpointer(tmp_path: Path) -> None:
    def train(tell: Tell) -> None:
        with holdfast.Checkpointer(tmp_path, {"a": 1}, save="every 1 step") as ckpt:
            child = os.fork()
            if child == 0:
                save = ckpt.save(tag="child")
                tell(f"{save.checkpoint} {save.error}")
                for _ in ckpt.steps(3):
                    pass
                ckpt.__exit__(None, None, None)
                os._exit(0)
            os.waitpid(child, 0)
            tell(str(steps_in(tmp_path)))

    process = launch(train)
    assert "forked child" in process.heard()
    assert process.heard() == "[]"
    assert process.wait() == 0
    assert len(ends_in(tmp_path)) == 1


def test_nested_checkpointers_leave_signals_and_generators_to_the_outermost(tmp_path: Path) -> None:
    def train(_: Tell) -> None:
        with holdfast.Checkpointer(tmp_path, {"a": 1}, run="outer", save=None) as outer:
            for t in outer.steps(3):
                with holdfast.Checkpointer(tmp_path, {"b": 1}, run=f"inner{t}", save=None) as inner:
                    for u in inner.steps(4):
                        if (t, u) == (1, 1):
                            send_self(signal.SIGTERM)

    assert ended(train)[0] == 143
    assert steps_in(tmp_path, "outer") == [2]
    assert steps_in(tmp_path, "inner1") == [4]
    outer, inner = run_of(tmp_path, "outer"), run_of(tmp_path, "inner0")
    assert "rng" in tree.decode(outer.manifest(outer.checkpoints()[0]).details.training)
    assert "rng" not in tree.decode(inner.manifest(inner.checkpoints()[0]).details.training)
