"""A checkpoint as plain nested values, every byte verified."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from holdfast.domain import tree as trees
from holdfast.domain.manifest import Manifest
from holdfast.domain.names import CheckpointId
from holdfast.domain.tensors import TensorRef, TensorSpec, TensorTarget
from holdfast.errors import NotFoundError, UsageError
from holdfast.formats import views
from holdfast.frameworks import classes, registry
from holdfast.frameworks.walk import LoadPlan
from holdfast.repository.reading import read_tensors
from holdfast.repository.run import Run
from holdfast.repository.signatures import trusted_manifest

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

GROUP_BYTES = 32 * 1024 * 1024
Advance = Callable[[int], None]
"""Told the bytes done since it was last called."""


class SavedState:
    """One checkpoint, open for reading; use it within ``run.repository.holding()``.

    Attributes
    ----------
    manifest : Manifest
    tree : dict[str, Any]
        The chosen entries as saved.
    """

    def __init__(self, run: Run, checkpoint: CheckpointId, only: Iterable[str] | None = None) -> None:
        self.run = run
        self.checkpoint = checkpoint
        self.manifest: Manifest = trusted_manifest(run, checkpoint)
        self.everything: dict[str, Any] = classes.plain(trees.decode(self.manifest.details.tree))
        self.tree = _chosen(self.everything, only, f"{run.name}@{checkpoint.step}")
        self._hints = run.hints(checkpoint)

    def spec(self, ref: TensorRef) -> TensorSpec:
        return self.manifest.tensors[ref.name].spec

    def state_dicts(self) -> dict[str, Any]:
        """The chosen entries in the frameworks' own shapes, tensors as `TensorRef`."""
        return views.state_dicts(self.tree)

    def fill(self, wanted: Sequence[tuple[str, TensorTarget]], advance: Advance | None = None) -> None:
        """Read verified bytes into targets, a group of tensors at a time.

        Raises
        ------
        DamagedError
        """
        for group in _groups(wanted):
            what = f"{self.run.name}@{self.checkpoint.step}"
            read_tensors(self.run.repository.reader, self.manifest, self._hints, group, what)
            if advance is not None:
                advance(sum(target.spec.size_bytes for _, target in group))

    def stream(
        self, names: Collection[str], advance: Advance | None = None
    ) -> Iterator[npt.NDArray[np.uint8]]:
        """Verified bytes of these tensors in order, holding one group (or one large tensor) at a time."""
        targets = ((name, HostTarget(self.manifest.tensors[name].spec)) for name in names)
        for group in _groups(targets):
            self.fill(group, advance)
            group.reverse()
            while group:
                yield group.pop()[1].buffer()

    def values(self, view: Any, framework: str | None = None, advance: Advance | None = None) -> Any:
        """A view with its tensors read, in their own or in one given framework."""
        plan = _Building(self.manifest.specs(), framework)
        result = plan.value(view, None, "state")
        self.fill(plan.reads, advance)
        plan.finish()
        return result


class HostTarget:
    """Host memory for one tensor's bytes."""

    def __init__(self, spec: TensorSpec) -> None:
        self.spec = spec
        self._bytes: npt.NDArray[np.uint8] | None = None

    def buffer(self) -> npt.NDArray[np.uint8]:
        import numpy as np

        if self._bytes is None:
            self._bytes = np.empty(self.spec.size_bytes, np.uint8)
        return self._bytes

    def commit(self) -> None:
        """The bytes are where they belong."""


class _Building(LoadPlan):
    """Builds everything anew on the host; a tensor met twice is one tensor."""

    def __init__(self, specs: Mapping[str, TensorSpec], framework: str | None) -> None:
        super().__init__(specs, {})
        self._framework = framework
        self._built: dict[str, Any] = {}

    def value(self, saved: object, like: object, path: str) -> Any:
        if not isinstance(saved, TensorRef):
            return super().value(saved, like, path)
        if saved.name not in self._built:
            owner = registry.framework(self._framework or saved.framework)
            self._built[saved.name], target = owner.new_tensor(self.spec(saved), "cpu")
            self.read(saved, target)
        return self._built[saved.name]


def _groups(wanted: Iterable[tuple[str, Any]]) -> Iterator[list[tuple[str, Any]]]:
    group: list[tuple[str, Any]] = []
    size_bytes = 0
    for name, target in wanted:
        if group and size_bytes + target.spec.size_bytes > GROUP_BYTES:
            yield group
            group, size_bytes = [], 0
        group.append((name, target))
        size_bytes += target.spec.size_bytes
    if group:
        yield group


def _chosen(tree: dict[str, Any], only: Iterable[str] | None, what: str) -> dict[str, Any]:
    if only is None:
        return tree
    names = [only] if isinstance(only, str) else list(only)
    if not names:
        raise UsageError("No entry of the state is named.", do=f"Name some of: {', '.join(sorted(tree))}.")
    if unknown := sorted(set(names) - set(tree)):
        raise NotFoundError(
            f"{what} has no {', '.join(unknown)}; it holds {', '.join(sorted(tree))}.",
            do="Name one of these.",
        )
    return {name: tree[name] for name in names}


def read_state(run: Run, checkpoint: CheckpointId, only: Iterable[str] | None = None) -> dict[str, Any]:
    """A checkpoint's state as plain nested values, verified.

    Objects appear in the shape of their framework's ``state_dict()``, tensors as fresh tensors
    of the framework that saved them, on the host.

    Parameters
    ----------
    only : iterable of str, optional
        Restrict to these entries.

    Raises
    ------
    DamagedError, NotFoundError
    """
    with run.repository.holding():
        saved = SavedState(run, checkpoint, only)
        values: dict[str, Any] = saved.values(saved.state_dicts())
    return values
