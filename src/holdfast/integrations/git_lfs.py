"""Git LFS: a custom transfer agent over a repository, and files that are tracked by LFS.

The agent speaks the line JSON of git-lfs (custom-transfers.md in its docs), standalone: no LFS server is
needed.
"""

from __future__ import annotations

import json
import os
import secrets
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from holdfast.errors import DamagedError, HoldfastError, UsageError
from holdfast.formats.lfs_objects import get_object, put_object, sha256_of
from holdfast.repository.repository import Repository

Send = Callable[[dict[str, Any]], None]
_POINTER = "version https://git-lfs.github.com/spec/v1"


class Message(msgspec.Struct, frozen=True):
    """What git-lfs says in a line."""

    event: str
    operation: str = ""
    oid: str = ""
    size: int = 0
    path: str = ""


def serve(lines: Iterable[str], send: Send, open_repository: Callable[[bool], Repository]) -> None:
    """Do what git-lfs asks for, until it says that there is nothing more.

    Parameters
    ----------
    send : callable
        Takes the answers.
    open_repository : callable
        Given whether it may be created.
    """
    repository: Repository | None = None
    for message in _messages(lines):
        if message.event == "terminate":
            return
        try:
            if message.event == "init":
                repository = open_repository(message.operation == "upload")
                send({})
            elif repository is not None:
                send(_moved(repository, message, send))
        except HoldfastError as error:
            told = {"code": error.exit_code, "message": str(error)}
            done = {"event": "complete", "oid": message.oid} if message.event != "init" else {}
            send({**done, "error": told})


def _messages(lines: Iterable[str]) -> Iterator[Message]:
    for line in lines:
        try:
            yield msgspec.json.decode(line, type=Message)
        except msgspec.DecodeError as error:
            raise UsageError(
                f"What came is not of git-lfs: {error}.", do="Let git-lfs start this agent, not a person."
            ) from error


def _moved(repository: Repository, message: Message, send: Send) -> dict[str, Any]:
    """Upload or download one object; what is to be answered at its end."""
    done = {"event": "complete", "oid": message.oid}
    advance = _Progress(message.oid, send)
    if message.event == "upload":
        put_object(repository, message.oid, Path(message.path), advance)
        return done
    if message.event != "download":
        raise UsageError(f"git-lfs asks for {message.event!r}, which is unknown.", do="Update Holdfast.")
    path = _place() / f"holdfast-{message.oid[:16]}-{secrets.token_hex(4)}"
    get_object(repository, message.oid, path, advance)
    return done | {"path": str(path)}


class _Progress:
    """Tells git-lfs how far an object is."""

    def __init__(self, oid: str, send: Send) -> None:
        self._oid = oid
        self._send = send
        self._so_far = 0

    def __call__(self, done_bytes: int) -> None:
        self._so_far += done_bytes
        self._send(
            {
                "event": "progress",
                "oid": self._oid,
                "bytesSoFar": self._so_far,
                "bytesSinceLast": done_bytes,
            }
        )


def _place() -> Path:
    """Where git-lfs keeps what is not whole yet: what lies there can be moved to its place."""
    try:
        place = Path(_git("rev-parse", "--git-common-dir", cwd=Path.cwd()).strip()).absolute() / "lfs" / "tmp"
    except UsageError:
        return Path(tempfile.gettempdir())
    return place if place.is_dir() else Path(tempfile.gettempdir())


# -- a work tree ------------------------------------------------------------------------------


def configure(place: str, folder: Path) -> None:
    """Let the git repository of a folder move its LFS objects to and from a repository.

    Raises
    ------
    UsageError
        It is no git repository.
    """
    arguments = ["-P", "-m", "holdfast", "lfs-agent", "--repository", place]
    settings = {
        "lfs.customtransfer.holdfast.path": sys.executable,
        "lfs.customtransfer.holdfast.args": shlex.join(arguments),
        "lfs.customtransfer.holdfast.concurrent": "false",
        "lfs.standalonetransferagent": "holdfast",
    }
    for name, value in settings.items():
        _git("config", "--local", name, value, cwd=folder)


def check_tracked(path: Path, names: Iterable[str]) -> None:
    """Refuse, before any work, files that Git LFS does not track.

    Parameters
    ----------
    path : Path
        The folder of a git work tree that they are to lie in.
    names : iterable of str

    Raises
    ------
    UsageError
    """
    below = path
    while not below.is_dir() and below != below.parent:
        below = below.parent
    for name in names:
        told = _git("check-attr", "-z", "filter", "--", str((path / name).absolute()), cwd=below).split("\0")
        if told[2:3] != ["lfs"]:
            pattern = f"*{Path(name).suffix}" if Path(name).suffix else name
            raise UsageError(
                f"{path / name} is not tracked by Git LFS.", do=f"Run first: git lfs track '{pattern}'."
            )


def stage(path: Path) -> str:
    """Stage a file; the SHA-256 that git now has a pointer to.

    Raises
    ------
    DamagedError
        What is staged is no pointer to this file.
    UsageError
    """
    stage_plain(path)
    pointer = _git("show", f":./{path.name}", cwd=path.parent).splitlines()
    oid = sha256_of(path)
    if pointer != [_POINTER, f"oid sha256:{oid}", f"size {path.stat().st_size}"]:
        raise DamagedError(
            f"What git has staged for {path} is no pointer to it.", do="Install git-lfs: git lfs install."
        )
    return oid


def stage_plain(path: Path) -> None:
    """Stage a file, as a pointer or as it is."""
    _git("add", "--", path.name, cwd=path.parent)


def _git(*words: str, cwd: Path) -> str:
    try:
        done = subprocess.run(
            ["git", *words], cwd=cwd, capture_output=True, text=True, check=False, errors="replace"
        )
    except FileNotFoundError as error:
        raise UsageError("git is not installed here.", do="Install git and git-lfs.") from error
    if done.returncode != 0:
        why = (done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"])[-1]
        raise UsageError(f"git {words[0]} in {cwd} failed: {why}", do="Give a path in a git work tree.")
    return done.stdout


def speak(line: dict[str, Any]) -> None:
    """Send one line to git-lfs."""
    os.write(1, json.dumps(line).encode() + b"\n")
