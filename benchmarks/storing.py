"""What checkpoints take up, beside the rivals: real trainings, each of their checkpoints stored in every way.

    python benchmarks/storing.py [--quick] [--trajectories MODE@SPACING ...] [--ways WAY ...]
                                 [--count N] [--size quick|small|large] [--folder PATH] [--out PATH]

A trajectory is so many checkpoints of a mode of training (storing_models.py), so many steps apart.
Writes storing.json and charts to benchmarks/out, or to --out. A way that gives back other bits ends
the benchmark.
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

from processes import HERE, call, in_process
from storing_store import WAYS
from storing_trajectory import Trajectory

TRAJECTORIES = (
    *("fp32@1", "fp32@10", "fp32@100", "adapters-0.5@10", "adapters-2@10"),
    *("mixed@10", "bf16@10", "digits@10", "tiny@1"),
)
DISK_BYTES = {"quick": 200_000_000, "small": 3_000_000_000, "large": 12_000_000_000}
"""By size: a trajectory of 50 checkpoints, and what one way at a time makes of it."""
NEEDS = {
    "Orbax": ("jax", "orbax"),
    "zipnn": ("zipnn",),
    "safetensors in restic": ("restic",),
    "safetensors in borg": ("borg",),
}
"""Packages or programs."""
QUICK = {
    "size": "quick",
    "count": 6,
    "restores": 1,
    "trajectories": ("fp32@1", "adapters-2@1"),
    "ways": [way for way in WAYS if way not in NEEDS and way != "DCP"],
}
FULL = {"size": "large", "count": 50, "restores": 11, "trajectories": TRAJECTORIES, "ways": [*WAYS]}


def main() -> None:
    options = _options()
    for folder in (options.out, options.folder):
        folder.mkdir(parents=True, exist_ok=True)
    need_bytes = DISK_BYTES[options.size]
    if shutil.disk_usage(options.folder).free < need_bytes:
        raise SystemExit(f"{options.folder} has too little room: {need_bytes / 1e9:.1f} GB are needed.")
    with tempfile.TemporaryDirectory(prefix="holdfast-bench-", dir=options.folder) as folder:
        results = measure(Path(folder), options, options.out / "storing.json")
    _show(results, options.out)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="a tiny model, no rivals to install")
    parser.add_argument(
        "--trajectories", nargs="+", type=_trajectory_name, metavar="MODE@SPACING", help=str(TRAJECTORIES)
    )
    parser.add_argument("--ways", nargs="+", choices=WAYS, metavar="WAY", help=str([*WAYS]))
    parser.add_argument("--count", type=int, help="checkpoints of each trajectory")
    parser.add_argument("--restores", type=int, help="of the newest and of the oldest, each")
    parser.add_argument("--size", choices=DISK_BYTES, help="0.1, 1.2 or 6.4 million parameters")
    parser.add_argument("--folder", type=Path, default=HERE / "out", help="where to store: decides the disk")
    parser.add_argument("--out", type=Path, default=HERE / "out", help="where results and charts go")
    options = parser.parse_args()
    for name, value in (QUICK if options.quick else FULL).items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    return options


def _trajectory_name(text: str) -> str:
    mode, _, spacing = text.partition("@")
    modes = dict.fromkeys(name.partition("@")[0] for name in TRAJECTORIES)
    if mode not in modes or not spacing.isdigit() or int(spacing) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not one of {', '.join(modes)} with @STEPS behind it")
    return text


def measure(folder: Path, options: argparse.Namespace, result: Path) -> dict[str, Any]:
    """Written after each trajectory, so that a run that is cut short was not for nothing."""
    from measure import facts
    from storing_figures import figures, targets

    started = time.monotonic()
    ways, left_out = _present(options.ways)
    results: dict[str, Any] = {
        "facts": facts(folder) | {"programs": _programs()},
        "size": options.size,
        "left_out": left_out,
        "raw": {},
        "figures": {},
    }
    for name in options.trajectories:
        results["raw"][name] = raw = _trajectory(folder, name, ways, options)
        results["figures"][name] = figures(raw)
        results["targets"] = targets(results["figures"])
        results["seconds"] = time.monotonic() - started
        result.write_text(json.dumps(results, indent=1) + "\n")
    return results


def _trajectory(folder: Path, name: str, ways: list[str], options: argparse.Namespace) -> dict[str, Any]:
    mode, _, spacing = name.partition("@")
    trajectory = folder / "trajectory"
    print(f"{name}: training", flush=True)
    call("storing_trajectory.py", mode, spacing, str(options.count), options.size, str(trajectory))
    made = Trajectory(trajectory)
    found = {"state_bytes": made.state_bytes, "tensors": len(made.kinds), "count": made.count, "ways": {}}
    for way in ways:
        arguments = (way, str(trajectory), str(options.restores))
        found["ways"][way] = one = in_process(folder, "storing_store.py", *arguments)
        print(f"  {way}: {one['stored_bytes'][-1] / 1e6:.1f} MB, {one['seconds']:.0f} s", flush=True)
    shutil.rmtree(trajectory)
    return found


def _present(ways: list[str]) -> tuple[list[str], dict[str, str]]:
    """The ways that can be measured here, and why the others cannot."""
    missing = {way: [name for name in NEEDS.get(way, ()) if not _is_here(name)] for way in ways}
    left_out = {way: f"{', '.join(names)} not installed" for way, names in missing.items() if names}
    for way, why in left_out.items():
        print(f"{way} left out: {why}", flush=True)
    return [way for way in ways if way not in left_out], left_out


def _is_here(name: str) -> bool:
    return find_spec(name) is not None or shutil.which(name) is not None


def _programs() -> dict[str, str]:
    """Versions of programs that are no packages."""
    asked = {"restic": "version", "borg": "--version"}
    return {
        name: subprocess.run([name, how], capture_output=True, text=True, check=True).stdout.strip()
        for name, how in asked.items()
        if shutil.which(name)
    }


def _show(results: dict[str, Any], out: Path) -> None:
    from storing_chart import draw
    from storing_report import print_report

    print()
    print_report(results)
    written = ", ".join(str(path) for path in [out / "storing.json", *draw(results, out)])
    print(f"Took {results['seconds'] / 60:.1f} minutes. Written: {written}")


if __name__ == "__main__":
    main()
