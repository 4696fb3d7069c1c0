"""Every way of writing a loop, killed at its lines, ends bit for bit as if nothing had happened."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch
from tests import killing
from tests.integration.training import loop_styles

torch.set_num_threads(1)
KILLS = int(os.environ.get("HOLDFAST_KILLS_PER_LOOP", "6"))  # a soak sets it to 1000: every line


@pytest.fixture(scope="module", autouse=True)
def warm(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Import here, once, what every forked child would import anew."""
    loop_styles.plain(tmp_path_factory.mktemp("warm"))


@pytest.mark.timeout(300)
@pytest.mark.parametrize("style", loop_styles.ALL, ids=lambda s: s.__name__)
def test_killed_at_its_lines_it_ends_as_if_nothing_had_happened(
    style: killing.Script, tmp_path: Path, saving: str
) -> None:
    lines = killing.lines_of(style, tmp_path / "whole")
    expected = killing.left_behind(tmp_path / "whole")
    kills = KILLS if saving == "loop" else max(KILLS // 3, 2)  # each starts an agent
    points = range(lines // 4 if saving == "background" else 1, lines, max(1, lines // kills))
    for point in points:
        repository = tmp_path / str(point)
        status = killing.run(style, repository, signal_at=point)
        assert os.WIFSIGNALED(status), f"not killed at line {point}"
        assert os.WTERMSIG(status) == signal.SIGKILL
        assert killing.run(style, repository) == 0
        assert killing.left_behind(repository) == expected, f"killed at line {point} of {lines}"


@pytest.mark.timeout(300)
@pytest.mark.parametrize("style", loop_styles.ALL, ids=lambda s: s.__name__)
def test_terminated_it_saves_leaves_with_143_and_ends_alike(style: killing.Script, tmp_path: Path) -> None:
    lines = killing.lines_of(style, tmp_path / "whole")
    expected = killing.left_behind(tmp_path / "whole")
    for point in range(lines // 3, lines, lines // 3):
        repository = tmp_path / str(point)
        status = killing.run(style, repository, signal_at=point, number=signal.SIGTERM)
        assert os.waitstatus_to_exitcode(status) in (143, 0)  # 0: too late, the loops were over
        assert killing.run(style, repository) == 0
        assert killing.left_behind(repository) == expected, f"terminated at line {point} of {lines}"
