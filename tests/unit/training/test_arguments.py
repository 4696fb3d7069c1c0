from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import holdfast


class Model:
    def state_dict(self) -> dict[str, Any]:
        return {}


@pytest.mark.parametrize("state", [Model(), [1], "model"])
def test_a_state_that_is_no_dict_is_refused_with_the_way_to_write_it(tmp_path, state):
    with pytest.raises(holdfast.UsageError, match=r'not a dict. Give every object by a name: {"model"'):
        holdfast.Checkpointer(tmp_path, state)
    with pytest.raises(holdfast.UsageError, match="not a dict"):
        holdfast.save(tmp_path, state, step=1)
    with pytest.raises(holdfast.UsageError, match="not a dict"):
        holdfast.load(tmp_path, state)
    assert list(tmp_path.iterdir()) == []
    checkpoint = holdfast.save(tmp_path, {"n": 1}, step=1)
    with pytest.raises(holdfast.UsageError, match="not a dict"):
        checkpoint.load(into=state)


@pytest.mark.parametrize("run", [5, 0, Path("a"), b"a"])
def test_a_run_is_named_by_text(tmp_path, run):
    with pytest.raises(holdfast.UsageError, match="cannot name a run"):
        holdfast.Checkpointer(tmp_path, {}, run=run)


@pytest.mark.parametrize("step", [-1, "3", 1.0, True, None, 10**18])
def test_a_step_is_a_whole_number(tmp_path, step):
    with pytest.raises(holdfast.UsageError, match="is not the number of a step"):
        holdfast.save(tmp_path, {"n": 1}, step=step)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("seconds", [-1, "20", None, float("nan"), float("inf"), True])
def test_a_grace_is_a_number_of_seconds(tmp_path, seconds):
    with pytest.raises(holdfast.UsageError, match="is not a number of seconds"):
        holdfast.Checkpointer(tmp_path, {}, grace_seconds=seconds)


@pytest.mark.parametrize("place", [5, b"checkpoints"])
def test_a_place_is_a_path(place):
    with pytest.raises(holdfast.UsageError, match="is no place for a repository"):
        holdfast.Checkpointer(place, {}).__enter__()


@pytest.mark.parametrize(
    "mirror",
    ["ftp://host/x", "s3://key:secret@bucket/x", "s3://bucket?colour=red", "memory://m", "file://h/x"],
)
def test_a_mirror_that_cannot_be_is_refused_also_where_the_run_is_resumed(tmp_path, mirror):
    holdfast.save(tmp_path, {"n": 1}, step=1)
    with pytest.raises(holdfast.UsageError, match=r"^(?!.*secret)"):
        holdfast.Checkpointer(tmp_path, {"n": 0}, mirror=mirror)
    with pytest.raises(holdfast.UsageError, match=r"^(?!.*secret)"):
        holdfast.Checkpointer(tmp_path, {"n": 0}, mirror=[tmp_path / "other", mirror])


@pytest.mark.parametrize("at", [1.5, None, ("a",)])
def test_an_address_is_a_step_or_text(tmp_path, at):
    holdfast.save(tmp_path, {"n": 1}, step=1)
    with pytest.raises(holdfast.UsageError, match="cannot be a tag"):
        holdfast.open(tmp_path)["main"][at]


def test_a_state_that_holds_itself_is_refused(tmp_path):
    state: dict[str, Any] = {"weights": np.zeros(2), "config": {}}
    state["config"]["all"] = state
    with pytest.raises(holdfast.UnsupportedError, match="The state holds itself"):
        holdfast.save(tmp_path, state, step=1)
    with (
        pytest.raises(holdfast.UnsupportedError, match="The state holds itself"),
        holdfast.Checkpointer(tmp_path, state),
    ):
        pass


def test_what_wraps_a_loader_goes_around_batches():
    with holdfast.Checkpointer("memory://around", {}) as ckpt:
        with pytest.raises(holdfast.UnsupportedError, match=r"go around batches\(\)"):
            ckpt.batches(enumerate([1]))
        ckpt.step()


@pytest.mark.parametrize(
    "save", ["best", "memory best", "every 9 steps | best", "memory best, disk every 9 steps"]
)
def test_saving_at_the_best_needs_a_metric_that_is_monitored(tmp_path, save):
    with pytest.raises(holdfast.UsageError, match="nothing says what is best"):
        holdfast.Checkpointer(tmp_path, {}, save=save)
    holdfast.Checkpointer(tmp_path, {}, save=save, keep="last 1, best 1 loss")
