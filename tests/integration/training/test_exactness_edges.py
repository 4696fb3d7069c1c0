"""Corners of loops where a resume was inexact, or nothing was saved."""

from __future__ import annotations

import contextlib
import io
import itertools
import random
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from tests import killing
from tests.integration.training.loop_styles import SAVE, evaluate, learn, loader, loss_of, parts
from torch import nn
from torch.utils.data import DataLoader

import holdfast
from holdfast.errors import UsageError

torch.set_num_threads(1)
Script = killing.Script


def iterator_by_hand(repository: Path) -> None:
    """The last turn of an epoch is left open by the reference that is held."""
    state = parts()
    with holdfast.Checkpointer(repository, state, save=SAVE) as ckpt:
        for _ in range(ckpt.progress.epoch, 3):
            batches = iter(ckpt.batches(loader()))
            for _ in range(ckpt.progress.batch, 2):
                ckpt.step(loss=learn(state, next(batches)))


def iterator_by_hand_in_epochs(repository: Path) -> None:
    state = parts()
    with holdfast.Checkpointer(repository, state, save=SAVE) as ckpt:
        for _ in ckpt.epochs(3):
            batches = iter(ckpt.batches(loader()))
            for _ in range(ckpt.progress.batch, 2):
                ckpt.step(loss=learn(state, next(batches)))


def draws_before_epochs(repository: Path) -> None:
    """What the script draws before its loops, it draws at every launch."""
    state = parts()
    with holdfast.Checkpointer(repository, state, save="every 1 epochs") as ckpt:
        random.random()
        torch.manual_seed(7)
        for _ in ckpt.epochs(3):
            for batch in ckpt.batches(loader()):
                ckpt.step(loss=learn(state, batch))


def draws_between_phases(repository: Path) -> None:
    state = parts()
    with holdfast.Checkpointer(repository, state, save="every 1 epochs") as ckpt:
        for phase in (1, 3):
            for _ in ckpt.epochs(phase):
                for batch in ckpt.batches(loader()):
                    ckpt.step(loss=learn(state, batch))
            random.random()
            torch.rand(3)


def draws_before_steps(repository: Path) -> None:
    state = parts()
    with holdfast.Checkpointer(repository, state, save="every 2 steps") as ckpt:
        torch.rand(3)
        for _ in ckpt.steps(3):
            learn(state, (torch.rand(3, 4), torch.tensor([0])))
        torch.rand(2)
        for _ in ckpt.steps(6):
            learn(state, (torch.rand(3, 4), torch.tensor([0])))


def evaluation_with_batches(repository: Path) -> None:
    state = parts()
    keep = holdfast.keep(last=9, best=2, monitor="val_loss")
    with holdfast.Checkpointer(repository, state, save=None, keep=keep) as ckpt:
        for _ in ckpt.epochs(3):
            for batch in ckpt.batches(loader()):
                ckpt.step(loss=learn(state, batch))
            with torch.no_grad():
                value = sum(loss_of(state["model"], b).item() for b in ckpt.batches(loader()))
            ckpt.report(val_loss=value)


def evaluation_with_batches_in_own_epochs(repository: Path) -> None:
    state = parts()
    with holdfast.Checkpointer(repository, state, save=SAVE) as ckpt:
        for _ in range(ckpt.progress.epoch, 3):
            for batch in ckpt.batches(loader()):
                ckpt.step(loss=learn(state, batch))
            with torch.no_grad():
                for batch in ckpt.batches(loader()):
                    loss_of(state["model"], batch)


def partial_accumulation(repository: Path) -> None:
    """One optimizer steps at every batch, the other gathers gradients over two."""
    state = parts()
    critic = nn.Linear(4, 1)
    state |= {"critic": critic, "critic_optimizer": torch.optim.SGD(critic.parameters(), lr=0.1)}
    with holdfast.Checkpointer(repository, state, save=SAVE) as ckpt:
        for _ in ckpt.epochs(2):
            for batch in ckpt.batches(loader()):
                loss = learn(state, batch)
                critic(batch[0]).square().mean().backward()
                if ckpt.step(loss=loss) % 2 == 0:
                    state["critic_optimizer"].step()
                    state["critic_optimizer"].zero_grad()


def chained(repository: Path) -> None:
    """Both are made before the first is iterated."""
    state = parts()
    with holdfast.Checkpointer(repository, state, save=SAVE) as ckpt:
        for _ in ckpt.epochs(2):
            for batch in itertools.chain(ckpt.batches(loader()), ckpt.batches(loader(drop_last=True))):
                ckpt.step(loss=learn(state, batch))


def progress_at_every_line(repository: Path) -> None:
    state = parts()
    with holdfast.Checkpointer(repository, state, save=SAVE) as ckpt:
        for _ in ckpt.epochs(3):
            for batch in ckpt.batches(loader()):
                state["seen"].append(list(_progress(ckpt)))
                loss = learn(state, batch)
                ckpt.step(loss=loss)
                state["seen"].append(list(_progress(ckpt)))
            state["seen"].append(list(_progress(ckpt)))


def _progress(ckpt: holdfast.Checkpointer) -> tuple[int, int, int, int]:
    now = ckpt.progress
    return now.step, now.epoch, now.batch, now.samples


STYLES = [
    iterator_by_hand,
    iterator_by_hand_in_epochs,
    draws_before_epochs,
    draws_between_phases,
    draws_before_steps,
    evaluation_with_batches,
    evaluation_with_batches_in_own_epochs,
    partial_accumulation,
    chained,
    progress_at_every_line,
]


@pytest.fixture(scope="module", autouse=True)
def warm(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Import here, once, what every forked child would import anew."""
    draws_before_epochs(tmp_path_factory.mktemp("warm"))


@pytest.mark.timeout(120)
@pytest.mark.parametrize("style", STYLES, ids=lambda s: s.__name__)
def test_killed_it_ends_as_if_nothing_had_happened(style: Script, tmp_path: Path) -> None:
    lines = killing.lines_of(style, tmp_path / "whole")
    expected = killing.left_behind(tmp_path / "whole")
    for point in range(lines * 2 // 5, lines, lines // 4):
        repository = tmp_path / str(point)
        killing.run(style, repository, signal_at=point)
        assert killing.run(style, repository) == 0
        assert killing.left_behind(repository) == expected, f"killed at line {point} of {lines}"


def _saved_steps(repository: Path) -> list[int]:
    run = holdfast.open(repository)["main"]
    return [checkpoint.step for checkpoint in run]


def test_batches_made_once_are_a_pass_each_time_they_are_iterated(tmp_path: Path) -> None:
    state = parts()
    with holdfast.Checkpointer(tmp_path, state) as ckpt:
        batches = ckpt.batches(loader())
        for epoch in ckpt.epochs(3):
            for batch in batches:
                ckpt.step(loss=learn(state, batch))
            assert ckpt.progress.step == 4 * (epoch + 1)
            assert ckpt.progress.samples == 11 * (epoch + 1)


def test_asking_for_the_length_begins_no_pass(tmp_path: Path) -> None:
    state = parts()
    with holdfast.Checkpointer(tmp_path, state) as ckpt:
        before = torch.get_rng_state()
        assert len(ckpt.batches(loader())) == 4
        assert torch.equal(torch.get_rng_state(), before)


def zipped(repository: Path) -> None:
    with holdfast.Checkpointer(repository, parts(), signals=False) as ckpt:
        for _ in ckpt.epochs(2):
            for _ in zip(ckpt.batches(loader()), ckpt.batches(loader()), strict=True):
                ckpt.step()


def next_within_steps(repository: Path) -> None:
    with holdfast.Checkpointer(repository, parts(), signals=False) as ckpt:
        batches = iter(ckpt.batches(loader()))
        for _ in ckpt.steps(3):
            next(batches)


@pytest.mark.parametrize("script", [zipped, next_within_steps])
def test_a_pass_begun_within_anothers_turn_is_refused(script: Script, tmp_path: Path) -> None:
    """Nothing would be settled until both are over, and where the second stands would be lost."""
    with pytest.raises(UsageError, match=r"without zip.*epochs"):
        script(tmp_path)


def test_an_optimizer_put_into_the_state_later_is_watched(tmp_path: Path) -> None:
    state = parts()
    with holdfast.Checkpointer(tmp_path, state, save=SAVE, keep="last 9") as ckpt:
        state["optimizer"] = torch.optim.SGD(state["model"].parameters(), lr=0.1)
        for _ in ckpt.epochs(1):
            for batch in ckpt.batches(loader()):
                ckpt.step(loss=learn(state, batch))
    assert _saved_steps(tmp_path) == [2, 3, 4]  # the first turn tells of it


def test_an_evaluation_with_batches_hinders_no_save_at_the_epochs_end(tmp_path: Path) -> None:
    evaluation_with_batches(tmp_path)
    assert _saved_steps(tmp_path) == [4, 8, 12]


def test_an_optimizer_that_never_steps_is_not_waited_for_for_ever(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = parts()
    frozen = nn.Linear(4, 4)
    state |= {"frozen": frozen, "frozen_optimizer": torch.optim.SGD(frozen.parameters(), lr=0.1)}
    with holdfast.Checkpointer(tmp_path, state, save=SAVE) as ckpt:
        for _ in ckpt.epochs(18):
            for batch in ckpt.batches(loader()):
                ckpt.step(loss=learn(state, (frozen(batch[0]), batch[1])))
            if ckpt.progress.step == 40:
                assert _saved_steps(tmp_path) == []
    assert _saved_steps(tmp_path)[-1] == 72
    assert capsys.readouterr().err.count("holds gradients") == 1


def _train(state: dict[str, Any], repository: Path, steps: int) -> holdfast.Checkpointer:
    with holdfast.Checkpointer(repository, state, save=None) as ckpt:
        for _ in ckpt.epochs(steps=steps):
            for batch in ckpt.batches(loader()):
                ckpt.step(loss=learn(state, batch))
            state["scheduler"].step()
            state["seen"].append(evaluate(state["model"]))
    return ckpt


def test_a_run_extended_at_an_epochs_end_is_as_if_it_had_been_longer(tmp_path: Path) -> None:
    """The code that follows the batches has run, and does not run again."""
    whole, cut = parts(), parts()
    _train(whole, tmp_path / "whole", 12)
    cut = parts()
    _train(cut, tmp_path / "cut", 8)
    cut = parts()
    longer = _train(cut, tmp_path / "cut", 12)
    assert longer.progress == holdfast.open(tmp_path / "whole")["main"].latest.summary.progress
    assert killing.left_behind(tmp_path / "cut") == killing.left_behind(tmp_path / "whole")


def test_samples_count_once_where_a_run_was_cut_short_and_extended(tmp_path: Path) -> None:
    _train(parts(), tmp_path, 6)
    assert _train(parts(), tmp_path, 8).progress.samples == 22


def test_two_loaders_cut_short_in_the_first_one(tmp_path: Path) -> None:
    """The second one begins where the first one ended, not where the run was cut."""

    def train(repository: Path, steps: int) -> None:
        state = parts()
        with holdfast.Checkpointer(repository, state, save=None) as ckpt:
            for _ in ckpt.epochs(steps=steps):
                for _ in range(2):
                    for batch in ckpt.batches(loader()):
                        ckpt.step(loss=learn(state, batch))

    train(tmp_path / "whole", 8)
    train(tmp_path / "cut", 2)
    train(tmp_path / "cut", 8)
    assert killing.left_behind(tmp_path / "cut") == killing.left_behind(tmp_path / "whole")


def test_a_stopped_run_of_two_phases_stays_stopped(tmp_path: Path) -> None:
    def train() -> list[int]:
        state, turns = parts(), []
        with holdfast.Checkpointer(tmp_path, state) as ckpt:
            for phase in (1, 3):
                for epoch in ckpt.epochs(phase):
                    for batch in ckpt.batches(loader()):
                        ckpt.step(loss=learn(state, batch))
                    turns.append(epoch)
                    if epoch == 1:
                        ckpt.stop("bored")
        return turns

    assert train() == [0, 1]
    assert train() == []


def test_a_nested_loader_with_a_generator_of_its_own_is_told_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for own in (False, True):
        options = {"generator": torch.Generator().manual_seed(3)} if own else {}
        inner: DataLoader[Any] = loader(**options)
        with holdfast.Checkpointer(tmp_path / str(own), parts()) as ckpt:
            for _ in ckpt.batches([1.0, 2.0]):
                for _ in ckpt.batches(inner):
                    pass
                ckpt.step()
        assert capsys.readouterr().err.count("generator or state of its own") == own


def test_saving_to_a_run_that_was_not_loaded_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def save(step: int, *, loads: bool) -> None:
        state = {"n": step}
        if loads:
            holdfast.load(tmp_path, state)
        holdfast.save(tmp_path, state, step=step)

    for step, loads in ((1, False), (2, False), (3, True)):
        assert killing.in_child(partial(_told, save, step, tmp_path, loads=loads)) == 0
    told = [(tmp_path / f"{step}.txt").read_text().count("new line") for step in (1, 2, 3)]
    assert told == [0, 1, 0]
    assert [c.step for c in holdfast.open(tmp_path)["main"]]
    assert capsys.readouterr().err == ""


def _told(save: Any, step: int, folder: Path, *, loads: bool) -> None:
    with contextlib.redirect_stderr(io.StringIO()) as said:
        save(step, loads=loads)
    (folder / f"{step}.txt").write_text(said.getvalue())
