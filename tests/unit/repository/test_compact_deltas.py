"""Compaction by deltas: what builds on what, and that nothing is lost when some of it goes."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from checkpoints import (
    CHUNK_BYTES,
    State,
    assert_restores,
    begin,
    drifting,
    make_repository,
    orphans,
    packs,
    prune,
    read,
    save,
)
from holdfast.domain.manifest import split_digests
from holdfast.domain.names import CheckpointId
from holdfast.errors import DamagedError
from holdfast.repository import assembling, chunks, compact, families, layout
from holdfast.repository.families import MEMBERS
from holdfast.repository.pack import BASED_MAGIC, MAGIC, PackEntry, read_index
from holdfast.repository.repairing import inspect
from holdfast.repository.repository import Repository
from holdfast.repository.retention import remove
from holdfast.repository.run import Run
from holdfast.repository.verify import Verifier
from holdfast.storage.local import LocalStorage

Known = dict[CheckpointId, State]


def state(step: int) -> State:
    """Noise that drifts, noise that does not stay, and what stays the same."""
    return {
        "drift": drifting(step),
        "noise": random.Random(step).randbytes(CHUNK_BYTES + 5),
        "frozen": random.Random("frozen").randbytes(3000),
        "zeros": bytes(5000),
    }


def fresh(storage: LocalStorage) -> Repository:
    return Repository.open(storage)


def compacted(storage: LocalStorage) -> compact.Compacted:
    return compact.apply(compact.plan(fresh(storage)))


def saved(run: Run, steps: range) -> Known:
    attempt = run.attempts()[-1].id if run.attempts() else begin(run)
    return {save(run, attempt, n, n, state(n)).id: state(n) for n in steps}


def entries(storage: LocalStorage) -> dict[str, list[PackEntry]]:
    ids = [layout.pack_id_of(key) for key in packs(storage)]
    return {p: read_index(storage, p).entries for p in ids if p is not None}


def deltas(storage: LocalStorage) -> list[PackEntry]:
    return [e for found in entries(storage).values() for e in found if e.codec == "rotated-delta"]


def at(known: Known, step: int) -> CheckpointId:
    return next(c for c in known if c.step == step)


def drop(storage: LocalStorage, known: Known, steps: set[int]) -> None:
    run = fresh(storage).run("digits")
    gone = [c for c in known if c.step in steps]
    assert len(remove(run, gone, may_delete=lambda c: True, wait_seconds=0).checkpoints) == len(steps)
    for checkpoint in gone:
        del known[checkpoint]


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    return LocalStorage(tmp_path / "repository", create=True)


@pytest.fixture
def run(storage: LocalStorage) -> Run:
    return make_repository(storage).run("digits")


def test_older_ones_are_deltas_and_everything_restores(storage: LocalStorage, run: Run) -> None:
    known = saved(run, range(1, 4))
    done = compacted(storage)
    assert done.bytes_after < 0.7 * done.bytes_before
    newest = run.manifest(at(known, 3)).digests()
    found = deltas(storage)
    assert len(found) == 2 * 3  # of two checkpoints three chunks each
    assert not newest & {e.digest for e in found}
    assert_restores(fresh(storage).run("digits"), known)
    assert_restores(run, known)
    assert orphans(run.repository) == set()


def test_bases_lie_before_in_the_same_pack_and_older_readers_say_newer(
    storage: LocalStorage, run: Run
) -> None:
    saved(run, range(1, 10))
    compacted(storage)
    based = 0
    for pack_id, held in entries(storage).items():
        met: set[bytes] = set()
        for entry in held:
            assert met.issuperset(split_digests(entry.bases))
            met.add(entry.digest)
        data = storage.get(layout.pack(pack_id))
        has_bases = any(e.bases for e in held)
        assert data.startswith(BASED_MAGIC if has_bases else MAGIC)
        assert data[-1] == 2 if has_bases else 1
        based += has_bases
    assert based


def test_chains_are_short(storage: LocalStorage, run: Run) -> None:
    known = saved(run, range(1, 11))
    compacted(storage)
    assert_restores(fresh(storage).run("digits"), known)
    for held in entries(storage).values():
        depths: dict[bytes, int] = {}
        members: dict[bytes, int] = {}
        roots: dict[bytes, bytes] = {}
        for entry in held:
            below = split_digests(entry.bases)
            depths[entry.digest] = max((depths[d] + 1 for d in below), default=0)
            roots[entry.digest] = roots[below[0]] if below else entry.digest
            members[roots[entry.digest]] = members.get(roots[entry.digest], 0) + 1
        assert max(depths.values()) == 2
        assert max(members.values()) == MEMBERS


def test_a_second_run_has_nothing_to_do(storage: LocalStorage, run: Run) -> None:
    saved(run, range(1, 8))
    compacted(storage)
    before = packs(storage)
    assert compact.plan(fresh(storage)).victims == []
    assert compacted(storage).packs_written == 0
    assert packs(storage) == before


@pytest.fixture(params=[3, 9], ids=["hub", "star"])
def hub(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Families without one were written before; both are read."""
    monkeypatch.setattr(families, "HUB", request.param)
    return int(request.param)


@pytest.mark.parametrize("gone", [{1}, {2}, {3}, {4}, {2, 4}, {3, 4}, {1, 2, 3}, {2, 3, 4}])
@pytest.mark.usefixtures("hub")
def test_whatever_is_removed_the_rest_restores(storage: LocalStorage, run: Run, gone: set[int]) -> None:
    known = saved(run, range(1, 5))
    compacted(storage)
    assert len(deltas(storage)) == 3 * 3
    drop(storage, known, gone)
    assert_restores(fresh(storage).run("digits"), known)
    compacted(storage)
    assert_restores(fresh(storage).run("digits"), known)
    assert compact.plan(fresh(storage)).victims == []


def test_what_is_needed_only_by_others_goes_at_the_next_compaction(storage: LocalStorage, run: Run) -> None:
    known = saved(run, range(1, 5))
    compacted(storage)
    drop(storage, known, {3, 4})
    compacted(storage)
    needed = {d for c in known for d in run.manifest(c).digests()}
    assert {e.digest for held in entries(storage).values() for e in held} == needed
    assert len(deltas(storage)) == 3
    assert_restores(fresh(storage).run("digits"), known)


def test_a_save_after_a_compaction_joins_the_family(storage: LocalStorage, run: Run) -> None:
    known = saved(run, range(1, 3))
    compacted(storage)
    known |= saved(run, range(3, 4))
    compacted(storage)
    assert len(deltas(storage)) == 2 * 3
    assert not run.manifest(at(known, 3)).digests() & {e.digest for e in deltas(storage)}
    assert_restores(fresh(storage).run("digits"), known)
    assert_restores(run, known)


def test_a_compaction_after_every_save(storage: LocalStorage, run: Run) -> None:
    known: Known = {}
    for step in range(1, 12):
        known |= saved(run, range(step, step + 1))
        compacted(storage)
        if step > 5:
            prune(run, 4, run.attempts()[-1].id)
            known = {c: s for c, s in known.items() if c in run.all_checkpoints()}
        assert_restores(run, known)
    assert_restores(fresh(storage).run("digits"), known)
    assert len(deltas(storage)) >= 3


def test_contents_that_come_back_make_no_circle(storage: LocalStorage, run: Run) -> None:
    attempt = begin(run)
    known = {}
    for n, of in enumerate((1, 2, 1, 3, 2, 1), start=1):
        known[save(run, attempt, n, n, {"drift": drifting(of)}).id] = {"drift": drifting(of)}
    compacted(storage)
    assert deltas(storage)
    assert_restores(fresh(storage).run("digits"), known)


def test_a_saver_relies_on_a_delta_and_so_on_what_it_needs(storage: LocalStorage, run: Run) -> None:
    """The chunk comes back, all other checkpoints go: its pack holds all that it takes."""
    known = saved(run, range(1, 4))
    compacted(storage)
    late = fresh(storage).run("digits")
    assert_restores(late, known)
    late.repository.dependable |= set(late.hints(at(known, 1)))
    made = save(late, late.attempts()[-1].id, 9, 9, {"drift": drifting(1)})
    assert made.new_bytes == 0
    drop(storage, known, {1, 2, 3})
    assert deltas(storage)
    assert_restores(fresh(storage).run("digits"), {made.id: {"drift": drifting(1)}})
    compacted(storage)
    assert_restores(fresh(storage).run("digits"), {made.id: {"drift": drifting(1)}})
    assert not deltas(storage)


def test_verify_reads_bases_that_no_checkpoint_names(storage: LocalStorage, run: Run) -> None:
    known = saved(run, range(1, 5))
    compacted(storage)
    drop(storage, known, {4})
    repository = fresh(storage)
    verifier = Verifier(repository)
    for checkpoint in known:
        verdict = verifier.check(repository.run("digits"), checkpoint)
        assert verdict is not None
        assert verdict.ok


def damage(storage: LocalStorage, root: Path, digest: bytes) -> str:
    """Flip a bit of every copy of a chunk; the pack of the last."""
    for pack_id, held in entries(storage).items():
        for entry in held:
            if entry.digest == digest:
                path = root / layout.pack(pack_id)
                data = bytearray(path.read_bytes())
                data[entry.offset + entry.stored_bytes // 2] ^= 1
                path.write_bytes(data)
                hit = pack_id
    return hit


def test_a_damaged_base_is_what_is_recorded_and_what_builds_on_it_is_lost(
    storage: LocalStorage, run: Run, tmp_path: Path
) -> None:
    known = saved(run, range(1, 4))
    compacted(storage)
    root = tmp_path / "repository"
    first = next(e for e in deltas(storage) if e.digest in run.manifest(at(known, 2)).digests())
    pack_id = damage(storage, root, first.bases)  # of the newest, which stands alone
    with pytest.raises(DamagedError, match=rf"tensor drift: its base in pack {pack_id} does not match"):
        read(fresh(storage).run("digits"), at(known, 2))
    again = fresh(storage).run("digits")
    for step in (3, 1):
        with pytest.raises(DamagedError, match=f"drift: its copy in pack {pack_id} was found damaged"):
            read(again, at(known, step))
    for key in list(storage.list(layout.DAMAGED_PACKS)):
        storage.delete(key)
    everything = {d for c in known for d in run.manifest(c).digests()}
    again = fresh(storage).run("digits")
    failed = again.repository.reader.read(everything, [pack_id], lambda digest, raw: None)
    assert len(failed) == 3  # the base and both that build on it
    assert len(list(storage.list(layout.DAMAGED_PACKS))) == 1
    assert again.repository.index.proves_damage(again.manifest(at(known, 1)).digests(), [])
    recorded = list(storage.list(layout.DAMAGED_PACKS))
    assert len(recorded) == 1
    assert first.bases.hex() in storage.get(recorded[0]).decode()
    verifier = Verifier(fresh(storage))
    assert not any(v.ok for c in known if (v := verifier.check(run, c)) is not None)


def test_another_copy_is_tried_when_a_base_is_damaged(
    storage: LocalStorage, run: Run, tmp_path: Path
) -> None:
    known = saved(run, range(1, 4))
    compacted(storage)
    first = next(e for e in deltas(storage) if e.digest in run.manifest(at(known, 2)).digests())
    other = fresh(storage).run("other")
    save(other, begin(other), 1, 2, {"again": state(2)["drift"]})  # relies on nothing, so it is written again
    (pack_id,) = (p for p, held in entries(storage).items() if first in held)
    path = tmp_path / "repository" / layout.pack(pack_id)
    data = bytearray(path.read_bytes())
    base = next(e for e in entries(storage)[pack_id] if e.digest == first.bases)
    data[base.offset + 5] ^= 1
    path.write_bytes(data)
    assert read(fresh(storage).run("digits"), at(known, 2)) == state(2)
    with pytest.raises(DamagedError):
        read(fresh(storage).run("digits"), at(known, 3))
    compacted(storage)  # leaves the pack alone: its delta's base is bad
    assert read(fresh(storage).run("digits"), at(known, 2)) == state(2)


def test_a_damaged_delta_spoils_only_what_builds_on_it(
    storage: LocalStorage, run: Run, tmp_path: Path, hub: int
) -> None:
    known = saved(run, range(1, 5))
    compacted(storage)
    oldest = next(e for e in deltas(storage) if e.digest in run.manifest(at(known, 1)).digests())
    damage(storage, tmp_path / "repository", oldest.digest)
    for step in (3, 4):
        assert read(fresh(storage).run("digits"), at(known, step)) == state(step)
    with pytest.raises(DamagedError):
        read(fresh(storage).run("digits"), at(known, 1))
    if hub == 3:
        with pytest.raises(DamagedError):
            read(fresh(storage).run("digits"), at(known, 2))
    else:
        assert read(fresh(storage).run("digits"), at(known, 2)) == state(2)


def test_a_pack_that_is_gone_is_missing_not_damaged(storage: LocalStorage, run: Run) -> None:
    known = saved(run, range(1, 4))
    compacted(storage)
    late = fresh(storage).run("digits")
    assert_restores(late, known)
    (pack_id,) = (p for p, held in entries(storage).items() if any(e.bases for e in held))
    kept = storage.get(layout.pack(pack_id))
    storage.delete(layout.pack(pack_id))
    with pytest.raises(DamagedError, match=r"missing|no pack|no readable"):
        read(late, at(known, 1))
    assert list(storage.list(layout.DAMAGED_PACKS)) == []
    storage.put(layout.pack(pack_id), [kept])
    assert read(late, at(known, 1)) == state(1)


@pytest.fixture
def nothing_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Packs are rewritten only where a sample says that it pays."""
    monkeypatch.setattr(compact, "SMALL_BYTES", 1)
    monkeypatch.setattr(assembling, "SMALL_BYTES", 1)


@pytest.mark.usefixtures("nothing_is_small")
def test_large_packs_grow_together_while_there_is_room_in_their_families(
    storage: LocalStorage, run: Run
) -> None:
    known: Known = {}
    attempt = begin(run)
    written = []
    for step in range(1, 2 * MEMBERS + 1):
        of = {"drift": drifting(step), "more": drifting(step + 1000)}
        known[save(run, attempt, step, step, of).id] = of
        planned = compact.plan(fresh(storage))
        written.append(compact.apply(planned).packs_written)
        assert planned.expected_bytes < planned.size_bytes or not planned.victims
        assert compact.plan(fresh(storage)).victims == []
        assert_restores(fresh(storage).run("digits"), known)
    assert written == [0, 1, 1, 1, 1] * 2  # noise alone gains nothing, nor does a sixth by the five
    assert len(deltas(storage)) == 2 * (MEMBERS - 1) * 6
    assert len(packs(storage)) == 2


@pytest.mark.usefixtures("nothing_is_small")
def test_what_only_decodes_others_is_worth_a_rewrite_once_it_is_much(storage: LocalStorage, run: Run) -> None:
    known = saved(run, range(1, 5))
    compacted(storage)
    drop(storage, known, {4})
    plan = compact.plan(fresh(storage))
    assert all(victim.is_worth for victim in plan.victims)
    before = plan.size_bytes
    compact.apply(plan)
    assert compact.plan(fresh(storage)).victims == []
    after = sum(s.size_bytes for k in packs(storage) if (s := storage.stat(k)) is not None)
    assert after == pytest.approx(plan.expected_bytes, abs=0.15 * before)
    assert_restores(fresh(storage).run("digits"), known)


def test_tensors_that_changed_too_much_stay_in_packs_of_their_own(
    storage: LocalStorage, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assembling, "SMALL_BYTES", 1)
    known = saved(run, range(1, 4))
    compacted(storage)
    for checkpoint in known:
        own = {d for d in run.manifest(checkpoint).digests() if d in noise_of(run, checkpoint)}
        held = [e for found in entries(storage).values() for e in found if e.digest in own]
        assert {e.codec for e in held} == {"raw"}
        assert all(
            not {e.digest for e in found} & noise_of(run, c)
            for found in entries(storage).values()
            if any(e.digest in own for e in found)
            for c in known
            if c != checkpoint
        )


def noise_of(run: Run, checkpoint: CheckpointId) -> set[bytes]:
    (shard,) = run.manifest(checkpoint).tensors["noise"].shards
    return set(split_digests(shard.chunks))


def test_a_delta_costs_no_more_reading_than_its_family(
    storage: LocalStorage, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = saved(run, range(1, 5))
    compacted(storage)
    monkeypatch.setattr(chunks, "WORKERS", 1)  # two may each need a base before the other has it
    read_bytes, single = 0, 0

    class Counting(LocalStorage):
        def read_into(self, key: str, start: int, buffer: npt.NDArray[np.uint8]) -> int:
            nonlocal read_bytes
            read_bytes += (got := super().read_into(key, start, buffer))
            return got

        def get(self, key: str, start: int = 0, stop: int | None = None) -> bytes:
            nonlocal single
            single += key.startswith("packs/")
            return super().get(key, start, stop)

    counting = Repository.open(Counting(Path(storage.location))).run("digits")
    counting.repository.index.load_all()
    for checkpoint, of in known.items():
        read_bytes = single = 0
        assert read(counting, checkpoint) == of
        assert read_bytes <= 3 * sum(map(len, of.values()))
        assert single == 0


def test_only_what_stands_alone_is_read_before_it_is_asked_for(storage: LocalStorage, run: Run) -> None:
    known = saved(run, range(1, 5))
    compacted(storage)
    late = fresh(storage).run("digits")
    with late.repository.reader.begin(late.hints(at(known, 4))) as ahead:
        begun = [copy.entry for copy in ahead.copies()]
        assert late.manifest(at(known, 4)).digests() <= {entry.digest for entry in begun}
        assert not any(entry.bases for entry in begun)


def test_a_record_of_a_bad_base_is_withdrawn_once_it_is_intact(
    storage: LocalStorage, run: Run, tmp_path: Path
) -> None:
    known = saved(run, range(1, 4))
    compacted(storage)
    first = next(e for e in deltas(storage) if e.digest in run.manifest(at(known, 2)).digests())
    (pack_id,) = (p for p, held in entries(storage).items() if first in held)
    whole = storage.get(layout.pack(pack_id))
    damage(storage, tmp_path / "repository", first.bases)
    with pytest.raises(DamagedError):
        read(fresh(storage).run("digits"), at(known, 2))

    def withdrawn() -> list[str]:
        found = [f for f in inspect(fresh(storage), lambda run: False) if f.kind == "damage-record"]
        for finding in found:
            assert finding.fix is not None
            finding.fix()
        return [f.subject for f in found]

    assert withdrawn() == []
    assert compact.plan(fresh(storage)).victims == []  # nothing is taken out of a pack with a bad base
    storage.put(layout.pack(pack_id), [whole])
    assert withdrawn() == [pack_id]
    assert_restores(fresh(storage).run("digits"), known)
