"""Values whose class is part of them: a Counter, a named tuple, an enum, a container of the script's own.

Each is kept as a plain value and the name of its class. To make one anew, the class is looked up among
what the process has defined by then: nothing is imported, and no code of the class runs.
"""

from __future__ import annotations

import enum
import sys
import types
from collections import Counter, OrderedDict, defaultdict, deque
from contextlib import suppress
from functools import lru_cache
from typing import Any, cast

from holdfast.domain import tree
from holdfast.domain.tree import Component

MADE = "python.instance"
"""State ``(class, plain value)``, and for a ``defaultdict`` the name of its factory: all there is to it."""
AWAITED = "python.live_instance"
"""State ``(class, plain value)``: there is more to it, so that only a live one can take the value."""

_BASES: tuple[Any, ...] = (OrderedDict, defaultdict, dict, list, tuple, set, frozenset)
_PLAIN = (dict, list, tuple, set, frozenset)
_FACTORIES: dict[str, Any] = {
    factory.__name__: factory
    for factory in (
        bool,
        int,
        float,
        complex,
        str,
        bytes,
        list,
        tuple,
        dict,
        set,
        Counter,
        OrderedDict,
        deque,
    )
}


def is_kept(saved: object) -> bool:
    """Whether this is what `kept` returns for a value of a class of its own."""
    return isinstance(saved, Component) and saved.kind in (MADE, AWAITED)


def label(saved: Any) -> str:
    """The class that a kept value names."""
    return str(saved.state[0]) if isinstance(saved.state, tuple) and saved.state else saved.kind


def kept(value: Any, plain: Any) -> Any:
    """What the tree holds for a value: ``plain`` itself, where that is of the same class."""
    cls: Any = type(value)
    if cls is type(plain):
        return plain
    if cls is defaultdict:
        return _kept_defaultdict(value, plain)
    if isinstance(value, enum.Enum) or cls is OrderedDict:
        return Component(MADE, (name_of(cls), plain))
    if not _can_be_made(cls):
        if isinstance(value, tuple | frozenset):
            return plain  # of C code, such as torch.Size: the plain one equals it
        return Component(AWAITED, (name_of(cls), plain))
    return Component(AWAITED if _has_attributes(value) else MADE, (name_of(cls), plain))


def _kept_defaultdict(value: defaultdict[Any, Any], plain: Any) -> Component:
    factory, name = value.default_factory, name_of(defaultdict)
    if factory is None:
        return Component(MADE, (name, plain, None))
    known = getattr(factory, "__name__", None)
    if isinstance(factory, type) and _FACTORIES.get(str(known)) is factory:
        return Component(MADE, (name, plain, known))
    return Component(AWAITED, (name, plain))


@lru_cache(maxsize=256)
def _can_be_made(cls: Any) -> bool:
    try:
        _bare(cls, ())
    except TypeError:
        return False
    return not issubclass(cls, defaultdict)  # its factory may be anything


def _bare(cls: type, items: Any) -> Any:
    """One that no code of the class has seen; empty, if it can be filled later."""
    base = next(b for b in _BASES if b in cls.__mro__)
    return base.__new__(cls, items) if base in (tuple, frozenset) else base.__new__(cls)


def _has_attributes(value: Any) -> bool:
    slots = any(getattr(cls, "__slots__", ()) for cls in type(value).__mro__)
    return slots or bool(getattr(value, "__dict__", None))


def name_of(cls: type) -> str:
    """``module:Class``; one defined in a function is found once it is at the top of its module."""
    return f"{cls.__module__}:{cls.__qualname__.rpartition('<locals>.')[2]}"


def class_for(name: str, plain: Any, like: object) -> type | None:
    """The class that a saved value gets: of that name, or that of the live value if it was renamed."""
    live, found = type(like), _find(name)
    same = name_of(live) == name or (found is not None and found in live.__mro__)
    candidates = (live, found) if same else (found, live)
    return next((c for c in candidates if c is not None and _is_own(c) and _suits(c, plain)), None)


def _is_own(cls: type) -> bool:
    return cls not in _PLAIN and any(base in cls.__mro__ for base in (enum.Enum, *_PLAIN))


def _suits(cls: type, plain: Any) -> bool:
    """Whether an instance can hold this: enums have values of any type, a container's subclass its items."""
    if enum.Enum in cls.__mro__:
        return True
    fields = getattr(cls, "_fields", None)
    return type(plain) in cls.__mro__ and (fields is None or len(fields) == len(plain))


def _find(name: str) -> type | None:
    """A class that was defined before; looks into dicts only, so that no lazy module is woken."""
    module, _, path = name.partition(":")
    found: Any = sys.modules.get(module)
    for part in path.split("."):
        if isinstance(found, type):
            found = type.__getattribute__(found, "__dict__").get(part)
        elif issubclass(type(found), types.ModuleType):
            found = object.__getattribute__(found, "__dict__").get(part)
    return found if issubclass(type(found), type) else None


def make(cls: type, plain: Any, factory: str | None = None) -> Any:
    """An instance of a container's class that holds these items.

    Raises
    ------
    KeyError
        The factory is not one that `kept` names.
    """
    new = _bare(cls, plain)
    if isinstance(new, dict):
        put = OrderedDict.__setitem__ if isinstance(new, OrderedDict) else dict.__setitem__
        for key, value in plain.items():
            put(new, key, value)
    elif isinstance(new, list):
        list.extend(new, plain)
    elif isinstance(new, set):
        set.update(new, plain)
    if factory is not None and isinstance(new, defaultdict):
        new.default_factory = _FACTORIES[factory]
    return new


def member(cls: Any, value: Any) -> enum.Enum | None:
    """The member of an enum that has this value; ``_missing_`` of the script's is not asked."""
    node = tree.encode(value)
    found = next((m for m in cls.__members__.values() if tree.encode(m.value) == node), None)
    together = issubclass(cls, enum.Flag) and cls._missing_.__func__ is enum.Flag._missing_.__func__  # type: ignore[attr-defined]
    if found is None and together and type(value) is int:
        with suppress(ValueError):
            return cast("enum.Enum", cls(value))
    return cast("enum.Enum | None", found)


def plain(saved: Any) -> Any:
    """A saved tree with plain values in place of all that have a class of their own."""
    if is_kept(saved):
        return plain(saved.state[1])
    if isinstance(saved, Component):
        return Component(saved.kind, plain(saved.state))
    if isinstance(saved, dict):
        return {plain(key): plain(value) for key, value in saved.items()}
    return type(saved)(map(plain, saved)) if type(saved) in _PLAIN else saved
