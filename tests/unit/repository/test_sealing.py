"""A repository that is sealed: made, opened, its keys changed; and what must not happen to it."""

from __future__ import annotations

import json
import random
from pathlib import Path

import msgspec
import pytest

from checkpoints import assert_restores, begin, make_repository, make_state, prune, read, save
from holdfast.errors import BusyError, DamagedError, FormatError, NotFoundError, SealedError, UsageError
from holdfast.repository import layout, records
from holdfast.repository.keyring import entries, passphrase
from holdfast.repository.keyring.passphrase import Passphrase
from holdfast.repository.keyring.raw import RawKey
from holdfast.repository.repairing import find_config_damage, inspect
from holdfast.repository.repository import Repository, read_config
from holdfast.repository.verify import Verifier
from holdfast.storage.local import LocalStorage
from holdfast.storage.memory import MemoryStorage
from holdfast.storage.sealed import at_rest
from keys import KEY, OTHER_KEY, give
from simulated_store import SimulatedDisk, SimulatedStore

LARGE = random.Random(1).randbytes(200_000)
WORDS = "correct horse battery staple"


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passphrase, "COST", (1 << 10, 8, 1))
    give(monkeypatch, HOLDFAST_KEY=KEY)


def whole(storage: MemoryStorage) -> dict[str, bytes]:
    return {key: storage.get(key) for key in storage.list("")}


def filled(storage: MemoryStorage) -> Repository:
    repository = make_repository(storage)
    run = repository.run("digits")
    attempt = begin(run)
    for step in (1, 2, 3):
        run.set_tag("seen", save(run, attempt, step, step).id)
    return repository


def test_with_a_key_a_new_repository_is_sealed_and_works() -> None:
    storage = MemoryStorage()
    repository = filled(storage)
    assert repository.is_sealed
    run = Repository.open(storage).run("digits")
    expected = {c: make_state(c.step) for c in run.checkpoints()}
    assert len(expected) == 3
    assert_restores(run, expected)
    assert all(Verifier(run.repository).check(run, c).ok for c in expected)  # type: ignore[union-attr]
    prune(run, 1, begin(run), sweep=True)
    assert_restores(run, {c: make_state(c.step) for c in run.checkpoints()})


def test_nothing_of_it_rests_open_but_names() -> None:
    storage = MemoryStorage()
    filled(storage)
    state = make_state(3)
    for key, data in whole(storage).items():
        assert state["weight"][:16] not in data, key
        if not key.startswith(("holdfast.json", "keys/")):
            assert data.startswith(b"HFSEAL\x00\x01"), key
            assert b"loss" not in data
            assert b"blake3" not in data
    told = json.loads(storage.get("holdfast.json"))["record"]
    assert told["format"] == 2
    assert set(told) == {"format", "id", "chunk_bytes", "sealed"}


def test_dedup_works_inside_it() -> None:
    repository = make_repository(MemoryStorage())
    run = repository.run("digits")
    attempt = begin(run)
    first, again = save(run, attempt, 1, 1), save(run, attempt, 2, 2, make_state(1))
    assert (first.new_bytes > 0, again.new_bytes) == (True, 0)


@pytest.mark.parametrize(
    "given", [{}, {"HOLDFAST_KEY": OTHER_KEY}, {"HOLDFAST_KEY": WORDS}], ids=["none", "other", "words"]
)
def test_a_wrong_key_is_one_clear_error_and_changes_nothing(
    given: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = MemoryStorage()
    filled(storage)
    before = whole(storage)
    give(monkeypatch, **given)
    for act in (Repository.open, Repository.create, find_config_damage):
        with pytest.raises(SealedError) as caught:
            act(storage)
        assert (caught.value.kind, caught.value.exit_code) == ("sealed", 12)
        assert OTHER_KEY not in str(caught.value)
    assert whole(storage) == before


def test_a_key_and_an_open_repository_do_not_go_together(monkeypatch: pytest.MonkeyPatch) -> None:
    storage = MemoryStorage()
    give(monkeypatch)
    assert not make_repository(storage).is_sealed
    give(monkeypatch, HOLDFAST_KEY=KEY)
    for act in (Repository.open, Repository.create):
        with pytest.raises(UsageError, match="is not sealed"):
            act(storage)
    assert not Repository.open(storage, plain=True).is_sealed


def test_an_older_version_refuses_it_by_its_format() -> None:
    storage = MemoryStorage()
    make_repository(storage)
    assert read_config(storage).format == records.SEALED_FORMAT_VERSION > records.FORMAT_VERSION
    config = json.loads(storage.get("holdfast.json"))["record"]
    for changes in ({"format": 3}, {"sealed": {"scheme": "rot13", "secret": "00"}}):
        body = json.dumps({**config, **changes}, separators=(",", ":"))
        import blake3

        digest = blake3.blake3(body.encode()).hexdigest()
        storage.put("holdfast.json", [f'{{"record":{body},"blake3":"{digest}"}}\n'.encode()])
        with pytest.raises(FormatError, match="Upgrade"):
            Repository.open(storage)


def test_a_passphrase_changes_without_rewriting_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    storage = MemoryStorage()
    filled(storage)
    before = whole(storage)
    config = read_config(storage)
    secret, old = entries.opened(storage, config, [RawKey(KEY)])
    new = entries.add(storage, config, secret, Passphrase(WORDS), "me")
    entries.remove(storage, config, old.id)
    after = whole(storage)
    assert set(before) ^ set(after) == {*layout.keys(old.id), *layout.keys(new.id)}
    assert all(after[key] == before[key] for key in set(before) & set(after))
    with pytest.raises(SealedError, match="No key that was given opens"):
        Repository.open(storage)
    give(monkeypatch, HOLDFAST_KEY=WORDS)
    run = Repository.open(storage).run("digits")
    assert read(run, run.checkpoints()[-1]) == make_state(3)
    assert [(e.id, e.label) for e in entries.entries(storage, config)] == [(new.id, "me")]


def test_the_last_key_stays() -> None:
    storage = MemoryStorage()
    make_repository(storage)
    config = read_config(storage)
    (only,) = entries.entries(storage, config)
    with pytest.raises(UsageError, match="is the only key"):
        entries.remove(storage, config, only.id)
    with pytest.raises(NotFoundError):
        entries.remove(storage, config, "0" * 16)
    assert Repository.open(storage).is_sealed


def test_of_two_removals_at_one_time_one_key_stays() -> None:
    """Where nothing locks each of two people removes the other's key."""
    disk = SimulatedDisk()
    store, other = SimulatedStore(disk), SimulatedStore(disk)
    make_repository(store)
    config = read_config(store)
    secret, mine = entries.opened(store, config, [RawKey(KEY)])
    yours = entries.add(store, config, secret, RawKey(OTHER_KEY))

    def before(number: int, verb: str, key: str) -> None:
        if verb == "delete" and key == layout.keys(mine.id)[0]:
            store.before = None
            entries.remove(other, config, yours.id)

    store.before = before
    with pytest.raises(UsageError, match="is the only key"):
        entries.remove(store, config, mine.id)
    assert Repository.open(other).is_sealed
    assert entries.half_lost(other) == []


def test_no_key_is_removed_while_another_process_removes_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(entries, "LOCK_SECONDS", 0.0)
    storage = LocalStorage(tmp_path)
    make_repository(storage)
    config = read_config(storage)
    secret, old = entries.opened(storage, config, [RawKey(KEY)])
    entries.add(storage, config, secret, RawKey(OTHER_KEY))
    with storage.lock("keys", shared=False, wait_seconds=0.0), pytest.raises(BusyError):
        entries.remove(storage, config, old.id)
    assert len(entries.entries(storage, config)) == 2


def test_keys_of_another_copy_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same repository id and the same key, but another secret: all would look damaged."""
    storage, copy = MemoryStorage(), MemoryStorage()
    repository = filled(storage)
    Repository.create(copy, repository_id=repository.id)
    for key in list(storage.list("keys/")):
        storage.delete(key)
    for key in list(copy.list("keys/")):
        storage.put(key, [copy.get(key)])
    with pytest.raises(SealedError, match="none of its keys/ can be read"):
        Repository.open(storage)
    storage.put("holdfast.json", [copy.get("holdfast.json")])
    run = Repository.open(storage).run("digits")  # now it is what it says, and all else is damage
    with pytest.raises(DamagedError):
        run.manifest(run.checkpoints()[0])


def test_junk_among_the_keys_is_passed_over() -> None:
    storage = MemoryStorage()
    make_repository(storage)
    name, _ = storage.list("keys/")
    for other, data in {"0" * 16: b"{}", "1" * 16: storage.get(name), "2" * 16: b"", "../x": b"x"}.items():
        if "/" not in other:
            storage.put(f"keys/{other}.json", [data])
    storage.put("keys/README", [b"nothing"])
    assert len(entries.entries(storage, read_config(storage))) == 1
    assert Repository.open(storage).is_sealed


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("junk", [None, b"", b"{}"])
def test_one_file_of_a_key_is_enough_and_repair_writes_the_other(which: int, junk: bytes | None) -> None:
    storage = MemoryStorage()
    filled(storage)
    lost = list(storage.list("keys/"))[which]
    before = storage.get(lost)
    if junk is None:
        storage.delete(lost)
    else:
        storage.put(lost, [junk])
    (finding,) = inspect(Repository.open(storage), lambda run: False)
    assert finding.kind == "key"
    finding.fix()  # type: ignore[misc]
    assert storage.get(lost) == before
    assert list(inspect(Repository.open(storage), lambda run: False)) == []


def test_a_creation_that_lost_a_race_leaves_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    storage = MemoryStorage()
    found = MemoryStorage.stat
    monkeypatch.setattr(
        MemoryStorage, "stat", lambda self, key: None if key == "holdfast.json" else found(self, key)
    )
    make_repository(storage)
    make_repository(storage)
    assert len(list(storage.list("keys/"))) == 2
    assert Repository.open(storage).is_sealed


def test_a_lost_configuration_is_found_again(monkeypatch: pytest.MonkeyPatch) -> None:
    storage = MemoryStorage()
    repository = filled(storage)
    config = storage.get("holdfast.json")
    for loss in (lambda: storage.delete("holdfast.json"), lambda: storage.put("holdfast.json", [b"{"])):
        loss()
        with pytest.raises((NotFoundError, DamagedError), match=r"repair"):
            Repository.open(storage)
        opened, findings = find_config_damage(storage)
        assert opened is not None
        assert opened.is_sealed
        findings[0].fix()  # type: ignore[misc]
        assert storage.get("holdfast.json") == config
    assert Repository.open(storage).id == repository.id


def test_what_was_tampered_with_is_found_rejected_and_walked_past() -> None:
    storage = MemoryStorage()
    run = filled(storage).run("digits")
    newest = run.latest()
    assert newest is not None
    for pack_id in run.hints(newest):
        key = layout.pack(pack_id)
        data = bytearray(storage.get(key))
        data[100] ^= 1
        if all(pack_id not in run.hints(c) for c in run.checkpoints() if c != newest):
            storage.put(key, [data])
    fresh = Repository.open(storage).run("digits")
    verifier = Verifier(fresh.repository)
    verdict = verifier.check(fresh, newest)
    assert verdict is not None
    assert verdict.proven
    assert "does not unseal" in verdict.reason
    verifier.record([verdict])
    assert fresh.latest() != newest
    assert read(fresh, fresh.latest()) == make_state(2)  # type: ignore[arg-type]


def test_one_bad_frame_costs_the_chunks_in_it_and_nothing_else() -> None:
    storage = MemoryStorage()
    run = make_repository(storage).run("digits")
    attempt = begin(run)
    first = save(run, attempt, 1, 1, {"w": LARGE, "z": b"z" * 5000}).id
    saved = save(run, attempt, 2, 2, {"w": LARGE[::-1], "v": LARGE[:150_000]}).id
    (pack,) = set(run.hints(saved)) - set(run.hints(first))
    data = bytearray(storage.get(layout.pack(pack)))
    data[70_000] ^= 1
    storage.put(layout.pack(pack), [data])
    fresh = Repository.open(storage).run("digits")
    verifier = Verifier(fresh.repository)
    verdict = verifier.check(fresh, saved)
    assert verdict is not None
    assert (verdict.proven, set(verdict.tensors)) == (True, {"w"})
    assert "does not unseal" in verdict.reason
    verifier.record([verdict])
    again = Repository.open(storage).run("digits")
    assert again.latest() == first
    assert read(again, first) == {"w": LARGE, "z": b"z" * 5000}


def test_an_entry_that_gives_another_secret_counts_for_nothing() -> None:
    storage = MemoryStorage()
    make_repository(storage)
    (entry,) = entries.entries(storage, read_config(storage))
    wrapping = RawKey(KEY).wrap(bytes(32), entry.context)
    entries.put(storage, msgspec.structs.replace(entry, wrapping=wrapping))
    with pytest.raises(SealedError):
        Repository.open(storage)


def test_repair_finds_chunks_in_a_sealed_pack_without_an_index() -> None:
    storage = MemoryStorage()
    repository = make_repository(storage)
    run = repository.run("digits")
    saved = save(run, begin(run), 1, 1, {"w": LARGE})
    (key,) = storage.list("packs/")
    data = bytearray(storage.get(key))
    data[-1] ^= 1  # in the last of four frames
    storage.put(key, [data])
    fresh = Repository.open(storage)
    for finding in list(inspect(fresh, lambda run: False)):
        if finding.kind == "pack":
            assert finding.fix is not None
            finding.fix()
    again = Repository.open(storage)
    digests = again.run("digits").manifest(saved.id).digests()
    assert len(digests) == 49
    assert len(again.index.cover(digests)) <= 64 * 1024 // 4096 + 2  # what the bad frame held


def test_repair_sets_aside_what_does_not_unseal_as_it_lies() -> None:
    storage = MemoryStorage()
    run = filled(storage).run("digits")
    key = run.layout.tag("seen")
    broken = storage.get(key)[:-1] + b"?"
    storage.put(key, [broken])
    for finding in list(inspect(Repository.open(storage), lambda run: False)):
        finding.fix()  # type: ignore[misc]
    assert storage.get(f"aside/{key}") == broken
    assert storage.stat(key) is None


def test_files_are_the_owners_alone(tmp_path: Path) -> None:
    repository = make_repository(LocalStorage(tmp_path / "there", create=True))
    run = repository.run("digits")
    save(run, begin(run), 1, 1)
    for path in (tmp_path / "there").rglob("*"):
        assert path.stat().st_mode & 0o077 == 0, path
    assert at_rest(repository.storage).location == repository.storage.location
