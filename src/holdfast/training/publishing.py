"""Plain files that are kept current where saves hold up training: written after each commit."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from holdfast.domain.keep_rules import KeepRule
from holdfast.domain.manifest import Details
from holdfast.domain.names import AttemptId, CheckpointId
from holdfast.domain.publications import Publication, parse
from holdfast.errors import HoldfastError
from holdfast.repository.commit import Draft, Join
from holdfast.repository.persisting import Persisted, Persister
from holdfast.repository.retaining import Retention
from holdfast.repository.run import Run
from holdfast.training.arguments import refuse_without_best


def check_publish(given: object, keep: KeepRule) -> tuple[Publication, ...]:
    """Rules with their whole paths, of which each can be followed.

    Raises
    ------
    UsageError
        A path tells no format, or ``best`` is asked for where nothing says what is best.
    """
    found = parse(given)
    for each in found:
        if each.at == "best":
            refuse_without_best(f"publish={str(each)!r}", keep)
    return tuple(Publication(each.at, _whole_path(each.path)) for each in found)


def _whole_path(path: str) -> str:
    from holdfast.formats.export import format_of

    is_folder = format_of(path, None) == "huggingface"
    return str(Path(path).expanduser().absolute()) + (os.sep if is_folder else "")


class PublishingPersister(Persister):
    """Makes drafts durable, and then plain files current; that one of these fails is told once."""

    def __init__(
        self,
        run: Run,
        attempt: AttemptId,
        *,
        parent: CheckpointId | None,
        retention: Retention,
        warn: Callable[[str], None],
        publish: tuple[Publication, ...],
        join: Join | None = None,
    ) -> None:
        super().__init__(run, attempt, parent=parent, retention=retention, warn=warn, join=join)
        self._publications = publish
        self._failing: set[Publication] = set()

    def persist(self, draft: Draft, tags: Sequence[str] = (), *, details: Details | None = None) -> Persisted:
        persisted = super().persist(draft, tags, details=details)
        self.publish()
        return persisted

    def publish(self) -> None:
        """Make every file current."""
        for wanted in self._publications:
            self._publish(wanted)

    def _publish(self, wanted: Publication) -> None:
        from holdfast.formats.publishing import publish_if_there

        try:
            publish_if_there(self._run, wanted.at, wanted.path)
        except HoldfastError as error:
            if wanted not in self._failing:
                self._warn(f"{wanted.path} is not kept current: {error}")
            self._failing.add(wanted)
        else:
            self._failing.discard(wanted)
