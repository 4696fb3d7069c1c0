"""The wiring: keys from the environment, where child processes, agents and errands find them, too.

Of a name such as ``HOLDFAST_KEY`` there are four: the key itself; with ``_FILE`` files that hold one
each, joined by colons; with ``_COMMAND`` a command that prints it; with ``_SERVICE`` a command that
wraps and unwraps. All that are given are tried; the first one seals what is new.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

from holdfast.errors import UsageError
from holdfast.repository.keyring import raw
from holdfast.repository.keyring.base import GivenKey
from holdfast.repository.keyring.commands import answer_of
from holdfast.repository.keyring.passphrase import Passphrase
from holdfast.repository.keyring.raw import RawKey
from holdfast.repository.keyring.service import ServiceKey

KEY = "HOLDFAST_KEY"
NEW_KEY = "HOLDFAST_NEW_KEY"
MOST_BYTES = 64 * 1024
"""Of a file that holds a key."""


def given_keys(name: str = KEY, environment: Mapping[str, str] | None = None) -> list[GivenKey]:
    """Every key that the environment gives under this name.

    Raises
    ------
    UsageError
        A key is empty or cut short, its file is open to others, or its command fails.
    """
    environment = os.environ if environment is None else environment
    keys = [_key(text) for text in given_texts(name, environment)]
    if command := environment.get(f"{name}_SERVICE"):
        keys.append(ServiceKey(command))
    return keys


def given_texts(name: str, environment: Mapping[str, str]) -> Iterator[str]:
    """The texts of these keys, each the first line of what was given."""
    if text := environment.get(name):
        yield _line(text.encode(), f"${name}")
    for path in filter(None, environment.get(f"{name}_FILE", "").split(os.pathsep)):
        yield _line(private_bytes(Path(path).expanduser()), f"The file {path}")
    if command := environment.get(f"{name}_COMMAND"):
        yield _line(answer_of(command), f"The command in ${name}_COMMAND")


def private_bytes(path: Path) -> bytes:
    """Contents of a file that nobody else may read.

    Raises
    ------
    UsageError
    """
    try:
        with path.open("rb") as file:
            found = os.fstat(file.fileno())
            if stat.S_ISREG(found.st_mode) and found.st_mode & 0o077:
                raise UsageError(f"The key file {path} is open to others.", do=f"Run: chmod 600 {path}")
            return file.read(MOST_BYTES)
    except OSError as error:
        raise UsageError(
            f"The key file {path} cannot be read: {error.strerror}.", do="Correct the path, or its owner."
        ) from None


def _line(data: bytes, where: str) -> str:
    try:
        text = data.decode().strip("\r\n")
    except UnicodeDecodeError:
        text = ""
    if not text.strip() or "\n" in text:
        raise UsageError(f"{where} holds no key, or more than a line.", do="It has to be one line of text.")
    return text


def _key(text: str) -> GivenKey:
    return RawKey(text) if text.startswith(raw.PREFIX) else Passphrase(text)
