"""Notices that this machine is about to be taken away: a file, a command, a URL, Slurm's time limit."""

from __future__ import annotations

import shlex
import subprocess
import urllib.request
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.client import HTTPException
from pathlib import Path

import msgspec

from holdfast.errors import UsageError

PATIENCE_SECONDS = 2.0
"""For a command or a server; the trainer goes on meanwhile."""
REQUEUE_SECONDS = 30.0
"""For Slurm, whose controller may be busy; nothing else waits by then."""


class Notices(msgspec.Struct, frozen=True, kw_only=True):
    """Where to look.

    Attributes
    ----------
    file : str or None
        Its being there is the notice.
    command : str or None
        Its ending with 0 is.
    url : str or None
        An answer of 200 is; clouds answer 404 as long as there is none.
    end_seconds : float or None
        When the machine will be taken away in any case, in seconds since 1970.
    before_seconds : float
        How long before that it is time to save.
    """

    file: str | None = None
    command: str | None = None
    url: str | None = None
    end_seconds: float | None = None
    before_seconds: float = 120.0

    def found(self, now_seconds: float) -> str | None:
        """The notice there is, in a few words; None if there is none."""
        if self.end_seconds is not None and now_seconds >= self.end_seconds - self.before_seconds:
            return f"the job's time ends in {max(self.end_seconds - now_seconds, 0):.0f} s"
        looks: tuple[tuple[str | None, Callable[[str], bool]], ...] = (
            (self.file, _is_there),
            (self.command, _succeeds),
            (self.url, _answers),
        )
        given = next((place for place, look in looks if place is not None and look(place)), None)
        return f"notice from {given}" if given is not None else None


def check_url(url: str | None) -> str | None:
    """Refuse what nobody can ask."""
    if url is not None and not url.startswith(("http://", "https://")):
        raise UsageError(f"{url} is no address to ask for a notice.", do="Give one that begins with http://.")
    return url


def slurm_end_seconds(variables: Mapping[str, str]) -> float | None:
    """When this Slurm job will be killed; None outside of one."""
    text = variables.get("SLURM_JOB_END_TIME", "")
    return float(text) if text.isdecimal() else None


def _is_there(place: str) -> bool:
    try:
        return Path(place).exists()
    except OSError:  # of a disk that is lost, say
        return False


def _succeeds(command: str, patience_seconds: float = PATIENCE_SECONDS) -> bool:
    try:
        done = subprocess.run(
            shlex.split(command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=patience_seconds,
            check=False,
        )
    except (OSError, ValueError, subprocess.SubprocessError):
        return False
    return done.returncode == 0


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=PATIENCE_SECONDS) as answer:  # its scheme was checked
            return bool(answer.status == HTTPStatus.OK)
    except (OSError, ValueError, HTTPException):
        return False


def requeue(variables: Mapping[str, str]) -> str:
    """Have Slurm start this job again; returns what came of it."""
    job = variables.get("SLURM_JOB_ID", "")
    if not job.isdecimal():
        return "this is no Slurm job, so it cannot be put back into the queue."
    if _succeeds(f"scontrol requeue {job}", REQUEUE_SECONDS):
        return f"job {job} is back in the queue."
    return f"'scontrol requeue {job}' failed: put it back into the queue yourself."
