from __future__ import annotations

import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from holdfast import save
from holdfast.domain.tensors import TensorRef
from holdfast.domain.tree import Component
from holdfast.repository import records, retention
from holdfast.repository.layout import RunLayout
from holdfast.storage.local import LocalStorage


@pytest.fixture
def trainer(place):
    """Another process that holds the lease of the run digits."""
    code = (
        "import sys, time\n"
        "from holdfast.node import lease\n"
        "from holdfast.storage.local import LocalStorage\n"
        "lease.take(LocalStorage(sys.argv[1]), 'runs/digits/leases/000002-00000000.json')\n"
        "print('live', flush=True)\n"
        "time.sleep(60)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(place.path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "live\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_tags_are_given_moved_listed_and_taken(place, digits, holdfast):
    assert holdfast("tag", "digits@best", "good").code == 0
    assert place.run("digits").tags()["good"] == digits[300]
    assert holdfast("tag", "digits@200", "good").code == 0
    assert [(t["tag"], t["step"]) for t in holdfast("tag", "--json").json["tags"]] == [
        ("good", 200),
        ("paper", 100),
    ]
    assert holdfast("tag", "digits", "good", "--delete").code == 0
    assert holdfast("tag", "digits", "good", "--delete").code == 3
    assert holdfast("tag", "digits", "latest").code == 2
    assert holdfast("tag", "digits", "--delete").code == 2


def test_a_rejected_checkpoint_is_not_tagged(place, digits, holdfast):
    place.run("digits").reject(digits[100], "test")
    result = holdfast("tag", "digits@100", "release")
    assert result.code == 2
    assert "digits@100 is rejected as damaged" in " ".join(result.err.split())
    assert place.run("digits").tags() == {"paper": digits[100]}
    assert holdfast("tag", "digits", "paper", "--delete").code == 0


def test_restart_begins_afresh_once_and_takes_back(place, digits, holdfast):
    run = place.run("digits")
    assert holdfast("restart", "digits", "--yes").code == 0
    assert run.latest() is None
    assert len(run.checkpoints()) == 4
    assert holdfast("ls", "--json").json["runs"][0]["state"] == "to restart"
    assert holdfast("restart", "digits@300", "--yes").code == 0
    assert run.latest() == digits[300]
    run.reject(digits[100], "test")
    assert holdfast("restart", "digits@100", "--yes").code == 2
    assert run.latest() == digits[300]


def test_without_a_terminal_nothing_is_removed_unasked(place, digits, holdfast):
    for arguments in (("rm", "digits@200"), ("restart", "digits"), ("prune", "--keep", "last 1")):
        result = holdfast(*arguments)
        assert result.code == 2
        assert "--yes" in result.err
    assert len(place.run("digits").checkpoints()) == 4


def test_rm_removes_a_checkpoint_and_its_packs(place, digits, holdfast):
    packs = len(place.packs())
    assert holdfast("rm", "digits@200", "--yes").code == 0
    assert [c.step for c in place.run("digits").checkpoints()] == [100, 300, 400]
    assert len(place.packs()) == packs - 1
    assert holdfast("verify").code == 0
    assert place.run("digits").latest() == digits[400]


def test_prune_finishes_what_rm_has_condemned(place, digits, holdfast, monkeypatch):
    monkeypatch.setattr(LocalStorage, "exclusive_locks", False)
    said = holdfast("rm", "digits@200", "--yes")
    assert "digits@200 is condemned; after a grace time of hours 'holdfast prune' deletes it" in said.err
    assert holdfast("prune", "--json").json["waiting"] == 1
    monkeypatch.setattr(retention, "GRACE_SECONDS", 0.0)
    assert holdfast("prune", "--json").json["checkpoints"] == 1
    assert [c.step for c in place.run("digits").all_checkpoints()] == [100, 300, 400]
    assert holdfast("verify").code == 0


def test_rm_refuses_the_tagged_and_the_last(place, digits, holdfast):
    assert "tagged" in holdfast("rm", "digits@paper", "--yes").err
    assert "tagged" in holdfast("rm", "digits", "--yes").err
    for step in (200, 300):
        assert holdfast("rm", f"digits@{step}", "--yes").code == 0
    assert holdfast("rm", "digits@100", "--yes", "--force").code == 0
    result = holdfast("rm", "digits@400", "--yes")
    assert result.code == 2
    assert "resumed" in result.err
    assert holdfast("rm", "digits@400", "--yes", "--force").code == 0
    assert place.packs() == []


def test_rm_of_a_run_leaves_its_nested_runs(place, digits, holdfast):
    attempt = place.attempt("digits/more")
    kept = place.save("digits/more", attempt, 5)
    assert holdfast("rm", "digits", "--yes", "--force").code == 0
    assert holdfast("ls", "digits").code == 3
    assert [r["run"] for r in holdfast("ls", "--json").json["runs"]] == ["digits/more"]
    assert place.run("digits/more").latest() == kept
    assert holdfast("verify").code == 0
    assert len(place.packs()) == 1


def test_mv_keeps_everything(place, digits, holdfast):
    place.run("digits").reject(digits[400], "test")
    assert holdfast("mv", "digits", "old/digits").code == 0
    moved = place.run("old/digits")
    assert moved.latest() == digits[300]
    assert moved.tags() == {"paper": digits[100]}
    assert len(moved.attempts()) == 2
    assert moved.rejected() == {str(digits[400])}
    assert holdfast("verify", "old/digits").code == 0
    assert not list(place.repository.storage.list(RunLayout("digits").root))
    assert holdfast("mv", "digits", "x").code == 3
    place.attempt("digits")
    assert holdfast("mv", "digits", "old/digits").code == 2
    assert holdfast("mv", "old/digits", "old/digits").code == 2
    assert holdfast("mv", "old/digits", "bad name").code == 2


def test_prune_applies_a_keep_rule(place, digits, holdfast):
    holdfast("tag", "digits", "paper", "--delete")
    told = holdfast("prune", "digits", "--keep", "last 1, best 1 val_loss min", "--dry-run", "--json").json
    assert told["runs"][0]["drop"] == [100, 200]
    assert told["runs"][0]["keep"] == [300, 400]  # the best, and the last two full ones
    assert (told["checkpoints"], told["packs"]) == (2, 2)
    assert len(place.run("digits").checkpoints()) == 4
    done = holdfast("prune", "digits", "--keep", "last 1, best 1 val_loss min", "--yes", "--json").json
    assert (done["checkpoints"], done["packs"], done["freed_bytes"]) == (2, 2, told["freed_bytes"])
    assert [c.step for c in place.run("digits").checkpoints()] == [300, 400]
    assert holdfast("prune", "--keep", "last 0").code == 2
    assert holdfast("prune", "digits").code == 2


def test_prune_makes_thin_what_the_rule_keeps_thin(place, holdfast):
    attempt = place.attempt("digits")
    for step in (100, 200, 300, 400):
        array = np.random.default_rng(step).standard_normal(2000)
        model = Component("torch.module", {"w": TensorRef("model/w", "numpy")})
        place.save("digits", attempt, step, {"w": array, "moment": -array}, values={"model": model})
    rule = ("--keep", "last 1, then thin every 200 steps")
    assert "Would thin 1 checkpoint." in holdfast("prune", *rule, "--dry-run").out
    told = holdfast("prune", *rule, "--yes", "--json").json
    assert told["runs"][0]["thin"] == [200]
    assert (told["checkpoints"], told["thinned"]) == (1, 1)
    kinds = {(c.step, c.kind) for c in place.run("digits").checkpoints()}
    assert kinds == {(200, "thin"), (300, "full"), (400, "full")}
    assert holdfast("verify").code == 0
    assert holdfast("restart", "digits@200", "--yes").code == 2


def test_prune_promises_to_thin_nothing_that_holds_no_model(place, digits, holdfast):
    rule = ("prune", "digits", "--keep", "last 1, then thin every 100 steps")
    told = holdfast(*rule, "--dry-run", "--json").json
    assert (told["runs"][0]["thin"], told["thinned"]) == ([], 0)
    assert told["runs"][0]["keep"] == [100, 200, 300, 400]
    assert "hin" not in holdfast(*rule, "--yes").out.replace("make thin", "")
    assert {c.kind for c in place.run("digits").checkpoints()} == {"full"}


def test_a_real_trainer_answers_and_restarts(place, holdfast):
    script = (
        "import sys, time, holdfast\n"
        "state = {'count': 0}\n"
        "with holdfast.Checkpointer(sys.argv[1], state, run='counting', save=None) as ckpt:\n"
        "    print(ckpt.progress.step, flush=True)\n"
        "    for t in ckpt.steps(10**6):\n"
        "        state['count'] += 1\n"
        "        time.sleep(0.01)\n"
    )
    command = [sys.executable, "-c", script, str(place.path)]

    def launched():
        trainer = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert trainer.stdout is not None
        return trainer, int(trainer.stdout.readline())

    def killed(trainer):
        trainer.kill()
        trainer.wait()
        trainer.stdout.close()

    trainer, step = launched()
    assert step == 0
    told = holdfast("save", "counting", "--tag", "here", "--json").json
    assert told["tags"] == ["here"]
    assert holdfast("restart", "counting", "--yes").code == 6
    killed(trainer)
    assert holdfast("restart", "counting", "--yes").code == 0
    trainer, step = launched()
    killed(trainer)
    assert step == 0
    assert holdfast("restart", "counting@here", "--yes").code == 0
    trainer, step = launched()
    killed(trainer)
    assert step == told["step"] > 0


def test_prune_keeps_what_a_restarted_run_resumes_from(place, digits, holdfast):
    holdfast("restart", "digits@200", "--yes")
    holdfast("tag", "digits", "paper", "--delete")
    assert holdfast("prune", "digits", "--keep", "last 1", "--yes").code == 0
    assert place.run("digits").latest() == digits[200]


def test_prune_removes_what_killed_saves_left(place, digits, holdfast):
    run = place.run("digits")
    storage = place.repository.storage
    last = run.latest()
    assert last is not None
    storage.delete(run.layout.checkpoint(last))  # as if killed before the manifest
    assert holdfast("prune", "--dry-run", "--json").json["packs"] == 1
    assert len(place.packs()) == 4
    assert holdfast("prune").code == 0
    assert len(place.packs()) == 3
    assert holdfast("verify").code == 0


def test_a_live_run_is_left_alone(place, digits, holdfast, trainer):
    assert holdfast("ls", "--json").json["runs"][0]["state"] == "live"
    (told,) = holdfast("status", "--json").json["runs"]
    assert told["holders"][0]["pid"] == trainer.pid
    for arguments in (
        ("mv", "digits", "other"),
        ("mv", "other", "digits"),
        ("restart", "digits", "--yes"),
        ("rm", "digits@200", "--yes"),
        ("rm", "digits", "--yes"),
    ):
        result = holdfast(*arguments)
        assert result.code == 6, arguments
        assert str(trainer.pid) in result.err
    told = holdfast("prune", "--keep", "last 1", "--yes", "--json").json
    assert told["live"] == ["digits"]
    assert len(place.run("digits").checkpoints()) == 4
    assert holdfast("rm", "digits@200", "--yes", "--force").code == 0
    trainer.kill()
    trainer.wait()
    assert holdfast("status").out.startswith("No run is live")
    assert holdfast("mv", "digits", "other").code == 0


def test_save_asks_a_live_run_and_reports_its_answer(place, digits, holdfast, trainer):
    run = place.run("digits")

    def answer():
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            for key in list(run.storage.list(run.layout.requests)):
                request = records.read(run.storage, key, records.RequestRecord)
                run.storage.delete(key)
                place.save("digits", digits[400].attempt, 450, reason=f"request {request.nonce}")
                return
            time.sleep(0.02)

    thread = threading.Thread(target=answer)
    thread.start()
    result = holdfast("save", "digits", "--tag", "now", "--json")
    thread.join()
    assert result.code == 0
    assert result.json["step"] == 450
    assert result.json["tags"] == ["now"]


def test_save_gives_up_and_withdraws(place, digits, holdfast, trainer):
    result = holdfast("save", "digits", "--wait", "0.3")
    assert result.code == 6
    assert "withdrawn" in result.err
    assert not list(place.repository.storage.list(place.run("digits").layout.requests))
    assert holdfast("save", "digits", "--wait", "0").code == 0


def test_save_refuses_when_nobody_trains(place, digits, holdfast):
    assert holdfast("save", "digits").code == 3
    assert holdfast("save", "nope").code == 3


def test_a_prune_waits_for_no_reader_for_ever(place, digits, holdfast, monkeypatch):
    monkeypatch.setattr("holdfast.cli.cmd_prune.WAIT_SECONDS", 0.2)
    with place.repository.holding():
        assert holdfast("prune").code == 6


def test_compact_says_what_it_would_do_then_does_it(place, digits, holdfast):
    before = place.packs()
    told = holdfast("compact", "--dry-run", "--json").json
    assert told["dry_run"]
    assert told["packs"] == len(before)
    assert place.packs() == before
    assert holdfast("compact", "--dry-run").out.startswith(f"Would rewrite {len(before)} packs: ")
    done = holdfast("compact", "--json").json
    assert (done["packs_removed"], done["packs_written"]) == (len(before), 1)
    assert done["bytes_after"] < done["bytes_before"] == told["bytes_before"]
    assert holdfast("verify").code == 0
    assert holdfast("compact").out.startswith("Nothing to compact in ")
    assert holdfast("compact", "--dry-run").out.startswith("Nothing to compact in ")
    assert holdfast("compact", "nope").code == 3


def test_compact_squeezes_what_is_cold(place, holdfast, monkeypatch):
    for module in ("compact", "assembling"):
        monkeypatch.setattr(f"holdfast.repository.{module}.SMALL_BYTES", 1)
    chance = np.random.default_rng(3)
    words = chance.integers(0, 256, (40, 6), np.uint8)
    for step in range(1, 9):
        data = words[chance.integers(0, 40, 50_000)].reshape(-1)
        save(place.path, {"words": data}, step=step, run="long")
    told = holdfast("compact", "--cold", "--dry-run", "--json").json
    assert told["packs"] >= 3
    usual = holdfast("compact", "--json").json
    done = holdfast("compact", "--cold", "--json").json
    assert done["packs_written"] >= 1
    assert done["bytes_after"] < done["bytes_before"] == usual["bytes_after"]
    assert holdfast("verify").code == 0
    again = holdfast("compact", "--cold", "--json").json
    assert (again["packs_written"], again["bytes_after"]) == (0, done["bytes_after"])


def test_compact_leaves_old_packs_under_a_reader(place, digits, holdfast, monkeypatch):
    monkeypatch.setattr("holdfast.cli.cmd_compact.WAIT_SECONDS", 0.2)
    with place.repository.holding():
        assert holdfast("compact").code == 6
    assert holdfast("prune").code == 0
    assert len(place.packs()) == 1
    assert holdfast("verify").code == 0


def test_compact_leaves_one_run_alone(place, digits, holdfast):
    assert holdfast("compact", "digits").code == 0
    assert holdfast("verify").code == 0
