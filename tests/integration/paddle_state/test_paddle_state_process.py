"""A fresh process, in which Paddle's names have shifted, goes on bit for bit."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from holdfast.frameworks.paddle import FRAMEWORK

pytestmark = [
    pytest.mark.paddle,
    pytest.mark.filterwarnings("ignore:When training, we now always track global mean:UserWarning"),
]

RESUME = """
import importlib.util, sys, warnings
warnings.simplefilter("ignore")
import msgspec, paddle
spec = importlib.util.spec_from_file_location("parts", sys.argv[1])
parts = importlib.util.module_from_spec(spec)
sys.modules["parts"] = parts
spec.loader.exec_module(parts)
from holdfast.frameworks.paddle import FRAMEWORK
saved, rng = msgspec.msgpack.decode(open(sys.argv[2], "rb").read(), type=tuple[parts.Saved, dict])
other = parts.Net()
state = parts.build(parts.Net)
assert state["model"].first.weight.name != "linear_0.w_0"
saved.into(state)
FRAMEWORK.set_rng_state(rng)
losses = parts.train(state, 4, first=3)
print(msgspec.json.encode([losses, parts.Saved.of(state).data]).decode())
"""


def test_a_fresh_process_goes_on(tmp_path, save, net, train, build):
    state = build(net)
    train(state, 3)
    saved, rng = save(state), FRAMEWORK.rng_state()
    (tmp_path / "saved").write_bytes(msgspec.msgpack.encode((saved, rng)))
    expected = [train(state, 4, first=3), save(state).data]
    conftest = Path(__file__).with_name("conftest.py")
    script = [sys.executable, "-c", RESUME, str(conftest), str(tmp_path / "saved")]
    done = subprocess.run(script, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stderr
    found = msgspec.json.decode(done.stdout.splitlines()[-1], type=tuple[list[bytes], dict[str, bytes]])
    assert list(found) == expected
