"""Whether gradients wait for an optimizer: what they hold is lost in a checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from holdfast.frameworks import registry
from holdfast.training.leaves import leaves

PATIENCE_SAFE_POINTS = 64
_PLAIN = frozenset({type(None), bool, int, float, complex, str, bytes})


class StepWatch:
    """Watches the steps of every optimizer in a live state.

    Parameters
    ----------
    state : mapping
        The user's; optimizers may come and go.
    before_step : callable
        Called before each step of any.
    warn : callable
        Told once of an optimizer that holds gradients and has not stepped for long, although others
        have: it is waited for no more.
    """

    def __init__(
        self, state: Mapping[str, Any], before_step: Callable[[], None], warn: Callable[[str], None]
    ) -> None:
        self._state = state
        self._before_step = before_step
        self._warn = warn
        self._told = False
        self._stepped: set[int] = set()
        self._watched: dict[int, tuple[Any, list[Callable[[], None]]]] = {}
        self._waited = 0

    def begin(self) -> None:
        """Watch what the state holds now, and no longer what it held."""
        self._keep_to(self._candidates())

    def end(self) -> None:
        """Leave the optimizers as they were."""
        self._keep_to([])

    def _keep_to(self, values: list[Any]) -> None:
        present = {id(value): value for value in values}
        for gone in self._watched.keys() - present.keys():
            for undo in self._watched.pop(gone)[1]:
                undo()
            self._stepped.discard(gone)
        for number, value in present.items():
            if number not in self._watched:
                stepped = partial(self._stepped.add, number)
                undos = [f.watch_steps([value], stepped, self._before_step) for f in registry.active()]
                self._watched[number] = value, undos

    def turn(self) -> None:
        """A turn begins: whoever steps from now on has stepped in it."""
        self._stepped.clear()

    def settled(self) -> bool:
        """Whether no gradient waits for an optimizer that has not stepped in this turn."""
        values = self._candidates()
        self._keep_to(values)  # before a save: what it copies later must not be stepped meanwhile
        waiting = [v for v in values if id(v) not in self._stepped and _has_gradients(v)]
        if not waiting:
            self._waited = 0
            return True
        self._waited += bool(self._stepped)
        if not self._stepped or self._waited <= PATIENCE_SAFE_POINTS:
            return False
        self._tell()
        return True

    def _tell(self) -> None:
        if not self._told:
            self._warn(
                "an optimizer holds gradients but does not step while another does; they are not kept, "
                "so what follows a restore may not be exact."
            )
        self._told = True

    def _candidates(self) -> list[Any]:
        return [v for v in leaves(self._state) if type(v) not in _PLAIN]


def _has_gradients(value: Any) -> bool:
    return any(f.has_gradients([value]) for f in registry.active())
