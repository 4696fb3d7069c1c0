from __future__ import annotations

import pytest

from holdfast.domain.quantities import parse_bytes


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("5B", 5),
        ("2kB", 2000),
        ("2 KiB", 2048),
        ("1.5MB", 1_500_000),
        (" 20GB ", 20 * 10**9),
        ("1TiB", 2**40),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "5", "GB", "5 mb", "-1B", "5GB/s", "1e3B", "5iB"])
def test_what_is_no_size(text: str) -> None:
    assert parse_bytes(text) is None
