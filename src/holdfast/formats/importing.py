"""Import: another program's file as the first checkpoint of a run; nothing in it is ever executed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from holdfast.domain.names import CheckpointId
from holdfast.domain.progress import Progress
from holdfast.domain.tensors import TensorRef, TensorSource
from holdfast.domain.tree import Component, references
from holdfast.errors import DamagedError, NotFoundError, UsageError
from holdfast.formats import huggingface, paddle_files, torch_files
from holdfast.formats.flat import ENTRIES, STEP
from holdfast.formats.reading import Advance
from holdfast.formats.safetensors import SafetensorsFile
from holdfast.formats.views import PADDLE_NAMES
from holdfast.frameworks import classes
from holdfast.frameworks.capturing import Capture
from holdfast.repository.commit import Draft, commit
from holdfast.repository.repository import Repository
from holdfast.storage.faults import told_plainly

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

FRAMEWORKS = ("torch", "paddle")
_LABELS = {"pt": "torch", "pd": "paddle"}
_TORCH_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt", ".tar")


class Imported(msgspec.Struct, frozen=True):
    """What an import committed.

    Attributes
    ----------
    checkpoint : CheckpointId
    entries : list[str]
        Entries of the new state.
    left_out : list[str]
        What the file names but does not hold whole.
    tensors, size_bytes : int
    """

    checkpoint: CheckpointId
    entries: list[str]
    left_out: list[str]
    tensors: int
    size_bytes: int


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
    tree : dict[str, Any]
        Entries; mappings as imported components, which a live object reads as its own.
    capture : Capture
        Collects the tensors.
    """

    def __init__(self) -> None:
        self.capture = Capture({})
        self.tree: dict[str, Any] = {}
        self.progress = Progress()
        self.left_out: list[str] = []

    def add(self, entry: str, framework: str, value: Any) -> None:
        self.tree[entry] = _as_imported(f"{framework}.imported", value)

    def adder(self, entry: str, framework: str) -> Callable[[str, TensorSource], TensorRef]:
        """Takes tensors of an entry by their path within it."""
        return lambda path, source: self.capture.tensor(f"{entry}/{path}", framework, "cpu", source)


def _as_imported(kind: str, value: Any) -> Any:
    if isinstance(value, dict):
        return Component(kind, value)
    if isinstance(value, list):
        return [_as_imported(kind, item) for item in value]
    return tuple(_as_imported(kind, item) for item in value) if isinstance(value, tuple) else value


def import_checkpoint(
    repository: Repository,
    run_name: str,
    path: str | os.PathLike[str],
    *,
    step: int | None = None,
    only: Iterable[str] | None = None,
    options: Options | None = None,
    advance: Advance | None = None,
) -> Imported:
    """Make a file or folder of another program the first checkpoint of a new run.

    Parameters
    ----------
    path : str or path
        ``.pt``, ``.pth``, ``.bin`` or ``.ckpt`` of PyTorch (read by its restricted loader),
        ``.safetensors``, ``.pdparams`` and ``.pdopt`` of one name (either names both), or a folder
        with ``model.safetensors``.
    step : int, optional
        By default what the file tells, else 0.
    only : iterable of str, optional
        Restrict to these entries of the file.
    advance : callable, optional
        Told the bytes of tensors done since it was last called.

    Raises
    ------
    UsageError
        The run exists already, or the file is of no known kind.
    UnsupportedError
        The file holds more than tensors and plain values; nothing was run.
    DamagedError
        The file is cut short, or not what its name says.
    """
    run = repository.run(run_name)
    if run.exists():
        raise UsageError(
            f"The run {run_name} exists already; an import makes a new one.", do="Choose another name."
        )
    source = Path(path)
    with _opened(source, options or Options()) as foreign:
        tree = _chosen(foreign.tree, only, source)
        names = {ref.name for ref in references(tree)}
        sources = {n: _Told(s, advance) for n, s in foreign.capture.tensors.items() if n in names}
        progress = foreign.progress if step is None else Progress(step=step)
        attempt = run.begin_attempt()
        run.record_base(attempt, None)
        draft = Draft(
            attempt=attempt,
            sequence=1,
            progress=progress,
            reason=f"imported from {source.name}",
            sources=sources,
            tree=tree,
        )
        committed = commit(run, draft)
        run.record_end(attempt, f"imported from {source.name}", progress.step, done=False)
    return Imported(
        checkpoint=committed.id,
        entries=list(tree),
        left_out=foreign.left_out,
        tensors=committed.summary.tensors,
        size_bytes=committed.summary.size_bytes,
    )


class _Told:
    """A source that tells when it was read."""

    def __init__(self, source: TensorSource, advance: Advance | None) -> None:
        self.spec = source.spec
        self._source = source
        self._advance = advance

    def read(self) -> npt.NDArray[np.uint8]:
        data = self._source.read()
        if self._advance is not None:
            self._advance(len(data))
            self._advance = None
        return data


def _chosen(tree: dict[str, Any], only: Iterable[str] | None, path: Path) -> dict[str, Any]:
    if only is None:
        return tree
    wanted = [only] if isinstance(only, str) else list(only)
    if unknown := sorted(set(wanted) - set(tree)):
        raise NotFoundError(
            f"{path.name} has no {', '.join(unknown)}; it holds {', '.join(sorted(tree))}.",
            do="Name one of these.",
        )
    return {name: tree[name] for name in wanted}


@contextmanager
def _opened(path: Path, options: Options) -> Iterator[Foreign]:
    """Read what a file says of itself; its tensors may be read from it until the end."""
    if options.framework is not None and options.framework not in FRAMEWORKS:
        raise UsageError(
            f"There is no framework {options.framework!r}.", do=f"Use one of: {', '.join(FRAMEWORKS)}."
        )
    if not path.exists():
        raise NotFoundError(f"There is no file {path}.", do="Check the path.")
    foreign = Foreign()
    suffix = path.suffix.lower()
    with ExitStack() as stack, told_plainly(f"reading {path.name}", str(path.parent)):
        if path.is_dir():
            _read_folder(foreign, path, options, stack)
        elif suffix == ".safetensors":
            file = stack.enter_context(SafetensorsFile(path))
            _take_safetensors(foreign, [file], options)
        elif suffix in (".pdparams", ".pdopt"):
            _read_paddle(foreign, path, options)
        elif suffix in _TORCH_SUFFIXES:
            _read_torch(foreign, path, options)
        else:
            raise UsageError(
                f"{path.name} is of no known kind.",
                do="Import .pt, .pth, .bin, .ckpt, .safetensors, .pdparams, .pdopt or a Hugging Face folder.",
            )
        if not foreign.tree:
            raise DamagedError(f"{path.name} holds nothing to import.")
        yield foreign


def _read_folder(foreign: Foreign, path: Path, options: Options, stack: ExitStack) -> None:
    files = huggingface.open_weights(path)
    for file in files:
        stack.callback(file.close)
    _take_safetensors(foreign, files, options)
    step, epoch = huggingface.read_progress(path)
    foreign.progress = Progress(step=step or foreign.progress.step, epoch=epoch)
    if (config := huggingface.read_config(path)) is not None:
        foreign.tree["config"] = config


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
            foreign.tree[entry] = refs[entry][""]
        else:
            foreign.left_out.append(entry)
    step = metadata.get(STEP, "0")
    foreign.progress = Progress(step=int(step) if step.isascii() and step.isdigit() and len(step) < 18 else 0)


def _kinds(metadata: Mapping[str, str]) -> dict[str, str]:
    try:
        return msgspec.json.decode(metadata.get(ENTRIES, "{}"), type=dict[str, str])
    except msgspec.DecodeError as error:
        raise DamagedError(f"The file's list of entries cannot be read: {error}.") from error


def _entry_of(name: str, kinds: Mapping[str, str]) -> str | None:
    """The entry that a prefixed name belongs to: the longest that fits."""
    found = [entry for entry in kinds if name == entry or name.startswith(f"{entry}.")]
    return max(found, key=len, default=None)


def _read_paddle(foreign: Foreign, path: Path, options: Options) -> None:
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
    flat = isinstance(values, dict) and is_flat(values)
    taken = foreign.capture.value(values, options.model) if flat else _captured(foreign, values, options)
    content = classes.plain(taken)  # OrderedDict is how torch writes any mapping
    _add_entries(foreign, content, "torch", options.model)
    for key in ("global_step", "step"):
        step = content.get(key) if isinstance(content, dict) else None
        if type(step) is int and step >= 0:
            foreign.progress = Progress(step=step)


def _captured(foreign: Foreign, values: Any, options: Options) -> Any:
    if not isinstance(values, dict):
        return foreign.capture.value(values, options.model)
    return {key: foreign.capture.value(item, str(key)) for key, item in values.items()}


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
