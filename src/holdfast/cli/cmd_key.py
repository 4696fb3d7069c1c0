"""``holdfast key``: the keys that open a sealed repository, and those that sign."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from holdfast.cli import output, text
from holdfast.cli.options import JsonOption, RepositoryOption, place_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from holdfast.repository.keyring.base import GivenKey
    from holdfast.repository.keyring.entries import KeyEntry
    from holdfast.repository.records import RepositoryConfig
    from holdfast.storage.base import Storage

EXAMPLES = (
    "holdfast key generate ~/holdfast.key",
    "holdfast key generate ~/holdfast-signing.key --signing",
    "holdfast key list",
    "HOLDFAST_NEW_KEY_FILE=~/spare.key holdfast key add --label spare",
    "holdfast key change --label me",
    "holdfast key remove 5d0c7f1b2a3e4d66",
)


def command(
    action: Annotated[str, typer.Argument(metavar="ACTION", help="generate, list, add, change or remove.")],
    subject: Annotated[
        str | None,
        typer.Argument(
            metavar="FILE|ID", help="The file to generate, or the key to remove.", show_default=False
        ),
    ] = None,
    label: Annotated[str, typer.Option("--label", metavar="TEXT", help="What you call the new key.")] = "",
    signing: Annotated[
        bool, typer.Option("--signing", help="Generate a key that signs, and print its public half.")
    ] = False,
    repository: RepositoryOption = None,
    json: JsonOption = False,
) -> None:
    """Generate a key file; or list, add, change or remove keys that open a sealed repository.

    The new key of 'add' and 'change' comes from HOLDFAST_NEW_KEY, _FILE, _COMMAND or _SERVICE, or a
    passphrase is asked for. 'change' removes the key that opened the repository. No other object is
    rewritten.
    """
    if action == "generate":
        _generate(subject, signing=signing, json=json)
        return
    acts: dict[str, Callable[[Storage, RepositoryConfig], dict[str, object]]] = {
        "list": _list,
        "add": lambda storage, config: _add(storage, config, label, replace=False),
        "change": lambda storage, config: _add(storage, config, label, replace=True),
        "remove": lambda storage, config: _remove(storage, config, subject),
    }
    if action not in acts:
        from holdfast.errors import UsageError

        raise UsageError(
            f"{action!r} is nothing that can be done to keys.", do=f"Use generate, {', '.join(acts)}."
        )
    told = acts[action](*_sealed(place_of(repository)))
    if json:
        output.print_json(told)
    else:
        _print(told)


def _print(told: dict[str, object]) -> None:
    if "keys" in told:
        for key in told["keys"]:  # type: ignore[attr-defined]  # a list of dicts
            output.say(
                f"{key['id']}  {key['kind']:10}  {text.moment(key['created_seconds'])}  {key['label']}"
            )
        return
    for name, said in (("added", "opens the repository now"), ("removed", "opens it no more")):
        if told.get(name):
            output.say(f"The key {told[name]} {said}.")


def _sealed(place: str) -> tuple[Storage, RepositoryConfig]:
    """Where the repository lies, and what its ``holdfast.json`` says; no key is needed for that."""
    from holdfast.errors import UsageError
    from holdfast.repository.repository import read_config
    from holdfast.storage.urls import open_storage

    storage = open_storage(place)
    config = read_config(storage)
    if config.sealed is None:
        raise UsageError(
            f"{storage.location} is not sealed, so it has no keys.",
            do="Create another one with 'holdfast init --sealed', and bring it there by 'holdfast sync'.",
        )
    return storage, config


def _list(storage: Storage, config: RepositoryConfig) -> dict[str, object]:
    from holdfast.repository.keyring import entries

    return {"keys": [_shown(entry) for entry in entries.entries(storage, config)]}


def _shown(entry: KeyEntry) -> dict[str, object]:
    return {
        "id": entry.id,
        "kind": entry.wrapping.kind,
        "label": entry.label,
        "created_seconds": entry.created_seconds,
    }


def _add(storage: Storage, config: RepositoryConfig, label: str, *, replace: bool) -> dict[str, object]:
    from holdfast.repository.keyring import entries
    from holdfast.repository.keyring.given import given_keys

    secret, old = entries.opened(storage, config, given_keys())
    new = _new_key()
    entry = entries.add(storage, config, secret, new, label or (old.label if replace else ""))
    entries.opened(storage, config, [new])  # before the old one goes it has been seen to work
    if replace:
        entries.remove(storage, config, old.id)
    return {"added": entry.id, "removed": old.id if replace else None}


def _remove(storage: Storage, config: RepositoryConfig, key_id: str | None) -> dict[str, object]:
    from holdfast.errors import UsageError
    from holdfast.repository.keyring import entries
    from holdfast.repository.keyring.given import given_keys

    if key_id is None:
        raise UsageError("Which key shall be removed?", do="'holdfast key list' names all.")
    entries.opened(storage, config, given_keys())
    entries.remove(storage, config, key_id)
    return {"added": None, "removed": key_id}


def _new_key() -> GivenKey:
    import sys

    from holdfast.errors import UsageError
    from holdfast.repository.keyring.given import NEW_KEY, given_keys
    from holdfast.repository.keyring.passphrase import Passphrase

    if given := given_keys(NEW_KEY):
        return given[0]
    if not sys.stdin.isatty():
        raise UsageError("No new key was given.", do=f"Set {NEW_KEY}_FILE, {NEW_KEY}_COMMAND or {NEW_KEY}.")
    return Passphrase(typer.prompt("New passphrase", hide_input=True, confirmation_prompt=True, err=True))


def _generate(file: str | None, *, signing: bool, json: bool) -> None:
    from pathlib import Path

    from holdfast.errors import UsageError
    from holdfast.repository import signatures
    from holdfast.repository.keyring import raw
    from holdfast.repository.layout import CONFIG

    if file is None:
        raise UsageError("Which file shall hold the key?", do="Write 'holdfast key generate FILE'.")
    path = Path(file).expanduser()
    if any((folder / CONFIG).exists() for folder in path.absolute().parents):
        raise UsageError(f"{path} would lie beside the data.", do="Keep keys outside of every repository.")
    key, public = signatures.generate() if signing else (raw.generate(), None)
    _write(path, key)
    if json:
        output.print_json({"file": str(path), "public": public})
        return
    output.say(f"Made {path}. Keep a copy elsewhere: " + _LOST[signing])
    if public is not None:
        output.say(f"Its public half, for HOLDFAST_SIGNED_BY: {public}")


_LOST = {
    True: "without it nobody can sign in your name again.",
    False: "who loses every key of a repository has lost what is in it.",
}


def _write(path: Path, key: str) -> None:
    """Create a file that only its owner can read; never over another one."""
    import os

    from holdfast.errors import UsageError
    from holdfast.storage.faults import told_plainly

    with told_plainly("writing the key", str(path)):
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except FileExistsError:
            raise UsageError(f"{path} is there already.", do="Choose another name.") from None
        with os.fdopen(descriptor, "w") as out:
            out.write(f"{key}\n")
            out.flush()
            os.fsync(out.fileno())
