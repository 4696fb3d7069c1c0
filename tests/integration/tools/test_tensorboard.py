"""Event files over kills, restores and fresh starts, as TensorBoard itself reads them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import holdfast
from holdfast.errors import UsageError
from holdfast.integrations.tensorboard import EventLog


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    read = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    read.Reload()
    found = {tag: [(e.step, e.value) for e in read.Scalars(tag)] for tag in read.Tags()["scalars"]}
    return {tag: events for tag, events in found.items() if events}


def value_of(step: int) -> float:
    return float(step * step % 101)


def train(place: Path, logs: Path, until: int, *, die_at: int | None = None) -> None:
    """Scalars of each step, and after every third one more of the same step, after its save."""
    log = EventLog(logs)
    state: dict[str, Any] = {"events": log, "n": 0}
    with holdfast.Checkpointer(place, state, save="every 3 steps", background=False) as ckpt:
        for t in ckpt.steps(until):
            if t and t % 3 == 0:
                log.add_scalar("after", value_of(t), t)  # of a step that was saved before this
            if t == die_at:
                log.flush()
                os.kill(os.getpid(), signal.SIGKILL)
            n = ckpt.step()
            log.add_scalar("loss", value_of(n), n)
    log.close()


def expected(until: int) -> dict[str, list[tuple[int, float]]]:
    return {
        "loss": [(n, value_of(n)) for n in range(1, until + 1)],
        "after": [(t, value_of(t)) for t in range(3, until, 3)],
    }


def killed(place: Path, logs: Path, die_at: int) -> None:
    script = (
        "from pathlib import Path; from tests.integration.tools.test_tensorboard import train;"
        f"train(Path({str(place)!r}), Path({str(logs)!r}), 100, die_at={die_at})"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, check=False)
    assert done.returncode == -signal.SIGKILL


@pytest.mark.parametrize("deaths", [[5], [3, 4, 8], [9, 9, 11], [1]])
def test_no_step_is_twice_and_none_is_missing_after_kills(tmp_path: Path, deaths: list[int]) -> None:
    for death in deaths:
        killed(tmp_path / "here", tmp_path / "logs", death)
    train(tmp_path / "here", tmp_path / "logs", 14)
    assert scalars(tmp_path / "logs") == expected(14)


def test_what_a_checkpoint_has_counted_is_on_disk_though_nothing_was_flushed(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "logs")
    log.add_scalar("loss", 1.0, 1)
    log.state_dict()
    (file,) = (tmp_path / "logs").iterdir()
    assert scalars(tmp_path / "logs") == {"loss": [(1, 1.0)]}
    log.add_scalar("loss", 2.0, 2)
    assert file.stat().st_size < 10_000


def test_a_rollback_in_the_same_process_forgets_what_came_after(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "logs")
    state: dict[str, Any] = {"events": log}
    for n in range(1, 4):
        log.add_scalar("loss", n, n)
    holdfast.save(tmp_path / "here", state, step=3)
    log.add_scalar("late", 3.0, 3)
    log.add_scalar("loss", -1.0, 4)
    holdfast.load(tmp_path / "here", state)
    log.add_scalar("loss", 4, 4)
    log.close()
    assert scalars(tmp_path / "logs") == {"loss": [(n, float(n)) for n in range(1, 5)]}


def test_events_before_the_restore_do_not_hide_those_of_the_run(tmp_path: Path) -> None:
    train(tmp_path / "here", tmp_path / "logs", 6)
    log = EventLog(tmp_path / "logs")
    log.add_scalar("loss", -1.0, 0)
    with holdfast.Checkpointer(tmp_path / "here", {"events": log, "n": 0}, background=False):
        pass
    log.close()
    assert scalars(tmp_path / "logs") == expected(6)


def test_a_fresh_start_in_the_same_folder_begins_anew(tmp_path: Path) -> None:
    train(tmp_path / "here", tmp_path / "logs", 6)
    train(tmp_path / "other", tmp_path / "logs", 4)
    assert scalars(tmp_path / "logs") == expected(4)


def test_torchs_summary_writer_writes_there(tmp_path: Path) -> None:
    import torch

    log = EventLog(tmp_path / "logs")
    writer = log.summary_writer()
    for n in (1, 2, 3):
        writer.add_scalar("loss", n, n)
        writer.add_histogram("weights", torch.arange(5.0), n)
    writer.add_text("note", "hello", 3)
    saved = log.state_dict()
    writer.add_scalar("loss", -1, 4)
    again = EventLog(tmp_path / "logs")
    again.load_state_dict(saved)
    writer = again.summary_writer()
    writer.add_scalar("loss", 4, 4)
    writer.close()
    read = EventAccumulator(str(tmp_path / "logs"), size_guidance={"histograms": 0})
    read.Reload()
    assert [e.step for e in read.Scalars("loss")] == [1, 2, 3, 4]
    assert [e.step for e in read.Histograms("weights")] == [1, 2, 3]


def test_files_of_one_second_are_read_in_the_order_in_which_they_were_made(tmp_path: Path) -> None:
    saved: dict[str, Any] = {"step": None, "events": [], "file": None}
    for n in range(1, 12):
        log = EventLog(tmp_path / "logs")
        log.load_state_dict(saved)
        log.add_scalar("loss", n, n)
        saved = log.state_dict()
        log.add_scalar("loss", -1, n + 1)
        log.close()
    log.load_state_dict(saved)
    assert scalars(tmp_path / "logs") == {"loss": [(n, float(n)) for n in range(1, 12)]}


def test_without_tensorboard_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard.compat.proto.event_pb2", None)
    with pytest.raises(UsageError, match="pip install tensorboard"):
        EventLog("unused")


def test_a_folder_that_cannot_be_says_so(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("a file")
    log = EventLog(tmp_path / "logs")
    with pytest.raises(holdfast.errors.StorageError, match="logs"):
        log.add_scalar("loss", 1.0, 1)
