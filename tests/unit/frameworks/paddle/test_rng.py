"""Random generators: what was put back draws the same again, in this process or another."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import msgspec
import paddle
import pytest
from paddle.distributed.fleet.layers.mpu.random import RNG_STATE_TRACKER

from holdfast.errors import UnsupportedError
from holdfast.frameworks.paddle import FRAMEWORK, rng
from holdfast.frameworks.walk import capture, plan

pytestmark = pytest.mark.paddle


def draw() -> list[Any]:
    dropped = paddle.nn.functional.dropout(paddle.ones([50]), 0.5)
    kinds = [paddle.rand([7]), paddle.randn([7]), paddle.randperm(20), paddle.randint(0, 99, [5]), dropped]
    return [tensor.tolist() for tensor in kinds]


@pytest.fixture(autouse=True)
def _own_stream():
    before = FRAMEWORK.rng_state()
    yield
    FRAMEWORK.set_rng_state(before)


@pytest.mark.parametrize("before", [0, 1, 313])
def test_the_stream_goes_on(before):
    paddle.seed(5)
    for _ in range(before):
        draw()
    saved = FRAMEWORK.rng_state()
    assert FRAMEWORK.rng_state() == saved, "looking draws nothing"
    expected = [draw() for _ in range(2)]
    paddle.seed(6)
    FRAMEWORK.set_rng_state(saved)
    assert [draw() for _ in range(2)] == expected
    FRAMEWORK.set_rng_state(saved)
    assert draw() == expected[0]


def test_it_goes_on_in_another_process():
    paddle.seed(5)
    draw()
    saved = msgspec.json.encode(FRAMEWORK.rng_state()).decode()
    script = (
        "import sys, json, warnings; warnings.simplefilter('ignore'); import paddle;"
        "from holdfast.frameworks.paddle import FRAMEWORK; FRAMEWORK.set_rng_state(json.loads(sys.argv[1]));"
        "print(json.dumps(paddle.randn([7]).tolist()))"
    )
    done = subprocess.run([sys.executable, "-c", script, saved], capture_output=True, text=True, check=True)
    assert msgspec.json.decode(done.stdout.splitlines()[-1]) == paddle.randn([7]).tolist()


def test_generators_tracked_by_fleet():
    def tracked() -> list[float]:
        with RNG_STATE_TRACKER.rng_state("local"):
            return paddle.rand([3]).tolist()

    try:
        paddle.seed(5)
        RNG_STATE_TRACKER.add("local", 77)
        tracked()
        saved = FRAMEWORK.rng_state()
        expected = tracked(), draw()
        FRAMEWORK.set_rng_state(saved)
        assert (tracked(), draw()) == expected
        RNG_STATE_TRACKER.reset()
        FRAMEWORK.set_rng_state(saved)
        assert (tracked(), draw()) == expected
    finally:
        RNG_STATE_TRACKER.reset()


def test_a_state_that_does_not_survive_is_refused(monkeypatch):
    monkeypatch.setattr(rng, "undump", lambda saved: paddle.seed(8_675_309).get_state())
    with pytest.raises(UnsupportedError, match="cannot be put back exactly"):
        FRAMEWORK.rng_state()


def test_a_generator_in_the_state():
    generator = paddle.seed(5)
    taken = capture({"g": generator})
    expected = draw()
    load = plan({"g": generator}, taken.tree, {})
    load.raise_differences("it")
    load.finish()
    assert draw() == expected


def test_the_seed_of_the_script():
    paddle.seed(41)
    draw()
    assert FRAMEWORK.data_seed() == 41
