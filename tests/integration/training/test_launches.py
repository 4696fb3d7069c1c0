"""Launching again: finished, extended, failed; twice at once; `resume=`; a zombie that wakes late."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.integration.training.launching import (
    Tell,
    at,
    count,
    ended,
    ends_in,
    launch,
    run_of,
    send_self,
    steps_in,
)

import holdfast
from holdfast.domain import tree
from holdfast.repository import persisting
from holdfast.training.overrides import VARIABLE, Overrides

Said = pytest.CaptureFixture[str]


def epochs(repository: Path, number: int | None = None, *, stop_at: int = -1, **limit: int) -> list[int]:
    """Train on a list; returns the epochs of which it had turns."""
    state: dict[str, Any] = {"sum": np.zeros(2), "seen": []}
    had = []
    with holdfast.Checkpointer(repository, state, save=None) as ckpt:
        for epoch in ckpt.epochs(number, **limit):
            had.append(epoch)
            for item in ckpt.batches([1.0, 2.0, 3.0]):
                state["sum"] += item
                ckpt.step()
            if epoch == stop_at:
                ckpt.stop("patience is over")
    return had


def test_a_finished_run_launched_again_yields_no_turns_saves_nothing_and_says_so(
    tmp_path: Path, capsys: Said
) -> None:
    assert epochs(tmp_path, 2) == [0, 1]
    assert "run main ends at step 6: finished" in capsys.readouterr().err
    for _ in range(2):
        assert epochs(tmp_path, 2) == []
        said = capsys.readouterr().err
        assert "run main resumes after step 6 (epoch 2)" in said
        assert "run main ends at step 6: it had finished already" in said
    assert steps_in(tmp_path) == [6]
    assert [e.done for e in ends_in(tmp_path)] == [True, True, True]


def test_a_larger_number_of_epochs_or_steps_goes_on(tmp_path: Path, capsys: Said) -> None:
    epochs(tmp_path / "e", 2)
    assert epochs(tmp_path / "e", 4) == [2, 3]
    assert "already" not in capsys.readouterr().err
    epochs(tmp_path / "s", steps=4)
    assert epochs(tmp_path / "s", steps=7) == [1, 2]
    count(tmp_path / "t", until=3)
    assert count(tmp_path / "t", until=5)["log"] == [0, 1, 2, 3, 4]


def test_an_early_stop_holds_at_the_next_launch_and_gives_way_to_a_larger_number(
    tmp_path: Path, capsys: Said
) -> None:
    assert epochs(tmp_path, 5, stop_at=1) == [0, 1]
    assert "ends at step 6: patience is over" in capsys.readouterr().err
    assert epochs(tmp_path, 5) == []
    assert "it had been stopped already (patience is over)" in capsys.readouterr().err
    assert epochs(tmp_path, 7) == [2, 3, 4, 5, 6]
    assert "stopped" not in capsys.readouterr().err


def test_a_stop_ends_every_later_loop_of_the_same_launch(tmp_path: Path) -> None:
    with holdfast.Checkpointer(tmp_path, {"a": 1}) as ckpt:
        for _ in ckpt.steps(3):
            ckpt.stop()
        assert list(ckpt.steps(10)) == []


def test_an_exception_captures_nothing_and_records_its_cause(tmp_path: Path, capsys: Said) -> None:
    with pytest.raises(ZeroDivisionError):
        count(tmp_path, each=at(3, lambda _: 1 // 0), save="every 2 steps")
    assert steps_in(tmp_path) == [2]
    (end,) = ends_in(tmp_path)
    assert end.cause == "ZeroDivisionError: integer division or modulo by zero"
    assert (end.step, end.done) == (4, False)
    assert "ends at step 4: ZeroDivisionError" in capsys.readouterr().err
    assert count(tmp_path)["log"] == list(range(6))


class Speechless(Exception):
    def __str__(self) -> str:
        raise ValueError("it cannot say why")


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (FileNotFoundError("no \udcff.npy"), r"FileNotFoundError: no \udcff.npy"),  # a name that is not UTF-8
        (Speechless(), "Speechless"),
    ],
)
def test_an_exception_that_cannot_be_written_down_is_recorded_and_raised_all_the_same(
    tmp_path: Path, error: Exception, cause: str
) -> None:
    def fail(_: Any) -> None:
        raise error

    with pytest.raises(type(error)):
        count(tmp_path, each=at(3, fail))
    assert [end.cause for end in ends_in(tmp_path)] == [cause]
    assert list(run_of(tmp_path).storage.list(run_of(tmp_path).layout.leases)) == []


def test_a_notebook_cell_run_again_after_an_exception_resumes(tmp_path: Path) -> None:
    state: dict[str, Any] = {"w": np.zeros(3)}
    for attempt in range(2):
        try:
            with holdfast.Checkpointer(tmp_path, state, save="every 1 step") as ckpt:
                assert ckpt.progress.step == (0 if attempt == 0 else 2)
                for t in ckpt.steps(4):
                    state["w"] += 1
                    if attempt == 0 and t == 2:
                        signal.raise_signal(signal.SIGINT)
                        signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            state["w"] += 100
    assert state["w"].tolist() == [4, 4, 4]


def test_a_notebook_cell_run_again_takes_over_from_one_that_never_ended(tmp_path: Path) -> None:
    handler = signal.getsignal(signal.SIGTERM)
    first_state, state = {"w": np.zeros(3)}, {"w": np.zeros(3)}
    first = holdfast.Checkpointer(tmp_path, first_state, save="every 1 step").__enter__()
    turns = iter(first.steps(4))
    next(turns), next(turns)
    try:
        with holdfast.Checkpointer(tmp_path, state, save="every 1 step") as ckpt:
            assert ckpt.progress.step == 1
            assert signal.getsignal(signal.SIGTERM) != handler
            for _ in ckpt.steps(4):
                state["w"] += 1
        latest = run_of(tmp_path).manifest(run_of(tmp_path).latest())
        assert "rng" in tree.decode(latest.details.training)
        assert ckpt.restored.metrics == {}  # also of a checkpoint that is gone by now
        with pytest.raises(holdfast.SupersededError):
            next(turns)
    finally:
        first.__exit__(ValueError, ValueError(), None)
    assert signal.getsignal(signal.SIGTERM) is handler
    assert steps_in(tmp_path)[-1] == 4


def test_a_checkpointer_that_is_not_entered_or_entered_twice_is_refused(tmp_path: Path) -> None:
    ckpt = holdfast.Checkpointer(tmp_path, {"a": 1})
    for use in (
        lambda: ckpt.progress,
        lambda: ckpt.restored,
        lambda: ckpt.steps(2),
        lambda: ckpt.batches([1]),
        lambda: ckpt.epochs(2),
        ckpt.step,
        ckpt.report,
        ckpt.save,
        ckpt.stop,
    ):
        with pytest.raises(holdfast.UsageError, match="not entered"):
            use()
    with ckpt:
        for _ in ckpt.steps(2):
            pass
        with pytest.raises(holdfast.UsageError, match="entered already"):
            ckpt.__enter__()
    assert ckpt.progress.step == 2
    assert ckpt.restored is None
    with pytest.raises(holdfast.UsageError, match="not entered"):
        ckpt.save()
    with ckpt:
        assert ckpt.progress.step == 2


def test_without_a_state_progress_is_kept(tmp_path: Path) -> None:
    for until in (2, 5):
        with holdfast.Checkpointer(tmp_path) as ckpt:
            assert ckpt.progress.step == (0 if until == 2 else 2)
            assert len(list(ckpt.steps(until))) == until - (0 if until == 2 else 2)


def test_place_and_run_come_from_the_environment_if_not_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOLDFAST_REPOSITORY", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("HOLDFAST_RUN", "sweep/lr3")
    with holdfast.Checkpointer() as ckpt:
        list(ckpt.steps(2))
    assert steps_in(tmp_path / "elsewhere", "sweep/lr3") == [2]


def test_ranks_that_cannot_be_saved_together_are_refused_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for size, rank, here in (
        ("WORLD_SIZE", "RANK", "LOCAL_WORLD_SIZE"),
        ("PADDLE_TRAINERS_NUM", "PADDLE_TRAINER_ID", "PADDLE_LOCAL_SIZE"),
    ):
        with monkeypatch.context() as context:
            context.setenv(size, "4")
            with pytest.raises(holdfast.UsageError, match="no rank of a training"):
                holdfast.Checkpointer(tmp_path / "new", {"a": 1}).__enter__()
            context.setenv(rank, "1")
            with pytest.raises(holdfast.UnsupportedError, match="this is rank 1 of 4"):
                holdfast.save(tmp_path / "new", {"a": 1}, step=1)
            context.setenv(here, "2")
            with pytest.raises(holdfast.UnsupportedError, match="4 ranks and 2 of them on this machine"):
                holdfast.Checkpointer(tmp_path / "new", {"a": 1}).__enter__()
    assert not (tmp_path / "new").exists()
    monkeypatch.setenv("WORLD_SIZE", "1")
    count(tmp_path, until=1)


# -- resume= -------------------------------------------------------------------------------


def test_must_needs_something_to_resume_from_and_creates_nothing(tmp_path: Path) -> None:
    with pytest.raises(holdfast.NotFoundError):
        count(tmp_path / "wrong", resume="must")
    assert not (tmp_path / "wrong").exists()
    count(tmp_path, run="other", until=1)
    with pytest.raises(holdfast.NotFoundError, match="nothing to resume from"):
        count(tmp_path, resume="must")
    count(tmp_path, until=2)
    assert count(tmp_path, until=3, resume="must")["log"] == [0, 1, 2]


def test_never_refuses_a_run_that_exists(tmp_path: Path) -> None:
    count(tmp_path, until=2, resume="never")
    with pytest.raises(holdfast.UsageError, match=r"exists already.*never") as caught:
        count(tmp_path, until=3, resume="never")
    assert "holdfast restart main" in str(caught.value)
    assert steps_in(tmp_path) == [2]


def test_resume_from_a_step_a_tag_and_the_best_makes_the_rest_a_dead_branch(tmp_path: Path) -> None:
    def note(ckpt: holdfast.Checkpointer, t: int) -> None:
        ckpt.report(val=abs(t - 1.0))
        if t == 2:
            ckpt.save(tag="mine")

    keep = holdfast.keep(last=50, best=1, monitor="val")
    count(tmp_path, each=note, save="every 1 step", keep=keep)
    for resume, step in ((4, 4), ("mine", 3), ("best", 2)):
        with holdfast.Checkpointer(tmp_path, count_state(), resume=resume, keep=keep) as ckpt:
            assert ckpt.progress.step == ckpt.restored.step == step
            assert ckpt.restored.metrics["val"] == abs(step - 2.0)
    with holdfast.Checkpointer(tmp_path, count_state(), keep=keep) as ckpt:
        assert ckpt.progress.step == 2  # what lies beyond is no longer on the line


def count_state() -> dict[str, Any]:
    return {"weights": np.zeros(100), "log": []}


@pytest.mark.parametrize(("sent_to", "resumed"), [(8, 8), (7, 6), (4, 6)])
def test_a_step_named_by_a_program_above_may_have_been_pruned_since(
    sent_to: int, resumed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Said
) -> None:
    count(tmp_path, until=10, save="every 2 steps", keep="last 3")
    assert steps_in(tmp_path) == [6, 8, 10]
    monkeypatch.setenv(VARIABLE, Overrides(resume=sent_to).encoded())
    with holdfast.Checkpointer(tmp_path, count_state(), save=None) as ckpt:
        assert ckpt.progress.step == resumed
    assert ("is there no more" in capsys.readouterr().err) is (sent_to != resumed)


@pytest.mark.parametrize("nonsense", ["", "latest", None, 1.5, True, ["best"]])
def test_nonsense_is_refused_before_anything_happens(nonsense: Any, tmp_path: Path) -> None:
    with pytest.raises(holdfast.UsageError, match="resume="):
        holdfast.Checkpointer(tmp_path / "new", {"a": 1}, resume=nonsense)
    assert not (tmp_path / "new").exists()


def test_a_step_or_tag_that_is_not_there_names_what_is(tmp_path: Path) -> None:
    count(tmp_path, until=4, save="every 2 steps")
    for resume in (500, "nonsense"):
        with pytest.raises(holdfast.NotFoundError, match=r"its steps are 2, 4"):
            count(tmp_path, resume=resume)
    assert count(tmp_path)["log"] == list(range(6))


@pytest.mark.parametrize(
    "options",
    [
        {"changed": "maybe"},
        {"on_fault": "ignore"},
        {"save": "sometimes"},
        {"keep": "everything"},
        {"run": "../up"},
        {"config": 7},
    ],
    ids=str,
)
def test_options_that_mean_nothing_are_refused(options: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(holdfast.UsageError):
        holdfast.Checkpointer(tmp_path, {"a": 1}, **options)


def test_what_cannot_be_kept_is_refused_on_entering_by_its_path(tmp_path: Path) -> None:
    for state, path in (
        ({"a": {"deep": [1, object()]}}, r"state\.a\.deep\[1\]"),
        ({"call": print}, "call"),
        ({"lazy": (x for x in "ab")}, "lazy"),
    ):
        with pytest.raises(holdfast.UnsupportedError, match=path):
            holdfast.Checkpointer(tmp_path, state).__enter__()
    assert not run_of(tmp_path).exists()


# -- two launches at once ------------------------------------------------------------------


def test_a_second_launch_is_refused_naming_host_and_process_and_leaves_cleanly(tmp_path: Path) -> None:
    def hold(tell: Tell) -> None:
        count(tmp_path, each=at(2, lambda _: (tell("here"), signal.pause())), save="every 1 step")

    process = launch(hold)
    assert process.heard() == "here"
    with pytest.raises(holdfast.BusyError) as caught:
        count(tmp_path)
    assert f"process {process.pid} on {socket.gethostname()}" in str(caught.value)
    with pytest.raises(holdfast.BusyError):
        holdfast.save(tmp_path, {"a": 1}, step=9)
    assert len(run_of(tmp_path).attempts()) == 1  # the refused one left nothing behind
    process.signal(signal.SIGTERM)
    assert process.wait() == 143
    assert count(tmp_path)["log"] == list(range(6))


def test_the_lease_of_a_killed_trainer_is_taken_at_once_though_its_workers_live_on(tmp_path: Path) -> None:
    def train(tell: Tell) -> None:
        def fork(ckpt: holdfast.Checkpointer) -> None:
            child = os.fork()
            if child == 0:
                signal.signal(signal.SIGALRM, signal.SIG_DFL)
                signal.alarm(30)
                signal.pause()
            tell(str(child))
            signal.pause()

        count(tmp_path, each=at(2, fork), save="every 1 step")

    process = launch(train)
    worker = int(process.heard())
    process.signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    try:
        assert count(tmp_path)["log"] == list(range(6))
    finally:
        os.kill(worker, signal.SIGKILL)


# -- a zombie ------------------------------------------------------------------------------


def stop_in_the_next_commit() -> None:
    """Stop this process (as by SIGSTOP from outside) once, between the last check and the commit."""
    commit = persisting.commit

    def stopped(*arguments: Any, **options: Any) -> Any:
        persisting.commit = commit
        os.kill(os.getpid(), signal.SIGSTOP)
        return commit(*arguments, **options)

    persisting.commit = stopped


def forget_lease(repository: Path) -> None:
    """As when the machine of the holder was cut off for longer than the lease."""
    run = run_of(repository)
    for key in list(run.storage.list(run.layout.leases)):
        run.storage.delete(key)


def test_a_zombie_woken_in_mid_save_becomes_a_dead_branch_and_then_stops(tmp_path: Path) -> None:
    def train(tell: Tell) -> None:
        state = {"w": np.zeros(50)}
        with holdfast.Checkpointer(tmp_path, state, save="every 1 step") as ckpt:
            for t in ckpt.steps(8):
                state["w"] += 1000
                if t == 3:
                    stop_in_the_next_commit()

    process = launch(train)
    assert os.WIFSTOPPED(os.waitpid(process.pid, os.WUNTRACED)[1])
    forget_lease(tmp_path)
    state = {"w": np.zeros(50)}
    with holdfast.Checkpointer(tmp_path, state, save="every 1 step", keep="last 9") as ckpt:
        assert ckpt.progress.step == 3
        for t in ckpt.steps(8):
            state["w"] += 1
            if t == 5:
                before = steps_in(tmp_path)
                process.signal(signal.SIGCONT)
                assert process.wait() == 1
                assert "SupersededError" in process.said
                late = [c for c in run_of(tmp_path).checkpoints() if c.attempt.number == 1 and c.step == 4]
                assert len(late) == 1, "the zombie's save went through, late"
                assert run_of(tmp_path).latest().attempt.number == 2
                assert set(before) <= set(steps_in(tmp_path))
    assert state["w"].tolist() == [3005.0] * 50
    assert holdfast.open(tmp_path)["main"].latest.load()["w"].tolist() == [3005.0] * 50


def test_a_zombie_woken_between_saves_is_told_to_stop_and_deletes_nothing(tmp_path: Path) -> None:
    def train(tell: Tell) -> None:
        stop = at(3, lambda _: send_self(signal.SIGSTOP))
        count(tmp_path, each=stop, save="every 1 step", keep="last 1")

    process = launch(train)
    assert os.WIFSTOPPED(os.waitpid(process.pid, os.WUNTRACED)[1])
    forget_lease(tmp_path)
    count(tmp_path, save="every 1 step", keep="last 9")
    before = steps_in(tmp_path)
    process.signal(signal.SIGCONT)
    assert process.wait() == 1
    assert "SupersededError: A newer attempt of the run main has taken over" in process.said
    assert steps_in(tmp_path) == before
    assert count(tmp_path)["log"] == list(range(6))


def test_one_process_output_is_one_line_each_for_start_resume_and_end(tmp_path: Path) -> None:
    _, first = ended(lambda _: count(tmp_path, until=2) and None)
    _, second = ended(lambda _: count(tmp_path, until=4) and None)
    assert [len(said.splitlines()) for said in (first, second)] == [2, 2]
    assert first.startswith("holdfast: run main starts; checkpoints go to ")
    assert second.startswith("holdfast: run main resumes after step 2")
