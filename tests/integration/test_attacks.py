"""Somebody can write to a sealed and signed repository: no state but ours is ever loaded."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import holdfast
from holdfast.errors import HoldfastError
from holdfast.repository import signatures
from keys import KEY, give

SIGNING, PUBLIC = signatures.generate()
STEPS = (1, 2, 3)
REFUSALS = {"damaged", "not-found", "sealed", "unsigned", "rolled-back", "usage", "format", "storage"}
Attack = Callable[[Path, Path], None]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    place = tmp_path_factory.mktemp("template")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(place / "state"))
        give(patch, HOLDFAST_KEY=KEY, HOLDFAST_SIGNING_KEY=SIGNING)
        for step in STEPS:
            holdfast.save(
                place / "ours", {"w": np.full(20_000, step), "log": [step]}, step=step, tag=f"t{step}"
            )
        holdfast.save(place / "ours", {"w": np.full(9, 66)}, step=66, run="other")
        give(patch)
        holdfast.save(place / "his", {"w": np.full(20_000, 666), "log": [666]}, step=666)
        yield place


@pytest.fixture
def place(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    give(monkeypatch, HOLDFAST_KEY=KEY, HOLDFAST_SIGNED_BY=PUBLIC)
    return shutil.copytree(template / "ours", tmp_path / "ours")


def files(place: Path) -> list[Path]:
    return sorted(p for p in place.rglob("*") if p.is_file() and p.suffix != ".lock")


def loaded(place: Path) -> int | str:
    """The step whose state was loaded, all of it; or how it was refused."""
    state = {"w": np.zeros(20_000, int), "log": [0]}
    try:
        step = holdfast.load(place, state).step
    except HoldfastError as error:
        return error.kind
    assert (state["w"] == step).all()
    assert state["log"] == [step]
    return step


def flip(path: Path, chance: random.Random) -> None:
    data = bytearray(path.read_bytes())
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    path.write_bytes(data)


ACTS: dict[str, Callable[[Path, random.Random], None]] = {
    "flip": flip,
    "cut": lambda path, chance: path.write_bytes(path.read_bytes()[: -chance.randrange(1, 40)]),
    "empty": lambda path, chance: path.write_bytes(b""),
    "junk": lambda path, chance: path.write_bytes(chance.randbytes(path.stat().st_size)),
    "remove": lambda path, chance: path.unlink(),
    "link": lambda path, chance: (path.unlink(), path.symlink_to("/etc/passwd"))[0],
}


@pytest.mark.parametrize("act", ACTS)
def test_any_one_file_changed(template: Path, place: Path, act: str) -> None:
    """Ours of some step is loaded, or nothing; and our other files stay good."""
    chance = random.Random(act)
    ended = []
    for path in files(place):
        ACTS[act](path, chance)
        ended.append(loaded(place))
        shutil.rmtree(place)
        shutil.copytree(template / "ours", place)
    assert set(ended) <= {*STEPS, *REFUSALS}
    assert ended.count(3) > len(ended) / 4  # of tags, of another run, of one of two key files


def test_any_two_files_of_a_kind_swapped(template: Path, place: Path) -> None:
    for first in files(place):
        for second in (p for p in files(place) if p.suffix == first.suffix and p > first):
            one, other = first.read_bytes(), second.read_bytes()
            first.write_bytes(other)
            second.write_bytes(one)
            assert loaded(place) in {*STEPS, *REFUSALS}
            shutil.rmtree(place)
            shutil.copytree(template / "ours", place)


def test_his_repository_in_place_of_ours(template: Path, place: Path) -> None:
    shutil.rmtree(place)
    shutil.copytree(template / "his", place)
    assert loaded(place) == "usage"


def test_his_files_among_ours(template: Path, place: Path) -> None:
    """His open checkpoint below our configuration; ours below his."""
    shutil.copytree(template / "his" / "packs", place / "packs", dirs_exist_ok=True)
    shutil.copytree(template / "his" / "runs", place / "runs", dirs_exist_ok=True)
    assert loaded(place) in {*STEPS, "damaged"}
    shutil.copy(template / "his" / "holdfast.json", place / "holdfast.json")
    assert loaded(place) == "usage"


def test_another_run_of_ours_in_place_of_this_one(place: Path) -> None:
    shutil.rmtree(place / "runs" / "main")
    shutil.copytree(place / "runs" / "other", place / "runs" / "main")
    assert loaded(place) == "damaged"


def test_an_older_state_of_ours_is_noticed_where_a_newer_was_seen(template: Path, place: Path) -> None:
    assert loaded(place) == 3
    older = [p for p in files(place) if "000003-full" in p.name or p.name.startswith("000000000003")]
    for path in older:
        path.unlink()
    assert loaded(place) == "rolled-back"


def test_somebody_with_the_key_but_not_ours_to_sign_with(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for signing in ({}, {"HOLDFAST_SIGNING_KEY": signatures.generate()[0]}):
        give(monkeypatch, HOLDFAST_KEY=KEY, **signing)
        holdfast.load(place, {"w": np.zeros(20_000, int), "log": [0]})
        holdfast.save(place, {"w": np.full(20_000, 666), "log": [666]}, step=666)
    give(monkeypatch, HOLDFAST_KEY=KEY, HOLDFAST_SIGNED_BY=PUBLIC)
    assert loaded(place) == 3
