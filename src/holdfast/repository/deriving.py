"""Tensors that are other tensors' rounding, such as the bfloat16 copy of a float32 master.

Found by shape and by the first numbers of each; every chunk is compared when it is encoded.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

from holdfast.codecs import registry
from holdfast.domain.manifest import Manifest, TensorEntry, split_digests
from holdfast.domain.tensors import DIGEST_BYTES, ITEM_BYTES
from holdfast.errors import DamagedError, FormatError, NotFoundError
from holdfast.repository.chunks import ChunkReader
from holdfast.repository.live import Live, Seen
from holdfast.repository.reading import undivided
from holdfast.repository.repository import Repository
from holdfast.repository.verify import UnrecordedIndex

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Bytes = npt.NDArray[np.uint8]

WIDE = "float32"
HEAD = 1024
"""Numbers compared."""


def known_rounded(repository: Repository, live: Live) -> dict[bytes, tuple[bytes, ...]]:
    """What was found before, as the packs that are known say."""
    entries = (entry for pack in repository.index.packs() for entry in repository.index.entries(pack))
    based = {e.digest: tuple(split_digests(e.bases)) for e in entries if e.bases and e.digest in live.needs}
    return {
        digest: bases
        for digest, bases in based.items()
        if live.needs[digest].dtype in registry.NARROW
        and all(base in live.needs and live.needs[base].dtype == WIDE for base in bases)
    }


def find_rounded(repository: Repository, live: Live) -> dict[bytes, tuple[bytes, ...]]:
    """Digest → digests of the chunks whose rounding it is, told by the newest checkpoint of each run.

    The repository is held meanwhile.
    """
    newest = {seen.run.name: seen for seen in live.checkpoints if seen.id.kind == "full"}
    names = {run: _pairs(repository, seen) for run, seen in newest.items()}
    found: dict[bytes, tuple[bytes, ...]] = {}
    for seen in live.checkpoints:
        if names.get(seen.run.name):
            found.update(_chunks(seen, names[seen.run.name]))
    return found


def _pairs(repository: Repository, seen: Seen) -> dict[str, str]:
    """Tensor → the tensor whose rounding it seems to be."""
    with suppress(NotFoundError, DamagedError, FormatError):
        tensors = seen.run.manifest(seen.id).tensors
        candidates = {name: tensors[name] for name in _candidates(tensors)}
        heads = _heads(repository, seen, candidates)
        wide = {
            (candidates[name].shape, dtype, rounded): name
            for name, head in heads.items()
            if candidates[name].dtype == WIDE
            for dtype, rounded in registry.roundings(head).items()
        }
        keys = {n: (candidates[n].shape, candidates[n].dtype, head.tobytes()) for n, head in heads.items()}
        return {name: wide[key] for name, key in keys.items() if key in wide}
    return {}


def _candidates(tensors: Mapping[str, TensorEntry]) -> Iterator[str]:
    """Tensors of a shape that is there both wide and narrow."""
    dtypes: dict[tuple[int, ...], set[str]] = defaultdict(set)
    for entry in tensors.values():
        dtypes[entry.shape].add(entry.dtype)
    for name, entry in tensors.items():
        is_there_in_both = WIDE in dtypes[entry.shape] and not dtypes[entry.shape].isdisjoint(registry.NARROW)
        if is_there_in_both and entry.dtype in (WIDE, *registry.NARROW):
            yield name


def _heads(repository: Repository, seen: Seen, tensors: Mapping[str, TensorEntry]) -> dict[str, Bytes]:
    """The first numbers of each tensor; not of those that begin with one number over and over."""
    names: dict[bytes, list[str]] = defaultdict(list)
    for name, entry in tensors.items():
        names[undivided(entry)[:DIGEST_BYTES]].append(name)
    names.pop(b"", None)
    heads: dict[str, Bytes] = {}

    def sink(digest: bytes, raw: Bytes) -> None:
        for name in names[digest]:
            heads[name] = raw[: HEAD * ITEM_BYTES[tensors[name].dtype]].copy()

    reader = ChunkReader(repository.storage, UnrecordedIndex(repository.storage))  # it only looks
    reader.read(names.keys(), seen.hints, sink)
    return {name: head for name, head in heads.items() if (head[4:] != head[:-4]).any()}


def _chunks(seen: Seen, names: dict[str, str]) -> Iterable[tuple[bytes, tuple[bytes, ...]]]:
    """The chunks of each narrow tensor with those of the wide one: twice as many, of the same size."""
    with suppress(NotFoundError, DamagedError, FormatError):
        manifest: Manifest = seen.run.manifest(seen.id)
        for name, other in names.items():
            if name in manifest.tensors and other in manifest.tensors:
                wide = split_digests(undivided(manifest.tensors[other]))
                for number, digest in enumerate(split_digests(undivided(manifest.tensors[name]))):
                    yield digest, tuple(wide[2 * number : 2 * number + 2])
