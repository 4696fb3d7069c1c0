"""What a supervisor learns of this process, and what that may cost: nothing that has to be waited for."""

from __future__ import annotations

from holdfast.frameworks import registry


def at_hand(loss: object) -> float | None:
    """A loss as a number; None if there is none, or a device would have to be waited for."""
    if isinstance(loss, int | float):
        return float(loss)
    if loss is None or not _on_host(loss):
        return None
    return registry.scalar(loss, "loss")


def _on_host(value: object) -> bool:
    place = getattr(value, "place", None)  # of Paddle's tensors
    if place is not None:
        return bool(place.is_cpu_place())
    device = getattr(value, "device", "cpu")
    return getattr(device, "type", device) == "cpu"
