"""Signed checkpoints: what counts, what does not, and what is never harmed by it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import holdfast
from checkpoints import begin, make_repository, make_state, read, save
from holdfast.errors import RolledBackError, SignatureError, UsageError
from holdfast.repository import seen, signatures
from holdfast.repository.forking import fork
from holdfast.repository.moving import move
from holdfast.repository.repository import Repository
from holdfast.repository.retention import remove, sweep
from holdfast.repository.run import Run
from holdfast.repository.sync_plan import Route
from holdfast.repository.syncing import sync_run
from holdfast.repository.thinning import make_thin
from holdfast.storage.memory import MemoryStorage
from keys import give

MINE, MY_PUBLIC = signatures.generate()
OTHER, OTHER_PUBLIC = signatures.generate()


@pytest.fixture(autouse=True)
def signing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    give(monkeypatch, HOLDFAST_SIGNING_KEY=MINE)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture
def run() -> Run:
    run = make_repository(MemoryStorage()).run("digits")
    attempt = begin(run)
    parent = None
    for step in (1, 2, 3):
        parent = save(run, attempt, step, step, parent=parent).id
    return run


def signer(run: Run, number: int = -1) -> str | None:
    checkpoint = run.checkpoints()[number]
    return signatures.signer(run, run.manifest(checkpoint), checkpoint)


def test_a_save_is_signed_before_it_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    put, create = MemoryStorage.put, MemoryStorage.put_if_absent
    monkeypatch.setattr(MemoryStorage, "put", lambda s, k, p: (written.append(k), put(s, k, p))[1])
    monkeypatch.setattr(
        MemoryStorage, "put_if_absent", lambda s, k, d: (written.append(k), create(s, k, d))[1]
    )
    run = make_repository(MemoryStorage()).run("digits")
    save(run, begin(run), 1, 1)
    kinds = [key.rpartition(".")[2] for key in written]
    assert kinds.index("pack") < kinds.index("signature") < kinds.index("manifest")
    assert signer(run) == MY_PUBLIC


def test_without_a_key_nothing_is_signed(monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    give(monkeypatch)
    save(run, run.attempts()[-1].id, 4, 4)
    assert signer(run) is None
    assert signer(run, -2) == MY_PUBLIC


def test_what_is_no_key_is_refused_before_anything_is_written(
    monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    give(monkeypatch, HOLDFAST_SIGNING_KEY=MINE[:-1])
    before = set(run.storage.list(""))
    with pytest.raises(UsageError, match="signing key is none") as caught:
        save(run, run.attempts()[-1].id, 4, 4)
    assert MINE[30:-2] not in str(caught.value)
    assert set(run.storage.list("")) == before
    with pytest.raises(UsageError), holdfast.Checkpointer("memory://unsigned", {}):
        pass
    with pytest.raises(UsageError, match="is no public key"):
        signatures.parse_public(MY_PUBLIC + " nonsense")


FORGERIES = {
    "another checkpoint's": lambda run, key: run.storage.get(run.layout.signature(run.checkpoints()[0])),
    "another key's": lambda run, key: run.storage.get(key).replace(
        MY_PUBLIC[-64:].encode(), OTHER_PUBLIC[-64:].encode()
    ),
    "cut": lambda run, key: run.storage.get(key)[:-20],
    "empty": lambda run, key: b"",
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_signature_that_is_not_right_is_none(run: Run, forgery: str) -> None:
    key = run.layout.signature(run.checkpoints()[-1])
    run.storage.put(key, [FORGERIES[forgery](run, key)])
    assert signer(run) is None


def test_it_is_for_one_run_of_one_repository(run: Run) -> None:
    """Copied below another name, or into another repository of another id, it counts for nothing."""
    for other in (run.repository.run("other"), make_repository(MemoryStorage()).run("digits")):
        for checkpoint in run.checkpoints():
            for find in ("checkpoint", "signature"):
                data = run.storage.get(getattr(run.layout, find)(checkpoint))
                other.storage.put(getattr(other.layout, find)(checkpoint), [data])
        checkpoint = run.checkpoints()[-1]
        assert signatures.signer(other, run.manifest(checkpoint), checkpoint) is None


def test_a_restore_that_requires_signatures_walks_past_others_and_records_nothing(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    place = str(tmp_path / "there")
    for step in (1, 2):
        holdfast.save(place, {"w": np.full(3, step)}, step=step)
    give(monkeypatch, HOLDFAST_SIGNING_KEY=OTHER)
    holdfast.save(place, {"w": np.full(3, 3)}, step=3)
    give(monkeypatch)
    holdfast.save(place, {"w": np.full(3, 4)}, step=4)
    state = {"w": np.zeros(3, int)}
    assert holdfast.load(place, state).step == 4
    give(monkeypatch, HOLDFAST_SIGNED_BY=MY_PUBLIC)
    capsys.readouterr()
    assert holdfast.load(place, state).step == 2
    assert state["w"].tolist() == [2, 2, 2]
    told = capsys.readouterr().err
    assert "main@4 is not signed" in told
    assert f"main@3 is signed by {OTHER_PUBLIC}, which is not trusted here" in told
    with pytest.raises(SignatureError):
        holdfast.load(place, state, at=4)
    with pytest.raises(SignatureError):
        holdfast.open(place)["main"][3].load()
    with pytest.raises(SignatureError):
        holdfast.open(place)["main"][3].export(tmp_path / "x.safetensors")
    give(monkeypatch, HOLDFAST_SIGNED_BY=f"{MY_PUBLIC},{OTHER_PUBLIC}")
    assert holdfast.load(place, state).step == 3
    nobody = signatures.generate()[1]
    give(monkeypatch, HOLDFAST_SIGNED_BY=nobody)
    with pytest.raises(SignatureError):
        holdfast.load(place, state)
    give(monkeypatch)
    assert holdfast.load(place, state).step == 4  # nothing was rejected by all that


def test_thin_copies_forks_and_renames_are_signed_anew(run: Run) -> None:
    newest = run.checkpoints()[-1]
    make_thin(run, newest, lambda value: True)
    thin = next(c for c in run.checkpoints() if c.kind == "thin")
    assert signatures.signer(run, run.manifest(thin), thin) == MY_PUBLIC
    fork(run, newest, "fork")
    assert signer(run.repository.run("fork")) == MY_PUBLIC
    renamed = run.repository.run("renamed")
    assert move(run, renamed).unsigned == 0
    assert [signer(renamed, n) for n in range(4)] == [MY_PUBLIC] * 4


def test_a_rename_without_the_key_says_how_many_lost_their_signature(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    for given in ({}, {"HOLDFAST_SIGNING_KEY": OTHER}):
        give(monkeypatch, **given)
        target = run.repository.run(f"renamed{len(given)}")
        assert move(run, target).unsigned == (3 if not given else 0)
        assert signer(target) is None
        assert read(target, target.checkpoints()[-1]) == make_state(3)
        run = target


def test_what_nobody_trusted_signed_is_neither_thinned_nor_forked_nor_brought(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or the forger's work would get our signature."""
    give(monkeypatch, HOLDFAST_SIGNING_KEY=OTHER, HOLDFAST_SIGNED_BY=OTHER_PUBLIC)
    newest = run.checkpoints()[-1]
    with pytest.raises(SignatureError):
        make_thin(run, newest, lambda value: True)
    with pytest.raises(SignatureError):
        fork(run, newest, "fork")
    target = make_repository(MemoryStorage())
    done = sync_run(Route(run.repository, target), "digits")
    assert len(done.failed) == 3
    assert not target.run("digits").checkpoints()


@pytest.mark.parametrize("same_id", [True, False])
def test_a_sync_keeps_the_signature_of_a_manifest_that_stays_the_same(
    run: Run, monkeypatch: pytest.MonkeyPatch, same_id: bool
) -> None:
    give(monkeypatch, HOLDFAST_SIGNING_KEY=OTHER)
    target = Repository.create(
        MemoryStorage(),
        chunk_bytes=run.repository.chunk_bytes,
        repository_id=run.repository.id if same_id else None,
    )
    sync_run(Route(run.repository, target), "digits")
    there = target.run("digits")
    assert [signer(there, n) for n in range(3)] == [MY_PUBLIC if same_id else OTHER_PUBLIC] * 3


def test_signatures_go_with_their_manifests(run: Run) -> None:
    first, second, _ = run.checkpoints()
    remove(run, [first], may_delete=lambda c: True)
    assert run.storage.stat(run.layout.signature(first)) is None
    run.storage.delete(run.layout.checkpoint(second))  # as a killed save leaves it
    sweep(run.repository)
    signed = [key for key in run.storage.list("runs/") if key.endswith(".signature")]
    assert signed == [run.layout.signature(c) for c in run.checkpoints()]


# -- rollback ------------------------------------------------------------------------------


def snapshot(storage: MemoryStorage) -> dict[str, bytes]:
    return {key: storage.get(key) for key in storage.list("")}


def put_back(storage: MemoryStorage, old: dict[str, bytes]) -> None:
    for key in list(storage.list("")):
        storage.delete(key)
    for key, data in old.items():
        storage.put(key, [data])


def test_a_repository_that_was_rolled_back_is_noticed(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    give(monkeypatch, HOLDFAST_SIGNING_KEY=MINE, HOLDFAST_SIGNED_BY=MY_PUBLIC)
    old = snapshot(run.storage)  # type: ignore[arg-type]
    assert seen.check(run) is None
    newest = save(run, run.attempts()[-1].id, 4, 4).id
    assert seen.check(run) == newest
    put_back(run.storage, old)  # type: ignore[arg-type]
    with pytest.raises(RolledBackError, match="step 4 is gone") as caught:
        seen.check(run)
    assert caught.value.exit_code == 14
    give(monkeypatch)
    assert seen.check(run) is None  # nothing is required


def test_retention_and_newer_ones_are_no_rollback(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    give(monkeypatch, HOLDFAST_SIGNING_KEY=MINE, HOLDFAST_SIGNED_BY=MY_PUBLIC)
    attempt = run.attempts()[-1].id
    seen_before = save(run, attempt, 4, 4).id
    give(monkeypatch, HOLDFAST_SIGNING_KEY=MINE)
    save(run, attempt, 5, 5)  # by another machine
    remove(run, [seen_before], may_delete=lambda c: True)
    give(monkeypatch, HOLDFAST_SIGNED_BY=MY_PUBLIC)
    assert seen.check(run) == seen_before
    key = run.layout.signature(run.checkpoints()[-1])
    run.storage.delete(key)  # a forged newer one does not help
    with pytest.raises(RolledBackError):
        seen.check(run)


def test_going_back_on_purpose_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    give(monkeypatch, HOLDFAST_SIGNING_KEY=MINE, HOLDFAST_SIGNED_BY=MY_PUBLIC)
    state = {"w": np.zeros(3)}
    with holdfast.Checkpointer(tmp_path / "r", state, save="every 1 step", keep="all") as ckpt:
        for _ in ckpt.steps(3):
            pass
    run = Repository.open(holdfast.open(tmp_path / "r")._repository.storage).run("main")
    attempt = run.begin_attempt()
    run.record_base(attempt, run.resolve(1))
    capsys.readouterr()
    assert holdfast.load(tmp_path / "r", state).step == 1
    assert (
        "goes on from step 1, although step 3, which is newer, was seen here before"
        in capsys.readouterr().err
    )


def test_what_was_seen_is_kept_for_the_owner_alone(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    give(monkeypatch, HOLDFAST_SIGNING_KEY=MINE, HOLDFAST_SIGNED_BY=MY_PUBLIC)
    save(run, run.attempts()[-1].id, 4, 4)
    (path,) = (tmp_path / "state").rglob("*.json")
    assert path.stat().st_mode & 0o077 == 0
    for junk in (b"junk", b"\xff", b"{}", b""):
        path.write_bytes(junk)
        assert seen.check(run) is None
    monkeypatch.setenv("XDG_STATE_HOME", "/dev/null")
    assert seen.note(run, run.checkpoints()[-1]) is False
    monkeypatch.setenv("XDG_STATE_HOME", "~nobody-of-that-name/x")
    assert seen.note(run, run.checkpoints()[-1]) is False
    assert seen.check(run) is None
