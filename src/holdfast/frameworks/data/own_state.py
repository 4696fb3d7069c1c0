"""What samplers and datasets with a state of their own bring from pass to pass, and what the script sets."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any
from weakref import WeakKeyDictionary, ref

from holdfast.frameworks.data import packed

_PLAIN = (bool, int, float, str, type(None))
_WATCHED: WeakKeyDictionary[Any, OwnState] = WeakKeyDictionary()


def watched(owner: Any) -> OwnState:
    """The same one for the same owner."""
    try:
        if owner not in _WATCHED:
            _WATCHED[owner] = OwnState(owner)
        return _WATCHED[owner]
    except TypeError:  # it cannot be told from others: what a pass left behind is brought along whole
        return OwnState(owner, remembers=False)


def _reference(owner: Any) -> Callable[[], Any]:
    try:
        return ref(owner)  # what is watched must not live for being watched
    except TypeError:
        return lambda: owner


class OwnState:
    """Watches the entries of an object's ``state_dict`` between the passes of one process.

    A script that calls ``set_epoch(epoch)`` before a pass has set what a state of the pass before
    would undo.

    Parameters
    ----------
    owner : object
        Has ``state_dict`` and ``load_state_dict``.
    remembers : bool
        Whether all passes over it in this process are told of to this one.
    """

    def __init__(self, owner: Any, *, remembers: bool = True) -> None:
        self._owner = _reference(owner)
        self._first: dict[str, Any] | None = None if remembers else {}
        self._end: dict[str, bytes] | None = None
        self._touched: dict[str, bool] = {}

    def _entries(self) -> dict[str, Any]:
        with suppress(Exception):  # some have no state to tell before they are iterated
            state = self._owner().state_dict()
            if type(state) is dict:
                return {key: value for key, value in state.items() if type(key) is str}
        return {}

    def _packed(self) -> dict[str, bytes]:
        with suppress(Exception):  # what cannot be kept is refused by the save
            return {key: packed.pack(value, key) for key, value in self._entries().items()}
        return {}

    def begin(self) -> None:
        """Note what there is as a pass begins, and what the script has set since the last."""
        if self._first is None:
            self._first = {k: v for k, v in self._entries().items() if type(v) in _PLAIN}
        if self._end is not None:
            for key, value in self._packed().items():
                self._touched[key] = self._touched.get(key, False) or value != self._end.get(key)

    def end(self) -> None:
        """Note what there is as a pass ends."""
        self._end = self._packed()

    def script(self) -> dict[str, Any]:
        """Plain: what tells later launches which entries the script sets."""
        return {"first": self._first or {}, "touched": dict(self._touched)}

    def resume(self, state: bytes, script: dict[str, Any] | None) -> None:
        """Go back to a state of the pass that is gone on with."""
        self._know(script)
        self._owner().load_state_dict(packed.unpack(state))

    def carry(self, state: bytes, script: dict[str, Any] | None) -> None:
        """Bring along what an earlier pass left behind, except what the script sets itself."""
        self._know(script)
        left, live = packed.unpack(state), self._entries()
        if type(left) is dict:
            left |= {key: live[key] for key in left.keys() & live.keys() if self._is_set(key, live[key])}
        self._owner().load_state_dict(left)

    def _know(self, script: dict[str, Any] | None) -> None:
        if script is not None:
            self._first, self._touched = dict(script["first"]), dict(script["touched"])
        self._end = None

    def _is_set(self, key: str, live: Any) -> bool:
        """Whether the script sets it: seen to, or it is not what a launch begins with."""
        if key not in self._touched and type(live) in _PLAIN and key in (self._first or {}):
            first = (self._first or {})[key]
            return type(first) is not type(live) or first != live
        return self._touched.get(key, False)
