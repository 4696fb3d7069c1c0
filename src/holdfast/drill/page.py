"""A report as one page that stands by itself: no scripts, no pictures from elsewhere, dark and light."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from html import escape

from holdfast.drill.comparing import Difference
from holdfast.drill.course import Strike
from holdfast.drill.drilling import Outcome, Report
from holdfast.drill.storming import Weathered, told
from holdfast.drill.timeline import drawn

_STYLE = """
:root { color-scheme: light dark; --ink: #1d2430; --paper: #ffffff; --dim: #667085; --line: #2563eb;
  --bad: #b42318; --good: #067647; --rule: #d0d5dd; --shade: #f2f4f7; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ef; --paper: #14181f; --dim: #98a2b3;
  --line: #7aa7ff; --bad: #ff8a80; --good: #6ce0a8; --rule: #344054; --shade: #1d232c; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: .4rem .6rem; border-bottom: 1px solid var(--rule); vertical-align: top; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
.good { color: var(--good); font-weight: 600; } .bad { color: var(--bad); font-weight: 600; }
figcaption { color: var(--dim); }
pre { white-space: pre-wrap; background: var(--shade); padding: .6rem; }
figure { margin: 2rem 0; } svg { width: 100%; height: auto; background: var(--shade); }
svg text { fill: var(--dim); font-size: 12px; } svg .way { fill: none; stroke: var(--line); stroke-width: 2; }
svg .strike { stroke: var(--bad); stroke-width: 2; } svg .lasts { fill: var(--bad); opacity: .15; }
svg .axis { stroke: var(--rule); }
"""


def page(report: Report) -> str:
    """The whole page of single faults, as HTML."""
    exact = sum(outcome.exact for outcome in report.outcomes)
    verdict = f"{exact} of {len(report.outcomes)} faults ended exactly as if nothing had happened."
    sections = [*_circumstances(report), _table(report.outcomes), *map(_section, report.outcomes)]
    return _whole("Fault drill", verdict, report.held, sections)


def storm_page(found: Weathered) -> str:
    """That of a storm."""
    picture = f"<figure>{drawn(found.moments, found.strikes, found.seconds)}</figure>"
    troubles = _troubles(found.failure, found.difference, found.likely)
    sections = [_of_command(found), picture, *troubles, _strikes(found.strikes)]
    return _whole("Storm of faults", f"{told(found)}.", found.held, sections)


def _whole(title: str, verdict: str, held: bool, sections: Iterable[str]) -> str:
    parts = [
        "<!DOCTYPE html>",
        '<html lang="en"><head><meta charset="utf-8"><title>Holdfast drill</title>',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<style>{_STYLE}</style></head><body><h1>{title}</h1>",
        f'<p class="{"good" if held else "bad"}">{escape(verdict)}</p>',
        *sections,
        "</body></html>",
    ]
    return "\n".join(parts) + "\n"


def _of_command(found: Report | Weathered) -> str:
    how = f"Saved {found.save}; supervised with {found.run_flags}; seed {found.seed}."
    return f"<pre>{escape(shlex.join(found.command))}</pre><p>{found.steps} steps. {escape(how)}</p>"


def _circumstances(report: Report) -> Iterable[str]:
    yield _of_command(report)
    yield (
        f"<p>Undisturbed it takes {report.undisturbed_seconds:.1f} s from start to end of the program.</p>"
        "<p>Lost steps had to be made again (RPO). Back after: from the fault to the first step beyond where "
        "training had been (RTO). Exact: every checkpoint is equal, bit for bit, to that of the undisturbed "
        "training.</p>"
    )


def _table(outcomes: Iterable[Outcome]) -> str:
    head = (
        '<tr><th>Fault</th><th>What happened</th><th class="number">At step</th>'
        '<th class="number">Lost steps</th><th class="number">Back after</th><th>Exact</th></tr>'
    )
    return f"<table>{head}{''.join(map(_row, outcomes))}</table>"


def _row(outcome: Outcome) -> str:
    cells = [f"<td>{escape(outcome.fault)}</td><td>{escape(outcome.meaning)}</td>"]
    cells += [f'<td class="number">{cell}</td>' for cell in outcome.costs]
    kind, word = ("good", "yes") if outcome.exact else ("bad", "no")
    return f'<tr>{"".join(cells)}<td class="{kind}">{word}</td></tr>'


def _section(outcome: Outcome) -> str:
    caption = (
        f"{outcome.fault}: {outcome.meaning}. Launches ended for: {', '.join(outcome.causes) or 'unknown'}."
    )
    strikes = [outcome.strike] if outcome.strike is not None else []
    picture = drawn(outcome.moments, strikes, outcome.seconds)
    troubles = _troubles(outcome.failure, outcome.difference, outcome.likely)
    return (
        f"<figure><h2>{escape(outcome.fault)}</h2>{picture}"
        f"<figcaption>{escape(caption)}</figcaption>{''.join(troubles)}</figure>"
    )


def _troubles(failure: str, found: Difference | None, likely: str) -> Iterable[str]:
    if failure:
        yield f"<pre>{escape(failure)}</pre>"
    if found is not None:
        what = f"First difference: step {found.step}, {found.first}. {likely}"
        yield f'<p class="bad">{escape(what)}</p>'


def _strikes(strikes: Iterable[Strike]) -> str:
    head = '<tr><th>Fault</th><th class="number">After</th><th class="number">At step</th></tr>'
    rows = (
        f'<tr><td>{escape(strike.fault)}</td><td class="number">{strike.seconds:.1f} s</td>'
        f'<td class="number">{strike.at.step}</td></tr>'
        for strike in strikes
    )
    return f"<table>{head}{''.join(rows)}</table>"
