"""Compaction of mixed-precision checkpoints: the narrow copy of a float32 master is not stored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from checkpoints import CHUNK_BYTES, begin, make_repository, read
from holdfast.codecs.narrowed import KINDS, narrow
from holdfast.domain.names import CheckpointId
from holdfast.domain.progress import Progress
from holdfast.domain.tensors import TensorRef, TensorSpec
from holdfast.repository import compact
from holdfast.repository.commit import Draft, commit
from holdfast.repository.repository import Repository
from holdfast.repository.retention import remove
from holdfast.repository.run import Run
from holdfast.storage.local import LocalStorage

Arrays = dict[str, tuple[str, npt.NDArray[Any]]]


class ArrayTensor:
    def __init__(self, dtype: str, array: npt.NDArray[Any]) -> None:
        self.spec = TensorSpec(dtype, array.shape)
        self._bytes = np.frombuffer(array.tobytes(), np.uint8)

    def read(self) -> npt.NDArray[np.uint8]:
        return self._bytes


def state(step: int, dtype: str = "bfloat16", rows: int = 100, odd: int = 0) -> Arrays:
    """Two masters of one shape, their copies in another order, moments; ``odd`` numbers of a copy differ."""
    made: Arrays = {}
    for number, name in enumerate("ab"):
        start = np.random.default_rng(number).standard_normal((rows, 37)) * 0.02
        drift = np.random.default_rng(99 + number).standard_normal((rows, 37)) * 1e-5
        made[f"optimizer/master.{name}"] = ("float32", (start + step * drift).astype("<f4"))
        made[f"optimizer/zero.{name}"] = ("float32", np.zeros((rows, 37), "<f4"))
    for name in "ba":
        wide = made[f"optimizer/master.{name}"][1]
        copy = narrow(wide.reshape(-1).view(np.uint8), KINDS.index(dtype)).view("<u2").copy()
        copy[:odd] += 1
        made[f"model/{name}"] = (dtype, copy.reshape(wide.shape))
    return made


def save(run: Run, attempt: Any, step: int, arrays: Arrays) -> CheckpointId:
    draft = Draft(
        attempt=attempt,
        sequence=step,
        progress=Progress(step=step),
        reason="test",
        sources={name: ArrayTensor(*value) for name, value in arrays.items()},
        tree={name: TensorRef(name, "numpy") for name in arrays},
    )
    return commit(run, draft).id


def expected(arrays: Arrays) -> dict[str, bytes]:
    return {name: array.tobytes() for name, (_, array) in arrays.items()}


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    return LocalStorage(tmp_path / "repository", create=True)


def codecs(storage: LocalStorage) -> list[str]:
    index = Repository.open(storage).index
    index.load_all()
    return [entry.codec for pack in index.packs() for entry in index.entries(pack)]


def compacted(storage: LocalStorage) -> compact.Compacted:
    return compact.apply(compact.plan(Repository.open(storage)))


@pytest.mark.parametrize("dtype", KINDS)
@pytest.mark.parametrize("rows", [100, 1, CHUNK_BYTES // 37])
def test_copies_are_not_stored_and_come_back(storage: LocalStorage, dtype: str, rows: int) -> None:
    run = make_repository(storage).run("mixed")
    attempt = begin(run)
    known = {save(run, attempt, n, state(n, dtype, rows)): state(n, dtype, rows) for n in (1, 2, 3)}
    compacted(storage)
    chunks = 3 * 2 * -(-rows * 37 * 2 // CHUNK_BYTES)
    assert codecs(storage).count("narrowed") == (chunks if rows > 1 else 0)
    for checkpoint, arrays in known.items():
        assert read(Repository.open(storage).run("mixed"), checkpoint) == expected(arrays)
    assert compact.plan(Repository.open(storage)).victims == []


def test_chunks_that_differ_are_stored(storage: LocalStorage) -> None:
    run = make_repository(storage).run("mixed")
    arrays = state(1, rows=300)
    arrays["model/a"][1].reshape(-1)[-1] += 1  # of the last chunk, which the sample does not see
    made = save(run, begin(run), 1, arrays)
    compacted(storage)
    assert codecs(storage).count("narrowed") == 2 * -(-300 * 37 * 2 // CHUNK_BYTES) - 1
    assert read(Repository.open(storage).run("mixed"), made) == expected(arrays)


def test_copies_of_nothing_are_left(storage: LocalStorage) -> None:
    run = make_repository(storage).run("mixed")
    made = save(run, begin(run), 1, state(1, odd=3))
    compacted(storage)
    assert "narrowed" not in codecs(storage)
    assert read(Repository.open(storage).run("mixed"), made) == expected(state(1, odd=3))


def test_the_model_alone_survives_its_masters(storage: LocalStorage) -> None:
    """A checkpoint of the copies only relies on their packs; that with the masters goes."""
    run = make_repository(storage).run("mixed")
    attempt = begin(run)
    first = save(run, attempt, 1, state(1))
    compacted(storage)
    late = Repository.open(storage).run("mixed")
    read(late, first)
    late.repository.dependable |= set(late.hints(first))
    model = {name: value for name, value in state(1).items() if name.startswith("model")}
    second = save(late, attempt, 2, model)
    assert late.summary(second).size_bytes == 2 * 100 * 37 * 2
    fresh = Repository.open(storage).run("mixed")
    remove(fresh, [first], may_delete=lambda c: True, wait_seconds=0)
    assert "narrowed" in codecs(storage)
    assert read(fresh, second) == expected(model)
    compacted(storage)
    assert "narrowed" not in codecs(storage)
    assert read(Repository.open(storage).run("mixed"), second) == expected(model)
    assert compact.plan(Repository.open(storage)).victims == []


def test_copies_stay_derived_when_a_pack_is_rewritten_for_another_reason(storage: LocalStorage) -> None:
    run = make_repository(storage).run("mixed")
    attempt = begin(run)
    noise = {n: ("uint8", np.frombuffer(np.random.default_rng(n).bytes(60_000), np.uint8)) for n in (1, 2)}
    known = {save(run, attempt, n, {**state(n), "noise": noise[n]}): n for n in (1, 2)}
    compacted(storage)
    before = codecs(storage).count("narrowed")
    first, second = known
    remove(Repository.open(storage).run("mixed"), [first], may_delete=lambda c: True, wait_seconds=0)
    assert compacted(storage).packs_written == 1
    assert codecs(storage).count("narrowed") == before // 2 > 0
    expect = expected({**state(2), "noise": noise[2]})
    assert read(Repository.open(storage).run("mixed"), second) == expect
