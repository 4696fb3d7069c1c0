"""One framework in one process: python contest.py FRAMEWORK full|quick REPETITIONS FOLDER RESULT.json

Every repetition measures the limit and then each contender, in an order that rotates, so that a
disk that slows down for a while slows all of them. With REPETITIONS 0: the peak of memory instead,
of one contender, named last.
"""

from __future__ import annotations

import importlib
import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from contenders import Contender, Subject
from limit import Limit
from measure import extra_memory_bytes, files_below, make_durable, seconds, settle
from sizes import FULL, QUICK


def compete(subject: Subject, repetitions: int, folder: Path) -> dict[str, Any]:
    limit = Limit(folder, subject.size_bytes)
    before = subject.fingerprint()
    limits = []
    times: dict[str, list[dict[str, float]]] = {c.name: [] for c in subject.contenders}
    for repetition in range(repetitions):
        limits.append(limit.measure())
        told = [_told("limit", limits[-1]["write"], limits[-1]["read"])]
        turn = repetition % len(subject.contenders)
        for contender in subject.contenders[turn:] + subject.contenders[:turn]:
            result = _once(subject, contender, folder / f"{repetition}-{contender.name}", before)
            times[contender.name].append(result)
            told.append(_told(contender.name, result["durable"], result["load"]))
        print(f"  {repetition + 1}/{repetitions}  " + "   ".join(told), flush=True)
    return {
        "state_bytes": subject.size_bytes,
        "tensors": subject.tensors,
        "limit": limits,
        "times": times,
    }


def _told(name: str, save: float, load: float) -> str:
    return f"{name} {save:.2f}/{load:.2f} s"


def _once(subject: Subject, contender: Contender, path: Path, expected: str) -> dict[str, float]:
    try:
        settle()
        started = time.perf_counter()
        durable = contender.save(path)
        returned = time.perf_counter() - started
        if not durable:
            make_durable(path)
        saved = time.perf_counter() - started
        stored_bytes = sum(p.stat().st_size for p in files_below(path))
        subject.scramble()
        settle(files_below(path))
        load = seconds(lambda: contender.load(path))
        if subject.fingerprint() != expected:
            raise SystemExit(f"{contender.name} did not bring the state back")
    finally:
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    return {"returned": returned, "durable": saved, "load": load, "stored_bytes": stored_bytes}


def remember(subject: Subject, name: str, folder: Path) -> dict[str, Any]:
    """Peak memory above the live state, of the first save and of the load after it."""
    contender = next(c for c in subject.contenders if c.name == name)
    save = extra_memory_bytes(lambda: contender.save(folder / "state"))
    load = extra_memory_bytes(lambda: contender.load(folder / "state"))
    return {"save_extra_bytes": save, "load_extra_bytes": load}


def main() -> None:
    framework, size, repetitions, folder, result = sys.argv[1:6]
    make = importlib.import_module(f"{framework}_subject").subject
    subject = make(QUICK if size == "quick" else FULL)
    if int(repetitions):
        found = compete(subject, int(repetitions), Path(folder))
    else:
        found = remember(subject, sys.argv[6], Path(folder))
    Path(result).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
