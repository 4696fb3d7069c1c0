"""The walk over a live state: capture it into a typed tree, or plan its restore.

Planning compares everything and touches nothing, so that a checkpoint which does not fit
is refused with one error that lists every difference.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any

from holdfast.domain.tensors import TensorRef, TensorSpec, TensorTarget
from holdfast.domain.tree import Component
from holdfast.errors import DamagedError, MismatchError, UnsupportedError
from holdfast.frameworks import classes, registry
from holdfast.frameworks.capturing import Capture, capture, refusing_endless

__all__ = ["Capture", "LoadPlan", "apply_given", "capture", "given", "plan"]

_UNREADABLE = (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError)


class LoadPlan:
    """A restore worked out but not begun: what to read where, and what to do after."""

    def __init__(self, specs: Mapping[str, TensorSpec], state: Mapping[str, object]) -> None:
        self.state = state
        self._specs = specs
        self.reads: list[tuple[str, TensorTarget]] = []
        self.actions: list[Callable[[], None]] = []
        self.missing_paths: list[str] = []
        self.unexpected_paths: list[str] = []
        self.mismatches: list[str] = []

    def spec(self, ref: TensorRef) -> TensorSpec:
        if ref.name not in self._specs:
            raise DamagedError(f"The checkpoint refers to a tensor {ref.name!r} that it does not hold.")
        return self._specs[ref.name]

    def read(self, ref: TensorRef, target: TensorTarget) -> None:
        self.reads.append((ref.name, target))

    def then(self, action: Callable[[], None]) -> None:
        self.actions.append(action)

    def missing(self, path: str) -> None:
        self.missing_paths.append(path)

    def unexpected(self, path: str) -> None:
        self.unexpected_paths.append(path)

    def mismatched(self, path: str, saved: object, live: object) -> None:
        self.mismatches.append(f"{path} (checkpoint: {saved}, live: {live})")

    def value(self, saved: object, like: object, path: str) -> Any:
        if isinstance(saved, TensorRef):
            return self._tensor(saved, like, path)
        if isinstance(saved, Component) and not classes.is_kept(saved):
            return self._component(saved, like, path)
        if _has_own_state(like):
            self.mismatched(path, _describe(saved), _describe(like))
            return like
        if isinstance(saved, Component):
            return self._guarded(lambda: self._instance(saved, like, path), saved.kind, path)
        if isinstance(saved, dict):
            return self._dict(saved, like, path)
        if isinstance(saved, list | tuple):
            return self._sequence(saved, like, path)
        if isinstance(saved, set | frozenset):
            return type(saved)(self._hashed(v, like, path) for v in saved)
        return _as_live(saved, like)

    def _instance(self, saved: Component, like: object, path: str) -> Any:
        """Plan a value of a class of its own: into the live one, or made anew."""
        name, plain, *factory = saved.state
        cls = classes.class_for(name, plain, like)
        if isinstance(like, dict | list) and cls is type(like):
            return self.value(plain, like, path)
        if cls is not None and issubclass(cls, enum.Enum):
            return self._member(cls, plain, like, path)
        if cls is None or saved.kind == classes.AWAITED:
            how = "which is not defined here" if cls is None else "which only a live one of it can take"
            self.mismatched(path, f"{name}, {how}", _describe(like))
            return like
        return classes.make(cls, self._anew(plain, like, path), *factory)

    def _member(self, cls: type[enum.Enum], value: Any, like: object, path: str) -> object:
        found = classes.member(cls, value)
        if found is None:
            self.mismatched(path, f"{cls.__name__} of the value {value!r}", "it has no such member")
        return like if found is None else found

    def _anew(self, plain: Any, like: object, path: str) -> Any:
        """A new plain container, of what the live one holds; or the plain value itself."""
        if isinstance(plain, dict):
            return self._items(plain, like if isinstance(like, dict) else {}, path)
        if isinstance(plain, list | tuple):
            return self._members(plain, like, path)
        return self.value(plain, like, path) if isinstance(plain, set | frozenset) else plain

    def _hashed(self, saved: object, live: object, path: str) -> Any:
        """Plan a key or an element: those of a class of their own are found or made anew."""
        if isinstance(saved, tuple | frozenset):
            return type(saved)(self._hashed(v, (), path) for v in saved)
        if not classes.is_kept(saved):
            return saved
        likes = live if isinstance(live, dict | set | frozenset) else ()
        like = next((v for v in likes if classes.name_of(type(v)) == classes.label(saved)), None)
        return self.value(saved, like, path)

    def held(self, saved: object, like: object, path: str) -> Any:
        grows = isinstance(saved, TensorRef) and _is_placeholder(like, self.spec(saved))
        return self.value(saved, None if grows else like, path)

    def _tensor(self, ref: TensorRef, like: object, path: str) -> Any:
        owner = next((f for f in registry.active() if f.is_tensor(like)), None)
        if owner is None or _is_read_only(like):
            if _adapter(like) is not None:
                self.mismatched(path, self.spec(ref), _describe(like))
                return like
            maker = owner or registry.framework(ref.framework)
            value, target = maker.new_tensor(self.spec(ref), ref.device)
            self.read(ref, target)
            return value
        target = owner.target(like)
        if target.spec != self.spec(ref):
            self.mismatched(path, self.spec(ref), target.spec)
        else:
            self.read(ref, target)
        return like

    def _component(self, saved: Component, like: object, path: str) -> Any:
        adapter = _adapter(like)
        if registry.is_imported(saved.kind):
            return self._imported(saved, adapter, like, path)
        if adapter is None and _has_own_state(like):
            self.mismatched(path, saved.kind, _describe(like))
        elif adapter is None:
            builder = registry.builder(saved.kind)
            if builder is not None:
                return self._guarded(lambda: builder(saved.state, path, self), saved.kind, path)
            self.unexpected(f"{path} ({saved.kind})")
        elif adapter.kind != saved.kind:
            self.mismatched(path, saved.kind, adapter.kind)
        else:
            replacement = self._guarded(lambda: adapter.plan(like, saved.state, path, self), saved.kind, path)
            return like if replacement is None else replacement
        return like

    def _imported(self, saved: Component, adapter: Any, like: object, path: str) -> Any:
        """Plan a mapping from a framework's own file: the live object says how it is read."""
        if adapter is None:
            return self.value({k: _still_imported(saved.kind, v) for k, v in saved.state.items()}, like, path)
        plan = registry.importer(saved.kind, adapter.kind)
        if plan is not None:
            self._guarded(lambda: plan(like, saved.state, path, self), saved.kind, path)
            return like
        if adapter.kind != "python.state_dict":
            self.mismatched(path, saved.kind, adapter.kind)
            return like
        self._guarded(lambda: adapter.plan(like, saved.state, path, self), saved.kind, path)
        return like

    def _guarded(self, planning: Callable[[], Any], kind: str, path: str) -> Any:
        """Plan all of a component or nothing: what was written may not be what is read today."""
        reads, actions = len(self.reads), len(self.actions)
        try:
            return planning()
        except _UNREADABLE as error:
            del self.reads[reads:], self.actions[actions:]
            self.mismatched(path, f"a {kind} that cannot be read: {error!r}", kind)
            return None

    def _dict(self, saved: dict[Any, Any], like: object, path: str) -> Any:
        new = self._items(saved, like if isinstance(like, dict) else {}, path)
        if not isinstance(like, dict):
            return new
        self.then(lambda: _refill_dict(like, new))
        return like

    def _items(self, saved: dict[Any, Any], live: dict[Any, Any], path: str) -> dict[Any, Any]:
        new = {}
        for saved_key, old in saved.items():
            key = self._hashed(saved_key, live, path)
            if key is None and saved_key is not None:
                continue  # told of as a mismatch
            value = self.held(old, live.get(key), f"{path}/{key}")
            if value is not None or old is None or key in live:
                new[key] = value
        for key in live.keys() - new.keys():
            if _holds_state(live[key]):
                self.missing(f"{path}/{key}")
                new[key] = live[key]  # kept when the load is not strict
        return new

    def _sequence(self, saved: list[Any] | tuple[Any, ...], like: object, path: str) -> Any:
        new = self._members(saved, like, path)
        if isinstance(saved, tuple):
            named = isinstance(like, tuple) and len(getattr(like, "_fields", ())) == len(new) > 0
            return type(like)(*new) if named else tuple(new)
        if not isinstance(like, list):
            return new
        self.then(lambda: like.__setitem__(slice(None), new))
        return like

    def _members(self, saved: list[Any] | tuple[Any, ...], like: object, path: str) -> list[Any]:
        live = list(like) if isinstance(like, list | tuple) else []
        kept = [(i, v) for i, v in enumerate(live) if i >= len(saved) and _holds_state(v)]
        for index, _ in kept:
            self.missing(f"{path}/{index}")
        live += [None] * (len(saved) - len(live))
        new = [self.held(v, live[i], f"{path}/{i}") for i, v in enumerate(saved)]
        return new + [v for _, v in kept]  # these stay when the load is not strict

    def raise_differences(self, what: str, *, strict: bool = True) -> list[str]:
        """Raise one error that lists every difference; with ``strict=False`` return them instead.

        Raises
        ------
        MismatchError
            Listing all missing, unexpected and mismatched entries.
        """
        lines = [f"missing from the checkpoint: {p}" for p in self.missing_paths]
        lines += [f"not in the live state: {p}" for p in self.unexpected_paths]
        lines += [f"does not match: {p}" for p in self.mismatches]
        if lines and strict:
            raise MismatchError(
                f"{what} does not fit the live state:\n  " + "\n  ".join(lines) + "\n",
                do="Build the state as it was saved, or skip these with holdfast.load(..., strict=False).",
                missing=tuple(self.missing_paths),
                unexpected=tuple(self.unexpected_paths),
                mismatched=tuple(self.mismatches),
            )
        return lines

    def finish(self) -> None:
        """Run the planned actions; every tensor has been read, verified and committed."""
        for action in self.actions:
            action()


def _still_imported(kind: str, value: object) -> object:
    """What an imported mapping holds may belong to a live object as well."""
    if isinstance(value, dict):
        return Component(kind, value)
    if isinstance(value, list):
        return [_still_imported(kind, v) for v in value]
    return tuple(_still_imported(kind, v) for v in value) if isinstance(value, tuple) else value


def _refill_dict(live: dict[Any, Any], new: dict[Any, Any]) -> None:
    live.clear()
    live.update(new)


def _as_live(saved: object, like: object) -> object:
    """An enum below a component comes as its value: only here is its class known."""
    if isinstance(like, enum.Enum) and not isinstance(saved, enum.Enum):
        with suppress(ValueError):
            return type(like)(saved)
    return saved


def _is_read_only(like: object) -> bool:
    """A NumPy array that nobody may write to is a plain value: replaced, not filled."""
    return getattr(getattr(like, "flags", None), "writeable", True) is False


def _is_placeholder(like: object, spec: TensorSpec) -> bool:
    """An empty tensor that nobody trains: it holds nothing yet, and grows by being replaced."""
    if tuple(getattr(like, "shape", ())) == spec.shape:
        return False
    trained = getattr(like, "requires_grad", False) or not getattr(like, "stop_gradient", True)
    return (
        0 in getattr(like, "shape", ()) and not trained and any(f.is_tensor(like) for f in registry.active())
    )


def _adapter(value: object) -> Any:
    return next((a for f in registry.active() if (a := f.component(value)) is not None), None)


def _has_own_state(value: object) -> bool:
    return _adapter(value) is not None or any(f.is_tensor(value) for f in registry.active())


def _holds_state(value: object) -> bool:
    if isinstance(value, dict):
        return any(_holds_state(v) for v in value.values())
    if isinstance(value, list | tuple):
        return any(_holds_state(v) for v in value)
    return _has_own_state(value)


def _describe(value: object) -> str:
    if isinstance(value, Component):
        return classes.label(value) if classes.is_kept(value) else value.kind
    adapter = _adapter(value)
    return adapter.kind if adapter is not None else type(value).__name__


def plan(
    state: dict[str, Any],
    tree: Mapping[str, Any],
    specs: Mapping[str, TensorSpec],
    only: Iterable[str] | None = None,
) -> LoadPlan:
    """Plan the restore of ``tree`` into ``state``, in place.

    Parameters
    ----------
    state : dict[str, Any]
        The user's live state; plain values will be replaced in it.
    tree : mapping
        From `capture`.
    specs : mapping
        dtype and shape of every tensor of the checkpoint.
    only : iterable of str, optional
        Restrict to these top-level entries.
    """
    result = LoadPlan(specs, state)
    wanted = None if only is None else set(only)
    if wanted is not None and (unknown := wanted - set(tree)):
        raise UnsupportedError(
            f"The checkpoint has no {', '.join(sorted(unknown))}; it holds {', '.join(sorted(tree))}.",
            do="Name one of these in only=.",
        )
    for key, saved in tree.items():
        if wanted is not None and key not in wanted:
            continue
        if key not in state:
            result.unexpected(key)
            continue
        _plan_entry(result, state, key, saved)
    for key in state.keys() - tree.keys():
        if wanted is None:
            result.missing(key)
    return result


def _plan_entry(result: LoadPlan, state: dict[str, Any], key: str, saved: object) -> None:
    new = result.held(saved, state[key], key)
    if new is not state[key]:
        result.then(lambda: state.__setitem__(key, new))


def given(state: Mapping[str, object]) -> dict[str, Any]:
    """Values that the script constructs, as ``entry.name`` → plain value."""
    result: dict[str, Any] = {}
    with refusing_endless():
        for path, adapter, value in _components(state):
            result.update({f"{path}.{name}": v for name, v in adapter.given(value).items()})
    return result


def apply_given(state: Mapping[str, object], changes: Mapping[str, Any]) -> None:
    """Put the script's values for these names of `given` back after a restore."""
    for path, adapter, value in _components(state):
        mine = {n.removeprefix(f"{path}."): v for n, v in changes.items() if n.startswith(f"{path}.")}
        if mine:
            adapter.apply_given(value, mine)


def _components(value: object, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    adapter = _adapter(value)
    if adapter is not None and path:
        yield path, adapter, value
    elif isinstance(value, Mapping | list | tuple):
        items = value.items() if isinstance(value, Mapping) else enumerate(value)
        for key, item in items:
            yield from _components(item, f"{path}/{key}" if path else str(key))
