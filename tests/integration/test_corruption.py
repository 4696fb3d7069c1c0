"""Every kind of file damaged in every way: an error that says what is lost, or the right bytes."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from checkpoints import begin, make_repository, make_state, prune, read, save
from holdfast.domain.manifest_file import HEADER
from holdfast.domain.names import CheckpointId
from holdfast.errors import DamagedError, HoldfastError, NotFoundError
from holdfast.repository import layout
from holdfast.repository.index import read_damage
from holdfast.repository.pack import TRAILER
from holdfast.repository.repository import Repository, recover_config
from holdfast.repository.run import Run
from holdfast.storage.local import LocalStorage

STEPS = (10, 20, 30)
RUN = "digits"


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("template") / "repository"
    run = make_repository(LocalStorage(root, create=True)).run(RUN)
    attempt = begin(run)
    for sequence, step in enumerate(STEPS, start=1):
        save(run, attempt, sequence, step)
    run.set_tag("good", run.checkpoints()[0])
    run.set_tag("other", run.checkpoints()[1])
    begin(run)
    run.reject(save_dead_branch(run), "test")
    return root


def save_dead_branch(run: Run) -> CheckpointId:
    return save(run, run.attempts()[0].id, 9, 90).id


@pytest.fixture
def root(template: Path, tmp_path: Path) -> Path:
    shutil.copytree(template, tmp_path / "repository")
    return tmp_path / "repository"


def opened(root: Path) -> Run:
    return Repository.open(LocalStorage(root)).run(RUN)


def newest(root: Path) -> CheckpointId:
    found = opened(root).latest()
    assert found is not None
    assert found.step == STEPS[-1]
    return found


def walk_back(run: Run) -> CheckpointId:
    """As a restore does: reject what is damaged, take the first that verifies."""
    for checkpoint in list(run.recovery_points()):
        try:
            state = read(run, checkpoint)
        except DamagedError as error:
            run.reject(checkpoint, error.what)
            continue
        assert state == make_state(checkpoint.step)
        return checkpoint
    raise AssertionError("nothing left to resume from")


def flip(data: bytearray, at: int) -> None:
    data[at] ^= 1 << (at % 8)


# Where to hurt a file: name → what to do with its bytes.
def offsets_in_manifest(size_bytes: int, summary_bytes: int) -> dict[str, int]:
    return {
        "magic": 0,
        "version": 7,
        "summary length": 8,
        "summary length, high byte": 15,
        "details length": 16,
        "table length": 24,
        "summary digest": 40,
        "summary": HEADER.size + 3,
        "summary's end": HEADER.size + summary_bytes - 1,
        "details": HEADER.size + summary_bytes + 5,
        "table": size_bytes - 200,
        "end": size_bytes - 1,
    }


def test_a_flip_anywhere_in_a_manifest_is_noticed(root: Path) -> None:
    checkpoint = newest(root)
    path = root / opened(root).layout.checkpoint(checkpoint)
    whole = path.read_bytes()
    summary = opened(root).summary(checkpoint)
    summary_bytes = int.from_bytes(whole[8:16], "little")
    places = list(offsets_in_manifest(len(whole), summary_bytes).values())
    for at in [*places, *random.Random(0).sample(range(len(whole)), 60)]:
        data = bytearray(whole)
        flip(data, at)
        path.write_bytes(data)
        with pytest.raises(DamagedError, match=f"step {STEPS[-1]}"):
            opened(root).manifest(checkpoint)
        with pytest.raises(DamagedError, match=f"step {STEPS[-1]}"):
            read(opened(root), checkpoint)
        with suppress(DamagedError):  # the summary has a digest of its own, and may well be whole
            assert opened(root).summary(checkpoint) == summary
    assert walk_back(opened(root)).step == STEPS[-2]
    assert opened(root).latest() == walk_back(opened(root))


def cuts(size_bytes: int) -> list[int]:
    return [0, 1, 7, 8, HEADER.size - 1, HEADER.size, size_bytes // 2, size_bytes - 1]


def test_a_manifest_of_any_other_length_is_noticed(root: Path) -> None:
    checkpoint = newest(root)
    path = root / opened(root).layout.checkpoint(checkpoint)
    whole = path.read_bytes()
    for data in [*(whole[:n] for n in cuts(len(whole))), whole + b"\0", whole + whole, bytes(len(whole))]:
        path.write_bytes(data)
        with pytest.raises(DamagedError, match=f"step {STEPS[-1]}"):
            read(opened(root), checkpoint)
    assert walk_back(opened(root)).step == STEPS[-2]


def test_a_manifest_in_place_of_another_is_noticed(root: Path) -> None:
    run = opened(root)
    first, *_, last = run.checkpoints()[:3]
    shutil.copy(root / run.layout.checkpoint(first), root / run.layout.checkpoint(last))
    with pytest.raises(DamagedError):
        run.summary(last)
    with pytest.raises(DamagedError):
        read(run, last)
    assert read(run, first) == make_state(first.step)


def test_a_deleted_manifest_is_not_there(root: Path) -> None:
    checkpoint = newest(root)
    run = opened(root)
    (root / run.layout.checkpoint(checkpoint)).unlink()
    with pytest.raises(NotFoundError):
        read(run, checkpoint)
    assert walk_back(run).step == STEPS[-2]


# -- packs ---------------------------------------------------------------------------------


def own_pack(root: Path, checkpoint: CheckpointId) -> Path:
    """The pack that this checkpoint alone uses."""
    run = opened(root)
    others = {p for c in run.checkpoints() if c != checkpoint for p in run.hints(c)}
    return root / layout.pack(next(p for p in run.hints(checkpoint) if p not in others))


def read_or_damage(root: Path, checkpoint: CheckpointId, pack: Path) -> bool:
    """Whether it came back right; otherwise the error must say what is lost, and where."""
    try:
        assert read(opened(root), checkpoint) == make_state(checkpoint.step)
    except DamagedError as error:
        text = str(error)
        assert pack.stem in text, text
        assert f"{RUN}@{checkpoint.step}" in text
        assert any(f"tensor {name}" in text for name in ("weight", "drift", "tied.a", "scalar"))
        return False
    return True


def pack_places(whole: bytes) -> dict[str, int]:
    start, length, *_ = TRAILER.unpack(whole[-TRAILER.size :])
    return {
        "first byte of data": 8,
        "data": start // 2,
        "last byte of data": start - 1,
        "index": start + length // 2,
        "index's first": start,
        "index's last": start + length - 1,
        "index start": len(whole) - TRAILER.size,
        "index start, high byte": len(whole) - TRAILER.size + 7,
        "index length": len(whole) - TRAILER.size + 8,
        "index digest": len(whole) - TRAILER.size + 20,
        "end magic": len(whole) - 8,
        "end version": len(whole) - 1,
    }


def test_a_flip_in_a_pack_is_noticed_and_recorded(root: Path) -> None:
    checkpoint = newest(root)
    pack = own_pack(root, checkpoint)
    whole = pack.read_bytes()
    for name, at in pack_places(whole).items():
        data = bytearray(whole)
        flip(data, at)
        pack.write_bytes(data)
        assert not read_or_damage(root, checkpoint, pack), f"a flip in the {name} went unnoticed"
        pack.write_bytes(whole)
    recorded = list(read_damage(LocalStorage(root)))
    assert {r.pack for r in recorded} == {pack.stem}
    # The flips in data alone are damage of chunks; a broken index leaves nothing to record.
    assert len(recorded) == 3


@pytest.mark.parametrize("place", ["magic", "padding"])
def test_a_flip_where_nothing_is_kept_does_no_harm(root: Path, place: str) -> None:
    checkpoint = newest(root)
    pack = own_pack(root, checkpoint)
    data = bytearray(pack.read_bytes())
    start, length, *_ = TRAILER.unpack(data[-TRAILER.size :])
    flip(data, 3 if place == "magic" else start + length + 1)
    pack.write_bytes(data)
    assert read_or_damage(root, checkpoint, pack)


def test_a_flip_anywhere_in_a_pack_never_gives_wrong_bytes(root: Path) -> None:
    checkpoint = newest(root)
    pack = own_pack(root, checkpoint)
    whole = pack.read_bytes()
    for at in random.Random(1).sample(range(len(whole)), 80):
        data = bytearray(whole)
        flip(data, at)
        pack.write_bytes(data)
        read_or_damage(root, checkpoint, pack)
        shutil.rmtree(root / "damaged", ignore_errors=True)


def test_a_pack_of_any_other_length_is_noticed(root: Path) -> None:
    checkpoint = newest(root)
    pack = own_pack(root, checkpoint)
    whole = pack.read_bytes()
    variants = [whole[:n] for n in (0, 1, 8, 56, 4096, len(whole) - 4096, len(whole) - 1)]
    for data in [*variants, whole + b"\0", whole + bytes(4096), bytes(len(whole))]:
        pack.write_bytes(data)
        assert not read_or_damage(root, checkpoint, pack)
    pack.unlink()
    assert not read_or_damage(root, checkpoint, pack)
    assert walk_back(opened(root)).step == STEPS[-2]


def test_a_pack_in_place_of_another_is_noticed(root: Path) -> None:
    run = opened(root)
    first, second, third = run.checkpoints()[:3]
    shutil.copy(own_pack(root, second), own_pack(root, third))
    assert not read_or_damage(root, third, own_pack(root, third))
    assert read(opened(root), first) == make_state(first.step)
    assert read(opened(root), second) == make_state(second.step)


def test_another_copy_is_read_instead_of_a_bad_one(root: Path) -> None:
    """Damage found by a reader makes the next save write the chunk anew; then the old one is whole."""
    checkpoint = newest(root)
    pack = own_pack(root, checkpoint)
    data = bytearray(pack.read_bytes())
    flip(data, 100)
    pack.write_bytes(data)
    run = opened(root)
    assert not read_or_damage(root, checkpoint, pack)
    run.repository.dependable |= {pack.stem}
    run.repository.index.load_all()
    copy = save(run, run.attempts()[-1].id, 1, STEPS[-1], make_state(STEPS[-1]))
    assert copy.new_bytes > 0
    for tried in (run, opened(root)):
        assert read(tried, copy.id) == make_state(STEPS[-1])
        assert read(tried, checkpoint) == make_state(STEPS[-1])


# -- records -------------------------------------------------------------------------------


def variants(whole: bytes) -> Iterator[bytes]:
    """A record damaged in every way."""
    for at in range(len(whole) - 1):
        data = bytearray(whole)
        flip(data, at)
        yield bytes(data)
    yield from (b"", whole[: len(whole) // 2], whole + b"}", bytes(len(whole)), b"[" * 3000, b"\xff" * 40)


def damage_each(path: Path, look: Callable[[], None]) -> None:
    whole = path.read_bytes()
    for data in variants(whole):
        path.write_bytes(data)
        look()
    path.unlink()
    look()
    path.write_bytes(whole)


def record_of(root: Path, kind: str) -> Path:
    run = opened(root)
    folder = root / layout.RUNS / RUN
    return {
        "hint": root / run.layout.hint(newest(root)),
        "base": root / run.layout.base(run.attempts()[-1].id),
        "attempt": root / run.layout.attempt(run.attempts()[-1].id),
        "tag": folder / "tags/good.json",
        "rejected": next((folder / "rejected").iterdir()),
        "config": root / layout.CONFIG,
    }[kind]


def test_a_damaged_hint_costs_nothing(root: Path) -> None:
    checkpoint = newest(root)
    damage_each(
        record_of(root, "hint"),
        lambda: read_exactly(opened(root), checkpoint),
    )


def read_exactly(run: Run, checkpoint: CheckpointId) -> None:
    assert read(run, checkpoint) == make_state(checkpoint.step)


def test_damaged_attempts_and_rejections_cost_nothing(root: Path) -> None:
    """All that they say is in their names."""
    checkpoint = newest(root)

    def look() -> None:
        run = opened(root)
        assert run.latest() == checkpoint
        assert walk_back(run) == checkpoint

    for kind in ("attempt", "rejected"):
        damage_each(record_of(root, kind), look)


def test_a_damaged_base_is_never_taken_for_another(root: Path) -> None:
    checkpoint = newest(root)
    path = record_of(root, "base")

    def look() -> None:
        run = opened(root)
        if path.exists():
            with pytest.raises(DamagedError, match="attempts/"):
                run.latest()
        else:  # an attempt without a base counts for nothing: its predecessor's line goes on
            assert run.lineage()[0].attempt == checkpoint.attempt

    damage_each(path, look)
    shutil.copy(root / opened(root).layout.base(opened(root).attempts()[0].id), path)
    with pytest.raises(DamagedError, match="not its own"):
        opened(root).latest()


def test_a_damaged_tag_is_missed_and_stops_retention(root: Path) -> None:
    first = opened(root).checkpoints()[0]
    path = record_of(root, "tag")

    def look() -> None:
        run = opened(root)
        assert set(run.tags()) == {"other"}
        with pytest.raises(NotFoundError):
            run.resolve("good")
        if path.exists():
            with pytest.raises(DamagedError, match="'good'"):
                prune(run, 1, run.attempts()[-1].id)
        assert first in run.checkpoints()

    damage_each(path, look)
    shutil.copy(path.with_name("other.json"), path)
    assert set(opened(root).tags()) == {"other"}
    run = opened(root)
    run.remove_tag("good")
    prune(run, 1, run.attempts()[-1].id)
    assert [c.step for c in opened(root).lineage()] == [STEPS[-1], STEPS[1]]


def test_a_damaged_config_is_never_taken_for_another(root: Path) -> None:
    checkpoint = newest(root)
    path = record_of(root, "config")
    original = Repository.open(LocalStorage(root))

    def look() -> None:
        with pytest.raises((DamagedError, NotFoundError), match=r"holdfast\.json") as caught:
            opened(root)
        assert "repair" in str(caught.value)
        with pytest.raises(HoldfastError):
            make_repository(LocalStorage(root))  # never covered up by a new one
        recovered = recover_config(LocalStorage(root))
        assert recovered is not None
        assert (recovered.id, recovered.chunk_bytes) == (original.id, original.chunk_bytes)

    damage_each(path, look)
    read_exactly(opened(root), checkpoint)


def test_a_foreign_config_rejects_nothing(root: Path, tmp_path: Path) -> None:
    checkpoint = newest(root)
    make_repository(LocalStorage(tmp_path / "foreign", create=True))
    shutil.copy(tmp_path / "foreign" / layout.CONFIG, root / layout.CONFIG)
    with pytest.raises(HoldfastError, match="another repository") as caught:
        read(opened(root), checkpoint)
    assert not isinstance(caught.value, DamagedError)


def test_damaged_damage_records_claim_nothing(root: Path) -> None:
    checkpoint = newest(root)
    pack = own_pack(root, checkpoint)
    run = opened(root)
    run.repository.index.load_all()
    digest = run.repository.index.entries(pack.stem)[0].digest
    run.repository.index.record_damage(pack.stem, [digest], "test")
    (path,) = (root / layout.DAMAGED_PACKS).iterdir()

    def look() -> None:
        read_exactly(opened(root), checkpoint)

    damage_each(path, look)
    with pytest.raises(DamagedError, match="tensor"):  # and a whole one is believed
        read(opened(root), checkpoint)


def test_everything_newest_damaged_walks_back_to_the_first(root: Path) -> None:
    run = opened(root)
    order = list(run.recovery_points())
    assert [c.step for c in order] == [30, 20, 10]
    for checkpoint in order[:2]:
        pack = own_pack(root, checkpoint)
        data = bytearray(pack.read_bytes())
        flip(data, 50)
        pack.write_bytes(data)
    assert walk_back(opened(root)) == order[-1]
    assert opened(root).latest() == order[-1]
    assert {s.rpartition("-")[2] for s in opened(root).rejected()} >= {c.digest for c in order[:2]}
