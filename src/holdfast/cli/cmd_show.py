"""``holdfast show``: everything about one checkpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from holdfast.cli import output, text
from holdfast.cli.costs import show_space
from holdfast.cli.options import (
    AddressArgument,
    JsonOption,
    RepositoryOption,
    find_checkpoint,
    open_repository,
)
from holdfast.cli.table import print_table
from holdfast.cli.told import entry_json, notes
from holdfast.cli.values import outline
from holdfast.domain.ranks import world_size
from holdfast.frameworks.plain_values import plain_value

if TYPE_CHECKING:
    from holdfast.domain.manifest import Manifest
    from holdfast.domain.names import CheckpointId
    from holdfast.repository.overview import Entry
    from holdfast.repository.run import Run

EXAMPLES = (
    "holdfast show digits",
    "holdfast show digits@best --tensors",
    "holdfast show digits@500 --json",
    "holdfast show digits --space",
    "holdfast show digits@500 --space --tensors",
)


def command(
    which: AddressArgument,
    tensors: Annotated[bool, typer.Option("--tensors", "-t", help="List the tensors too.")] = False,
    space: Annotated[
        bool, typer.Option("--space", help="Show what it costs instead; without @AT the whole run.")
    ] = False,
    repository: RepositoryOption = None,
    json: JsonOption = False,
) -> None:
    """Show what a checkpoint holds: progress, metrics, environment, configuration, state.

    With --space: bytes of its tensors, bytes stored for them, bytes of these that nothing else
    needs, and what 'holdfast rm' and 'holdfast prune' would free.
    """
    opened = open_repository(repository)
    if space:
        show_space(opened, which, tensors=tensors, json=json)
    else:
        _show(*find_checkpoint(opened, which), tensors=tensors, json=json)


def _show(run: Run, checkpoint: CheckpointId, *, tensors: bool, json: bool) -> None:
    from holdfast.repository.overview import entry

    manifest = run.manifest(checkpoint)
    seen = entry(run, checkpoint)
    if json:
        output.print_json(_told(seen, manifest))
        return
    _print_head(seen, manifest)
    _print_details(manifest)
    output.say("state:")
    for line in outline(manifest):
        output.say(f"  {line}")
    if tensors:
        rows = [
            (name, e.dtype, str(list(e.shape)), text.size(e.spec.size_bytes))
            for name, e in manifest.tensors.items()
        ]
        print_table(("tensor", "dtype", "shape", "size>"), rows, folding=("tensor",))


def _told(entry: Entry, manifest: Manifest) -> dict[str, Any]:
    details = manifest.details
    return {
        **entry_json(entry),
        "ranks": world_size(manifest),
        "environment": details.environment,
        "given": {name: plain_value(node) for name, node in details.given.items()},
        "state": plain_value(details.tree),
        "training": plain_value(details.training),
        "tensor_table": {
            name: {"dtype": e.dtype, "shape": list(e.shape), "size_bytes": e.spec.size_bytes}
            for name, e in manifest.tensors.items()
        },
    }


def _print_head(entry: Entry, manifest: Manifest) -> None:
    s = manifest.summary
    p = s.progress
    lines = {
        "checkpoint": f"{entry.run}@{p.step}" + (f" ({found})" if (found := notes(entry)) else ""),
        "progress": f"step {p.step}, epoch {p.epoch}, batch {p.batch}, {p.samples} samples"
        + (", the run had finished" if s.done else ""),
        "saved": f"{text.moment(s.saved_seconds)} ({text.age(s.saved_seconds)}), {s.reason}",
        "attempt": f"{s.attempt}, its save {s.sequence}",
        "parent": s.parent or "none",
        "metrics": text.metrics(s.metrics) or "none",
        "size": f"{text.size(s.size_bytes)} in {text.several(s.tensors, 'tensor')}",
        "ranks": f"{world_size(manifest)}; the state shown is that of rank 0",
        "id": str(entry.id),
    }
    if not manifest.ranks:
        del lines["ranks"]
    for name, value in lines.items():
        output.say(f"{name + ':':12}{value}")


def _print_details(manifest: Manifest) -> None:
    details = manifest.details
    for name, section in details.environment.items():
        output.say(f"{name}:")
        for key, value in section.items():
            output.say(f"  {key} = {value}")
    if details.given:
        output.say("given by the script:")
        for key, node in details.given.items():
            output.say(f"  {key} = {plain_value(node)!r}")
