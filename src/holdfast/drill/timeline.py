"""Steps over seconds of one disturbed training, as a picture in SVG."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from holdfast.drill.course import Moment
from holdfast.drill.drilling import Outcome

WIDTH, HEIGHT, LEFT, BELOW, ABOVE = 800, 220, 50, 30, 15
MOST_POINTS = 800


def drawn(outcome: Outcome) -> str:
    """The picture; without one step, an empty one."""
    seconds = max(outcome.seconds, 0.001)
    steps = max([moment.step for moment in outcome.moments], default=0) or 1
    scale = _Scale(seconds, steps)
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="steps over seconds">',
        *_axes(scale),
        *_strike(outcome, scale),
        *(_way(list(launch), scale) for _, launch in itertools.groupby(outcome.moments, lambda m: m.launch)),
        "</svg>",
    ]
    return "".join(parts)


class _Scale:
    """From seconds and steps to places in the picture."""

    def __init__(self, seconds: float, steps: int) -> None:
        self.seconds = seconds
        self.steps = steps

    def x(self, seconds: float) -> float:
        return round(LEFT + min(seconds / self.seconds, 1) * (WIDTH - LEFT - 10), 1)

    def y(self, step: float) -> float:
        return round(HEIGHT - BELOW - step / self.steps * (HEIGHT - BELOW - ABOVE), 1)


def _axes(scale: _Scale) -> Iterator[str]:
    left, right, bottom, top = scale.x(0), scale.x(scale.seconds), scale.y(0), scale.y(scale.steps)
    yield f'<line class="axis" x1="{left}" y1="{bottom}" x2="{right}" y2="{bottom}"/>'
    yield f'<line class="axis" x1="{left}" y1="{top}" x2="{left}" y2="{bottom}"/>'
    yield f'<text x="{left - 6}" y="{top + 4}" text-anchor="end">{scale.steps}</text>'
    yield f'<text x="{left - 6}" y="{bottom}" text-anchor="end">step</text>'
    yield f'<text x="{right}" y="{bottom + 18}" text-anchor="end">{scale.seconds:.1f} s</text>'


def _strike(outcome: Outcome, scale: _Scale) -> Iterator[str]:
    if (strike := outcome.strike) is None:
        return
    begin, end, top, bottom = scale.x(strike.seconds), scale.x(strike.mended_seconds), ABOVE, scale.y(0)
    size = f'width="{round(end - begin, 1)}" height="{bottom - top}"'
    yield f'<rect class="lasts" x="{begin}" y="{top}" {size}/>'
    yield f'<line class="strike" x1="{begin}" y1="{top}" x2="{begin}" y2="{bottom}"/>'
    yield f'<text x="{begin}" y="{bottom + 18}" text-anchor="middle">fault</text>'


def _way(moments: Sequence[Moment], scale: _Scale) -> str:
    every = -(-len(moments) // MOST_POINTS)
    kept = [*moments[:-1:every], moments[-1]]
    points = " ".join(f"{scale.x(moment.seconds)},{scale.y(moment.step)}" for moment in kept)
    return f'<polyline class="way" points="{points}"/>'
