"""Encoded packs damaged in every way: an error that says what is lost, or the right bytes."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import numpy as np
import pytest

from checkpoints import begin, drifting, make_repository, read, save
from holdfast.domain.names import CheckpointId
from holdfast.errors import DamagedError
from holdfast.repository import compact
from holdfast.repository.pack import TRAILER, read_index
from holdfast.repository.repairing import inspect
from holdfast.repository.repository import Repository
from holdfast.repository.run import Run
from holdfast.storage.local import LocalStorage

RUN = "digits"


def make_state(step: int) -> dict[str, bytes]:
    rng = np.random.default_rng(step)
    return {
        "few": rng.integers(0, 3, 9000).astype(np.uint8).tobytes(),
        "zeros": bytes(10_000),
        "noise": rng.bytes(5000),
        "drift": drifting(step),
    }


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("template") / "repository"
    run = make_repository(LocalStorage(root, create=True)).run(RUN)
    attempt = begin(run)
    for sequence, step in enumerate((10, 20, 30), start=1):
        save(run, attempt, sequence, step, make_state(step))
    compact.apply(compact.plan(run.repository))
    return root


@pytest.fixture
def root(template: Path, tmp_path: Path) -> Path:
    shutil.copytree(template, tmp_path / "repository")
    return tmp_path / "repository"


def opened(root: Path) -> Run:
    return Repository.open(LocalStorage(root)).run(RUN)


def the_pack(root: Path) -> Path:
    (pack,) = root.glob("packs/*/*.pack")
    return pack


def read_or_damage(root: Path, checkpoint: CheckpointId) -> bool:
    try:
        assert read(opened(root), checkpoint) == make_state(checkpoint.step)
    except DamagedError as error:
        text = str(error)
        assert the_pack(root).stem in text, text
        return "tensor" not in text
    return True


def test_a_flip_anywhere_is_noticed(root: Path) -> None:
    pack = the_pack(root)
    whole = pack.read_bytes()
    entries = read_index(LocalStorage(root), pack.stem).entries
    assert {e.codec for e in entries} == {"raw", "constant", "planes", "rotated-delta"}
    heads = [e.offset + n for e in entries for n in range(e.offset % 2, min(e.stored_bytes, 60), 2)]
    last = max(e.offset + e.stored_bytes for e in entries)
    noticed = 0
    places = [*heads, *random.Random(1).sample(range(8, last), 60)]
    for at in places:
        data = bytearray(whole)
        data[at] ^= 1 << (at % 8)
        pack.write_bytes(data)
        noticed += not all(read_or_damage(root, c) for c in opened(root).checkpoints())
        shutil.rmtree(root / "damaged", ignore_errors=True)
    assert noticed >= 0.9 * len(places)  # what decodes to the right chunk all the same is right


def test_a_pack_cut_short_is_noticed(root: Path) -> None:
    pack = the_pack(root)
    whole = pack.read_bytes()
    for size in (0, 100, len(whole) // 2, len(whole) - 4096):
        pack.write_bytes(whole[:size])
        assert not any(read_or_damage(root, c) for c in opened(root).checkpoints())


def test_chunks_of_a_pack_without_index_are_found_again(root: Path) -> None:
    pack = the_pack(root)
    data = bytearray(pack.read_bytes())
    start = TRAILER.unpack(data[-TRAILER.size :])[0]
    data[start + 3] ^= 1
    pack.write_bytes(data)
    assert not any(read_or_damage(root, c) for c in opened(root).checkpoints())
    repository = Repository.open(LocalStorage(root))
    fixes = [f.fix for f in inspect(repository, lambda run: False) if f.kind == "pack"]
    assert len(fixes) == 1
    assert fixes[0] is not None
    fixes[0]()
    for checkpoint in opened(root).checkpoints():
        assert read(opened(root), checkpoint) == make_state(checkpoint.step)
