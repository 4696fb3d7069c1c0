"""What a trainer writes is what its supervisor sees."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.killing import in_child

from holdfast.errors import DamagedError
from holdfast.node.pulse import (
    PLACE_VARIABLE,
    STACKS_SIGNAL,
    Page,
    Phase,
    Pulse,
    Seen,
    Story,
    Unwatched,
    glance,
    open_pulse,
)


@pytest.fixture
def page() -> Iterator[Page]:
    made = Page()
    yield made
    made.close()


def test_before_a_trainer_has_come_nothing_is_there(page: Page) -> None:
    assert page.look() == Seen()
    assert page.story() == Story()
    assert page.stacks() == ""


def test_a_life_in_steps(page: Page) -> None:
    def train() -> None:
        pulse = Pulse(page.place)
        pulse.begins("/data/ckpts", "digits", 40)
        pulse.turn()
        assert page.look().phase is Phase.COMPILING
        pulse.stepped(41, 0.5)
        assert page.look().phase is Phase.EVALUATING
        with pulse.saving():
            assert page.look().phase is Phase.SAVING
        assert page.look().phase is Phase.EVALUATING
        pulse.turn()
        assert page.look().phase is Phase.STEPPING
        pulse.stepped(42, None)  # on a device

    before = time.monotonic()
    assert in_child(train) == 0
    found = page.look()
    assert (found.step, found.steps_here, found.loss) == (42, 2, 0.5)
    assert found.pid not in (0, os.getpid())
    assert found.first_step_seconds is not None
    assert before <= found.first_step_seconds <= time.monotonic()
    assert page.story() == Story(location="/data/ckpts", run="digits", resumed=40)


def test_a_further_process_of_the_same_launch_begins_anew(page: Page) -> None:
    """Of a launcher that starts ranks again itself, say."""

    def die_in_a_step() -> None:
        pulse = Pulse(page.place)
        pulse.begins("/data/ckpts", "digits", 40)
        for _ in range(2):
            pulse.turn()
            pulse.stepped(41, math.nan)
        pulse.turn()
        pulse.ends("SIGTERM", SystemExit(143))
        pulse.turn()

    assert in_child(die_in_a_step) == 0
    assert (page.look().phase, page.look().not_finite) == (Phase.STEPPING, 2)
    assert in_child(lambda: Pulse(page.place)) == 0
    found = page.look()
    assert (found.phase, found.not_finite, found.steps_here) == (Phase.STARTING, 0, 2)
    assert page.story() == Story(location="/data/ckpts", run="digits", resumed=40)


def test_losses_that_are_not_finite_are_counted_in_a_row(page: Page) -> None:
    def train() -> None:
        pulse = Pulse(page.place)
        for loss in (math.nan, 1.0, math.inf, math.nan, None, math.nan):
            pulse.stepped(1, loss)

    assert in_child(train) == 0
    assert page.look().not_finite == 3


def test_the_longest_of_each_phase_is_kept(page: Page) -> None:
    def train() -> None:
        pulse = Pulse(page.place)
        pulse.stepped(1, None)
        pulse.turn()
        time.sleep(0.05)
        pulse.stepped(2, None)
        pulse.turn()
        pulse.stepped(3, None)

    assert in_child(train) == 0
    assert 0.05 <= page.look().longest_seconds[Phase.STEPPING] < 5


def test_how_it_ended_comes_with_the_error_and_its_kin(page: Page) -> None:
    def train() -> None:
        pulse = Pulse(page.place)
        pulse.begins("here", "digits", None)
        pulse.ends("DamagedError: torn \udcff", DamagedError("torn \udcff"))

    assert in_child(train) == 0
    ending = page.story().ending
    assert ending is not None
    assert ending.kind == "damaged"
    assert ending.types[:2] == ("DamagedError", "HoldfastError")
    assert page.look().phase is Phase.ENDING


def test_where_a_stuck_process_is_can_be_asked(page: Page) -> None:
    def train() -> None:
        Pulse(page.place)
        os.kill(os.getpid(), STACKS_SIGNAL)
        os.kill(os.getpid(), STACKS_SIGNAL)

    assert in_child(train) == 0
    assert page.stacks().count("in train") == 2
    assert page.look().pid != 0  # the page itself is whole


def test_a_place_that_is_none_is_nobody_who_listens(tmp_path: Path) -> None:
    (tmp_path / "small").write_bytes(b"x")
    for place in ("", "/nowhere", str(tmp_path), str(tmp_path / "small")):
        assert isinstance(open_pulse({PLACE_VARIABLE: place}), Unwatched)
    assert isinstance(open_pulse({}), Unwatched)


def test_anybody_may_glance_at_a_page(page: Page, tmp_path: Path) -> None:
    assert glance(page.place) == Seen()

    def train() -> None:
        pulse = Pulse(page.place)
        pulse.begins("/data/ckpts", "digits", 40)
        pulse.stepped(41, 0.5)

    assert in_child(train) == 0
    assert glance(page.place) == page.look()
    assert page.look().step == 41


def test_what_is_no_page_is_not_looked_at(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 100)
    with (tmp_path / "file").open("rb") as file:
        for place in (
            "",
            "/etc/passwd",
            str(tmp_path / "file"),
            "/proc/1/fd/../environ",
            "/proc/self/fd/99999",
        ):
            assert glance(place) is None
        assert glance(f"/proc/{os.getpid()}/fd/{file.fileno()}") is None  # too short


def test_another_process_may_look_into_a_page(page: Page) -> None:
    onlooker = Page(page.place)
    pulse = Pulse(page.place)
    pulse.begins("here", "digits", 7)
    assert onlooker.look().step == 7
    assert onlooker.story().run == "digits"
    onlooker.close()


def test_where_there_is_no_page_nobody_can_look(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    with pytest.raises(ValueError, match="mmap"):
        Page(str(tmp_path / "empty"))
    with pytest.raises(OSError, match="No such file"):
        Page(str(tmp_path / "none"))
