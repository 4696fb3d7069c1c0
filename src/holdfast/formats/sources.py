"""Which checkpoints lie in a folder of another program, and what their names tell of their steps."""

from __future__ import annotations

import re
from pathlib import Path

from holdfast.errors import NotFoundError
from holdfast.formats import dcp_files, huggingface
from holdfast.storage.faults import told_plainly

_SUFFIXES = (".pt", ".pth", ".ckpt", ".tar", ".safetensors", ".pdparams", ".pdopt")
_NAMED_STEP = re.compile(
    r"(?:step|steps|checkpoint|ckpt|iter|iteration)s?[-_=]?0*([0-9]{1,17})(?![0-9])", re.IGNORECASE
)
_NUMBER = re.compile(r"[0-9]+")
_STATES = ("optimizer.pt", "scheduler.pt", "scaler.pt", "rng_state.pth")
"""Parts of a checkpoint of Hugging Face, none by themselves."""


def is_checkpoint(path: Path) -> bool:
    """Whether a folder is one checkpoint itself."""
    return dcp_files.is_one(path) or huggingface.is_one(path)


def members(folder: Path) -> list[Path]:
    """The checkpoints in a folder, by name; empty if it is no folder of checkpoints.

    A folder of which only one thing can be made, a model with nothing below it, is none.
    """
    if not folder.is_dir():
        return []
    with told_plainly("looking into the folder", str(folder)):
        inside = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
        below = [path for path in inside if path.is_dir() and is_checkpoint(path)]
        if below or is_checkpoint(folder):
            return below
        return [path for path in inside if path.is_file() and _is_one(path)]


def holds_several(path: Path) -> bool:
    """Whether what is to be imported is a folder of checkpoints, be it an empty one."""
    return path.is_dir() and (bool(members(path)) or not is_checkpoint(path))


def _is_one(path: Path) -> bool:
    suffix = path.suffix.lower()
    paired = suffix == ".pdopt" and path.with_suffix(".pdparams").is_file()
    return suffix in _SUFFIXES and path.name not in _STATES and not paired


def refuse_nothing(folder: Path) -> NotFoundError:
    """That there is nothing to import."""
    return NotFoundError(
        f"The folder {folder} holds no checkpoint of a known kind.",
        do="Name a folder of checkpoint-N of Hugging Face, of .ckpt, .pt, .safetensors or .pdparams, or of"
        " torch.distributed.checkpoint.",
    )


def named_step(name: str) -> int | None:
    """The step that a name tells in words: ``checkpoint-500``, ``epoch=1-step=20.ckpt``."""
    found = {int(number) for number in _NAMED_STEP.findall(name)}
    return found.pop() if len(found) == 1 else None


def lone_number(name: str) -> int | None:
    """The only number of a name, without what follows its last dot: ``500.pdparams``."""
    found = _NUMBER.findall(Path(name).stem)
    return int(found[0]) if len(found) == 1 and len(found[0]) < 18 else None
