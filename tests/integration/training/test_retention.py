"""What real runs keep: rules, bounds on the disk, kills in between, and prunes that fail."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.integration.training.launching import Tell, count, launch, run_of, steps_in

import holdfast
from holdfast.repository import commit as commits
from holdfast.repository import layout
from holdfast.repository.retaining import Retention

torch.set_num_threads(1)
Said = pytest.CaptureFixture[str]
SIZE = 125_000  # a checkpoint of one megabyte


def disk_bytes(repository: Path) -> int:
    """As du has it."""
    return sum(p.stat().st_blocks * 512 for p in repository.rglob("*"))


def train(repository: Path, keep: Any, until: int = 8, **options: Any) -> list[int]:
    count(repository, until=until, save="every 1 step", keep=keep, **options)
    return steps_in(repository)


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("last 3", [6, 7, 8]),
        ("last 1", [7, 8]),  # and the one before, in case the newest turns out bad
        ("last 2, every 3 steps", [3, 6, 7, 8]),
        ("all", [1, 2, 3, 4, 5, 6, 7, 8]),
        (holdfast.keep(last=2, every_steps=4), [4, 7, 8]),
    ],
    ids=str,
)
def test_the_last_and_every_so_many_steps(rule: Any, expected: list[int], tmp_path: Path) -> None:
    assert train(tmp_path, rule) == expected


@pytest.mark.parametrize(("mode", "expected"), [("min", [2, 5, 7, 8]), ("max", [1, 4, 7, 8])])
def test_the_best_by_a_metric(mode: str, expected: list[int], tmp_path: Path) -> None:
    values = [9.0, 1.0, 5.0, 8.0, 2.0, 6.0, 4.0, 3.0]
    rule = holdfast.keep(last=2, best=2, monitor="val", mode=mode)
    assert train(tmp_path, rule, each=lambda ckpt, t: ckpt.report(val=values[t])) == expected
    best = holdfast.open(tmp_path)["main"]["best"]
    assert best.metrics["val"] == (1.0 if mode == "min" else 9.0)


def test_the_best_of_earlier_launches_still_count(tmp_path: Path) -> None:
    rule = holdfast.keep(last=1, best=1, monitor="val")
    train(tmp_path, rule, until=3, each=lambda ckpt, t: ckpt.report(val=[5.0, 1.0, 5.0][t]))
    train(tmp_path, rule, until=8, each=lambda ckpt, t: ckpt.report(val=2.0))
    assert steps_in(tmp_path) == [2, 7, 8]


def test_the_tagged_stay(tmp_path: Path) -> None:
    def tag(ckpt: holdfast.Checkpointer, t: int) -> None:
        if t == 2:
            ckpt.save(tag="mine")

    assert train(tmp_path, "last 2", each=tag) == [3, 7, 8]
    run_of(tmp_path).remove_tag("mine")
    assert train(tmp_path, "last 2", until=9) == [8, 9]


def test_every_so_many_epochs(tmp_path: Path) -> None:
    with holdfast.Checkpointer(
        tmp_path, {"a": np.ones(9)}, save="every 1 epoch", keep="last 1, every 2 epochs"
    ) as ckpt:
        for _ in ckpt.epochs(5):
            for _item in ckpt.batches([1, 2]):
                ckpt.step()
    run = run_of(tmp_path)
    assert [run.summary(c).progress.epoch for c in run.checkpoints()] == [2, 4, 5]


def test_thin_ones_keep_the_model_and_free_the_rest(tmp_path: Path) -> None:
    def learn(place: Path, keep: str) -> dict[int, Any]:
        torch.manual_seed(0)
        model = torch.nn.Linear(200, 200)
        state = {"model": model, "optimizer": torch.optim.AdamW(model.parameters())}
        weights = {}
        with holdfast.Checkpointer(place, state, save="every 1 step", keep=keep) as ckpt:
            for t in ckpt.steps(8):
                model(torch.ones(1, 200)).sum().backward()
                state["optimizer"].step()
                state["optimizer"].zero_grad()
                weights[t + 1] = model.weight.detach().clone()
        return weights

    weights = learn(tmp_path / "thin", "last 2, then thin every 2 steps")
    learn(tmp_path / "full", "last 2, every 2 steps")
    run = holdfast.open(tmp_path / "thin")["main"]
    assert {c.step: c.kind for c in run} == {2: "thin", 4: "thin", 6: "thin", 7: "full", 8: "full"}
    assert disk_bytes(tmp_path / "thin") < 0.7 * disk_bytes(tmp_path / "full")
    for c in run:
        c.verify()
        state = {"model": torch.nn.Linear(200, 200)}
        c.load(into=state, only="model")
        assert torch.equal(state["model"].weight, weights[c.step])
        with pytest.raises(holdfast.MismatchError):
            holdfast.load(tmp_path / "thin", {"model": state["model"], "other": 1}, at=c.step)
    with pytest.raises(holdfast.UsageError, match="is thin"):
        holdfast.Checkpointer(tmp_path / "thin", {"model": 1}, resume=4).__enter__()


# -- the disk is bounded -------------------------------------------------------------------


def test_the_disk_holds_at_most_two_checkpoints_more_than_asked_for(tmp_path: Path) -> None:
    seen: list[int] = []
    count(
        tmp_path,
        until=12,
        size=SIZE,
        save="every 1 step",
        keep="last 3",
        each=lambda *_: seen.append(disk_bytes(tmp_path)),
    )
    one = SIZE * 8
    assert max(seen) <= (3 + 2) * one
    assert disk_bytes(tmp_path) <= (3 + 0.2) * one


def test_the_disk_is_bounded_also_when_save_after_save_is_killed(tmp_path: Path) -> None:
    def killed_before_publication(_: Tell) -> None:
        # by a signal from within, so that the packs lie there whole
        commits._publish = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        count(tmp_path, until=20, size=SIZE, save="every 1 step", keep="last 1")

    count(tmp_path, until=3, size=SIZE, save="every 1 step", keep="last 1")
    one, seen = SIZE * 8, []
    for _ in range(6):
        process = launch(killed_before_publication)
        assert process.wait() == -signal.SIGKILL
        seen.append(disk_bytes(tmp_path))
    assert max(seen) > 2.9 * one, "nothing was left behind, so this proves nothing"
    assert max(seen) <= (1 + 2) * one * 1.1
    count(tmp_path, until=4, size=SIZE, save="every 1 step", keep="last 1")
    assert disk_bytes(tmp_path) <= 2.3 * one
    assert count(tmp_path, until=5, size=SIZE)["log"] == [0, 1, 2, 3, 4]


def test_the_disk_is_bounded_also_when_it_is_killed_before_each_removal(tmp_path: Path) -> None:
    def killed_before_removal(_: Tell) -> None:
        Retention.after = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[method-assign]
        count(tmp_path, until=20, size=SIZE, save="every 1 step", keep="last 2")

    for made in range(1, 7):
        process = launch(killed_before_removal)
        assert process.wait() == -signal.SIGKILL
        assert steps_in(tmp_path) == list(range(max(made - 2, 1), made + 1))
    assert disk_bytes(tmp_path) <= 3.3 * SIZE * 8
    assert count(tmp_path, until=8, size=SIZE)["log"] == list(range(8))


def test_killed_at_random_moments_the_disk_stays_bounded_and_the_training_exact(tmp_path: Path) -> None:
    def train(tell: Tell) -> None:
        def each(ckpt: holdfast.Checkpointer, t: int) -> None:
            tell(str(t))

        count(tmp_path, until=40, size=SIZE, save="every 1 step", keep="last 2", each=each)

    chance, one, seen = random.Random(7), SIZE * 8, []
    for _ in range(12):
        process = launch(train)
        process.heard()
        time.sleep(chance.uniform(0, 0.05))
        process.signal(signal.SIGKILL)
        process.wait()
        seen.append(disk_bytes(tmp_path))
    assert max(seen) <= (2 + 2) * one * 1.1
    state = count(tmp_path, until=40, size=SIZE, save="every 1 step", keep="last 2")
    assert state["log"] == list(range(40))
    assert np.array_equal(state["weights"], np.arange(SIZE) * float(sum(range(40))))
    assert disk_bytes(tmp_path) <= 2.4 * one


def test_what_is_the_same_is_kept_once(tmp_path: Path) -> None:
    frozen = np.arange(SIZE)
    with holdfast.Checkpointer(tmp_path, {"frozen": frozen, "n": 0}, save="every 1 step", keep="all") as ckpt:
        list(ckpt.steps(6))
    assert len(steps_in(tmp_path)) == 6
    assert disk_bytes(tmp_path / "packs") < 1.2 * frozen.nbytes


# -- removal that fails, or is not its own -------------------------------------------------


def test_a_prune_that_fails_never_fails_a_save_and_is_said_rarely(tmp_path: Path, capsys: Said) -> None:
    def damage(ckpt: holdfast.Checkpointer, t: int) -> None:
        if t == 3:  # nobody knows what this tag protects
            run = run_of(tmp_path)
            run.storage.put(run.layout.tag("mine"), [b"nonsense"])
        if t == 10:
            (tmp_path / run_of(tmp_path).layout.tag("mine")).unlink()

    assert train(tmp_path, "last 2", until=10, each=damage) == [2, 3, *range(4, 11)]
    said = capsys.readouterr().err
    assert "old checkpoints were not removed" in said
    assert said.count("old checkpoints were not removed") <= 4
    assert train(tmp_path, "last 2", until=13, each=damage) == [12, 13]


def test_one_that_cannot_be_thinned_keeps_the_others_from_nothing(tmp_path: Path, capsys: Said) -> None:
    model = torch.nn.Linear(100, 100)
    with holdfast.Checkpointer(
        tmp_path, {"model": model}, save="every 1 step", keep="last 2, then thin every 2 steps"
    ) as ckpt:
        for t in ckpt.steps(8):
            with torch.no_grad():
                model.weight += 1
            if t == 2:
                run = run_of(tmp_path)
                first, second = run.checkpoints()
                (pack,) = set(run.hints(second)) - set(run.hints(first))
                path = tmp_path / layout.pack(pack)
                data = bytearray(path.read_bytes())
                data[5000] ^= 1
                path.write_bytes(data)
    kinds = {c.step: c.kind for c in run_of(tmp_path).checkpoints()}
    assert kinds == {2: "full", 4: "thin", 6: "thin", 7: "full", 8: "full"}
    assert "main@2 could not be thinned" in capsys.readouterr().err


def test_dead_branches_go_first(tmp_path: Path) -> None:
    train(tmp_path, "last 5", until=5)
    count(tmp_path, until=4, resume=2, save="every 1 step", keep="last 3")
    run = run_of(tmp_path)
    assert [(c.attempt.number, c.step) for c in run.checkpoints()] == [(1, 2), (2, 3), (2, 4)]
