"""To an object store and back, beside the rivals.

    python benchmarks/stores.py [--size MB] [--repetitions N] [--s3fs PYTHON] [--folder PATH]

The store is moto's server on loopback, a new one for each turn, which serves one request at a time: the
limit says what it can do. Turns rotate. Then: what a cut at nine tenths of an upload costs. Writes
stores.json to benchmarks/out.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from measure import facts, seconds
from rich.console import Console
from stores_client import WAYS, tensors
from tables import table

sys.path.insert(0, str(Path(__file__).parent.parent))
from tests import s3_server
from tests.s3_proxy import meddling

HERE = Path(__file__).parent
SAID = {
    "limit": "limit: bare PUT and GET",
    "obstore": "obstore",
    "boto3": "boto3, s3transfer",
    "s3fs": "s3fs",
    "torch": "torch.save, boto3",
    "dcp": "DCP, s3fs",
    "holdfast": "**holdfast**, the bucket itself",
    "mirror": "**holdfast**, a mirror",
}


def main() -> None:
    options = _options()
    s3_server.set_credentials()
    os.environ["HOLDFAST_BACKGROUND"] = "0"
    with tempfile.TemporaryDirectory(prefix="holdfast-bench-", dir=options.folder) as folder:
        results: dict[str, Any] = {"facts": facts(Path(folder)), "bytes": options.size * 1_000_000}
        results["raw"] = compete(Path(folder), results["bytes"], options.repetitions, options.s3fs)
        results["memcpy_seconds"] = memcpy_seconds(results["bytes"])
        results["cut"] = cut(Path(folder), results["bytes"])
        results["part_bytes"] = part_bytes(results["bytes"])
    results["figures"] = figures(results)
    out = HERE / "out"
    out.mkdir(exist_ok=True)
    (out / "stores.json").write_text(json.dumps(results, indent=1) + "\n")
    show(results)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=1500, help="of the state, in MB")
    parser.add_argument("--repetitions", type=int, default=3)
    s3fs = HERE.parent / ".venv" / "s3fs" / "bin" / "python"
    parser.add_argument(
        "--s3fs", default=str(s3fs), help="a Python that has it: it needs a botocore of its own"
    )
    parser.add_argument("--folder", type=Path, default=HERE / "out", help="where repositories lie meanwhile")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    return options


def compete(folder: Path, size_bytes: int, repetitions: int, s3fs: str) -> dict[str, list[dict[str, Any]]]:
    pythons = {name: s3fs if name in ("s3fs", "dcp") else sys.executable for name in WAYS}
    present = [name for name, python in pythons.items() if Path(python).exists()]
    taken: dict[str, list[dict[str, Any]]] = {name: [] for name in present}
    for repetition in range(repetitions):
        turn = repetition % len(present)
        for name in present[turn:] + present[:turn]:
            taken[name].append(_turn(name, pythons[name], folder, size_bytes))
            told = " / ".join(f"{part['seconds']:.2f} s" for part in taken[name][-1].values())
            print(f"  {repetition + 1}/{repetitions} {name}: {told}", flush=True)
    return taken


def _turn(name: str, python: str, folder: Path, size_bytes: int) -> dict[str, Any]:
    with s3_server.serving() as endpoint, tempfile.TemporaryDirectory(dir=folder) as work:
        result = Path(work) / "result.json"
        client = [python, "-W", "ignore", str(HERE / "stores_client.py"), name, endpoint, str(size_bytes)]
        variables = os.environ | {"TORCH_PACKAGES": sysconfig.get_path("purelib")}
        subprocess.run([*client, work, str(result)], check=True, stdout=subprocess.DEVNULL, env=variables)
        return dict(json.loads(result.read_text()))


def memcpy_seconds(size_bytes: int) -> float:
    source = np.ones(size_bytes, np.uint8)
    into = np.zeros_like(source)
    return min(seconds(lambda: np.copyto(into, source)) for _ in range(3))


def cut(folder: Path, size_bytes: int) -> dict[str, int]:
    """Bytes that leave for a mirror before nine tenths were sent and no more is allowed, and after that."""
    import holdfast
    from holdfast.cli import app

    here, sent = str(folder / "cut"), {"before": 0, "after": 0}
    holdfast.save(here, tensors(np.random.default_rng(1).integers(0, 256, size_bytes, np.uint8)), step=1)

    def meter(method: str, headers: dict[str, str]) -> int | None:
        size = int(headers.get("content-length", 0)) if method == "PUT" else 0
        if is_cut and not is_mended:
            return 403
        sent["after" if is_mended else "before"] += size
        is_cut.extend([True] * (sent["before"] > 0.9 * size_bytes))
        return None

    is_cut: list[bool] = []
    is_mended: list[bool] = []
    with s3_server.serving() as endpoint, meddling(endpoint, meter) as through:
        place = s3_server.url(through, "cut")
        assert app.run(("sync", here, place)) != 0
        is_mended.append(True)
        assert app.run(("sync", here, place)) == 0
    return {f"{name}_bytes": count for name, count in sent.items()}


def part_bytes(size_bytes: int) -> int:
    """Bytes asked for when a third of a state is loaded, the model without its optimizer's moments."""
    import holdfast

    state = tensors(np.random.default_rng(2).integers(0, 256, size_bytes, np.uint8))
    names = list(state)
    model = {name: state[name] for name in names[: len(names) // 3]}
    asked: list[int] = []

    def meter(method: str, headers: dict[str, str]) -> None:
        start, _, stop = headers.get("range", "").removeprefix("bytes=").partition("-")
        if method == "GET" and start.isdigit() and stop.isdigit():
            asked.append(int(stop) + 1 - int(start))

    with s3_server.serving() as endpoint:
        holdfast.save(s3_server.url(endpoint, "part"), {"model": model, "rest": state}, step=1)
        with meddling(endpoint, meter) as through:
            into = {name: np.zeros_like(array) for name, array in model.items()}
            holdfast.load(s3_server.url(through, "part"), {"model": into}, only="model")
    assert all(into[name].tobytes() == model[name].tobytes() for name in model)
    return sum(asked)


def figures(results: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Medians, as ratios to those of the limit; CPU seconds for each GB."""
    found: dict[str, dict[str, float]] = {}
    for name, turns in results["raw"].items():
        found[name] = {}
        for part in ("upload", "restore"):
            found[name][part] = median(turn[part]["seconds"] for turn in turns)
            found[name][f"{part}_cpu_per_gb"] = (
                median(turn[part]["cpu_seconds"] for turn in turns) / results["bytes"] * 1e9
            )
    for each in found.values():
        for part in ("upload", "restore"):
            each[f"{part}_ratio"] = each[part] / found["limit"][part]
    return found


def markdown(results: dict[str, Any]) -> list[str]:
    """The rows of the table in docs/benchmarks.md."""
    return [f"| {' | '.join(row)} |" for row in _rows(results)]


def _rows(results: dict[str, Any]) -> list[list[str]]:
    return [
        [SAID[name], *(text for part in ("upload", "restore") for text in _told(figure, part))]
        for name, figure in results["figures"].items()
    ]


def _told(figure: dict[str, float], part: str) -> tuple[str, str, str]:
    return f"{figure[part]:.2f} s", f"{figure[part + '_ratio']:.2f}", f"{figure[part + '_cpu_per_gb']:.2f} s"


def show(results: dict[str, Any]) -> None:
    each = ("s", "x limit", "CPU/GB")
    made = table(f"{results['bytes'] / 1e6:.0f} MB to a store and back", "", *each, *each)
    for row in _rows(results):
        made.add_row(*row)
    console = Console(width=120)
    console.print(made)
    console.print(f"memcpy of the same: {results['memcpy_seconds']:.2f} s; a cut at 90 %: {results['cut']}")
    console.print(f"A third of it loaded alone: {results['part_bytes'] / 1e6:.1f} MB asked for.")


if __name__ == "__main__":
    main()
