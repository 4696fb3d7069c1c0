"""Steps over seconds of one disturbed training, and what struck it when, as a picture in SVG."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from html import escape

from holdfast.drill.course import Moment, Strike

WIDTH, HEIGHT, LEFT, BELOW, ABOVE = 800, 220, 50, 30, 15
MOST_POINTS = 800


def drawn(moments: Sequence[Moment], strikes: Sequence[Strike], seconds: float) -> str:
    """The picture; without one step, an empty one."""
    seconds = max(seconds, 0.001)
    steps = max([moment.step for moment in moments], default=0) or 1
    scale = _Scale(seconds, steps)
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="steps over seconds">',
        *_axes(scale),
        *(_strike(strike, scale) for strike in strikes),
        *(_way(list(launch), scale) for _, launch in itertools.groupby(moments, lambda m: m.launch)),
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


def _strike(strike: Strike, scale: _Scale) -> str:
    begin, end, top, bottom = scale.x(strike.seconds), scale.x(strike.mended_seconds), ABOVE, scale.y(0)
    size = f'width="{round(end - begin, 1)}" height="{bottom - top}"'
    name = f"<title>{escape(strike.fault)} at step {strike.at.step}</title>"
    return (
        f'<g>{name}<rect class="lasts" x="{begin}" y="{top}" {size}/>'
        f'<line class="strike" x1="{begin}" y1="{top}" x2="{begin}" y2="{bottom}"/></g>'
    )


def _way(moments: Sequence[Moment], scale: _Scale) -> str:
    every = -(-len(moments) // MOST_POINTS)
    kept = [*moments[:-1:every], moments[-1]]
    points = " ".join(f"{scale.x(moment.seconds)},{scale.y(moment.step)}" for moment in kept)
    return f'<polyline class="way" points="{points}"/>'
