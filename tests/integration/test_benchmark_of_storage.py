"""The benchmark of storage measures what it says, and no way passes that gives back other bits."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.timeout(600)
BENCHMARKS = Path(__file__).parent.parent.parent / "benchmarks"
SPEC = "adapters-2@1"
WAYS = ("torch.save", "holdfast", "holdfast, compact")


def _call(script, *arguments, folder):
    command = [sys.executable, BENCHMARKS / script, *map(str, arguments)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=560)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("benchmark")
    options = ("--quick", "--trajectories", SPEC, "--ways", *WAYS, "--count", "4")
    done = _call("storing.py", *options, "--folder", folder / "work", "--out", folder, folder=folder)
    assert done.returncode == 0, done.stderr
    assert list((folder / "work").iterdir()) == []
    assert {p.name for p in folder.glob("*.svg")} == {"storing.svg", "storing-cpu.svg"}
    return json.loads((folder / "storing.json").read_text())


@pytest.mark.also
def test_every_way_stores_every_checkpoint(results):
    raw = results["raw"][SPEC]
    assert tuple(raw["ways"]) == WAYS
    for way in raw["ways"].values():
        assert len(way["stored_bytes"]) == len(way["save_cpu_seconds"]) == raw["count"] == 4
        assert all(size > 0 for size in way["stored_bytes"])


@pytest.mark.also
def test_sizes_are_those_of_what_is_stored(results):
    raw = results["raw"][SPEC]
    whole = raw["state_bytes"] * 4
    by_way = {name: way["stored_bytes"][-1] for name, way in raw["ways"].items()}
    assert whole < by_way["torch.save"] < 1.2 * whole
    assert by_way["holdfast"] < 0.6 * whole  # the frozen base once
    assert by_way["holdfast, compact"] < by_way["holdfast"]
    assert results["figures"][SPEC]["ways"]["holdfast"]["ratio"] == pytest.approx(
        by_way["torch.save"] / by_way["holdfast"]
    )


@pytest.mark.also
def test_compactions_are_counted_apart(results):
    ways = results["raw"][SPEC]["ways"]
    assert ways["holdfast"]["compact_cpu_seconds"] == []
    assert len(ways["holdfast, compact"]["compact_cpu_seconds"]) == 4
    assert all(seconds > 0.05 for seconds in ways["holdfast, compact"]["compact_cpu_seconds"])


@pytest.mark.also
def test_nothing_grows_when_it_is_compacted(results):
    (growth,) = [one for one in results["targets"] if "what landed" in one["what"]]
    assert growth["met"]
    assert 0.5 < growth["measured"] < 1


@pytest.fixture
def trajectory(tmp_path):
    done = _call("storing_trajectory.py", "mixed", 1, 2, "quick", tmp_path / "made", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    return tmp_path / "made"


def test_a_trajectory_is_the_same_when_it_is_made_again(trajectory, tmp_path):
    done = _call("storing_trajectory.py", "mixed", 1, 2, "quick", tmp_path / "again", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    files = sorted(p.name for p in trajectory.iterdir())
    assert files == ["000001.tensors", "000002.tensors", "trajectory.json"]
    for name in files:
        assert (trajectory / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    assert (trajectory / files[0]).read_bytes() != (trajectory / files[1]).read_bytes()


def test_a_way_that_gives_back_other_bits_ends_the_benchmark(trajectory, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import storing_store
    import storing_way
    from storing_trajectory import Trajectory

    class Forgetful(storing_way.TorchSave):
        def restore(self, number):
            super().restore(number)
            self.live[self.kinds[3].name][-1] ^= 1

    monkeypatch.setattr(storing_way, "TorchSave", Forgetful)
    monkeypatch.setattr(storing_store, "settle", lambda files: None)
    with pytest.raises(
        storing_store.WrongBitsError, match="checkpoint 2 came back with other bits in 1 tensors"
    ):
        storing_store.store("torch.save", Trajectory(trajectory), tmp_path, 1)
