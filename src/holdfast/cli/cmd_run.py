"""``holdfast run``: start a training, watch it, and bring it back."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from holdfast.cli import output
from holdfast.cli.observing import Wanted, audience
from holdfast.cli.scripts import CommandArgument, command_words, refuse_elsewhere, say
from holdfast.cli.table import print_table
from holdfast.supervisor.launchers import Launcher

if TYPE_CHECKING:
    from collections.abc import Mapping

    from holdfast.supervisor.causes import Cause
    from holdfast.supervisor.rules import Rule
    from holdfast.supervisor.supervising import Supervision, Supervisor

EXAMPLES = (
    "holdfast run -- python train.py --epochs 10",
    "holdfast run --max-restarts 5 --report report.json -- python train.py",
    "holdfast run --on 'exception: stop' --hang-at-least 60 -- python train.py",
    "holdfast run --notice-url http://169.254.169.254/spot/instance-action -- python train.py",
    "holdfast run --metrics-port 9464 --notify-url https://hooks.example.com/training -- python train.py",
    "holdfast run --nproc-per-node 4 -- python train.py",
    "holdfast run --rules",
)
TAKES_COMMAND = True


def _to_launcher(flag: str, metavar: str) -> Any:
    """A flag of torchrun's that is handed on."""
    underscored = f"--{flag[2:].replace('-', '_')}"
    return typer.Option(
        flag, underscored, metavar=metavar, help="Handed on to the launcher.", show_default=False
    )


def command(
    what: CommandArgument = None,
    *,
    on: Annotated[
        list[str] | None,
        typer.Option(
            "--on",
            metavar="RULE",
            help="Another rule for one cause: 'hang: restart 5, wait 30, back 2'.",
            show_default=False,
        ),
    ] = None,
    rules: Annotated[
        bool, typer.Option("--rules", help="Show the table of rules, and start nothing.")
    ] = False,
    max_restarts: Annotated[
        int, typer.Option("--max-restarts", metavar="N", min=0, help="Restarts in any --restart-window.")
    ] = 20,
    restart_window: Annotated[
        float,
        typer.Option(
            "--restart-window", metavar="SECONDS", min=1, help="The time in which restarts are counted."
        ),
    ] = 3600.0,
    monitor_interval: Annotated[
        float,
        typer.Option(
            "--monitor-interval",
            metavar="SECONDS",
            min=0.01,
            max=60,
            help="Time between two looks at the training.",
        ),
    ] = 0.2,
    grace_seconds: Annotated[
        float,
        typer.Option(
            "--grace-seconds", metavar="SECONDS", min=0, help="From SIGTERM to SIGKILL, unless it is saving."
        ),
    ] = 30.0,
    no_hang: Annotated[bool, typer.Option("--no-hang", help="Take no silence for a hang.")] = False,
    hang_at_least: Annotated[
        float,
        typer.Option(
            "--hang-at-least",
            metavar="SECONDS",
            min=0.1,
            help="No step is late before that; else 10 times the longest so far.",
        ),
    ] = 300.0,
    slow_at_least: Annotated[
        float,
        typer.Option(
            "--slow-at-least",
            metavar="SECONDS",
            min=0.1,
            help="The same for starting, the first step, evaluating, saving, and what follows the training.",
        ),
    ] = 3600.0,
    skip_batches: Annotated[
        int,
        typer.Option(
            "--skip-batches",
            metavar="N",
            min=0,
            help="Where a step fails again and again, pass over N batches: another run from there on.",
        ),
    ] = 0,
    not_finite_steps: Annotated[
        int,
        typer.Option(
            "--not-finite-steps",
            metavar="N",
            min=0,
            help="End it after so many steps in a row without a finite loss; 0: never.",
        ),
    ] = 20,
    explosion: Annotated[
        float,
        typer.Option(
            "--explosion",
            metavar="FACTOR",
            min=0,
            help="End it when the loss stays above so many times its median; 0: never.",
        ),
    ] = 0.0,
    notice_file: Annotated[
        str | None,
        typer.Option(
            "--notice-file", metavar="PATH", help="Save and end once this file is there.", show_default=False
        ),
    ] = None,
    notice_command: Annotated[
        str | None,
        typer.Option(
            "--notice-command",
            metavar="COMMAND",
            help="Save and end once this command ends with 0.",
            show_default=False,
        ),
    ] = None,
    notice_url: Annotated[
        str | None,
        typer.Option(
            "--notice-url", metavar="URL", help="Save and end once this answers 200.", show_default=False
        ),
    ] = None,
    stop_before: Annotated[
        float,
        typer.Option(
            "--stop-before", metavar="SECONDS", min=0, help="Save and end so long before $SLURM_JOB_END_TIME."
        ),
    ] = 120.0,
    requeue: Annotated[
        bool, typer.Option("--requeue", help="In a Slurm job: put it back into the queue when preempted.")
    ] = False,
    preempted_exit_code: Annotated[
        int,
        typer.Option(
            "--preempted-exit-code", metavar="CODE", min=0, max=255, help="What to end with when preempted."
        ),
    ] = 143,
    report: Annotated[
        Path | None,
        typer.Option(
            "--report",
            metavar="FILE",
            help="Write the history of launches there, as JSON.",
            show_default=False,
        ),
    ] = None,
    metrics_port: Annotated[
        int | None,
        typer.Option(
            "--metrics-port",
            metavar="PORT",
            min=0,
            max=65535,
            help="Serve metrics for Prometheus there; 0: at any port that is free.",
            show_default=False,
        ),
    ] = None,
    metrics_host: Annotated[
        str,
        typer.Option("--metrics-host", metavar="ADDRESS", help="At which address of this machine."),
    ] = "127.0.0.1",
    notify_url: Annotated[
        str | None,
        typer.Option(
            "--notify-url",
            metavar="URL",
            help="Post there what goes wrong and how it ends, as JSON.",
            show_default=False,
        ),
    ] = None,
    notify_command: Annotated[
        str | None,
        typer.Option(
            "--notify-command",
            metavar="COMMAND",
            help="Run this with the same on its standard input.",
            show_default=False,
        ),
    ] = None,
    traces_url: Annotated[
        str | None,
        typer.Option(
            "--traces-url",
            metavar="URL",
            help="Post traces of saves and recoveries there, as OTLP over HTTP.",
            show_default=False,
        ),
    ] = None,
    drillable: Annotated[
        bool,
        typer.Option(
            "--drillable",
            help="Let 'holdfast drill --live' reach inside of it: hang, segfault, memory.",
        ),
    ] = False,
    nproc_per_node: Annotated[
        str,
        typer.Option(
            "--nproc-per-node", "--nproc_per_node", metavar="N", help="Start so many ranks, by --launcher."
        ),
    ] = "1",
    launcher: Annotated[
        Launcher, typer.Option("--launcher", help="Whose: torchrun, or paddle.distributed.launch.")
    ] = Launcher.TORCH,
    nnodes: Annotated[
        str, typer.Option("--nnodes", metavar="N", help="As torchrun has it; this version can do 1 only.")
    ] = "1",
    master_addr: Annotated[str | None, _to_launcher("--master-addr", "ADDRESS")] = None,
    master_port: Annotated[str | None, _to_launcher("--master-port", "PORT")] = None,
    rdzv_backend: Annotated[str | None, _to_launcher("--rdzv-backend", "NAME")] = None,
    rdzv_endpoint: Annotated[str | None, _to_launcher("--rdzv-endpoint", "HOST:PORT")] = None,
    rdzv_id: Annotated[str | None, _to_launcher("--rdzv-id", "ID")] = None,
) -> None:
    """Start a training, watch it, restart it from its newest recovery point, and end with its exit code.

    Why it ended is told apart, and a table of rules says what is done for each cause; a mistake in the
    script is never tried again. On SIGTERM, Ctrl-C, or a notice that the machine will be taken away the
    training saves first.
    """
    from holdfast.supervisor.rules import RULES, changed

    table = changed(RULES, on or [])
    if rules:
        _show(table)
        return
    refuse_elsewhere("run")
    _check(nnodes, report)
    from holdfast.supervisor.deciding import Budget
    from holdfast.supervisor.launchers import checked_count, launched, ranks_of
    from holdfast.supervisor.notices import Notices, check_url, slurm_end_seconds
    from holdfast.supervisor.silence import Bounds
    from holdfast.supervisor.supervising import Supervision, Supervisor
    from holdfast.supervisor.watching import Watching

    watching = Watching(
        look_seconds=monitor_interval,
        grace_seconds=grace_seconds,
        bounds=None if no_hang else Bounds(least_seconds=hang_at_least, slow_seconds=slow_at_least),
        notices=Notices(
            file=notice_file,
            command=notice_command,
            url=check_url(notice_url),
            end_seconds=slurm_end_seconds(os.environ),
            before_seconds=stop_before,
        ),
        not_finite_steps=not_finite_steps,
        explosion=explosion,
    )
    words, ranks = command_words(what, "run"), checked_count(nproc_per_node)
    if ranks > 1:
        told = {
            "master-addr": master_addr,
            "master-port": master_port,
            "rdzv-backend": rdzv_backend,
            "rdzv-endpoint": rdzv_endpoint,
            "rdzv-id": rdzv_id,
        }
        words = launched(words, ranks, launcher, {name: text for name, text in told.items() if text})
    how = Supervision(
        command=words,
        ranks=max(ranks, ranks_of(words)),
        rules=table,
        budget=Budget(max_restarts, restart_window),
        watching=watching,
        preempted_code=preempted_exit_code,
        skip_batches=skip_batches,
    )
    if drillable:
        os.environ.update(_inside())
    wanted = Wanted(metrics_host, metrics_port, notify_url, notify_command, traces_url)
    with audience(wanted) as listening:
        supervisor = Supervisor(how, listening)
        code = supervisor.run()
    _tell(supervisor, how, code, report)
    if requeue:
        _requeue(supervisor)
    raise typer.Exit(code)


def _inside() -> dict[str, str]:
    from holdfast.drill.faults.inside import variables
    from holdfast.drill.faults.registry import FAULTS

    return variables(fault for fault in FAULTS.values() if not fault.copies_only)


def _show(table: Mapping[Cause, Rule]) -> None:
    from holdfast.supervisor.rules import MEANINGS

    rows = [(str(cause), MEANINGS[cause], str(rule)) for cause, rule in table.items()]
    print_table(("cause", "means", "what is done"), rows, folding=("means",))
    output.say(
        "restart N: so often in a row without getting further. wait S: seconds before the first; doubles.\n"
        "back N: from the Nth failure at the same step on, each begins one recovery point earlier."
    )


def _check(nnodes: str, report: Path | None) -> None:
    from holdfast.errors import UnsupportedError, UsageError

    if nnodes not in ("1", "1:1"):
        raise UnsupportedError(
            f"--nnodes {nnodes} asks for several machines, which this version cannot checkpoint together.",
            do="Train on one machine for now.",
        )
    if report is not None and not report.absolute().parent.is_dir():
        raise UsageError(
            f"There is no folder {report.absolute().parent} for the report.", do="Make it first."
        )


def _tell(supervisor: Supervisor, how: Supervision, code: int, place: Path | None) -> None:
    from holdfast.supervisor import reporting

    if line := reporting.summary(supervisor.history):
        say(line)
    if place is not None:
        ended = (str(supervisor.ended_for), supervisor.why_stopped)
        told = reporting.report(how.command, supervisor.history, ended, code)
        try:
            place.write_text(json.dumps(told, indent=2) + "\n")
        except OSError as error:  # no reason to end otherwise than the training did
            say(f"the report could not be written to {place}: {error.strerror}.")


def _requeue(supervisor: Supervisor) -> None:
    from holdfast.supervisor.causes import Cause
    from holdfast.supervisor.notices import requeue

    if supervisor.ended_for is Cause.PREEMPTED:
        say(requeue(os.environ))
