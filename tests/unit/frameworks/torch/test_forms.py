"""A remembered capture must be what a capture anew would be, whatever happened in between."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from holdfast.errors import UnsupportedError
from holdfast.frameworks import walk
from holdfast.frameworks.remembering import Memory
from recaptured import same_as_anew

State = dict[str, Any]
Change = Callable[[State], Any]
CHANGES: dict[str, Change] = {}


def change(apply: Change) -> Change:
    CHANGES[apply.__name__] = apply
    return apply


class _Extra(nn.Linear):
    calls = 0

    def get_extra_state(self) -> Any:
        return {"calls": self.calls}

    def set_extra_state(self, state: Any) -> None:
        pass


def _state() -> State:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 4), nn.Linear(200, 200), nn.Linear(4, 4)
    )
    model[4].weight = model[2].weight
    model.append(nn.ReLU())
    model[2].register_buffer("scratch", torch.zeros(3), persistent=False)
    model[2].register_buffer("none", None)
    model[2].register_buffer("phase", torch.tensor([1 + 2j]))
    optimizer = torch.optim.AdamW([{"params": model[0].parameters()}, {"params": model[2].parameters()}])
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    return {
        "model": model,
        "optimizer": optimizer,
        "scheduler": scheduler,
        "best": 1.0,
        "rest": {"x": torch.ones(2)},
    }


def _first(state: State) -> Any:
    """State of the first parameter."""
    return state["optimizer"].state[state["model"][0].weight]


# -- values ---------------------------------------------------------------------------------


@change
def nothing(state: State) -> None:
    pass


@change
def values_in_place(state: State) -> None:
    with torch.no_grad():
        state["model"][0].weight.add_(1)
        state["model"][3].weight.add_(1)
        _first(state)["step"].add_(1)


@change
def learning_rate(state: State) -> None:
    state["optimizer"].param_groups[0]["lr"] = 0.5


@change
def scheduler_step(state: State) -> None:
    state["scheduler"].step()


@change
def plain_value(state: State) -> None:
    state["best"] = 2.0


@change
def gradients_set_to_none(state: State) -> None:
    state["optimizer"].zero_grad(set_to_none=True)


@change
def one_gradient_set_to_none(state: State) -> None:
    state["model"][0].bias.grad = None


@change
def whole_step(state: State) -> None:
    state["optimizer"].step()


# -- tensors --------------------------------------------------------------------------------


@change
def data_replaced(state: State) -> None:
    state["model"][0].weight.data = torch.full((4, 3), 7.0)


@change
def large_data_replaced(state: State) -> None:
    state["model"][3].weight.data = torch.full((200, 200), 7.0)


@change
def data_of_another_dtype(state: State) -> None:
    state["model"][0].weight.data = state["model"][0].weight.data.double()


@change
def data_is_a_view_of_the_same_memory(state: State) -> None:
    state["model"][2].weight.data = state["model"][2].weight.data.t()


@change
def data_is_negated_lazily(state: State) -> None:
    state["model"][2].weight.data = torch._neg_view(state["model"][2].weight.data)


@change
def data_is_smaller_in_the_same_memory(state: State) -> None:
    state["model"][3].weight.data = state["model"][3].weight.data[:10]


@change
def data_is_later_in_the_same_memory(state: State) -> None:
    state["model"][3].weight.data = state["model"][3].weight.data[10:]


@change
def parameter_replaced(state: State) -> None:
    state["model"][0].weight = nn.Parameter(torch.full((4, 3), 7.0))


@change
def parameter_removed(state: State) -> None:
    state["model"][0].bias = None


@change
def parameter_added(state: State) -> None:
    state["model"][0].scale = nn.Parameter(torch.ones(3))


@change
def buffer_replaced(state: State) -> None:
    state["model"][1].running_mean = torch.full((4,), 7.0)


@change
def buffer_set(state: State) -> None:
    state["model"][2].none = torch.ones(1)


@change
def buffer_becomes_none(state: State) -> None:
    state["model"][2].scratch = None


@change
def buffer_becomes_persistent(state: State) -> None:
    state["model"][2].register_buffer("scratch", state["model"][2].scratch, persistent=True)


@change
def buffer_resized_within_its_memory(state: State) -> None:
    state["model"][1].running_mean.resize_(2)


@change
def buffer_becomes_sparse(state: State) -> None:
    state["model"][2].scratch = torch.tensor([0.0, 1.0, 0.0]).to_sparse()


@change
def buffer_of_another_dtype_in_the_same_memory(state: State) -> None:
    state["model"][1].running_mean.data = state["model"][1].running_mean.data.view(torch.int32)


@change
def buffer_is_conjugated_lazily(state: State) -> None:
    state["model"][2].phase.data = state["model"][2].phase.data.conj()


@change
def buffer_becomes_a_conjugate(state: State) -> None:
    state["model"][2].scratch = torch.tensor([1 + 2j]).conj()


@change
def tied(state: State) -> None:
    state["model"][2].weight = nn.Parameter(torch.ones(4, 4))
    state["model"].add_module("twin", nn.Linear(4, 4))
    state["model"].twin.weight = state["model"][2].weight


@change
def untied(state: State) -> None:
    state["model"][4].weight = nn.Parameter(state["model"][2].weight.detach().clone())


@change
def untied_in_the_same_memory(state: State) -> None:
    state["model"][4].weight = nn.Parameter(state["model"][2].weight.data)


@change
def all_to_another_dtype(state: State) -> None:
    state["model"].double()


@change
def all_to_another_memory_format(state: State) -> None:
    for parameter in state["model"].parameters():
        parameter.data = parameter.data.clone()


@change
def in_shared_memory(state: State) -> None:
    state["model"].share_memory()


# -- modules --------------------------------------------------------------------------------


@change
def evaluating(state: State) -> None:
    state["model"].eval()


@change
def one_module_evaluating(state: State) -> None:
    state["model"][1].eval()


@change
def frozen(state: State) -> None:
    state["model"].requires_grad_(False)


@change
def one_parameter_frozen(state: State) -> None:
    state["model"][0].bias.requires_grad_(False)


@change
def submodule_replaced(state: State) -> None:
    state["model"][1] = nn.LayerNorm(4)


@change
def submodule_of_the_same_form_replaced(state: State) -> None:
    state["model"][2] = nn.Linear(4, 4)


@change
def submodule_added(state: State) -> None:
    state["model"].append(nn.Linear(1, 1))


@change
def submodule_removed(state: State) -> None:
    del state["model"][2]


@change
def submodule_with_an_extra_state(state: State) -> None:
    state["model"].append(_Extra(1, 1))


@change
def submodule_renamed(state: State) -> None:
    modules = state["model"]._modules
    modules["last"] = modules.pop("3")


@change
def submodule_without_tensors_renamed(state: State) -> None:
    modules = state["model"]._modules
    modules["activation"] = modules.pop("5")


@change
def parameter_renamed(state: State) -> None:
    parameters = state["model"][0]._parameters
    parameters["offset"] = parameters.pop("bias")


@change
def model_replaced(state: State) -> None:
    state["model"] = nn.Linear(2, 2)


@change
def model_wrapped(state: State) -> None:
    state["model"] = nn.DataParallel(state["model"])


@change
def model_twice(state: State) -> None:
    state["again"] = state["model"]


@change
def parametrized(state: State) -> None:
    nn.utils.parametrizations.weight_norm(state["model"][2])


@change
def hooked(state: State) -> None:
    state["model"].register_forward_hook(lambda *_: None)


# -- optimizers -----------------------------------------------------------------------------


@change
def optimizer_state_loaded(state: State) -> None:
    state["optimizer"].load_state_dict(state["optimizer"].state_dict())


@change
def optimizer_state_replaced(state: State) -> None:
    _first(state)["exp_avg"] = torch.full((4, 3), 7.0)


@change
def optimizer_state_added(state: State) -> None:
    _first(state)["max_exp_avg_sq"] = torch.ones(4, 3)


@change
def optimizer_state_with_a_list(state: State) -> None:
    _first(state)["history"] = [torch.ones(1)]


@change
def optimizer_state_with_a_number(state: State) -> None:
    _first(state)["count"] = True


@change
def optimizer_state_renamed(state: State) -> None:
    first = _first(state)
    first["squares"] = first.pop(list(first)[-1])


@change
def optimizer_state_removed(state: State) -> None:
    del _first(state)["exp_avg_sq"]


@change
def optimizer_state_cleared(state: State) -> None:
    state["optimizer"].state.clear()


@change
def optimizer_state_of_one_parameter_moved(state: State) -> None:
    states, model = state["optimizer"].state, state["model"]
    states[model[2].weight] = states.pop(model[0].weight)


@change
def optimizer_state_shared(state: State) -> None:
    state["optimizer"].state["shared"] = _first(state)["exp_avg"]


@change
def optimizer_states_tied(state: State) -> None:
    _first(state)["exp_avg_sq"] = _first(state)["exp_avg"]


@change
def learning_rate_of_a_state(state: State) -> None:
    state["optimizer"].param_groups[1]["lr"] = _first(state)["step"]


@change
def learning_rate_becomes_a_tensor(state: State) -> None:
    state["optimizer"].param_groups[0]["lr"] = torch.tensor(0.5)


@change
def group_added(state: State) -> None:
    state["optimizer"].add_param_group({"params": state["model"][3].parameters(), "lr": 0.5})


@change
def group_removed(state: State) -> None:
    state["optimizer"].param_groups.pop()


@change
def parameters_reordered(state: State) -> None:
    state["optimizer"].param_groups[0]["params"].reverse()


@change
def option_added(state: State) -> None:
    state["optimizer"].param_groups[0]["name"] = "first"


@change
def optimizer_replaced(state: State) -> None:
    state["optimizer"] = torch.optim.SGD(state["model"].parameters(), lr=1.0, momentum=0.9)


# -- the state ------------------------------------------------------------------------------


@change
def entry_added(state: State) -> None:
    state["more"] = {"y": torch.ones(3)}


@change
def entry_removed(state: State) -> None:
    del state["rest"]


@change
def entries_reordered(state: State) -> None:
    state["model"] = state.pop("model")


@change
def entry_renamed(state: State) -> None:
    state["net"] = state.pop("model")


@change
def entry_of_the_same_path(state: State) -> None:
    rest = {"model/0.weight": torch.zeros(5), **state}
    state.clear()
    state.update(rest)


def _follows(before: Change, after: Change) -> bool:
    """Whether the second change is seen by a memory that knows the state as the first has left it."""
    state, memory = _state(), Memory()
    before(state)
    walk.capture(state, memory)
    after(state)
    return same_as_anew(state, memory)


def test_an_extra_state_is_asked_for_each_time() -> None:
    def call(state: State) -> None:
        state["model"][-1].calls += 1

    assert _follows(submodule_with_an_extra_state, call)


@pytest.mark.parametrize("new", [True, 1, 1.0, 2, "1", None])
@pytest.mark.parametrize("old", [True, 1, 0.0, -0.0])
def test_a_number_of_another_class_is_another_one(old: Any, new: Any) -> None:
    assert _follows(lambda s: _first(s).update(count=old), lambda s: _first(s).update(count=new))


def test_a_float_in_an_optimizers_state_is_kept_to_its_sign() -> None:
    assert _follows(lambda s: _first(s).update(count=0.0), lambda s: _first(s).update(count=-0.0))


def test_names_made_unique_do_not_outlive_the_reason() -> None:
    assert _follows(entry_of_the_same_path, lambda s: s.pop("model/0.weight"))


@pytest.mark.parametrize("name", CHANGES)
def test_a_remembered_capture_is_that_of_the_changed_state(name: str) -> None:
    state, memory = _state(), Memory()
    walk.capture(state, memory)
    assert same_as_anew(state, memory)
    CHANGES[name](state)
    assert same_as_anew(state, memory)
    assert same_as_anew(state, memory)


def _goes(name: str, state: State) -> bool:
    """Make a change, if it goes together with those before."""
    try:
        CHANGES[name](state)
        walk.capture(state)
    except (AttributeError, KeyError, IndexError, RuntimeError, TypeError, ValueError, UnsupportedError):
        return False
    return True


@pytest.mark.parametrize("number", range(len(CHANGES)))
def test_and_so_is_one_of_a_state_that_changes_again(number: int) -> None:
    names = list(CHANGES)
    for first in names[number % 6 :: 6]:
        state, memory = _state(), Memory()
        walk.capture(state, memory)
        if _goes(first, state):
            walk.capture(state, memory)
            assert not _goes(names[number], state) or same_as_anew(state, memory), first
