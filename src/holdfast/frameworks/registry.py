"""The wiring: which frameworks there are, and which of them this process uses."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from functools import cache
from typing import Any, cast

from holdfast.errors import UnsupportedError, UsageError
from holdfast.frameworks.base import Framework, LoadWalk

_MODULES = {
    "torch": "holdfast.frameworks.torch",
    "paddle": "holdfast.frameworks.paddle",
    "numpy": "holdfast.frameworks.numpy",
    "python": "holdfast.frameworks.python",
}
"""In the order in which they are asked: ``python`` takes what no framework claims."""

Builder = Callable[[Any, str, LoadWalk], Any]


def active() -> list[Framework]:
    """Frameworks that the script has imported: a value of another cannot be in its state."""
    return [framework(name) for name in _MODULES if name == "python" or name in sys.modules]


def importable(names: Collection[str]) -> list[Framework]:
    """Those of these frameworks that this process has or can have; imports them before any is used."""
    found = []
    for name in _MODULES:
        if name in names:
            with suppress(UnsupportedError):
                found.append(framework(name))
    return found


@cache
def framework(name: str) -> Framework:
    """One framework by name, imported on first use.

    Raises
    ------
    UnsupportedError
        The name is unknown to this version, or the framework is not installed.
    """
    if name not in _MODULES:
        raise UnsupportedError(
            f"The checkpoint holds values of the framework {name!r}, unknown to this version.",
            do="Upgrade holdfast.",
        )
    try:
        module = importlib.import_module(_MODULES[name])
    except (ImportError, OSError) as error:  # OSError: a shared library of it is missing
        raise UnsupportedError(
            f"The checkpoint holds {name} values, but {name} cannot be imported: {error}.",
            do=f"Install it, for example with: pip install {name}",
        ) from error
    return cast("Framework", module.FRAMEWORK)


def builder(kind: str) -> Builder | None:
    """What builds a value of this kind of component where no live object awaits it.

    A framework module may offer ``BUILDERS``, a dict from kind to builder, for values
    (a sparse tensor, a generator) that can be made from their saved state alone.
    """
    name = kind.partition(".")[0]
    if name not in _MODULES:
        return None
    framework(name)
    builders: dict[str, Builder] = getattr(sys.modules[_MODULES[name]], "BUILDERS", {})
    return builders.get(kind)


Importer = Callable[[Any, Any, str, LoadWalk], None]


def is_imported(kind: str) -> bool:
    """Whether a component is a ``state_dict`` from a framework's own file, of an unknown kind of object."""
    return kind.endswith(".imported")


def importer(kind: str, live_kind: str) -> Importer | None:
    """What plans an imported ``state_dict`` into a live object of this kind.

    A framework module may offer ``IMPORTERS``, a dict from the kind of live component to a
    function of (live object, saved mapping, path, walk).
    """
    name = kind.partition(".")[0]
    if name not in _MODULES:
        return None
    framework(name)
    importers: dict[str, Importer] = getattr(sys.modules[_MODULES[name]], "IMPORTERS", {})
    return importers.get(live_kind)


def scalar(value: object, name: str) -> float:
    """A metric as a number; may synchronize a device.

    Raises
    ------
    UsageError
        It is neither a number nor a tensor of one element.
    """
    if isinstance(value, int | float):
        return float(value)
    for framework in active():
        number = framework.scalar(value)
        if number is not None:
            return number
    raise UsageError(
        f"The metric {name} is a {type(value).__name__}, not a number.", do=f"Report {name} as a number."
    )


def collective_seconds(values: Iterable[object]) -> tuple[int, float] | None:
    """As `Framework.collective_seconds`, of the first data parallel module among these."""
    timed = (framework.collective_seconds(value) for value in values for framework in active())
    return next((one for one in timed if one is not None), None)


def data_seed() -> int:
    """The seed that the script chose, as the first framework has it that can tell; else 0."""
    seeds = (framework.data_seed() for framework in active())
    return next((seed for seed in seeds if seed is not None), 0)
