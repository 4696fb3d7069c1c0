"""Figures of GPUs, with a stand-in for the driver's own library: there is no GPU here."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from holdfast.domain.gpus import Gpu
from holdfast.node.gpus import gpu_figures


class NVMLError(Exception):
    pass


class Library(SimpleNamespace):
    """As much of ``pynvml`` as is asked for; its second GPU has no ECC and tells no limit."""

    NVMLError = NVMLError
    NVML_TEMPERATURE_GPU = 0
    NVML_TEMPERATURE_THRESHOLD_SLOWDOWN = 1
    NVML_MEMORY_ERROR_TYPE_UNCORRECTED = 1
    NVML_VOLATILE_ECC = 0
    lost = False

    def nvmlInit(self) -> None:
        pass

    def nvmlDeviceGetCount(self) -> int:
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        if index > 1:
            raise NVMLError
        return index

    def nvmlDeviceGetHandleByUUID(self, name: str) -> int:
        return {"GPU-second": 1}[name]

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> Any:
        if self.lost:
            raise NVMLError
        return SimpleNamespace(used=30, total=40)

    def nvmlDeviceGetUtilizationRates(self, handle: int) -> Any:
        return SimpleNamespace(gpu=50)

    def nvmlDeviceGetTemperature(self, handle: int, sensor: int) -> int:
        return 60

    def nvmlDeviceGetTemperatureThreshold(self, handle: int, threshold: int) -> int:
        if handle:
            raise NVMLError
        return 90

    def nvmlDeviceGetTotalEccErrors(self, handle: int, kind: int, counter: int) -> int:
        if handle:
            raise NVMLError
        return 3


FIRST = Gpu("GPU 0", 0.5, 0.75, 60, 90, 3)
SECOND = Gpu("GPU 1", 0.5, 0.75, 60)


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Library:
    made = Library()
    monkeypatch.setitem(sys.modules, "pynvml", made)  # type: ignore[arg-type]
    return made


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        (None, [FIRST, SECOND]),
        ("0", [FIRST]),
        ("GPU-second", [Gpu("GPU 0", 0.5, 0.75, 60)]),
        ("", []),
    ],
)
def test_those_that_are_visible_are_looked_at(visible: str | None, expected: list[Gpu]) -> None:
    look = gpu_figures({} if visible is None else {"CUDA_VISIBLE_DEVICES": visible})
    assert look is not None
    assert look() == expected


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("visible", ["7", "GPU-unknown"])
def test_names_that_the_driver_does_not_know_are_looked_at_by_nobody(visible: str) -> None:
    assert gpu_figures({"CUDA_VISIBLE_DEVICES": visible}) is None


def test_one_that_is_lost_has_no_figures(library: Library) -> None:
    look = gpu_figures({})
    library.lost = True
    assert look is not None
    assert look() == []


def test_without_the_package_nothing_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert gpu_figures({}) is None
