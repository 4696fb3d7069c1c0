"""OSS: its own header keeps creations apart, and is void where the bucket keeps versions."""

from __future__ import annotations

import uuid
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import numpy as np
import pytest
from tests import oss_rules, s3_server
from tests.s3_proxy import meddling

import holdfast
from holdfast.cli import app
from holdfast.errors import StorageError
from holdfast.storage.urls import open_storage

FORBID = "x-oss-forbid-overwrite"
SIGNED = {"Authorization": "AWS4-HMAC-SHA256 Credential=a/20260101/us-east-1/s3/aws4_request"}


@pytest.fixture
def place(s3: str) -> str:
    return s3_server.url(s3, uuid.uuid4().hex, oss_rules.BUCKET)


@pytest.fixture
def versioned(s3: str) -> str:
    """A bucket that has kept versions from its beginning."""
    bucket = f"oss-{uuid.uuid4().hex}"
    oss_rules.make_bucket(f"{s3}/{bucket}")
    oss_rules.keep_versions(f"{s3}/{bucket}")
    return bucket


def test_the_server_of_the_tests_behaves_as_oss_says(s3: str, versioned: str) -> None:
    def put(bucket: str, **headers: str) -> int:
        named = SIGNED | {name.replace("_", "-"): value for name, value in headers.items()}
        try:
            with urlopen(Request(f"{s3}/{bucket}/{key}", b"x", named, method="PUT")) as answer:
                return int(answer.status)
        except HTTPError as error:
            error.close()
            return error.code

    key = uuid.uuid4().hex
    assert put("oss", x_oss_forbid_overwrite="true") == 200
    assert put("oss", x_oss_forbid_overwrite="true") == 409
    assert put("oss", if_none_match="*") == 200
    assert put("oss") == 200
    assert [put(versioned, x_oss_forbid_overwrite="true") for _ in range(2)] == [200, 200]


def test_a_repository_lives_there(place: str, capsys: pytest.CaptureFixture[str]) -> None:
    state = {"weights": np.random.default_rng(0).random(2_000_000)}
    holdfast.save(place, state, step=1)
    into = {"weights": np.zeros(2_000_000)}
    assert holdfast.load(place, into).step == 1
    assert into["weights"].tobytes() == state["weights"].tobytes()
    capsys.readouterr()
    assert app.run(("doctor", "--repository", place)) == 0
    assert f"honours 'create only if absent' ({FORBID})" in capsys.readouterr().out


def test_only_creations_carry_the_header_and_only_where_the_usual_one_is_ignored(s3: str) -> None:
    carried: list[str] = []

    def note(method: str, headers: dict[str, str]) -> None:
        carried.extend(name for name in (FORBID, "if-none-match") if name in headers)

    with meddling(s3, note) as endpoint:
        oss = open_storage(s3_server.url(endpoint, uuid.uuid4().hex, oss_rules.BUCKET))
        assert oss.put_if_absent("a", b"x")
        carried.clear()
        assert not oss.put_if_absent("a", b"y")
        assert carried == [FORBID]
        oss.put("a", [b"z"])
        assert carried == [FORBID]
        carried.clear()
        assert open_storage(s3_server.url(endpoint, uuid.uuid4().hex)).put_if_absent("a", b"x")
        assert FORBID not in carried


def test_a_creation_whose_answer_is_lost_counts_once(s3: str) -> None:
    lost: list[str] = []

    def lose(method: str, headers: dict[str, str]) -> str | None:
        if FORBID in headers and armed and not lost:
            lost.append(method)
            return "lose"
        return None

    armed: list[bool] = []
    with meddling(s3, lose) as endpoint:
        storage = open_storage(s3_server.url(endpoint, uuid.uuid4().hex, oss_rules.BUCKET))
        assert storage.put_if_absent("before", b"x")
        armed.append(True)
        assert storage.put_if_absent("mine", b"nonce") is True
        assert lost
        assert storage.put_if_absent("mine", b"another's") is False
        assert storage.get("mine") == b"nonce"


def test_a_bucket_that_keeps_versions_is_refused(s3: str, versioned: str) -> None:
    place = s3_server.url(s3, "team", versioned)
    with pytest.raises(StorageError, match="keeps versions, which voids x-oss-forbid-overwrite"):
        holdfast.save(place, {"a": 1}, step=1)
    assert list(open_storage(place).list("")) == []


def test_versions_that_are_kept_from_now_on_are_noticed_at_the_next_creation(s3: str) -> None:
    bucket = f"oss-{uuid.uuid4().hex}"
    oss_rules.make_bucket(f"{s3}/{bucket}")
    storage = open_storage(s3_server.url(s3, "team", bucket))
    assert storage.put_if_absent("first", b"x")
    oss_rules.keep_versions(f"{s3}/{bucket}")
    with pytest.raises(StorageError, match="keeps versions"):
        storage.put_if_absent("second", b"x")
