"""Signals to a Paddle trainer whose DataLoader has workers."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
from paddle.io import DataLoader, Dataset
from tests import killing
from tests.integration.training.launching import Tell, ends_in, is_alive, launch, steps_in, wait_until

import holdfast

pytestmark = pytest.mark.paddle


class Watched(Dataset):  # type: ignore[misc]  # Paddle has no types
    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> Any:
        return np.full(4, index, np.float32) + np.float32(np.random.rand()), index, os.getpid()


def train(repository: Path, tell: Tell | None, save: str | None = None, hold_at: int | None = None) -> None:
    paddle.seed(0)
    np.random.seed(0)
    model = paddle.nn.Sequential(paddle.nn.Linear(4, 8), paddle.nn.Dropout(0.5), paddle.nn.Linear(8, 1))
    optimizer = paddle.optimizer.AdamW(1e-2, parameters=model.parameters())
    state: dict[str, Any] = {"model": model, "optimizer": optimizer, "seen": []}
    known: set[int] = set()
    with holdfast.Checkpointer(repository, state, save=save) as ckpt:
        for _ in ckpt.epochs(2):
            loader = DataLoader(Watched(), batch_size=2, shuffle=True, num_workers=2)
            for number, (samples, labels, workers) in enumerate(ckpt.batches(loader)):
                loss = model(samples).square().mean()
                loss.backward()
                optimizer.step()
                optimizer.clear_grad()
                state["seen"].append(labels.tolist())
                ckpt.step(loss=loss)
                for pid in set(workers.tolist()) - known:
                    known.add(pid)
                    if tell is not None:
                        tell(f"worker {pid}")
                if tell is not None:
                    tell(f"batch {number}")
                if number == hold_at:
                    wait_until(lambda: ckpt._entered._triggers.leaving is not None, 3.0)


def heard_workers(process: Any, until: str) -> list[int]:
    workers = []
    while (line := process.heard()) != until:
        assert line, process.said
        if line.startswith("worker"):
            workers.append(int(line.split()[1]))
    return workers


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    repository = tmp_path_factory.mktemp("whole")
    assert killing.run(functools.partial(train, tell=None), repository) == 0
    return killing.left_behind(repository)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda n: n.name)
def test_a_signal_to_the_whole_group_saves_leaves_and_orphans_nobody(
    number: signal.Signals, tmp_path: Path, whole: dict[str, Any]
) -> None:
    process = launch(functools.partial(train, tmp_path, hold_at=3), own_group=True)
    workers = heard_workers(process, "batch 3")
    process.signal_group(number)
    assert process.wait() == (143 if number == signal.SIGTERM else 130), process.said
    assert wait_until(lambda: not any(is_alive(pid) for pid in workers))
    assert len(steps_in(tmp_path)) == 1, process.said
    assert killing.run(functools.partial(train, tell=None), tmp_path) == 0
    assert killing.left_behind(tmp_path) == whole


def test_a_signal_to_the_trainer_alone_ends_its_workers_too(tmp_path: Path, whole: dict[str, Any]) -> None:
    process = launch(functools.partial(train, tmp_path, hold_at=3), own_group=True)
    workers = heard_workers(process, "batch 3")
    process.signal(signal.SIGTERM)
    assert process.wait() == 143, process.said
    assert wait_until(lambda: not any(is_alive(pid) for pid in workers))
    assert len(steps_in(tmp_path)) == 1
    assert killing.run(functools.partial(train, tell=None), tmp_path) == 0
    assert killing.left_behind(tmp_path) == whole


def test_a_killed_trainer_is_followed_at_once_though_its_workers_may_live_on(
    tmp_path: Path, whole: dict[str, Any]
) -> None:
    process = launch(functools.partial(train, tmp_path, save="every 1 step", hold_at=1))
    orphans = heard_workers(process, "batch 1")
    process.signal(signal.SIGKILL)
    process.wait()
    try:
        assert killing.run(functools.partial(train, tell=None), tmp_path) == 0
        assert killing.left_behind(tmp_path) == whole
    finally:
        for pid in orphans:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def test_workers_that_die_shortly_before_the_trainer_is_told_cost_no_save(tmp_path: Path) -> None:
    process = launch(functools.partial(train, tmp_path, hold_at=1), own_group=True)
    for pid in heard_workers(process, "batch 1"):
        os.kill(pid, signal.SIGKILL)
    time.sleep(0.05)
    process.signal(signal.SIGTERM)
    assert process.wait() == 143, process.said
    assert len(steps_in(tmp_path)) == 1, process.said
    assert ends_in(tmp_path)[0].cause == "SIGTERM"


def test_workers_that_die_of_themselves_are_an_error_as_ever(tmp_path: Path) -> None:
    process = launch(functools.partial(train, tmp_path, hold_at=1), own_group=True)
    for pid in heard_workers(process, "batch 1"):
        os.kill(pid, signal.SIGKILL)
    assert process.wait() == 1
    assert "Error" in ends_in(tmp_path)[0].cause
