"""Write a repository kept beside this file, once per format version: python make_fixture.py v1

``v1-encoded`` is of the same version, with larger tensors and compacted packs; ``v1-deltas`` has packs in
which chunks are encoded by others (version 2 of the pack). All these have manifests of version 1;
``v1-packed`` is like ``v1``, with manifests of version 2. ``v2-sealed`` is sealed by `KEY` and by the
passphrase `WORDS`, and signed.

Never run again for a version that was released: the point is that old bytes stay readable.
"""

import datetime
import json
import os
import random
import shutil
import sys
from pathlib import Path

import numpy as np

import holdfast


class Counter:
    """An object with a state of its own."""

    def __init__(self) -> None:
        self.count = 0

    def state_dict(self) -> dict[str, int]:
        return {"count": self.count}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.count = state["count"]


ENCODED, DELTAS, PACKED, SEALED = "v1-encoded", "v1-deltas", "v1-packed", "v2-sealed"
KEY, WORDS = "holdfast-key-1-" + "5a" * 32, "correct horse battery staple"
SIGNING = "holdfast-signing-key-1-" + "3c" * 32
COMPACTED = (ENCODED, DELTAS)


def state(version: str = "v1") -> dict[str, object]:
    large = {"trained": np.zeros(5000, np.float32), "zeros": np.zeros(3001)} if version in COMPACTED else {}
    slow = (
        {"slow": np.zeros(3000, np.float32), "copy": np.zeros(3000, np.float16)} if version == DELTAS else {}
    )
    return {
        **large,
        **slow,
        "weights": np.zeros((6, 4), np.float32),
        "half": np.zeros(5, np.float16),
        "flags": np.zeros(3, np.bool_),
        "complex": np.zeros(2, np.complex128),
        "empty": np.zeros((0, 3), np.int64),
        "scalar": np.array(0, np.int64),
        "random": random.Random(5),
        "generator": np.random.default_rng(5),
        "counter": Counter(),
        "plain": {},
        "history": [],
    }


def advance(live: dict[str, object], step: int) -> None:
    """One step of a training that draws from every generator."""
    live["weights"] += live["generator"].standard_normal((6, 4)).astype("f4") + np.random.rand()
    if "trained" in live:
        live["trained"] += live["generator"].standard_normal(5000).astype("f4")
    if "slow" in live:
        start = np.sin(np.arange(3000) * 1.7)
        live["slow"][:] = start * (1 + 1e-6 * len(live["history"]))
        live["copy"][:] = live["slow"].astype("f2")
    live["half"] += np.float16(random.random())
    live["flags"] ^= np.array([True, False, step % 2 == 0])
    live["complex"] += complex(step, live["random"].random())
    live["scalar"] += 1
    live["counter"].count += 2
    live["plain"] = {
        "big": 2**80 + step, "pair": (step, "two"), "set": {step, -1}, 3: None, "raw": b"\x00\xff",
        "when": datetime.datetime(2026, 1, step + 1, 12), "number": np.float32(step / 3), "odd": "\udcff",
    }  # fmt: skip
    live["history"].append(step)


def train(place: Path, steps: int, version: str = "v1") -> dict[str, object]:
    """Train to ``steps``; returns the live state."""
    random.seed(1)
    np.random.seed(1)
    live = state(version)
    rule = holdfast.keep(last=2, every_steps=4)
    with holdfast.Checkpointer(
        place, live, run="old/run", config={"lr": 0.1}, save="every 2 steps", keep=rule, signals=False,
        changed="keep",
    ) as ckpt:  # fmt: skip
        for _ in ckpt.steps(steps):
            advance(live, ckpt.progress.step)
            step = ckpt.step(loss=1 / (1 + ckpt.progress.step))
            if step == 6:
                ckpt.report(val_loss=0.25)
                ckpt.save(tag="paper")
    return live


def expectation(live: dict[str, object]) -> dict[str, object]:
    """What a state is, in text that no library decides."""
    arrays = {
        k: [v.dtype.str, list(v.shape), v.tobytes().hex()] for k, v in live.items() if hasattr(v, "shape")
    }
    return {
        "arrays": arrays,
        "random": live["random"].getstate()[1][-1],
        "generator": live["generator"].bit_generator.state["state"],
        "counter": live["counter"].count,
        "plain": sorted(f"{k!r}: {_text(v)}" for k, v in live["plain"].items()),
        "history": live["history"],
    }


def _text(value: object) -> str:
    if isinstance(value, set):
        return f"set {sorted(value)}"
    return f"{value.dtype} {value.tobytes().hex()}" if hasattr(value, "tobytes") else repr(value)


def main() -> None:
    from holdfast.cli import app
    from holdfast.repository import compact
    from holdfast.repository.repository import Repository
    from holdfast.storage.urls import open_storage

    target = Path(__file__).parent / sys.argv[1]
    shutil.rmtree(target, ignore_errors=True)
    place = target / "repository"
    if sys.argv[1] == SEALED:
        os.environ |= {"HOLDFAST_KEY": KEY, "HOLDFAST_NEW_KEY": WORDS, "HOLDFAST_SIGNING_KEY": SIGNING}
    Repository.create(open_storage(place, create=True), chunk_bytes=4096)
    expected = {steps: expectation(train(place, steps, sys.argv[1])) for steps in (6, 9)}
    if sys.argv[1] in COMPACTED:
        repository = Repository.open(open_storage(place))
        compact.apply(compact.plan(repository))
    if sys.argv[1] == SEALED:
        app.run(["key", "add", "--label", "words", "--repository", str(place)])
    (target / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")
    shutil.rmtree(place / "staging")


if __name__ == "__main__":
    main()
