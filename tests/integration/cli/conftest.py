from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pytest

from holdfast.cli import app
from holdfast.domain import tree
from holdfast.domain.manifest import Details, Manifest, Summary
from holdfast.domain.manifest_file import encode_manifest
from holdfast.domain.names import AttemptId, CheckpointId
from holdfast.domain.progress import Progress
from holdfast.domain.tensors import TensorRef, TensorSpec
from holdfast.repository.commit import Draft, commit
from holdfast.repository.repository import Repository
from holdfast.repository.run import Run
from holdfast.storage.local import LocalStorage

CHUNK_BYTES = 4096


class ArraySource:
    """A NumPy array as the source of a tensor."""

    def __init__(self, array: npt.NDArray[Any], dtype: str | None = None) -> None:
        self._array = np.ascontiguousarray(array)
        self.spec = TensorSpec(dtype or self._array.dtype.name, self._array.shape)

    def read(self) -> npt.NDArray[np.uint8]:
        return self._array.reshape(-1).view(np.uint8)


class Place:
    """A repository on disk and what tests do with it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.repository = Repository.create(LocalStorage(path, create=True), chunk_bytes=CHUNK_BYTES)
        self._sequences: dict[tuple[str, str], int] = {}

    def fresh(self) -> Repository:
        return Repository.open(LocalStorage(self.path))

    def run(self, name: str) -> Run:
        return self.repository.run(name)

    def attempt(self, name: str, base: CheckpointId | None = None) -> AttemptId:
        run = self.run(name)
        attempt = run.begin_attempt()
        run.record_base(attempt, base)
        return attempt

    def save(
        self,
        name: str,
        attempt: AttemptId,
        step: int,
        arrays: dict[str, npt.NDArray[Any]] | None = None,
        *,
        dtypes: dict[str, str] | None = None,
        values: dict[str, Any] | None = None,
        **options: Any,
    ) -> CheckpointId:
        rng = np.random.default_rng(step)
        arrays = arrays if arrays is not None else {"w": rng.standard_normal(3000, np.float32)}
        sources = {f"model/{n}": ArraySource(a, (dtypes or {}).get(n)) for n, a in arrays.items()}
        state = {"model": {n: TensorRef(f"model/{n}", "numpy") for n in arrays}, **(values or {})}
        key = (name, str(attempt))
        self._sequences[key] = self._sequences.get(key, 0) + 1
        draft = Draft(
            attempt=attempt,
            sequence=self._sequences[key],
            progress=Progress(step=step, epoch=step // 100),
            reason=options.pop("reason", "every 100 steps"),
            sources=sources,
            tree=state,
            **options,
        )
        return commit(self.run(name), draft).id

    def packs(self) -> list[Path]:
        return sorted((self.path / "packs").rglob("*.pack"))

    def manifest_path(self, name: str, checkpoint: CheckpointId) -> Path:
        return self.path / self.run(name).layout.checkpoint(checkpoint)


class Result(msgspec.Struct):
    """What a command line gave."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def error(self) -> Any:
        return json.loads(self.err)["error"]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path / "ckpts")


@pytest.fixture
def holdfast(
    place: Place, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Result]:
    """Call the command line in this process, on the repository of the test."""
    monkeypatch.setenv("HOLDFAST_REPOSITORY", str(place.path))
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "dumb")

    def call(*arguments: str) -> Result:
        capsys.readouterr()
        code = app.run(arguments)
        out, err = capsys.readouterr()
        return Result(code, out, err)

    return call


@pytest.fixture
def digits(place: Place) -> dict[int, CheckpointId]:
    """A run of two attempts with four checkpoints, tags and metrics."""
    first = place.attempt("digits")
    made: dict[int, CheckpointId] = {}
    parent = None
    for step, loss in ((100, 0.9), (200, 0.5)):
        options = {"metrics": {"val_loss": loss}, "parent": parent, "monitor": "val_loss min"}
        parent = made[step] = place.save("digits", first, step, **options)
    second = place.attempt("digits", made[200])
    for step, loss in ((300, 0.4), (400, 0.6)):
        options = {"metrics": {"val_loss": loss}, "parent": parent, "monitor": "val_loss min"}
        parent = made[step] = place.save("digits", second, step, **options)
    place.run("digits").set_tag("paper", made[100])
    return made


def many_manifests(place: Place, name: str, count: int) -> None:
    """Real small manifests, quickly: written as plain files, without packs."""
    run, attempt = place.run(name), place.attempt(name)
    folder = place.path / run.layout.checkpoints
    folder.mkdir(parents=True, exist_ok=True)
    details = Details(tree.encode({"lr": 0.1}), tree.encode({}), {}, {})
    for number in range(1, count + 1):
        summary = Summary(
            repository=place.repository.id,
            attempt=attempt,
            sequence=number,
            kind="full",
            progress=Progress(step=number * 10),
            parent=None,
            saved_seconds=time.time(),
            reason="every 10 steps",
            metrics={"val_loss": 1 / number},
            size_bytes=0,
            tensors=0,
        )
        checkpoint, data = encode_manifest(Manifest(summary, details, CHUNK_BYTES, {}))
        (folder / f"{checkpoint}.manifest").write_bytes(data)


@pytest.fixture
def build_many(place: Place) -> Callable[[str, int], None]:
    return lambda name, count: many_manifests(place, name, count)
