"""Every parser of stored bytes, what it takes, and what it may raise: for fuzzing.

Each has samples of what is written, and is given these with bytes flipped, cut, inserted and moved. Where
a digest would stop everything at the door it is made right again, as a forger would.
"""

from __future__ import annotations

import pickle
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import blake3
import msgspec
import numpy as np
from hypothesis import strategies as st

from checkpoints import begin, make_repository, make_state, save
from holdfast.codecs import registry
from holdfast.codecs.base import Base, Codec, declared
from holdfast.domain import manifest_body, tree
from holdfast.domain.compressed import decompress
from holdfast.domain.manifest_body import Body
from holdfast.domain.manifest_file import (
    FIRST_MAGIC,
    HEADER,
    MAGIC,
    decode_manifest,
    decode_needs,
    decode_summary,
)
from holdfast.domain.names import AttemptId, CheckpointId
from holdfast.errors import (
    DamagedError,
    FormatError,
    HoldfastError,
    NotFoundError,
    UnsupportedError,
    UsageError,
)
from holdfast.formats.safetensors import SafetensorsFile
from holdfast.formats.unpickling import unpickle
from holdfast.node import lease
from holdfast.repository import layout, records
from holdfast.repository.index import read_damage
from holdfast.repository.keyring import entries, passphrase
from holdfast.repository.keyring.base import Wrapping
from holdfast.repository.keyring.passphrase import Passphrase
from holdfast.repository.keyring.raw import RawKey
from holdfast.repository.moving import MovedRecord, MovingRecord
from holdfast.repository.pack import TRAILER, read_index
from holdfast.repository.repository import Repository, read_config
from holdfast.repository.run import Run
from holdfast.repository.signatures import signer
from holdfast.storage.frames import FRAME_BYTES
from holdfast.storage.memory import MemoryStorage
from holdfast.storage.sealed import SealedStorage
from keys import KEY

DAMAGE: tuple[type[HoldfastError], ...] = (DamagedError, FormatError)
NAME = CheckpointId(7, AttemptId(1, "0" * 8), 1, "full", "0" * 64)
PACK = "0" * 32


@dataclass(frozen=True)
class Parser:
    """``parse`` returns, or raises one of ``refusals``, whatever it is given."""

    parse: Callable[[bytes], object]
    samples: list[bytes]
    refusals: tuple[type[HoldfastError], ...] = DAMAGE


@st.composite
def mutated(draw: st.DrawFn, samples: list[bytes]) -> bytes:
    """A sample after some edits; or none of it."""
    data = bytearray(draw(st.sampled_from(samples) | st.binary(max_size=64)))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        edit = draw(st.sampled_from(("flip", "set", "cut", "insert", "repeat", "drop")))
        if edit == "flip" and at < len(data):
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif edit == "set":
            new = draw(
                st.sampled_from(
                    (b"\xff" * 4, b"\0" * 4, b"\x7f", b"\xdf\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff")
                )
            )
            data[at : at + len(new)] = new
        elif edit == "cut":
            del data[at:]
        elif edit == "insert":
            data[at:at] = draw(st.binary(max_size=16))
        elif edit == "repeat":
            data[at:at] = data[max(at - draw(st.integers(1, 64)), 0) : at]
        else:
            del data[at : at + draw(st.integers(1, 16))]
    return bytes(data)


# -- manifests and trees -------------------------------------------------------------------


def _manifest(magic: bytes, head: bytes, first: bytes, second: bytes, raw_bytes: int | None = None) -> bytes:
    """With a right digest of its summary; ``raw_bytes`` is for a packed part that is compressed."""
    sizes = len(head), len(first), len(first if magic == MAGIC else second)
    sizes = sizes if raw_bytes is None else (*sizes[:2], raw_bytes)
    return HEADER.pack(magic, *sizes, blake3.blake3(head).digest()) + head + first + second


def _read_manifest(data: bytes, saved: CheckpointId) -> None:
    name = msgspec.structs.replace(saved, digest=blake3.blake3(data).hexdigest())
    for read in (decode_summary, decode_needs):
        _either(lambda read=read: read(data, name), DAMAGE)  # type: ignore[misc]
    manifest = decode_manifest(data, name)
    manifest.specs()
    manifest.digests()
    for node in (manifest.details.tree, manifest.details.training, *manifest.details.given.values()):
        tree.decode(node)


def _manifests(whole: bytes, saved: CheckpointId) -> dict[str, Parser]:
    """A manifest of each version: all of it, and each of its parts with the rest as it was."""
    manifest = decode_manifest(whole, saved)
    head, details = msgspec.msgpack.encode(manifest.summary), msgspec.msgpack.encode(manifest.details)
    table = msgspec.msgpack.encode((manifest.chunk_bytes, manifest.tensors))
    stored = manifest_body.encode(Body(manifest.details, manifest.chunk_bytes, manifest.tensors))
    raw = decompress(stored.packed, stored.raw_bytes)

    def parser(make: Callable[[bytes], bytes], sample: bytes) -> Parser:
        return Parser(lambda data: _read_manifest(make(data), saved), [sample], (*DAMAGE, UnsupportedError))

    return {
        "manifest": parser(bytes, whole),
        "manifest summary": parser(lambda data: _manifest(MAGIC, data, raw, stored.digests), head),
        "manifest body": parser(lambda data: _manifest(MAGIC, head, data, stored.digests), raw),
        "manifest digests": parser(lambda data: _manifest(MAGIC, head, raw, data), stored.digests),
        "manifest frame": parser(
            lambda data: _manifest(MAGIC, head, data, stored.digests, stored.raw_bytes), stored.packed
        ),
        "first manifest": parser(bytes, _manifest(FIRST_MAGIC, head, details, table)),
        "first manifest details": parser(lambda data: _manifest(FIRST_MAGIC, head, data, table), details),
        "first manifest table": parser(lambda data: _manifest(FIRST_MAGIC, head, details, data), table),
    }


def _read_node(data: bytes) -> None:
    try:
        node = msgspec.msgpack.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return
    tree.decode(node)


NODES: list[object] = [
    {
        "a": [1, 2.5, None, True, "x", b"y"],
        ("t", 3): {4, frozenset({5})},
        "big": 2**90,
        "c": 1j,
        "n": np.float32(1.5),
    },
    {"nested": [[[[{"deep": (1, (2, (3,)))}]]]], "raw": bytearray(b"z"), "text": "\udc80"},
]

# -- packs ---------------------------------------------------------------------------------


def _read_pack(data: bytes, pack_id: str = PACK) -> None:
    storage = MemoryStorage()
    storage.put(layout.pack(pack_id), [data])
    read_index(storage, pack_id)


def _read_pack_index(data: bytes) -> None:
    front = b"HFPACK\x00\x02" + bytes(4096)
    body = front + data
    padding = -(len(body) + TRAILER.size) % 4096
    trailer = TRAILER.pack(len(front), len(data), blake3.blake3(data).digest(), b"HFPKEND\x02")
    _read_pack(body + bytes(padding) + trailer)


def _pack_index() -> bytes:
    rows = [[bytes([n]) * 32, 8 + 100 * n, 100, 100, "raw", b""] for n in range(3)]
    rows.append([b"\x09" * 32, 308, 50, 100, "delta", bytes([0]) * 32])
    return msgspec.msgpack.encode({"pack": PACK, "entries": rows})


def _decoder(codec: Codec) -> Parser:
    wide = (np.random.default_rng(3).standard_normal(500) * 0.02).astype("<f4")
    raw = np.frombuffer(wide.tobytes(), np.uint8)
    half = np.frombuffer(wide.astype("<f2").tobytes(), np.uint8)
    bases = [Base(b"\1" * 32, raw)]
    chunks = [(raw, "float32"), (np.zeros(2000, np.uint8), "float32"), (half, "float16")]
    samples = [found for chunk, dtype in chunks if (found := codec.encode(chunk, dtype, bases)) is not None]

    def parse(data: bytes) -> None:
        stored = np.frombuffer(data, np.uint8)
        size_bytes, _ = declared(stored.data) or (0, 0)
        out = np.empty(size_bytes if size_bytes <= 4000 else 4000, np.uint8)
        codec.decode(stored, out, [raw] * len(codec.named(stored.data)))

    return Parser(parse, samples)


# -- records -------------------------------------------------------------------------------


def _record(body: bytes) -> bytes:
    return b'{"record":' + body + b',"blake3":"' + blake3.blake3(body).hexdigest().encode() + b'"}\n'


def _with_record(key: str, use: Callable[[Run], object], record: msgspec.Struct) -> Parser:
    """A repository in which this record stands under this key, and what looks at it."""
    storage = MemoryStorage()
    run = make_repository(storage).run("digits")
    save(run, begin(run), 1, 1)

    def parse(data: bytes) -> None:
        storage.put(key, [_record(data)])
        use(Repository(storage, records.RepositoryConfig(1, run.repository.id, 4096)).run("digits"))

    return Parser(parse, [msgspec.json.encode(record)], (*DAMAGE, UsageError))


ATTEMPT, LEASE = "000001-00000000", "runs/digits/leases/000001-00000000.json"
Case = tuple[str, Callable[[Run], object], msgspec.Struct]


def _reading(kind: type[msgspec.Struct], name: str) -> tuple[str, Callable[[Run], object]]:
    key = f"runs/digits/{name}"
    return key, lambda run: records.read_or_none(run.storage, key, kind)


def _records() -> dict[str, Case]:
    config = records.RepositoryConfig(2, "0" * 32, 4096, records.Sealing("x", "y"))
    at, base = f"runs/digits/attempts/{ATTEMPT}", records.BaseRecord(ATTEMPT, str(NAME))
    tag, hint = records.TagRecord("best", str(NAME)), records.HintRecord([PACK])
    condemned = records.CondemnedRecord(PACK, 1.0)
    signed = msgspec.structs.replace(base, signed=records.SignatureRecord("ab" * 32, "cd" * 64))
    return {
        "config": ("holdfast.json", lambda run: read_config(run.storage), config),
        "base": (f"{at}.base", lambda run: [run.attempts(), list(run.recovery_points())], base),
        "end": (f"{at}.end", lambda run: run.ends(), records.EndRecord(ATTEMPT, "finished", 3, 1.5, True)),
        "tag": ("runs/digits/tags/best.json", lambda run: run.tags(), tag),
        "hint": (f"runs/digits/hints/{NAME}.json", lambda run: run.hints(NAME), hint),
        "condemned": (f"condemned/{PACK}.json", lambda run: run.repository.condemned_packs(), condemned),
        "moving": (*_reading(MovingRecord, "moving.json"), MovingRecord("old")),
        "moved": (*_reading(MovedRecord, "moved.json"), MovedRecord("new", [ATTEMPT])),
        "rejected": (
            *_reading(records.RejectedRecord, "rejected/1.json"),
            records.RejectedRecord("1", "x", 1.0),
        ),
        "attempt": (*_reading(records.AttemptRecord, "attempts/1.json"), records.AttemptRecord(ATTEMPT, 1.0)),
        "signed base": (f"{at}.base", lambda run: list(run.recovery_points()), signed),
        "request": (*_reading(records.RequestRecord, "requests/1.json"), records.RequestRecord("1", "tag")),
    }


def _read_damage(data: bytes) -> None:
    storage = MemoryStorage()
    storage.put("damaged/1.json", [_record(data)])
    run = make_repository(storage).run("digits")
    _ = list(read_damage(storage)), run.repository.index.copies(b"0" * 32)


def _read_lease(data: bytes) -> None:
    storage = MemoryStorage()
    storage.put(LEASE, [data])
    lease.holders(storage, "runs/digits/leases/")


def _lease() -> bytes:
    storage = MemoryStorage()
    lease.take(storage, LEASE)
    return storage.get(LEASE)


# -- keys, seals, signatures ---------------------------------------------------------------

_CONFIG = records.RepositoryConfig(
    2, "0" * 32, 4096, records.Sealing(entries.SCHEME, entries.fingerprint(bytes(32)))
)


def _read_key_entry(data: bytes) -> None:
    """Whatever is forged, no key gives another secret, nor takes much memory or time."""
    storage = MemoryStorage()
    storage.put(layout.keys("0" * 16)[0], [_record(data)])
    for entry in entries.entries(storage, _CONFIG):
        for key in (RawKey(KEY), Passphrase("correct horse")):
            assert key.unwrap(entry.wrapping, entry.context) in (None, bytes(32))


def _key_entries() -> list[bytes]:
    passphrase.COST = (1 << 4, 8, 1)  # of many thousands
    storage = MemoryStorage()
    made = [
        entries.add(storage, _CONFIG, bytes(32), key) for key in (RawKey(KEY), Passphrase("correct horse"))
    ]
    made.append(msgspec.structs.replace(made[0], wrapping=Wrapping("service", "", "00", None, "00")))
    return [msgspec.json.encode(msgspec.structs.replace(entry, id="0" * 16)) for entry in made]


def _read_sealed(data: bytes) -> None:
    storage = _sealed(data)
    assert storage.get("a") in (b"", bytes(FRAME_BYTES + 100), b"small")  # only what was sealed comes back
    storage.read_into("a", 10, np.empty(100, np.uint8))


def _sealed(data: bytes) -> SealedStorage:
    storage = SealedStorage(MemoryStorage(), bytes(32), "0" * 32)
    storage.inner.put("a", [data])
    return storage


def _sealed_samples() -> list[bytes]:
    storage = _sealed(b"")
    samples = []
    for data in (b"", b"small", bytes(FRAME_BYTES + 100)):
        storage.put("a", [data])
        samples.append(storage.inner.get("a"))
    return samples


def _signatures() -> Parser:
    run = make_repository(MemoryStorage()).run("digits")
    checkpoint = save(run, begin(run), 1, 1).id
    manifest = run.manifest(checkpoint)

    def parse(data: bytes) -> None:
        run.storage.put(run.layout.signature(checkpoint), [_record(data)])
        assert signer(run, manifest, checkpoint) is None

    return Parser(parse, [msgspec.json.encode({"public": "ab" * 32, "signature": "cd" * 64})])


# -- foreign files -------------------------------------------------------------------------


def _of_file(read: Callable[[Path], object], sample: bytes) -> Parser:
    def parse(data: bytes) -> None:
        with tempfile.NamedTemporaryFile() as file:
            Path(file.name).write_bytes(data)
            read(Path(file.name))

    return Parser(parse, [sample], (*DAMAGE, UnsupportedError))


def _read_safetensors(path: Path) -> None:
    with SafetensorsFile(path) as file:
        for tensor in file.tensors.values():
            tensor.read()


def _safetensors() -> bytes:
    header = b'{"w":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},"__metadata__":{"format":"pt"}}'
    return len(header).to_bytes(8, "little") + header + bytes(24)


def _either(act: Callable[[], object], refusals: tuple[type[HoldfastError], ...]) -> None:
    try:
        act()
    except refusals:
        return


def all_parsers() -> dict[str, Parser]:
    """By name."""
    run = make_repository(MemoryStorage()).run("digits")
    saved = save(run, begin(run), 1, 7, make_state(7)).id
    manifest = run.storage.get(run.layout.checkpoint(saved))
    pack_key = next(iter(run.storage.list(layout.PACKS)))
    pack, pack_id = run.storage.get(pack_key), layout.pack_id_of(pack_key) or ""
    nodes = [msgspec.msgpack.encode(tree.encode(value)) for value in NODES]
    named = {name: _with_record(*case) for name, case in _records().items()}
    return {
        **_manifests(manifest, saved),
        "tree": Parser(_read_node, nodes, (*DAMAGE, UnsupportedError)),
        "pack": Parser(lambda data: _read_pack(data, pack_id), [pack]),
        "pack index": Parser(_read_pack_index, [_pack_index()]),
        **{f"codec {codec.name}": _decoder(codec) for codec in registry.CODECS.values()},
        **{f"record {name}": parser for name, parser in named.items()},
        "damage": Parser(
            _read_damage, [b'{"pack":"%s","digests":["%s"],"reason":"x"}' % (b"0" * 32, b"ab" * 32)]
        ),
        "lease": Parser(_read_lease, [_lease()]),
        "key entry": Parser(_read_key_entry, _key_entries()),
        "sealed": Parser(_read_sealed, _sealed_samples(), (DamagedError, NotFoundError)),
        "signature": _signatures(),
        "safetensors": _of_file(_read_safetensors, _safetensors()),
        "pdparams": _of_file(unpickle, pickle.dumps({"w": np.arange(6.0), "n": [1, (2.5, "x")]}, 2)),
    }
