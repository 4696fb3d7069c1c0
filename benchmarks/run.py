"""Side by side with the rivals: save until durable and load of a real training state, training while it
is saved, and small things.

    python benchmarks/run.py [--quick] [--only torch paddle memory training recovery small] [--repetitions N]
                             [--sizes 10MB 150MB 1.5GB] [--kinds torch lightning transformers paddle jax]
                             [--rotations N] [--long] [--folder PATH]

Writes results.json and charts to benchmarks/out. Everything else it makes lies in a temporary
folder there, or in --folder, which decides the disk that is measured, and is removed.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from processes import in_process

HERE = Path(__file__).parent
CONTENDERS = {
    "torch": ("holdfast", "torch.save", "safetensors", "torch.distributed.checkpoint"),
    "paddle": ("holdfast", "paddle.save"),
}
PARTS = ("torch", "paddle", "memory", "training", "recovery", "small")
RELAUNCHES = 3
RIVALS = {
    "lightning": ("lightning",),
    "transformers": ("transformers", "accelerate"),
    "jax": ("jax", "orbax"),
}
"""What trains in a process of its own, by the packages that it needs."""
KINDS = ("torch", "lightning", "transformers", "paddle", "jax")
DISK_BYTES = {"full": 9_000_000_000, "quick": 1_500_000_000}


def main() -> None:
    options = _options()
    out = HERE / "out"
    out.mkdir(exist_ok=True)
    options.folder.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="holdfast-bench-", dir=options.folder) as folder:
        size = "quick" if options.quick else "full"
        need_bytes = DISK_BYTES["full" if "1.5GB" in options.sizes else size]
        if shutil.disk_usage(folder).free < need_bytes:
            raise SystemExit(f"{folder} has too little room: {need_bytes / 1e9:.1f} GB are needed.")
        results = measure(Path(folder), size, options)
    results["seconds"] = time.monotonic() - started
    (out / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    _show(results, out)


def _options() -> argparse.Namespace:
    from sizes import SHAPES

    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="a state of 150 MB instead of 1.5 GB")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, metavar="PART", help=str(PARTS))
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument(
        "--sizes", nargs="+", choices=SHAPES, default=["150MB"], metavar="SIZE", help=str([*SHAPES])
    )
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS, metavar="KIND", help=str(KINDS))
    parser.add_argument("--rotations", type=int, default=0, help="turns of each way of saving while training")
    parser.add_argument("--long", action="store_true", help="train a hundred steps with one save, too")
    parser.add_argument("--checkpoints", type=int, help="of the repository that is listed (5000, or 500)")
    parser.add_argument(
        "--folder", type=Path, default=HERE / "out", help="where to measure: decides the disk"
    )
    return parser.parse_args()


def measure(folder: Path, size: str, options: argparse.Namespace) -> dict[str, Any]:
    from figures import figures
    from measure import facts

    results: dict[str, Any] = {"facts": facts(folder), "raw": {}, "figures": {}}
    for framework in CONTENDERS:
        if framework in options.only:
            print(f"{framework}: save until durable / load", flush=True)
            contest = in_process(folder, "contest.py", framework, size, str(options.repetitions))
            results["raw"][framework] = contest
            results["figures"][framework] = figures(contest)
    if "memory" in options.only:
        print("memory", flush=True)
        results["memory"] = {framework: _memory(folder, framework, size) for framework in CONTENDERS}
    if "training" in options.only:
        results["training"] = {size: _training(folder, size, options, results) for size in options.sizes}
    if "recovery" in options.only:
        results["recovery"] = {size: _recovery(folder, size, results) for size in options.sizes}
    if "small" in options.only:
        print("small things", flush=True)
        count = options.checkpoints or (500 if size == "quick" else 5000)
        results["small"] = in_process(folder, "small_things.py", str(count))
    return results


def _memory(folder: Path, framework: str, size: str) -> dict[str, Any]:
    return {
        name: in_process(folder, "contest.py", framework, size, "0", extra=[name])
        for name in CONTENDERS[framework]
    }


def _training(
    folder: Path, size: str, options: argparse.Namespace, results: dict[str, Any]
) -> dict[str, Any]:
    from training_figures import relaunch_figures, training_figures

    kinds, left_out = {}, {}
    raw = results["raw"].setdefault("training", {}).setdefault(size, {})
    for kind in options.kinds:
        print(f"training, {size}, {kind}: stalls, durability, throughput", flush=True)
        if missing := [name for name in RIVALS.get(kind, ()) if find_spec(name) is None]:
            left_out[kind] = f"{', '.join(missing)} not installed: pip install 'holdfast[bench-rivals]'"
            print(f"  {left_out[kind]}", flush=True)
            continue
        try:
            raw[kind] = in_process(
                folder, "training.py", kind, size, str(options.rotations), str(int(options.long))
            )
            kinds[kind] = training_figures(raw[kind])
        except subprocess.CalledProcessError as error:
            left_out[kind] = f"its process ended with {error.returncode}"
    print(f"training, {size}: killed and launched again", flush=True)
    raw["relaunch"] = in_process(folder, "relaunch.py", size, str(RELAUNCHES))
    return {"kinds": kinds, "left_out": left_out, "relaunch": relaunch_figures(raw["relaunch"])}


def _recovery(folder: Path, size: str, results: dict[str, Any]) -> dict[str, Any]:
    from training_figures import recovery_figures

    print(f"recovery, {size}: struck under holdfast run", flush=True)
    raw = in_process(folder, "recovery.py", size, str(RELAUNCHES))
    results["raw"].setdefault("recovery", {})[size] = raw
    return recovery_figures(raw)


def _show(results: dict[str, Any], out: Path) -> None:
    from chart import draw, draw_training
    from report import print_report

    print()
    print_report(results)
    paths = draw(results["figures"], out) if results["figures"] else []
    paths += draw_training(results["training"], out) if "training" in results else []
    written = ", ".join(str(p) for p in [out / "results.json", *paths])
    print(f"Took {results['seconds'] / 60:.1f} minutes. Written: {written}")


if __name__ == "__main__":
    main()
