"""Folders of ``torch.distributed.checkpoint``: shards in ``.distcp`` files, their places in ``.metadata``.

``.metadata`` is a pickle. It is read by the restricted reader: its classes are stand-ins that keep fields.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from holdfast.domain.tensors import ITEM_BYTES, TensorRef, TensorSource, TensorSpec
from holdfast.errors import DamagedError, NotFoundError, UnsupportedError
from holdfast.formats import torch_files
from holdfast.formats.bounds import check_bounds
from holdfast.formats.unpickling import Known, Record, unpickle
from holdfast.frameworks import classes, registry

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from holdfast.frameworks.capturing import Capture

METADATA = ".metadata"
AddTensor = Callable[[str, TensorSource], TensorRef]
_LARGEST_SHARDING = 4096


class _Whole(Record):
    """``Metadata``."""


class _Tensor(Record):
    """``TensorStorageMetadata``: dtype, size, shards."""


class _Properties(Record):
    """``TensorProperties``: a tuple that begins with the dtype."""


class _Region(Record):
    """``ChunkStorageMetadata``: offsets and sizes."""


class _Bytes(Record):
    """``BytesStorageMetadata``: something that is no tensor."""


class _Index(Record):
    """``MetadataIndex``: name and offset of a shard."""


class _Place(Record):
    """``_StorageInfo``: file, offset, length."""


class _Unused(Record):
    """``StorageMeta``: who saved."""


def _sizes(*arguments: Any) -> tuple[int, ...]:
    (numbers,) = arguments
    return tuple(_count(number) for number in numbers)


def _count(number: Any) -> int:
    if type(number) is not int or not 0 <= number < 1 << 62:
        raise ValueError(f"{number!r} as a size")
    return number


def _path(*parts: Any) -> str:
    return "/".join(str(part) for part in parts)


def _ignored(*_: Any) -> None:
    return None


_ROOM = "torch.distributed.checkpoint"
_KNOWN: Known = {
    (f"{_ROOM}.metadata", "Metadata"): _Whole,
    (f"{_ROOM}.metadata", "TensorStorageMetadata"): _Tensor,
    (f"{_ROOM}.metadata", "TensorProperties"): _Properties,
    (f"{_ROOM}.metadata", "ChunkStorageMetadata"): _Region,
    (f"{_ROOM}.metadata", "BytesStorageMetadata"): _Bytes,
    (f"{_ROOM}.metadata", "MetadataIndex"): _Index,
    (f"{_ROOM}.metadata", "StorageMeta"): _Unused,
    (f"{_ROOM}.metadata", "_MEM_FORMAT_ENCODING"): _ignored,
    (f"{_ROOM}.filesystem", "_StorageInfo"): _Place,
    ("torch", "Size"): _sizes,
    ("torch.serialization", "_get_layout"): _ignored,
    ("pathlib", "PosixPath"): _path,
    ("pathlib", "WindowsPath"): _path,
    **{("torch", name): name for name in ITEM_BYTES},
}


class Shard(NamedTuple):
    """A region of a tensor, or something that is no tensor, and where its bytes are."""

    file: Path
    start: int
    size_bytes: int
    offsets: tuple[int, ...]
    sizes: tuple[int, ...]

    def load(self) -> Any:
        """What ``torch.save`` wrote there, by its restricted loader."""
        try:
            with self.file.open("rb") as file:
                whole_bytes = file.seek(0, 2)
                if self.start + self.size_bytes > whole_bytes:
                    raise DamagedError(f"{self.file.name} is cut short.", do="Fetch or write it again.")
                file.seek(self.start)
                data = io.BytesIO(file.read(self.size_bytes))
        except FileNotFoundError:
            raise NotFoundError(
                f"There is no {self.file.name} in {self.file.parent.name}.", do="Fetch it whole."
            ) from None
        return torch_files.load_stream(data, self.file.name)


class ShardedSource:
    """A tensor put together from its shards when it is read."""

    def __init__(self, name: str, spec: TensorSpec, shards: list[Shard]) -> None:
        self.spec = spec
        self._name = name
        self._shards = shards
        _check_cover(name, spec, shards)

    def read(self) -> npt.NDArray[np.uint8]:
        registry.framework("torch")  # or it is said in plain words that it is not here
        import torch

        from holdfast.frameworks.torch.tensors import DTYPES, Source

        whole = torch.empty(self.spec.shape, dtype=DTYPES[self.spec.dtype])
        for shard in self._shards:
            part = shard.load()
            if (
                not isinstance(part, torch.Tensor)
                or part.dtype != whole.dtype
                or tuple(part.shape) != shard.sizes
            ):
                raise DamagedError(f"A shard of {self._name} in {shard.file.name} is not as described.")
            region = tuple(slice(o, o + s) for o, s in zip(shard.offsets, shard.sizes, strict=True))
            whole[region] = part
        return Source(whole).read()


def _check_cover(name: str, spec: TensorSpec, shards: list[Shard]) -> None:
    """Each element is in exactly one shard: else what is read would be whatever was in memory."""
    fits = all(
        len(s.offsets) == len(s.sizes) == len(spec.shape)
        and all(o + n <= whole for o, n, whole in zip(s.offsets, s.sizes, spec.shape, strict=True))
        for s in shards
    )
    if (
        not fits
        or len(shards) > _LARGEST_SHARDING
        or sum(prod(s.sizes) for s in shards) != prod(spec.shape)
        or any(_overlap(a, b) for i, a in enumerate(shards) for b in shards[:i])
    ):
        raise DamagedError(f"The shards of {name} do not make up a tensor {spec}.", do="Fetch it whole.")


def _overlap(a: Shard, b: Shard) -> bool:
    return all(
        x < y + m and y < x + n for x, n, y, m in zip(a.offsets, a.sizes, b.offsets, b.sizes, strict=True)
    )


def is_one(path: Path) -> bool:
    return (path / METADATA).is_file()


def load_view(folder: Path, add: AddTensor, capture: Capture) -> Any:
    """Nested values as they were saved; tensors are added and stay on disk until they are read.

    Raises
    ------
    UnsupportedError
        It names anything but what DCP writes; nothing was run.
    DamagedError
        It is not whole, or its parts do not fit.
    """
    whole = unpickle(folder / METADATA, _KNOWN)
    try:
        fields, shards = whole.fields, _shards_of(whole, folder)
        paths = fields.get("planner_data") or {}
        content: dict[Any, Any] = {}
        for name, described in fields["state_dict_metadata"].items():
            path = tuple(paths.get(name, (name,)))
            _put(content, path, _value(name, path, described, shards[name], add, capture))
        check_bounds(content, folder.name)
        return _with_lists(content)
    except (AttributeError, KeyError, TypeError, ValueError, LookupError) as error:
        raise DamagedError(f"{METADATA} of {folder.name} is not what DCP writes: {error!r}.") from error


def _value(
    name: str, path: tuple[Any, ...], described: Any, shards: list[Shard], add: AddTensor, capture: Capture
) -> Any:
    if isinstance(described, _Tensor):
        spec = TensorSpec(described.fields["properties"].fields[0], described.fields["size"])
        sizes = {r.fields["offsets"]: r.fields["sizes"] for r in described.fields["chunks"]}
        placed = [s._replace(sizes=sizes[s.offsets]) for s in shards]
        return add("/".join(map(str, path)), ShardedSource(name, spec, placed))
    if not isinstance(described, _Bytes):
        raise TypeError(f"{name} is neither tensor nor bytes")
    (only,) = shards
    return classes.plain(capture.value(only.load(), "/".join(map(str, path))))


def _shards_of(whole: Any, folder: Path) -> dict[str, list[Shard]]:
    found: dict[str, list[Shard]] = {}
    for index, place in whole.fields["storage_data"].items():
        name, offsets = index.fields["fqn"], index.fields.get("offset") or ()
        found.setdefault(name, []).append(_shard(place, offsets, folder))
    return found


def _shard(place: Any, offsets: tuple[int, ...], folder: Path) -> Shard:
    file = place.fields["relative_path"]
    if place.fields.get("transform_descriptors"):
        raise UnsupportedError(
            f"{folder.name} was written with an extension that transforms its bytes.",
            do="Save it without extensions.",
        )
    if not isinstance(file, str) or Path(file).name != file or file.startswith("."):
        raise DamagedError(f"{METADATA} of {folder.name} names {file!r}, which is no file of its own.")
    start, size_bytes = _count(place.fields["offset"]), _count(place.fields["length"])
    return Shard(folder / file, start, size_bytes, offsets, ())


def _put(content: dict[Any, Any], path: tuple[Any, ...], value: Any) -> None:
    *above, last = path
    for key in above:
        content = content.setdefault(key, {})
    content[last] = value


def _with_lists(value: Any) -> Any:
    """Places in a list are ints, keys of a dict are text: DCP makes both parts of one path."""
    if not isinstance(value, dict):
        return value
    items = {key: _with_lists(item) for key, item in value.items()}
    if items and all(type(key) is int for key in items):
        return [items[key] for key in sorted(items)]
    return items
