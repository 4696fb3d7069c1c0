"""What a run or a checkpoint costs, as people and programs are told."""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdfast.cli import output, text
from holdfast.cli.options import address, as_dict, find_run
from holdfast.cli.table import print_table

if TYPE_CHECKING:
    from holdfast.repository.cost import Cost
    from holdfast.repository.repository import Repository

_SIZES = ("referenced_bytes", "stored_bytes", "only_bytes")


def show_space(repository: Repository, which: str, *, tensors: bool, json: bool) -> None:
    """Tell what ``RUN[@AT]`` costs: the whole run, or one checkpoint and its tensors."""
    from holdfast.repository.cost import Costs, freed_bytes

    run = find_run(repository, which.partition("@")[0])
    one = run.resolve(address(which).at) if "@" in which else None
    checkpoints = run.all_checkpoints() if one is None else [one]
    with repository.holding():
        costs = Costs(run, checkpoints)
        whole = costs.together()
        by_tensor = costs.by_tensor() if one is not None else {}
        freed = freed_bytes(run, checkpoints, whole=one is None)
    name = run.name if one is None else f"{run.name}@{one.step}"
    if json:
        told = {"run": run.name, "checkpoints": [str(c) for c in checkpoints]}
        sizes = {**as_dict(whole), "freed_bytes": freed}
        single = {"address": name, "tensors": {n: as_dict(cost) for n, cost in by_tensor.items()}}
        output.print_json({**told, **sizes, **(single if one is not None else {})})
        return
    held = text.several(len(checkpoints), "checkpoint")
    output.say(f"{name}, {held}:" if one is None else f"{name}:")
    _print(whole, freed)
    if tensors and by_tensor:
        rows = [(n, *(text.size(getattr(c, size)) for size in _SIZES)) for n, c in by_tensor.items()]
        print_table(("tensor", "referenced>", "stored>", "only here>"), rows, folding=("tensor",))


def _print(cost: Cost, freed: int) -> None:
    output.say(f"  {text.size(cost.referenced_bytes)} of tensors are referenced")
    output.say(f"  {text.size(cost.stored_bytes)} are stored for them")
    output.say(f"  {text.size(cost.only_bytes)} of these are needed by nothing else")
    output.say(f"  {text.size(freed)} would be freed by removing it ('holdfast rm', then 'holdfast prune')")
