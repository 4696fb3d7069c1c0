from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from holdfast.repository.collecting import collector_paused


@pytest.fixture(autouse=True)
def collector_as_before() -> Iterator[None]:
    was_enabled = gc.isenabled()
    yield
    (gc.enable if was_enabled else gc.disable)()


@pytest.mark.parametrize("enabled", [True, False])
def test_the_collector_is_off_meanwhile_and_then_as_the_user_had_it(enabled: bool) -> None:
    (gc.enable if enabled else gc.disable)()

    @collector_paused()
    def body() -> None:
        assert not gc.isenabled()
        with collector_paused():
            assert not gc.isenabled()
        assert not gc.isenabled()

    for _ in range(2):
        body()
        assert gc.isenabled() == enabled


def test_an_error_turns_the_collector_on_again() -> None:
    gc.enable()
    with pytest.raises(KeyError), collector_paused():
        raise KeyError
    assert gc.isenabled()
