"""What ends a launch is told apart, and what follows ends as if nothing had happened."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from tests import killing
from tests.integration.supervisor.supervised import Supervised, undisturbed

import holdfast
from holdfast.training.overrides import Overrides

Supervise = Callable[..., Supervised]
SOON = ("--on", "host-memory: restart 3", "--on", "device-memory: restart 3", "--on", "disk-full: restart 3")


@pytest.mark.parametrize(
    ("fault", "cause"),
    [
        ("kill@25", "crash"),
        ("segv@25", "crash"),
        ("error@12", "exception"),
        ("exit3@15", "exception"),
        ("memory@17", "host-memory"),
        ("device@17", "device-memory"),
        ("full@17", "disk-full"),
        ("nan@17", "not-finite"),
    ],
)
def test_one_failure_costs_nothing_but_time(
    supervise: Supervise, whole: dict[str, Any], fault: str, cause: str
) -> None:
    run = supervise(fault, flags=SOON)
    assert run.wait() == 0
    assert run.causes == [cause, "finished"]
    assert killing.left_behind(run.place, "digits") == whole
    first, second = run.report["launches"]
    assert second["resumed_step"] + second["lost_steps"] == first["step"]


@pytest.fixture
def cramped() -> Iterator[Path]:
    """A control group with little memory."""
    places = {"memory.limit_in_bytes": Path("/sys/fs/cgroup/memory"), "memory.max": Path("/sys/fs/cgroup")}
    for limit, root in places.items():
        group = root / f"holdfast-{os.getpid()}"
        with suppress(OSError):
            group.mkdir()
            (group / limit).write_text("300M")
            yield group
            group.rmdir()
            return
        with suppress(OSError):
            group.rmdir()
    pytest.skip("no control group with a limit can be made here")


@pytest.mark.root
def test_a_kill_for_want_of_memory_is_told_from_others(
    supervise: Supervise, whole: dict[str, Any], cramped: Path
) -> None:
    run = supervise("devour@25", flags=SOON, control_group=cramped)
    assert run.wait() == 0
    assert run.causes == ["host-memory", "finished"]
    assert killing.left_behind(run.place, "digits") == whole


@pytest.mark.root
def test_memory_that_strangers_died_for_explains_no_kill(
    supervise: Supervise, whole: dict[str, Any], cramped: Path
) -> None:
    run = supervise("slow@12", TRAINEE_SLOW_SECONDS="20")
    run.until("trains")
    enter = f"open({str(cramped / 'cgroup.procs')!r}, 'w').write('0')"
    devour = "taken = []\nwhile True: taken.append(bytearray(b'1' * (1 << 24)))"
    stranger = subprocess.run([sys.executable, "-c", f"{enter}\n{devour}"], check=False)
    assert stranger.returncode == -signal.SIGKILL
    os.kill(run.trainer(), signal.SIGKILL)
    assert run.wait() == 0
    assert run.causes == ["crash", "finished"]
    assert killing.left_behind(run.place, "digits") == whole


@pytest.mark.paddle
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("framework", "faults"),
    [
        pytest.param(
            "torch", {"segv@23": "crash", "device@25": "device-memory"}, marks=pytest.mark.also, id="torch"
        ),
        (
            "paddle",
            {
                "kill@12": "crash",
                "error@15": "exception",
                "device@25": "device-memory",
                "hang@32": "hang",
                "full@35": "disk-full",
            },
        ),
    ],
)
def test_every_cause_in_one_run(
    supervise: Supervise, tmp_path: Path, framework: str, faults: dict[str, str]
) -> None:
    flags = (*SOON, "--hang-at-least", "1", "--grace-seconds", "0.5", "--monitor-interval", "0.05")
    run = supervise(*faults, flags=flags, TRAINEE_FRAMEWORK=framework)
    assert run.wait() == 0, run.said
    assert run.causes == [*faults.values(), "finished"]
    (tmp_path / "whole").mkdir()
    assert killing.left_behind(run.place, "digits") == undisturbed(
        tmp_path / "whole", TRAINEE_FRAMEWORK=framework
    )


def test_a_mistake_is_not_tried_again(supervise: Supervise) -> None:
    run = supervise("import@1")
    assert run.wait() == 1
    assert run.causes == ["configuration"]
    assert "ImportError: No module named 'nothing'); not started again" in run.said


def test_a_script_that_fails_before_it_ever_trains_is_not_tried_again(supervise: Supervise) -> None:
    run = supervise("early@1")
    assert run.wait() == 1
    assert run.causes == ["configuration"]


def test_but_one_that_has_trained_is(supervise: Supervise, whole: dict[str, Any]) -> None:
    run = supervise("kill@12", "early@2")
    assert run.wait() == 0
    assert run.causes == ["crash", "exception", "finished"]
    assert killing.left_behind(run.place, "digits") == whole


def test_values_that_have_changed_are_a_mistake(supervise: Supervise, tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(
        "import holdfast, sys\n"
        "with holdfast.Checkpointer('r', {'a': [1]}, config={'lr': sys.argv[1]}) as c:\n"
        "    for _ in c.steps(2): pass\n"
    )
    assert holdfast_run(tmp_path, str(script), "1")[0] == 0
    code, said = holdfast_run(tmp_path, str(script), "2")
    assert code == 1
    assert "configuration" in said
    assert "not started again" in said


def test_a_run_that_somebody_else_trains_is_left_alone(supervise: Supervise, tmp_path: Path) -> None:
    with holdfast.Checkpointer(tmp_path / "repository", {"a": [1]}, run="digits"):
        run = supervise()
        assert run.wait() == 1
    assert run.causes == ["taken"]


def test_a_lease_that_nobody_can_prove_dead_can_be_waited_for(supervise: Supervise, tmp_path: Path) -> None:
    """As of a container that was killed: it expires."""
    with suppress(InterruptedError), holdfast.Checkpointer(tmp_path / "repository", {"a": [1]}, run="digits"):
        run = supervise(flags=("--on", "taken: restart 20, wait 1"))
        run.until("starting again")
        raise InterruptedError  # and save nothing
    assert run.wait() == 0
    assert run.causes[0] == "taken"
    assert run.causes[-1] == "finished"


def test_a_step_that_always_fails_is_approached_from_further_back_and_then_given_up(
    supervise: Supervise,
) -> None:
    run = supervise("kill@35x99", flags=("--on", "crash: restart 3, back 2"))
    assert run.wait() == 137
    assert [launch["resumed_step"] for launch in run.report["launches"]] == [None, 30, 20, 10]
    assert run.report["why_stopped"] == "4 launches in a row got no further than step 34"
    rejected = holdfast.open(run.place)["digits"]
    assert len(rejected) > 0
    assert not list(run.place.glob("runs/digits/rejected/*"))  # going back rejects nothing


def test_a_poisoned_window_of_data_is_passed_over_if_asked(supervise: Supervise) -> None:
    run = supervise("poison@5", flags=("--on", "exception: restart 3, back 2", "--skip-batches", "2"))
    assert run.wait() == 0
    assert run.causes == ["exception", "exception", "finished"]
    seen = holdfast.open(run.place)["digits"].latest.load()["seen"]
    assert len(seen) == 40  # steps
    assert [item for epoch, item in seen if epoch == 0] == [0, 1, 2, 3, 4]  # 5 is poisoned, 6 goes with it
    assert [item for epoch, item in seen if epoch == 1] == list(range(7))
    assert "this run is another from here on" in run.said


def test_a_poisoned_state_is_left_behind_by_going_back(supervise: Supervise, whole: dict[str, Any]) -> None:
    run = supervise("kill@35x2", flags=("--on", "crash: restart 5, back 2"))
    assert run.wait() == 0
    assert [launch["resumed_step"] for launch in run.report["launches"]] == [None, 30, 20]
    assert killing.left_behind(run.place, "digits") == whole


def test_a_launch_that_goes_back_keeps_the_place_that_a_program_above_gave(
    supervise: Supervise, tmp_path: Path
) -> None:
    given = Overrides(repository=str(tmp_path / "given"), save="every 10 steps", keep="all")
    run = supervise(
        "kill@35x2", flags=("--on", "crash: restart 5, back 2"), HOLDFAST_OVERRIDES=given.encoded()
    )
    assert run.wait() == 0
    assert [launch["resumed_step"] for launch in run.report["launches"]] == [None, 30, 20]
    assert not run.place.exists()
    assert holdfast.open(tmp_path / "given")["digits"].latest.step == 40


def test_the_budget_of_restarts_ends(supervise: Supervise) -> None:
    run = supervise("kill@12", "kill@13", "kill@14", "kill@15", flags=("--max-restarts", "2"))
    assert run.wait() == 137
    assert run.causes == ["crash"] * 3
    assert "2 restarts within 3600 s are used up" in run.said


def test_losses_that_stay_not_finite_end_the_launch(supervise: Supervise, whole: dict[str, Any]) -> None:
    faults = [f"loss@{step}" for step in range(25, 33)]
    run = supervise(
        *faults, flags=("--not-finite-steps", "5", "--monitor-interval", "0.02"), TRAINEE_STEP_SECONDS="0.1"
    )
    assert run.wait() == 0
    assert run.causes == ["not-finite", "finished"]
    assert run.report["launches"][1]["resumed_step"] == 10  # one before the newest
    assert killing.left_behind(run.place, "digits")["tensors"] == whole["tensors"]


def test_a_training_that_is_not_well_goes_back_where_a_rule_says_so(
    supervise: Supervise, whole: dict[str, Any]
) -> None:
    faults = [f"high@{step}" for step in (35, 36, 37)]
    run = supervise(*faults, TRAINEE_OPTIONS='{"on_finding": "spike: back"}')
    assert run.wait() == 0
    assert run.causes == ["unhealthy", "finished"]
    assert run.report["launches"][1]["resumed_step"] == 20  # one before the newest
    assert "the loss is 9, 3 times in a row far above 1" in run.said
    assert killing.left_behind(run.place, "digits")["tensors"] == whole["tensors"]


def test_what_the_supervisor_gives_up_itself_is_not_taken_for_preempted(supervise: Supervise) -> None:
    """Asked to end it leaves with 143, which would have platforms start it again for ever."""
    faults = [f"loss@{step}" for step in range(5, 35)]
    flags = ("--not-finite-steps", "5", "--monitor-interval", "0.02", "--on", "not-finite: stop")
    run = supervise(*faults, flags=flags, TRAINEE_STEP_SECONDS="0.1")
    assert run.wait() == 1
    assert run.report["launches"][0]["exit_code"] == 143


def holdfast_run(folder: Path, *words: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "holdfast", "run", "--", sys.executable, *words],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    return done.returncode, done.stderr


def test_a_resume_that_does_not_join_is_left_for_an_earlier_one(
    supervise: Supervise, whole: dict[str, Any]
) -> None:
    run = supervise("kill@31", *(f"high@{step}" for step in (32, 33, 34)))
    assert run.wait() == 0
    assert run.causes == ["crash", "unhealthy", "finished"]
    assert [launch["resumed_step"] for launch in run.report["launches"]] == [None, 30, 20]
    assert "the resumed training does not join what it was: the loss is 9" in run.said
    assert killing.left_behind(run.place, "digits")["tensors"] == whole["tensors"]
