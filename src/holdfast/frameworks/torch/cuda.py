"""Tensors on a CUDA device: copied to host memory by a stream of their own, beside training.

What nothing changes until the copy is waited for is copied as it stands. Of everything else the
device makes a second copy first, in the order of its work, so that training goes on at once.
"""

from __future__ import annotations

import weakref
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch

from holdfast.domain.tensors import DeviceCopy
from holdfast.frameworks.torch.tensors import Source

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Bytes = npt.NDArray[np.uint8]

JOINED_BYTES = 64 * 1024
"""Smaller tensors are joined on the device and leave it together: a copy of its own costs some 10 us."""
SHARE = 0.5
"""Of the device's free memory, what second copies may take if nothing else is said."""
_streams: dict[torch.device, torch.cuda.Stream] = {}
_pinned: set[int] = set()


class CudaSource(Source):
    """A live tensor on a CUDA device."""

    @property
    def address(self) -> int:
        return self.tensor.data_ptr()

    @staticmethod
    def begin(copies: Sequence[DeviceCopy], slot: Bytes, limit_bytes: int | None) -> Callable[[], None]:
        """Begin to copy; see `holdfast.domain.tensors.DeviceSource`."""
        _pin(slot)
        by_device: dict[torch.device, list[DeviceCopy]] = defaultdict(list)
        for copy in copies:
            by_device[copy.source.tensor.device].append(copy)
        waits = [_begin_on(device, group, limit_bytes) for device, group in by_device.items()]

        def wait() -> None:
            for one in waits:
                one()

        return wait


def _begin_on(
    device: torch.device, copies: Sequence[DeviceCopy], limit_bytes: int | None
) -> Callable[[], None]:
    with torch.cuda.device(device), torch.no_grad():
        present = torch.cuda.current_stream(device)
        side = _stream(device)
        room = _Room(device, limit_bytes)
        joined, together = _join([copy for copy in copies if _is_small(copy)])
        large = [(_settled(copy, room), copy.target) for copy in copies if not _is_small(copy)]
        side.wait_stream(present)
        with torch.cuda.stream(side):
            for tensor, target in large:
                if tensor is not None:
                    torch.from_numpy(target).copy_(tensor, non_blocking=True)
                    tensor.record_stream(side)
            if joined is not None and together is not None:
                together.copy_(joined, non_blocking=True)
                joined.record_stream(side)
            done = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch's
            done.record(side)

    def wait() -> None:
        done.synchronize()
        if together is not None:
            _scatter(together.numpy(), [copy.target for copy in copies if _is_small(copy)])

    return wait


class _Room:
    """What second copies may still take of a device's memory."""

    def __init__(self, device: torch.device, limit_bytes: int | None) -> None:
        free_bytes, _ = torch.cuda.mem_get_info(device)
        share_bytes = int(free_bytes * SHARE)
        self.left_bytes = share_bytes if limit_bytes is None else min(limit_bytes, share_bytes)

    def take(self, size_bytes: int) -> bool:
        if size_bytes > self.left_bytes:
            return False
        self.left_bytes -= size_bytes
        return True


def _stream(device: torch.device) -> torch.cuda.Stream:
    if device not in _streams:
        _streams[device] = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch's
    return _streams[device]


def _is_small(copy: DeviceCopy) -> bool:
    return len(copy.target) < JOINED_BYTES


def _settled(copy: DeviceCopy, room: _Room) -> torch.Tensor | None:
    """Bytes that stay as they are until they are copied; None if there was no room: copied already."""
    raw = _raw(copy.source.tensor)
    fresh = raw.data_ptr() != copy.source.tensor.data_ptr()  # to be dense it had to be copied anyway
    if copy.held or fresh:
        return raw
    if room.take(raw.nbytes):
        return raw.clone()
    torch.from_numpy(copy.target).copy_(raw)  # waits for the device
    return None


def _join(copies: Sequence[DeviceCopy]) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Small tensors end to end, on the device and (to be filled) on the host."""
    if not copies:
        return None, None
    joined = torch.cat([_raw(copy.source.tensor) for copy in copies])
    return joined, torch.empty(joined.shape, dtype=torch.uint8, pin_memory=True)


def _scatter(together: Bytes, targets: Sequence[Bytes]) -> None:
    start = 0
    for target in targets:
        target[:] = together[start : start + len(target)]
        start += len(target)


def _raw(tensor: torch.Tensor) -> torch.Tensor:
    """Its bytes, ``uint8[size_bytes]``, on its device."""
    dense = tensor.detach().resolve_conj().resolve_neg().contiguous()
    return dense.reshape(-1).view(torch.uint8)


def _pin(slot: Bytes) -> None:
    """Have CUDA know the slot's memory, without which no copy to it goes on beside other work."""
    address, runtime = slot.__array_interface__["data"][0], torch.cuda.cudart()  # type: ignore[no-untyped-call]  # torch's
    if address in _pinned or int(runtime.cudaHostRegister(address, len(slot), 0)) != 0:
        return  # unknown to CUDA, copies hold up training, and are as good

    def unpin() -> None:
        _pinned.discard(address)
        runtime.cudaHostUnregister(address)

    _pinned.add(address)
    weakref.finalize(slot, unpin)
