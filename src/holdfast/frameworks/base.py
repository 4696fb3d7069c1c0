"""The contract between Holdfast and a framework: capture, load, RNGs, data position.

One file or folder per framework implements `Framework`; `holdfast.frameworks.registry`
is the only place that names them. Nothing here imports a framework.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol

import msgspec

from holdfast.domain.tensors import TensorRef, TensorSource, TensorSpec, TensorTarget


class Form(msgspec.Struct, frozen=True):
    """All that the capture of an object depends on, told more cheaply than by capturing it.

    Attributes
    ----------
    facts : list
        Plain values. As long as they compare equal, the capture is the same but for the tensors' bytes.
    tensors : list
        Every tensor that the capture may hold.
    source : callable
        As `Framework.source`.
    is_steady : callable
        Whether what is read of a tensor is its own memory for as long as the facts are the same, and so
        little that it may be held until the next capture.
    """

    facts: list[Any]
    tensors: list[Any]
    source: Callable[[Any, str], tuple[TensorSource, str]]
    is_steady: Callable[[Any], bool]


class CaptureWalk(Protocol):
    """Given to capture code: turns nested values into plain ones and collects tensors."""

    @property
    def state(self) -> Mapping[str, object]:
        """The whole live state: an optimizer finds the names of its parameters here."""
        ...

    def value(self, value: object, path: str) -> Any:
        """Capture anything the state may hold; tensors become `TensorRef`, objects `Component`."""
        ...

    def tensor(self, path: str, framework: str, device: str, source: TensorSource) -> TensorRef:
        """Register one tensor under ``path`` (made unique)."""
        ...

    def lasting(self, path: str, form: Form | None, make: Callable[[], list[Any]]) -> list[Any]:
        """What ``make`` captures, or has captured when the form was the same; None: captured anew."""
        ...


class LoadWalk(Protocol):
    """Given to load code: compares first, touches nothing; collects reads and last steps."""

    @property
    def state(self) -> Mapping[str, object]:
        """The whole live state, as for `CaptureWalk`."""
        ...

    def spec(self, ref: TensorRef) -> TensorSpec:
        """dtype and shape that the checkpoint holds for ``ref``."""
        ...

    def value(self, saved: object, like: object, path: str) -> Any:
        """Plan the restore of a value.

        Returns the object that will hold the restored value once the plan has run:
        ``like`` itself where it is restored in place, else a new object.
        """
        ...

    def held(self, saved: object, like: object, path: str) -> Any:
        """Like `value`, for what a container holds: there an empty tensor is replaced, of whatever shape."""
        ...

    def read(self, ref: TensorRef, target: TensorTarget) -> None:
        """Plan to fill ``target``; the caller has checked that specs agree."""
        ...

    def then(self, action: Callable[[], None]) -> None:
        """Plan an action for when every tensor has been read and committed, in order of calls."""
        ...

    def missing(self, path: str) -> None:
        """The live state has ``path``, the checkpoint has not."""
        ...

    def unexpected(self, path: str) -> None:
        """The checkpoint has ``path``, the live state has not."""
        ...

    def mismatched(self, path: str, saved: object, live: object) -> None:
        """Both have ``path``, but differ in kind, dtype, shape or structure."""
        ...


class ComponentAdapter(Protocol):
    """How one kind of stateful object is captured and loaded in place."""

    @property
    def kind(self) -> str:
        """Recorded in the tree, e.g. ``torch.optimizer``; capture and load must agree on it."""
        ...

    def capture(self, value: Any, path: str, walk: CaptureWalk) -> Any:
        """Plain values and `TensorRef` from which `plan` restores the object exactly."""
        ...

    def plan(self, value: Any, saved: Any, path: str, walk: LoadWalk) -> Any:
        """Compare and plan; must not touch ``value`` before the planned actions run.

        Returns None where ``value`` is restored in place, else (it cannot be written to)
        the object that takes its place.
        """
        ...

    def given(self, value: Any) -> dict[str, Any]:
        """Values that the script constructs (``lr``, ``weight_decay``, ``T_max`` ...), by name.

        Plain values only. Called before a restore; recorded and compared at the next launch.
        """
        ...

    def apply_given(self, value: Any, changes: dict[str, Any]) -> None:
        """Put the script's values for these names of `given` back after a restore."""
        ...


class LoaderPass(Protocol):
    """One pass over a loader, begun: an iterator that knows where it is."""

    @property
    def delivered(self) -> int:
        """Batches of this pass handed out, those before a resume included."""
        ...

    @property
    def samples(self) -> int:
        """Samples in them."""
        ...

    @property
    def inexact(self) -> str | None:
        """Why what follows may differ from an uninterrupted pass; None where it cannot."""
        ...

    def __iter__(self) -> Iterator[Any]: ...

    def __next__(self) -> Any: ...

    def state(self) -> dict[str, Any]:
        """Plain values from which `PositionedLoader.start` goes on after the last batch delivered."""
        ...

    def close(self) -> None:
        """Let go of workers and iterators; idempotent, also after exhaustion."""
        ...


class PositionedLoader(Protocol):
    """A data loader whose passes can be resumed at any batch."""

    def start(self, *, seed: int, number: int, saved: dict[str, Any] | None) -> LoaderPass:
        """Begin a pass.

        Parameters
        ----------
        seed : int
            The run's data seed: with ``number`` and the batch's number in the pass it
            decides all randomness inside data workers.
        number : int
            Number of the pass, counted from 0.
        saved : dict, optional
            `LoaderPass.state` of this very pass, to go on with it (the caller has set every
            global RNG to what it was when the pass began, and sets it again afterwards); or
            of an earlier pass, to bring along what samplers and datasets keep between passes.

        Returns
        -------
        LoaderPass
            All that the pass draws from global RNGs to begin (seeds, permutations) has been
            drawn on return, and no sample was loaded to be thrown away.
        """
        ...

    def left(self, saved: dict[str, Any]) -> dict[str, Any]:
        """`LoaderPass.state` of the last pass, which is closed, with what has moved since.

        An evaluation may have drawn from generators that samplers and datasets hold.
        """
        ...

    def batches(self) -> int | None:
        """Batches of a whole pass, where known."""
        ...

    def facts(self) -> dict[str, Any]:
        """What the loader's exactness rests on, plain values by name (``batch_size`` ...)."""
        ...


class Environment(msgspec.Struct, frozen=True):
    """What exactness depends on besides the state.

    Attributes
    ----------
    versions : dict[str, str]
        Software, by name.
    devices : dict[str, str]
        Kind of device by framework, e.g. ``{"torch": "cpu"}``.
    flags : dict[str, str]
        Determinism switches and their values.
    """

    versions: dict[str, str] = {}
    devices: dict[str, str] = {}
    flags: dict[str, str] = {}


class Framework(Protocol):
    """Everything Holdfast asks of one framework."""

    @property
    def name(self) -> str: ...

    def is_tensor(self, value: object) -> bool:
        """Whether ``value`` is a dense tensor of this framework."""
        ...

    def source(self, value: Any, path: str) -> tuple[TensorSource, str]:
        """Its bytes and its kind of device; UnsupportedError names ``path``."""
        ...

    def target(self, value: Any) -> TensorTarget:
        """Restore into this very tensor, strides and device kept."""
        ...

    def new_tensor(self, spec: TensorSpec, device: str) -> tuple[Any, TensorTarget]:
        """A fresh tensor to restore into (on ``device`` if there is one, else the CPU)."""
        ...

    def component(self, value: object) -> ComponentAdapter | None:
        """The adapter for a stateful object of this framework; None if it is not one."""
        ...

    def rng_state(self) -> Any:
        """State of every global generator, plain values. Consumes no randomness."""
        ...

    def set_rng_state(self, saved: Any) -> None:
        """Put back what `rng_state` returned."""
        ...

    def data_seed(self) -> int | None:
        """The seed the script chose (``torch.initial_seed()``); None if it cannot be told."""
        ...

    def environment(self) -> Environment: ...

    def loader(self, value: object) -> PositionedLoader | None:
        """A positioned view of a loader of this framework; None if it is not one.

        UnsupportedError says why one cannot be positioned exactly, and the way out.
        """
        ...

    def watch_steps(
        self,
        values: Iterable[object],
        on_step: Callable[[], None],
        before_step: Callable[[], None] | None = None,
    ) -> Callable[[], None]:
        """Call these around each ``step()`` of the optimizers among ``values``; returns the undo.

        ``before_step`` may be called for others, too.
        """
        ...

    def changed_by_steps_only(self, values: Iterable[object]) -> dict[tuple[int, int], Callable[[], int]]:
        """Memory that nothing changes but a step of the optimizers among ``values``.

        Address and bytes → a function that gives a version, which most changes by others move. What is
        not known to be safe is not among it.
        """
        ...

    def has_gradients(self, values: Iterable[object]) -> bool:
        """Whether any parameter of the optimizers among ``values`` holds a gradient."""
        ...

    def learning_rates(self, value: object) -> list[float]:
        """Those of an optimizer that are plain numbers; none if it is not one. Waits for no device."""
        ...

    def collective_seconds(self, value: object) -> tuple[int, float] | None:
        """The newest step of a data parallel module whose collectives were timed, and what they took.

        Step 0 as long as none was; None if it is no such module.
        """
        ...

    def scalar(self, value: object) -> float | None:
        """A number from a 0-d tensor (may synchronize a device); None if it is not one."""
        ...
