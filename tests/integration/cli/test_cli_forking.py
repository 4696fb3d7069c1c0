from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("address", "step"),
    [("digits", 400), ("digits@200", 200), ("digits@paper", 100), ("digits@best", 300)],
)
def test_fork_begins_a_run_at_an_address(place, digits, holdfast, address, step):
    packs = place.packs()
    result = holdfast("fork", address, "sweep/lr3")
    assert (result.code, result.out) == (0, "")
    assert f"sweep/lr3 begins at digits@{step}" in result.err
    assert place.packs() == packs
    assert place.run("sweep/lr3").latest().step == step
    assert holdfast("diff", address, "sweep/lr3", "--exit-code").code == 0
    assert holdfast("verify").code == 0
    assert holdfast("repair", "--json").json["findings"] == []


def test_fork_tells_programs_what_it_made(place, digits, holdfast):
    told = holdfast("fork", "digits@300", "branch", "--json").json
    assert told == {
        "run": "digits",
        "step": 300,
        "parent": str(digits[300]),
        "new": "branch",
        "id": str(place.run("branch").latest()),
    }
    shown = holdfast("show", "branch", "--json").json
    assert (shown["parent"], shown["reason"]) == (str(digits[300]), "forked from digits@300")
    assert holdfast("ls", "branch", "--json").json["checkpoints"][0]["latest"]
    assert {r["run"]: r["state"] for r in holdfast("ls", "--json").json["runs"]}["branch"] == "forked"


@pytest.mark.parametrize(
    ("source", "new", "code", "words"),
    [
        ("digits@300", "digits", 2, "There is a run digits already."),
        ("digits@300", "taken", 2, "There is a run taken already."),
        ("digits@300", "a/../b", 2, "cannot name a run"),
        ("digits@999", "branch", 3, "400; tags: paper. Name one of these, or 'latest'."),
        ("nothing", "branch", 3, "no run 'nothing'"),
        ("digits@200", "branch", 2, "digits@200 is rejected"),
    ],
)
def test_fork_refuses_in_one_sentence(place, digits, holdfast, source, new, code, words):
    place.run("digits").reject(digits[200], "test")
    place.attempt("taken")
    result = holdfast("fork", source, new)
    assert result.code == code
    assert words in " ".join(result.err.split())
    assert not place.run("branch").exists()


def test_fork_is_refused_while_the_new_run_is_being_launched(place, digits, holdfast):
    code = (
        "import sys, time\n"
        "from holdfast.node import lease\n"
        "from holdfast.storage.local import LocalStorage\n"
        "lease.take(LocalStorage(sys.argv[1]), 'runs/branch/leases/000001-00000000.json')\n"
        "print('live', flush=True)\n"
        "time.sleep(60)\n"
    )
    command = [sys.executable, "-c", code, str(place.path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as trainer:
        assert trainer.stdout is not None
        assert trainer.stdout.readline() == "live\n"
        result = holdfast("fork", "digits", "branch")
        trainer.kill()
    assert result.code == 6
    assert "being trained" in result.err
    assert holdfast("fork", "digits", "branch").code == 0
