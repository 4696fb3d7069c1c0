"""What 'holdfast status' says of a live run that chooses itself when to save."""

from __future__ import annotations

import pytest

import holdfast as library
from holdfast.domain.save_rules import Auto

EAGER = Auto(least_seconds=0.0, most_seconds=0.0)


def train(place, look, rule):
    with library.Checkpointer(place.path, {"a": 1}, run="digits", save=rule, background=False) as ckpt:
        for _ in ckpt.steps(ckpt.progress.step + 3):
            ckpt.step(loss=1.0)
        look()


def crash():
    raise RuntimeError("no more")


def test_status_explains_the_choice_and_counts_failures_of_attempts_before(place, holdfast):
    with pytest.raises(RuntimeError, match="no more"):
        train(place, crash, EAGER)
    seen = {}

    def look():
        seen["text"] = holdfast("status").out
        seen["json"] = holdfast("status", "--json").json["runs"][0]["saving"]

    train(place, look, "every 2 steps" | EAGER)
    told = seen["json"]
    assert told["failures"] == 1
    assert 0 < told["save_seconds"] < 60
    assert told["loss_seconds"] == told["interval_seconds"] / 2
    line = f"digits {told['why']}.".replace("\n", " ")
    assert line in " ".join(seen["text"].split())
    assert "(1 failure in " in line


def test_nothing_is_said_of_a_run_that_does_not_choose(place, holdfast):
    seen = {}
    train(place, lambda: seen.update(holdfast("status", "--json").json["runs"][0]), "every 1 step")
    assert seen["saving"] is None
    assert seen["state"] == "live"
