"""Paddle's random generators: one per device, and those that fleet tracks by name.

A generator's state is opaque, but made of its seed, an offset and the text of its engine;
a state made from these is checked to be the one it came from.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import paddle
from paddle.base import core

from holdfast.errors import UnsupportedError
from holdfast.frameworks.base import CaptureWalk, LoadWalk


class GeneratorAdapter:
    """Restores into the live generator."""

    kind = "paddle.generator"

    def capture(self, value: Any, path: str, walk: CaptureWalk) -> dict[str, Any]:
        return dump(value.get_state())

    def plan(self, value: Any, saved: Any, path: str, walk: LoadWalk) -> None:
        device = dump(value.get_state())["device"]
        if saved["device"] != device:
            walk.mismatched(path, f"generator of device {saved['device']}", f"of device {device}")
        else:
            walk.then(lambda: value.set_state(undump(saved)))

    def given(self, value: Any) -> dict[str, Any]:
        return {}

    def apply_given(self, value: Any, changes: dict[str, Any]) -> None:
        """Nothing is given."""


def rng_state() -> dict[str, Any]:
    """State of the generator of every device, and of fleet's by name; draws nothing."""
    devices = {device: dump(generator().get_state()) for device, generator in _generators().items()}
    tracked = {name: [dump(s) for s in states] for name, states in _tracker().get_states_tracker().items()}
    return {"devices": devices, "tracked": tracked}


def set_rng_state(saved: dict[str, Any]) -> None:
    """Put back what `rng_state` returned, on the devices that this process has."""
    tracker = _tracker()
    for name, states in saved["tracked"].items():
        if name not in tracker.states_:
            tracker.add(name, states[0]["seed"])
    tracker.set_states_tracker({n: [undump(s) for s in states] for n, states in saved["tracked"].items()})
    generators = _generators()
    for device, state in saved["devices"].items():
        if device in generators:
            generators[device]().set_state(undump(state))


def dump(state: Any) -> dict[str, Any]:
    """A generator's state as plain values."""
    device, seed, offset, engine = state.__getstate__()
    saved = {"device": device, "seed": seed, "offset": offset, "engine": bytes(engine).decode("ascii")}
    if undump(saved).__getstate__() != (device, seed, offset, engine):
        raise UnsupportedError(
            f"The state of a random generator of Paddle {paddle.__version__} cannot be put back exactly.",
            do="Pass rng=False, or use a version of Paddle that Holdfast is tested with.",
        )
    return saved


def undump(saved: dict[str, Any]) -> Any:
    """The opposite of `dump`."""
    state = core.GeneratorState.__new__(core.GeneratorState)
    engine = list(saved["engine"].encode("ascii"))
    state.__setstate__((saved["device"], saved["seed"], saved["offset"], engine))
    return state


def is_generator(value: object) -> bool:
    return isinstance(value, core.Generator)


def data_seed() -> int:
    """The seed of the CPU's generator: the script's, else the one Paddle drew at its start."""
    return int(core.default_cpu_generator().initial_seed())


def _generators() -> dict[str, Callable[[], Any]]:
    """The global generators of this process, by device; `paddle.get_rng_state` sees one device only."""
    found: dict[str, Callable[[], Any]] = {"cpu": core.default_cpu_generator}
    if paddle.is_compiled_with_cuda():
        for i in range(paddle.device.cuda.device_count()):
            found[f"cuda:{i}"] = _of(core.default_cuda_generator, i)
    if paddle.is_compiled_with_xpu():
        for i in range(paddle.device.xpu.device_count()):
            found[f"xpu:{i}"] = _of(core.default_xpu_generator, i)
    for name in core.get_available_custom_device():
        kind, _, index = name.partition(":")
        place = core.CustomPlace(kind, int(index or 0))
        found[f"{kind}:{index or 0}"] = _of(core.default_custom_device_generator, place)
    return found


def _of(make: Callable[[Any], Any], device: Any) -> Callable[[], Any]:
    return lambda: make(device)


def _tracker() -> Any:
    from paddle.distributed.fleet.layers.mpu.random import get_rng_state_tracker

    return get_rng_state_tracker()
