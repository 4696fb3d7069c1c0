"""Whether a resumed training joins what it was: first losses and a probe, against those recorded."""

from __future__ import annotations

import math
import struct

from holdfast.domain.health import Finding

TAIL = 32
"""So many of the newest losses a checkpoint records."""
JOIN_STEPS = 10
"""A rise within so many steps of a restore is laid to the restore."""
TOLERANCE = 1e-3
"""Relative, for a probe on other software or another device."""


def tail_of(saved: object) -> list[float]:
    """Losses as a checkpoint records them; none, if it records none that can be."""
    values = saved if isinstance(saved, list) else []
    return [value for value in values[-TAIL:] if isinstance(value, float) and math.isfinite(value)]


def probe_of(saved: object) -> float | None:
    """A probe as a checkpoint records it."""
    return saved if isinstance(saved, float) else None


def seam(rise: Finding) -> Finding:
    """What a rise right after a restore is."""
    return Finding("seam", f"the resumed training does not join what it was: {rise.detail}")


def compare_probe(recorded: float, again: float, *, exact: bool) -> Finding | None:
    """Compare a probe with what it was when the checkpoint was made: bit for bit, or nearly."""
    same_bits = struct.pack("d", recorded) == struct.pack("d", again)
    if same_bits or (not exact and math.isclose(recorded, again, rel_tol=TOLERANCE)):
        return None
    how = "" if exact else f", more than {TOLERANCE:.1%} apart"
    return Finding("probe", f"the probe gives {again!r}, and gave {recorded!r} when this was saved{how}")
