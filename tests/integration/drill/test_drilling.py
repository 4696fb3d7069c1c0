"""Every fault, in real processes: the training comes back by itself and ends exact; a flaw is found."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.integration.training.launching import wait_until

from holdfast.drill.faults.registry import FAULTS

SCRIPT = Path(__file__).with_name("drillable.py")
FLAGS = (
    "--hang-at-least 2 --slow-at-least 20 --grace-seconds 1 --monitor-interval 0.05 --not-finite-steps 3"
    " --on 'host-memory: restart 3'"
)
CAUSES = {
    "kill": ["crash", "finished"],
    "stop": ["finished"],
    "hang": ["hang", "finished"],
    "segfault": ["crash", "finished"],
    "memory": ["host-memory", "finished"],
    "full-disk": ["finished"],
    "slow-disk": ["finished"],
    "bit-rot": ["crash", "finished"],
    "torn-pack": ["crash", "finished"],
    "remote": ["finished"],
    "agent": ["finished"],
    "supervisor": ["finished"],
    "machine": ["finished"],  # a supervisor knows of its own launches
}
LONG = ("--steps", "45", "--seconds", "0.2")
"""So that the training outlasts a disk that is full for two seconds."""


def drill(folder: Path, *words: str, python: tuple[str, ...] = (), **variables: str) -> subprocess.Popen[str]:
    """``holdfast drill``; what is behind ``--`` among the words belongs to the script."""
    cut = words.index("--")
    ours, theirs = words[:cut], words[cut + 1 :]
    begin = [sys.executable, "-m", "holdfast", "drill", "--json", "--seed", "3", "--patience", "90"]
    return subprocess.Popen(
        [*begin, "--run-flags", FLAGS, *ours, "--", sys.executable, *python, str(SCRIPT), *theirs],
        cwd=folder,
        env=os.environ
        | {"HOLDFAST_BACKGROUND": "1", "OMP_NUM_THREADS": "1", "TMPDIR": str(folder)}
        | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def drilled(folder: Path, *words: str, exits: int, **options: Any) -> tuple[Any, str]:
    """The report and what was said."""
    process = drill(folder, *words, **options)
    out, said = process.communicate(timeout=230)
    assert process.returncode == exits, said + out
    return json.loads(out or "null"), said


def test_each_fault_has_its_test() -> None:
    assert set(CAUSES) | {"nan", "power"} == set(FAULTS)


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    ("faults", "words"),
    [
        ("kill,stop,hang,segfault,memory,bit-rot", ()),
        ("torn-pack,remote,agent,supervisor,machine", ()),
        ("full-disk,slow-disk", LONG),
    ],
)
def test_each_ends_exact(tmp_path: Path, faults: str, words: tuple[str, ...]) -> None:
    flags = ("--faults", faults, "--folder", "place")
    found, said = drilled(tmp_path, *flags, "--", "numpy", *words, exits=0)
    outcomes = {one["fault"]: one for one in found["outcomes"]}
    assert found["held"], said
    assert {fault: one["causes"] for fault, one in outcomes.items()} == {
        fault: CAUSES[fault] for fault in faults.split(",")
    }
    for outcome in outcomes.values():
        assert outcome["exact"], said
        assert 2 <= outcome["strike"]["at"]["step"] < 60
        assert outcome["recovery"]["seconds"] > 0
        assert outcome["compared"] >= 10
    assert list(tmp_path.iterdir()) == [tmp_path / "place"]  # not the script's own place
    for fault in LEFT.keys() & outcomes.keys():
        LEFT[fault](tmp_path / "place", outcomes[fault])


def damage_costs_the_checkpoint_that_was_damaged(place: Path, outcome: Any) -> None:
    assert outcome["recovery"]["lost_steps"] >= 1
    assert "is damaged" in (place / "bit-rot.log").read_text()


def the_mirror_that_was_gone_has_everything_in_the_end(place: Path, outcome: Any) -> None:
    last = "runs/drilled/checkpoints/*000040-*"  # by a process that outlives the training
    assert wait_until(lambda: len(list((place / "remote-mirror").glob(last))) == 1, 100)
    assert not (place / "remote-mirror.lost").exists()


LEFT = {
    "bit-rot": damage_costs_the_checkpoint_that_was_damaged,
    "remote": the_mirror_that_was_gone_has_everything_in_the_end,
}
"""What else has to be true of one fault's end."""


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_a_disk_that_loses_power_costs_no_checkpoint_that_was_durable(tmp_path: Path) -> None:
    found, said = drilled(tmp_path, "--faults", "power", "--", "numpy", exits=0)
    [outcome] = found["outcomes"]
    assert outcome["exact"], said
    assert outcome["compared"] >= 40
    assert outcome["recovery"]["seconds"] > 0
    assert str(tmp_path) not in Path("/proc/mounts").read_text()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.timeout(240)
def test_gradients_that_are_not_finite_are_left_behind(tmp_path: Path) -> None:
    words = ("--faults", "nan", "--", "torch", "--steps", "60", "--seconds", "0.05")
    found, _ = drilled(tmp_path, *words, exits=0)
    [outcome] = found["outcomes"]
    assert outcome["causes"] == ["not-finite", "finished"]
    assert outcome["recovery"]["lost_steps"] >= 3


def test_a_script_that_forgets_something_is_found_out(tmp_path: Path) -> None:
    words = ("--faults", "kill", "--html", "page.html", "--", "numpy", "forgotten")
    found, _ = drilled(tmp_path, *words, exits=1)
    [outcome] = found["outcomes"]
    assert not found["held"]
    assert outcome["difference"]["tensors"] == ["weights"]
    assert "First difference" in (tmp_path / "page.html").read_text()


def test_the_launches_keep_the_rule_that_was_given(tmp_path: Path) -> None:
    words = ("--faults", "kill", "--save", "every 7 steps", "--folder", "place", "--", "numpy")
    found, _ = drilled(tmp_path, *words, exits=0)
    steps = {int(p.name[:12]) for p in (tmp_path / "place" / "kill").glob("runs/drilled/checkpoints/*")}
    assert steps == {7, 14, 21, 28, 35, 40}
    [outcome] = found["outcomes"]
    assert outcome["recovery"]["lost_steps"] <= 7


@pytest.mark.parametrize(
    ("words", "options", "why"),
    [
        (("--faults", "segfault", "--", "numpy"), {"python": ("-E",)}, "must heed PYTHONPATH"),
        (
            ("--faults", "agent", "--", "numpy"),
            {"HOLDFAST_BACKGROUND": "0"},
            ": nothing saves in the background",
        ),
        (("--faults", "kill", "--run-flags", "--no-such", "--", "numpy"), {}, "No such option: --no-such"),
        (("--faults", "kill", "--", "numpy", "--steps", "1"), {}, "was over before the fault could strike"),
    ],
)
def test_what_cannot_happen_is_a_failure_that_says_why(
    tmp_path: Path, words: tuple[str, ...], options: dict[str, Any], why: str
) -> None:
    found, _ = drilled(tmp_path, *words, exits=1, **options)
    assert why in found["outcomes"][0]["failure"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--faults", "meteor"), "There is no fault 'meteor'."),
        (("--save", "now and then"), "now and then"),
        (("--run-flags", "'"), "--run-flags cannot be understood"),
        (("--html", "no/page.html"), "There is no folder"),
        (("--folder", "."), ". is there already."),
    ],
)
def test_refusals(tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    assert said in drilled(tmp_path, *words, "--", "numpy", exits=2)[1]
    assert list(tmp_path.iterdir()) == []


def test_ranks_die_with_their_launcher_and_come_back(tmp_path: Path) -> None:
    launcher = str(SCRIPT.with_name("launcher.py"))
    words = ("--faults", "machine", "--save", "every 3 steps", "--", "numpy", "--seconds", "0.05")
    found, said = drilled(tmp_path, *words, exits=0, python=(launcher,))
    assert found["outcomes"][0]["recovery"]["seconds"] is not None, said
    assert [pid for pid in psutil.pids() if belongs(pid, tmp_path)] == []


def test_asked_to_end_it_leaves_nothing_running(tmp_path: Path) -> None:
    process = drill(tmp_path, "--faults", "kill", "--folder", "place", "--", "numpy", "--seconds", "0.2")
    while not list(tmp_path.glob("place/kill/runs/drilled/checkpoints/*")):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert [pid for pid in psutil.pids() if belongs(pid, tmp_path)] == []


def belongs(pid: int, folder: Path) -> bool:
    """Whether a living process was started by a drill in that folder, agents included."""
    try:
        return psutil.Process(pid).environ().get("TMPDIR") == str(folder)
    except (psutil.Error, OSError):
        return False
