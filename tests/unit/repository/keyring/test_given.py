"""Keys from the environment: each way, and what is refused without being shown."""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path

import pytest

from holdfast.errors import HoldfastError, UsageError
from holdfast.repository import signatures
from holdfast.repository.keyring import passphrase, raw
from holdfast.repository.keyring.base import GivenKey, Wrapping
from holdfast.repository.keyring.given import given_keys
from holdfast.repository.keyring.passphrase import Passphrase
from holdfast.repository.keyring.raw import RawKey
from holdfast.repository.keyring.service import ServiceKey
from keys import KEY, OTHER_KEY, give

SECRET, CONTEXT = bytes(range(32)), b"context"
WORDS = "correct horse battery staple"
SERVICE = """
import base64, sys
data = base64.b64decode(sys.stdin.read())
print(base64.b64encode(bytes(b ^ 0x5a for b in data)).decode())
"""


@pytest.fixture(autouse=True)
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passphrase, "COST", (1 << 10, 8, 1))


def private(path: Path, text: str) -> str:
    path.write_text(text)
    path.chmod(0o600)
    return str(path)


def service(folder: Path) -> ServiceKey:
    (folder / "service.py").write_text(SERVICE)
    return ServiceKey(f"{sys.executable} {folder / 'service.py'}")


def all_kinds(folder: Path) -> list[GivenKey]:
    return [RawKey(KEY), Passphrase(WORDS), service(folder)]


def test_each_kind_wraps_and_unwraps(tmp_path: Path) -> None:
    for key in all_kinds(tmp_path):
        first, second = key.wrap(SECRET, CONTEXT), key.wrap(SECRET, CONTEXT)
        assert first.kind == key.kind
        assert first.wrapped != second.wrapped
        assert SECRET.hex() not in repr(first)
        assert key.unwrap(first, CONTEXT) == SECRET
        assert key.unwrap(first, b"another context") is None


def test_a_changed_wrapping_or_another_key_gives_nothing(tmp_path: Path) -> None:
    import msgspec

    others: list[GivenKey] = [RawKey(OTHER_KEY), Passphrase(WORDS + "!"), service(tmp_path)]
    for key, other in zip(all_kinds(tmp_path), others, strict=True):
        wrapping = key.wrap(SECRET, CONTEXT)
        changed = [
            msgspec.structs.replace(
                wrapping, wrapped=("0" if wrapping.wrapped[0] != "0" else "1") + wrapping.wrapped[1:]
            ),
            msgspec.structs.replace(wrapping, wrapped=""),
            msgspec.structs.replace(wrapping, wrapped="no hexadecimal digits"),
        ]
        if key.kind != "service":
            changed.append(msgspec.structs.replace(wrapping, salt="00" * 32))
            assert other.unwrap(wrapping, CONTEXT) is None
        else:
            changed.append(msgspec.structs.replace(wrapping, blob="00" * 32))
        assert [key.unwrap(w, CONTEXT) for w in changed] == [None] * 4


@pytest.mark.parametrize(
    "cost",
    [
        (1 << 40, 8, 1),
        (1 << 17, 1 << 20, 1),
        (1 << 17, 8, 1 << 20),
        (0, 8, 1),
        (1000, 8, 1),
        (1024, 0, 1),
        (-2, 8, 1),
    ],
)
def test_a_forged_cost_takes_neither_memory_nor_time(cost: tuple[int, int, int]) -> None:
    forged = Wrapping("passphrase", "00" * 32, "00" * 60, cost=cost)
    assert Passphrase(WORDS).unwrap(forged, CONTEXT) is None


def test_every_way_is_tried_in_order(tmp_path: Path) -> None:
    first, second = private(tmp_path / "a", KEY + "\n"), private(tmp_path / "b", WORDS)
    found = given_keys(
        environment={
            "HOLDFAST_KEY": "first of all keys",
            "HOLDFAST_KEY_FILE": f"{first}:{second}",
            "HOLDFAST_KEY_COMMAND": f"{sys.executable} -c 'print(\"from a command\")'",
            "HOLDFAST_KEY_SERVICE": "my-service --key 7",
        }
    )
    assert [key.kind for key in found] == ["passphrase", "key", "passphrase", "passphrase", "service"]
    wrapping = RawKey(KEY).wrap(SECRET, CONTEXT)
    assert found[1].unwrap(wrapping, CONTEXT) == SECRET
    wrapping = Passphrase("from a command").wrap(SECRET, CONTEXT)
    assert found[3].unwrap(wrapping, CONTEXT) == SECRET
    assert given_keys(environment={}) == []
    assert given_keys(environment={"HOLDFAST_KEY": "", "HOLDFAST_KEY_FILE": ""}) == []


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o666])
def test_a_file_open_to_others_is_refused(tmp_path: Path, mode: int) -> None:
    path = Path(private(tmp_path / "key", KEY))
    path.chmod(mode)
    with pytest.raises(UsageError, match=r"is open to others\. Run: chmod 600"):
        given_keys(environment={"HOLDFAST_KEY_FILE": str(path)})


def test_a_signing_key_open_to_others_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    private_half, _ = signatures.generate()
    path = Path(private(tmp_path / "signing", private_half))
    give(monkeypatch, HOLDFAST_SIGNING_KEY_FILE=str(path))
    assert signatures.signing_key() is not None
    path.chmod(0o644)
    with pytest.raises(UsageError, match="is open to others"):
        signatures.signing_key()


def test_a_key_through_a_pipe_is_taken() -> None:
    reading, writing = os.pipe()
    os.write(writing, KEY.encode() + b"\n")
    os.close(writing)
    assert given_keys(environment={"HOLDFAST_KEY_FILE": f"/dev/fd/{reading}"})[0].kind == "key"
    os.close(reading)


BAD = {
    "no file": ({"HOLDFAST_KEY_FILE": "/no/such/file"}, "cannot be read"),
    "cut short": ({"HOLDFAST_KEY": KEY[:-1]}, "is not whole"),
    "capitals": ({"HOLDFAST_KEY": KEY.upper().replace("HOLDFAST-KEY", "holdfast-key")}, "is not whole"),
    "blank": ({"HOLDFAST_KEY": "  "}, "holds no key"),
    "two lines": ({"HOLDFAST_KEY": f"{KEY}\n{KEY}"}, "more than a line"),
    "no command": ({"HOLDFAST_KEY_COMMAND": "/no/such/program"}, "there is no command /no/such/program"),
    "quotes": ({"HOLDFAST_KEY_COMMAND": "'"}, "No closing quotation"),
    "command fails": ({"HOLDFAST_KEY_COMMAND": f"sh -c 'echo {KEY}; exit 3'"}, "it ended with 3"),
    "command is silent": ({"HOLDFAST_KEY_COMMAND": "true"}, "holds no key"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_key_is_refused_and_never_shown(case: str) -> None:
    environment, why = BAD[case]
    with pytest.raises(UsageError, match=why) as caught:
        given_keys(environment=environment)
    told = "".join(traceback.format_exception(caught.value))
    assert KEY[20:-4] not in told


def test_a_short_passphrase_seals_nothing() -> None:
    with pytest.raises(UsageError, match="fewer than 8 characters"):
        Passphrase("seven77").wrap(SECRET, CONTEXT)


def test_a_service_that_talks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HoldfastError, match="in base64"):
        ServiceKey("echo hello, world").wrap(SECRET, CONTEXT)


def test_keys_hide_themselves(tmp_path: Path) -> None:
    for key in all_kinds(tmp_path):
        shown = repr(key) + str(key)
        assert "5a5a" not in shown
        assert "horse" not in shown


def test_generated_keys_differ_and_work() -> None:
    first, second = raw.generate(), raw.generate()
    assert first != second
    wrapping = RawKey(first).wrap(SECRET, CONTEXT)
    assert RawKey(first).unwrap(wrapping, CONTEXT) == SECRET
    assert RawKey(second).unwrap(wrapping, CONTEXT) is None
