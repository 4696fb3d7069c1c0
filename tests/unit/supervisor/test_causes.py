"""Causes are told from what was seen, the surest first."""

from __future__ import annotations

import errno

import msgspec
import pytest

from holdfast.errors import ChangedError, RankError, StorageError, SupersededError
from holdfast.node.pulse import Ending
from holdfast.supervisor.causes import Cause, Evidence, classify, first_to_fail, signal_of, told


def ending(error: BaseException) -> Ending:
    return Ending.of(error)


@pytest.mark.parametrize(
    ("evidence", "cause"),
    [
        (Evidence(code=0), Cause.FINISHED),
        (Evidence(code=0, stopped_for=Cause.HANG), Cause.FINISHED),
        (Evidence(code=0, entered=True, ended="finished", stopped_for=Cause.PREEMPTED), Cause.FINISHED),
        (Evidence(code=0, entered=True, ending=ending(ValueError())), Cause.FINISHED),  # a script that minds
        (
            Evidence(code=0, entered=True, ended="SIGTERM"),
            Cause.PREEMPTED,
        ),  # below a pipe
        (Evidence(code=0, entered=True, ended="SIGTERM", stopped_for=Cause.NOT_FINITE), Cause.NOT_FINITE),
        (Evidence(code=0, entered=True), Cause.CRASH),
        (Evidence(code=0, entered=True, kills=1), Cause.HOST_MEMORY),
        (Evidence(code=-9, stopped_for=Cause.HANG), Cause.HANG),
        (Evidence(code=-9), Cause.CRASH),
        (Evidence(code=-9, kills=1), Cause.HOST_MEMORY),
        (Evidence(code=137, kills=1), Cause.HOST_MEMORY),  # as a shell tells it
        (Evidence(code=-11, kills=1), Cause.CRASH),
        (Evidence(code=139), Cause.CRASH),
        (Evidence(code=-15), Cause.PREEMPTED),
        (Evidence(code=143), Cause.PREEMPTED),
        (Evidence(code=1, ended="SIGTERM"), Cause.PREEMPTED),  # a script that turns SystemExit into 1
        (Evidence(code=130), Cause.INTERRUPTED),
        (Evidence(code=1, entered=True), Cause.EXCEPTION),
        (Evidence(code=1, first=True), Cause.CONFIGURATION),
        (Evidence(code=1, first=True, entered=True), Cause.EXCEPTION),
        (Evidence(code=1, first=True, lost_terminal=True), Cause.EXCEPTION),
        (Evidence(code=2, first=False), Cause.EXCEPTION),
        (Evidence(code=1, ending=ending(ChangedError("lr differs"))), Cause.CONFIGURATION),
        (Evidence(code=1, ending=ending(SupersededError("newer"))), Cause.TAKEN),
        (Evidence(code=1, ending=ending(StorageError("gone", errno=errno.EIO))), Cause.STORAGE),
        (Evidence(code=1, ending=ending(StorageError("full", errno=errno.ENOSPC))), Cause.DISK_FULL),
        (Evidence(code=1, ending=ending(OSError(errno.EDQUOT, "quota"))), Cause.DISK_FULL),
        (Evidence(code=1, ending=ending(MemoryError())), Cause.HOST_MEMORY),
        (Evidence(code=1, ending=ending(RuntimeError("CUDA out of memory. Tried"))), Cause.DEVICE_MEMORY),
        (Evidence(code=1, ending=ending(RuntimeError("ResourceExhaustedError: ..."))), Cause.DEVICE_MEMORY),
        (Evidence(code=1, ending=ending(ValueError("ran out of memory"))), Cause.EXCEPTION),
        (
            Evidence(code=1, first=True, entered=True, ending=ending(ModuleNotFoundError("x"))),
            Cause.CONFIGURATION,
        ),
        (
            Evidence(code=1, first=True, entered=True, steps=5, ending=ending(ImportError("x"))),
            Cause.EXCEPTION,
        ),
        (Evidence(code=1, entered=True, ending=ending(ImportError("x"))), Cause.EXCEPTION),
        (Evidence(code=-64), Cause.CRASH),
    ],
)
def test_cause(evidence: Evidence, cause: Cause) -> None:
    assert classify(evidence) is cause


def test_torch_has_a_class_for_memory_of_a_device() -> None:
    import torch

    seen = Evidence(code=1, entered=True, ending=ending(torch.OutOfMemoryError("no")))
    assert classify(seen) is Cause.DEVICE_MEMORY


def test_what_is_told() -> None:
    assert told(Evidence(code=-11), Cause.CRASH) == "SIGSEGV"
    assert told(Evidence(code=3), Cause.EXCEPTION) == "exit code 3"
    assert told(Evidence(code=0), Cause.CRASH) == "it died, though the command around it ended with 0"
    several = Evidence(code=1, ending=ending(ValueError("first\nsecond")))
    assert told(several, Cause.EXCEPTION) == "ValueError: first"
    assert (
        told(Evidence(code=143, ended="SIGTERM", ending=ending(SystemExit(143))), Cause.PREEMPTED)
        == "SIGTERM"
    )


def test_signals_in_exit_codes() -> None:
    assert [signal_of(code) for code in (-9, 137, 0, 1, 128, 255)] == [9, 9, None, None, None, None]


def rank(error: BaseException | None = None, *, ended: str | None = None, code: int = 1) -> Evidence:
    left = ending(error) if error is not None else None
    return Evidence(code=code, entered=True, steps=3, ended=ended, ending=left, ranks=2)


RESET = RuntimeError("Read error [127.0.0.1]:1: Connection reset by peer")
TOLD = rank(SystemExit(143), ended="SIGTERM")
GONE = rank()


@pytest.mark.parametrize(
    ("ranks", "cause"),
    [
        ([rank(RESET), rank(MemoryError())], Cause.HOST_MEMORY),
        ([rank(ValueError()), rank(RankError("gone"))], Cause.EXCEPTION),
        ([TOLD, GONE], Cause.CRASH),  # the launcher told rank 0 to end because the other had died
        ([GONE, rank(RESET)], Cause.CRASH),
        ([rank(RESET), rank(RESET)], Cause.NODE_LOST),
        ([rank(RankError("gone")), TOLD], Cause.NODE_LOST),
        ([TOLD, TOLD], Cause.PREEMPTED),
        ([rank(code=0, ended="finished")] * 2, Cause.FINISHED),
        ([rank(RESET, code=0, ended="RuntimeError"), rank(code=0)], Cause.CRASH),  # below a pipe
        ([rank(code=0, ended="SIGTERM"), rank(code=0)], Cause.CRASH),
        ([rank(code=0, ended="SIGTERM")] * 2, Cause.PREEMPTED),
        ([rank(code=-9), rank(code=-9)], Cause.CRASH),
        ([rank(RESET, code=-9), TOLD], Cause.NODE_LOST),
    ],
)
def test_of_several_ranks_the_first_to_fail_tells(ranks: list[Evidence], cause: Cause) -> None:
    assert classify(first_to_fail(ranks)) is cause


@pytest.mark.parametrize(
    ("ranks", "first"),
    [
        ([rank(RESET), rank(MemoryError())], 1),
        ([rank(ValueError()), rank(RankError("gone"))], 0),
        ([TOLD, GONE], 1),
        ([GONE, GONE], None),
        ([rank(RESET), rank(RESET)], None),
        ([TOLD, TOLD], None),
        ([rank(code=0), rank(code=0)], None),
    ],
)
def test_the_rank_that_failed_first_is_named_where_that_can_be_told(
    ranks: list[Evidence], first: int | None
) -> None:
    named = [msgspec.structs.replace(evidence, rank=number) for number, evidence in enumerate(ranks)]
    assert first_to_fail(named).rank == first


def test_one_process_that_leaves_no_word_is_told_by_its_code() -> None:
    alone = Evidence(code=3, entered=True)
    assert first_to_fail([alone]) == alone


def test_the_same_error_of_one_process_is_an_exception() -> None:
    assert classify(Evidence(code=1, entered=True, ending=ending(RESET))) is Cause.EXCEPTION
