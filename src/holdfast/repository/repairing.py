"""What is wrong in a repository, and what can be mended without guessing about data.

Nothing that somebody could still want is deleted: records that cannot be read are copied
below ``aside/`` first, and chunks are only ever copied.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress

import msgspec

from holdfast.domain.manifest import Manifest
from holdfast.domain.names import AttemptId, CheckpointId
from holdfast.errors import DamagedError, FormatError, NotFoundError
from holdfast.repository import layout, records
from holdfast.repository.index import Copy, DamageRecord
from holdfast.repository.keyring import entries
from holdfast.repository.moving import MovedRecord, MovingRecord
from holdfast.repository.pack import read_index
from holdfast.repository.reindex import (
    Found,
    chunk_sizes_of,
    find_chunks,
    readable_bytes,
    with_bases,
    write_pack,
)
from holdfast.repository.repository import Repository, recover_config
from holdfast.repository.run import Run
from holdfast.repository.sealing import unsealed
from holdfast.repository.space import Survey
from holdfast.repository.verify import Verifier
from holdfast.repository.vouching import vouched
from holdfast.storage.base import Storage
from holdfast.storage.sealed import at_rest


class Finding(msgspec.Struct, frozen=True):
    """One thing that is wrong.

    Attributes
    ----------
    kind : str
        Stable, for programs.
    subject : str
        What it is about.
    what : str
        One sentence: what is wrong.
    do : str
        One sentence: what `fix` does, or what somebody else must.
    fix : callable or None
        Mends it; None where nothing here can.
    """

    kind: str
    subject: str
    what: str
    do: str
    fix: Callable[[], None] | None = None


def find_config_damage(storage: Storage) -> tuple[Repository | None, list[Finding]]:
    """Open the repository, if need be by what its manifests say; and what is wrong with ``holdfast.json``."""
    try:
        return Repository.open(storage), []
    except DamagedError as error:
        what = error.what
    except NotFoundError as error:
        if "lost" not in error.what:
            raise
        what = error.what
    config = recover_config(storage)
    if config is None:
        do = f"No manifest tells its id: restore {layout.CONFIG} from a backup."
        return None, [Finding("config", layout.CONFIG, what, do)]
    data = records.encode(config)
    finding = Finding(
        "config",
        layout.CONFIG,
        what,
        f"Write it anew from a manifest: id {config.id[:8]}, chunks of {config.chunk_bytes} bytes.",
        lambda: storage.put(layout.CONFIG, [data]),
    )
    return Repository(unsealed(storage, config), config), [finding]


def inspect(repository: Repository, is_live: Callable[[Run], bool]) -> Iterator[Finding]:
    """Look at everything but the bytes of sound packs (that is what 'verify' does)."""
    yield from _keys(repository)
    yield from _folders(repository)
    for run in repository.runs():
        yield from _bases(run)
        yield from _tags(run)
        yield from _moves(run)
        if not is_live(run):
            yield from _requests(run)
    yield from _manifests(repository)
    yield from _packs(repository)
    yield from _damage_records(repository)
    yield from _rejections(repository)


def _set_aside(storage: Storage, key: str) -> None:
    """Keep a copy of a record where nothing looks for it, then take it away."""
    resting = at_rest(storage)  # what does not unseal is kept as it lies, too
    resting.put(layout.ASIDE + key, [resting.get(key)])
    storage.delete(key)


def _keys(repository: Repository) -> Iterator[Finding]:
    for entry in entries.half_lost(repository.storage):
        yield Finding(
            "key",
            entry.id,
            "One of the two files of this key cannot be read.",
            "Write it anew from the other one.",
            lambda entry=entry: entries.put(repository.storage, entry),  # type: ignore[misc]
        )


def _folders(repository: Repository) -> Iterator[Finding]:
    """A folder that may be a run's under a name that none can have: nothing is removed beside it."""
    try:
        repository.every_run()
    except DamagedError as error:
        yield Finding("folder", layout.RUNS, error.what, error.do or "")


# -- records of a run ----------------------------------------------------------------------


def _bases(run: Run) -> Iterator[Finding]:
    present = {key for key in run.storage.list(run.layout.attempts) if key.endswith(".base")}
    attempts = {AttemptId.parse(key.rpartition("/")[2].removesuffix(".base")) for key in present}
    if records.read_or_none(run.storage, run.layout.moving, MovingRecord) is None:
        attempts |= {c.attempt for c in run.checkpoints()}  # each recorded a base before its first save
    for attempt in sorted(a for a in attempts if a is not None):
        key = run.layout.base(attempt)
        if not _is_sound_base(run, key, attempt):
            yield _mend_base(run, key, attempt, lost=key not in present)


def _is_sound_base(run: Run, key: str, attempt: AttemptId) -> bool:
    record = records.read_or_none(run.storage, key, records.BaseRecord)
    if record is None or record.attempt != str(attempt):
        return False
    return record.checkpoint is None or CheckpointId.parse(record.checkpoint) is not None


def _mend_base(run: Run, key: str, attempt: AttemptId, *, lost: bool) -> Finding:
    subject = f"{run.name}, attempt {attempt}"
    what = "What this attempt started from cannot be read, so the run cannot be resumed."
    if lost:
        what = "The record of what this attempt started from is lost, so its checkpoints do not count."
    own = [c for c in run.checkpoints() if c.attempt == attempt]
    if not own:
        do = "Set the record aside: the attempt saved nothing, so the run goes on from the one before."
        return Finding("base", subject, what, do, lambda: _set_aside(run.storage, key))
    base, certain = _base_of(run, own[0])
    where = f"step {base.step}" if base is not None else "scratch"
    source = "as its first checkpoint says" if certain else "the newest older one: its first save is gone"
    record = records.encode(
        vouched(run, records.BaseRecord(str(attempt), str(base) if base is not None else None))
    )

    def fix() -> None:
        if not lost:
            _set_aside(run.storage, key)
        run.storage.put(key, [record])

    return Finding("base", subject, what, f"Write it anew: it started from {where} ({source}).", fix)


def _base_of(run: Run, first: CheckpointId) -> tuple[CheckpointId | None, bool]:
    """What the attempt of this checkpoint, its oldest, started from; and whether that is certain."""
    try:
        told = run.summary(first).parent
        parent = CheckpointId.parse(told) if told is not None else None
        if told is None or (parent is not None and parent.attempt != first.attempt):
            return parent, True
    except (DamagedError, NotFoundError):
        pass
    rejected = run.rejected()
    older = [c for c in run.checkpoints() if c.attempt.number < first.attempt.number and c.kind == "full"]
    return next((c for c in reversed(older) if str(c) not in rejected), None), False


def _tags(run: Run) -> Iterator[Finding]:
    for key in run.storage.list(run.layout.tags):
        record = records.read_or_none(run.storage, key, records.TagRecord)
        if record is None or CheckpointId.parse(record.checkpoint) is None:
            name = key.rpartition("/")[2].removesuffix(".json")
            yield Finding(
                "tag",
                f"{run.name}@{name}",
                "This tag cannot be read: nobody knows which checkpoint it keeps, so none is removed.",
                "Set the record aside; tag the checkpoint again.",
                lambda key=key: _set_aside(run.storage, key),  # type: ignore[misc]
            )


def _moves(run: Run) -> Iterator[Finding]:
    moving = records.read_or_none(run.storage, run.layout.moving, MovingRecord)
    moved = records.read_or_none(run.storage, run.layout.moved, MovedRecord)
    if moving is not None:
        do = f"Run: holdfast mv {moving.source} {run.name}"
        yield Finding("move", run.name, f"A move from {moving.source} was cut short.", do)
    if moved is not None:
        do = f"Run: holdfast mv {run.name} {moved.target}"
        yield Finding("move", run.name, f"A move to {moved.target} was cut short.", do)


def _requests(run: Run) -> Iterator[Finding]:
    stale = list(run.storage.list(run.layout.requests))
    if stale:

        def fix() -> None:
            for key in stale:
                run.storage.delete(key)

        what = f"{len(stale)} requests to save wait for a trainer that is gone."
        yield Finding("request", run.name, what, "Withdraw them.", fix)


# -- manifests -----------------------------------------------------------------------------


def _manifests(repository: Repository) -> Iterator[Finding]:
    for run in repository.runs():
        rejected = run.rejected()
        for checkpoint in run.all_checkpoints():
            try:
                run.manifest(checkpoint)
            except NotFoundError:
                continue
            except FormatError as error:
                yield Finding("newer", f"{run.name}@{checkpoint.step}", error.what, error.do or "")
            except DamagedError as error:
                known = bool(run.hints(checkpoint))
                if not (known and str(checkpoint) in rejected):
                    yield _mend_manifest(repository, run, checkpoint, error.what, known=known)


def _mend_manifest(
    repository: Repository, run: Run, checkpoint: CheckpointId, what: str, *, known: bool
) -> Finding:
    subject = f"{run.name}@{checkpoint.step}"
    orphans = sorted(Survey(repository).orphan_packs()) if not known else []

    def fix() -> None:
        run.reject(checkpoint, what)
        if orphans:
            hint = records.encode(records.HintRecord(orphans))
            run.storage.put(run.layout.hint(checkpoint), [hint])
        elif not known:
            _set_aside(run.storage, run.layout.checkpoint(checkpoint))

    if known:
        do = "Reject it, so that nothing resumes from it; 'holdfast rm' removes it."
    elif orphans:
        do = f"Reject it; keep the {len(orphans)} packs that may be its own until 'holdfast rm' removes it."
    else:
        do = "Reject it and set it aside: no pack is its own."
    return Finding("manifest", subject, what, do, fix)


# -- packs ---------------------------------------------------------------------------------


def _packs(repository: Repository) -> Iterator[Finding]:
    repository.index.load_all()
    damaged = [p for p in sorted(repository.index.unreadable) if _is_damaged(repository, p)]
    if damaged:
        sizes = chunk_sizes_of(_sound_manifests(repository))
        wanted = _packs_of_unreadable(repository)
        if any(_folders(repository)):
            wanted = dict.fromkeys(damaged, "A folder that may be a run's") | wanted
        yield from (_mend_pack(repository, pack_id, sizes, wanted) for pack_id in damaged)


def _sound_manifests(repository: Repository) -> Iterator[Manifest]:
    for run in repository.runs():
        for checkpoint in run.all_checkpoints():
            with suppress(DamagedError, NotFoundError, FormatError):
                yield run.manifest(checkpoint)


def _packs_of_unreadable(repository: Repository) -> dict[str, str]:
    """Pack → who may need it: a checkpoint whose manifest cannot be read, but may come back whole."""
    found: dict[str, str] = {}
    for run in repository.runs():
        for checkpoint in run.all_checkpoints():
            try:
                run.manifest(checkpoint)
            except (DamagedError, FormatError):
                name = f"{run.name}@{checkpoint.step}, whose manifest cannot be read,"
                found |= dict.fromkeys(run.hints(checkpoint), name)
            except NotFoundError:
                continue
    return found


def _is_damaged(repository: Repository, pack_id: str) -> bool:
    """Whether its index is damaged also when read again."""
    try:
        read_index(repository.storage, pack_id)
    except DamagedError:
        return True
    except NotFoundError:
        return False
    return False


def _mend_pack(
    repository: Repository, pack_id: str, sizes: dict[bytes, int], wanted: dict[str, str]
) -> Finding:
    storage, index = repository.storage, repository.index
    lacking = {d for d in sizes if not index.copies(d)}
    chunks = f"{len(lacking)} chunk{'' if len(lacking) == 1 else 's'}"
    what = f"{index.unreadable[pack_id]} Without it checkpoints lack {chunks if lacking else 'nothing'}."
    if not lacking and pack_id in wanted:
        do = f"{wanted[pack_id]} may need it: mend or remove that first."
        return Finding("pack", pack_id, what, do)
    if not lacking:
        do = "Delete it: no checkpoint needs it."
        return Finding("pack", pack_id, what, do, lambda: storage.delete(layout.pack(pack_id)))
    data = readable_bytes(storage, layout.pack(pack_id))
    found = find_chunks(data, sizes)
    intact = {f.digest for f in found if f.digest in lacking}
    if not intact:
        do = "None is intact in it; 'holdfast verify --repair-from PLACE' brings them from a copy."
        return Finding("pack", pack_id, what, do)
    do = f"Copy those of them that are intact in it ({len(intact)}) to a new pack."
    return Finding("pack", pack_id, what, do, lambda: _copy_chunks(repository, data, found))


def _copy_chunks(repository: Repository, data: memoryview, found: list[Found]) -> None:
    lacking = [f for f in found if not repository.index.copies(f.digest)]
    if lacking:
        repository.index.load([write_pack(repository.storage, data, with_bases(lacking, found))])


def _damage_records(repository: Repository) -> Iterator[Finding]:
    storage = repository.storage
    for key in storage.list(layout.DAMAGED_PACKS):
        record = records.read_or_none(storage, key, DamageRecord)
        if record is not None and _is_over(repository, record):
            yield Finding(
                "damage-record",
                record.pack,
                "Chunks recorded as damaged are intact again, or gone with their pack.",
                "Withdraw the record.",
                lambda key=key: storage.delete(key),  # type: ignore[misc]
            )


def _is_over(repository: Repository, record: DamageRecord) -> bool:
    if repository.storage.stat(layout.pack(record.pack)) is None:
        return True
    entries = {e.digest.hex(): e for e in repository.index.entries(record.pack)}
    copies = [Copy(record.pack, entries[d]) for d in record.digests if d in entries]
    reader = repository.reader
    return len(copies) == len(record.digests) and all(reader.chunk(c) is not None for c in copies)


def _rejections(repository: Repository) -> Iterator[Finding]:
    """Checkpoints rejected as damaged that verify now, such as after a pack came back."""
    verifier = Verifier(repository)
    for run in repository.runs():
        rejected = run.rejected()
        for checkpoint in run.checkpoints():
            if str(checkpoint) not in rejected:
                continue
            verdict = verifier.check(run, checkpoint)
            if verdict is not None and verdict.ok:
                yield Finding(
                    "rejection",
                    f"{run.name}@{checkpoint.step}",
                    "It is rejected as damaged, but every chunk of it verifies now.",
                    "Withdraw the rejection.",
                    lambda run=run, c=checkpoint: run.readmit(c),  # type: ignore[misc]
                )
