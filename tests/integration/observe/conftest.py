from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.integration.supervisor.supervised import Supervised


@pytest.fixture
def supervise(tmp_path: Path) -> Iterator[Callable[..., Supervised]]:
    """Start a training under supervision; whatever is left of it ends with the test."""
    started: list[Supervised] = []

    def start(*faults: str, **options: Any) -> Supervised:
        started.append(Supervised(tmp_path, *faults, **options))
        return started[-1]

    yield start
    for supervised in started:
        supervised.end()
