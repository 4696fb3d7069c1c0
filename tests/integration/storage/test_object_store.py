"""A repository in an object store: saved to, killed, resumed; and stores that do not what they should."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests import google_rules, node_servers, oss_rules, s3_server
from tests.integration.training.launching import count
from tests.killing import in_child
from tests.s3_proxy import meddling

import holdfast
from holdfast.cli import app
from holdfast.errors import StorageError
from holdfast.repository.repository import Repository
from holdfast.repository.verify import Verifier
from holdfast.storage.base import KeepsTemporaries
from holdfast.storage.urls import open_storage

Told = Callable[..., str]


@pytest.fixture
def place(s3: str) -> str:
    return s3_server.url(s3, f"team/{uuid.uuid4().hex}")


@pytest.fixture
def told(capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """What the command line says."""

    def run(*words: str, exit_code: int = 0) -> str:
        capfd.readouterr()
        code = app.run(words)
        said = capfd.readouterr()
        assert code == exit_code, said.err
        return " ".join((said.out + said.err).split())

    return run


def steps_in(place: str) -> list[int]:
    return [checkpoint.step for checkpoint in holdfast.open(place)["main"]]


def test_what_is_saved_comes_back_bit_for_bit(place: str) -> None:
    state: dict[str, Any] = {"weights": np.random.default_rng(0).random(3_000_000), "log": [1, "two"]}
    holdfast.save(place, state, step=1)
    state["log"].append(3.0)
    holdfast.save(place, state, step=2, tag="good")
    into: dict[str, Any] = {"weights": np.zeros(3_000_000), "log": []}
    assert holdfast.load(place, into).step == 2
    assert into["weights"].tobytes() == state["weights"].tobytes()
    assert into["log"] == [1, "two", 3.0]
    assert holdfast.load(place, into, at=1).step == 1
    packs = list(open_storage(place).list("packs/"))
    size_bytes = sum(open_storage(place).stat(key).size_bytes for key in packs)  # type: ignore[union-attr]
    assert size_bytes < 1.01 * state["weights"].nbytes, "the second save wrote the same chunks again"


TRAIN = """
import os, signal, sys
from tests.integration.training.launching import at, count, send_self
kill = at(3, lambda _: send_self(signal.SIGKILL)) if sys.argv[2] == "kill" else None
print(count(sys.argv[1], each=kill, save="every 2 steps")["log"])
"""


@pytest.mark.parametrize("background", ["0", "1"])
def test_a_killed_run_resumes_from_the_store(place: str, background: str) -> None:
    def train(how: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", TRAIN, place, how]
        environment = os.environ | {
            "HOLDFAST_BACKGROUND": background,
            "PYTHONPATH": os.pathsep.join(sys.path),
        }
        return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)

    assert train("kill").returncode == -signal.SIGKILL
    again = train("live")
    assert again.stdout.strip() == str(list(range(6))), again.stderr
    assert "resumes after step 2" in again.stderr
    assert steps_in(place)[-1] == 6
    holdfast.open(place)["main"].latest.verify()


def test_a_forked_child_is_refused_where_it_would_hang(place: str) -> None:
    holdfast.save(place, {"a": 1}, step=1)

    def use_in_child() -> None:
        with pytest.raises(StorageError, match="that used object stores was forked"):
            holdfast.load(place, {"a": 0})

    assert in_child(use_in_child) == 0


def test_forked_data_workers_beside_a_store_do_not_hang(place: str) -> None:
    torch = pytest.importorskip("torch")
    data = torch.utils.data.TensorDataset(torch.arange(24.0))
    loader = torch.utils.data.DataLoader(data, batch_size=2, num_workers=2, shuffle=True)
    model = torch.nn.Linear(1, 1)
    optimizer = torch.optim.AdamW(model.parameters())
    state = {"model": model, "optimizer": optimizer}
    with holdfast.Checkpointer(place, state, save="every 5 steps") as ckpt:
        for _ in ckpt.epochs(2):
            for (batch,) in ckpt.batches(loader):
                optimizer.zero_grad()
                model(batch[:, None]).square().mean().backward()
                optimizer.step()
                ckpt.step(loss=0.0)
    assert holdfast.open(place)["main"].latest.step == 24


def test_credentials_that_expire_cost_saves_and_not_the_training(s3: str) -> None:
    expired: list[bool] = []

    def refuse(method: str, headers: dict[str, str]) -> int | None:
        return 403 if expired and method in ("PUT", "POST") else None

    def each(ckpt: holdfast.Checkpointer, step: int) -> None:
        if step == 1:
            expired.append(True)
        elif step == 4:
            expired.clear()

    with meddling(s3, refuse) as endpoint:
        place = s3_server.url(endpoint, uuid.uuid4().hex)
        state = count(place, each=each, save="every 1 step", keep="all")  # type: ignore[arg-type]
        assert state["log"] == list(range(6))
        steps = steps_in(place)
        assert {1, 6} <= set(steps) < {1, 2, 3, 4, 5, 6}
        holdfast.open(place)["main"].latest.verify()


@pytest.mark.parametrize("bucket", [s3_server.BUCKET, oss_rules.BUCKET])
def test_two_launches_at_one_moment_never_harm_each_other(s3: str, bucket: str) -> None:
    place = s3_server.url(s3, uuid.uuid4().hex, bucket)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", TRAIN, place, "live"]
    quiet: Any = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True, "env": environment}
    both = [subprocess.Popen(command, **quiet) for _ in range(2)]
    said = [process.communicate(timeout=120)[1] for process in both]
    codes = [process.returncode for process in both]
    if 0 not in codes:
        pytest.fail("\n".join(said))
    for code, words in zip(codes, said, strict=True):
        assert code == 0 or "BusyError" in words or "SupersededError" in words, words
    run = Repository.open(open_storage(place)).run("main")
    verifier = Verifier(run.repository)
    assert all((v := verifier.check(run, c)) is not None and v.ok for c in run.checkpoints())
    assert count(place)["log"] == list(range(6))  # type: ignore[arg-type]


def test_the_command_line_works_on_a_url(place: str, told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    count(place, save="every 2 steps", keep="all")
    monkeypatch.setenv("HOLDFAST_REPOSITORY", place)
    assert "main" in told("ls")
    assert "All intact: 3 checkpoints" in told("verify")
    told("tag", "main@4", "good")
    assert "step 4" in told("show", "main@good")
    told("rm", "main@2", "--yes")
    assert steps_in(place) == [4, 6]
    assert "honours 'create only if absent'" in told("doctor")


def test_what_a_compaction_replaces_waits_for_its_grace(place: str, told: Told) -> None:
    for step in (1, 2):
        holdfast.save(place, {"weights": np.arange(300_000.0) + step}, step=step)
    said = told("compact", "--repository", place)
    assert "Replaced 2 packs by 1" in said
    assert "2 of the old stay" in said
    told("verify", "--repository", place)


def test_damage_in_the_store_is_noticed_and_walked_past(place: str, told: Told) -> None:
    count(place, save="every 3 steps", keep="all", size=100_000)
    storage = open_storage(place)
    newest = max(storage.list("packs/"), key=lambda key: storage.stat(key).modified_seconds)  # type: ignore[union-attr]
    for key in storage.list("packs/"):
        data = bytearray(storage.get(key))
        if key == newest or len(data) > 800_000:
            data[100_000] ^= 1
            storage.put(key, [data])
    with pytest.raises(holdfast.HoldfastError, match=r"is damaged"):
        holdfast.load(place, {"weights": np.zeros(100_000), "log": []}, at=6)
    told("verify", "--repository", place, exit_code=4)


# -- stores that do not do what they should ------------------------------------------------------


def test_a_creation_whose_answer_is_lost_counts_once(s3: str) -> None:
    lost: list[str] = []

    def lose_first_creation(method: str, headers: dict[str, str]) -> str | None:
        if method == "PUT" and "if-none-match" in headers and armed and not lost:
            lost.append(method)
            return "lose"
        return None

    armed: list[bool] = []
    with meddling(s3, lose_first_creation) as endpoint:
        storage = open_storage(s3_server.url(endpoint, uuid.uuid4().hex))
        assert storage.put_if_absent("claimed/before", b"x")  # whether it honours conditions is known now
        armed.append(True)
        assert storage.put_if_absent("claimed/mine", b"nonce") is True
        assert lost
        lost.clear()
        assert storage.put_if_absent("claimed/mine", b"another's") is False
        assert storage.get("claimed/mine") == b"nonce"


@pytest.mark.parametrize("answer", [500, 503, 409])
def test_what_fails_for_a_moment_is_tried_again(s3: str, answer: int) -> None:
    failures = [answer, answer]

    def fail_at_first(method: str, headers: dict[str, str]) -> int | None:
        return failures.pop() if armed and failures and method == "PUT" else None

    armed: list[bool] = []
    with meddling(s3, fail_at_first) as endpoint:
        storage = open_storage(s3_server.url(endpoint, uuid.uuid4().hex))
        assert storage.put_if_absent("a", b"x")
        armed.append(True)
        assert storage.put_if_absent("b", b"x")
        assert not failures
        assert storage.get("b") == b"x"


def test_a_store_that_ignores_conditions_is_refused(s3: str) -> None:
    def ignore(method: str, headers: dict[str, str]) -> None:
        headers.pop("if-none-match", None)

    with meddling(s3, ignore) as endpoint:
        place = s3_server.url(endpoint, uuid.uuid4().hex)
        with pytest.raises(StorageError, match="does not honour 'create only if absent'"):
            holdfast.save(place, {"a": 1}, step=1)
        assert list(open_storage(place).list("")) == []


def test_a_real_server_that_ignores_conditions_is_refused_for_writing_and_read_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = str(tmp_path / "here")
    holdfast.save(here, {"weights": np.arange(1000.0)}, step=1)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "S3RVER")
    with node_servers.s3rver(tmp_path / "served") as endpoint:
        place = s3_server.url(endpoint, "team")
        with pytest.raises(StorageError, match="does not honour 'create only if absent'"):
            holdfast.save(place, {"a": 1}, step=1)
        there = open_storage(place)
        assert list(there.list("")) == []
        for key in open_storage(here).list(""):  # as another program would copy it
            there.put(key, [open_storage(here).get(key)])
        into = {"weights": np.zeros(1000)}
        assert holdfast.load(place, into).step == 1
        assert (into["weights"] == np.arange(1000.0)).all()
        with pytest.raises(StorageError, match="two launches could not be kept apart"):
            holdfast.save(place, into, step=2)


@pytest.mark.parametrize("url", ["az", "gs"])
def test_what_is_saved_in_other_clouds_comes_back(url: str, s3: str, azure: str) -> None:
    google_rules.set_credentials()
    bucket, endpoint = {"az": (node_servers.CONTAINER, azure), "gs": (google_rules.BUCKET, s3)}[url]
    place = f"{url}://{bucket}/{uuid.uuid4().hex}?endpoint={endpoint}"
    state = {"weights": np.random.default_rng(0).random(3_000_000)}
    holdfast.save(place, state, step=1, tag="good")
    into = {"weights": np.zeros(3_000_000)}
    assert holdfast.load(place, into, at="good").step == 1
    assert into["weights"].tobytes() == state["weights"].tobytes()


def test_a_store_that_refuses_conditions_is_refused(s3: str) -> None:
    with meddling(s3, lambda method, headers: 501 if "if-none-match" in headers else None) as endpoint:
        place = s3_server.url(endpoint, uuid.uuid4().hex)
        with pytest.raises(StorageError, match="does not honour 'create only if absent'"):
            holdfast.save(place, {"a": 1}, step=1)


def test_refusals_are_said_in_one_sentence(s3: str) -> None:
    absent = s3_server.url(s3, "x").replace(s3_server.BUCKET, "no-such-bucket")
    with pytest.raises(StorageError, match="there is no such bucket"):
        list(open_storage(absent).list(""))
    with pytest.raises(StorageError, match="there is no such bucket"):
        open_storage(absent).put("a", [b"x"])
    with meddling(s3, lambda method, headers: 403) as endpoint:
        storage = open_storage(s3_server.url(endpoint, "x"))
        with pytest.raises(StorageError, match="access was denied"):
            storage.get("a")


def test_who_may_only_read_can_read(s3: str, told: Told) -> None:
    prefix = uuid.uuid4().hex
    holdfast.save(s3_server.url(s3, prefix), {"weights": np.arange(10.0)}, step=1)
    with meddling(s3, lambda method, headers: 403 if method in ("PUT", "DELETE") else None) as endpoint:
        place = s3_server.url(endpoint, prefix)
        into = {"weights": np.zeros(10)}
        assert holdfast.load(place, into).step == 1
        assert into["weights"].sum() == 45
        assert "All intact" in told("verify", "--repository", place)
        assert abs(open_storage(place).now_seconds() - time.time()) < 60
        assert "access was denied" in told("tag", "main", "a", "--repository", place, exit_code=7)


def test_what_leaves_for_a_store_is_paced(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr("holdfast.storage.pacing.Pace.__init__.__defaults__", (lambda: 0.0, slept.append))
    storage = open_storage(f"{place}&upload_limit=8MB/s")
    storage.put("packs/aa/b.pack", [np.ones(20 << 20, np.uint8)])
    assert slept == pytest.approx([1.05, 2.1], abs=0.01)
    assert len(storage.get("packs/aa/b.pack")) == 20 << 20


def test_a_store_is_asked_as_often_as_allowed(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr("holdfast.storage.pacing.Pace.__init__.__defaults__", (lambda: 0.0, slept.append))
    storage = open_storage(f"{place}&request_limit=10/s")
    for number in range(4):
        assert storage.stat(f"a{number}") is None
    assert slept == pytest.approx([0.1, 0.2, 0.3])


def test_a_cache_spares_the_store_and_a_part_is_read_alone(
    s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []

    def noting(method: str, headers: dict[str, str]) -> None:
        start, _, stop = headers.get("range", "").removeprefix("bytes=").partition("-")
        size = int(stop) + 1 - int(start) if start.isdigit() and stop.isdigit() else 0
        if method == "GET" and size > 2 << 20:  # small objects are asked for with room to spare
            read.append(size)

    model, rest = np.random.default_rng(0).random((2, 1_000_000))
    with meddling(s3, noting) as endpoint:
        place = s3_server.url(endpoint, uuid.uuid4().hex)
        holdfast.save(place, {"model": model, "rest": rest}, step=1)
        into = {"model": np.zeros(1_000_000), "rest": np.zeros(1_000_000)}
        read.clear()
        holdfast.load(place, into, only="model")
        assert (into["model"] == model).all()
        assert into["rest"].sum() == 0
        assert 8_000_000 <= sum(read) < 8_500_000
        monkeypatch.setenv("HOLDFAST_CACHE", str(tmp_path / "cache"))
        for expected in (16_000_000, 0):
            read.clear()
            into = {"model": np.zeros(1_000_000), "rest": np.zeros(1_000_000)}
            holdfast.load(place, into)
            assert (into["model"] == model).all()
            assert (into["rest"] == rest).all()
            assert expected <= sum(read) < expected + 1_000_000


def test_what_was_left_on_trial_is_swept_when_it_is_old(place: str) -> None:
    storage = open_storage(place)
    assert isinstance(storage, KeepsTemporaries)
    storage.put("staging/race-1", [b"x"])
    storage.put("packs/aa/b.pack", [b"x"])
    assert storage.sweep_temporaries(older_than_seconds=3600) == 0
    assert storage.sweep_temporaries(older_than_seconds=-60) == 1
    assert list(storage.list("")) == ["packs/aa/b.pack"]


def test_nothing_is_created_by_looking(place: str, told: Told) -> None:
    assert "There is no repository" in told("ls", "--repository", place, exit_code=3)
    assert list(open_storage(place).list("")) == []
