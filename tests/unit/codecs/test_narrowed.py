from __future__ import annotations

import numpy as np
import pytest

from holdfast.codecs import registry
from holdfast.codecs.base import Base
from holdfast.codecs.narrowed import KINDS, Narrowed, narrow
from holdfast.errors import DamagedError

WIDE = np.random.default_rng(2).standard_normal(400).astype("<f4").view(np.uint8)
HALVES = [Base(bytes(32), WIDE[:1000]), Base(b"x" * 32, WIDE[1000:])]


@pytest.mark.parametrize("kind", range(len(KINDS)))
@pytest.mark.parametrize("bases", [[Base(bytes(32), WIDE)], HALVES], ids=["whole", "halves"])
def test_only_the_names_are_left(kind: int, bases: list[Base]) -> None:
    raw = narrow(WIDE, kind)
    encoded = registry.encode(raw, KINDS[kind], bases)
    assert encoded is not None
    assert (encoded.codec, len(encoded.data)) == ("narrowed", 9 + 32 * len(bases))


@pytest.mark.parametrize("at", [0, 399, 799])
def test_one_bit_is_enough_to_be_another(at: int) -> None:
    raw = narrow(WIDE, 0)
    raw[at] ^= 1
    assert Narrowed().encode(raw, "bfloat16", [Base(bytes(32), WIDE)]) is None
    assert Narrowed().encode(raw, "bfloat16", HALVES) is None


def test_the_dtype_and_the_order_count() -> None:
    raw = narrow(WIDE, 0)
    assert Narrowed().encode(raw, "float16", [Base(bytes(32), WIDE)]) is None
    assert Narrowed().encode(raw, "uint16", [Base(bytes(32), WIDE)]) is None
    assert Narrowed().encode(raw, "bfloat16", HALVES[::-1]) is None


@pytest.mark.parametrize(
    "bases",
    [[], [WIDE[:-4]], [np.concatenate([WIDE, WIDE[:4]])], [WIDE, WIDE[:0], WIDE[:0]], [WIDE[:2], WIDE[2:]]],
    ids=["none", "short", "long", "three", "cut in a number"],
)
def test_bases_that_do_not_fit_are_damage(bases: list[np.ndarray]) -> None:
    raw = narrow(WIDE, 0)
    stored = Narrowed().encode(raw, "bfloat16", [Base(bytes(32), WIDE)])
    assert stored is not None
    with pytest.raises(DamagedError):
        Narrowed().decode(np.frombuffer(stored, np.uint8), np.empty(len(raw), np.uint8), bases)
