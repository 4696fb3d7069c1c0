"""Signed records: tags and launches count only if who is trusted made them, where that is required."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

import holdfast
from checkpoints import begin, make_repository, save
from holdfast.cli import app
from holdfast.domain.lineage import Attempt, trusted_part
from holdfast.domain.names import AttemptId, CheckpointId
from holdfast.errors import SignatureError
from holdfast.repository import records, signatures
from holdfast.repository.moving import move
from holdfast.repository.repository import Repository
from holdfast.repository.run import Run
from holdfast.repository.sync_plan import Route
from holdfast.repository.syncing import sync_run
from holdfast.repository.vouching import is_vouched, unsigned
from holdfast.storage.local import LocalStorage
from holdfast.storage.memory import MemoryStorage
from keys import give

MINE, MY_PUBLIC = signatures.generate()
HIS, HIS_PUBLIC = signatures.generate()


@pytest.fixture(autouse=True)
def signing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    give(monkeypatch, HOLDFAST_SIGNING_KEY=MINE)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture
def run() -> Run:
    """Two launches, of two checkpoints each; the first one ended well."""
    run = make_repository(MemoryStorage()).run("digits")
    first = begin(run)
    parent = None
    for step in (1, 2):
        parent = save(run, first, step, step, parent=parent).id
    run.record_end(first, "finished", 2, done=True)
    second = begin(run, parent)
    for step in (3, 4):
        parent = save(run, second, step, step, parent=parent).id
    run.set_tag("good", run.checkpoints()[-1])
    return run


@pytest.fixture
def trusting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOLDFAST_SIGNED_BY", MY_PUBLIC)


def forge_base(
    run: Run, base: CheckpointId | None, monkeypatch: pytest.MonkeyPatch, key: str = HIS
) -> AttemptId:
    """What somebody who can write does: a launch of his own."""
    with monkeypatch.context() as patch:
        give(patch, HOLDFAST_SIGNING_KEY=key)
        attempt = run.begin_attempt()
        run.record_origin(attempt, base)
    return attempt


def test_what_is_signed_counts(run: Run, trusting: None) -> None:
    assert run.latest() == run.resolve("good") == run.checkpoints()[-1]
    assert run.had_ended(run.attempts()[0].id)
    assert list(unsigned(run, {MY_PUBLIC})) == []
    told = list(unsigned(run, {HIS_PUBLIC}))
    assert len(told) == 4  # a tag, two bases, an end
    assert all(line.endswith(f" is signed by {MY_PUBLIC}, which is not trusted here.") for line in told)


@pytest.mark.parametrize("how", ["older", "afresh"])
def test_a_forged_launch_takes_the_run_nowhere(run: Run, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    newest, oldest = run.checkpoints()[-1], run.checkpoints()[0]
    forge_base(run, oldest if how == "older" else None, monkeypatch)
    assert run.latest() == (oldest if how == "older" else None)  # nothing is required
    monkeypatch.setenv("HOLDFAST_SIGNED_BY", MY_PUBLIC)
    assert run.latest() == newest
    assert run.begin_attempt().number == 4  # numbers count all the same


def test_a_record_says_nothing_of_another(run: Run, monkeypatch: pytest.MonkeyPatch, trusting: None) -> None:
    """Of another attempt, tag, run or repository, or with something changed."""
    base = records.read(run.storage, run.layout.base(run.attempts()[0].id), records.BaseRecord)
    assert is_vouched(run, base)
    for change in ({"attempt": "000009-00000000"}, {"checkpoint": str(run.checkpoints()[0])}):
        assert not is_vouched(run, msgspec.structs.replace(base, **change))
    assert not is_vouched(run.repository.run("other"), base)
    assert not is_vouched(make_repository(MemoryStorage()).run("digits"), base)
    end = run.layout.end(run.attempts()[0].id)
    run.storage.put(run.layout.end(run.attempts()[1].id), [run.storage.get(end)])
    assert not run.had_ended(run.attempts()[1].id)
    forged = msgspec.structs.replace(records.read(run.storage, end, records.EndRecord), done=False, step=9)
    assert not is_vouched(run, forged)


def test_a_tag_that_somebody_else_set_is_refused(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for given in ({}, {"HOLDFAST_SIGNING_KEY": HIS}):
        give(monkeypatch, **given)
        run.set_tag("good", run.checkpoints()[0])
        monkeypatch.setenv("HOLDFAST_SIGNED_BY", MY_PUBLIC)
        with pytest.raises(
            SignatureError, match="The tag 'good' of digits is not signed by who is trusted here"
        ):
            run.resolve("good")
    assert run.tags()["good"] == run.checkpoints()[0]  # it still keeps what it names
    give(monkeypatch, HOLDFAST_SIGNING_KEY=MINE, HOLDFAST_SIGNED_BY=MY_PUBLIC)
    run.set_tag("good", run.checkpoints()[1])
    assert run.resolve("good") == run.checkpoints()[1]


def test_where_no_launch_is_signed_nothing_begins_anew(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOLDFAST_SIGNED_BY", HIS_PUBLIC)
    with pytest.raises(SignatureError, match="Nobody who is trusted here signed what any launch of digits"):
        run.latest()
    give(monkeypatch, HOLDFAST_SIGNED_BY=HIS_PUBLIC)
    empty = make_repository(MemoryStorage()).run("digits")
    empty.record_base(empty.begin_attempt(), None)
    assert empty.latest() is None


@pytest.mark.parametrize("same_id", [True, False])
@pytest.mark.parametrize("key", [MINE, HIS, None], ids=["mine", "his", "none"])
def test_a_sync_carries_signatures_and_signs_only_what_was(
    run: Run, monkeypatch: pytest.MonkeyPatch, same_id: bool, key: str | None
) -> None:
    give(monkeypatch, **({"HOLDFAST_SIGNING_KEY": key} if key is not None else {}))
    repository_id = run.repository.id if same_id else None
    chunk_bytes = run.repository.chunk_bytes
    target = Repository.create(MemoryStorage(), chunk_bytes=chunk_bytes, repository_id=repository_id)
    sync_run(Route(run.repository, target), "digits")
    there = target.run("digits")
    assert there.latest() is not None
    assert (list(unsigned(there, {MY_PUBLIC})) == []) is (same_id or key == MINE)
    assert list(unsigned(there, {HIS_PUBLIC})) != []


@pytest.mark.parametrize("key", [MINE, None], ids=["mine", "none"])
def test_a_run_that_is_renamed_is_signed_anew(
    run: Run, monkeypatch: pytest.MonkeyPatch, key: str | None
) -> None:
    attempt = forge_base(run, run.checkpoints()[0], monkeypatch)
    give(monkeypatch, **({"HOLDFAST_SIGNING_KEY": key} if key is not None else {}))
    target = run.repository.run("renamed")
    move(run, target)
    left = list(unsigned(target, {MY_PUBLIC}))
    # what he wrote is not signed for him
    assert f"What attempt {attempt} of renamed starts from is not signed." in left
    assert len(left) == (1 if key is not None else 5)


def test_only_attempts_up_to_the_highest_trusted_one_count() -> None:
    def attempt(number: int, *, based: bool = True, trusted: bool = True) -> Attempt:
        return Attempt(AttemptId(number, "00000000"), based=based, trusted=trusted)

    attempts = [attempt(1), attempt(2, trusted=False), attempt(3), attempt(4, based=False)]
    assert trusted_part(attempts) == attempts[:3]
    assert trusted_part([*attempts, attempt(5, trusted=False)]) == attempts[:3]
    assert trusted_part([attempt(1, trusted=False), attempt(2, based=False)]) == []


def test_a_launch_says_which_attempts_do_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place = str(tmp_path / "there")
    for step in (1, 2):
        holdfast.save(place, {"w": np.full(3, step)}, step=step, tag="good")
    run = Repository.open(LocalStorage(place)).run("main")
    attempt = forge_base(run, run.checkpoints()[0], monkeypatch)
    state = {"w": np.zeros(3, int)}
    assert holdfast.load(place, state).step == 1
    monkeypatch.setenv("HOLDFAST_SIGNED_BY", MY_PUBLIC)
    capsys.readouterr()
    assert holdfast.load(place, state).step == 2
    assert f"attempt {attempt} does not count" in capsys.readouterr().err
    assert holdfast.load(place, state, at="good").step == 2
    assert app.run(("verify", "--repository", place)) == 13
    told = capsys.readouterr()
    assert f"What attempt {attempt} of main starts from is signed by {HIS_PUBLIC}, which is" in told.out
    with holdfast.Checkpointer(place, state) as ckpt:
        assert ckpt.restored is not None
        assert ckpt.restored.step == 2
