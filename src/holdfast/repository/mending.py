"""A damaged checkpoint becomes whole by what another repository, such as its mirror, still has.

Chunks are known by their digests, and a manifest is named by its own, so it does not matter from
where they come. What is lacking comes in new packs; a damaged manifest is replaced at last, by the bytes
that its name says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from holdfast.domain.manifest_file import decode_manifest, encode_manifest
from holdfast.domain.names import CheckpointId
from holdfast.errors import DamagedError, NotFoundError
from holdfast.repository.adopting import Origin, complete
from holdfast.repository.repository import Repository
from holdfast.repository.run import Run
from holdfast.repository.sync_plan import Route
from holdfast.repository.verify import Verdict, Verifier


class Mended(msgspec.Struct, frozen=True):
    """What became of one damaged checkpoint.

    Attributes
    ----------
    id : CheckpointId
    moved_bytes : int
        Brought from the other repository, as they rest here.
    failed : str or None
        Why it is still damaged; None if it is whole again.
    """

    run: str
    id: CheckpointId
    moved_bytes: int = 0
    failed: str | None = None


class Mender:
    """Mends checkpoints of one repository, one after the other, by another one.

    Parameters
    ----------
    repository : Repository
        The damage found in it is recorded already.
    other : Repository
        With the same runs, or with others that share chunks with them.
    advance : callable, optional
        Told the bytes of each chunk moved.
    """

    def __init__(
        self, repository: Repository, other: Repository, advance: Callable[[int], None] = lambda size: None
    ) -> None:
        self._repository = repository
        self._route = Route(other, repository)
        self._advance = advance
        repository.index.refresh()

    def all_of(self, verdicts: Iterable[Verdict]) -> list[Mended]:
        """Mend those that are damaged, and those that are rejected although they verify by now."""
        rejected = {c for run in self._repository.runs() for c in run.rejected()}
        return [self.mend(v) for v in verdicts if not v.newer and (not v.ok or str(v.id) in rejected)]

    def mend(self, verdict: Verdict) -> Mended:
        """Bring what the checkpoint lacks, check all of it, and withdraw its rejection."""
        run = self._repository.run(verdict.run)
        origin = self._origin(run, verdict.id)
        self._route.rely_on_target()
        moved_bytes = 0
        try:
            if verdict.manifest is not None:
                moved_bytes += self._bring_manifest(run, verdict.id, origin)
                verdict = self._again(run, verdict.id)
            if verdict.tensors:
                moved_bytes += complete(run, verdict.id, run.manifest(verdict.id), origin, self._advance)
                verdict = self._again(run, verdict.id)
        except (DamagedError, NotFoundError) as error:
            return Mended(run.name, verdict.id, moved_bytes, error.what.strip())
        if not verdict.ok:
            return Mended(run.name, verdict.id, moved_bytes, verdict.reason)
        if str(verdict.id) in run.rejected():
            run.readmit(verdict.id)
        return Mended(run.name, verdict.id, moved_bytes)

    def _origin(self, run: Run, checkpoint: CheckpointId) -> Origin:
        there = self._counterpart(run, checkpoint) or checkpoint
        return Origin(self._route.source.run(run.name), there, self._route.copies, self._route.reader)

    def _counterpart(self, run: Run, checkpoint: CheckpointId) -> CheckpointId | None:
        """The same checkpoint there: its full name differs where the repository's id does."""
        there = self._route.source.run(run.name).all_checkpoints()
        return next((c for c in there if c.identity == checkpoint.identity), None)

    def _bring_manifest(self, run: Run, checkpoint: CheckpointId, origin: Origin) -> int:
        data = self._manifest(checkpoint, origin)
        moved_bytes = complete(run, checkpoint, decode_manifest(data, checkpoint), origin, self._advance)
        run.storage.put(run.layout.checkpoint(checkpoint), [data])
        return moved_bytes

    def _manifest(self, checkpoint: CheckpointId, origin: Origin) -> bytes:
        """The checkpoint's own manifest: what lies there, or what is made from it has this name."""
        if origin.checkpoint == checkpoint:
            return origin.run.storage.get(origin.run.layout.checkpoint(checkpoint))
        found = origin.run.manifest(origin.checkpoint)
        summary = msgspec.structs.replace(found.summary, repository=self._repository.id)
        name, data = encode_manifest(msgspec.structs.replace(found, summary=summary))
        if name != checkpoint:
            raise DamagedError(f"The manifest of {origin} there is another one.")
        return data

    def _again(self, run: Run, checkpoint: CheckpointId) -> Verdict:
        """Check all of it, and record what is found: only then does a copy from elsewhere take its place."""
        verifier = Verifier(self._repository)
        verdict = verifier.check(run, checkpoint)
        if verdict is None:
            raise NotFoundError(f"{run.name}@{checkpoint.step} was removed meanwhile.")
        verifier.index.record_all()
        self._repository.index.refresh()
        return verdict
