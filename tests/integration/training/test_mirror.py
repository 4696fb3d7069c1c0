"""A mirror: what is saved comes there behind training, and a fresh machine starts from there."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import psutil
import pytest
from tests import s3_server
from tests.integration.training.launching import count, run_of, wait_until
from typer.testing import CliRunner

import holdfast
from agents import agents_of
from holdfast.cli.app import app
from holdfast.domain.keep_rules import KeepRule, parse
from holdfast.domain.mirrors import Mirror
from holdfast.errors import HoldfastError, StorageError, UsageError
from holdfast.node.lease import claiming
from holdfast.repository import layout, syncing
from holdfast.repository.repository import Repository
from holdfast.repository.sync_plan import Route
from holdfast.storage.local import LocalStorage
from holdfast.training import mirroring
from holdfast.training.mirroring import fetch

Said = pytest.CaptureFixture[str]
PATIENCE_SECONDS = 60.0
pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="memory shared without a name is Linux's"),
    pytest.mark.timeout(240),
]


@pytest.fixture(autouse=True)
def in_background(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    monkeypatch.setenv("HOLDFAST_BACKGROUND", "1")
    yield
    for process in errands(tmp_path):  # that nobody waits for
        process.kill()


def errands(folder: Path) -> list[psutil.Process]:
    found = [p for p in psutil.process_iter(["cmdline"]) if p.pid != os.getpid()]
    return [p for p in found if any(str(folder) in word for word in p.info["cmdline"] or [])]


def steps_in(place: str | Path) -> list[int]:
    try:
        return [checkpoint.step for checkpoint in holdfast.open(place)["main"]]
    except HoldfastError:  # nothing has come yet
        return []


def comes(steps: list[int], place: str | Path) -> bool:
    return wait_until(lambda: steps_in(place) == steps, PATIENCE_SECONDS)


def gone(repository: Path) -> bool:
    return wait_until(lambda: not agents_of(repository) and not errands(repository), PATIENCE_SECONDS)


def test_what_is_saved_comes_to_the_mirror_while_training_goes_on(tmp_path: Path) -> None:
    here, mirror = tmp_path / "here", tmp_path / "mirror"

    def look(ckpt: holdfast.Checkpointer, t: int) -> None:
        if t == 2:
            assert comes([1, 2], mirror)

    count(here, each=look, save="every 1 step", keep="all", mirror=mirror)
    assert comes([1, 2, 3, 4, 5, 6], mirror)
    assert gone(here)
    for checkpoint in holdfast.open(mirror)["main"]:
        checkpoint.verify()


def test_a_save_can_be_waited_for_until_it_is_at_the_mirror(tmp_path: Path) -> None:
    here, mirror = tmp_path / "here", tmp_path / "mirror"
    state: dict[str, Any] = {"weights": np.zeros(100)}
    with holdfast.Checkpointer(here, state, save=None, mirror=mirror) as ckpt:
        for _ in range(2):
            ckpt.step()
            checkpoint = ckpt.save().wait_uploaded(PATIENCE_SECONDS)
            assert steps_in(mirror)[-1] == checkpoint.step
    assert gone(here)


def test_waiting_without_a_mirror_is_refused_and_without_time_gives_up(tmp_path: Path) -> None:
    state: dict[str, Any] = {"weights": np.zeros(100)}
    with holdfast.Checkpointer(tmp_path / "a", state, save=None) as ckpt:
        ckpt.step()
        with pytest.raises(UsageError, match="Nothing is brought to a mirror"):
            ckpt.save().wait_uploaded()
    with holdfast.Checkpointer(tmp_path / "b", state, save=None, mirror=tmp_path / "c") as ckpt:
        ckpt.step()
        save = ckpt.save()
        save.wait_durable()
        with pytest.raises(TimeoutError, match="not at the mirror"):
            save.wait_uploaded(0.0)
    assert gone(tmp_path / "b")


def test_what_the_mirror_lacks_at_the_end_is_said(tmp_path: Path, capsys: Said) -> None:
    (tmp_path / "file").write_bytes(b"")
    mirror, down = tmp_path / "mirror", tmp_path / "file/mirror"
    with holdfast.Checkpointer(tmp_path / "here", {"n": 0}, save=None, mirror=mirror) as ckpt:
        ckpt.step()
        ckpt.save().wait_uploaded(PATIENCE_SECONDS)
    assert "as yet" not in capsys.readouterr().err
    with holdfast.Checkpointer(tmp_path / "here", {"n": 0}, save=None, mirror=[mirror, down]) as ckpt:
        for _ in range(2):
            ckpt.step()
            ckpt.save().wait_durable()
    lacks = f"the mirror {down} lacks 2 checkpoints as yet\n"
    assert capsys.readouterr().err.count(lacks) == 1
    (tmp_path / "file").unlink()
    assert comes([1, 2, 3], down)
    assert gone(tmp_path / "here")


TRAIN = """
import sys, time
from tests.integration.training.launching import at, count
wait = at(4, lambda _: time.sleep(300)) if sys.argv[3] == "wait" else None
print(count(sys.argv[1], each=wait, save="every 2 steps", mirror=sys.argv[2])["log"])
"""


def launch(here: Path, mirror: str, how: str) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", TRAIN, str(here), mirror, how]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment)


def test_a_run_whose_machine_is_lost_goes_on_from_the_store(s3: str, tmp_path: Path) -> None:
    here, mirror = tmp_path / "here", s3_server.url(s3, uuid.uuid4().hex)
    with launch(here, mirror, "wait") as trainer:
        try:
            assert comes([2, 4], mirror)
        finally:
            trainer.send_signal(signal.SIGKILL)
    assert gone(here)
    shutil.rmtree(here)
    with launch(here, mirror, "go on") as again:
        said, told = again.communicate(timeout=PATIENCE_SECONDS)
    assert "what it resumes from came from s3://" in told
    assert "resumes after step 4" in told
    assert said.strip() == str(list(range(6)))
    assert steps_in(here) == [4, 6]
    assert comes([2, 4, 6], mirror)
    assert gone(here)
    into: dict[str, Any] = {"weights": np.zeros(100), "log": []}
    assert holdfast.load(mirror, into).step == 6
    assert into["weights"].tolist() == (np.arange(100) * sum(range(6))).tolist()


def test_a_mirror_that_is_down_costs_nothing_but_delay(tmp_path: Path, capsys: Said) -> None:
    here, down = tmp_path / "here", tmp_path / "elsewhere"
    count(here, until=1, save="every 1 step")
    down.write_bytes(b"no folder can be made here")

    def mend(ckpt: holdfast.Checkpointer, t: int) -> None:
        nonlocal said
        said += capsys.readouterr().err
        if "lags behind" in said:
            if down.is_file():
                down.unlink()
        elif t >= 3:
            time.sleep(1)  # a warning comes with the answer to a save

    said = ""
    count(here, until=60, each=mend, save="every 1 step", keep="last 2", mirror=down / "mirror")
    said += capsys.readouterr().err
    assert said.count("lags behind") == 1, said
    assert wait_until(lambda: steps_in(down / "mirror")[-1:] == [60], PATIENCE_SECONDS)
    assert gone(here)


def test_a_fresh_start_is_refused_while_its_mirror_does_not_answer(tmp_path: Path) -> None:
    mirror = "s3://bucket/x?endpoint=http://127.0.0.1:9&region=r"
    with pytest.raises(StorageError, match=r"its mirror .* could not be asked"):
        count(tmp_path / "here", mirror=mirror.replace("bucket", s3_server.BUCKET))
    assert not (tmp_path / "here").exists()


def test_what_a_killed_launch_still_fetches_is_waited_for(tmp_path: Path) -> None:
    here, mirror = tmp_path / "here", tmp_path / "mirror"
    count(mirror, save="every 2 steps", background=False)
    Repository.create(LocalStorage(here, create=True), repository_id=Repository.open(LocalStorage(mirror)).id)
    holding, seen = threading.Event(), time.monotonic()

    def hold() -> None:
        with claiming(LocalStorage(here), "main"):
            holding.set()
            time.sleep(11)  # longer than one command waits

    thread = threading.Thread(target=hold)
    thread.start()
    holding.wait()
    assert fetch(here, "main", [Mirror(str(mirror))], KeepRule())
    thread.join()
    assert time.monotonic() - seen >= 11
    assert steps_in(here) == [6]


def test_what_was_fetched_only_in_part_is_fetched_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Said
) -> None:
    """Killed when the recovery point was there, and no record of what leads to it."""
    here, mirror = tmp_path / "here", tmp_path / "mirror"
    count(mirror, save="every 2 steps", background=False)
    source = Repository.open(LocalStorage(mirror))
    target = Repository.create(LocalStorage(here, create=True), repository_id=source.id)
    monkeypatch.setattr(syncing._Syncing, "_record", Mock(side_effect=KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        syncing.sync_run(Route(source, target), "main", latest=True)
    assert steps_in(here) == [6]
    assert count(here, until=8, mirror=mirror, background=False)["log"] == list(range(8))
    assert "resumes after step 6" in capsys.readouterr().err


def test_a_fresh_start_is_refused_while_no_launch_leads_to_what_its_mirror_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first upload was killed when the checkpoint was there, and no record of what leads to it."""
    here, mirror = tmp_path / "here", tmp_path / "mirror"
    count(here, save="every 2 steps", background=False)
    source = Repository.open(LocalStorage(here))
    target = Repository.create(LocalStorage(mirror, create=True), repository_id=source.id)
    monkeypatch.setattr(syncing._Syncing, "_record", Mock(side_effect=KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        syncing.sync_run(Route(source, target), "main")
    shutil.rmtree(here)
    with pytest.raises(StorageError, match="no record of a launch leads to them"):
        count(here, mirror=mirror, background=False)
    CliRunner().invoke(app, ["repair", str(mirror), "--apply"])
    assert fetch(here, "main", [Mirror(str(mirror))], KeepRule())


def test_of_two_of_one_step_the_one_that_is_damaged_is_mended(tmp_path: Path) -> None:
    here, mirror = tmp_path / "here", tmp_path / "mirror"
    count(here, until=2, save="every 1 step", keep="all", background=False)
    run = Repository.open(LocalStorage(here)).run("main")
    run.set_tag("mine", run.resolve(2))
    assert CliRunner().invoke(app, ["restart", "main@1", "--yes", "-R", str(here)]).exit_code == 0
    count(here, until=2, save="every 1 step", keep="all", background=False)
    shutil.copytree(here, mirror)
    damaged = run.resolve("mine")
    assert damaged != run.resolve(2)
    assert run.resolve(str(damaged)) == damaged
    for pack in set(run.hints(damaged)).difference(run.hints(run.resolve(2))):
        flip(here / layout.pack(pack))
    done = count(here, until=3, keep="all", resume="mine", mirror=mirror, background=False)
    assert done["log"] == [0, 1, 2]


def test_a_mirror_without_a_recovery_point_has_given_none(tmp_path: Path, capsys: Said) -> None:
    here, mirror = tmp_path / "here", tmp_path / "mirror"
    Repository.create(LocalStorage(mirror, create=True)).run("main").begin_attempt()
    assert not fetch(here, "main", [Mirror(str(mirror))], KeepRule())
    assert "came from" not in capsys.readouterr().err


def flip(path: Path, at: int | None = None) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 3 if at is None else at] ^= 1
    path.write_bytes(data)


def test_a_fresh_machine_starts_from_what_a_damaged_mirror_has_intact(tmp_path: Path, capsys: Said) -> None:
    here, mirror, other = tmp_path / "here", tmp_path / "mirror", tmp_path / "other"
    state = {"w": np.arange(100_000.0)}
    with holdfast.Checkpointer(mirror, state, save=None, background=False) as ckpt:
        for _ in range(2):
            state["w"] += 1
            ckpt.step()
            ckpt.save()
    shutil.copytree(mirror, other)
    flip(max((mirror / "packs").rglob("*.pack"), key=lambda pack: pack.stat().st_mtime_ns))
    assert fetch(here, "main", [Mirror(str(mirror))], KeepRule())
    assert steps_in(here) == [1]
    assert f"not all that the mirror {mirror} has could be brought: " in capsys.readouterr().err
    shutil.rmtree(here)
    assert fetch(here, "main", [Mirror(str(mirror)), Mirror(str(other))], KeepRule())
    assert holdfast.open(here)["main"].latest.step == 2


def test_what_is_damaged_here_keeps_nothing_newer_from_the_mirror(tmp_path: Path, capsys: Said) -> None:
    here, mirror = tmp_path / "here", tmp_path / "mirror"
    state = {"w": np.arange(100_000.0)}
    with holdfast.Checkpointer(here, state, save=None, keep="all", background=False) as ckpt:
        ckpt.step()
        ckpt.save()
        state["w"] += 1
        ckpt.step()
    flip(min((here / "packs").rglob("*.pack"), key=lambda pack: pack.stat().st_mtime_ns))
    with holdfast.Checkpointer(here, state, save=None, keep="all", mirror=mirror) as ckpt:
        said = ""
        for step in (3, 4, 5):  # each in a round of its own, none of them put off
            state["w"] += 1
            ckpt.step()
            ckpt.save().wait_uploaded(PATIENCE_SECONDS)
            assert steps_in(mirror)[-1] == step
            said += capsys.readouterr().err
            assert "has all but" in said  # before it is said that it is there
        assert 1 not in steps_in(mirror)
    said += capsys.readouterr().err
    assert said.count(f"{mirror} has all but what is damaged here: ") == 1
    assert "lags" not in said
    assert gone(here)


@pytest.mark.parametrize("what", ["packs", "runs/main/checkpoints"])
def test_what_is_damaged_here_is_mended_by_the_mirror(tmp_path: Path, capsys: Said, what: str) -> None:
    here, mirror = tmp_path / "here", tmp_path / "mirror"
    state = {"w": np.arange(100_000.0)}
    with holdfast.Checkpointer(here, state, save=None, mirror=mirror) as ckpt:
        for _ in range(2):
            state["w"] += 1
            ckpt.step()
            ckpt.save().wait_uploaded(PATIENCE_SECONDS)
    expected = state["w"].copy()
    for path in (p for p in (here / what).rglob("*") if p.suffix in (".pack", ".manifest")):
        flip(path)
    fresh = {"w": np.zeros(100_000)}
    with holdfast.Checkpointer(here, fresh, save=None, mirror=mirror) as ckpt:
        assert ckpt.progress.step == 2
        assert (fresh["w"] == expected).all()
    said = capsys.readouterr().err
    assert f"main@2 is damaged here; what is lacking is asked of its mirror {mirror}" in said
    assert "rejected" not in said
    assert gone(here)


def test_damage_that_the_mirror_shares_is_walked_back_past(tmp_path: Path, capsys: Said) -> None:
    here, mirror = tmp_path / "here", tmp_path / "mirror"
    state = {"w": np.arange(100_000.0)}
    with holdfast.Checkpointer(here, state, save=None, mirror=mirror) as ckpt:
        for _ in range(2):
            state["w"] += 1
            ckpt.step()
            ckpt.save().wait_uploaded(PATIENCE_SECONDS)
    assert gone(here)
    for place in (here, mirror):
        run = Repository.open(LocalStorage(place)).run("main")
        for pack in run.hints(run.resolve(2)):
            flip(place / "packs" / pack[:2] / f"{pack}.pack")
    fresh = {"w": np.zeros(100_000)}
    with holdfast.Checkpointer(here, fresh, save=None, mirror=mirror) as ckpt:
        assert ckpt.progress.step == 1
        assert (fresh["w"] == np.arange(100_000.0) + 1).all()
    assert "main@2" in capsys.readouterr().err
    assert gone(here)


def test_a_mirror_keeps_what_it_is_told(tmp_path: Path) -> None:
    here, mirror = tmp_path / "here", tmp_path / "mirror"

    def wait(ckpt: holdfast.Checkpointer, t: int) -> None:
        if t == 3:
            assert comes([2, 3], mirror)

    count(here, each=wait, save="every 1 step", keep="last 1", mirror=mirror, mirror_keep="last 2")
    assert wait_until(lambda: steps_in(mirror)[1:] == [6], PATIENCE_SECONDS), steps_in(mirror)
    assert gone(here)


def test_what_cannot_be_a_mirror_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no place for a mirror"):
        holdfast.Checkpointer(tmp_path, {}, mirror=3)  # type: ignore[arg-type]
    for itself in (tmp_path, f"{tmp_path}/x/.."):
        with pytest.raises(UsageError, match="cannot be its own mirror"):
            holdfast.Checkpointer(tmp_path, {}, mirror=itself, mirror_keep="last 2")
    with pytest.raises(UsageError, match="cannot be its own mirror"):
        holdfast.Checkpointer("s3://bucket/x?region=r", {}, mirror="s3://bucket/x/?region=q")
    with pytest.raises(UsageError, match="there is none"):
        holdfast.Checkpointer(tmp_path, {}, mirror_keep="last 2")
    with pytest.raises(UsageError):
        holdfast.Checkpointer(tmp_path, {}, mirror="x", mirror_keep="lst 2")
    with pytest.raises(UsageError, match="one place twice"):
        holdfast.Checkpointer(tmp_path, {}, mirror=["x", "x"])
    with pytest.raises(UsageError, match="not one rule for each"):
        holdfast.Checkpointer(tmp_path, {}, mirror=["x", "y"], mirror_keep=["last 2"])


def test_each_of_several_mirrors_keeps_what_it_is_told(tmp_path: Path) -> None:
    here, near, far = tmp_path / "here", tmp_path / "near", tmp_path / "far"
    state = {"w": np.zeros(1000)}
    places, rules = [near, far], ["last 2", None]
    with holdfast.Checkpointer(here, state, save=None, mirror=places, mirror_keep=rules) as ckpt:
        for _ in range(4):
            ckpt.step()
            ckpt.save().wait_uploaded(PATIENCE_SECONDS)
            assert all(ckpt.progress.step in steps_in(place) for place in places)
    assert comes([1, 2, 3, 4], far)
    assert comes([3, 4], near)
    assert gone(here)


def test_of_several_mirrors_one_may_be_down(tmp_path: Path, capsys: Said) -> None:
    here, near, far = tmp_path / "here", tmp_path / "near", tmp_path / "far"
    state = {"w": np.zeros(1000)}
    with holdfast.Checkpointer(here, state, save=None, mirror=[near, far]) as ckpt:
        near.write_text("no folder")
        ckpt.step()
        save = ckpt.save()
        assert comes([1], far)
        with pytest.raises(TimeoutError):
            save.wait_uploaded(0.5)
    shutil.rmtree(here)
    with holdfast.Checkpointer(here, state, save=None, mirror=[near, far]) as ckpt:
        assert ckpt.progress.step == 1
        near.unlink()  # it is back, and gets all of it
        ckpt.step()
        ckpt.save().wait_uploaded(PATIENCE_SECONDS)
    said = capsys.readouterr().err
    assert f"the mirror {near} could not be asked" in said
    assert f"what it resumes from came from {far}" in said
    assert steps_in(near) == steps_in(far) == [1, 2]
    assert gone(here)


def test_the_newest_of_what_several_mirrors_have_is_taken_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, near, far = tmp_path / "here", tmp_path / "near", tmp_path / "far"
    state = {"w": np.zeros(1000)}
    with holdfast.Checkpointer(here, state, save=None, mirror=near) as ckpt:
        ckpt.step()
        ckpt.save().wait_uploaded(PATIENCE_SECONDS)
    with holdfast.Checkpointer(here, state, save=None, mirror=far) as ckpt:
        ckpt.step()
        ckpt.save().wait_uploaded(PATIENCE_SECONDS)
    assert gone(here)
    shutil.rmtree(here)
    asked, ask = [], mirroring._asked

    def killed(location: Path, run: str, mirror: str, keep: KeepRule) -> Any:
        ask(location, run, mirror, keep)
        asked.append(mirror)
        raise KeyboardInterrupt

    with monkeypatch.context() as once:
        once.setattr(mirroring, "_asked", killed)
        with pytest.raises(KeyboardInterrupt):
            fetch(here, "main", [Mirror(str(near)), Mirror(str(far))], KeepRule())
    assert asked == [str(far)]
    assert holdfast.open(here)["main"].latest.step == 2, "the next launch asks no mirror any more"
    shutil.rmtree(here)
    assert fetch(here, "main", [Mirror(str(near)), Mirror(str(far))], KeepRule())
    assert holdfast.open(here)["main"].latest.step == 2


BEST = parse("last 2, best 1 score max")


def score(ckpt: holdfast.Checkpointer, t: int) -> None:
    """The third step is the best."""
    ckpt.report(score=1.0 if t == 2 else t / 100)


def test_a_fresh_start_brings_the_best_too_and_publishes_no_worse_one(tmp_path: Path) -> None:
    here, mirror, path = tmp_path / "here", tmp_path / "mirror", tmp_path / "best.safetensors"
    options: dict[str, Any] = {"save": "every 1 step", "background": False, "each": score}
    count(mirror, keep=BEST, publish=f"best -> {path}", **options)
    best, published = steps_in(mirror)[0], path.read_bytes()
    count(here, until=8, keep=BEST, mirror=mirror, publish=f"best -> {path}", **options)
    assert best == 3
    assert steps_in(here) == [3, 7, 8]
    assert path.read_bytes() == published


def test_where_the_recovery_point_is_the_best_nothing_else_comes(tmp_path: Path) -> None:
    here, mirror = tmp_path / "here", tmp_path / "mirror"
    count(mirror, until=3, save="every 1 step", keep="all", each=score, background=False)
    assert fetch(here, "main", [Mirror(str(mirror))], BEST)
    assert steps_in(here) == [3]


def test_what_another_mirror_has_rejected_comes_from_the_one_that_has_it_whole(tmp_path: Path) -> None:
    here, near, far = tmp_path / "here", tmp_path / "near", tmp_path / "far"
    count(near, save="every 1 step", keep=BEST, each=score, background=False)
    shutil.copytree(near, far)
    for pack in (far / "packs").rglob("*.pack"):
        flip(pack, 10)
    assert CliRunner().invoke(app, ["verify", "-R", str(far)]).exit_code == 4
    assert fetch(here, "main", [Mirror(str(near)), Mirror(str(far))], BEST)
    assert run_of(here).latest() == run_of(near).latest()
    assert not run_of(here).rejected()


def test_a_fetch_that_is_cut_short_before_the_best_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, mirror = tmp_path / "here", tmp_path / "mirror"
    count(mirror, save="every 1 step", keep=BEST, each=score, background=False)
    source = Repository.open(LocalStorage(mirror))
    target = Repository.create(LocalStorage(here, create=True), repository_id=source.id)
    monkeypatch.setattr(syncing, "best_missing", Mock(side_effect=KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        syncing.sync_run(Route(source, target), "main", latest=True, keep=BEST)
    assert steps_in(here) == [6]
    assert fetch(here, "main", [Mirror(str(mirror))], BEST)
    assert steps_in(here) == [3, 6]


def test_a_fresh_start_goes_on_without_a_best_that_is_damaged(tmp_path: Path, capsys: Said) -> None:
    here, mirror = tmp_path / "here", tmp_path / "mirror"
    count(mirror, save="every 1 step", keep=BEST, each=score, background=False)
    flip(next(path for path in (mirror / "runs/main/checkpoints").iterdir() if "3-" in path.name[:13]))
    assert fetch(here, "main", [Mirror(str(mirror))], BEST)
    assert steps_in(here) == [6]


def test_without_an_agent_it_is_said_that_nothing_is_mirrored(tmp_path: Path, capsys: Said) -> None:
    count(tmp_path / "here", mirror=tmp_path / "mirror", background=False)
    assert "nothing is brought to" in capsys.readouterr().err
