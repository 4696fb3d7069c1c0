"""Staging of tensors that a device copies: beside training, of the moment at which it was asked for."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pytest

from holdfast.domain.tensors import DeviceCopy, TensorSpec
from holdfast.node.arena import Place, Slot
from holdfast.training import staging
from holdfast.training.staging import Fence, stage

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory shared without a name is Linux's")
Bytes = npt.NDArray[np.uint8]
SIZE = 200_000


class Device:
    """Has memory of its own, and copies when it is told to go on."""

    def __init__(self) -> None:
        self.goes_on = threading.Event()
        self.asked: list[tuple[list[bool], int | None]] = []

    def begin(self, copies: Sequence[DeviceCopy], slot: Bytes, limit_bytes: int | None) -> Callable[[], None]:
        assert all(np.shares_memory(slot, copy.target) for copy in copies)
        self.asked.append(([copy.held for copy in copies], limit_bytes))
        seconds = [copy.source.memory if copy.held else copy.source.memory.copy() for copy in copies]

        def wait() -> None:
            self.goes_on.wait(10)
            for copy, second in zip(copies, seconds, strict=True):
                copy.target[:] = second

        return wait


class OnDevice:
    def __init__(self, device: Device, value: int, size: int = SIZE) -> None:
        self.memory: Bytes = np.full(size, value, np.uint8)
        self.spec = TensorSpec("uint8", (size,))
        self.begin = device.begin

    @property
    def address(self) -> int:
        return id(self.memory)

    def read(self) -> Bytes:
        return self.memory.copy()


class OnHost:
    def __init__(self, value: int, size: int = SIZE) -> None:
        self.memory: Bytes = np.full(size, value, np.uint8)
        self.spec = TensorSpec("uint8", (size,))

    def read(self) -> Bytes:
        return self.memory


@pytest.fixture
def slot() -> Iterator[Slot]:
    made = Slot.create(4 * SIZE)
    yield made
    made.close()


def places(sources: dict[str, OnDevice | OnHost]) -> dict[str, Place]:
    found, end = {}, 0
    for name, source in sources.items():
        found[name] = Place("uint8", source.spec.shape, end)
        end += source.spec.size_bytes
    return found


def in_slot(slot: Slot, place: Place) -> set[int]:
    return set(np.unique(slot.memory[place.offset : place.offset + place.spec.size_bytes]).tolist())


def test_a_device_copies_while_training_goes_on(slot: Slot) -> None:
    device = Device()
    sources: dict[str, OnDevice | OnHost] = {
        "fenced": OnDevice(device, 1),
        "host": OnHost(2),
        "small": OnDevice(device, 3, 100),
        "small on host": OnHost(4, 100),
    }
    where, fenced = places(sources), sources["fenced"]
    assert isinstance(fenced, OnDevice)
    fence = stage(sources, where, slot, {(fenced.address, SIZE): lambda: 0}, compare=False, device_bytes=77)
    assert device.asked == [([True, False], 77)]
    sources["small"].memory[:] = 9  # training goes on: only what is fenced stays as it is
    done = threading.Event()
    fence.begin(done.set)
    assert not fence.done
    device.goes_on.set()
    assert done.wait(10)
    assert [in_slot(slot, place) for place in where.values()] == [{1}, {2}, {3}, {4}]
    assert fence.held()


def test_the_next_step_waits_for_the_device(slot: Slot) -> None:
    device = Device()
    sources: dict[str, OnDevice | OnHost] = {"fenced": OnDevice(device, 1)}
    fence = stage(sources, places(sources), slot, {}, compare=False)
    fence.begin(lambda: None)
    threading.Timer(0.05, device.goes_on.set).start()
    fence.finish()
    assert fence.done
    assert in_slot(slot, places(sources)["fenced"]) == {1}


@pytest.mark.parametrize("changed", [False, True])
def test_the_first_saves_compare_what_was_copied_at_once(slot: Slot, changed: bool) -> None:
    device = Device()
    device.goes_on.set()
    source = OnDevice(device, 1)
    fence = _compared(slot, {"fenced": source}, source)
    assert device.asked == [([False], None)]
    assert in_slot(slot, places({"fenced": source})["fenced"]) == {1}
    source.memory[12345] = 5 if changed else 1
    fence.finish()
    assert fence.held() is not changed


def test_a_version_that_moves_is_a_change(slot: Slot) -> None:
    device = Device()
    device.goes_on.set()
    source, version = OnDevice(device, 1), [0]
    sources: dict[str, OnDevice | OnHost] = {"fenced": source}
    fence = stage(sources, places(sources), slot, {(source.address, SIZE): lambda: version[0]}, compare=False)
    version[0] += 1
    fence.finish()
    assert not fence.held()


@pytest.mark.parametrize("moment", range(4))
def test_weights_that_are_swapped_and_back_while_they_are_copied_are_a_change(
    slot: Slot, moment: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied, pieces, source = staging._copied, iter(range(4)), OnHost(1)

    def swapped(target: Bytes, data: Bytes) -> bool:
        source.memory[:] = 7 if next(pieces) == moment else 1
        return copied(target, data)

    monkeypatch.setattr(staging, "PIECE_BYTES", SIZE // 4)
    monkeypatch.setattr(staging, "_copied", swapped)
    sources: dict[str, OnDevice | OnHost] = {"fenced": source}
    address = source.memory.__array_interface__["data"][0]
    fence = stage(sources, places(sources), slot, {(address, SIZE): lambda: 0}, compare=False)
    fence._work_off()
    assert in_slot(slot, places(sources)["fenced"]) == {1, 7}
    assert not fence.held()


def test_what_only_begins_like_a_parameter_is_copied_at_once(slot: Slot) -> None:
    source = OnHost(1)
    sources: dict[str, OnDevice | OnHost] = {"flat": source}
    address = source.memory.__array_interface__["data"][0]
    fence = stage(sources, places(sources), slot, {(address, SIZE // 2): lambda: 0}, compare=False)
    assert fence.done
    assert in_slot(slot, places(sources)["flat"]) == {1}


def _fails() -> bool:
    raise RuntimeError("device-side assert triggered")


def test_what_could_not_be_copied_is_not_whole() -> None:
    fence = Fence([_fails, *[lambda: True] * 3])
    done = threading.Event()
    fence.begin(done.set)
    fence.finish()
    assert done.wait(10)
    assert not fence.is_whole
    assert not fence.held()
    assert "device-side" in str(fence.failure)


def test_nor_is_what_was_interrupted() -> None:
    def interrupted() -> bool:
        raise KeyboardInterrupt

    fence = Fence([interrupted])
    with pytest.raises(KeyboardInterrupt):
        fence.finish()
    fence.finish()
    assert not fence.is_whole
    assert not fence.held()


def test_a_device_that_fails_at_once_fails_the_save(slot: Slot) -> None:
    source = OnDevice(Device(), 1)
    source.begin = lambda *_: _fails
    sources: dict[str, OnDevice | OnHost] = {"fenced": source, "other": OnHost(2)}
    with pytest.raises(RuntimeError, match="device-side"):
        stage(sources, places(sources), slot, {(source.address, SIZE): lambda: 0}, compare=True)


def _compared(slot: Slot, sources: dict[str, OnDevice | OnHost], fenced: OnDevice) -> Fence:
    return stage(sources, places(sources), slot, {(fenced.address, SIZE): lambda: 0}, compare=True)
