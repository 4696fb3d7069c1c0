"""What is found in the figures of GPUs."""

from __future__ import annotations

from msgspec.structs import replace

from holdfast.domain.gpus import Gpu, GpuWatches

WELL = Gpu("GPU 0", 0.95, 0.8, 60.0, 90.0, 0)


def told(looks: list[Gpu]) -> list[str]:
    watches = GpuWatches()
    return [finding.detail for gpu in looks for finding in watches.take([gpu])]


def test_one_that_works_is_well() -> None:
    assert told([WELL] * 100) == []
    assert told([replace(WELL, limit_celsius=None, uncorrected=None)] * 100) == []


def test_new_memory_errors_are_told_each_time_and_old_ones_are_not() -> None:
    old = replace(WELL, uncorrected=7)
    assert told([old, old]) == []
    more = told(
        [old, replace(WELL, uncorrected=9), replace(WELL, uncorrected=9), replace(WELL, uncorrected=10)]
    )
    assert more == [
        "GPU 0 had 2 memory errors that could not be corrected",
        "GPU 0 had 1 memory errors that could not be corrected",
    ]


def test_one_that_is_too_hot_or_full_is_told_of_once() -> None:
    assert told([WELL, *[replace(WELL, celsius=91.0)] * 20]) == ["GPU 0 is 91 degrees hot and slows down"]
    assert told([replace(WELL, full=0.99)] * 20) == ["GPU 0 has 99% of its memory in use"]


def test_one_that_idles_although_it_was_busy_is_found_after_three_looks() -> None:
    idle = replace(WELL, busy=0.05)
    assert told([*[WELL] * 50, idle, idle, WELL]) == []
    assert told([*[WELL] * 50, *[idle] * 3]) == ["GPU 0 is busy 5% of the time, far less than before"]
    assert told([idle] * 100) == []


def test_each_is_followed_for_itself() -> None:
    watches, hot = GpuWatches(), replace(WELL, name="GPU 1", celsius=95.0)
    assert [f.detail for f in watches.take([WELL, hot])] == ["GPU 1 is 95 degrees hot and slows down"]
    assert watches.take([WELL, hot]) == []
    assert watches.take([]) == []
