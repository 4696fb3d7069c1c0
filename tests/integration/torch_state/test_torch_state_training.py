"""A whole training state with everything that draws random numbers: cut anywhere, the rest is equal."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from holdfast.frameworks.rng import capture_rng, restore_rng

STEPS = 8


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.3)
        self.rnn = nn.LSTM(16, 8, batch_first=True)
        self.attention = nn.MultiheadAttention(8, 2, dropout=0.1, batch_first=True)
        self.out = nn.utils.parametrizations.weight_norm(nn.Linear(8, 3))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        hidden = self.drop(self.norm(self.conv(image)).relu()).flatten(2)
        hidden, _ = self.rnn(hidden)
        hidden, _ = self.attention(hidden, hidden, hidden)
        return self.out(hidden.mean(1))


class Training:
    def __init__(self) -> None:
        torch.manual_seed(11)
        model = Net().to(memory_format=torch.channels_last)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        self.generator = torch.Generator().manual_seed(4)
        self.state: dict[str, Any] = {
            "scheduler": torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=STEPS + 1),
            "model": model,
            "average": AveragedModel(model),
            "optimizer": optimizer,
            "generator": self.generator,
            "losses": [],
        }

    def run(self, first: int, last: int) -> None:
        model, optimizer = self.state["model"], self.state["optimizer"]
        for step in range(first, last):
            if step == 3:
                model.conv.requires_grad_(False)
            image = torch.randn(5, 1, 6, 6, generator=self.generator)
            loss = model(image + 0.1 * torch.randn_like(image)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            self.state["scheduler"].step()
            self.state["average"].update_parameters(model)
            self.state["losses"].append(loss.item())


@pytest.mark.parametrize("cut", [0, 1, 4, STEPS - 1])
def test_the_rest_of_a_run_is_equal(cut, save, differences):
    whole = Training()
    whole.run(0, cut)
    saved, rng = save(whole.state), capture_rng()
    whole.run(cut, STEPS)

    again = Training()
    torch.rand(17)
    saved.into(again.state)
    restore_rng(rng)
    again.run(cut, STEPS)
    assert again.state["losses"] == whole.state["losses"]
    for name in ("model", "average", "optimizer"):
        states = whole.state[name].state_dict(), again.state[name].state_dict()
        assert differences(*states) == [], name
    strides = [p.stride() for p in again.state["model"].parameters()]
    assert strides == [p.stride() for p in whole.state["model"].parameters()]
    moments = (
        t.state[t.param_groups[0]["params"][0]]["exp_avg"]
        for t in (whole.state["optimizer"], again.state["optimizer"])
    )
    assert len({moment.stride() for moment in moments}) == 1
