"""The command line's entry: verbs, their shared behaviour on errors, and nothing else."""

from __future__ import annotations

import importlib
import io
import itertools
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from holdfast.errors import HoldfastError

VERBS = (
    "init",
    "key",
    "ls",
    "show",
    "du",
    "verify",
    "repair",
    "diff",
    "export",
    "import",
    "publish",
    "tag",
    "fork",
    "restart",
    "rm",
    "mv",
    "prune",
    "compact",
    "sync",
    "run",
    "lfs-agent",
    "prove",
    "drill",
    "save",
    "status",
    "doctor",
)
INTERRUPTED = 130
_DEBUG = "--debug"

app = typer.Typer(
    name="holdfast",
    help="Checkpoints that survive: look at them, check them, repair them, move them.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="RUN[@AT] names a run's checkpoint: digits@500, digits@best, digits@latest, digits@TAG.",
)


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import PackageNotFoundError, version

        try:
            print(f"holdfast {version('holdfast')}")
        except PackageNotFoundError:
            print("holdfast (not installed as a package)")
        raise typer.Exit


@app.callback()
def _every_verb(
    version: Annotated[  # acted on while parsing
        bool, typer.Option("--version", help="Show the version.", callback=_show_version, is_eager=True)
    ] = False,
    debug: Annotated[  # `run` looks for it
        bool, typer.Option(_DEBUG, help="Show the traceback of an error.")
    ] = False,
) -> None:
    pass


def _register() -> None:
    for verb in VERBS:
        module = importlib.import_module(f"holdfast.cli.cmd_{verb.replace('-', '_')}")
        examples = "".join(f"\n  {line}" for line in module.EXAMPLES)
        first = (module.command.__doc__ or "").partition("\n\n")[0]
        takes_command = getattr(module, "TAKES_COMMAND", False)  # whose flags are not ours
        app.command(
            verb,
            context_settings={"allow_interspersed_args": not takes_command},
            short_help=" ".join(first.split()),
            epilog=f"\b\nExamples:{examples}",
        )(module.command)


_register()


def main() -> None:
    """Run the command line and end the process with its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal may know few characters
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command line; return its exit code."""
    ours = list(itertools.takewhile(lambda word: word != "--", arguments))  # then comes somebody else's
    debug, as_json = _DEBUG in ours, "--json" in ours
    ordered = [_DEBUG] * debug + [a for a in ours if a != _DEBUG] + list(arguments[len(ours) :])
    try:
        code = app(ordered or ["--help"], prog_name="holdfast", standalone_mode=False)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the exit would complain
        return 1
    except typer.Abort:
        return INTERRUPTED
    except Exception as error:
        if debug:
            raise
        return _failed(error, as_json=as_json)
    return code if isinstance(code, int) else 0


def _failed(error: Exception, *, as_json: bool) -> int:
    from holdfast.cli.output import fail

    told = _told(error)
    fail(told, as_json=as_json)
    return told.exit_code


def _told(error: Exception) -> HoldfastError:
    from holdfast.errors import HoldfastError, StorageError, UsageError

    if isinstance(error, HoldfastError):
        return error
    if hasattr(error, "format_message"):  # how the parser refuses arguments
        return UsageError(str(error.format_message()), do=_try_help(error))
    if isinstance(error, OSError):
        return StorageError(
            f"{error.filename or 'The system'}: {error.strerror or error}.", errno=error.errno
        )
    return HoldfastError(
        f"Holdfast failed in a way it should not: {type(error).__name__}: {error}",
        do="Run it again with --debug and report what it prints.",
    )


def _try_help(error: Exception) -> str:
    context = getattr(error, "ctx", None)
    return f"'{context.command_path} --help' explains it." if context is not None else "Try --help."
