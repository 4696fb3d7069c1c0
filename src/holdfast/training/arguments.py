"""Arguments of the wrong kind, refused where they are given instead of where they first hurt."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from holdfast.domain import keep_rules, save_rules
from holdfast.domain.keep_rules import KeepRule
from holdfast.domain.mirrors import Mirror
from holdfast.domain.save_rules import SaveRule
from holdfast.errors import UsageError
from holdfast.storage.urls import check_shared, is_same_place

MEMORY_SECONDS = 600.0
"""Restarts of a crashed run come sooner, and who gave it up wants the memory back."""
_LARGEST_STEP = 10**18 - 1
"""As many digits as names of checkpoints have."""


def check_state(state: object) -> None:
    """Refuse a training state that is no dict, such as a bare model."""
    if not isinstance(state, dict):
        raise UsageError(
            f"The state is a {type(state).__name__}, not a dict.",
            do='Give every object by a name: {"model": model, "optimizer": optimizer}.',
        )


def check_step(step: object) -> None:
    """Refuse what cannot be the number of a step."""
    if isinstance(step, bool) or not isinstance(step, int) or not 0 <= step <= _LARGEST_STEP:
        raise UsageError(f"step={step!r} is not the number of a step.", do="Write for example step=500.")


def check_grace(seconds: object) -> None:
    """Refuse a time to wait that cannot be waited for."""
    number = seconds if isinstance(seconds, int | float) and not isinstance(seconds, bool) else -1
    if not (math.isfinite(number) and number >= 0):
        raise UsageError(
            f"grace_seconds={seconds!r} is not a number of seconds.", do="Write for example grace_seconds=20."
        )


def check_staging_memory(size_bytes: object) -> int | None:
    """Refuse what is no number of bytes."""
    if size_bytes is None:
        return None
    if isinstance(size_bytes, bool) or not isinstance(size_bytes, int) or size_bytes < 0:
        raise UsageError(
            f"staging_memory={size_bytes!r} is not a number of bytes.",
            do="Write for example staging_memory=2_000_000_000, or leave it out.",
        )
    return size_bytes


def check_probe(probe: object) -> Callable[[], Any] | None:
    """Refuse a probe that cannot be called."""
    if probe is None or callable(probe):
        return probe
    raise UsageError(
        f"probe={probe!r} cannot be called.",
        do="Give a function without arguments that returns a number, such as the loss of one fixed batch.",
    )


def check_save(given: SaveRule | str | None, keep: KeepRule) -> SaveRule:
    """When to save; refuses to wait for the best of what nobody compares."""
    rule = save_rules.parse(given)
    if save_rules.asks_for_best(rule):
        refuse_without_best(f"save={str(given)!r}", keep)
    return rule


def refuse_without_best(what: str, keep: KeepRule) -> None:
    if not keep.best:
        raise UsageError(
            f"{what}: nothing says what is best.",
            do="Give keep= a monitored metric, such as keep(last=3, best=1, monitor='val_loss').",
        )


def check_mirrors(given: object, keep: object) -> tuple[Mirror, ...]:
    """Where the mirrors are, and what each keeps; refuses what is no place, and rules for none."""
    if given is None:
        if keep is not None:
            raise UsageError("mirror_keep= is for a mirror, and there is none.", do="Give mirror=, too.")
        return ()
    places = [_mirror_place(one) for one in (given if isinstance(given, list | tuple) else [given])]
    wanted = keep if isinstance(keep, list | tuple) else [keep] * len(places)
    rules = [None if rule is None else str(rule) for rule in wanted]
    if len(set(places)) < len(places) or len(rules) != len(places):
        raise UsageError(
            f"mirror={given!r} with mirror_keep={keep!r}: one place twice, or not one rule for each.",
            do="Write one rule for all, or as many as there are mirrors; None keeps everything.",
        )
    for rule in rules:
        if rule is not None:
            keep_rules.parse(rule)
    return tuple(Mirror(place, rule) for place, rule in zip(places, rules, strict=True))


def _mirror_place(given: object) -> str:
    """A folder by its whole path, or a URL as it is, which can be one: nobody hears of it later."""
    if not isinstance(given, str | os.PathLike):
        raise UsageError(
            f"{given!r} is no place for a mirror.", do="Write for example mirror='s3://bucket/x'."
        )
    place = os.fspath(given)
    check_shared(place)
    return place if "://" in place else str(Path(place).expanduser().absolute())


def check_elsewhere(mirrors: tuple[Mirror, ...], repository: str | os.PathLike[str]) -> tuple[Mirror, ...]:
    """Refuse the repository itself as its mirror: what a mirror's rule lets go would go here."""
    if any(is_same_place(mirror.place, os.fspath(repository)) for mirror in mirrors):
        raise UsageError(
            f"{os.fspath(repository)} cannot be its own mirror.",
            do="Give mirror= another place, or leave it out.",
        )
    return mirrors


def chosen_background(background: object, *, in_memory: bool) -> bool:
    """Whether to save in the background where that can be: as given, else ``$HOLDFAST_BACKGROUND``, else yes.

    Snapshots in memory need it.
    """
    if background is False and in_memory:
        raise UsageError(
            "Snapshots are to stay in memory, but nothing may run in the background.",
            do="Leave background= out.",
        )
    if isinstance(background, bool) or in_memory:
        return bool(background) or in_memory
    chosen = os.environ.get("HOLDFAST_BACKGROUND") or "1" if background is None else background
    if chosen not in ("0", "1"):
        what = f"background={background!r}" if background is not None else f"HOLDFAST_BACKGROUND={chosen}"
        raise UsageError(
            f"{what} says neither yes nor no.", do="Use background=False, or HOLDFAST_BACKGROUND=0."
        )
    return chosen == "1"


def chosen_memory_seconds() -> float:
    """For how long memory is held for a successor of this process: ``$HOLDFAST_MEMORY_SECONDS``."""
    chosen = os.environ.get("HOLDFAST_MEMORY_SECONDS") or str(MEMORY_SECONDS)
    try:
        seconds = float(chosen)
    except ValueError:
        seconds = -1.0
    if not (math.isfinite(seconds) and seconds >= 0):
        raise UsageError(
            f"HOLDFAST_MEMORY_SECONDS={chosen} is not a number of seconds.", do="Use for example 600."
        )
    return seconds
