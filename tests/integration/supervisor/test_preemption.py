"""Told to end: saved in time, whoever is told, and nothing is left running."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from tests import killing
from tests.integration.supervisor.supervised import Supervised, undisturbed
from tests.integration.training.launching import is_alive, run_of, steps_in, wait_until

from holdfast.node.pulse import Phase, glance, place_of

Supervise = Callable[..., Supervised]
LONG = {"TRAINEE_STEPS": "400", "TRAINEE_STEP_SECONDS": "0.05"}


def saved_for(run: Supervised) -> str:
    found = run_of(run.place, "digits")
    latest = found.latest()
    assert latest is not None
    return found.summary(latest).reason


@pytest.mark.parametrize("to_group", [False, True])
def test_sigterm_saves_and_ends_with_143(supervise: Supervise, to_group: bool) -> None:
    run = supervise(**LONG)
    run.until("trains")
    trainer = run.trainer()
    (os.killpg if to_group else os.kill)(run.process.pid, signal.SIGTERM)
    assert run.wait() == 143
    assert saved_for(run) == "SIGTERM"
    assert run.causes == ["preempted"]
    assert not is_alive(trainer)


def test_ctrl_c_saves_and_ends_with_130(supervise: Supervise) -> None:
    run = supervise(**LONG)
    run.until("trains")
    run.process.send_signal(signal.SIGINT)
    assert run.wait() == 130
    assert saved_for(run) == "SIGINT"


def test_a_signal_to_every_process_of_the_job_saves_all_the_same(supervise: Supervise) -> None:
    """As Slurm ends a step; the same signal may arrive twice at the trainer."""
    run = supervise(**LONG)
    run.until("trains")
    for pid in (*run.members(), run.process.pid):
        os.kill(pid, signal.SIGTERM)
    assert run.wait() == 143
    assert saved_for(run) == "SIGTERM"


def test_a_save_that_takes_longer_than_the_grace_is_waited_for(supervise: Supervise) -> None:
    run = supervise("stop@20", "slowsave@20", flags=("--grace-seconds", "1"), TRAINEE_SLOW_SECONDS="4")
    assert run.wait() == 143
    assert steps_in(run.place, "digits")[-1] >= 20
    assert run.report["launches"][0]["exit_code"] == 143


def test_a_save_that_hangs_is_not_waited_for_for_ever(supervise: Supervise) -> None:
    flags = ("--grace-seconds", "1", "--slow-at-least", "5")
    run = supervise("stop@20", "slowsave@20", flags=flags, TRAINEE_SLOW_SECONDS="600")
    assert run.wait() == 143
    assert run.report["launches"][0]["exit_code"] == -9


def test_what_was_preempted_goes_on_as_if_nothing_had_happened(
    supervise: Supervise, whole: dict[str, Any]
) -> None:
    run = supervise("term@22", flags=("--preempted-exit-code", "85"))
    assert run.wait() == 85
    assert steps_in(run.place, "digits")[-1] == 22
    again = supervise("term@22")
    assert again.wait() == 0
    assert killing.left_behind(run.place, "digits") == whole


def test_a_wrapper_that_dies_first_does_not_cost_the_save(supervise: Supervise, tmp_path: Path) -> None:
    run = supervise(**LONG, wrapped=True)
    run.until("trains")
    trainer = run.trainer()
    wrapper = int(Path(f"/proc/{trainer}/stat").read_text().rpartition(")")[2].split()[1])
    assert wrapper != run.process.pid
    os.kill(wrapper, signal.SIGKILL)
    assert wait_until(lambda: not is_alive(trainer))
    assert saved_for(run) == "SIGTERM"
    run.until("starting again")


def test_told_to_end_while_a_trainer_without_its_wrapper_saves(supervise: Supervise) -> None:
    run = supervise("slow@4", **LONG, wrapped=True, TRAINEE_SLOW_SECONDS="4")
    run.until("trains")
    trainer = run.trainer()
    assert wait_until(lambda: at(trainer) == (3, Phase.STEPPING))
    kill_parent(trainer)
    time.sleep(1)
    run.process.terminate()
    assert run.wait() == 143
    assert run.causes == ["preempted"]
    assert saved_for(run) == "SIGTERM"


def test_a_trainer_without_its_wrapper_may_save_for_longer_than_the_grace(supervise: Supervise) -> None:
    flags = ("--grace-seconds", "1", "--max-restarts", "0")
    run = supervise("slowsave@10", flags=flags, wrapped=True, TRAINEE_SLOW_SECONDS="5")
    run.until("trains")
    trainer = run.trainer()
    assert wait_until(lambda: at(trainer) == (10, Phase.SAVING))
    kill_parent(trainer)
    run.wait()
    assert steps_in(run.place, "digits")[-1] >= 10


def at(trainer: int) -> tuple[int, Phase] | None:
    """Its last step, and what it does now."""
    seen = glance(place_of(trainer) or "")
    return (seen.step, seen.phase) if seen is not None else None


def kill_parent(pid: int) -> None:
    os.kill(int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]), signal.SIGKILL)


def test_behind_a_pipe_that_ends_with_0_it_is_not_taken_for_finished(supervise: Supervise) -> None:
    run = supervise("kill@12", "term@22", piped=True)
    assert run.wait() == 143
    assert run.causes == ["crash", "preempted"]
    assert [launch["exit_code"] for launch in run.report["launches"]] == [0, 0]
    assert steps_in(run.place, "digits")[-1] == 22


@pytest.mark.parametrize("wrapped", [False, True])
def test_when_the_supervisor_is_killed_the_training_saves_and_ends(
    supervise: Supervise, wrapped: bool
) -> None:
    run = supervise(**LONG, wrapped=wrapped)
    run.until("trains")
    trainer = run.trainer()
    run.process.kill()
    assert wait_until(lambda: not is_alive(trainer))
    assert saved_for(run) == "SIGTERM"


def test_a_notice_in_a_file(supervise: Supervise, tmp_path: Path) -> None:
    run = supervise(**LONG, flags=("--notice-file", str(tmp_path / "notice")))
    run.until("trains")
    (tmp_path / "notice").touch()
    assert run.wait() == 143
    assert saved_for(run) == "SIGTERM"
    assert "notice from" in run.said


def test_a_notice_by_a_command(supervise: Supervise, tmp_path: Path) -> None:
    run = supervise(**LONG, flags=("--notice-command", f"test -e {tmp_path}/notice"))
    run.until("trains")
    (tmp_path / "notice").touch()
    assert run.wait() == 143
    assert saved_for(run) == "SIGTERM"


@pytest.fixture
def endpoint() -> Iterator[tuple[str, list[int]]]:
    """A URL, and the codes that it answers: the last one for ever."""
    codes = [404]

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(codes[-1])
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/notice", codes
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_notice_by_http(supervise: Supervise, endpoint: tuple[str, list[int]]) -> None:
    place, codes = endpoint
    run = supervise(**LONG, flags=("--notice-url", place))
    run.until("trains")
    codes.append(200)
    assert run.wait() == 143
    assert saved_for(run) == "SIGTERM"


def test_slurms_time_limit_and_the_queue(supervise: Supervise, tmp_path: Path) -> None:
    """It ends in time, and asks a scontrol, which here writes down what it is asked."""
    scontrol = tmp_path / "bin" / "scontrol"
    scontrol.parent.mkdir()
    scontrol.write_text(f"#!/bin/sh\nsleep 3; echo $* > {tmp_path}/asked\n")  # a controller that is busy
    scontrol.chmod(0o700)
    variables = {
        "SLURM_JOB_ID": "4711",
        "SLURM_JOB_END_TIME": str(int(time.time()) + 63),
        "PATH": f"{scontrol.parent}:{os.environ['PATH']}",
    }
    run = supervise(**LONG, **variables, flags=("--stop-before", "60", "--requeue"))
    assert run.wait() == 143
    assert saved_for(run) == "SIGTERM"
    assert (tmp_path / "asked").read_text() == "requeue 4711\n"
    assert "job 4711 is back in the queue" in run.said


def test_sigusr1_after_the_training_costs_nothing(supervise: Supervise) -> None:
    run = supervise("after@1", TRAINEE_SLOW_SECONDS="3")
    run.until("evaluates")
    run.process.send_signal(signal.SIGUSR1)
    assert run.wait() == 0
    assert run.causes == ["finished"]


def test_sigusr1_asks_for_a_save(supervise: Supervise) -> None:
    run = supervise(**LONG)
    run.until("trains")
    run.process.send_signal(signal.SIGUSR1)
    found = run_of(run.place, "digits")
    assert wait_until(lambda: "SIGUSR1" in [found.summary(c).reason for c in found.checkpoints()])


def test_told_to_end_while_it_waits_it_ends(supervise: Supervise) -> None:
    run = supervise("memory@5")
    run.until("starting again in 10 s")
    run.process.terminate()
    assert run.wait() == 143
    assert run.report["cause"] == "preempted"
    assert run.causes == ["host-memory"]


def test_nothing_is_left_running_that_the_training_started(supervise: Supervise) -> None:
    run = supervise("kill@12", TRAINEE_CHILD="1")
    assert run.wait() == 0
    assert run.causes == ["crash", "finished"]
    assert run.members() == []


def test_it_outlives_its_terminal(supervise: Supervise, tmp_path: Path, whole: dict[str, Any]) -> None:
    """What is printed to a terminal that is gone fails; the next launch prints to a file."""
    terminal, its_end = os.openpty()
    run = supervise(terminal=its_end, TRAINEE_STEP_SECONDS="0.02")
    os.close(its_end)
    run.trainer()
    os.close(terminal)  # as if the connection broke
    assert run.wait() == 0
    assert killing.left_behind(run.place, "digits") == whole
    assert "ends at step 40" in (tmp_path / "holdfast-run.log").read_text()


def test_it_outlives_its_terminal_even_where_it_may_not_write(
    supervise: Supervise, tmp_path: Path, whole: dict[str, Any]
) -> None:
    (tmp_path / "holdfast-run.log").mkdir()  # whoever tests may write everywhere else
    run = supervise("slow@8", "kill@12", TRAINEE_SLOW_SECONDS="2")
    run.until("trains")
    run.process.send_signal(signal.SIGHUP)
    assert run.wait() == 0
    assert run.causes == ["crash", "finished"]
    assert killing.left_behind(run.place, "digits") == whole


@pytest.mark.paddle
@pytest.mark.parametrize("framework", [pytest.param("torch", marks=pytest.mark.also), "paddle"])
def test_preempted_and_exact(supervise: Supervise, tmp_path: Path, framework: str) -> None:
    run = supervise("term@22", TRAINEE_FRAMEWORK=framework)
    assert run.wait() == 143
    assert supervise("term@22", TRAINEE_FRAMEWORK=framework).wait() == 0
    (tmp_path / "whole").mkdir()
    assert killing.left_behind(run.place, "digits") == undisturbed(
        tmp_path / "whole", TRAINEE_FRAMEWORK=framework
    )
