"""What no other process can do to a training: it does it to itself, when it is asked to.

What it does is in the folder ``inside``, which Python loads in the training as its ``sitecustomize``.
"""

from __future__ import annotations

from holdfast.drill.faults.base import INSIDE_SIGNAL, Fault, Scene, catches
from holdfast.errors import UnsupportedError
from holdfast.node import groups


class Inside(Fault):
    """Asks the training by a signal."""

    inside = True

    def strike(self, scene: Scene) -> None:
        if not catches(scene.trainer, INSIDE_SIGNAL):
            raise UnsupportedError(
                "The training has not loaded what a fault inside of it needs.",
                do="Its Python must heed PYTHONPATH: start it without -I, -E and -S.",
            )
        groups.send(scene.trainer, INSIDE_SIGNAL)


class Segfault(Inside):
    """Native code reads where nothing is."""

    name = "segfault"
    meaning = "native code reads at address 0"


class Hang(Inside):
    """A deadlock in native code that holds the interpreter's lock: no thread of the training moves."""

    name = "hang"
    meaning = "a deadlock in native code, holding the interpreter's lock"


class OutOfMemory(Inside):
    """The address space is limited, and used up: MemoryError."""

    name = "memory"
    meaning = "no more memory (RLIMIT_AS), until MemoryError"


class NanGradients(Inside):
    """The next gradients are not finite, and the optimizer takes them."""

    name = "nan"
    meaning = "the next gradients of PyTorch are NaN, and so all weights after them"
    spoils_state = True
