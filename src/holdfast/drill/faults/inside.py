"""What no other process can do to a training: it does it to itself, when it is asked to.

What it does is in the folder ``inside``, which Python loads in the training as its ``sitecustomize``.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable
from pathlib import Path

from holdfast.drill.faults.base import Fault, Scene
from holdfast.errors import UnsupportedError
from holdfast.node import groups

_VARIABLE = "HOLDFAST_DRILL"
"""``NAME:SIGNAL``, with commas: what the training does to itself on which signal."""
_FOLDER = Path(__file__).parents[1] / "inside"
_FIRST = int(signal.SIGRTMIN) + 3 if hasattr(signal, "SIGRTMIN") else 0


def variables(faults: Iterable[Fault]) -> dict[str, str]:
    """The environment of a training that can do these to itself; empty if none of them needs it."""
    deeds = [f"{fault.name}:{fault.inside_signal}" for fault in faults if fault.inside_signal]
    if not deeds:
        return {}
    paths = os.pathsep.join(filter(None, [str(_FOLDER), os.environ.get("PYTHONPATH")]))
    return {"PYTHONPATH": paths, _VARIABLE: ",".join(deeds)}


class Inside(Fault):
    """Asks the training by a signal."""

    def strike(self, scene: Scene) -> None:
        if not groups.catches(scene.trainer, self.inside_signal):
            raise UnsupportedError(
                "The training has not loaded what a fault inside of it needs.",
                do="Its Python must heed PYTHONPATH: start it without -I, -E and -S, and a run that is to be"
                " drilled live by 'holdfast run --drillable'.",
            )
        groups.send(scene.trainer, self.inside_signal)


class Segfault(Inside):
    """Native code reads where nothing is."""

    name = "segfault"
    inside_signal = _FIRST
    meaning = "native code reads at address 0"


class Hang(Inside):
    """A deadlock in native code that holds the interpreter's lock: no thread of the training moves."""

    name = "hang"
    inside_signal = _FIRST + 1
    meaning = "a deadlock in native code, holding the interpreter's lock"


class OutOfMemory(Inside):
    """The address space is limited, and used up: MemoryError."""

    name = "memory"
    inside_signal = _FIRST + 2
    meaning = "no more memory (RLIMIT_AS), until MemoryError"


class NanGradients(Inside):
    """The next gradients are not finite, and the optimizer takes them."""

    name = "nan"
    inside_signal = _FIRST + 3
    meaning = "the next gradients of PyTorch or Paddle are NaN, and so all weights after them"
    spoils_state = True
    copies_only = "it spoils what is saved"
