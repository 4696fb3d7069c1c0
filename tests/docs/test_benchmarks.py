"""The page on benchmarks quotes its results: the tables of storage are those of the JSON beside it."""

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
PAGE = ROOT / "docs/benchmarks.md"
RESULTS = sorted((ROOT / "docs/benchmarks").glob("results-storing*.json"))


@pytest.mark.parametrize("path", RESULTS, ids=lambda p: p.stem)
def test_tables_of_storage_are_those_of_the_results(path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    from storing_figures import figures, targets
    from storing_report import markdown

    results = json.loads(path.read_text())
    assert results["figures"] == {name: figures(raw) for name, raw in results["raw"].items()}
    assert results["targets"] == targets(results["figures"])
    lines = PAGE.read_text().splitlines()
    assert [line for line in markdown(results) if line not in lines] == []


def test_there_are_results():
    assert RESULTS


def test_the_table_of_scale_is_that_of_the_results(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    from tables import seconds_text

    results = json.loads((ROOT / "docs/benchmarks/results-scale.json").read_text())
    for look in results["looks"].values():
        taken = " | ".join(seconds_text(look[kind]) for kind in ("seconds", "cpu_seconds"))
        row = next(line for line in PAGE.read_text().splitlines() if f"| {taken} |" in line)
        assert row.endswith(f"| {look['memory_bytes'] / 2**20:.0f} MiB |")


@pytest.mark.parametrize("name", ["results-stores.json", "results-stores-300MB.json"])
def test_the_tables_of_stores_are_those_of_the_results(name, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    from stores import figures, markdown

    results = json.loads((ROOT / "docs/benchmarks" / name).read_text())
    assert results["figures"] == figures(results)
    lines = PAGE.read_text().splitlines()
    assert [line for line in markdown(results) if line not in lines] == []


def test_the_table_of_what_training_waits_is_that_of_the_results(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    from training_figures import training_figures

    raw = json.loads((ROOT / "docs/benchmarks/results-training-1.5GB-held.json").read_text())
    one = training_figures(raw)["ways"]["holdfast, background"]
    for said in (
        f"| training waits for a save, median | {one['held'] * 1000:.1f} ms |",
        f"| training waits for a save, the longest of six | {one['held_p99'] * 1000:.0f} ms |",
        f"| durable while training | {one['durable']:.2f} s, {one['durable_ratio']:.2f} times the limit |",
        f"| throughput, a save every 10 steps | {one['often_computed']:.1%} |".replace("%", " %"),
        f"| throughput, a save every 100 steps | {one['rarely_computed']:.1%} |".replace("%", " %"),
    ):
        assert said in PAGE.read_text()


def test_the_table_of_training_at_full_size_is_that_of_the_results(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    from training_figures import training_figures
    from training_report import markdown

    results = json.loads((ROOT / "docs/benchmarks/results-training-1.5GB.json").read_text())
    kinds = results["training"]["1.5GB"]["kinds"]
    assert kinds == {kind: training_figures(raw) for kind, raw in _raw_of_kinds(results).items()}
    lines = PAGE.read_text().splitlines()
    assert [row for row in markdown(kinds) if row not in lines] == []


def _raw_of_kinds(results):
    return {kind: raw for kind, raw in results["raw"]["training"]["1.5GB"].items() if kind != "relaunch"}


def test_the_table_of_recoveries_is_that_of_the_results(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    from tables import seconds_text
    from training_figures import RECOVERY_TARGET_SECONDS, recovery_figures

    results = json.loads((ROOT / "docs/benchmarks/results-recovery.json").read_text())
    lines = PAGE.read_text().splitlines()
    for size, raw in results["raw"]["recovery"].items():
        for fault, one in recovery_figures(raw).items():
            taken = " | ".join(seconds_text(one[name]) for name in ("found", "ended", "to_step", "slowest"))
            name = f"{size.replace('MB', ' MB')}, {fault}"
            assert f"| {name} | {taken} | {RECOVERY_TARGET_SECONDS} s |" in lines
