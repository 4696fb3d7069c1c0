"""A reader of repositories written from docs/format.md alone: nothing here comes from Holdfast."""

import json
import re
import struct
import sys
from pathlib import Path
from typing import Any, NamedTuple

import blake3
import msgspec

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

_NAME = re.compile(r"(\d{12,18})-(\d{6,9}-[0-9a-f]{8})-(\d{6,9})-(full|thin)-([0-9a-f]{64})\.manifest")
_RECORD = re.compile(rb'\{"record":(.*),"blake3":"([0-9a-f]{64})"\}\n', re.DOTALL)
ITEM_BYTES = {
    **dict.fromkeys(("bool", "uint8", "int8", "float8_e4m3fn", "float8_e5m2"), 1),
    **dict.fromkeys(("uint16", "int16", "float16", "bfloat16"), 2),
    **dict.fromkeys(("uint32", "int32", "float32", "complex32"), 4),
    **dict.fromkeys(("uint64", "int64", "float64", "complex64"), 8),
    "complex128": 16,
}


class Name(NamedTuple):
    step: int
    attempt: str
    sequence: int
    kind: str
    digest: str
    path: Path


class Reader:
    """Reads one run of a repository."""

    def __init__(self, repository: Path, run: str) -> None:
        self._root = repository
        self._run = repository / "runs" / run
        self.config = read_record(repository / "holdfast.json")
        assert self.config["format"] == 1
        self._places: dict[bytes, tuple[Path, int, int, int, str]] = {}
        for pack in repository.glob("packs/??/*.pack"):
            for digest, offset, stored, raw, codec in read_index(pack):
                self._places[digest] = (pack, offset, stored, raw, codec)

    def names(self) -> list[Name]:
        found = [(p, _NAME.fullmatch(p.name)) for p in (self._run / "checkpoints").iterdir()]
        return [Name(int(m[1]), m[2], int(m[3]), m[4], m[5], p) for p, m in found if m]

    def latest(self) -> Name | None:
        """Section 6."""
        bases = {p.stem: read_record(p)["checkpoint"] for p in (self._run / "attempts").glob("*.base")}
        excluded = {
            p.stem for folder in ("rejected", "condemned") for p in (self._run / folder).glob("*.json")
        }
        attempt, newest = max(bases, key=lambda a: (int(a[:-9]), a[-8:]), default=None), None
        while attempt is not None:
            own = [n for n in self.names() if n.attempt == attempt and n.kind == "full"]
            own = [n for n in own if newest is None or n.sequence <= newest]
            own = [n for n in own if n.path.stem not in excluded]
            if own:
                return max(own, key=lambda n: n.sequence)
            base = bases[attempt]
            match = _NAME.fullmatch(f"{base}.manifest") if base else None
            attempt, newest = (match[2], int(match[3])) if match else (None, None)
        return None

    def manifest(self, name: Name) -> tuple[dict[str, Any], dict[str, Any], list[Any]]:
        """Section 3: summary, details, table."""
        data = name.path.read_bytes()
        assert blake3.blake3(data).hexdigest() == name.digest
        magic, summary, details, table, check = struct.unpack_from("<8sQQQ32s", data)
        assert magic == b"HFMANI\x00\x01"
        assert len(data) == 64 + summary + details + table
        sections = [data[64 : 64 + summary], data[64 + summary :][:details], data[64 + summary + details :]]
        assert blake3.blake3(sections[0]).digest() == check
        first, second, third = (msgspec.msgpack.decode(section) for section in sections)
        assert first["repository"] == self.config["id"]
        assert (first["progress"]["step"], first["sequence"], first["kind"]) == (
            name.step,
            name.sequence,
            name.kind,
        )
        return first, second, third

    def tensor(self, table: list[Any], name: str) -> bytes:
        """Bytes of a tensor."""
        chunk_bytes, tensors = table
        dtype, shape, [[offsets, sizes, chunks]] = tensors[name]
        assert (offsets, sizes) == ([0] * len(shape), shape)
        data = b"".join(self._chunk(chunks[i : i + 32]) for i in range(0, len(chunks), 32))
        elements = 1
        for n in shape:
            elements *= n
        assert len(data) == elements * ITEM_BYTES[dtype]
        assert len(chunks) == 32 * -(-len(data) // chunk_bytes)
        return data

    def _chunk(self, digest: bytes) -> bytes:
        pack, offset, size, raw, codec = self._places[digest]
        with pack.open("rb") as file:
            file.seek(offset)
            data = decode(codec, file.read(size), raw)
        assert blake3.blake3(data).digest() == digest
        return data


def read_record(path: Path) -> Any:
    """Section 2."""
    match = _RECORD.fullmatch(path.read_bytes())
    assert match is not None
    assert blake3.blake3(match[1]).hexdigest() == match[2].decode()
    return json.loads(match[1])


def read_index(pack: Path) -> list[Any]:
    """Section 5."""
    data = pack.read_bytes()
    assert len(data) % 4096 == 0
    assert data[:8] == b"HFPACK\x00\x01"
    start, length, digest, magic = struct.unpack("<QQ32s8s", data[-56:])
    assert magic == b"HFPKEND\x01"
    index = data[start : start + length]
    assert blake3.blake3(index).digest() == digest
    decoded = msgspec.msgpack.decode(index)
    assert decoded["pack"] == pack.stem
    assert not data[start + length : -56].strip(b"\0")
    return decoded["entries"]


def decode(codec: str, stored: bytes, size: int) -> bytes:
    """Section 5, codecs."""
    if codec == "raw":
        assert len(stored) == size
        return stored
    assert size <= 1 << 26
    assert struct.unpack_from("<II", stored) == (size, len(stored))
    if codec == "constant":
        pattern = stored[8:]
        assert len(pattern) in (1, 2, 4, 8, 16)
        assert len(pattern) <= size
        return (pattern * -(-size // len(pattern)))[:size]
    assert codec == "planes"
    return _join(stored, size)


def _join(stored: bytes, size: int) -> bytes:
    width, rotated = stored[8], stored[9]
    assert width in (1, 2, 4, 8)
    assert rotated in (0, 1)
    count, at, planes = size // width, 10 + 5 * width, []
    for k in range(width):
        kind, length = struct.unpack_from("<BI", stored, 10 + 5 * k)
        planes.append(_plane(kind, stored[at : at + length], count))
        at += length
    assert len(stored) - at == size % width
    joined = bytearray(size)
    for k, plane in enumerate(planes):
        joined[k : count * width : width] = plane
    joined[count * width :] = stored[at:]
    return _unrotated(bytes(joined), width, count) if rotated else bytes(joined)


def _unrotated(data: bytes, width: int, count: int) -> bytes:
    numbers = [int.from_bytes(data[i * width : (i + 1) * width], "little") for i in range(count)]
    back = [(n >> 1 | (n & 1) << (8 * width - 1)).to_bytes(width, "little") for n in numbers]
    return b"".join(back) + data[count * width :]


def _plane(kind: int, data: bytes, count: int) -> bytes:
    if kind == 2:
        assert len(data) == 1
        return data * count
    if kind == 1:
        data = zstd.ZstdDecompressor().decompress(data, max_length=count)
    assert kind in (0, 1)
    assert len(data) == count
    return data


def value(node: Any) -> Any:
    """Section 4: containers as Python's own, everything else as it stands."""
    if not isinstance(node, list):
        return node
    tag, *rest = node
    if tag in ("list", "tuple", "set", "frozenset"):
        return {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}[tag](map(value, rest[0]))
    if tag == "dict":
        return {value(k): value(v) for k, v in rest[0]}
    if tag == "int":
        return int(rest[0], 16)
    if tag == "complex":
        return complex(*rest)
    if tag == "component":
        return (rest[0], value(rest[1]))
    if tag == "enum":
        return value(rest[0])
    return tuple(node)
