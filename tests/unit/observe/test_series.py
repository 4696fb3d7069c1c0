from __future__ import annotations

import pytest

from holdfast.observe import series
from holdfast.observe.series import Family, Series

FAMILIES = (
    Family("step", "gauge", "Steps."),
    Family("saves_total", "counter", "Saves."),
    Family("save_duration_seconds", "histogram", "Time.", (0.1, 1.0)),
)


def made() -> Series:
    return Series("holdfast", FAMILIES)


def test_nothing_known_is_nothing_told() -> None:
    assert made().text() == ""


def test_the_text_of_each_kind() -> None:
    seen = made()
    seen.set("step", 30, {"run": "digits"})
    seen.add("saves_total", 1, {"run": "digits", "result": "saved"})
    seen.add("saves_total", 1, {"run": "digits", "result": "saved"})
    for value in (0.05, 0.1, 0.5, 7.0):
        seen.observe("save_duration_seconds", value, {"run": "digits"})
    assert seen.text().splitlines() == [
        "# HELP holdfast_step Steps.",
        "# TYPE holdfast_step gauge",
        'holdfast_step{run="digits"} 30',
        "# HELP holdfast_saves_total Saves.",
        "# TYPE holdfast_saves_total counter",
        'holdfast_saves_total{run="digits",result="saved"} 2',
        "# HELP holdfast_save_duration_seconds Time.",
        "# TYPE holdfast_save_duration_seconds histogram",
        'holdfast_save_duration_seconds_bucket{run="digits",le="0.1"} 2',
        'holdfast_save_duration_seconds_bucket{run="digits",le="1"} 3',
        'holdfast_save_duration_seconds_bucket{run="digits",le="+Inf"} 4',
        'holdfast_save_duration_seconds_sum{run="digits"} 7.65',
        'holdfast_save_duration_seconds_count{run="digits"} 4',
    ]


def test_labels_are_escaped() -> None:
    seen = made()
    seen.set("step", 1.5, {"run": 'a"b\\c\nd'})
    assert seen.text().splitlines()[-1] == r'holdfast_step{run="a\"b\\c\nd"} 1.5'


def test_a_value_may_be_forgotten_or_no_number() -> None:
    seen = made()
    seen.set("step", float("nan"), {})
    assert seen.text().endswith("holdfast_step{} NaN\n")
    seen.set("step", None, {})
    assert seen.text() == ""


def test_a_script_with_ever_new_labels_takes_no_more_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(series, "MOST_SERIES", 3)
    seen = made()
    for number in range(10):
        seen.set("step", 1, {"run": str(number)})
        seen.add("saves_total", 1, {"run": str(number)})
    assert seen.text().count('run="') == 6
