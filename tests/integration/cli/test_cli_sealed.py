"""The command line on sealed and signed repositories."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import holdfast as library
from holdfast.cli import app
from holdfast.repository.keyring import passphrase
from holdfast.training import oneshot
from keys import KEY, OTHER_KEY, give

WORDS = "correct horse battery staple"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(passphrase, "COST", (1 << 10, 8, 1))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("HOLDFAST_REPOSITORY", str(tmp_path / "ckpts"))
    give(monkeypatch, HOLDFAST_KEY=KEY)
    return tmp_path


@pytest.fixture
def holdfast(here: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def call(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = app.run(arguments)
        return code, *capsys.readouterr()

    return call


def save(place: Path, *steps: int) -> None:
    oneshot._Writer.last.clear()  # as a process of its own
    for step in steps:
        library.save(place, {"w": np.full(3, step)}, step=step)


def test_init_says_whether_it_is_sealed(here, holdfast, monkeypatch):
    code, out, _ = holdfast("init", "--sealed", "--json")
    assert (code, json.loads(out)["sealed"]) == (0, True)
    assert "Found the sealed repository" in holdfast("init")[1]
    give(monkeypatch)
    code, _, err = holdfast("init", "--sealed", str(here / "other"))
    assert (code, "No key was given" in err) == (2, True)
    assert not (here / "other").exists()
    assert "Created the repository" in holdfast("init", str(here / "other"))[1]


def test_every_reading_verb_works_with_the_key_and_refuses_without(here, holdfast, monkeypatch):
    save(here / "ckpts", 1, 2)
    verbs = [
        ("ls",),
        ("ls", "main"),
        ("show", "main"),
        ("du",),
        ("verify",),
        ("repair",),
        ("status",),
        ("tag",),
    ]
    verbs += [
        ("compact",),
        ("prune",),
        ("diff", "main@1", "main@2"),
        ("fork", "main@1", "branch"),
        ("mv", "main", "x"),
    ]
    for verb in verbs:
        assert holdfast(*verb)[0] == 0, verb
    before = {path: path.read_bytes() for path in here.rglob("*") if path.is_file()}
    for given in ({}, {"HOLDFAST_KEY": OTHER_KEY}):
        give(monkeypatch, **given)
        for verb in verbs:
            code, out, err = holdfast(*verb)
            assert (code, out) == (12, ""), verb
            assert KEY[20:] not in err
        assert holdfast("doctor")[0] == 1
    assert {path: path.read_bytes() for path in here.rglob("*") if path.is_file()} == before


def test_keys_are_added_changed_listed_and_removed(here, holdfast, monkeypatch):
    save(here / "ckpts", 1)
    give(monkeypatch, HOLDFAST_KEY=KEY, HOLDFAST_NEW_KEY=WORDS)
    code, out, _ = holdfast("key", "add", "--label", "me", "--json")
    added = json.loads(out)["added"]
    assert code == 0
    give(monkeypatch, HOLDFAST_KEY=WORDS, HOLDFAST_NEW_KEY=OTHER_KEY)
    assert json.loads(holdfast("key", "change", "--json")[1])["removed"] == added
    give(monkeypatch)
    keys = json.loads(holdfast("key", "list", "--json")[1])["keys"]
    assert [(k["kind"], k["label"]) for k in keys] == [("key", ""), ("key", "me")]
    assert keys[1]["id"] in holdfast("key", "list")[1]
    assert holdfast("key", "remove", keys[0]["id"])[0] == 12
    give(monkeypatch, HOLDFAST_KEY=OTHER_KEY)
    assert holdfast("key", "remove", keys[0]["id"])[0] == 0
    assert holdfast("key", "remove", keys[1]["id"])[0] == 2
    assert holdfast("ls")[0] == 0
    give(monkeypatch, HOLDFAST_KEY=KEY)
    assert holdfast("ls")[0] == 12


def test_what_cannot_be_done_to_keys_is_refused_in_a_sentence(here, holdfast, monkeypatch):
    save(here / "ckpts", 1)
    for arguments, said in {
        ("burn",): "'burn' is nothing that can be done to keys",
        ("add",): "No new key was given",
        ("remove",): "Which key shall be removed?",
        ("generate",): "Which file shall hold the key?",
    }.items():
        code, out, err = holdfast("key", *arguments)
        assert (code, out) == (2, "")
        assert said in err
    give(monkeypatch)
    library.save(here / "open", {"w": 1}, step=1)
    code, _, err = holdfast("key", "list", "--repository", str(here / "open"))
    assert (code, "has no keys" in err) == (2, True)


def test_generated_files_are_the_owners_and_never_replace_another(here, holdfast, monkeypatch):
    old = os.umask(0)
    try:
        code, out, _ = holdfast("key", "generate", str(here / "a.key"))
    finally:
        os.umask(old)
    assert code == 0
    text = (here / "a.key").read_text().strip()
    assert text not in out
    assert stat.S_IMODE((here / "a.key").stat().st_mode) == 0o600
    assert holdfast("key", "generate", str(here / "a.key"))[0] == 2
    library.save(here / "data", {"w": 1}, step=1)
    code, _, err = holdfast("key", "generate", str(here / "data" / "runs" / "b.key"))
    assert (code, "beside the data" in err) == (2, True)
    assert (here / "a.key").read_text().strip() == text
    give(monkeypatch, HOLDFAST_KEY_FILE=str(here / "a.key"))
    save(here / "ckpts", 1)
    (here / "a.key").chmod(0o644)
    code, _, err = holdfast("ls")
    assert (code, "chmod 600" in err) == (2, True)


def test_sync_between_keys_and_never_into_the_open_unless_asked(here, holdfast, monkeypatch):
    save(here / "ckpts", 1, 2)
    copy, other, plain = (str(here / name) for name in ("copy", "other", "plain"))
    assert holdfast("sync", str(here / "ckpts"), copy)[0] == 0
    give(monkeypatch, HOLDFAST_KEY=OTHER_KEY)
    assert holdfast("init", other)[0] == 0
    (here / "both").write_text(KEY)
    (here / "both").chmod(0o600)
    give(monkeypatch, HOLDFAST_KEY=OTHER_KEY, HOLDFAST_KEY_FILE=str(here / "both"))
    assert holdfast("sync", str(here / "ckpts"), other)[0] == 0
    give(monkeypatch, HOLDFAST_KEY=OTHER_KEY)
    assert library.load(other, {"w": np.zeros(3, int)}).step == 2
    give(monkeypatch)
    assert holdfast("init", plain)[0] == 0
    give(monkeypatch, HOLDFAST_KEY=KEY)
    code, _, err = holdfast("sync", str(here / "ckpts"), plain)
    assert (code, "is not sealed" in err) == (2, True)
    assert holdfast("sync", str(here / "ckpts"), plain, "--dry-run")[0] == 2
    assert holdfast("sync", str(here / "ckpts"), plain, "--plain")[0] == 0
    assert holdfast("sync", plain, str(here / "again"))[0] == 0  # an open source gets sealed
    assert json.loads((here / "again" / "holdfast.json").read_text())["record"]["format"] == 2
    give(monkeypatch)
    assert library.load(plain, {"w": np.zeros(3, int)}).step == 2


def test_verify_requires_signatures(here, holdfast, monkeypatch):
    code, out, _ = holdfast("key", "generate", str(here / "sign.key"), "--signing", "--json")
    public = json.loads(out)["public"]
    assert public in holdfast("key", "generate", str(here / "x"), "--signing")[1] or code == 0
    save(here / "ckpts", 1)
    give(monkeypatch, HOLDFAST_KEY=KEY, HOLDFAST_SIGNING_KEY_FILE=str(here / "sign.key"))
    save(here / "ckpts", 2)
    assert holdfast("verify")[0] == 0
    code, out, _ = holdfast("verify", "--signed-by", public)
    assert (code, "main@1 is not signed." in out, "main@2" in out) == (13, True, False)
    assert "starts from is not signed" in out
    assert holdfast("verify", "main@2", "--signed-by", public)[0] == 0
    give(monkeypatch, HOLDFAST_KEY=KEY, HOLDFAST_SIGNED_BY=public)
    code, out, _ = holdfast("verify", "--json")
    assert code == 13
    assert [bool(c["unsigned"]) for c in json.loads(out)["checkpoints"]] == [True, False]
    for words in (("tag", "main@2", "good"), ("restart", "main", "--yes")):
        code, _, err = holdfast(*words)
        assert (code, "would have none that counts" in err) == (2, True)
    assert holdfast("verify", "--signed-by", "nonsense")[0] == 2
    assert holdfast("mv", "main", "renamed")[2].startswith("1 checkpoint not signed any more")


def test_what_was_removed_or_renamed_on_purpose_is_no_rollback(here, holdfast, monkeypatch):
    public = json.loads(holdfast("key", "generate", str(here / "sign.key"), "--signing", "--json")[1])[
        "public"
    ]
    give(
        monkeypatch,
        HOLDFAST_KEY=KEY,
        HOLDFAST_SIGNING_KEY_FILE=str(here / "sign.key"),
        HOLDFAST_SIGNED_BY=public,
    )
    save(here / "ckpts", 1, 2)
    state = {"w": np.zeros(3, int)}
    assert holdfast("rm", "main@2", "--yes", "--force")[0] == 0
    assert library.load(here / "ckpts", state).step == 1
    assert holdfast("mv", "main", "old")[0] == 0
    save(here / "ckpts", 1)
    assert holdfast("rm", "main", "--yes")[0] == 0
    save(here / "ckpts", 1)
    assert library.load(here / "ckpts", state).step == 1


def test_without_the_package_it_is_refused_by_name(here, monkeypatch):
    save(here / "ckpts", 1)
    code = (
        "import sys; sys.modules['cryptography'] = None\n"
        "from holdfast.cli import app; sys.exit(app.run(['ls']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, "pip install 'holdfast[seal]'" in done.stderr) == (8, True)
