"""``holdfast init``: create a repository."""

from __future__ import annotations

from typing import Annotated

import typer

from holdfast.cli import output
from holdfast.cli.options import JsonOption, RepositoryOption, place_of

EXAMPLES = (
    "holdfast init",
    "holdfast init /data/checkpoints --chunk-size 4096",
    "HOLDFAST_KEY_FILE=~/holdfast.key holdfast init --sealed",
)


def command(
    place: Annotated[
        str | None, typer.Argument(metavar="PLACE", help="Folder or URL.", show_default=False)
    ] = None,
    repository: RepositoryOption = None,
    chunk_kib: Annotated[
        int, typer.Option("--chunk-size", metavar="KIB", help="Size of a chunk in KiB.")
    ] = 1024,
    sealed: Annotated[
        bool, typer.Option("--sealed", help="Only if it gets sealed: a key has to be given.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Create a repository; nothing happens to one that is there.

    Training creates it too: this is for stores and permissions prepared beforehand. Where the
    environment gives a key it is sealed by it.
    """
    from holdfast.errors import UsageError
    from holdfast.repository import layout
    from holdfast.repository.keyring.given import given_keys
    from holdfast.repository.repository import Repository
    from holdfast.storage.urls import open_storage

    if sealed and not given_keys():
        raise UsageError("No key was given to seal it by.", do="Set HOLDFAST_KEY_FILE to the file of one.")
    storage = open_storage(place_of(place or repository), create=True)
    there = storage.stat(layout.CONFIG) is not None
    made = Repository.create(storage, chunk_bytes=chunk_kib * 1024)
    if json:
        output.print_json(
            {
                "location": storage.location,
                "id": made.id,
                "chunk_bytes": made.chunk_bytes,
                "created": not there,
                "sealed": made.is_sealed,
            }
        )
    else:
        kind = "sealed repository" if made.is_sealed else "repository"
        output.say(f"{'Found' if there else 'Created'} the {kind} {storage.location} (id {made.id[:8]}).")
