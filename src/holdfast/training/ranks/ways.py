"""How a draft becomes durable where several ranks make one checkpoint: in the loop, together."""

from __future__ import annotations

from collections.abc import Sequence

from holdfast.domain.manifest import Details
from holdfast.repository.commit import Draft, encode_details
from holdfast.repository.persisting import Persister
from holdfast.repository.run import Run
from holdfast.training.ranks.following import Follower
from holdfast.training.ranks.leading import Leader
from holdfast.training.staging import Versions
from holdfast.training.ways import Blocking


class Leading(Blocking):
    """Rank 0's: publishes what all ranks have made.

    Parameters
    ----------
    persister : Persister
        Joins the parts of the others.
    """

    def __init__(self, persister: Persister, leader: Leader, run: Run) -> None:
        super().__init__(persister)
        self._leader = leader
        self._run = run

    def submit(
        self,
        draft: Draft,
        tags: Sequence[str],
        *,
        urgent: bool,
        versions: Versions | None = None,
        details: Details | None = None,
    ) -> None:
        super().submit(draft, tags, urgent=urgent, details=details or encode_details(draft))
        self._leader.tell_outcome(self._run, self._outcomes[-1])


class Following(Blocking):
    """Any other rank's: hands over its part."""

    def __init__(self, follower: Follower, run: Run) -> None:
        self._follower = follower
        self._run = run
        self._outcomes = []

    def submit(
        self,
        draft: Draft,
        tags: Sequence[str],
        *,
        urgent: bool,
        versions: Versions | None = None,
        details: Details | None = None,
    ) -> None:
        self._outcomes.append(self._follower.save(self._run, draft, details or encode_details(draft)))
