"""What `show --space` says is true: things are removed, and the disk is looked at."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

FROZEN = np.arange(20_000, dtype=np.float32)


@pytest.fixture
def sharing(place, holdfast):
    """A run of three checkpoints with a frozen tensor and a fork; packs hold what several need."""
    attempt = place.attempt("digits")
    rng = np.random.default_rng(0)
    for step in (100, 200, 300):
        arrays = {"w": rng.standard_normal(5000), "frozen": FROZEN, "tied": FROZEN[:3000]}
        place.save("digits", attempt, step, arrays)
    place.run("digits").set_tag("paper", place.run("digits").resolve(200))
    other = place.attempt("other")
    place.save("other", other, 7, {"w": np.zeros(9000), "x": rng.standard_normal(700)})
    assert holdfast("fork", "digits@300", "branch").code == 0


def on_disk(folder):
    return sum(f.stat().st_size for f in folder.rglob("*") if f.is_file() and f.suffix != ".lock")


def removed_from_a_copy(place, tmp_path, which):
    """Bytes that the disk has back, in a copy of the repository."""
    copy = tmp_path / "copy"
    shutil.copytree(place.path, copy)
    before = on_disk(copy)
    for line in (f"rm {which} --yes --force", "prune --yes"):
        command = [sys.executable, "-m", "holdfast", *line.split(), "-R", str(copy)]
        subprocess.run(command, check=True, capture_output=True)
    left = on_disk(copy)
    shutil.rmtree(copy)
    return before - left


ADDRESSES = ["digits@100", "digits@200", "digits@300", "other@7", "branch@300", "digits", "other", "branch"]


@pytest.mark.parametrize("compacted", [False, True])
def test_removing_frees_what_it_says(place, sharing, holdfast, tmp_path, compacted):
    if compacted:
        assert holdfast("compact").code == 0
    for which in ADDRESSES:
        told = holdfast("show", which, "--space", "--json").json
        assert told["freed_bytes"] == removed_from_a_copy(place, tmp_path, which), which


def test_costs_of_a_checkpoint_its_tensors_and_a_run(place, sharing, holdfast):
    told = holdfast("show", "digits@100", "--space", "--json").json
    tensors = told["tensors"]
    assert tensors["model/w"] == dict.fromkeys(("referenced_bytes", "stored_bytes", "only_bytes"), 40_000)
    assert tensors["model/frozen"] == {"referenced_bytes": 80_000, "stored_bytes": 80_000, "only_bytes": 0}
    assert tensors["model/tied"]["only_bytes"] < tensors["model/tied"]["referenced_bytes"] == 12_000
    assert told["referenced_bytes"] == 132_000
    assert told["only_bytes"] == 40_000
    assert 120_000 <= told["stored_bytes"] < 132_000  # most of the tied one is the frozen one's
    run = holdfast("show", "digits", "--space", "--json").json
    assert len(run["checkpoints"]) == 3
    assert run["referenced_bytes"] == 3 * 132_000
    assert run["only_bytes"] == 2 * 40_000  # the fork needs the rest
    zeros = holdfast("show", "other", "--space", "--json").json
    assert zeros["stored_bytes"] < zeros["referenced_bytes"] == 9000 * 8 + 700 * 8


def test_encoded_chunks_count_as_they_are_stored(place, sharing, holdfast):
    before = holdfast("show", "other@7", "--space", "--json").json
    assert holdfast("compact").code == 0
    after = holdfast("show", "other@7", "--space", "--json").json
    assert after["referenced_bytes"] == before["referenced_bytes"]
    assert after["stored_bytes"] < before["stored_bytes"]


def test_people_are_told_in_words(place, sharing, holdfast):
    out = holdfast("show", "digits@100", "--space", "--tensors").out
    assert "digits@100:" in out
    assert "129 KiB of tensors are referenced" in out
    assert "39.1 KiB of these are needed by nothing else" in out
    assert "model/frozen" in out
    assert "digits, 3 checkpoints:" in holdfast("show", "digits", "--space").out


def test_space_names_what_stands_in_the_way(place, sharing, holdfast):
    assert holdfast("show", "nothing", "--space").code == 3
    assert holdfast("show", "digits@5", "--space").code == 3
    checkpoint = place.run("other").resolve(7)
    path = place.manifest_path("other", checkpoint)
    path.write_bytes(path.read_bytes()[:-9])
    result = holdfast("show", "other", "--space", "--json")
    assert result.code == 4
    assert json.loads(result.err)["error"]["kind"] == "damaged"
