"""``holdfast restart``: let the next launch begin elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdfast.cli import output
from holdfast.cli.options import (
    AddressArgument,
    RepositoryOption,
    YesOption,
    address,
    find_run,
    open_repository,
)
from holdfast.cli.told import RESTART_CAUSE
from holdfast.training.claiming import claimed

if TYPE_CHECKING:
    from holdfast.domain.names import CheckpointId
    from holdfast.repository.run import Run

EXAMPLES = ("holdfast restart digits", "holdfast restart digits@500", "holdfast restart digits@best --yes")


def command(which: AddressArgument, repository: RepositoryOption = None, yes: YesOption = False) -> None:
    """Let the next launch of RUN begin afresh, once; or, with @AT, go on from that checkpoint.

    Nothing is removed: the checkpoints so far stay until a keep rule lets them go, and
    'holdfast restart RUN@STEP' takes the run back to any of them.
    """
    from holdfast.repository.signatures import check_given

    check_given()  # or the record would not count
    run = find_run(open_repository(repository), which.partition("@")[0])
    base = run.resolve(address(which).at) if "@" in which else None
    where = f"from step {base.step}" if base is not None else "from scratch"
    with claimed(run):
        _check(run, base)
        if not output.confirm(f"The next launch of {run.name} will start {where}. Go on?", yes=yes):
            output.note("Nothing was changed.")
            return
        attempt = run.begin_attempt()
        run.record_base(attempt, base)
        run.record_end(attempt, f"{RESTART_CAUSE}{where}", base.step if base is not None else 0, done=False)
    output.note(f"The next launch of {run.name} starts {where}.")


def _check(run: Run, base: CheckpointId | None) -> None:
    from holdfast.repository.forking import check_resumable

    if base is not None:
        check_resumable(run, base)
        run.manifest(base)
