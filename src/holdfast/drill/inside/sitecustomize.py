"""Loaded by Python itself in a training that is drilled: on a signal it does something terrible to itself.

It imports nothing that Python does not have, and then loads the ``sitecustomize`` that it stands before.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import resource
import signal
import sys
from contextlib import suppress
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

_ROOM_BYTES = 64 << 20
_PIECE_BYTES = 1 << 20


def segfault() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    ctypes.string_at(0)


def hang() -> None:
    """Lock what is locked, in C, without letting go of the interpreter's lock."""
    native, lock = ctypes.PyDLL(None), ctypes.create_string_buffer(128)
    native.pthread_mutex_lock(lock)
    native.pthread_mutex_lock(lock)


def memory() -> None:
    """Take all memory that there is, once there is little."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + _ROOM_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))
    taken = []
    try:
        while True:
            taken.append(bytearray(_PIECE_BYTES))
    finally:
        taken.clear()  # or the traceback would hold it


def nan() -> None:
    """Spoil the gradients of the next step, once, of PyTorch or Paddle, whichever is there."""
    if "torch.optim.optimizer" in sys.modules:
        _spoil_torch(sys.modules["torch.optim.optimizer"])
    elif "paddle.optimizer.optimizer" in sys.modules:
        _spoil_paddle(sys.modules["paddle.optimizer.optimizer"].Optimizer)
    else:
        raise RuntimeError("neither PyTorch nor Paddle is here, whose gradients a drill could spoil")


def _spoil_torch(optimizer: Any) -> None:
    def spoil(stepping: Any, *_: object) -> None:
        handle.remove()
        for group in stepping.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.grad.fill_(float("nan"))

    handle = optimizer.register_optimizer_step_pre_hook(spoil)


def _spoil_paddle(kind: Any) -> None:
    """By what every update of Paddle goes through; its entries are wrapped for each optimizer by itself."""
    entry = kind.append_regularization_ops

    def spoiled(stepping: Any, gradients: Any, *rest: Any) -> Any:
        kind.append_regularization_ops = entry
        for _, gradient in gradients:
            gradient.scale_(float("nan"))  # it refuses to fill with it
        return entry(stepping, gradients, *rest)

    kind.append_regularization_ops = spoiled


_DEEDS = {deed.__name__: deed for deed in (segfault, hang, memory, nan)}


def _load_shadowed() -> None:
    here = Path(__file__).parent
    others = [path for path in sys.path if Path(path).absolute() != here]
    spec = PathFinder.find_spec("sitecustomize", others)
    if spec is not None and spec.loader is not None:
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


def _await(deed: str) -> None:
    name, _, number = deed.partition(":")
    with suppress(ValueError):
        if name in _DEEDS:
            signal.signal(int(number), lambda *_: _DEEDS[name]())


for deed in os.environ.get("HOLDFAST_DRILL", "").split(","):
    _await(deed)
_load_shadowed()
