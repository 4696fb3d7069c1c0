"""Metrics as far as they are known by now: nothing has to be waited for."""

from __future__ import annotations

from holdfast.errors import UsageError
from holdfast.frameworks import registry


def number_at_hand(value: object) -> float | None:
    """A metric as a number; None if it is none, or a device would have to be waited for."""
    if isinstance(value, int | float):
        return float(value)
    if value is None or not _on_host(value):
        return None
    try:
        return registry.scalar(value, "")
    except UsageError:  # a save will refuse it, and say so
        return None


def _on_host(value: object) -> bool:
    place = getattr(value, "place", None)  # of Paddle's tensors
    if place is not None:
        return bool(place.is_cpu_place())
    device = getattr(value, "device", "cpu")
    return getattr(device, "type", device) == "cpu"
