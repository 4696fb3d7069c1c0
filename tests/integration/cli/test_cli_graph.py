from __future__ import annotations

import re

import numpy as np
import pytest


@pytest.fixture
def family(place, digits, holdfast):
    """A run rolled back once, with a zombie's late save, a rejected one, and two forks."""
    place.save("digits", digits[200].attempt, 250, metrics={"val_loss": 0.7})
    third = place.attempt("digits", digits[300])
    place.save("digits", third, 350, metrics={"val_loss": 0.3})
    place.run("digits").reject(digits[100], "test")
    assert holdfast("fork", "digits@200", "low").code == 0
    assert holdfast("fork", "digits@350", "high").code == 0
    base = place.run("low").latest()
    place.save("low", place.attempt("low", base), 220)


def shape(out):
    """First column, and the notes that matter."""
    return [re.match(r"[*ox|/ ]*[a-z]*@?\d*", line)[0].rstrip() for line in out.splitlines()[1:]]


def test_ls_draws_a_run_with_its_branches(place, family, holdfast, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    out = holdfast("ls", "digits", "--graph").out
    assert shape(out) == [
        "* digits@350",
        "| o digits@400",
        "|/",
        "* digits@300",
        "| o digits@250",
        "|/",
        "* digits@200",
        "x digits@100",
    ]
    rows = {m[1]: line for line in out.splitlines() if (m := re.search(r"@(\d+)", line))}
    assert re.search(r" 3  val_loss=0.3  latest,", rows["350"])
    assert "dead branch" in rows["400"]
    assert "paper, rejected" in rows["100"]
    assert "fork: low" in rows["200"]
    assert "latest, fork: high" in rows["350"]


def test_ls_draws_forks_where_they_leave(place, family, holdfast, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    out = holdfast("ls", "--graph").out
    assert shape(out) == [
        "* high@350",
        "* digits@350",
        "| o digits@400",
        "|/",
        "* digits@300",
        "| o digits@250",
        "|/",
        "| * low@220",
        "| * low@200",
        "|/",
        "* digits@200",
        "x digits@100",
    ]
    assert "forked from digits@200" in out
    assert "fork:" not in out
    assert shape(holdfast("ls", "low", "--graph").out) == ["* low@220", "* low@200"]


def test_ls_tells_programs_the_nearest_parents(place, family, holdfast):
    assert holdfast("rm", "low@200", "--yes").code == 0
    told = holdfast("ls", "--graph", "--json").json
    found = {(c["run"], c["step"]): c for c in told["checkpoints"]}
    assert len(told["checkpoints"]) == len(found) == 8
    at_200 = {"run": "digits", "id": found["digits", 200]["id"]}
    assert found["low", 220]["nearest"] == at_200  # its own first checkpoint is gone
    assert found["digits", 300]["nearest"] == at_200
    assert found["digits", 100]["nearest"] is None
    assert found["high", 350]["parent"] == found["digits", 350]["id"]
    attempts = [a for a in told["attempts"] if a["run"] == "low"]
    assert [a["base"] is not None for a in attempts] == [True, True]
    assert attempts[0]["cause"] == "forked from digits@200"
    alone = holdfast("ls", "low", "--graph", "--json").json
    assert [c["nearest"] for c in alone["checkpoints"]] == [at_200]


def test_a_damaged_run_does_not_keep_others_from_being_drawn(place, family, holdfast):
    attempt = place.attempt("broken")
    (place.path / place.run("broken").layout.base(attempt)).write_bytes(b"{}")
    assert holdfast("ls", "low", "--graph").code == 0
    assert holdfast("ls", "--graph").code == 4


def test_where_a_tree_begins_after_what_is_gone_is_told(place, family, holdfast, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert "gone" not in holdfast("ls", "--graph").out
    assert holdfast("rm", "digits@100", "--yes", "--force").code == 0
    out = holdfast("ls", "digits", "--graph").out
    assert "from step 100, gone" in next(line for line in out.splitlines() if "digits@200" in line)
    assert out.count("gone") == 1


def test_a_graph_has_an_order_of_its_own(place, family, holdfast):
    for more in (["--sort", "step"], ["--desc"], ["-n", "3"]):
        assert holdfast("ls", "--graph", *more).code == 2
    assert holdfast("ls", "nothing", "--graph").code == 3
    place.attempt("empty")
    assert holdfast("ls", "empty", "--graph").out == "There are no checkpoints.\n"


def test_a_graph_of_many_checkpoints_is_drawn(place, build_many, holdfast):
    build_many("long", 3000)
    out = holdfast("ls", "long", "--graph").out
    assert len(out.splitlines()) == 3001


def test_diff_across_branches_and_runs(place, digits, holdfast):
    """Forked from one another or not: what differs is named, what is equal is not read."""
    assert holdfast("fork", "digits@300", "branch").code == 0
    base = place.run("branch").latest()
    attempt = place.attempt("branch", base)
    rng = np.random.default_rng(300)
    same = rng.standard_normal(3000, np.float32)
    place.save("branch", attempt, 310, {"w": same + 1, "new": same[:10]}, values={"lr": 0.1})
    assert holdfast("diff", "digits@300", "branch@300", "--exit-code").code == 0
    told = holdfast("diff", "digits@300", "branch@310", "--json").json
    statuses = {t["name"]: t["status"] for t in told["tensors"]}
    assert statuses == {"model/w": "changed", "model/new": "only b"}
    assert told["state"] == [{"name": "lr", "b": 0.1}]
    changed = next(t for t in told["tensors"] if t["name"] == "model/w")
    assert 0.9 < changed["max_abs"] < 1.1
    assert holdfast("diff", "digits@300", "branch@310", "--exit-code").code == 1
    assert holdfast("diff", "digits@best", "branch@300", "--exit-code").code == 0
    assert holdfast("diff", "digits@300", "branch@999").code == 3
