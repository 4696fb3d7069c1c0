"""Another launch of the run commits while this one looks for where to go on from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import holdfast
from holdfast.domain.names import CheckpointId
from holdfast.repository.repository import Repository
from holdfast.repository.run import Run
from holdfast.storage.local import LocalStorage


def test_a_checkpoint_that_comes_while_a_launch_looks_is_taken_and_no_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Repository.create(LocalStorage(tmp_path / "here", create=True)).run("main")
    run.record_base(run.begin_attempt(), None)
    look, looks = Run.recovery_points, []

    def look_too_early(self: Run) -> Iterator[CheckpointId]:
        found = list(look(self))
        looks.append(len(found))
        if len(looks) == 1:
            holdfast.save(tmp_path / "here", {"w": np.ones(3)}, step=1)
        return iter(found)

    monkeypatch.setattr(Run, "recovery_points", look_too_early)
    state = {"w": np.zeros(3)}
    assert holdfast.load(tmp_path / "here", state).step == 1
    assert looks[0] == 0
    assert state["w"].tolist() == [1, 1, 1]
