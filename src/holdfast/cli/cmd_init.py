"""``holdfast init``: create a repository."""

from __future__ import annotations

from typing import Annotated

import typer

from holdfast.cli import output
from holdfast.cli.options import JsonOption, RepositoryOption, place_of

EXAMPLES = ("holdfast init", "holdfast init /data/checkpoints --chunk-size 4096")


def command(
    place: Annotated[
        str | None, typer.Argument(metavar="PLACE", help="Folder or URL.", show_default=False)
    ] = None,
    repository: RepositoryOption = None,
    chunk_kib: Annotated[
        int, typer.Option("--chunk-size", metavar="KIB", help="Size of a chunk in KiB.")
    ] = 1024,
    json: JsonOption = False,
) -> None:
    """Create a repository; nothing happens to one that is there.

    Training creates it too: this is for stores and permissions prepared beforehand.
    """
    from holdfast.repository import layout
    from holdfast.repository.repository import Repository
    from holdfast.storage.urls import open_storage

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
            }
        )
    else:
        output.say(f"{'Found' if there else 'Created'} the repository {storage.location} (id {made.id[:8]}).")
