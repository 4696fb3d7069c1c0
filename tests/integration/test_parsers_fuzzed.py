"""Stored bytes that are damaged or forged end in a refusal; `make soak` tries many more."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from tests.crash.fuzz import fuzz

from holdfast.repository.keyring import passphrase
from parsers import Parser, all_parsers


@contextmanager
def as_it_was() -> Iterator[None]:
    cost = passphrase.COST
    yield
    passphrase.COST = cost


with as_it_was():
    PARSERS = all_parsers()


@pytest.mark.parametrize("name", PARSERS)
def test_every_parser_takes_or_refuses_whatever_it_is_given(name: str) -> None:
    fuzz(PARSERS[name], 1, 60)


@pytest.mark.parametrize("name", PARSERS)
def test_what_was_written_is_taken(name: str) -> None:
    """Else the fuzzer would only knock at the door."""
    for sample in PARSERS[name].samples:
        PARSERS[name].parse(sample)


def test_a_parser_that_fails_otherwise_is_found() -> None:
    broken = Parser(lambda data: data.index(b"x"), [b"x"])
    with pytest.raises(ValueError, match="not found"):
        fuzz(broken, 1, 60)
