"""One run in a repository: its attempts, checkpoints, tags and records."""

from __future__ import annotations

import secrets
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from os import getpid
from typing import TYPE_CHECKING, TypeVar

from holdfast.domain.lineage import Attempt, chain, head_attempt, recovery_points
from holdfast.domain.manifest import Manifest, Needs, Summary
from holdfast.domain.manifest_file import (
    SUMMARY_READ_BYTES,
    decode_manifest,
    decode_needs,
    decode_summary,
    summary_bytes,
)
from holdfast.domain.names import AttemptId, CheckpointId, parse_at, validate_run, validate_tag
from holdfast.errors import (
    BusyError,
    DamagedError,
    FormatError,
    HoldfastError,
    NotFoundError,
    UsageError,
)
from holdfast.repository import layout, records
from holdfast.repository.choosing import best_of
from holdfast.repository.layout import RunLayout
from holdfast.repository.vouching import counting, is_vouched, require_vouched, vouched

if TYPE_CHECKING:
    from holdfast.repository.repository import Repository

NUMBER_CLAIMS = 50
LOOKS = 5
T = TypeVar("T")


class Run:
    """A named training lineage. Reads are computed from what is present; nothing is cached."""

    def __init__(self, repository: Repository, name: str) -> None:
        self.name = validate_run(name)
        self.repository = repository
        self.storage = repository.storage
        self.layout = RunLayout(name)

    # -- what is there -----------------------------------------------------------------

    def exists(self) -> bool:
        """Whether anything was ever recorded of this run."""
        # Not all below its root: 'sweep/lr3' lies below 'sweep' and is another run.
        folders = (self.layout.attempts, self.layout.checkpoints)
        return any(next(iter(self.storage.list(f)), None) is not None for f in folders)

    def checkpoints(self) -> list[CheckpointId]:
        """All that are committed and not condemned, by attempt and commit."""
        condemned = self.condemned()
        found = [c for c in self._listed(self.layout.checkpoints) if str(c) not in condemned]
        return sorted(found, key=lambda c: c.order)

    def all_checkpoints(self) -> list[CheckpointId]:
        """Every manifest that is present, condemned ones included."""
        return sorted(self._listed(self.layout.checkpoints), key=lambda c: c.order)

    def rejected(self) -> set[str]:
        return {str(c) for c in self._listed(self.layout.rejected)}

    def condemned(self) -> set[str]:
        return {str(c) for c in self._listed(self.layout.condemned)}

    def _listed(self, folder: str) -> Iterator[CheckpointId]:
        for key in self.keys_in(folder):
            name = key.removeprefix(folder).removesuffix(".json")
            if (checkpoint := CheckpointId.parse(name)) is not None:
                yield checkpoint

    def keys_in(self, folder: str) -> Iterator[str]:
        """Keys in one of its folders, and not in others below that, such as those of a run 'sweep/parts'."""
        return (key for key in self.storage.list(folder) if "/" not in key.removeprefix(folder))

    def attempts(self) -> list[Attempt]:
        """Every attempt with the base that it recorded."""
        for _ in range(LOOKS - 1):
            with suppress(NotFoundError):  # the run is being removed, or renamed, since that was listed
                return self._attempts()
        return self._attempts()

    def _attempts(self) -> list[Attempt]:
        names = [key.rpartition("/")[2] for key in self.storage.list(self.layout.attempts)]
        bases = {n.removesuffix(".base") for n in names if n.endswith(".base")}
        ids = {AttemptId.parse(n.partition(".")[0]) for n in names if n.endswith((".json", ".base"))}
        return sorted((self._attempt(i, str(i) in bases) for i in ids if i is not None), key=lambda a: a.id)

    def _attempt(self, attempt: AttemptId, based: bool) -> Attempt:
        if not based:
            return Attempt(attempt)
        record = records.read(self.storage, self.layout.base(attempt), records.BaseRecord)
        base = CheckpointId.parse(record.checkpoint) if record.checkpoint is not None else None
        if record.attempt != str(attempt) or (base is None) != (record.checkpoint is None):
            raise DamagedError(
                f"The base of attempt {attempt} of {self.name} is not its own.",
                do="Run 'holdfast repair' to set it aside.",
            )
        return Attempt(attempt, based=True, base=base, trusted=is_vouched(self, record))

    def ends(self) -> dict[AttemptId, records.EndRecord]:
        """How each ended attempt ended."""
        result = {}
        for key in self.storage.list(self.layout.attempts):
            attempt = AttemptId.parse(key.rpartition("/")[2].removesuffix(".end"))
            if key.endswith(".end") and attempt is not None:
                record = records.read_or_none(self.storage, key, records.EndRecord)
                if record is not None:
                    result[attempt] = record
        return result

    def had_ended(self, attempt: AttemptId) -> bool:
        """Whether an attempt is known to have finished its training."""
        with suppress(HoldfastError):
            end = records.read_or_none(self.storage, self.layout.end(attempt), records.EndRecord)
            is_own = end is not None and end.attempt == str(attempt)
            return end is not None and is_own and end.done and is_vouched(self, end)
        return False

    # -- choosing ----------------------------------------------------------------------

    def recovery_points(self) -> Iterator[CheckpointId]:
        """What the run may resume from, best first; not yet verified.

        Raises
        ------
        SignatureError
            Signatures are required, and nobody who is trusted says where the run goes on from.
        """
        checkpoints = self.checkpoints()
        attempts = counting(self, self.attempts(), any_saved=bool(checkpoints))
        return recovery_points(attempts, checkpoints, self.rejected())

    def latest(self) -> CheckpointId | None:
        """The newest checkpoint on the run's line that is not rejected."""
        return next(self.recovery_points(), None)

    def lineage(self) -> list[CheckpointId]:
        """Checkpoints that lead to the head, newest first."""
        return list(chain(self.attempts(), self.checkpoints()))

    def head(self) -> Attempt | None:
        return head_attempt(self.attempts())

    def resolve(
        self, at: int | str = "latest", *, monitor: str | None = None, mode: str | None = None
    ) -> CheckpointId:
        """Find the checkpoint that an address means.

        Raises
        ------
        NotFoundError
            Nothing matches; names what there is.
        """
        at = parse_at(at)
        if at == "latest":
            found = self.latest()
        elif at == "best":
            found = self.best(monitor, mode)
        elif isinstance(at, int):
            found = self._at_step(at)
        elif (named := CheckpointId.parse(at)) is not None:  # longer than any tag may be
            found = named if named in self.checkpoints() else None
        else:
            found = self._tagged(at)
        if found is None:
            raise self._not_found(at)
        return found

    def _tagged(self, name: str) -> CheckpointId | None:
        record = records.read_or_none(self.storage, self.layout.tag(name), records.TagRecord)
        if record is None or record.tag != name:
            return None
        require_vouched(self, record)
        return CheckpointId.parse(record.checkpoint)

    def _at_step(self, step: int) -> CheckpointId | None:
        on_line = [c for c in self.lineage() if c.step == step]
        rest = [c for c in reversed(self.checkpoints()) if c.step == step]
        rejected = self.rejected()
        candidates = sorted([*on_line, *rest], key=lambda c: str(c) in rejected)
        return next(iter(candidates), None)

    def best(self, monitor: str | None = None, mode: str | None = None) -> CheckpointId | None:
        """The checkpoint with the best value of a metric, dead branches and rejected ones excluded.

        Without ``monitor``, the metric that the run's keep rule monitors.
        """
        return best_of(self, monitor, mode)

    def _not_found(self, at: int | str) -> NotFoundError:
        checkpoints = self.checkpoints()
        if not checkpoints:
            where = self.storage.location
            hint = "It has no checkpoint yet." if self.exists() else f"There is no such run in {where}."
            return NotFoundError(
                f"No checkpoint {self.name}@{at}: {hint}", do="'holdfast ls' lists all runs."
            )
        steps = sorted({c.step for c in checkpoints})
        some = ", ".join(map(str, steps if len(steps) <= 8 else [*steps[:3], "...", *steps[-4:]]))
        tags = f"; tags: {', '.join(sorted(self.tags()))}" if self.tags() else ""
        return NotFoundError(
            f"The run {self.name} has no checkpoint @{at}; its steps are {some}{tags}.",
            do="Name one of these, or 'latest'.",
        )

    # -- reading -----------------------------------------------------------------------

    def manifest(self, checkpoint: CheckpointId) -> Manifest:
        """Read and verify a manifest; damage is confirmed by a second read."""
        manifest = self._decoded(checkpoint, decode_manifest)
        self._check_own(manifest.summary, checkpoint)
        return manifest

    def needs(self, checkpoint: CheckpointId) -> Needs:
        """The chunks that a checkpoint needs, and its summary, read and verified as `manifest` does."""
        needs = self._decoded(checkpoint, decode_needs)
        self._check_own(needs.summary, checkpoint)
        return needs

    def needed_chunks(self, checkpoint: CheckpointId) -> set[bytes]:
        """Digests of the chunks that a checkpoint needs."""
        return self.needs(checkpoint).digests

    def _decoded(self, checkpoint: CheckpointId, decode: Callable[[bytes, CheckpointId], T]) -> T:
        key = self.layout.checkpoint(checkpoint)
        try:
            return decode(self.storage.get(key), checkpoint)
        except DamagedError:
            return decode(self.storage.get(key), checkpoint)

    def _check_own(self, summary: Summary, checkpoint: CheckpointId) -> None:
        if summary.repository != self.repository.id:
            # No damage: a foreign holdfast.json must not get every checkpoint rejected.
            raise FormatError(
                f"{self.name}@{checkpoint.step} in {self.storage.location} is another repository's.",
                do=f"Put back this repository's own holdfast.json, or move {checkpoint} to where it belongs.",
            )

    def summary(self, checkpoint: CheckpointId) -> Summary:
        """Read only the summary."""
        key = self.layout.checkpoint(checkpoint)
        try:
            return self._summary(key, checkpoint)
        except (DamagedError, FormatError):
            return self.manifest(checkpoint).summary  # its digest tells damage from a newer format

    def _summary(self, key: str, checkpoint: CheckpointId) -> Summary:
        data = self.storage.get(key, 0, SUMMARY_READ_BYTES)
        need = summary_bytes(data, checkpoint)
        if SUMMARY_READ_BYTES <= len(data) < need:
            data = self.storage.get(key, 0, need)
        return decode_summary(data, checkpoint)

    def hints(self, checkpoint: CheckpointId) -> list[str]:
        """Packs that probably hold its chunks; empty if nothing is known."""
        record = records.read_or_none(self.storage, self.layout.hint(checkpoint), records.HintRecord)
        packs = record.packs if record is not None else []
        return [p for p in packs if layout.pack_id_of(f"{p}.pack") == p]

    # -- attempts ----------------------------------------------------------------------

    def begin_attempt(self) -> AttemptId:
        """Claim a number higher than any: write, list, and claim again if somebody else has it.

        After it returns, every later claim sees this one and takes a higher number.
        """
        for _ in range(NUMBER_CLAIMS):
            highest = max((a.number for a in self._attempt_ids()), default=0)
            mine = AttemptId.new(highest + 1)
            record = records.AttemptRecord(
                str(mine), self.storage.now_seconds(), socket.gethostname(), getpid()
            )
            self.storage.put_if_absent(self.layout.attempt(mine), records.encode(record))
            if not any(a.number >= mine.number and a != mine for a in self._attempt_ids()):
                return mine
            time.sleep(secrets.randbelow(100) / 1000)  # two claimants part ways
        raise BusyError(
            f"No attempt number of {self.name} could be claimed.", do="Too many launches at once: try again."
        )

    def _attempt_ids(self) -> set[AttemptId]:
        names = (key.rpartition("/")[2].partition(".")[0] for key in self.storage.list(self.layout.attempts))
        return {a for n in names if (a := AttemptId.parse(n)) is not None}

    def is_highest(self, attempt: AttemptId) -> bool:
        """Whether no later attempt exists: only then may it delete, or count as the head."""
        return all(a <= attempt for a in self._attempt_ids())

    def record_base(self, attempt: AttemptId, base: CheckpointId | None) -> None:
        """Record, durably, what the attempt starts from; before its first step.

        The base itself may be visible without being durable, if its writer was killed between
        linking it and syncing the folder; so it is made durable first.
        """
        if base is not None:
            self.settle(base)
        self.record_origin(attempt, base)

    def record_origin(self, attempt: AttemptId, base: CheckpointId | None) -> None:
        """Record what the attempt starts from, be it another run's: a copy of that is the attempt's first."""
        record = vouched(self, records.BaseRecord(str(attempt), str(base) if base is not None else None))
        self.storage.put_if_absent(self.layout.base(attempt), records.encode(record))

    def settle(self, checkpoint: CheckpointId) -> None:
        """Make durable a checkpoint whose writer may have died before it was."""
        key = self.layout.checkpoint(checkpoint)
        with self.repository.holding(saving=True):
            self.storage.put_if_absent(key, self.storage.get(key))

    def record_end(self, attempt: AttemptId, cause: str, step: int, *, done: bool) -> None:
        """Record how the attempt ended."""
        record = records.EndRecord(str(attempt), cause, step, self.storage.now_seconds(), done)
        self.storage.put(self.layout.end(attempt), [records.encode(vouched(self, record))])

    def reject(self, checkpoint: CheckpointId, reason: str) -> None:
        """Quarantine a checkpoint by an appended record."""
        record = records.RejectedRecord(str(checkpoint), reason, self.storage.now_seconds())
        self.storage.put_if_absent(self.layout.reject(checkpoint), records.encode(record))

    def readmit(self, checkpoint: CheckpointId) -> None:
        """Withdraw its rejection: it was damaged, and verifies again."""
        self.storage.delete(self.layout.reject(checkpoint))

    # -- tags --------------------------------------------------------------------------

    def tags(self, *, strict: bool = False) -> dict[str, CheckpointId]:
        """Tag → checkpoint, of the readable ones.

        Raises
        ------
        DamagedError
            With ``strict``, if one cannot be read: nobody knows what it protects.
        """
        result = {}
        for key in self.storage.list(self.layout.tags):
            name = key.rpartition("/")[2].removesuffix(".json")
            record = records.read_or_none(self.storage, key, records.TagRecord)
            checkpoint = CheckpointId.parse(record.checkpoint) if record and record.tag == name else None
            if checkpoint is not None:
                result[name] = checkpoint
            elif strict and self.storage.stat(key) is not None:
                raise DamagedError(
                    f"The tag {name!r} of {self.name} cannot be read, so nobody knows what it protects.",
                    do=f"Set it again, or remove it: 'holdfast tag'. The file is {key}.",
                )
        return result

    def set_tag(self, name: str, checkpoint: CheckpointId) -> None:
        """Give a checkpoint a name, moving it if it is taken; tagged ones are kept for ever.

        Raises
        ------
        NotFoundError
            There is no such checkpoint, or it is being deleted.
        UsageError
            The name cannot be a tag, or the checkpoint is rejected: a tag would keep damage for ever.
        """
        self.put_tag(vouched(self, records.TagRecord(validate_tag(name), str(checkpoint))), checkpoint)

    def put_tag(self, record: records.TagRecord, checkpoint: CheckpointId) -> None:
        """`set_tag` by a record that says so."""
        with self.repository.holding(saving=True):
            if self.storage.stat(self.layout.checkpoint(checkpoint)) is None:
                raise self._not_found(checkpoint.step)
            if str(checkpoint) in self.condemned():
                raise NotFoundError(f"{self.name}@{checkpoint.step} is being deleted.")
            if str(checkpoint) in self.rejected():
                raise UsageError(
                    f"{self.name}@{checkpoint.step} is rejected as damaged: no tag may keep it.",
                    do="Tag another: 'holdfast ls' shows which; or let 'holdfast repair' mend it first.",
                )
            self.storage.put(self.layout.tag(record.tag), [records.encode(record)])

    def remove_tag(self, name: str) -> None:
        """Take a name away; the checkpoint stays until retention decides."""
        if self.storage.stat(self.layout.tag(validate_tag(name))) is None:
            raise NotFoundError(f"The run {self.name} has no tag {name!r}.")
        self.storage.delete(self.layout.tag(name))
