"""What 'drill' tells: of single faults, and of a storm."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from holdfast.cli import output
from holdfast.cli.options import as_dict
from holdfast.cli.proofs import tell_difference
from holdfast.cli.table import print_table

if TYPE_CHECKING:
    from holdfast.drill.comparing import Difference
    from holdfast.drill.drilling import Outcome, Report
    from holdfast.drill.live import Suffered
    from holdfast.drill.storming import Weathered


def show_faults(*, json: bool) -> None:
    """All that there are."""
    from holdfast.drill.faults.registry import FAULTS

    if json:
        output.print_json({fault.name: fault.meaning for fault in FAULTS.values()})
    else:
        rows = [(fault.name, fault.meaning) for fault in FAULTS.values()]
        print_table(("fault", "what happens"), rows, folding=("what happens",))


def give(report: Report, html: Path | None, *, json: bool) -> None:
    """What each fault cost."""
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
        _tell_what_is_wrong(outcome.fault, outcome.failure, outcome.difference, outcome.likely)


def _row(outcome: Outcome) -> tuple[str, ...]:
    exact = "yes" if outcome.exact else "NO"
    return (outcome.fault, *outcome.costs, exact, ", ".join(outcome.causes))


def give_storm(found: Weathered, html: Path | None, *, json: bool) -> None:
    """What a storm cost, in one line."""
    from holdfast.drill.storming import told

    if json:
        numbers = {"held": found.held, "useful": found.useful, "ideal": found.ideal}
        output.print_json(as_dict(found) | numbers)
    else:
        output.say(f"Storm: {told(found)}.")
        _tell_what_is_wrong("storm", found.failure, found.difference, found.likely)
    if html is not None:  # last, as above
        from holdfast.drill.page import storm_page

        html.write_text(storm_page(found), encoding="utf-8")


def give_live(run: str, found: Sequence[Suffered], *, json: bool) -> None:
    """What each fault cost a live run."""
    from holdfast.drill.course import costs

    if json:
        output.print_json({"run": run, "outcomes": [as_dict(one) for one in found]})
        return
    rows = [(one.fault, *costs(one.strike, one.recovery)) for one in found]
    print_table(("fault", "at step>", "lost steps>", "back after>"), rows)
    for one in found:
        _tell_what_is_wrong(one.fault, one.failure, None, "")


def _tell_what_is_wrong(name: str, failure: str, difference: Difference | None, likely: str) -> None:
    if failure:
        output.say(f"{name}: {failure}")
    if difference is not None:
        output.say(f"{name}:")
        tell_difference(difference)
        output.say(f"  Likely: {likely}")
