"""A repository of many checkpoints with many tensors each: listing, opening, planning a prune.

    python benchmarks/scale.py [--checkpoints N] [--tensors N] [--changing N] [--folder PATH] [--out PATH]

Every checkpoint is committed by the real writer, from tensors of a few bytes of which so many change
each time. Each look is a process of its own, with cold caches. Writes scale.json to benchmarks/out.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from measure import facts, forget_everything, seconds
from processes import HERE
from rich.console import Console
from tables import seconds_text, table

from holdfast.domain.progress import Progress
from holdfast.domain.tensors import TensorRef, TensorSpec
from holdfast.repository.commit import Draft, commit
from holdfast.repository.repository import Repository
from holdfast.storage.local import LocalStorage

RUN = "main"
TENSOR_BYTES = 16
LOOKS = {
    "open": "holdfast.open(place)",
    "newest_recovery_point": f"holdfast.open(place)[{RUN!r}].latest",
    "list": f"[(c.step, c.metrics) for c in holdfast.open(place)[{RUN!r}]]",
    "load_newest": f"holdfast.open(place)[{RUN!r}].latest.load()",
}
VERBS = {
    "whole_ls_command": ("ls",),
    "whole_ls_run_command": ("ls", RUN),
    "plan_a_prune": ("prune", "--keep", "last 3, every 100 steps", "--dry-run"),
}
TARGETS = {
    **dict.fromkeys(
        ("open", "newest_recovery_point", "list", "whole_ls_command", "whole_ls_run_command"), 2.0
    ),
    "plan_a_prune": 60.0,
    "manifest_bytes_per_tensor": 80,
}


class Filled:
    """A tensor of some bytes, as the writer reads it."""

    def __init__(self, random: np.random.Generator) -> None:
        self.spec = TensorSpec("float32", (TENSOR_BYTES // 4,))
        self._bytes = np.empty(TENSOR_BYTES, np.uint8)
        self.change(random)

    def change(self, random: np.random.Generator) -> None:
        self._bytes[:] = random.integers(0, 256, TENSOR_BYTES, np.uint8)

    def read(self) -> np.ndarray:
        return self._bytes


def fill(place: Path, checkpoints: int, tensors: int, changing: int) -> None:
    """Commit them; durability is no matter here, so nothing waits for the disk."""
    run = Repository.create(LocalStorage(place, create=True)).run(RUN)
    attempt = run.begin_attempt()
    run.record_base(attempt, None)
    random = np.random.default_rng(0)
    sources = {name: Filled(random) for name in names(tensors)}
    tree = {"model": {name: TensorRef(name, "numpy", "cpu") for name in sources}}
    fsync, os.fsync = os.fsync, lambda descriptor: None
    try:
        for step in range(1, checkpoints + 1):
            for name in random.choice(list(sources), changing, replace=False):
                sources[name].change(random)
            draft = Draft(
                attempt, step, Progress(step), "benchmark", sources, tree, metrics={"loss": 1 / step}
            )
            commit(run, draft)
    finally:
        os.fsync = fsync


def names(count: int) -> list[str]:
    """As those of a transformer."""
    kinds = ("attn.q", "attn.k", "attn.v", "attn.o", "mlp.up", "mlp.down", "norm1", "norm2")
    return [f"model/h.{n // len(kinds)}.{kinds[n % len(kinds)]}" for n in range(count)]


def looks(place: Path) -> dict[str, dict[str, float]]:
    ready = f"import holdfast; holdfast.open; place = {str(place)!r}"
    code = {name: f"{ready}; measured(lambda: {what})" for name, what in LOOKS.items()}
    main = "from holdfast.cli.app import main"
    for name, arguments in VERBS.items():
        argv = ["holdfast", *arguments, "--json", "--repository", str(place)]
        code[name] = f"import sys; sys.argv = {argv!r}; {main}; measured(main)"
    return {name: _look(each) for name, each in code.items()}


_MEASURED = f"""
import sys, time
sys.path.insert(0, {str(HERE)!r})
from measure import memory_bytes
def measured(look):
    started, used = time.perf_counter(), time.process_time()
    try:
        look()
    except SystemExit as ended:
        assert not ended.code, ended.code
    taken = time.perf_counter() - started, time.process_time() - used
    print("measured", *taken, memory_bytes("VmHWM"), file=sys.stderr)
"""


def _look(code: str) -> dict[str, float]:
    forget_everything()
    command = [sys.executable, "-c", _MEASURED + code]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = re.search(r"^measured (\S+) (\S+) (\S+)$", done.stderr, re.MULTILINE)
    if done.returncode or found is None:
        raise SystemExit(f"{code} failed: {done.stderr}")
    return {"seconds": float(found[1]), "cpu_seconds": float(found[2]), "memory_bytes": int(found[3])}


def manifest_bytes_per_tensor(place: Path, tensors: int) -> float:
    """All of a manifest, divided by its tensors: their table, their places in the tree, and the rest."""
    sizes = [path.stat().st_size for path in place.glob("runs/*/checkpoints/*.manifest")]
    return sum(sizes) / len(sizes) / tensors


def main() -> None:
    options = _options()
    for folder in (options.folder, options.out):
        folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="holdfast-bench-", dir=options.folder) as folder:
        results = measure(Path(folder), options)
    (options.out / "scale.json").write_text(json.dumps(results, indent=1) + "\n")
    _print(results)


def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    place = folder / "many"
    counts = (options.checkpoints, options.tensors, options.changing)
    filling = seconds(lambda: fill(place, *counts))
    print(f"filled in {filling:.0f} s", flush=True)
    return {
        "facts": facts(folder),
        **dict(zip(("checkpoints", "tensors", "changing"), counts, strict=True)),
        "filling_seconds": filling,
        "manifest_bytes_per_tensor": manifest_bytes_per_tensor(place, options.tensors),
        "looks": looks(place),
    }


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--checkpoints", type=int, default=10_000)
    parser.add_argument("--tensors", type=int, default=1000)
    parser.add_argument("--changing", type=int, default=1000, help="tensors that differ from one to the next")
    parser.add_argument("--folder", type=Path, default=HERE / "out", help="where to store: decides the disk")
    parser.add_argument("--out", type=Path, default=HERE / "out", help="where the results go")
    return parser.parse_args()


def _print(results: dict[str, Any]) -> None:
    title = "{checkpoints:,} checkpoints of {tensors:,} tensors, {changing:,} of them new each time"
    made = table(title.format(**results), "", "measured", "CPU", "target", "peak memory")
    for name, look in results["looks"].items():
        target = seconds_text(TARGETS[name]) if name in TARGETS else ""
        memory = f"{look['memory_bytes'] / 2**20:.0f} MiB"
        taken = (seconds_text(look[kind]) for kind in ("seconds", "cpu_seconds"))
        made.add_row(name.replace("_", " "), *taken, target, memory)
    size = results["manifest_bytes_per_tensor"]
    made.add_row(
        "manifest, bytes for each tensor", f"{size:.0f}", "", f"{TARGETS['manifest_bytes_per_tensor']}", ""
    )
    Console(width=110).print(made)


if __name__ == "__main__":
    main()
