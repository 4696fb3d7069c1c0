from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time

import pytest

from holdfast.repository.repository import Repository
from holdfast.storage.local import LocalStorage


@pytest.fixture
def backup(tmp_path):
    return tmp_path / "backup"


def opened(folder):
    return Repository.open(LocalStorage(folder))


def test_sync_brings_everything_once(place, digits, backup, holdfast):
    place.save("other", place.attempt("other"), 7)
    result = holdfast("sync", str(place.path), str(backup))
    assert result.code == 0
    assert "digits: 4 checkpoints, 46.9 KiB moved." in result.out
    assert "other: 1 checkpoint," in result.out
    assert {c for r in opened(backup).runs() for c in r.checkpoints()} == {
        c for r in place.repository.runs() for c in r.checkpoints()
    }
    assert holdfast("verify", "-R", str(backup)).code == 0
    again = holdfast("sync", str(place.path), str(backup))
    assert (again.code, again.out) == (0, "Nothing to move: all of it is there.\n")


def test_a_repository_with_an_id_of_its_own_takes_runs_of_others(place, digits, backup, holdfast):
    """As an archive of several does: names differ in their digests, and nothing else."""
    assert holdfast("fork", "digits@300", "branch").code == 0
    assert holdfast("init", str(backup)).code == 0
    assert holdfast("sync", str(place.path), str(backup)).code == 0
    there = opened(backup)
    assert there.id != place.repository.id
    assert there.chunk_bytes != place.repository.chunk_bytes
    where = ("-R", str(backup), "--json")
    assert holdfast("verify", *where).code == 0
    assert holdfast("repair", *where).json["findings"] == []
    told = holdfast("ls", "--graph", *where).json["checkpoints"]
    steps = {c["id"]: (c["run"], c["step"]) for c in told}
    nearest = {(c["run"], c["step"]): c["nearest"] and steps[c["nearest"]["id"]] for c in told}
    assert nearest["branch", 300] == ("digits", 300)
    assert nearest["digits", 300] == ("digits", 200)
    assert holdfast("show", "digits@paper", *where).json["step"] == 100


def test_sync_of_some_runs_told_to_programs(place, digits, backup, holdfast):
    for name in ("sweep/a", "sweep/b", "other"):
        place.save(name, place.attempt(name), 7)
    told = holdfast("sync", str(place.path), str(backup), "sweep/*", "digits", "--json").json
    assert [r["run"] for r in told["runs"]] == ["sweep/a", "sweep/b", "digits"]
    assert told["dry_run"] is False
    assert told["damaged_copies"] == []
    assert told["runs"][2]["checkpoints"] == 4
    assert told["runs"][2]["records"] == 5  # two attempts with their bases, and a tag
    assert told["runs"][2]["failed"] == {}
    assert told["runs"][1]["moved_bytes"] == 0  # the same bytes as sweep/a
    assert not opened(backup).run("other").exists()


def test_a_dry_run_makes_nothing(place, digits, backup, holdfast):
    told = holdfast("sync", str(place.path), str(backup), "--dry-run", "--json").json
    run = {"run": "digits", "checkpoints": 4, "moved_bytes": 48_000, "refused": None}
    assert told == {"dry_run": True, "runs": [run]}
    assert not backup.exists()
    assert (
        "4 checkpoints, 46.9 KiB to move" in holdfast("sync", str(place.path), str(backup), "--dry-run").out
    )
    assert holdfast("sync", str(place.path), str(backup)).code == 0
    out = holdfast("sync", str(place.path), str(backup), "--dry-run").out
    assert out == "Every checkpoint is there.\n"


def test_sync_refuses_a_run_that_went_on_there_but_not_the_others(place, digits, backup, holdfast):
    place.save("other", place.attempt("other"), 7)
    holdfast("sync", str(place.path), str(backup), "digits")
    run = opened(backup).run("digits")
    run.record_base(run.begin_attempt(), run.latest())
    result = holdfast("sync", str(place.path), str(backup))
    assert result.code == 2
    assert "has gone on by itself" in result.err
    assert "other: 1 checkpoint" in result.out
    told = holdfast("sync", str(place.path), str(backup), "--json")
    assert told.code == 2
    assert "by itself" in told.json["runs"][0]["refused"]
    place.save("other", place.attempt("other"), 9)
    planned = holdfast("sync", str(place.path), str(backup), "--dry-run")
    assert (planned.code, planned.err) == (2, result.err)
    assert planned.out.startswith("other: 1 checkpoint,")
    planned = holdfast("sync", str(place.path), str(backup), "--dry-run", "--json")
    assert planned.code == 2
    assert "by itself" in planned.json["runs"][1]["refused"]


def test_a_repository_is_not_synced_to_itself(place, digits, tmp_path, holdfast):
    (tmp_path / "alias").symlink_to(place.path)
    for target in (str(place.path), str(tmp_path / "alias"), f"file://{place.path}"):
        for options in ((), ("--dry-run",)):
            result = holdfast("sync", str(place.path), target, *options)
            assert result.code == 2
            assert "cannot be synced to itself" in result.err


def test_sync_says_what_it_cannot_find(place, digits, backup, tmp_path, holdfast):
    assert holdfast("sync", str(tmp_path / "nothing"), str(backup)).code == 3
    assert holdfast("sync", str(place.path), str(backup), "nothing").code == 3
    assert holdfast("sync", str(place.path), "ftp://bucket/x").code == 2
    assert not backup.exists()
    file = tmp_path / "file"
    file.write_text("x")
    assert holdfast("sync", str(place.path), str(file)).code == 2


def test_sync_names_damage_and_brings_the_rest(place, digits, backup, holdfast):
    pack = place.path / "packs" / (p := place.run("digits").hints(digits[400])[0])[:2] / f"{p}.pack"
    data = bytearray(pack.read_bytes())
    data[100] ^= 1
    pack.write_bytes(data)
    result = holdfast("sync", str(place.path), str(backup))
    assert result.code == 4
    assert "3 checkpoints" in result.out
    words = " ".join(result.err.split())
    assert "digits: not brought: The checkpoint digits@400 is damaged: tensor model/w" in words
    assert f"in pack {p} of the source does not match its digest" in words
    assert opened(backup).run("digits").latest() == digits[300]
    assert list((place.path / "damaged").iterdir())


def test_a_run_that_cannot_be_read_does_not_keep_the_others(place, digits, backup, holdfast):
    attempt = place.attempt("broken")
    (place.path / place.run("broken").layout.base(attempt)).write_bytes(b"{}")
    result = holdfast("sync", str(place.path), str(backup))
    assert result.code == 4
    assert "digits: 4 checkpoints" in result.out
    assert "attempts" in result.err
    assert not opened(backup).run("broken").exists()


def test_nothing_is_written_at_the_source(place, digits, backup, holdfast):
    def files():
        return {f: f.read_bytes() for f in place.path.rglob("*") if f.is_file() and f.suffix != ".lock"}

    before = files()
    assert holdfast("sync", str(place.path), str(backup)).code == 0
    assert files() == before


def test_a_run_that_is_trained_there_is_not_touched(place, digits, backup, holdfast):
    assert holdfast("sync", str(place.path), str(backup)).code == 0
    place.save("digits", digits[400].attempt, 500)
    code = (
        "import sys, time\n"
        "from holdfast.node import lease\n"
        "from holdfast.storage.local import LocalStorage\n"
        "lease.take(LocalStorage(sys.argv[1]), 'runs/digits/leases/000003-00000000.json')\n"
        "print('live', flush=True)\n"
        "time.sleep(60)\n"
    )
    command = [sys.executable, "-c", code, str(backup)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as trainer:
        assert trainer.stdout is not None
        assert trainer.stdout.readline() == "live\n"
        result = holdfast("sync", str(place.path), str(backup))
        planned = holdfast("sync", str(place.path), str(backup), "--dry-run")
        trainer.kill()
    for told in (result, planned):
        assert told.code == 6
        assert "being trained" in told.err
    assert len(opened(backup).run("digits").checkpoints()) == 4


def test_a_launch_at_the_destination_resumes_where_one_at_the_source_would(tmp_path, holdfast):
    """Real processes: killed in training, synced, and finished in both places alike."""
    import numpy as np

    script = tmp_path / "train.py"
    script.write_text(
        "import sys, time\n"
        "import numpy as np\n"
        "import holdfast\n"
        "state = {'w': np.zeros(1000)}\n"
        "with holdfast.Checkpointer(sys.argv[1], state, run='r', save='every 5 steps', keep='last 2') as c:\n"
        "    for step in c.steps(200):\n"
        "        state['w'] += np.random.standard_normal(1000)\n"
        "        c.step(loss=float(state['w'].sum()))\n"
        "        time.sleep(0.01 if len(sys.argv) > 2 else 0)\n"
    )
    here, there = tmp_path / "here", tmp_path / "there"
    with subprocess.Popen(
        [sys.executable, str(script), str(here), "slowly"], stderr=subprocess.PIPE
    ) as trainer:
        deadline = time.monotonic() + 60
        while len(list(here.glob("runs/r/checkpoints/*"))) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert holdfast("sync", str(here), str(there)).code == 0  # while it trains
        time.sleep(0.1)
        trainer.send_signal(signal.SIGKILL)
    assert holdfast("sync", str(here), str(there)).code == 0
    points = [opened(folder).run("r").latest() for folder in (here, there)]
    assert points[0] == points[1]
    for folder in (here, there):
        subprocess.run([sys.executable, str(script), str(folder)], check=True, capture_output=True)
    import holdfast as library

    ends = [library.open(folder)["r"].latest.load()["w"] for folder in (here, there)]
    assert np.array_equal(*ends)
    shutil.rmtree(here)
    assert holdfast("verify", "-R", str(there)).code == 0
