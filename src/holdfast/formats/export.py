"""Export: a checkpoint as a file of another program's format, whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec

from holdfast.domain.names import CheckpointId
from holdfast.domain.tensors import TensorRef
from holdfast.domain.tree import Component, references
from holdfast.errors import UnsupportedError, UsageError
from holdfast.formats import huggingface, paddle_files, torch_files, views
from holdfast.formats.files import check_target, new_file
from holdfast.formats.flat import ENTRIES, flatten, origin
from holdfast.formats.reading import Advance, SavedState
from holdfast.formats.safetensors import Layout
from holdfast.repository.run import Run

SUFFIXES = {
    ".pt": "torch",
    ".pth": "torch",
    ".safetensors": "safetensors",
    ".pdparams": "paddle",
    ".pdopt": "paddle",
}
FORMATS = ("torch", "safetensors", "paddle", "huggingface")
LABELS = {"torch": "pt", "paddle": "pd"}
"""What other programs expect as ``format`` in the metadata of a ``.safetensors`` file."""


class Exported(msgspec.Struct, frozen=True):
    """What an export wrote.

    Attributes
    ----------
    format : str
        One of `FORMATS`.
    paths : list[str]
    tensors, size_bytes : int
        How many tensors of how many bytes.
    left_out : list[str]
        Entries of the state that the format has no place for.
    """

    format: str
    paths: list[str]
    tensors: int
    size_bytes: int
    left_out: list[str]


def export_checkpoint(
    run: Run,
    checkpoint: CheckpointId,
    path: str | os.PathLike[str],
    *,
    only: Iterable[str] | None = None,
    format: str | None = None,
    overwrite: bool = False,
    advance: Advance | None = None,
) -> Exported:
    """Write a checkpoint in another program's format, every byte verified.

    Parameters
    ----------
    path : str or path
        The suffix decides the format: ``.pt`` or ``.pth``, ``.safetensors``, ``.pdparams`` (the
        optimizer goes beside it as ``.pdopt``), ``.pdopt`` (the optimizer alone); a path that
        ends in ``/`` is a Hugging Face style folder.
    only : iterable of str, optional
        Restrict to these entries of the state; a single one is written bare, under its own names.
    format : str, optional
        One of `FORMATS`, where the suffix does not tell.
    overwrite : bool
        Replace what is there.
    advance : callable, optional
        Told the bytes done since it was last called.

    Raises
    ------
    UsageError
        The target exists, or nothing fits the format.
    UnsupportedError
        The format cannot hold a tensor exactly.
    DamagedError, StorageError
        Nothing became visible.
    """
    text = os.fspath(path)
    chosen = format_of(text, format)
    writer = _WRITERS[chosen]
    target = Path(text)
    check_target(target, overwrite=overwrite, folder=chosen == "huggingface")
    with run.repository.holding():
        saved = SavedState(run, checkpoint, only)
        paths, written = writer(saved, target, overwrite, advance)
        view = saved.state_dicts()
    refs = {ref.name for name in written for ref in references(view[name])}
    return Exported(
        format=chosen,
        paths=[str(p) for p in paths],
        tensors=len(refs),
        size_bytes=sum(saved.manifest.tensors[name].spec.size_bytes for name in refs),
        left_out=[name for name in saved.tree if name not in written],
    )


def format_of(text: str, given: str | None) -> str:
    """One of `FORMATS`: as given, else by how a path ends.

    Raises
    ------
    UsageError
    """
    if given is not None:
        if given not in FORMATS:
            raise UsageError(f"There is no format {given!r}.", do=f"Use one of: {', '.join(FORMATS)}.")
        return given
    if text.endswith(("/", os.sep)):
        return "huggingface"
    suffix = Path(text).suffix.lower()
    if suffix not in SUFFIXES:
        raise UsageError(
            f"The format of {text} cannot be told from its name.",
            do=f"Use one of {', '.join(SUFFIXES)}, a folder ending in '/', or say format= (--format).",
        )
    return SUFFIXES[suffix]


Written = tuple[list[Path], list[str]]
"""What was written, and which entries of the state are in it."""


def _torch(saved: SavedState, path: Path, overwrite: bool, advance: Advance | None) -> Written:
    _refuse_framework(saved, "paddle", "a .pt file", ".pdparams")
    view = saved.state_dicts()
    view = next(iter(view.values())) if _is_bare(saved) else view
    with new_file(path, overwrite=overwrite) as file:
        torch_files.save_values(saved.values(view, "torch", advance), file)
    return [path], list(saved.tree)


def _safetensors(saved: SavedState, path: Path, overwrite: bool, advance: Advance | None) -> Written:
    written = [name for name, value in saved.tree.items() if any(True for _ in references(value))]
    if not written:
        raise UsageError("What is to be exported holds no tensors.", do="Name other entries with only=.")
    view = saved.state_dicts()
    bare = _is_bare(saved)
    table = flatten(view[written[0]] if bare else view)
    metadata = {**table.tied, **origin(saved), "format": label(saved.tree)}
    if not bare:
        kinds = {name: _kind(saved.tree[name]) for name in written}
        metadata[ENTRIES] = msgspec.json.encode(kinds).decode()
    layout = Layout({name: saved.spec(ref) for name, ref in table.tensors.items()}, metadata)
    with new_file(path, overwrite=overwrite) as file:
        layout.write(file, saved.stream([table.tensors[n].name for n in layout.order], advance))
    return [path], written


def _kind(value: Any) -> str:
    return "model" if views.is_model(value) else "tensor" if isinstance(value, TensorRef) else "other"


def label(tree: dict[str, Any]) -> str:
    """The framework of the first object, as other programs write it."""
    names = (views.framework_of(value) for value in tree.values())
    return LABELS.get(next((n for n in names if n is not None), ""), "np")


def _paddle(saved: SavedState, path: Path, overwrite: bool, advance: Advance | None) -> Written:
    _refuse_framework(saved, "torch", "a file of Paddle's", ".pt")
    parts = [(".pdopt", views.is_optimizer, "optimizer"), (".pdparams", views.is_model, "model")]
    if path.suffix.lower() == ".pdopt":
        parts = parts[:1]
    chosen = [(path.with_suffix(s), name) for s, is_it, n in parts if (name := _pick(saved, is_it, n))]
    if not chosen or chosen[-1][0].suffix != parts[-1][0]:
        raise UsageError(
            f"What is to be exported holds no {parts[-1][2]} of Paddle.", do="Name other entries with only=."
        )
    for target, _ in chosen:
        check_target(target, overwrite=overwrite)
    view = saved.state_dicts()
    model = next((name for target, name in chosen if target.suffix == ".pdparams"), "model")
    names = views.parameter_names(saved.everything, model)
    with ExitStack() as pair:  # neither takes a name before both are written
        for target, name in chosen:
            file = pair.enter_context(new_file(target, overwrite=overwrite))
            paddle_files.save_view(saved, view[name], names, file, advance)
            file.flush()
            os.fsync(file.fileno())  # what is left of the way between two names is short
    return [target for target, _ in chosen], [name for _, name in chosen]


def _pick(saved: SavedState, is_it: Callable[[Any], bool], usual: str) -> str | None:
    """The one entry of a kind, else the one with the usual name; None if there is none."""
    found = [name for name, value in saved.tree.items() if is_it(value)]
    if len(found) > 1 and usual not in found:
        raise UsageError(
            f"The state holds several {usual}s: {', '.join(found)}.", do="Choose one with only= (--only)."
        )
    return usual if usual in found else next(iter(found), None)


def _huggingface(saved: SavedState, path: Path, overwrite: bool, advance: Advance | None) -> Written:
    name = _pick(saved, views.is_model, "model")
    if name is None:
        raise UsageError("What is to be exported holds no model.", do="Name other entries with only=.")
    model = {name: saved.tree[name]}
    view = views.state_dicts(model)[name]
    huggingface.save_folder(saved, view, label(model), path, overwrite=overwrite, advance=advance)
    config = saved.everything.get("config")
    return [path], [name, *(["config"] if isinstance(config, dict) and "config" in saved.tree else [])]


def _is_bare(saved: SavedState) -> bool:
    """Whether one object is all there is to write: then without its entry's name."""
    return len(saved.tree) == 1 and isinstance(next(iter(saved.tree.values())), Component)


def _refuse_framework(saved: SavedState, name: str, what: str, instead: str) -> None:
    foreign = [entry for entry, value in saved.tree.items() if views.framework_of(value) == name]
    if foreign:
        come = "comes" if len(foreign) == 1 else "come"
        raise UnsupportedError(
            f"{', '.join(foreign)} of {saved.run.name}@{saved.checkpoint.step} {come} from {name}, whose"
            f" layers keep their weights in another form than {what} promises.",
            do=f"Export to {instead}, or to .safetensors and convert.",
        )


_WRITERS: dict[str, Callable[[SavedState, Path, bool, Advance | None], Written]] = {
    "torch": _torch,
    "safetensors": _safetensors,
    "paddle": _paddle,
    "huggingface": _huggingface,
}
