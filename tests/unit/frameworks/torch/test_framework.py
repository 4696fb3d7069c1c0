from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from holdfast.errors import DamagedError, UnsupportedError
from holdfast.frameworks import walk
from holdfast.frameworks.torch import BUILDERS, FRAMEWORK


def test_rng_comes_back_and_is_not_consumed():
    torch.manual_seed(5)
    torch.rand(3)
    saved = FRAMEWORK.rng_state()
    first = torch.randn(5)
    FRAMEWORK.set_rng_state(saved)
    assert FRAMEWORK.rng_state() == saved
    assert torch.equal(torch.randn(5), first)
    assert FRAMEWORK.data_seed() == 5


def test_a_generator_state_that_is_none_is_damage():
    class Walk:
        def then(self, action):
            self.action = action

    walk = Walk()
    BUILDERS["torch.generator"]({"device": "cpu", "state": b"short"}, "g", walk)
    with pytest.raises(DamagedError, match="generator g"):
        walk.action()


def test_steps_are_watched_also_through_a_scaler():
    model = torch.nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    steps = []
    undo = FRAMEWORK.watch_steps([model, optimizer, scheduler], lambda: steps.append(1))
    scaler = torch.amp.GradScaler("cpu")
    for _ in range(2):
        assert not FRAMEWORK.has_gradients([model, optimizer])
        scaler.scale(model(torch.ones(1)).sum()).backward()
        assert FRAMEWORK.has_gradients([model, optimizer])
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
    assert len(steps) == 2
    undo()
    optimizer.step()
    assert len(steps) == 2


def test_scalars():
    assert FRAMEWORK.scalar(torch.tensor(1.5, requires_grad=True)) == 1.5
    assert FRAMEWORK.scalar(torch.tensor(3)) == 3.0
    assert FRAMEWORK.scalar(torch.ones(1)) is None
    assert FRAMEWORK.scalar(torch.tensor(1j)) is None
    assert FRAMEWORK.scalar(1.5) is None


def test_environment_names_what_bits_depend_on():
    before = FRAMEWORK.environment()
    assert before.versions["torch"] == str(torch.__version__)
    assert before.devices["torch"] == "cpu"
    assert before.flags["torch_deterministic_algorithms"] == "False"
    assert before.flags["torch_default_dtype"] == "float32"
    assert all(type(value) is str for value in {**before.versions, **before.flags, **before.devices}.values())
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(threads + 1)
        assert FRAMEWORK.environment().flags["torch_threads"] == str(threads + 1)
    finally:
        torch.set_num_threads(threads)


def test_an_optimizer_that_keeps_its_own_state_is_left_to_its_state_dict():
    class Custom(torch.optim.SGD):
        def state_dict(self):
            return {"mine": 1}

    parameters = [torch.nn.Parameter(torch.ones(1))]
    assert FRAMEWORK.component(Custom(parameters)) is None
    assert FRAMEWORK.component(torch.optim.SGD(parameters)).kind == "torch.optimizer"
    assert FRAMEWORK.component(torch.nn.Linear(1, 1)).kind == "torch.module"
    assert FRAMEWORK.component(torch.ones(1)) is None
    assert FRAMEWORK.component({}) is None


def test_the_adapter_starts_no_device_and_warns_of_nothing():
    code = """
import warnings; warnings.simplefilter("error")
import torch
from holdfast.frameworks import walk
from holdfast.frameworks.torch import FRAMEWORK
FRAMEWORK.set_rng_state(FRAMEWORK.rng_state() | {"cuda": [b"\\0" * 16]})
FRAMEWORK.environment()
assert not torch.cuda.is_initialized()
sparse = torch.eye(3).to_sparse()
adapter = FRAMEWORK.component(sparse)
class Walk:
    def value(self, value, path): return FRAMEWORK.source(value, path)[0]
    def spec(self, source): return source.spec
    def then(self, action): action()
    def read(self, source, target): target.buffer()[:] = source.read(); target.commit()
class Source:
    pass
from holdfast.frameworks.torch.tensors import Source
Source.device = "cpu"
live = torch.zeros(3, 3).to_sparse()
adapter.plan(live, adapter.capture(sparse, "x", Walk()), "x", Walk())
assert live.to_dense().equal(torch.eye(3))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr


def test_what_is_divided_among_ranks_is_refused():
    class FullyShardedDataParallel(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = torch.nn.Linear(1, 1)

    model = torch.nn.Sequential(torch.nn.Linear(1, 1), FullyShardedDataParallel())
    with pytest.raises(UnsupportedError, match="model/1 is divided among ranks by FSDP"):
        walk.capture({"model": model})
