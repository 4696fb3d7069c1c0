"""What a checkpoint recorded against what the script gives now: values, and the environment."""

from __future__ import annotations

import argparse
import dataclasses
import enum
import math
import sys
import types
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any, Final, Literal

import msgspec

from holdfast.errors import ChangedError, UsageError

Policy = Literal["refuse", "keep", "apply"]

_LONGEST_TEXT = 1000
_PLAIN = (str, bytes, bool, int, float, complex, type(None))


class Missing(enum.Enum):
    """Stands where one side has no value."""

    MISSING = "nothing"


MISSING: Final = Missing.MISSING


class Change(msgspec.Struct, frozen=True):
    """A value that differs; either side may be `MISSING`."""

    name: str
    recorded: Any
    given: Any

    def __str__(self) -> str:
        return f"{self.name}: {_show(self.recorded)} → {_show(self.given)}"


class Resolution(msgspec.Struct, frozen=True):
    """What to do about changes.

    Attributes
    ----------
    apply : dict[str, Any]
        Values of the script to put back after the restore.
    warning : str or None
        What to say once.
    """

    apply: dict[str, Any] = {}
    warning: str | None = None


class EnvironmentChanges(msgspec.Struct, frozen=True):
    """How the environment differs, one sentence each.

    Attributes
    ----------
    inexact : tuple[str, ...]
        For these, bit-for-bit equality cannot be promised any more.
    noteworthy : tuple[str, ...]
        Good to know; not a reason to differ by itself.
    """

    inexact: tuple[str, ...] = ()
    noteworthy: tuple[str, ...] = ()

    @property
    def warning(self) -> str | None:
        """The one warning, where something cannot be exact any more."""
        if not self.inexact:
            return None
        lines = [*self.inexact, *self.noteworthy]
        return "The run goes on, but may no longer be exact bit for bit:\n" + _listed(lines)


def compare_given(recorded: Mapping[str, Any], given: Mapping[str, Any]) -> list[Change]:
    """List what differs, names recorded first; numbers are compared as numbers, NaN equals NaN."""
    names = [*recorded, *(name for name in given if name not in recorded)]
    pairs = [(name, recorded.get(name, MISSING), given.get(name, MISSING)) for name in names]
    return [Change(name, old, new) for name, old, new in pairs if not _same(old, new)]


def _same(old: Any, new: Any) -> bool:
    if isinstance(old, float) and isinstance(new, float) and math.isnan(old) and math.isnan(new):
        return True
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        return old.keys() == new.keys() and all(_same(old[k], new[k]) for k in old)
    if isinstance(old, list | tuple) and isinstance(new, list | tuple):
        return len(old) == len(new) and all(map(_same, old, new))
    return bool(old == new)


def decide_changes(changes: Sequence[Change], policy: Policy) -> Resolution:
    """Decide what ``changed=`` means for these changes.

    Raises
    ------
    ChangedError
        With ``"refuse"``, listing every change.
    UsageError
        The policy is none of the three.
    """
    if policy not in ("refuse", "keep", "apply"):
        raise UsageError(f"changed={policy!r} is unknown.", do='Use "refuse", "keep" or "apply".')
    if not changes:
        return Resolution()
    listed = _listed(changes)
    if policy == "refuse":
        raise ChangedError(
            f"The script gives other values than the checkpoint recorded (recorded → now):\n{listed}\n",
            do='Put the old values back, or choose: changed="apply" goes on with the new ones, '
            'changed="keep" with the recorded ones.',
        )
    if policy == "keep":
        warning = f"Going on with the recorded values, not the script's (recorded → script):\n{listed}"
        return Resolution(warning=warning)
    return Resolution(
        apply={c.name: c.given for c in changes if c.given is not MISSING},
        warning=f"Going on with the script's new values; the run changes here (recorded → now):\n{listed}",
    )


def _listed(lines: Sequence[object]) -> str:
    return "\n".join(f"  {line}" for line in lines)


def _show(value: object) -> str:
    return "(nothing)" if value is MISSING else repr(value)


def flatten_config(config: object) -> dict[str, Any]:
    """Flatten what ``config=`` was given to dotted names and plain values.

    Parameters
    ----------
    config : mapping, Namespace, dataclass or None
        May be nested. Paths become text, enums ``Class.MEMBER``, classes and functions their
        names, sets sorted lists, other objects what they print as.

    Raises
    ------
    UsageError
        Names the entry that would not read the same at the next launch, or that comes twice.
    """
    if config is None:
        return {}
    fields = _fields(config)
    if fields is None:
        raise UsageError(
            f"config= cannot be a {type(config).__name__}.", do="Give a dict, a Namespace or a dataclass."
        )
    result: dict[str, Any] = {}
    for name, value in _flatten(fields, ""):
        if name in result:
            raise UsageError(f"config= names {name!r} twice.", do="Rename one of the two.")
        result[name] = value
    return result


def _fields(value: object) -> dict[Any, Any] | None:
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, argparse.Namespace | types.SimpleNamespace):
        return vars(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    return None


def _flatten(fields: dict[Any, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in fields.items():
        name = f"{prefix}{key}"
        nested = _fields(value)
        if nested:
            yield from _flatten(nested, f"{name}.")
        else:
            yield name, {} if nested is not None else _leaf(value, name)


def _leaf(value: Any, name: str) -> Any:
    if isinstance(value, enum.Enum):
        return f"{type(value).__name__}.{value.name}"
    if isinstance(value, PurePath):
        return str(value)
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(value, numpy.generic):
        value = value.item()
    if type(value) in _PLAIN:
        return value
    if (nested := _fields(value)) is not None:
        return {str(key): _leaf(item, f"{name}.{key}") for key, item in nested.items()}
    if isinstance(value, list | tuple):
        return [_leaf(item, f"{name}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, set | frozenset):
        return sorted((_leaf(item, name) for item in value), key=repr)
    return _text(value, name)


def _text(value: Any, name: str) -> str:
    named = isinstance(value, type | types.FunctionType | types.BuiltinFunctionType)
    if named and value.__module__ is not None:  # a method bound to an object has none
        return f"{value.__module__}.{value.__qualname__}"
    text = repr(value)
    if " at 0x" in text or "..." in text or len(text) > _LONGEST_TEXT:
        raise UsageError(
            f"config= holds at {name!r} a {type(value).__name__} that would not read the same next time.",
            do="Leave it out, or give a plain value in its place.",
        )
    return text


def compare_environment(
    recorded: Mapping[str, Mapping[str, str]], now: Mapping[str, Mapping[str, str]]
) -> EnvironmentChanges:
    """Compare what exactness depends on besides the state.

    Parameters
    ----------
    recorded, now : mapping
        Sections ``versions``, ``devices``, ``flags`` and ``world`` decide exactness; ``code``
        (git commit, command ...) and any other is merely noted. So is what only one side
        knows, and a new patch release of Python.
    """
    inexact: list[str] = []
    noteworthy: list[str] = []
    for section in [*recorded, *(s for s in now if s not in recorded)]:
        for change in compare_given(recorded.get(section, {}), now.get(section, {})):
            graded = inexact if _decides(section, change) else noteworthy
            graded.append(_sentence(_SUBJECTS.get(section, "{}").format(change.name), change))
    return EnvironmentChanges(tuple(inexact), tuple(noteworthy))


_SUBJECTS = {
    "versions": "The version of {}",
    "devices": "The device of {}",
    "world": "The {}",
    "code": "The {}",
}


def _decides(section: str, change: Change) -> bool:
    if MISSING in (change.recorded, change.given):
        return False
    if section == "versions" and change.name == "python":
        return _release(change.recorded) != _release(change.given)
    return section in ("versions", "devices", "flags", "world")


def _release(version: str) -> list[str]:
    return version.split(".")[:2]


def _sentence(subject: str, change: Change) -> str:
    if change.given is MISSING:
        return f"{subject} is not known now, was {change.recorded}."
    if change.recorded is MISSING:
        return f"{subject} is {change.given} now, and was not recorded."
    return f"{subject} is {change.given} now, was {change.recorded}."
