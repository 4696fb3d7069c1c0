"""``holdfast diff``: what differs between two checkpoints."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Annotated, Any

import typer

from holdfast.cli import output, text
from holdfast.cli.options import (
    AddressArgument,
    JsonOption,
    RepositoryOption,
    complete_run,
    find_checkpoint,
    open_repository,
)
from holdfast.cli.table import print_table
from holdfast.cli.values import short
from holdfast.frameworks.plain_values import plain_leaves, plain_value

if TYPE_CHECKING:
    from holdfast.repository.difference import Side, TensorDifference

EXAMPLES = (
    "holdfast diff digits@500 digits@600",
    "holdfast diff sweep/lr3@best sweep/lr4@best --all",
    "holdfast diff digits@500 other@500 --exit-code --json",
)

_ABSENT = "(nothing)"
_FEW = 3
"""Changes shown of one list."""


def command(
    a: AddressArgument,
    b: Annotated[
        str, typer.Argument(metavar="RUN[@AT]", help="What to compare it with.", autocompletion=complete_run)
    ],
    everything: Annotated[bool, typer.Option("--all", help="List equal tensors too.")] = False,
    exit_code: Annotated[bool, typer.Option("--exit-code", help="End with 1 if they differ.")] = False,
    repository: RepositoryOption = None,
    json: JsonOption = False,
) -> None:
    """Compare two checkpoints: tensors, values of the state, configuration, environment.

    Of each changed tensor: the share of elements with equal bits, the largest absolute
    difference, and the length of the difference relative to the first (L2). Of a long list that
    differs, such as a generator's state, three values are shown; --json has all.
    """
    from holdfast.repository.difference import Side, compare

    opened = open_repository(repository)
    one, other = Side(*find_checkpoint(opened, a)), Side(*find_checkpoint(opened, b))
    total = sum(e.spec.size_bytes for e in one.manifest.tensors.values())
    with output.progress("Comparing", total) as advance:
        tensors = list(compare(one, other, advance))
    values = _values(one, other)
    equal = all(t.status == "equal" for t in tensors) and not any(
        values[part] for part in ("state", "training", "given")
    )
    if json:
        output.print_json({"a": a, "b": b, "equal": equal, "tensors": [_told(t) for t in tensors], **values})
    else:
        _print(tensors, values, everything=everything, equal=equal)
    if exit_code and not equal:
        raise typer.Exit(1)


def _told(difference: TensorDifference) -> dict[str, Any]:
    import msgspec

    told: dict[str, Any] = msgspec.structs.asdict(difference)
    for side in ("a", "b"):
        spec = told[side]
        told[side] = {"dtype": spec.dtype, "shape": list(spec.shape)} if spec is not None else None
    return told


def _values(one: Side, other: Side) -> dict[str, list[dict[str, Any]]]:
    ours, theirs = one.manifest.details, other.manifest.details
    return {
        "state": _changes(plain_leaves(ours.tree), plain_leaves(theirs.tree)),
        "training": _changes(plain_leaves(ours.training), plain_leaves(theirs.training)),
        "given": _changes(
            {name: plain_value(node) for name, node in ours.given.items()},
            {name: plain_value(node) for name, node in theirs.given.items()},
        ),
        "environment": _changes(_flat(ours.environment), _flat(theirs.environment)),
    }


def _flat(environment: dict[str, dict[str, str]]) -> dict[str, Any]:
    return {f"{section}.{name}": v for section, values in environment.items() for name, v in values.items()}


def _changes(a: dict[str, Any], b: dict[str, Any]) -> list[dict[str, Any]]:
    from holdfast.domain.changes import MISSING, compare_given

    found = []
    for change in compare_given(a, b):
        told: dict[str, Any] = {"name": change.name}
        told |= {"a": change.recorded} if change.recorded is not MISSING else {}
        told |= {"b": change.given} if change.given is not MISSING else {}
        found.append(told)
    return found


def _print(
    tensors: list[TensorDifference], values: dict[str, list[dict[str, Any]]], *, everything: bool, equal: bool
) -> None:
    shown = [t for t in tensors if everything or t.status != "equal"]
    if shown:
        rows = [
            (t.name, t.status, _share(t), _number(t.max_abs), _number(t.relative_l2), _extra(t))
            for t in shown
        ]
        columns = ("tensor", "status", "equal bits>", "max abs>", "rel. L2>", "")
        print_table(columns, rows, folding=("tensor", ""))
    same = sum(t.status == "equal" for t in tensors)
    output.say(f"{same} of {text.several(len(tensors), 'tensor')} equal bit for bit.")
    for part, title in (
        ("state", "state"),
        ("training", "RNGs and data"),
        ("given", "given by the script"),
        ("environment", "environment"),
    ):
        if values[part]:
            print_table((title, "a", "b"), _rows(values[part]), folding=(title, "a", "b"))
    if equal:
        output.say("The two hold the same state.")


def _rows(changes: list[dict[str, Any]]) -> list[tuple[str, str, str]]:
    """One row per change, but few of one long list: a generator's state is hundreds of numbers."""
    lists: dict[str, list[tuple[str, str, str]]] = {}
    for change in changes:
        row = (change["name"], _shown(change, "a"), _shown(change, "b"))
        lists.setdefault(_list_of(change["name"]), []).append(row)
    rows = []
    for name, found in lists.items():
        few = found if len(found) <= _FEW + 1 else found[:_FEW]
        rows += few
        if len(few) < len(found):
            rows.append((f"{name}/...", f"and {len(found) - len(few)} more", ""))
    return rows


def _list_of(name: str) -> str:
    """The list that a value is in, by its path up to the first number; else its own path."""
    parts = name.split("/")
    return "/".join(itertools.takewhile(lambda part: not part.isdecimal(), parts))


def _share(difference: TensorDifference) -> str:
    return f"{difference.bit_equal:.2%}" if difference.bit_equal is not None else ""


def _number(value: float | None) -> str:
    return f"{value:.3g}" if value is not None else ""


def _extra(t: TensorDifference) -> str:
    if t.status == "reshaped":
        return f"{t.a} → {t.b}"
    return f"{t.not_finite} not finite" if t.not_finite else ""


def _shown(change: dict[str, Any], side: str) -> str:
    return short(change[side]) if side in change else _ABSENT
