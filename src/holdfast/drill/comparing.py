"""What two trainings made at each step, compared by digests; and the first difference."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping

import msgspec

from holdfast.domain.changes import compare_given
from holdfast.domain.manifest import Manifest
from holdfast.domain.names import CheckpointId
from holdfast.domain.ranks import of_rank, world_size
from holdfast.frameworks.plain_values import plain_leaves
from holdfast.repository.repository import Repository
from holdfast.repository.run import Run

_EVIDENCE = ("losses", "probe")
"""What tells of tensors and metrics, which are compared themselves."""


class Made(msgspec.Struct, frozen=True):
    """One checkpoint: what training goes on from.

    Attributes
    ----------
    tensors : dict[str, bytes]
        Name → what tells its bytes from any others.
    run : str
        With the rank, if it is of another than 0.
    resumed : int or None
        The step that its attempt went on from.
    epoch : int or None
        Of several ranks, which save at the end of an epoch or just before it, as they come to agree.
    """

    run: str
    step: int
    resumed: int | None
    tensors: dict[str, bytes]
    state: msgspec.Raw
    training: msgspec.Raw
    metrics: dict[str, float]
    epoch: int | None = None


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """The first step at which two trainings differ, and all that differs there.

    Attributes
    ----------
    resumed : int or None
        The step that the interrupted one had gone on from.
    told_loss : bool
        Whether the script says its loss at each step.
    tensors, values, rng, position, metrics : list[str]
        Names of what differs, in the order of the state.
    """

    run: str
    step: int
    resumed: int | None = None
    told_loss: bool = False
    tensors: list[str] = []
    values: list[str] = []
    rng: list[str] = []
    position: list[str] = []
    metrics: list[str] = []

    @property
    def leaves_training_alone(self) -> bool:
        """Whether what was trained is the same all the same."""
        return not (self.tensors or self.metrics)

    @property
    def first(self) -> str:
        """The name of the first thing that differs."""
        return next(iter([*self.tensors, *self.values, *self.rng, *self.position, *self.metrics]), "")


def made(repository: Repository, *, on_line: bool = False) -> Iterator[Made]:
    """Everything that is there, by run and step; of an interrupted run also what was made twice.

    Parameters
    ----------
    on_line : bool
        Only what leads to where the run stands, without dead branches.
    """
    for run in repository.runs():
        bases = {attempt.id: attempt.base for attempt in run.attempts()}
        there = run.lineage() if on_line else run.checkpoints()
        for checkpoint in sorted(there, key=lambda c: (c.step, c.order)):
            base = bases.get(checkpoint.attempt)
            yield from _of_all_ranks(run, checkpoint, base.step if base is not None else None)


def _of_all_ranks(run: Run, checkpoint: CheckpointId, resumed: int | None) -> Iterator[Made]:
    manifest = run.manifest(checkpoint)
    yield _made(run.name, of_rank(manifest, 0), resumed, of_several=bool(manifest.ranks))
    for rank in range(1, world_size(manifest)):
        yield _made(f"{run.name}, rank {rank}", of_rank(manifest, rank), resumed, of_several=True)


def _made(run_name: str, manifest: Manifest, resumed: int | None, *, of_several: bool) -> Made:
    encode, progress = msgspec.msgpack.encode, manifest.summary.progress
    return Made(
        run_name,
        progress.step,
        resumed,
        {name: encode(entry) for name, entry in manifest.tensors.items()},
        msgspec.Raw(encode(manifest.details.tree)),
        msgspec.Raw(encode(manifest.details.training)),
        dict(manifest.summary.metrics),
        progress.epoch if of_several else None,
    )


def first_difference(
    whole: Mapping[tuple[str, int], Made], others: Iterable[Made], ignored: Collection[str] = ()
) -> Difference | None:
    """The earliest of the others that is not what the undisturbed training made at that step.

    Parameters
    ----------
    ignored : collection of str
        Names that say nothing, of anything but tensors and metrics.
    """
    pairs = ((whole.get((other.run, other.step)), other) for other in others)
    same_point = ((one, other) for one, other in pairs if one is not None and one.epoch == other.epoch)
    differing = (compare(one, other, ignored) for one, other in same_point)
    return min((d for d in differing if d is not None), key=lambda d: d.step, default=None)


def varying(one: Mapping[tuple[str, int], Made], other: Mapping[tuple[str, int], Made]) -> set[str]:
    """What but tensors and metrics differs between two trainings at any step."""
    found = (compare(one[key], other[key]) for key in one.keys() & other.keys())
    return {name for d in found if d is not None for name in (*d.values, *d.rng, *d.position)}


def compare(one: Made, other: Made, ignored: Collection[str] = ()) -> Difference | None:
    """What differs between two checkpoints of the same step; None if they are equal bit for bit."""
    apart = [
        n
        for n in dict.fromkeys(map(_part, _differing(one.training, other.training)))
        if n not in ignored and n.partition("/")[0] not in _EVIDENCE
    ]
    rng = [name for name in apart if name.partition("/")[0] == "rng"]
    encode = msgspec.msgpack.encode
    found = Difference(
        run=other.run,
        step=other.step,
        resumed=other.resumed,
        told_loss="loss" in one.metrics,
        tensors=_names(one.tensors, other.tensors),
        values=[name for name in _differing(one.state, other.state) if name not in ignored],
        rng=rng,
        position=[name for name in apart if name not in rng],
        metrics=_names(
            {name: encode(value) for name, value in one.metrics.items()},
            {name: encode(value) for name, value in other.metrics.items()},
        ),
    )
    return found if found.first else None


def _part(path: str) -> str:
    """Of a path into a generator's state, that of the generator: it has hundreds of numbers."""
    parts = path.split("/")
    ends = [number + 2 for number, part in enumerate(parts) if part.endswith("rng")]
    return "/".join(parts[: ends[0]]) if ends else path


def _names(one: Mapping[str, bytes], other: Mapping[str, bytes]) -> list[str]:
    return [name for name in dict.fromkeys([*one, *other]) if one.get(name) != other.get(name)]


def _differing(one: msgspec.Raw, other: msgspec.Raw) -> list[str]:
    """Paths of values that differ; told by their bits, so that a zero's sign counts."""
    if bytes(one) == bytes(other):
        return []
    a, b = (plain_leaves(msgspec.msgpack.decode(node)) for node in (one, other))
    return [change.name for change in compare_given(a, b)] or ["a value"]
