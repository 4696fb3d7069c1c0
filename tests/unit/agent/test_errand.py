"""One round of an errand: commands one after the other, and what of them ends it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import holdfast
from holdfast.agent import errand
from holdfast.agent.errand import main
from holdfast.agent.errands import LEFT_DAMAGED, NEWEST_LEFT
from holdfast.errors import UsageError
from keys import KEY


def saved(place: Path, *steps: int) -> None:
    for step in steps:
        holdfast.save(str(place), {"w": np.random.default_rng(step).random(20_000)}, step=step)


def steps_at(place: Path) -> list[int]:
    return [checkpoint.step for checkpoint in holdfast.open(str(place))["main"]]


def round_of(here: Path, there: Path) -> str:
    """What a mirror with a keep rule asks for."""
    prune = ["prune", "main", "--keep", "last 2", "--yes", "--repository", str(there)]
    return json.dumps([["sync", str(here), str(there), "main"], prune])


def damage_oldest_pack(place: Path) -> None:
    damage(min((place / "packs").rglob("*.pack"), key=lambda path: path.stat().st_mtime_ns))


def damage(pack: Path) -> None:
    pack.chmod(0o600)
    data = bytearray(pack.read_bytes())
    data[5000:6000] = bytes(1000)
    pack.write_bytes(data)


def launched(place: Path, steps: int) -> None:
    """A launch that goes on to so many steps, and has ended."""
    state = {"w": np.zeros(1000)}
    with holdfast.Checkpointer(
        str(place), state, save="every 1 step", keep="all", background=False
    ) as checkpointer:
        for _ in checkpointer.steps(steps):
            state["w"] += 1


def resumes_at(place: Path) -> int:
    latest = holdfast.open(str(place))["main"].latest
    assert latest is not None
    return latest.step


def damage_first_end(place: Path) -> None:
    end = min((place / "runs/main/attempts").glob("*.end"))
    end.chmod(0o600)
    data = bytearray(end.read_bytes())
    data[-5] ^= 1
    end.write_bytes(data)


def test_the_mirror_is_brought_up_to_date_and_pruned(tmp_path: Path) -> None:
    saved(tmp_path / "here", 1, 2, 3)
    assert main(round_of(tmp_path / "here", tmp_path / "there"), "0") == 0
    assert steps_at(tmp_path / "there") == [2, 3]


def test_what_is_damaged_here_keeps_nothing_else_from_being_done(tmp_path: Path) -> None:
    saved(tmp_path / "here", 1, 2, 3, 4)
    damage_oldest_pack(tmp_path / "here")
    assert main(round_of(tmp_path / "here", tmp_path / "there"), "0") == LEFT_DAMAGED
    assert steps_at(tmp_path / "there") == [3, 4]


def test_the_newest_that_is_damaged_is_not_there(tmp_path: Path) -> None:
    saved(tmp_path / "here", 1)
    before = set((tmp_path / "here" / "packs").rglob("*.pack"))
    saved(tmp_path / "here", 2)
    (newest,) = set((tmp_path / "here" / "packs").rglob("*.pack")) - before
    damage(newest)
    assert main(round_of(tmp_path / "here", tmp_path / "there"), "0") == NEWEST_LEFT
    assert steps_at(tmp_path / "there") == [1]


def test_a_damaged_record_of_an_old_launch_keeps_no_launch_from_the_mirror(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOLDFAST_KEY", KEY)
    here, there = tmp_path / "here", tmp_path / "there"
    launched(here, 2)
    assert main(round_of(here, there), "0") == 0
    launched(here, 4)
    damage_first_end(here)
    assert main(round_of(here, there), "0") == LEFT_DAMAGED
    assert (steps_at(there), resumes_at(there)) == ([3, 4], 4)


def test_what_the_mirror_cannot_resume_from_is_not_there_and_nothing_is_pruned(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    saved(here, 1, 2, 3)
    (sync, prune) = json.loads(round_of(here, there))
    assert main(json.dumps([sync]), "0") == 0
    for pack in (there / "packs").rglob("*.pack"):
        damage(pack)
    verify = [sys.executable, "-m", "holdfast", "verify", "main", "-R", str(there)]
    assert subprocess.run(verify, check=False).returncode == 4
    assert main(json.dumps([sync, prune]), "0") == NEWEST_LEFT
    assert steps_at(there) == [1, 2, 3]


def test_what_is_damaged_is_not_tried_for_hours(tmp_path: Path) -> None:
    saved(tmp_path / "here", 1, 2, 3)
    damage_oldest_pack(tmp_path / "here")
    assert main(round_of(tmp_path / "here", tmp_path / "there"), "3600") == LEFT_DAMAGED


def test_what_cannot_be_brought_at_all_ends_the_round(tmp_path: Path) -> None:
    saved(tmp_path / "there", 1, 2)
    assert main(round_of(tmp_path / "nothing", tmp_path / "there"), "0") == 3
    assert steps_at(tmp_path / "there") == [1, 2]


def test_a_mirror_that_is_a_file_for_a_while_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved(tmp_path / "here", 1)
    there = tmp_path / "there"
    there.touch()
    monkeypatch.setattr(errand, "PAUSES_SECONDS", (0.01,))
    monkeypatch.setattr(errand.time, "sleep", lambda _: there.unlink())
    assert main(round_of(tmp_path / "here", there), "60") == 0
    assert steps_at(there) == [1]


@pytest.mark.parametrize("there", ["elsewhere", "foo://x", "s3://key:secret@bucket/x"])
def test_what_can_never_be_brought_is_not_tried_for_hours(
    tmp_path: Path, there: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    saved(Path("here"), 1)
    saved(Path("elsewhere"), 1)  # by itself
    monkeypatch.setattr(errand.time, "sleep", lambda _: pytest.fail("tried again"))
    assert main(json.dumps([["sync", "here", there, "main"]]), "3600") == UsageError.exit_code
