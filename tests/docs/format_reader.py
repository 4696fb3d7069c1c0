"""A reader of repositories written from docs/format.md alone: nothing here comes from Holdfast."""

import json
import math
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


class Place(NamedTuple):
    """A copy of a chunk, and those that it is encoded by."""

    digest: bytes
    pack: Path
    offset: int
    stored_bytes: int
    raw_bytes: int
    codec: str
    bases: list["Place"]


class Reader:
    """Reads one run of a repository."""

    def __init__(self, repository: Path, run: str) -> None:
        self._root = repository
        self._run = repository / "runs" / run
        self.config = read_record(repository / "holdfast.json")
        assert self.config["format"] in (1, 2)
        self._places: dict[bytes, Place] = {}
        for pack in repository.glob("packs/??/*.pack"):
            inside: dict[bytes, Place] = {}
            for digest, offset, stored, raw, codec, *bases in read_index(pack):
                below = [inside[base] for base in split(b"".join(bases))]
                inside[digest] = Place(digest, pack, offset, stored, raw, codec, below)
            self._places |= inside

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
        magic, size, middle, last, check = struct.unpack_from("<8sQQQ32s", data)
        head, rest = data[64 : 64 + size], data[64 + size :]
        assert blake3.blake3(head).digest() == check
        first = msgspec.msgpack.decode(head)
        if magic == b"HFMANI\x00\x01":
            assert len(rest) == middle + last
            second, third = (msgspec.msgpack.decode(part) for part in (rest[:middle], rest[middle:]))
        else:
            assert magic in (b"HFMANI\x00\x02", b"HFMANI\x00\x03")
            second, *third, ranks = unpacked(rest[:middle], last, rest[middle:])
            assert bool(ranks) == (magic[7] == 3)
            self.ranks = ranks
        assert first["repository"] == self.config["id"]
        assert (first["progress"]["step"], first["sequence"], first["kind"]) == (
            name.step,
            name.sequence,
            name.kind,
        )
        return first, second, third

    def tensor_of_rank(self, table: list[Any], rank: int, name: str) -> bytes:
        """Section 3, several ranks."""
        own = f"rank {rank}/{name}"
        return self.tensor(table, own if own in table[1] else name)

    def tensor(self, table: list[Any], name: str) -> bytes:
        """Bytes of a tensor."""
        chunk_bytes, tensors = table
        dtype, shape, [[offsets, sizes, chunks]] = tensors[name]
        assert (offsets, sizes) == ([0] * len(shape), shape)
        data = b"".join(chunk(self._places[digest]) for digest in split(chunks))
        elements = 1
        for n in shape:
            elements *= n
        assert len(data) == elements * ITEM_BYTES[dtype]
        assert len(chunks) == 32 * -(-len(data) // chunk_bytes)
        return data


def unpacked(packed: bytes, size: int, digests: bytes) -> list[Any]:
    """Section 3, versions 2 and 3: details, chunk_bytes, tensors as version 1 has them, and ranks."""
    if size != len(packed):
        assert size <= max(1 << 20, 16 * (len(packed) + len(digests)))
        packed = zstd.ZstdDecompressor().decompress(packed, max_length=size)
    assert len(packed) == size
    details, chunk_bytes, described, *ranks = msgspec.msgpack.decode(packed)
    tensors, at = {}, 0
    for name, (dtype, shape) in described.items():
        stop = at + 32 * -(-math.prod(shape) * ITEM_BYTES[dtype] // chunk_bytes)
        tensors[name] = [dtype, shape, [[[0] * len(shape), shape, digests[at:stop]]]]
        at = stop
    assert at == len(digests)
    return [details, chunk_bytes, tensors, ranks[0] if ranks else []]


def split(digests: bytes) -> list[bytes]:
    return [digests[i : i + 32] for i in range(0, len(digests), 32)]


def chunk(place: Place) -> bytes:
    """Section 5, bases and codecs."""
    with place.pack.open("rb") as file:
        file.seek(place.offset)
        stored = file.read(place.stored_bytes)
    data = decode(place, stored, [chunk(base) for base in place.bases])
    assert blake3.blake3(data).digest() == place.digest
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
    assert data[:7] == b"HFPACK\x00"
    start, length, digest, magic = struct.unpack("<QQ32s8s", data[-56:])
    assert magic[:7] == b"HFPKEND"
    assert magic[7] == data[7] in (1, 2)
    index = data[start : start + length]
    assert blake3.blake3(index).digest() == digest
    decoded = msgspec.msgpack.decode(index)
    assert decoded["pack"] == pack.stem
    assert not data[start + length : -56].strip(b"\0")
    entries = decoded["entries"]
    assert all(len(entry) == (5 if magic[7] == 1 else 6) for entry in entries)
    return entries


def decode(place: Place, stored: bytes, bases: list[bytes]) -> bytes:
    """Section 5, codecs."""
    codec, size = place.codec, place.raw_bytes
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
    named = [base.digest for base in place.bases]
    if codec == "narrowed":
        assert split(stored[9:]) == named
        wide = b"".join(bases)
        assert len(wide) == 2 * size
        return _narrow(wide, is_bfloat16=stored[8] == 0)
    if codec in ("delta", "rotated-delta"):
        assert [stored[8:40]] == named
        assert len(bases[0]) == size
        width, flag = stored[40:42]
        assert flag < (2 if codec == "delta" else 16)
        joined = _unrotated(_join(stored[40:], size), width, size // width, by=flag // 2)
        return _added(bases[0], joined, width, floats=flag % 2 == 1)
    assert codec == "planes"
    width, flag = stored[8:10]
    assert flag in (0, 1)
    return _unrotated(_join(stored[8:], size), width, size // width, by=flag)


def _join(body: bytes, size: int) -> bytes:
    width = body[0]
    assert width in (1, 2, 4, 8)
    count, at, planes = size // width, 2 + 5 * width, []
    for k in range(width):
        kind, length = struct.unpack_from("<BI", body, 2 + 5 * k)
        planes.append(_plane(kind, body[at : at + length], count))
        at += length
    assert len(body) - at == size % width
    joined = bytearray(size)
    for k, plane in enumerate(planes):
        joined[k : count * width : width] = plane
    joined[count * width :] = body[at:]
    return bytes(joined)


def _added(base: bytes, joined: bytes, width: int, *, floats: bool) -> bytes:
    top, mask = 1 << (8 * width - 1), (1 << (8 * width)) - 1

    def ordered(x: int) -> int:
        return x ^ (mask ^ top) if floats and x & top else x

    whole, out = len(base) - len(base) % width, bytearray(joined)
    for at in range(0, whole, width):
        z = int.from_bytes(joined[at : at + width], "little")
        difference = z // 2 if z % 2 == 0 else -(z + 1) // 2
        number = ordered(int.from_bytes(base[at : at + width], "little")) + difference & mask
        out[at : at + width] = ordered(number).to_bytes(width, "little")
    return bytes(out)


def _narrow(wide: bytes, *, is_bfloat16: bool) -> bytes:
    out = b""
    for (number,) in struct.iter_unpack("<f", wide):
        if number != number:
            out += b"\xc0\x7f" if is_bfloat16 else b"\x00\x7e"
        elif is_bfloat16:
            bits = int.from_bytes(struct.pack("<f", number), "little")
            low, high = bits & 0xFFFF, bits >> 16
            out += (high + (low > 0x8000 or (low == 0x8000 and high & 1))).to_bytes(2, "little")
        else:
            out += _half(number)
    return out


def _half(number: float) -> bytes:
    try:
        return struct.pack("<e", number)
    except OverflowError:
        return struct.pack("<e", math.copysign(math.inf, number))


def _unrotated(data: bytes, width: int, count: int, by: int) -> bytes:
    if by == 0:
        return data
    numbers = [int.from_bytes(data[i * width : (i + 1) * width], "little") for i in range(count)]
    low = (1 << by) - 1
    back = [(n >> by | (n & low) << (8 * width - by)).to_bytes(width, "little") for n in numbers]
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
