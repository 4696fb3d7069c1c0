"""Training on a sealed repository: agents, errands, mirrors and kills; and keys that never show."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.integration.training.launching import at, count, launch, run_of, send_self, steps_in, wait_until
from tests.integration.training.test_mirror import comes, gone

import holdfast
from agents import agent_of, agents_of, errands_below
from holdfast.errors import SealedError, SignatureError, UsageError
from holdfast.repository import signatures
from holdfast.repository.repository import Repository
from holdfast.storage.local import LocalStorage
from holdfast.storage.sealed import SealedStorage
from keys import KEY, OTHER_KEY, give

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="memory shared without a name is Linux's"),
    pytest.mark.timeout(240),
]
SIGNING, PUBLIC = signatures.generate()


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which two keys lie, which are given by paths that begin there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOLDFAST_BACKGROUND", "1")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    for name, text in {"my.key": KEY, "sign.key": SIGNING}.items():
        Path(name).write_text(text)
        Path(name).chmod(0o600)
    give(
        monkeypatch,
        HOLDFAST_KEY_FILE="my.key",
        HOLDFAST_SIGNING_KEY_FILE="sign.key",
        HOLDFAST_SIGNED_BY=PUBLIC,
    )
    return tmp_path


def words_of(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def test_agent_errands_and_mirror_have_the_key_and_show_it_to_nobody(here: Path) -> None:
    store, mirror = here / "store", here / "mirror"
    said: list[bytes] = []

    def look(ckpt: holdfast.Checkpointer, t: int) -> None:
        agent = agent_of(ckpt)
        said.extend(words_of(pid) for pid in (agent, os.getpid(), *errands_below(here)))
        limits = Path(f"/proc/{agent}/limits").read_text().splitlines()
        assert next(line for line in limits if "core file" in line).split()[4] == "0"
        assert comes([*range(1, t + 1)], mirror)

    count(store, each=look, until=3, save="every 1 step", keep="all", mirror=mirror, compact="idle")
    assert gone(store)
    for place in (store, mirror):
        assert isinstance(run_of(place).storage, SealedStorage)
        assert steps_in(place) == [1, 2, 3]
        for checkpoint in run_of(place).checkpoints():
            assert signatures.signer(run_of(place), run_of(place).manifest(checkpoint), checkpoint) == PUBLIC
    secret = run_of(store).storage._secret  # type: ignore[attr-defined]
    files = [p for p in here.rglob("*") if p.is_file() and p.suffix != ".key"]
    for shown in [*said, *(path.read_bytes() for path in files)]:
        for key in (KEY, SIGNING, secret.hex()):
            assert key[-60:].encode() not in shown
        assert secret not in shown


def test_a_fresh_machine_starts_from_a_sealed_mirror(here: Path) -> None:
    mirror = here / "mirror"
    count(here / "first", until=3, save="every 1 step", mirror=mirror)
    assert gone(here / "first")
    state = count(here / "second", until=5, mirror=mirror)
    assert state["log"] == [0, 1, 2, 3, 4]
    assert gone(here / "second")


@pytest.mark.parametrize("save", ["every 1 step", "memory every 1 step, disk every 3 steps"])
def test_killed_and_launched_again_it_is_as_if_nothing_had_happened(here: Path, save: str) -> None:
    options: dict[str, Any] = {"until": 8, "size": 200_000, "save": save}
    process = launch(
        lambda tell: count(here / "cut", each=at(5, lambda _: send_self(signal.SIGKILL)), **options) and None
    )
    assert process.wait() == -signal.SIGKILL
    assert wait_until(lambda: bool(steps_in(here / "cut")))
    cut, whole = count(here / "cut", **options), count(here / "whole", **options)
    assert cut["log"] == whole["log"]
    assert np.array_equal(cut["weights"], whole["weights"])
    assert wait_until(lambda: not agents_of(here / "cut") and not agents_of(here / "whole"), 60.0)


def test_a_wrong_key_stops_a_launch_before_training_and_changes_nothing(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOLDFAST_BACKGROUND", "0")
    count(here / "store", until=3, save="every 1 step")
    before = {path: path.read_bytes() for path in (here / "store").rglob("*") if path.is_file()}
    for given in ({}, {"HOLDFAST_KEY": OTHER_KEY}):
        give(monkeypatch, **given)
        with pytest.raises(SealedError):
            count(here / "store", until=5)
    other, other_public = signatures.generate()
    give(monkeypatch, HOLDFAST_KEY=KEY, HOLDFAST_SIGNED_BY=other_public)
    for signing in (None, SIGNING):  # the next launch would not accept what this one saves
        if signing is not None:
            monkeypatch.setenv("HOLDFAST_SIGNING_KEY", signing)
        with pytest.raises(UsageError, match="could not go on from it"):
            count(here / "store", until=5)
    monkeypatch.setenv("HOLDFAST_SIGNING_KEY", other)
    with pytest.raises(SignatureError):
        count(here / "store", until=5)
    assert not run_of(here / "store").rejected()
    give(monkeypatch, HOLDFAST_KEY=KEY)
    assert count(here / "store", until=5)["log"] == [0, 1, 2, 3, 4]
    after = {path: path.read_bytes() for path in (here / "store").rglob("*") if path.is_file()}
    kept = {path: data for path, data in after.items() if path in before and path.suffix != ".lock"}
    assert all(data == before[path] for path, data in kept.items())


FAILURES = {
    "a wrong key": {"HOLDFAST_KEY": OTHER_KEY},
    "a key that is cut": {"HOLDFAST_KEY": KEY[:-2]},
    "a command that prints and fails": {"HOLDFAST_KEY_COMMAND": f"sh -c 'echo {KEY}; exit 1'"},
    "a service that answers with the key": {"HOLDFAST_KEY_SERVICE": f"echo {KEY}"},
    "a signing key that is cut": {"HOLDFAST_KEY": KEY, "HOLDFAST_SIGNING_KEY": SIGNING[:-2]},
    "a signing key that is the other kind": {"HOLDFAST_KEY": KEY, "HOLDFAST_SIGNING_KEY": KEY},
}


@pytest.mark.parametrize("failure", FAILURES)
def test_tracebacks_and_errors_show_no_key(here: Path, failure: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOLDFAST_BACKGROUND", "0")
    holdfast.save(here / "store", {"w": 1}, step=1)
    give(monkeypatch, **FAILURES[failure])
    script = f"import holdfast; holdfast.Checkpointer({str(here / 'store')!r}, {{'w': 1}}).__enter__()"
    verbs = [["--debug", "ls", "-R", "store"], ["ls", "-R", "store", "--json"], ["key", "add", "-R", "store"]]
    programs = [["-X", "dev", "-c", script], *(["-m", "holdfast", *words] for words in verbs)]
    for words in programs:
        done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)
        assert done.returncode in (0, 1, 2, 12), done.stderr
        for key in (KEY, OTHER_KEY, SIGNING):
            assert key[30:-6] not in done.stdout + done.stderr


def test_objects_of_a_sealed_repository_print_no_secret(here: Path) -> None:
    holdfast.save(here / "store", {"w": 1}, step=1)
    repository = Repository.open(LocalStorage(here / "store"))
    secret = repository.storage._secret  # type: ignore[attr-defined]
    shown = repr(repository) + repr(repository.storage) + repr(holdfast.open(here / "store"))
    assert repr(secret) not in shown
    assert secret.hex() not in shown


def test_a_signing_key_that_is_away_for_a_while_costs_a_save_and_not_the_training(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOLDFAST_BACKGROUND", "0")
    key = Path("sign.key")

    def each(ckpt: holdfast.Checkpointer, t: int) -> None:
        if t == 2:
            key.rename("away")
        if t == 4:
            Path("away").rename(key)

    count(here / "store", each=each, until=8, save="every 1 step", keep="all")
    told = capsys.readouterr().err
    assert "could not be saved" in told
    assert "sign.key cannot be read" in told
    assert steps_in(here / "store")[-1] == 8
    assert 3 not in steps_in(here / "store")


def test_an_agent_without_its_key_costs_a_save_and_not_the_training(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It was killed, and the next one cannot open the repository."""
    key = Path("my.key")

    def each(ckpt: holdfast.Checkpointer, t: int) -> None:
        if t == 2:
            agent = agent_of(ckpt)
            key.rename("away")
            os.kill(agent, signal.SIGKILL)
        if t == 4:
            assert wait_until(lambda: ckpt._entered._saver.poll() or ckpt._entered._saver.paused(), 60.0)
            Path("away").rename(key)

    state = count(here / "store", each=each, until=8, save="every 1 step", keep="all")
    assert state["log"] == list(range(8))
    assert "could not be saved" in capsys.readouterr().err
    assert steps_in(here / "store")[-1] == 8
