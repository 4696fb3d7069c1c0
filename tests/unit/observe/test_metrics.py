"""The log of a run comes to these numbers."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from holdfast.domain.event_lines import Writer, line
from holdfast.domain.events import (
    Event,
    LaunchBegan,
    Launched,
    LaunchEnded,
    Persisted,
    Recovered,
    Rejected,
    Reported,
    Restored,
    Saved,
    SaveFailed,
    Started,
    Uploaded,
    UploadFailed,
)
from holdfast.domain.progress import Progress
from holdfast.node.pulse import Seen
from holdfast.observe.metrics import FAMILIES, Metrics


def taken(metrics: Metrics, *events: Event, at: float = 100.0) -> dict[str, float]:
    for number, event in enumerate(events):
        metrics.take(json.loads(line(event, Writer("trainer", "here", 1, "t"), None, at + number)))
    return values(metrics)


def values(metrics: Metrics) -> dict[str, float]:
    found = re.findall(r"^holdfast_(\S+) (\S+)$", metrics.text(), re.MULTILINE)
    return {
        name.replace('run="digits",', "").replace('{run="digits"}', ""): float(value) for name, value in found
    }


def saved(step: int) -> Saved:
    return Saved("digits", step, "r", 0.5, 100, 60, burden_seconds=0.25)


def ended(cause: str, **fields: Any) -> LaunchEnded:
    known = {
        "launch": 1,
        "detail": "",
        "exit_code": -9,
        "seconds": 1.0,
        "resumed": None,
        "step": 5,
        "steps": 5,
    }
    later = {"lost_steps": None, "recovery_seconds": None, "restarts": True, "wait_seconds": 0.0, "why": ""}
    return LaunchEnded("digits", cause=cause, **(known | later | fields))


def test_saves() -> None:
    found = taken(Metrics(), Started("digits", "here"), saved(10), saved(20))
    assert found['saves_total{result="saved"}'] == 2
    assert found["last_checkpoint_timestamp_seconds"] == 102
    assert found["save_interval_seconds"] == 1
    assert found["last_checkpoint_step"] == 20
    assert found["save_stall_seconds_total"] == 0.5
    assert found["saved_bytes_total"] == 120
    assert found["save_duration_seconds_sum"] == 1.0


def test_a_checkpoint_that_the_trainer_did_not_live_to_see() -> None:
    found = taken(Metrics(), saved(10), Persisted("digits", "1-a", 20, "x", 0.1, 100, 60))
    assert (found["last_checkpoint_step"], found["last_checkpoint_timestamp_seconds"]) == (20, 101)
    assert found['saves_total{result="saved"}'] == 1


def test_failures_that_were_not_told_of_are_counted_too() -> None:
    metrics = Metrics()
    failures = [SaveFailed("digits", 1, "full", number) for number in (1, 2, 4, 8)]
    found = taken(metrics, *failures)
    assert found['saves_total{result="failed"}'] == 8
    assert found["save_failures_in_a_row"] == 8
    found = taken(metrics, saved(3), SaveFailed("digits", 4, "full", 1))
    assert found['saves_total{result="failed"}'] == 9
    assert found["save_failures_in_a_row"] == 1


def test_launches_by_cause() -> None:
    metrics = Metrics()
    began = LaunchBegan("", 1, ("python",))
    assert taken(metrics, began) == {}  # nobody knows the run yet
    found = taken(metrics, Started("digits", "here"))
    assert (found["launches_total"], found["running"]) == (1, 1)
    again = ended("hang", launch=2, lost_steps=3, recovery_seconds=2.0)
    back = Recovered("digits", 2, 21, 2.0)
    over = ended("finished", restarts=False)
    found = taken(metrics, ended("crash"), began, back, again, began, over)
    assert found['restarts_total{cause="crash"}'] == found['restarts_total{cause="hang"}'] == 1
    assert 'restarts_total{cause="finished"}' not in found
    assert (found["launches_total"], found["running"], found["lost_steps_total"]) == (3, 0, 3)
    assert found["recovery_duration_seconds_sum"] == 2.0


def test_launches_that_get_no_further() -> None:
    metrics = Metrics()
    steps = [(12, 0), (12, 1), (11, 2), (20, 0), (5, 1)]
    for step, in_vain in steps:
        found = taken(metrics, ended("crash", step=step, lost_steps=None))
        assert found["launches_without_progress"] == in_vain


def test_restores_and_damage() -> None:
    restored = Restored("digits", 20, Progress(step=20), 0.7)
    found = taken(Metrics(), Rejected("digits", 30, "bad", recorded=True), restored)
    assert found["rejected_checkpoints_total"] == 1
    assert (found["step"], found["restore_duration_seconds_sum"]) == (20, 0.7)


def test_a_mirror_that_lags_and_catches_up() -> None:
    metrics = Metrics()
    found = taken(metrics, UploadFailed("digits", "s3://b", "down", 2, 3), saved(1))
    assert found['mirror_backlog_checkpoints{mirror="s3://b"}'] == 3
    assert found['mirror_failures_in_a_row{mirror="s3://b"}'] == 3
    found = taken(metrics, Uploaded("digits", "s3://b", 3, 0, 4.0))
    assert found['mirror_backlog_checkpoints{mirror="s3://b"}'] == 0
    assert found['mirror_failures_in_a_row{mirror="s3://b"}'] == 0


def test_what_the_script_reports() -> None:
    found = taken(Metrics(), Reported("digits", 3, {"grad_norm": 2.5, "name": "x", "bad": float("nan")}))
    assert {name: value for name, value in found.items() if "reported" in name} == {
        'reported{name="grad_norm"}': 2.5
    }


def test_the_page_of_the_live_trainer() -> None:
    metrics = Metrics()
    metrics.look(Seen(pid=7, step=12, loss=0.5))
    assert values(metrics) == {}
    found = taken(metrics, Started("digits", "here"))
    assert (found["step"], found["loss"]) == (12, 0.5)
    metrics.look(Seen(pid=7, step=13))
    assert "loss" not in values(metrics)


def test_the_disk_below_a_local_repository(tmp_path: Path) -> None:
    launched = Launched("digits", str(tmp_path), "id", "1-a", "1-a", 0, {})
    found = taken(Metrics(), launched)
    assert 0 <= found["repository_free_bytes"] <= found["repository_size_bytes"]
    assert "repository_free_bytes" not in taken(
        Metrics(), Launched("digits", "s3://b", "i", "1-a", "1-a", 0, {})
    )


@pytest.mark.parametrize(
    "record",
    [{}, {"event": "saved"}, {"event": ["x"]}, {"event": "saved", "run": "digits", "seconds": "long"}],
)
def test_a_line_of_another_kind_counts_for_nothing(record: dict[str, Any]) -> None:
    metrics = Metrics()
    taken(metrics, saved(1))
    metrics.take(record)
    assert values(metrics)['saves_total{result="saved"}'] >= 1


def test_names_follow_the_convention() -> None:
    for family in FAMILIES:
        assert family.name.endswith("_total") == (family.kind == "counter"), family
        assert not re.search(r"_(ms|minutes|kb|mb|percent)\b", family.name)
        assert family.kind != "histogram" or family.name.endswith("_seconds")
        assert family.help.endswith(".")
