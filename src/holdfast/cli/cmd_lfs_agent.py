"""``holdfast lfs-agent``: what git-lfs starts to move objects to and from a repository."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from holdfast.cli import output
from holdfast.cli.options import RepositoryOption, place_of

if TYPE_CHECKING:
    from holdfast.repository.repository import Repository

EXAMPLES = (
    "holdfast lfs-agent --configure --repository /data/checkpoints   # once, in the git repository",
    "git lfs push --all origin && git lfs pull",
)


def command(
    configure: Annotated[
        bool,
        typer.Option("--configure", help="Let the git repository of this folder use it, then end."),
    ] = False,
    repository: RepositoryOption = None,
) -> None:
    """Serve 'git lfs push' and 'git lfs pull' from a repository: a custom transfer agent of git-lfs.

    git-lfs starts it by itself once it is configured; no LFS server is needed. Each object is a run
    lfs/sha256-OID; tensors that the repository has already take up nothing. SHA-256 is checked both ways.
    """
    from holdfast.integrations import git_lfs

    place = _whole_place(place_of(repository))
    if configure:
        git_lfs.configure(place, Path.cwd())
        output.say(f"git lfs push and pull of this git repository use {place}.")
        return
    git_lfs.serve(sys.stdin, git_lfs.speak, lambda create: _opened(place, create=create))


def _whole_place(place: str) -> str:
    """A folder by its whole path: git-lfs starts the agent where it likes."""
    return place if "://" in place else str(Path(place).expanduser().absolute())


def _opened(place: str, *, create: bool) -> Repository:
    from holdfast.repository.repository import Repository
    from holdfast.storage.urls import open_storage

    if create:
        return Repository.create(open_storage(place, create=True))
    return Repository.open(open_storage(place))
