"""What torch's data parallel modules know of their collectives."""

from __future__ import annotations

from torch.nn.parallel import DistributedDataParallel


def collective_seconds(value: object) -> tuple[int, float] | None:
    """As `Framework.collective_seconds`.

    ``DistributedDataParallel`` times its first ten steps, and then fewer and fewer, down to one in a hundred
    (torch/csrc/distributed/c10d/logger.cpp); asking for that waits for nothing.
    """
    if not isinstance(value, DistributedDataParallel):
        return None
    known = value._get_ddp_logging_data()  # type: ignore[no-untyped-call]  # torch's
    nanoseconds = known.get("backward_comm_time")
    return (int(known["iteration"]), nanoseconds / 1e9) if nanoseconds is not None else (0, 0.0)
