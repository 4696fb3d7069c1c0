"""What a file or folder of another program holds, in Holdfast's form; nothing in it is ever executed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import msgspec

from holdfast.domain.progress import Progress
from holdfast.domain.tensors import TensorRef, TensorSource
from holdfast.domain.tree import Component
from holdfast.errors import DamagedError, NotFoundError, UsageError
from holdfast.formats import (
    dcp_files,
    huggingface,
    lightning_files,
    paddle_files,
    torch_files,
    trainer_files,
)
from holdfast.formats.flat import ENTRIES, STEP
from holdfast.formats.safetensors import SafetensorsFile
from holdfast.formats.views import PADDLE_NAMES
from holdfast.frameworks import classes
from holdfast.frameworks.capturing import Capture
from holdfast.storage.faults import told_plainly

FRAMEWORKS = ("torch", "paddle")
TORCH_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt", ".tar")
_LABELS = {"pt": "torch", "pd": "paddle"}
_LARGEST_STEP = 10**18 - 1


class Options(msgspec.Struct, frozen=True):
    """What the user says about a file.

    Attributes
    ----------
    model, optimizer : str
        Names of the entries for a file that holds one thing.
    framework : str or None
        Whose weights a ``.safetensors`` file holds, where it does not tell.
    """

    model: str = "model"
    optimizer: str = "optimizer"
    framework: str | None = None


class Foreign:
    """What a file holds, in Holdfast's form.

    Attributes
    ----------
    kind : str
        Who wrote it: ``torch``, ``safetensors``, ``paddle``, ``huggingface``, ``lightning``, ``dcp``.
    tree : dict[str, Any]
        Entries; mappings as imported components, which a live object reads as its own.
    capture : Capture
        Collects the tensors.
    step : int or None
        What the contents tell; None if they do not.
    metrics : dict[str, float]
    rng : dict or None
        Of all frameworks whose generators are recorded, as `capture_rng` gives it.
    left_out : list[str]
        What is there but could not be taken, or not whole.
    """

    def __init__(self) -> None:
        self.kind = "torch"
        self.capture = Capture({})
        self.tree: dict[str, Any] = {}
        self.step: int | None = None
        self.epoch = 0
        self.metrics: dict[str, float] = {}
        self.rng: dict[str, Any] | None = None
        self.left_out: list[str] = []

    @property
    def progress(self) -> Progress:
        return Progress(step=self.step or 0, epoch=self.epoch)

    def add(self, entry: str, framework: str, value: Any) -> None:
        self.put(entry, _as_imported(f"{framework}.imported", value))

    def put(self, entry: str, value: Any) -> None:
        """Take an entry; one of that name must not take another's place."""
        if entry in self.tree:
            raise UsageError(
                f"Two things in the file would become the entry {entry!r}.",
                do="Give the model another name with --as, or the optimizer with --optimizer.",
            )
        self.tree[entry] = value

    def adder(self, entry: str, framework: str) -> Callable[[str, TensorSource], TensorRef]:
        """Takes tensors of an entry by their path within it."""
        return lambda path, source: self.capture.tensor(f"{entry}/{path}", framework, "cpu", source)

    def counted(self, content: object) -> None:
        """Take the step that a mapping tells, if it does."""
        for key in ("global_step", "step"):
            step = content.get(key) if isinstance(content, dict) else None
            if type(step) is int and 0 <= step <= _LARGEST_STEP:
                self.step = step


def _as_imported(kind: str, value: Any) -> Any:
    if isinstance(value, dict):
        return Component(kind, value)
    if isinstance(value, list):
        return [_as_imported(kind, item) for item in value]
    return tuple(_as_imported(kind, item) for item in value) if isinstance(value, tuple) else value


def is_resumable(tree: Mapping[str, Any]) -> bool:
    """Whether there is more than a model: an optimizer's state."""
    return any(_has_optimizer(value) for value in tree.values())


def _has_optimizer(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return any(_has_optimizer(item) for item in value)
    if not isinstance(value, Component) or not isinstance(value.state, dict):
        return False
    return value.state.keys() >= {"state", "param_groups"} or PADDLE_NAMES in value.state


@contextmanager
def opened(path: Path, options: Options) -> Iterator[Foreign]:
    """Read what a file says of itself; its tensors may be read from it until the end.

    Raises
    ------
    UsageError, NotFoundError
        It is of no known kind, or not there.
    UnsupportedError
        It holds more than tensors and plain values; nothing was run.
    DamagedError
        It is cut short, or not what its name says.
    """
    if options.framework is not None and options.framework not in FRAMEWORKS:
        raise UsageError(
            f"There is no framework {options.framework!r}.", do=f"Use one of: {', '.join(FRAMEWORKS)}."
        )
    if not path.exists():
        raise NotFoundError(f"There is no file {path}.", do="Check the path.")
    foreign = Foreign()
    with ExitStack() as stack, told_plainly(f"reading {path.name}", str(path.parent)):
        _read(foreign, path, options, stack)
        if not foreign.tree:
            raise DamagedError(f"{path.name} holds nothing to import.")
        yield foreign


def _read(foreign: Foreign, path: Path, options: Options, stack: ExitStack) -> None:
    suffix = path.suffix.lower()
    if dcp_files.is_one(path):
        _read_distributed(foreign, path, options)
    elif path.is_dir():
        _read_folder(foreign, path, options, stack)
    elif suffix == ".safetensors":
        foreign.kind = "safetensors"
        _take_safetensors(foreign, [stack.enter_context(SafetensorsFile(path))], options)
    elif suffix in (".pdparams", ".pdopt"):
        _read_paddle(foreign, path, options)
    elif suffix in TORCH_SUFFIXES:
        _read_torch(foreign, path, options)
    else:
        raise UsageError(
            f"{path.name} is of no known kind.",
            do="Import .pt, .pth, .bin, .ckpt, .safetensors, .pdparams, .pdopt, or a folder that"
            " Hugging Face, Lightning or torch.distributed.checkpoint wrote.",
        )


# -- a folder of Hugging Face ----------------------------------------------------------------


def _read_folder(foreign: Foreign, path: Path, options: Options, stack: ExitStack) -> None:
    foreign.kind = "huggingface"
    if (pickled := huggingface.pickled_weights(path)) is not None:
        values = torch_files.load_values(pickled)
        _add_entries(foreign, _captured(foreign, values, options), "torch", options.model)
    else:
        files = huggingface.open_weights(path)
        for file in files:
            stack.callback(file.close)
        _take_safetensors(foreign, files, options)
    _take_trainer(foreign, path, options)
    if (config := huggingface.read_config(path)) is not None:
        foreign.put("config", config)


def _take_trainer(foreign: Foreign, path: Path, options: Options) -> None:
    told = huggingface.read_progress(path)
    foreign.step = told.global_step or foreign.step
    foreign.epoch, foreign.metrics = told.epoch_number, told.metrics
    for entry, file in trainer_files.state_files(path).items():
        name = options.optimizer if entry == "optimizer" else entry
        taken = foreign.capture.value(torch_files.load_values(file), name)
        foreign.add(name, "torch", classes.plain(taken))
    foreign.rng, left_out = trainer_files.read_rng(path)
    foreign.left_out += left_out


# -- .safetensors ----------------------------------------------------------------------------


def _take_safetensors(foreign: Foreign, files: list[SafetensorsFile], options: Options) -> None:
    metadata = {key: value for file in files for key, value in file.metadata.items()}
    framework = options.framework or _LABELS.get(metadata.get("format", ""), "torch")
    tensors = {name: tensor for file in files for name, tensor in file.tensors.items()}
    kinds = _kinds(metadata) or {options.model: "model"}
    bare = ENTRIES not in metadata
    refs: dict[str, dict[str, TensorRef]] = {entry: {} for entry in kinds}
    made: dict[str, TensorRef] = {}
    ties = {alias: name for alias, name in metadata.items() if name in tensors and alias not in tensors}
    for name, owner in [*((n, n) for n in tensors), *ties.items()]:
        entry = options.model if bare else _entry_of(name, kinds)
        if entry is None:
            continue
        inner = name if bare else name[len(entry) + 1 :]
        if owner not in made:
            made[owner] = foreign.adder(entry, framework)(inner or "tensor", tensors[owner])
        refs[entry][inner] = made[owner]
    for entry, kind in kinds.items():
        if kind == "model":
            foreign.add(entry, framework, refs[entry])
        elif kind == "tensor" and "" in refs[entry]:
            foreign.put(entry, refs[entry][""])
        else:
            foreign.left_out.append(entry)
    step = metadata.get(STEP, "")
    foreign.step = int(step) if step.isascii() and step.isdigit() and len(step) < 18 else None


def _kinds(metadata: Mapping[str, str]) -> dict[str, str]:
    try:
        return msgspec.json.decode(metadata.get(ENTRIES, "{}"), type=dict[str, str])
    except msgspec.DecodeError as error:
        raise DamagedError(f"The file's list of entries cannot be read: {error}.") from error


def _entry_of(name: str, kinds: Mapping[str, str]) -> str | None:
    """The entry that a prefixed name belongs to: the longest that fits."""
    found = [entry for entry in kinds if name == entry or name.startswith(f"{entry}.")]
    return max(found, key=len, default=None)


# -- Paddle, PyTorch, Lightning, DCP ---------------------------------------------------------


def _read_paddle(foreign: Foreign, path: Path, options: Options) -> None:
    foreign.kind = "paddle"
    names: dict[str, str] = {}
    weights, values = path.with_suffix(".pdparams"), path.with_suffix(".pdopt")
    if weights.exists():
        content, names = paddle_files.load_view(weights, foreign.adder(options.model, "paddle"))
        _add_entries(foreign, content, "paddle", options.model)
    if values.exists():
        content, _ = paddle_files.load_view(values, foreign.adder(options.optimizer, "paddle"))
        if not isinstance(content, dict):
            raise DamagedError(f"{values.name} holds no state dict.")
        foreign.add(options.optimizer, "paddle", {**content, PADDLE_NAMES: names})


def _read_torch(foreign: Foreign, path: Path, options: Options) -> None:
    values = torch_files.load_values(path)
    foreign.counted(values)
    if lightning_files.is_one(values):
        foreign.kind = "lightning"
        foreign.epoch, foreign.metrics = lightning_files.epoch(values), lightning_files.metrics(values)
        values = lightning_files.entries(values, options.model, options.optimizer)
    _add_entries(foreign, _captured(foreign, values, options), "torch", options.model)


def _captured(foreign: Foreign, values: Any, options: Options) -> Any:
    if isinstance(values, dict) and not is_flat(values):
        taken: Any = {key: foreign.capture.value(item, str(key)) for key, item in values.items()}
    else:
        taken = foreign.capture.value(values, options.model)
    return classes.plain(taken)  # OrderedDict is how torch writes any mapping


def _read_distributed(foreign: Foreign, path: Path, options: Options) -> None:
    foreign.kind = "dcp"
    content = dcp_files.load_view(path, foreign.adder(options.model, "torch"), foreign.capture)
    foreign.counted(content)
    _add_entries(foreign, content, "torch", options.model)


def _add_entries(foreign: Foreign, content: Any, framework: str, name: str) -> None:
    """One entry per key; a flat ``state_dict``, or anything that is no dict, is one entry itself."""
    if not isinstance(content, dict) or is_flat(content):
        foreign.add(name, framework, content)
        return
    for key, item in content.items():
        foreign.add(str(key), framework, item)


def is_flat(values: Mapping[Any, Any]) -> bool:
    """Whether a dict is one object's ``state_dict``: named tensors, and nothing else of weight."""
    tensors = [key for key, item in values.items() if not isinstance(item, dict | list | tuple | _PLAIN)]
    others = [key for key in values if key not in tensors]
    return bool(tensors) and all(str(key).rpartition(".")[2] == "_extra_state" for key in others)


_PLAIN = bool | int | float | complex | str | bytes | bytearray | None
