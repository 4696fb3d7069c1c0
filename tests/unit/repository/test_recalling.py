"""Tensors out of memory: verified like those from a disk, whatever the memory holds."""

from __future__ import annotations

import random

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from checkpoints import CHUNK_BYTES, BytesTensor, draft, make_repository, make_state
from holdfast.domain.manifest import Manifest
from holdfast.repository.commit import commit
from holdfast.repository.recalling import recall_tensors
from holdfast.storage.local import LocalStorage

Bytes = npt.NDArray[np.uint8]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Manifest, dict[str, Bytes]]:
    """A manifest, and the bytes of its tensors."""
    run = make_repository(LocalStorage(tmp_path_factory.mktemp("repository"))).run("main")
    attempt = run.begin_attempt()
    run.record_base(attempt, None)
    state = make_state(3) | {"wide": random.Random(1).randbytes(20 * CHUNK_BYTES + 1)}
    committed = commit(run, draft(attempt, 1, 3, state))
    return run.manifest(committed.id), {name: np.frombuffer(data, np.uint8) for name, data in state.items()}


def targets_of(manifest: Manifest) -> list[tuple[str, BytesTensor]]:
    return [(name, BytesTensor(entry.spec.size_bytes)) for name, entry in manifest.tensors.items()]


def test_what_is_there_and_right_is_taken(saved: tuple[Manifest, dict[str, Bytes]]) -> None:
    manifest, data = saved
    wanted = targets_of(manifest)
    assert recall_tensors(data, manifest, wanted) == []
    for name, target in wanted:
        assert target.committed
        assert target.data == data[name].tobytes()


def test_what_is_not_there_is_left_for_the_disk(saved: tuple[Manifest, dict[str, Bytes]]) -> None:
    manifest, data = saved
    wanted = targets_of(manifest)
    left = recall_tensors({"wide": data["wide"]}, manifest, wanted)
    assert sorted(name for name, _ in left) == sorted(set(data) - {"wide"})


@settings(max_examples=200)
@given(st.data())
def test_what_went_bad_is_never_taken_for_good(
    saved: tuple[Manifest, dict[str, Bytes]], choice: st.DataObject
) -> None:
    manifest, data = saved
    name = choice.draw(st.sampled_from([name for name, held in data.items() if len(held)]))
    damaged = np.array(data[name])
    how = choice.draw(st.sampled_from(["flip", "cut", "grow", "swap"]))
    if how == "flip":
        damaged[choice.draw(st.integers(0, len(damaged) - 1))] ^= choice.draw(st.integers(1, 255))
    elif how == "cut":
        damaged = damaged[: choice.draw(st.integers(0, len(damaged) - 1))]
    elif how == "grow":
        damaged = np.concatenate([damaged, damaged[:1]])
    else:
        damaged = np.array(data["wide"] if name != "wide" else np.roll(data["wide"], 4096))
    wanted = targets_of(manifest)
    left = recall_tensors(data | {name: damaged}, manifest, wanted)
    assert [(n, target.committed) for n, target in left] == [(name, False)]
    assert all(target.committed for n, target in wanted if n != name)
