"""Optimizers: the steps after a restore equal those of a run never interrupted, bit for bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from holdfast.errors import MismatchError
from holdfast.frameworks import walk
from holdfast.frameworks.torch import FRAMEWORK

OPTIMIZERS: dict[str, Any] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    "momentum-fused": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, fused=True),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "adam-amsgrad": lambda p: torch.optim.Adam(p, lr=0.01, amsgrad=True),
    "adam-fused": lambda p: torch.optim.Adam(p, lr=0.01, fused=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01),
    "adamw-foreach": lambda p: torch.optim.AdamW(p, lr=0.01, foreach=True, amsgrad=True),
    "adamw-fused-tensor-lr": lambda p: torch.optim.AdamW(p, lr=torch.tensor(0.01), fused=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.5, centered=True),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.1, initial_accumulator_value=0.1),
    "adadelta": torch.optim.Adadelta,
    "adamax": torch.optim.Adamax,
    "nadam": lambda p: torch.optim.NAdam(p, lr=0.01),
    "radam": lambda p: torch.optim.RAdam(p, lr=0.01),
    "rprop": torch.optim.Rprop,
    "asgd": lambda p: torch.optim.ASGD(p, lr=0.1, t0=2),
    "adafactor": torch.optim.Adafactor,
    "lbfgs": lambda p: torch.optim.LBFGS(p, lr=0.1, max_iter=3, history_size=4),
    "lbfgs-wolfe": lambda p: torch.optim.LBFGS(p, max_iter=3, line_search_fn="strong_wolfe"),
    "muon": lambda p: torch.optim.Muon([q for q in p if q.dim() == 2], lr=0.01),
}


def _model(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).to(dtype)


def _train(model: nn.Module, optimizer: torch.optim.Optimizer, first: int, last: int) -> None:
    for step in range(first, last):
        data = torch.randn(4, 6, generator=torch.Generator().manual_seed(step))
        data = data.to(next(model.parameters()).dtype)

        def closure(data: torch.Tensor = data) -> torch.Tensor:
            optimizer.zero_grad()
            loss = model(data).square().mean()
            loss.backward()
            return loss

        optimizer.step(closure)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_steps_after_restore_are_exact(name, dtype, save, differences):
    if dtype is torch.bfloat16 and name.startswith(("lbfgs", "momentum-fused")):
        dtype = torch.float64  # fused SGD on bfloat16 differs from run to run without any restore
    model = _model(dtype)
    optimizer = OPTIMIZERS[name](list(model.parameters()))
    _train(model, optimizer, 0, 4)
    saved = save({"optimizer": optimizer, "model": model})
    _train(model, optimizer, 4, 8)

    again = _model(dtype)
    fresh = OPTIMIZERS[name](list(again.parameters()))
    saved.into({"optimizer": fresh, "model": again})
    _train(again, fresh, 4, 8)
    assert differences(model.state_dict(), again.state_dict()) == []
    assert differences(optimizer.state_dict(), fresh.state_dict()) == []

    # back in the same process, into state that has grown since
    saved.into({"optimizer": fresh, "model": again})
    _train(again, fresh, 4, 8)
    assert differences(optimizer.state_dict(), fresh.state_dict()) == []
    assert differences(model.state_dict(), again.state_dict()) == []


def test_sparse_gradients(save, differences):
    def build() -> tuple[nn.Embedding, torch.optim.Optimizer]:
        torch.manual_seed(0)
        embedding = nn.Embedding(10, 4, sparse=True)
        return embedding, torch.optim.SparseAdam(embedding.parameters(), lr=0.1)

    def train(embedding: nn.Embedding, optimizer: torch.optim.Optimizer) -> None:
        for index in (1, 3, 1):
            optimizer.zero_grad()
            embedding(torch.tensor([index, 2])).square().sum().backward()
            optimizer.step()

    model, optimizer = build()
    train(model, optimizer)
    saved = save({"model": model, "optimizer": optimizer})
    train(model, optimizer)
    again, fresh = build()
    saved.into({"model": again, "optimizer": fresh})
    train(again, fresh)
    assert differences(optimizer.state_dict(), fresh.state_dict()) == []
    assert differences(model.state_dict(), again.state_dict()) == []


def test_state_of_another_dtype_than_its_parameter_is_not_cast(save):
    model = _model(torch.bfloat16)
    optimizer = torch.optim.AdamW(model.parameters())
    _train(model, optimizer, 0, 1)
    weight = model[0].weight
    optimizer.state[weight]["exp_avg"] = optimizer.state[weight]["exp_avg"].float() + 1e-5
    saved = save({"model": model, "optimizer": optimizer})
    again = _model(torch.bfloat16)
    fresh = torch.optim.AdamW(again.parameters())
    saved.into({"model": again, "optimizer": fresh})
    restored = fresh.state[again[0].weight]["exp_avg"]
    assert restored.dtype is torch.float32
    assert torch.equal(restored, optimizer.state[weight]["exp_avg"])


def test_checkpoint_from_before_the_first_step_clears_state(save):
    model = _model()
    optimizer = torch.optim.Adam(model.parameters())
    saved = save({"model": model, "optimizer": optimizer})
    _train(model, optimizer, 0, 2)
    assert optimizer.state
    saved.into({"model": model, "optimizer": optimizer})
    assert not optimizer.state


def test_live_state_is_filled_in_place(save):
    model = _model()
    optimizer = torch.optim.Adam(model.parameters(), lr=torch.tensor(0.1))
    _train(model, optimizer, 0, 1)
    saved = save({"model": model, "optimizer": optimizer})
    moment = optimizer.state[model[0].weight]["exp_avg"]
    rate = optimizer.param_groups[0]["lr"]
    before = moment.clone()
    _train(model, optimizer, 1, 2)
    rate.fill_(7.0)
    saved.into({"model": model, "optimizer": optimizer})
    assert optimizer.state[model[0].weight]["exp_avg"] is moment
    assert optimizer.param_groups[0]["lr"] is rate
    assert torch.equal(moment, before)
    assert rate.item() == pytest.approx(0.1)


def test_one_tensor_lr_of_several_groups_stays_one(save):
    model = _model()
    saved = save({"model": model, "optimizer": _two_groups(model, lr=torch.tensor(0.5))})
    fresh = _two_groups(model, lr=torch.tensor(0.1))
    saved.into({"model": model, "optimizer": fresh})
    assert fresh.param_groups[0]["lr"] is fresh.param_groups[1]["lr"]
    assert fresh.param_groups[0]["lr"].item() == 0.5


def _two_groups(model: nn.Sequential, **options: Any) -> torch.optim.Adam:
    groups = [{"params": model[0].parameters()}, {"params": model[2].parameters(), "weight_decay": 0.1}]
    return torch.optim.Adam(groups, **options)


def test_groups_and_custom_keys_are_restored(save, differences):
    model = _model()
    optimizer = _two_groups(model, lr=0.1)
    optimizer.param_groups[1].update(lr=0.3, betas=(0.5, 0.6), tag="head", schedule=[1, {"a": None}])
    _train(model, optimizer, 0, 2)
    saved = save({"optimizer": optimizer, "model": model})
    again = _model()
    fresh = _two_groups(again, lr=0.1)
    saved.into({"optimizer": fresh, "model": again})
    assert differences(optimizer.state_dict(), fresh.state_dict()) == []


def test_group_added_during_training_comes_back(save, differences):
    def build() -> tuple[nn.Sequential, torch.optim.Optimizer]:
        model = _model()
        return model, torch.optim.AdamW(model[0].parameters(), lr=0.1)

    model, optimizer = build()
    _train(model, optimizer, 0, 2)
    optimizer.add_param_group({"params": model[2].parameters(), "lr": 0.01})
    _train(model, optimizer, 2, 4)
    saved = save({"optimizer": optimizer, "model": model})
    _train(model, optimizer, 4, 6)
    again, fresh = build()
    saved.into({"optimizer": fresh, "model": again})
    _train(again, fresh, 4, 6)
    assert differences(model.state_dict(), again.state_dict()) == []
    assert differences(optimizer.state_dict(), fresh.state_dict()) == []


def test_parameters_in_another_order_are_matched_by_name(save, differences):
    def build(names: list[str]) -> tuple[nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(0)
        model = nn.ModuleDict({"a": nn.Linear(3, 3), "b": nn.Linear(3, 3)})
        parameters = dict(model.named_parameters())
        return model, torch.optim.Adam([parameters[n] for n in names], lr=0.1)

    def train(model: Any, optimizer: torch.optim.Optimizer) -> None:
        for _ in range(2):
            optimizer.zero_grad()
            model["b"](model["a"](torch.ones(2, 3))).square().sum().backward()
            optimizer.step()

    model, optimizer = build(["a.weight", "b.weight"])
    train(model, optimizer)
    saved = save({"optimizer": optimizer, "model": model})
    train(model, optimizer)
    again, fresh = build(["b.weight", "a.weight"])
    saved.into({"optimizer": fresh, "model": again})
    train(again, fresh)
    assert differences(model.state_dict(), again.state_dict()) == []


def test_lbfgs_in_another_order_is_refused(save):
    model = _model()
    saved = save({"o": torch.optim.LBFGS(model.parameters()), "model": model})
    with pytest.raises(MismatchError, match="LBFGS keeps them as one vector"):
        saved.into({"o": torch.optim.LBFGS(reversed(list(model.parameters()))), "model": model})


def test_names_given_to_the_optimizer_are_used_without_a_module(save):
    def build(order: list[int]) -> torch.optim.Adam:
        named = [("a", nn.Parameter(torch.ones(2))), ("b", nn.Parameter(torch.ones(2)))]
        return torch.optim.Adam([named[i] for i in order], lr=0.1)

    optimizer = build([0, 1])
    for scale, parameter in zip((1.0, 5.0), optimizer.param_groups[0]["params"], strict=True):
        parameter.grad = torch.full((2,), scale)
    optimizer.step()
    fresh = build([1, 0])
    save({"optimizer": optimizer}).into({"optimizer": fresh})
    first, second = fresh.param_groups[0]["params"]
    assert fresh.param_groups[0]["param_names"] == ["b", "a"]
    assert fresh.state[first]["exp_avg"][0] == pytest.approx(0.5)
    assert fresh.state[second]["exp_avg"][0] == pytest.approx(0.1)


def test_every_difference_is_named_and_nothing_touched(save, differences):
    model = _model()
    optimizer = _two_groups(model, lr=0.1)
    saved = save({"o": optimizer})
    other = nn.Linear(2, 2)
    live = torch.optim.Adam([*other.parameters()], lr=0.7)
    with pytest.raises(MismatchError) as caught:
        saved.into({"o": live})
    text = str(caught.value)
    assert "o/groups/0/0 (checkpoint: [8, 6], live: [2, 2])" in text
    assert "group added later" in text
    assert live.param_groups[0]["lr"] == 0.7
    with pytest.raises(MismatchError, match=r"checkpoint: Adam, live: SGD"):
        saved.into({"o": torch.optim.SGD(model.parameters())})
    with pytest.raises(MismatchError, match="a group of parameters"):
        save({"o": torch.optim.Adam(model[0].parameters())}).into({"o": _two_groups(model)})


def test_a_parameter_that_left_the_group_is_named(save):
    model = _model()
    saved = save({"model": model, "o": torch.optim.Adam(model.parameters())})
    with pytest.raises(MismatchError, match=r"model/2\.bias") as caught:
        saved.into({"model": model, "o": torch.optim.Adam(list(model.parameters())[:-1])})
    assert caught.value.unexpected == ("o/groups/0/model/2.bias",)


@pytest.mark.parametrize("to_none", [True, False])
def test_a_parameter_that_some_steps_do_not_use(to_none, save, differences):
    def train(state: dict[str, Any], first: int, last: int) -> None:
        model, optimizer = state["model"], state["optimizer"]
        for step in range(first, last):
            optimizer.zero_grad(set_to_none=to_none)
            model[step % 2](torch.ones(2)).sum().backward()
            optimizer.step()

    def build() -> dict[str, Any]:
        torch.manual_seed(0)
        model = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])
        return {"model": model, "optimizer": torch.optim.AdamW(model.parameters(), lr=0.1)}

    whole, again = build(), build()
    train(whole, 0, 3)
    saved = save(whole)
    train(whole, 3, 6)
    saved.into(again)
    assert not FRAMEWORK.has_gradients(again.values())
    train(again, 3, 6)
    assert FRAMEWORK.has_gradients(again.values())
    assert differences(whole["model"].state_dict(), again["model"].state_dict()) == []
    assert differences(whole["optimizer"].state_dict(), again["optimizer"].state_dict()) == []


def test_gradients_of_an_abandoned_step_do_not_survive(save):
    model = _model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    saved = save({"model": model, "optimizer": optimizer})
    (model(torch.ones(6)).sum() * float("nan")).backward()
    saved.into({"model": model, "optimizer": optimizer})
    assert all(parameter.grad is None for parameter in model.parameters())


def test_given_values_and_their_return():
    model = _model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.2)
    state = {"optimizer": optimizer}
    given = walk.given(state)
    assert given["optimizer.lr"] == 0.1
    assert given["optimizer.weight_decay"] == 0.2
    assert given["optimizer.betas"] == [0.9, 0.999]
    walk.apply_given(state, {"optimizer.lr": 0.5, "optimizer.betas": [0.8, 0.9]})
    assert optimizer.param_groups[0]["lr"] == 0.5
    assert optimizer.param_groups[0]["betas"] == (0.8, 0.9)


def test_given_names_groups_and_nested_optimizers():
    state = {"optimizers": [_two_groups(_model(), lr=torch.tensor(0.25))]}
    given = walk.given(state)
    assert given["optimizers/0.groups[1].lr"] == 0.25
    assert given["optimizers/0.groups[1].weight_decay"] == 0.1
    walk.apply_given(state, {"optimizers/0.groups[1].weight_decay": 0.5})
    assert [g["weight_decay"] for g in state["optimizers"][0].param_groups] == [0, 0.5]


def test_an_applied_lr_keeps_the_schedule_so_far():
    model = _model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    state = {"optimizer": optimizer, "scheduler": scheduler}
    assert walk.given(state)["optimizer.lr"] == 0.1
    for _ in range(2):
        optimizer.step()
        scheduler.step()
    walk.apply_given(state, {"optimizer.lr": 0.4, "scheduler.base_lrs": [0.4]})
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.1)
    assert scheduler.base_lrs == [0.4]
