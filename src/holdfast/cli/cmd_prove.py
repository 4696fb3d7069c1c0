"""``holdfast prove``: whether a script resumes exactly."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Annotated

import typer

from holdfast.cli import output, text
from holdfast.cli.options import JsonOption, as_dict
from holdfast.cli.proofs import FolderOption, PatienceOption, end_well, scratch, tell_difference
from holdfast.cli.scripts import CommandArgument, command_words, refuse_elsewhere

if TYPE_CHECKING:
    from holdfast.drill.proving import Verdict

EXAMPLES = (
    "holdfast prove -- python train.py --steps 60",
    "holdfast prove --kills 10 --seed 7 --folder proof -- python train.py --steps 200",
    "holdfast prove --json -- python train.py",
)
TAKES_COMMAND = True


def command(
    what: CommandArgument = None,
    *,
    kills: Annotated[int, typer.Option("--kills", metavar="N", min=1, help="How often to kill it.")] = 3,
    seed: Annotated[
        int | None,
        typer.Option(
            "--seed", metavar="N", help="Of the moments of the kills; else at random.", show_default=False
        ),
    ] = None,
    folder: FolderOption = None,
    patience: PatienceOption = 600.0,
    json: JsonOption = False,
) -> None:
    """Run a script without interruption, then again with kills at random moments, and compare every step.

    The script runs as it is, but saves every step to a folder of its own, whatever it names itself; its
    checkpoints and mirrors are not touched. Ends with 0 if the two are equal bit for bit, else with 1
    and the first step and tensor that differ, and what is likely to be the cause.
    """
    from holdfast.drill.proving import Proof, prove

    refuse_elsewhere("prove")
    words = command_words(what, "prove")
    chosen = secrets.randbelow(10**6) if seed is None else seed
    end_well()
    with scratch(folder, "prove") as place:
        proof = Proof(command=words, folder=str(place), kills=kills, seed=chosen, patience_seconds=patience)
        output.note(f"Killing it {text.several(kills, 'time')} at random moments (--seed {chosen}).")
        verdict = prove(proof, lambda line: output.note(line[0].upper() + line[1:]))
    if json:
        told = as_dict(verdict) | {"exact": verdict.exact, "seed": chosen}
        output.print_json(told)
    else:
        _tell(verdict)
    if not verdict.exact:
        raise typer.Exit(1)


def _tell(verdict: Verdict) -> None:
    compared = f"{text.several(verdict.steps, 'checkpoint')}, {text.several(verdict.tensors, 'tensor')}"
    if verdict.exact:
        times = text.several(len(verdict.kills), "time")
        output.say(f"Exact: killed {times}, and every step is equal bit for bit ({compared}).")
        return
    output.say("NOT exact.")
    if verdict.failure:
        output.say(f"The killed training is not whole: {verdict.failure}")
    if verdict.difference is not None:
        tell_difference(verdict.difference)
        output.say(f"Likely: {verdict.likely}")
