"""Fail each system call of one kind, one after the other, and look at what that leaves.

Run as a program by the tests: ``python tests/crash_failing.py FOLDER SCENARIO FEATURES CALLS PARTS``.
"""

from __future__ import annotations

import errno
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from crash_scenarios import FEATURES, SCENARIOS, Stage, open_run, temporaries
from holdfast.errors import StorageError
from holdfast.storage.local import LocalStorage
from tracing import NUMBERS, Failure, Trace, run_traced

STORAGE_ERROR = StorageError.exit_code
CODES: dict[str, tuple[int, ...]] = {
    "fsync": (errno.EIO, errno.ENOSPC),
    "syncfs": (errno.EIO,),
    "pwrite64": (errno.EIO, errno.ENOSPC),
    "linkat": (errno.EIO, errno.ENOSPC, errno.EACCES),
    "renameat": (errno.EIO, errno.ENOSPC, errno.EACCES),
    "renameat2": (errno.EIO, errno.ENOSPC),
    "openat": (errno.EIO, errno.EACCES, errno.ENOSPC),
    "mkdirat": (errno.EIO, errno.ENOSPC),
    "unlinkat": (errno.EIO, errno.EACCES),
    "flock": (errno.EIO,),
    "newfstatat": (errno.EIO,),
    "getdents64": (errno.EIO,),
    "pread64": (errno.EIO,),
    "preadv": (errno.EIO,),
}
LOST_ANSWERS = ("linkat", "renameat", "renameat2", "fsync", "unlinkat", "mkdirat")


def failures(stage: Stage, calls: list[str]) -> Iterator[Failure]:
    storage = stage.reset()
    counts = run_traced(lambda: stage.scenario.work(storage), count=True).counts
    for name in calls:
        number = NUMBERS[name]
        for occurrence in range(1, counts.get(number, 0) + 1):
            for code in CODES[name]:
                yield Failure(number, occurrence, code)
            if name in LOST_ANSWERS:
                yield Failure(number, occurrence, errno.EIO, after=True)


def fail(stage: Stage, failure: Failure) -> Trace:
    storage = stage.reset()

    def body() -> int:
        try:
            stage.scenario.work(storage)
        except StorageError:
            return STORAGE_ERROR
        return 0

    return run_traced(body, fail=failure)


def check(stage: Stage, failure: Failure, trace: Trace, packs: set[str]) -> None:
    assert not trace.killed
    assert trace.status in (0, STORAGE_ERROR), "it failed, but not with a StorageError"
    storage = LocalStorage(stage.root, features=stage.features)
    run = None if stage.scenario.empty else open_run(storage)
    visible = run is None or not set(run.all_checkpoints()) <= set(stage.known)
    removing = failure.number == NUMBERS["unlinkat"]
    keeps = stage.scenario.rewrites or stage.scenario.synced  # what has been moved need not move again
    if trace.status == STORAGE_ERROR and not visible and not removing and not keeps:
        assert set(storage.list("packs/")) <= packs, "a failed save left packs behind"
    if not removing and not failure.after:
        assert temporaries(stage.root) == []
    stage.check()


def sweep(stage: Stage, calls: list[str], parts: int = 1) -> dict[str, int]:
    packs = set(stage.reset().list("packs/"))
    tried = failed = 0
    for failure in islice(failures(stage, calls), 0, None, parts):
        trace = fail(stage, failure)
        try:
            check(stage, failure, trace, packs)
        except Exception as error:
            name = next(n for n, number in NUMBERS.items() if number == failure.number)
            error.add_note(
                f"{name} number {failure.occurrence} gave {os.strerror(failure.errno)}: {failure} {trace}"
            )
            raise
        tried += trace.injected
        failed += trace.status == STORAGE_ERROR
    return {"tried": tried, "failed": failed}


def main() -> None:
    folder, scenario, features, calls, parts = sys.argv[1:]
    with tempfile.TemporaryDirectory(dir=folder) as inner:
        stage = Stage(SCENARIOS[scenario], Path(inner), FEATURES[features])
        print(json.dumps(sweep(stage, calls.split(","), int(parts))))


if __name__ == "__main__":
    main()
