"""``holdfast drill``: what faults cost a training, and whether it ends as if they had not been."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from holdfast.cli import output
from holdfast.cli.drills import give, give_live, give_storm, show_faults
from holdfast.cli.options import JsonOption, RepositoryOption, YesOption, find_run, open_repository
from holdfast.cli.proofs import FolderOption, PatienceOption, end_well, scratch
from holdfast.cli.scripts import CommandArgument, command_words, refuse_elsewhere

if TYPE_CHECKING:
    from collections.abc import Sequence

    from holdfast.drill.faults.base import Fault
    from holdfast.drill.storming import Storm

EXAMPLES = (
    "holdfast drill -- python train.py --steps 200",
    "holdfast drill --faults kill,hang,bit-rot --seed 7 --html drill.html -- python train.py --steps 200",
    "holdfast drill --save 'every 10 steps' --run-flags '--hang-at-least 60' --json -- python train.py",
    "holdfast drill --storm 60 --seed 7 -- python train.py --steps 500",
    "holdfast drill --live digits --faults kill,agent --yes",
    "holdfast drill --list",
)
TAKES_COMMAND = True
RUN_FLAGS = (
    "--hang-at-least 5 --slow-at-least 30 --grace-seconds 2 --not-finite-steps 3 --monitor-interval 0.05"
    " --max-restarts 100000"
)


def command(
    what: CommandArgument = None,
    *,
    faults: Annotated[
        str | None,
        typer.Option(
            "--faults",
            metavar="NAMES",
            help="Which, with commas; else all but nan and power, and kill for a live run.",
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
    storm: Annotated[
        float | None,
        typer.Option(
            "--storm",
            metavar="SECONDS",
            min=1,
            help="Let them happen at random moments for so long, all in one training.",
            show_default=False,
        ),
    ] = None,
    every: Annotated[
        float,
        typer.Option("--every", metavar="SECONDS", min=0.1, help="Of a storm: between two, on average."),
    ] = 5.0,
    live: Annotated[
        str | None,
        typer.Option(
            "--live",
            metavar="RUN",
            help="Let them happen to this run, which trains on this machine, instead of a copy.",
            show_default=False,
        ),
    ] = None,
    repository: RepositoryOption = None,
    yes: YesOption = False,
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
    step, or once in a storm of all of them, each time saving to a folder of its own, whatever it names
    itself. Ends with 0 if every one of them ends equal bit for bit, else with 1.

    A live run is spared what damages its checkpoints; it ends with 0 if it comes back from every fault.
    """
    from holdfast.drill.faults.registry import chosen
    from holdfast.drill.storming import Storm
    from holdfast.drill.supervised import Way

    if show:
        show_faults(json=json)
        return
    refuse_elsewhere("drill")
    number = secrets.randbelow(10**6) if seed is None else seed
    if live is not None:
        _refuse_with_live(what, storm=storm, html=html, folder=folder)
        came_back = _live(live, faults or "kill", repository, number, patience, yes=yes, json=json)
        raise typer.Exit(0 if came_back else 1)
    words, wanted = command_words(what, "drill"), chosen(faults)
    _check(save, run_flags, html)
    end_well()
    with scratch(folder, "drill") as place:
        how = Storm(
            command=words,
            folder=str(place),
            patience_seconds=patience,
            way=Way(save=save, run_flags=run_flags),
            seed=number,
            storm_seconds=storm or 0.0,
            every_seconds=every,
        )
        let_happen = _one_by_one if storm is None else _storm
        held = let_happen(how, wanted, html, json=json)
    if not held:
        raise typer.Exit(1)


def _one_by_one(how: Storm, faults: Sequence[Fault], html: Path | None, *, json: bool) -> bool:
    from holdfast.drill.drilling import drill

    output.note(f"Faults at random steps: {', '.join(f.name for f in faults)} (--seed {how.seed}).")
    report = drill(how, faults, _say)
    give(report, html, json=json)
    return report.held


def _storm(how: Storm, faults: Sequence[Fault], html: Path | None, *, json: bool) -> bool:
    from holdfast.drill.storming import storm

    output.note(
        f"A storm of {how.storm_seconds:g} s: {', '.join(f.name for f in faults)} (--seed {how.seed})."
    )
    found = storm(how, faults, _say)
    give_storm(found, html, json=json)
    return found.held


def _live(
    name: str, names: str, place: str | None, seed: int, patience: float, *, yes: bool, json: bool
) -> bool:
    from holdfast.drill.faults.registry import chosen
    from holdfast.drill.live import Live, check, drill_live

    faults = chosen(names)
    check(faults)
    run = Live(find_run(open_repository(place), name))
    what = ", ".join(fault.name for fault in faults)
    if not output.confirm(f"Let this happen to {name}, which trains now: {what}?", yes=yes):
        output.note("Nothing was done.")
        return True
    end_well()
    found = drill_live(run, faults, seed, patience, _say)
    give_live(name, found, json=json)
    return not any(one.failure for one in found)


def _refuse_with_live(what: Sequence[str] | None, **others: object) -> None:
    """Refuse what is for copies.

    Raises
    ------
    UsageError
    """
    from holdfast.errors import UsageError

    given = ["a command" for _ in [what] if what] + [f"--{name}" for name, value in others.items() if value]
    if given:
        raise UsageError(f"--live and {given[0]} do not go together.", do="A live run is there already.")


def _say(line: str) -> None:
    output.note(line[0].upper() + line[1:])


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
