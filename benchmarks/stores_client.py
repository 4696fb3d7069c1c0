"""One way to a store, in one process: python stores_client.py NAME ENDPOINT BYTES FOLDER RESULT.json

It brings a state of random tensors there, and back, and writes what that took. All but Holdfast's ways
move the state's bytes, in shards, and nothing else: no digests, no commit, nothing verified.
"""

from __future__ import annotations

import io
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

TENSOR_BYTES = 4_000_000
SHARD_BYTES = 64 << 20
"""As large as a pack: the server copies a whole object for each range of it that is asked for."""
PART_BYTES = 8 << 20
THREADS = 4
BUCKET = "checkpoints"
SIGNED = {"Authorization": "AWS4-HMAC-SHA256 Credential=a/20260101/us-east-1/s3/aws4_request"}
SECRETS = {"aws_access_key_id": "a", "aws_secret_access_key": "secret"}

Bytes = np.ndarray[Any, np.dtype[np.uint8]]
Move = Callable[[str, Bytes], object]
"""Sends a shard, or fills one, by its name."""


class Place:
    """Where a way brings the state: the server, and a folder for what it needs here."""

    def __init__(self, endpoint: str, folder: Path, prefix: str = "") -> None:
        self.endpoint = endpoint
        self.folder = folder
        self._prefix = prefix
        self.host = urlsplit(endpoint).netloc

    def named(self, name: str) -> str:
        return f"{self._prefix}{name}"

    def url(self, name: str) -> str:
        return f"s3://{BUCKET}/{self.named(name)}?endpoint={self.endpoint}"


class Limit:
    """Bare requests, each part an object, by some threads."""

    def __init__(self, place: Place) -> None:
        self._host = place.host

    def send(self, state: Bytes) -> None:
        def put(connection: HTTPConnection, start: int) -> None:
            part = state[start : start + PART_BYTES].data
            connection.request("PUT", f"/{BUCKET}/part-{start}", part, SIGNED)
            connection.getresponse().read()

        self._each(len(state), put)

    def restore(self, back: Bytes) -> None:
        def get(connection: HTTPConnection, start: int) -> None:
            connection.request("GET", f"/{BUCKET}/part-{start}", headers=SIGNED)
            connection.getresponse().readinto(back[start : start + PART_BYTES].data)

        self._each(len(back), get)

    def _each(self, size_bytes: int, move: Callable[[HTTPConnection, int], None]) -> None:
        def work(number: int) -> None:
            connection = HTTPConnection(self._host)
            for start in range(number * PART_BYTES, size_bytes, THREADS * PART_BYTES):
                move(connection, start)
            connection.close()

        threads = [threading.Thread(target=work, args=(number,)) for number in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


class Shards:
    """A library that moves objects, given the state in shards."""

    def __init__(self, put: Move, get: Move) -> None:
        self._put = put
        self._get = get

    def send(self, state: Bytes) -> None:
        for start in range(0, len(state), SHARD_BYTES):
            self._put(f"shard-{start}", state[start : start + SHARD_BYTES])

    def restore(self, back: Bytes) -> None:
        for start in range(0, len(back), SHARD_BYTES):
            self._get(f"shard-{start}", back[start : start + SHARD_BYTES])


def raw_obstore(place: Place) -> Shards:
    import obstore
    from obstore.store import from_url

    options: Any = {"config": {"endpoint": place.endpoint}, "client_options": {"allow_http": True}}
    store = from_url(f"s3://{BUCKET}/obstore", **options)
    many: Any = {"chunk_size": PART_BYTES, "max_concurrency": THREADS}

    def get(name: str, shard: Bytes) -> None:
        shard[:] = np.frombuffer(obstore.get(store, name).bytes(), np.uint8)

    return Shards(lambda name, shard: obstore.put(store, name, shard, **many), get)


def boto3(place: Place) -> Shards:
    import boto3

    client = boto3.client("s3", endpoint_url=place.endpoint, region_name="us-east-1", **SECRETS)

    def get(name: str, shard: Bytes) -> None:
        into = io.BytesIO()
        client.download_fileobj(BUCKET, name, into)
        shard[:] = np.frombuffer(into.getbuffer(), np.uint8)

    return Shards(lambda name, shard: client.upload_fileobj(io.BytesIO(shard.data), BUCKET, name), get)


def s3fs(place: Place) -> Shards:
    from s3fs import S3FileSystem

    files = S3FileSystem(**s3fs_options(place))

    def get(name: str, shard: Bytes) -> None:
        shard[:] = np.frombuffer(files.cat_file(f"{BUCKET}/{name}"), np.uint8)

    return Shards(lambda name, shard: files.pipe_file(f"{BUCKET}/{name}", bytes(shard)), get)


def s3fs_options(place: Place) -> dict[str, Any]:
    secrets = dict(zip(("key", "secret"), SECRETS.values(), strict=True))
    return {"endpoint_url": place.endpoint, "client_kwargs": {"region_name": "us-east-1"}, **secrets}


class Dcp:
    """torch.distributed.checkpoint through s3fs, whose Python borrows torch from the one it is named."""

    def __init__(self, place: Place) -> None:
        sys.path.append(os.environ["TORCH_PACKAGES"])
        self._place = f"s3://{BUCKET}/{place.named('dcp')}"
        self._options = s3fs_options(place)

    def send(self, state: Bytes) -> None:
        from torch.distributed import checkpoint
        from torch.distributed.checkpoint._fsspec_filesystem import FsspecWriter

        writer = FsspecWriter(self._place, thread_count=THREADS, **self._options)
        checkpoint.save(torch_tensors(state), storage_writer=writer, no_dist=True)

    def restore(self, back: Bytes) -> None:
        from torch.distributed import checkpoint
        from torch.distributed.checkpoint._fsspec_filesystem import FsspecReader

        reader = FsspecReader(self._place, **self._options)
        checkpoint.load(torch_tensors(back), storage_reader=reader, no_dist=True)


class TorchSave:
    """The state as people save it, through boto3."""

    def __init__(self, place: Place) -> None:
        import boto3

        self._client = boto3.client("s3", endpoint_url=place.endpoint, region_name="us-east-1", **SECRETS)

    def send(self, state: Bytes) -> None:
        import torch

        file = io.BytesIO()
        torch.save(torch_tensors(state), file)
        file.seek(0)
        self._client.upload_fileobj(file, BUCKET, "state.pt")

    def restore(self, back: Bytes) -> None:
        import torch

        file = io.BytesIO()
        self._client.download_fileobj(BUCKET, "state.pt", file)
        file.seek(0)
        found = torch.load(file, weights_only=True)
        for name, array in tensors(back).items():
            array[:] = found[name].numpy()


class Direct:
    """Saved to the bucket itself until durable; loaded from it, verified."""

    def __init__(self, place: Place) -> None:
        self._place = place.url("direct")

    def send(self, state: Bytes) -> None:
        import holdfast

        holdfast.save(self._place, tensors(state), step=1)

    def restore(self, back: Bytes) -> None:
        import holdfast

        holdfast.load(self._place, tensors(back))


class Mirror:
    """What an errand does after a save to the disk; and a fresh machine, before it loads and while."""

    def __init__(self, place: Place) -> None:
        self._here, self._fresh = str(place.folder / "here"), str(place.folder / "fresh")
        self._place = place.url("mirror")

    def prepare(self, state: Bytes) -> None:
        import holdfast

        holdfast.save(self._here, tensors(state), step=1)

    def send(self, state: Bytes) -> None:
        _sync(self._here, self._place)

    def restore(self, back: Bytes) -> None:
        import holdfast

        _sync(self._place, self._fresh)
        holdfast.load(self._fresh, tensors(back))


def _sync(source: str, target: str) -> None:
    from holdfast.cli import app

    assert app.run(("sync", source, target)) == 0


WAYS: dict[str, Callable[[Place], Any]] = {
    "limit": Limit,
    "obstore": raw_obstore,
    "boto3": boto3,
    "s3fs": s3fs,
    "torch": TorchSave,
    "dcp": Dcp,
    "holdfast": Direct,
    "mirror": Mirror,
}


def tensors(state: Bytes) -> dict[str, Any]:
    cuts = range(0, len(state), TENSOR_BYTES)
    return {f"t{n}": state[start : start + TENSOR_BYTES].view(np.float32) for n, start in enumerate(cuts)}


def torch_tensors(state: Bytes) -> dict[str, Any]:
    import torch

    return {name: torch.from_numpy(array) for name, array in tensors(state).items()}


def took(action: Callable[[Bytes], object], state: Bytes) -> dict[str, float]:
    started, used = time.perf_counter(), time.process_time()
    action(state)
    return {"seconds": time.perf_counter() - started, "cpu_seconds": time.process_time() - used}


def warm_up(name: str, endpoint: str, folder: Path) -> None:
    """Bring a few tensors there and back, so that what is loaded and begun once is not measured."""
    few = np.zeros(2 * TENSOR_BYTES, np.uint8)
    way = WAYS[name](Place(endpoint, folder, "warm-"))
    if isinstance(way, Mirror):
        way.prepare(few)
    way.send(few)
    way.restore(np.ones_like(few))


def main() -> None:
    name, endpoint, size_bytes, folder, result = sys.argv[1:6]
    state = np.random.default_rng(0).integers(0, 256, int(size_bytes) // 4 * 4, np.uint8)
    back = np.zeros_like(state)
    warm_up(name, endpoint, Path(folder) / "warm")
    way = WAYS[name](Place(endpoint, Path(folder)))
    if isinstance(way, Mirror):
        way.prepare(state)
    measured = {"upload": took(way.send, state), "restore": took(way.restore, back)}
    assert np.array_equal(state, back), f"{name} did not bring the state back"
    Path(result).write_text(json.dumps(measured))


if __name__ == "__main__":
    main()
