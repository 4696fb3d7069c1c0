"""What a program above decides in place of the script."""

from __future__ import annotations

import pytest

from holdfast.domain.mirrors import Mirror
from holdfast.errors import UsageError
from holdfast.training.overrides import VARIABLE, Overrides, read


def test_what_is_encoded_is_read() -> None:
    overrides = Overrides(repository="/scratch", save="every 1 step", resume=3, mirror="/m", skip={4: 2})
    assert read({VARIABLE: overrides.encoded()}) == overrides
    assert read({}) == Overrides()


def test_what_no_program_of_ours_wrote_is_refused() -> None:
    with pytest.raises(UsageError, match="cannot be understood"):
        read({VARIABLE: "{"})


def test_a_scratch_repository_has_no_mirror_but_one_of_its_own() -> None:
    assert Overrides().mirrors("/theirs", None) == (Mirror("/theirs", None),)
    assert Overrides(repository="/scratch").mirrors("/theirs", "last 3") == ()
    assert Overrides(repository="/scratch", mirror="/own").mirrors("/theirs", "last 3") == (
        Mirror("/own", None),
    )
