"""The page stands by itself, and says nothing that a training could put into it."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from xml.etree import ElementTree

from tests.unit.drill.test_storming import weathered

from holdfast.drill.course import Moment, Recovery, Strike
from holdfast.drill.drilling import Outcome, Report
from holdfast.drill.page import page, storm_page
from holdfast.drill.timeline import HEIGHT, WIDTH, drawn

EVIL = "<script>alert('x')</script>"
MOMENTS = [Moment(0.5, 1, 1), Moment(1.0, 1, 9), Moment(2.5, 2, 8, 8), Moment(4.0, 2, 20, 8)]
KILLED = Outcome(
    fault="kill",
    meaning="SIGKILL",
    strike=Strike("kill", MOMENTS[1], 1.1, 1.1),
    recovery=Recovery(1, 1.5),
    compared=20,
    causes=["crash", "finished"],
    moments=MOMENTS,
    seconds=4.2,
)
NEVER = Outcome(fault="nan", meaning=EVIL, failure=EVIL)


def picture_of(outcome: Outcome) -> str:
    return drawn(outcome.moments, [outcome.strike] if outcome.strike else [], outcome.seconds)


def report(*outcomes: Outcome) -> Report:
    return Report(
        command=("python", EVIL),
        seed=1,
        save="every 1 step",
        run_flags=EVIL,
        steps=20,
        undisturbed_seconds=3.0,
        outcomes=list(outcomes),
    )


def test_it_says_what_each_fault_cost() -> None:
    text = page(report(KILLED, NEVER))
    assert "1 of 2 faults ended exactly" in text
    assert '<td class="number">9</td><td class="number">1</td><td class="number">1.5 s</td>' in text
    assert text.count("<svg") == 2


def test_nothing_comes_from_elsewhere_and_nothing_runs() -> None:
    text = page(report(KILLED, NEVER))
    assert "<script" not in text
    assert not re.search(r"(src|href|url|@import)\s*[=(]", text)


def test_every_tag_is_closed() -> None:
    class Nesting(HTMLParser):
        void = frozenset({"meta", "line", "rect", "polyline"})

        def __init__(self) -> None:
            super().__init__()
            self.open: list[str] = []

        def handle_starttag(self, tag: str, attrs: object) -> None:
            if tag not in self.void:
                self.open.append(tag)

        def handle_endtag(self, tag: str) -> None:
            if tag not in self.void:
                assert self.open.pop() == tag

    for text in (page(report(KILLED, NEVER)), storm_page(weathered(EVIL))):
        nesting = Nesting()
        nesting.feed(text)
        assert nesting.open == []


def test_a_storm_shows_every_strike_and_the_verdict() -> None:
    text = storm_page(weathered(EVIL))
    assert text.count("<title>kill at step 1</title>") == 2
    assert "NOT exact (--seed 7)" in text
    assert "<script" not in text


def test_the_picture_has_a_line_for_each_launch_within_its_frame() -> None:
    picture = ElementTree.fromstring(picture_of(KILLED))
    lines = picture.findall("polyline")
    assert len(lines) == 2
    for line in lines:
        for point in line.attrib["points"].split():
            x, y = map(float, point.split(","))
            assert 0 <= x <= WIDTH
            assert 0 <= y <= HEIGHT


def test_a_long_training_is_drawn_with_few_points_and_its_end() -> None:
    moments = [Moment(float(step), 1, step) for step in range(1, 5001)]
    long = Outcome(fault="kill", meaning="", moments=moments, seconds=5000.0)
    points = ElementTree.fromstring(picture_of(long)).findall("polyline")[0].attrib["points"].split()
    assert len(points) <= 1000
    assert points[-1].startswith(f"{WIDTH - 10}")


def test_without_a_step_there_is_an_empty_picture() -> None:
    assert ElementTree.fromstring(picture_of(NEVER)).findall("polyline") == []
