"""``holdfast drill``: what faults cost a training, and whether it ends as if they had not been."""

from __future__ import annotations

import secrets
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from holdfast.cli import output
from holdfast.cli.options import JsonOption, as_dict
from holdfast.cli.proofs import FolderOption, PatienceOption, scratch, tell_difference
from holdfast.cli.scripts import CommandArgument, command_words, refuse_elsewhere
from holdfast.cli.table import print_table

if TYPE_CHECKING:
    from holdfast.drill.drilling import Outcome, Report

EXAMPLES = (
    "holdfast drill -- python train.py --steps 200",
    "holdfast drill --faults kill,hang,bit-rot --seed 7 --html drill.html -- python train.py --steps 200",
    "holdfast drill --save 'every 10 steps' --run-flags '--hang-at-least 60' --json -- python train.py",
    "holdfast drill --list",
)
TAKES_COMMAND = True
RUN_FLAGS = (
    "--hang-at-least 5 --slow-at-least 30 --grace-seconds 2 --not-finite-steps 3 --monitor-interval 0.05"
)


def command(
    what: CommandArgument = None,
    *,
    faults: Annotated[
        str | None,
        typer.Option(
            "--faults",
            metavar="NAMES",
            help="Which, with commas; else all but nan.",
            show_default=False,
        ),
    ] = None,
    show: Annotated[bool, typer.Option("--list", help="Show all faults, and start nothing.")] = False,
    seed: Annotated[
        int | None,
        typer.Option(
            "--seed",
            metavar="N",
            help="Of the steps at which faults strike; else at random.",
            show_default=False,
        ),
    ] = None,
    save: Annotated[
        str, typer.Option("--save", metavar="RULE", help="When the training saves, in place of its own rule.")
    ] = "every 1 step",
    run_flags: Annotated[
        str,
        typer.Option(
            "--run-flags", metavar="FLAGS", help="Of 'holdfast run', which supervises the training."
        ),
    ] = RUN_FLAGS,
    folder: FolderOption = None,
    html: Annotated[
        Path | None,
        typer.Option("--html", metavar="FILE", help="Write a page with timelines there.", show_default=False),
    ] = None,
    patience: PatienceOption = 600.0,
    json: JsonOption = False,
) -> None:
    """Let faults happen to a training, and say what each cost and whether the end state was exact.

    The script runs as it is: once undisturbed, then once under 'holdfast run' for each fault, at a random
    step, each time saving to a folder of its own, whatever it names itself. Ends with 0 if every one of
    them ends equal bit for bit, else with 1.
    """
    from holdfast.drill.drilling import Drill, drill
    from holdfast.drill.faults.registry import chosen
    from holdfast.drill.supervised import Way

    if show:
        _list(json=json)
        return
    refuse_elsewhere("drill")
    words, wanted = command_words(what, "drill"), chosen(faults)
    _check(save, run_flags, html)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # and end what was started
    number = secrets.randbelow(10**6) if seed is None else seed
    with scratch(folder, "drill") as place:
        output.note(f"Faults at random steps: {', '.join(f.name for f in wanted)} (--seed {number}).")
        way = Way(save=save, run_flags=run_flags)
        how = Drill(command=words, folder=str(place), patience_seconds=patience, way=way, seed=number)
        report = drill(how, wanted, lambda line: output.note(line[0].upper() + line[1:]))
    _give(report, html, json=json)
    if not report.held:
        raise typer.Exit(1)


def _list(*, json: bool) -> None:
    from holdfast.drill.faults.registry import FAULTS

    if json:
        output.print_json({fault.name: fault.meaning for fault in FAULTS.values()})
    else:
        rows = [(fault.name, fault.meaning) for fault in FAULTS.values()]
        print_table(("fault", "what happens"), rows, folding=("what happens",))


def _check(save: str, run_flags: str, html: Path | None) -> None:
    import shlex

    from holdfast.domain import save_rules
    from holdfast.errors import UsageError

    save_rules.parse(save)
    try:
        shlex.split(run_flags)
    except ValueError as error:
        raise UsageError(
            f"--run-flags cannot be understood: {error}.", do="Write them as in a shell."
        ) from error
    if html is not None and not html.absolute().parent.is_dir():
        raise UsageError(f"There is no folder {html.absolute().parent} for the page.", do="Make it first.")


def _give(report: Report, html: Path | None, *, json: bool) -> None:
    if json:
        told = as_dict(report)
        for one, outcome in zip(told["outcomes"], report.outcomes, strict=True):
            one["exact"] = outcome.exact
        output.print_json(told | {"held": report.held})
    else:
        _tell(report)
    if html is not None:  # last: if that fails, the rest is told
        from holdfast.drill.page import page

        html.write_text(page(report), encoding="utf-8")


def _tell(report: Report) -> None:
    columns = ("fault", "at step>", "lost steps>", "back after>", "exact", "launches ended for")
    print_table(columns, [_row(outcome) for outcome in report.outcomes])
    for outcome in report.outcomes:
        if outcome.failure:
            output.say(f"{outcome.fault}: {outcome.failure}")
        if outcome.difference is not None:
            output.say(f"{outcome.fault}:")
            tell_difference(outcome.difference)
            output.say(f"  Likely: {outcome.likely}")


def _row(outcome: Outcome) -> tuple[str, ...]:
    exact = "yes" if outcome.exact else "NO"
    return (outcome.fault, *outcome.costs, exact, ", ".join(outcome.causes))
