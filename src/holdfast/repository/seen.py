"""The newest checkpoint that was seen of a run, remembered on this machine: so a rollback is noticed.

Only where signatures are required (`HOLDFAST_SIGNED_BY`): without them, who can bring back an old state
could as well make a new one. What is remembered lies below `$XDG_STATE_HOME/holdfast/seen`, apart
for each repository, place and run: a mirror may lag behind.
"""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import blake3
import msgspec

from holdfast.domain.names import CheckpointId
from holdfast.errors import DamagedError, FormatError, NotFoundError, RolledBackError
from holdfast.repository.signatures import signer, trusted_signers

if TYPE_CHECKING:
    from collections.abc import Collection

    from holdfast.repository.run import Run


class SeenRecord(msgspec.Struct, frozen=True):
    """Of which run this is, for people; and the newest checkpoint seen of it."""

    location: str
    run: str
    checkpoint: str


def note(run: Run, checkpoint: CheckpointId) -> bool:
    """Remember a checkpoint that is trusted, if it is the newest; False if that cannot be done."""
    if not trusted_signers():
        return True
    before = _remembered(run)
    if before is not None and not is_older(before, checkpoint):
        return True
    record = SeenRecord(run.storage.location, run.name, str(checkpoint))
    try:
        _replace(_path(run), msgspec.json.encode(record))
    except (OSError, RuntimeError):  # no folder of its own: nobody's home
        return False
    return True


def check(run: Run) -> CheckpointId | None:
    """The newest one seen of a run, after a look whether it, or a newer one that is trusted, is still there.

    Raises
    ------
    RolledBackError
        Neither is.
    """
    trusted = trusted_signers()
    before = _remembered(run) if trusted else None
    if before is None:
        return None
    present = run.all_checkpoints()
    if before in present or any(_is_signed(run, c, trusted) for c in present if not is_older(c, before)):
        return before
    raise RolledBackError(
        f"The run {run.name} in {run.storage.location} is older than what was seen here: "
        f"step {before.step} is gone, and nothing newer is there.",
        do=f"If somebody put an older state back on purpose, remove {_path(run)} and try again.",
    )


def forget(run: Run) -> None:
    """What was seen of a run is gone because somebody asked for that here."""
    with suppress(OSError, RuntimeError):
        _path(run).unlink(missing_ok=True)


def is_older(checkpoint: CheckpointId, other: CheckpointId) -> bool:
    """Whether one was committed before another; a thin copy is as old as what it was made of."""
    return checkpoint.order[:2] < other.order[:2]


def _is_signed(run: Run, checkpoint: CheckpointId, trusted: Collection[str]) -> bool:
    with suppress(DamagedError, FormatError, NotFoundError):
        return signer(run, run.manifest(checkpoint), checkpoint) in trusted
    return False


def _remembered(run: Run) -> CheckpointId | None:
    try:
        record = msgspec.json.decode(_path(run).read_bytes(), type=SeenRecord)
    except (OSError, RuntimeError, UnicodeDecodeError, msgspec.MsgspecError):
        return None
    return CheckpointId.parse(record.checkpoint)


def _path(run: Run) -> Path:
    name = "\0".join((run.repository.id, run.storage.location, run.name))
    state = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return (
        Path(state).expanduser()
        / "holdfast"
        / "seen"
        / f"{blake3.blake3(name.encode()).hexdigest()[:32]}.json"
    )


def _replace(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = path.with_name(f".{secrets.token_hex(8)}")
    try:
        temporary.touch(mode=0o600, exist_ok=False)
        temporary.write_bytes(data)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
