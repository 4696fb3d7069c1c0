"""The public surface: nothing comes or goes by accident, and everything public is explained."""

from __future__ import annotations

import inspect
import tomllib
from pathlib import Path

import pytest

import holdfast

PUBLIC = {
    "BusyError",
    "ChangedError",
    "Checkpoint",
    "Checkpointer",
    "DamagedError",
    "FormatError",
    "HoldfastError",
    "MismatchError",
    "NotFoundError",
    "PoisonedError",
    "Progress",
    "RankError",
    "RolledBackError",
    "Save",
    "SealedError",
    "SignatureError",
    "StorageError",
    "SupersededError",
    "UnhealthyError",
    "UnsupportedError",
    "UsageError",
    "__version__",
    "every",
    "keep",
    "load",
    "open",
    "save",
}
METHODS = {
    "Checkpointer": {
        "batches",
        "epochs",
        "progress",
        "report",
        "restored",
        "save",
        "step",
        "steps",
        "stop",
    },
    "Save": {"done", "wait_durable", "wait_uploaded"},
    "Checkpoint": {
        "config",
        "export",
        "fork",
        "id",
        "kind",
        "load",
        "manifest",
        "metrics",
        "run",
        "step",
        "summary",
        "verify",
    },
}


def test_the_names_are_exactly_these() -> None:
    assert set(holdfast.__all__) == PUBLIC
    assert dir(holdfast) == sorted(PUBLIC)
    for name in PUBLIC:
        assert getattr(holdfast, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Chekpointer'"):
        holdfast.Chekpointer  # type: ignore[attr-defined]  # noqa: B018


def test_the_methods_are_exactly_these() -> None:
    for name, expected in METHODS.items():
        assert {m for m in dir(getattr(holdfast, name)) if not m.startswith("_")} == expected


def test_what_is_public_is_explained() -> None:
    for name in PUBLIC - {"__version__"}:
        assert inspect.getdoc(getattr(holdfast, name)), name
    for name in ("epochs", "batches", "steps", "step", "report", "stop", "save", "progress", "restored"):
        assert inspect.getdoc(getattr(holdfast.Checkpointer, name)), name


def test_the_signatures_are_those_of_the_documentation() -> None:
    options = inspect.signature(holdfast.Checkpointer).parameters
    assert list(options) == [
        "repository",
        "state",
        "run",
        "config",
        "resume",
        "changed",
        "save",
        "keep",
        "on_fault",
        "on_finding",
        "probe",
        "signals",
        "rng",
        "grace_seconds",
        "background",
        "on_busy",
        "compact",
        "mirror",
        "mirror_keep",
        "publish",
        "staging_memory",
        "listeners",
    ]
    defaults = {name: p.default for name, p in options.items()}
    assert defaults["resume"] == "auto"
    assert defaults["changed"] == "refuse"
    assert defaults["save"] == "auto"
    assert defaults["keep"] == "last 3"
    assert defaults["on_fault"] == "pause"
    assert (defaults["signals"], defaults["rng"], defaults["grace_seconds"]) == (True, True, 20)
    assert list(inspect.signature(holdfast.load).parameters) == [
        "repository",
        "into",
        "run",
        "at",
        "only",
        "strict",
    ]
    assert {"repository", "state", "step", "run"} <= set(inspect.signature(holdfast.save).parameters)


def test_every_error_has_a_kind_and_an_exit_code_of_its_own() -> None:
    from holdfast import errors

    found = [e for e in vars(errors).values() if inspect.isclass(e) and issubclass(e, errors.HoldfastError)]
    kinds = [e.kind for e in found]
    assert len(kinds) == len(set(kinds))
    assert all(1 <= e.exit_code < 126 for e in found)
    error = errors.UsageError("What happened.", do="What to do.")
    assert (str(error), error.what, error.do) == (
        "What happened. What to do.",
        "What happened.",
        "What to do.",
    )


def test_the_version_is_the_packages() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    assert project["project"]["version"] == holdfast.__version__
