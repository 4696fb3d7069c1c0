"""The policies of the guide, on a server that enforces them: enough for each role, and no more."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import boto3
import numpy as np
import pytest
from tests import s3_server

import holdfast
from holdfast.cli import app
from holdfast.errors import HoldfastError, StorageError
from holdfast.repository import retention

GUIDE = Path(__file__).parents[3] / "docs" / "guides" / "permissions.md"
POLICIES: list[dict[str, Any]] = [
    json.loads(block) for block in re.findall(r"```json\n(.*?)```", GUIDE.read_text(), re.DOTALL)
]
TRAINER, PRUNER, READER = POLICIES
ACTIONS = [
    (number, action)
    for number, policy in enumerate(POLICIES)
    for statement in policy["Statement"]
    for action in statement["Action"]
]


class Store:
    """A server that lets everybody do everything until it is told to enforce."""

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint
        self.prefix = uuid.uuid4().hex
        self.place = s3_server.url(endpoint, self.prefix)

    def enforce(self, at_once: bool) -> None:
        free = b"0" if at_once else b"1000000000"
        address = f"{self._endpoint}/moto-api/reset-auth"
        urlopen(Request(address, free, {"Content-Type": "text/plain"}, method="POST")).close()

    def user(self, policy: dict[str, Any], without: str | None = None) -> dict[str, str]:
        """Credentials of a new user who may do what a policy of the guide says."""
        text = json.dumps(policy).replace("BUCKET", s3_server.BUCKET).replace("team/digits", self.prefix)
        allowed = json.loads(text)
        for statement in allowed["Statement"]:
            statement["Action"] = [a for a in statement["Action"] if a != without] or ["s3:GetBucketAcl"]
            if (
                "s3:DeleteObject" in statement["Action"]
            ):  # S3 asks for each object, this server for the bucket
                statement["Resource"].append(f"arn:aws:s3:::{s3_server.BUCKET}")
        iam = boto3.client("iam", endpoint_url=self._endpoint, region_name="us-east-1")
        name = uuid.uuid4().hex
        iam.create_user(UserName=name)
        key = iam.create_access_key(UserName=name)["AccessKey"]
        iam.put_user_policy(UserName=name, PolicyName="guide", PolicyDocument=json.dumps(allowed))
        return {"AWS_ACCESS_KEY_ID": key["AccessKeyId"], "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"]}


@pytest.fixture
def store(s3: str) -> Iterator[Store]:
    made = Store(s3)
    made.enforce(at_once=False)
    yield made
    made.enforce(at_once=False)


def train(place: str, steps: int, keep: str = "all") -> int:
    state = {"w": np.zeros(100_000)}
    with holdfast.Checkpointer(place, state, save="every 2 steps", keep=keep, background=False) as ckpt:
        assert (state["w"] == ckpt.progress.step).all()
        for _ in ckpt.steps(steps):
            state["w"] += 1
        ckpt.save(tag="here")
    return ckpt.progress.step


def verb(*words: str) -> None:
    if app.run(words):
        raise StorageError(" ".join(words))


def trains(place: str) -> None:
    assert train(place, 4) == 4
    assert train(place, 8) == 8
    verb("fork", "main@4", "other", "-R", place)


def prunes(place: str) -> None:
    verb("prune", "--keep", "last 1", "--yes", "-R", place)
    verb("prune", "--keep", "last 1", "--yes", "-R", place)


def reads(place: str) -> None:
    into = {"w": np.zeros(100_000)}
    assert holdfast.load(place, into).step == 4
    assert (into["w"] == 4).all()
    verb("verify", "-R", place)
    verb("ls", "-R", place)


WORK: list[Callable[[str], None]] = [trains, prunes, reads]


def prepared(store: Store, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for module_seconds in ("GRACE_SECONDS", "TEMPORARY_SECONDS"):
        monkeypatch.setattr(retention, module_seconds, -60.0)
    if number:
        train(store.place, 4)


def become(user: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in user.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize("number", range(len(WORK)), ids=["trainer", "pruner", "reader"])
def test_each_role_can_do_its_work(store: Store, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared(store, number, monkeypatch)
    become(store.user(POLICIES[number]), monkeypatch)
    store.enforce(at_once=True)
    WORK[number](store.place)


@pytest.mark.parametrize(("number", "action"), ACTIONS)
def test_no_role_can_without_one_of_its_actions(
    store: Store, number: int, action: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared(store, number, monkeypatch)
    become(store.user(POLICIES[number], without=action), monkeypatch)
    store.enforce(at_once=True)
    with pytest.raises(HoldfastError):
        WORK[number](store.place)


def test_a_trainer_that_cannot_delete_loses_nothing_and_a_pruner_follows(
    store: Store, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    trainer, pruner = store.user(TRAINER), store.user(PRUNER)
    prepared(store, 0, monkeypatch)
    store.enforce(at_once=True)
    become(trainer, monkeypatch)
    assert train(store.place, 8, keep="last 1") == 8
    said = capfd.readouterr().err
    assert "old checkpoints were not removed" in said
    assert "access was denied" in said
    with pytest.raises(StorageError):
        verb("rm", "main@2", "--yes", "-R", store.place)
    assert train(store.place, 10, keep="all") == 10
    become(pruner, monkeypatch)
    prunes(store.place)
    verb("verify", "-R", store.place)
    left = [c.step for c in holdfast.open(store.place)["main"]]
    assert left[-1] == 10
    assert len(left) < 4
    become(trainer, monkeypatch)
    assert train(store.place, 12) == 12
