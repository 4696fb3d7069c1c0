"""The end of an epoch is a safe point, whatever is left of the gradients of its last step."""

from __future__ import annotations

import random

import pytest
import torch

import holdfast

LOSSES = [0.5, 0.2, 0.4, 0.3]


def train(place, *, zero_first: bool, group: int = 1, tail: bool = False) -> list[tuple[int, float | None]]:
    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    state = {"model": model, "optimizer": optimizer}
    keep = holdfast.keep(last=1, best=1, monitor="val_loss")
    with holdfast.Checkpointer(place, state, save=None, keep=keep, signals=False) as ckpt:
        for epoch in ckpt.epochs(len(LOSSES)):
            for number, x in enumerate(ckpt.batches(torch.ones(5, 3, 2))):
                if zero_first and number % group == 0:
                    optimizer.zero_grad()
                model(x).sum().backward()
                if number % group == group - 1:
                    optimizer.step()
                    if not zero_first:
                        optimizer.zero_grad()
                ckpt.step()
            if tail:
                optimizer.step()
            ckpt.report(val_loss=LOSSES[epoch])
    return [(c.step, c.metrics.get("val_loss")) for c in holdfast.open(place)["main"]]


@pytest.mark.parametrize("zero_first", [True, False])
def test_the_best_epoch_is_saved_as_it_was_measured(zero_first, tmp_path):
    assert train(tmp_path, zero_first=zero_first) == [(10, 0.2), (20, 0.3)]


@pytest.mark.parametrize("zero_first", [True, False])
def test_a_group_left_over_at_the_epochs_tail_counts_once_stepped(zero_first, tmp_path):
    assert train(tmp_path, zero_first=zero_first, group=2, tail=True) == [(10, 0.2), (20, 0.3)]


class Augmented(torch.utils.data.Dataset):
    """Draws from a generator of its own, for training and evaluation alike."""

    def __init__(self) -> None:
        self.generator = random.Random(3)

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> float:
        return index + self.generator.random()


@pytest.mark.parametrize("own_loop", [False, True])
@pytest.mark.parametrize("stop", [1, 2])
def test_what_an_evaluation_draws_from_the_datasets_generator_is_kept(stop, own_loop, tmp_path):
    def launch(place, epochs):
        torch.manual_seed(0)
        train, valid = torch.utils.data.random_split(Augmented(), [4, 2])
        loader, seen = torch.utils.data.DataLoader(train, 2, shuffle=True), []
        with holdfast.Checkpointer(place, {}, save=None, signals=False) as ckpt:
            turns = range(ckpt.progress.epoch, epochs) if own_loop else ckpt.epochs(epochs)
            for _ in turns:
                for batch in ckpt.batches(loader):
                    seen.append(batch.tolist())
                    ckpt.step()
                seen.append([valid[i] for i in range(2)])
        return seen

    whole = launch(tmp_path / "whole", 3)
    assert launch(tmp_path / "cut", stop) + launch(tmp_path / "cut", 3) == whole
