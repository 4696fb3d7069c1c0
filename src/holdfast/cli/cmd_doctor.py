"""``holdfast doctor``: whether this machine and this place will do."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from holdfast.cli import output, text
from holdfast.cli.options import JsonOption, RepositoryOption, place_of

if TYPE_CHECKING:
    from holdfast.repository.repository import Repository
    from holdfast.repository.run import Run
    from holdfast.storage.base import Storage

EXAMPLES = ("holdfast doctor", "holdfast doctor /mnt/scratch/checkpoints", "holdfast doctor --json")
_PACKAGES = (
    "torch",
    "torchdata",
    "paddlepaddle",
    "paddlepaddle-gpu",
    "numpy",
    "safetensors",
    "transformers",
    "lightning",
    "jax",
)
_LITTLE_BYTES = 1 << 30
_SKEW_SECONDS = 5.0
_EARLIEST_SECONDS = 1_735_689_600  # 2025: a clock before that was never set


class Check(NamedTuple):
    """One thing looked at: ``level`` is ok, note (slower, still safe) or problem."""

    level: str
    subject: str
    finding: str


def command(
    place: Annotated[
        str | None,
        typer.Argument(metavar="PLACE", help="Folder or URL; else the repository.", show_default=False),
    ] = None,
    repository: RepositoryOption = None,
    json: JsonOption = False,
) -> None:
    """Check this machine, the place where checkpoints go, and the repository if there is one.

    What a file system lacks is replaced by a safe, slower way, and said here. Ends with 1 if
    there is a problem.
    """
    where = place_of(place or repository)
    checks = [*_machine(), *_place(where)]
    problems = sum(c.level == "problem" for c in checks)
    if json:
        output.print_json({"place": where, "checks": [c._asdict() for c in checks], "problems": problems})
    else:
        marks = {"ok": "  ", "note": "- ", "problem": "! "}
        for check in checks:
            output.say(f"{marks[check.level]}{check.subject + ':':14} {check.finding}")
        output.say("No problem found." if not problems else f"{text.several(problems, 'problem')} found (!).")
    if problems:
        raise typer.Exit(1)


def _machine() -> Iterator[Check]:
    import psutil

    yield Check("ok", "holdfast", _version("holdfast") or "not installed as a package")
    yield Check("ok", "Python", f"{platform.python_version()} on {platform.system()} {platform.release()}")
    found = [f"{name} {v}" for name in _PACKAGES if (v := _version(name)) is not None]
    yield Check("ok", "packages", ", ".join(found) or "no framework is installed")
    memory = psutil.virtual_memory()
    yield Check("ok", "memory", f"{text.size(memory.available)} of {text.size(memory.total)} available")
    if time.time() < _EARLIEST_SECONDS:
        yield Check("problem", "clock", f"It says {text.moment(time.time())}: set it; leases rely on it.")
    yield _watch()
    yield from _ranks()


def _ranks() -> Iterator[Check]:
    from holdfast.errors import HoldfastError
    from holdfast.training.ranks.launch import place

    try:
        here = place(os.environ)
    except HoldfastError as error:
        yield Check("problem", "ranks", str(error))
        return
    if here.world_size > 1:
        yield Check("ok", "ranks", f"{here.world_size} on this machine; this is rank {here.rank}.")


def _watch() -> Check:
    from holdfast.node.written import Watch

    watch = Watch.open()
    if watch is None:
        return Check(
            "note", "kernel", "It does not tell what was written to: frozen tensors are copied at each save."
        )
    watch.close()
    return Check("ok", "kernel", "tells what was written to: frozen tensors are left out of saves")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _place(where: str) -> Iterator[Check]:
    from holdfast.errors import HoldfastError, NotFoundError
    from holdfast.storage.urls import folder_of, open_storage

    is_there = True
    try:
        storage = open_storage(where)
    except NotFoundError:
        is_there = False
        folder = folder_of(where) or Path(where)
        above = next(p for p in folder.absolute().parents if p.is_dir())
        yield Check("ok", "place", f"{where} is not there yet; looking at {above}.")
        storage = open_storage(above)
    except HoldfastError as error:
        yield Check("problem", "place", str(error))
        return
    else:
        yield Check("ok", "place", storage.location)
    try:
        yield from _features(storage)
        yield from _room(storage)
        yield from _clock(storage)
    except HoldfastError as error:
        yield Check("problem", "place", str(error))
    if is_there:
        yield from _contents(storage)


def _features(storage: Storage) -> Iterator[Check]:
    from holdfast.storage.base import KeepsApart
    from holdfast.storage.local import LocalStorage
    from holdfast.storage.probe import probe

    if isinstance(storage, KeepsApart):
        header = storage.check_conditions()
        honoured = f"honours 'create only if absent' ({header})"
        yield Check("ok", "store", f"{honoured}; without locks, removals wait 6 hours")
    if not isinstance(storage, LocalStorage):
        return
    features = probe(storage.location)
    missing = features.missing()
    yield Check("ok", "file system", f"{features.filesystem}, " + ("slower" if missing else "all it takes"))
    for sentence in missing.values():
        yield Check("note", "file system", sentence)


def _room(storage: Storage) -> Iterator[Check]:
    """Whether a launch could save: before its first save it asks for room for all of it."""
    from holdfast.repository.persisting import SPARE_BYTES

    free_bytes = storage.free_bytes()
    if free_bytes is None:
        return
    free, need_bytes = text.size(free_bytes), _checkpoint_bytes(storage)
    if free_bytes < need_bytes + SPARE_BYTES:
        need = f"a checkpoint of {text.size(need_bytes)} and " if need_bytes else ""
        finding = f"{free}, too little for {need}the {text.size(SPARE_BYTES)} that are kept free: make room."
        yield Check("problem", "free space", finding)
    else:
        yield Check("note" if free_bytes < _LITTLE_BYTES else "ok", "free space", free)


def _checkpoint_bytes(storage: Storage) -> int:
    """The least that a run's newest checkpoint takes."""
    from holdfast.errors import HoldfastError
    from holdfast.repository.repository import Repository

    try:
        sizes = [_latest_bytes(run) for run in Repository.open(storage).runs()]
    except HoldfastError:
        return 0  # said by another check
    return min((size for size in sizes if size), default=0)


def _clock(storage: Storage) -> Iterator[Check]:
    skew_seconds = abs(storage.now_seconds() - time.time())
    if skew_seconds > _SKEW_SECONDS:
        apart = text.duration(skew_seconds)
        yield Check("note", "clock", f"The storage's clock and this machine's are {apart} apart.")


def _contents(storage: Storage) -> Iterator[Check]:
    from holdfast.errors import HoldfastError, NotFoundError
    from holdfast.repository.repository import Repository

    try:
        yield from _repository(Repository.open(storage))
    except NotFoundError as error:
        level = "problem" if "lost" in error.what else "ok"
        yield Check(level, "repository", error.what if level == "ok" else str(error))
    except HoldfastError as error:
        yield Check("problem", "repository", str(error))


def _repository(repository: Repository) -> Iterator[Check]:
    from holdfast.cli.told import live_holders
    from holdfast.repository.index import read_damage

    runs = repository.runs()
    live = sum(bool(live_holders(run)) for run in runs)
    checkpoints = sum(len(run.checkpoints()) for run in runs)
    counted = f"{text.several(len(runs), 'run')} ({live} live), {text.several(checkpoints, 'checkpoint')}"
    yield Check("ok", "repository", counted)
    for run in runs:
        yield from _attempts(run)
    yield from _memory(runs)
    damaged = len({record.pack for record in read_damage(repository.storage)})
    if damaged:
        packs = text.several(damaged, "pack")
        yield Check("note", "repository", f"{packs} recorded as damaged in part: run 'holdfast verify'.")
    rejected = sum(_rejected(run) for run in runs)
    if rejected:
        told = text.several(rejected, "checkpoint")
        yield Check("note", "repository", f"{told} rejected as damaged: 'holdfast repair' may mend them.")


def _rejected(run: Run) -> int:
    """How many checkpoints are rejected; records of those that are removed since stay."""
    rejected = run.rejected()
    return sum(str(checkpoint) in rejected for checkpoint in run.checkpoints())


def _memory(runs: list[Run]) -> Iterator[Check]:
    """Whether the largest run could save in the background, by the size of its last checkpoint."""
    from holdfast.node.memory import available_bytes
    from holdfast.training.slots import IN_FLIGHT, WITH_SNAPSHOTS, room_bytes

    state_bytes, run = max(((_latest_bytes(run), run.name) for run in runs), default=(0, ""))
    if not state_bytes:
        return
    there_bytes, slot_bytes = available_bytes(), room_bytes(state_bytes)
    background_bytes, snapshots_bytes = IN_FLIGHT * slot_bytes, WITH_SNAPSHOTS * slot_bytes
    need = f"{text.size(background_bytes)} for saves in the background, {text.size(snapshots_bytes)}"
    fits = background_bytes <= there_bytes
    limits = "" if fits else " Saves would be one at a time, or hold up training."
    what = f"The run {run} takes up to {need} with snapshots in memory; {text.size(there_bytes)} are free."
    yield Check("ok" if fits else "note", "memory", what + limits)


def _latest_bytes(run: Run) -> int:
    from holdfast.errors import HoldfastError

    try:
        latest = run.latest()
        return run.summary(latest).size_bytes if latest is not None else 0
    except HoldfastError:
        return 0  # said by another check


def _attempts(run: Any) -> Iterator[Check]:
    from holdfast.errors import DamagedError

    try:
        run.attempts()
        run.tags(strict=True)
    except DamagedError as error:
        yield Check("problem", f"run {run.name}", str(error))
