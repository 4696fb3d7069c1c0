"""The one tree of errors: each says what happened, to what, and what to do next."""

from __future__ import annotations

from typing import ClassVar


class HoldfastError(Exception):
    """Base of everything Holdfast raises.

    Parameters
    ----------
    what : str
        One sentence: what happened, and to what.
    do : str, optional
        One sentence: what to do next.

    Attributes
    ----------
    kind : str
        Stable name of the error, for logs and ``--json``.
    exit_code : int
        What the command line ends with.
    """

    kind: ClassVar[str] = "error"
    exit_code: ClassVar[int] = 1

    def __init__(self, what: str, *, do: str | None = None) -> None:
        self.what = what
        self.do = do
        super().__init__(f"{what} {do}" if do else what)


def message_of(error: BaseException) -> str:
    """What an exception of anybody's says, as text that can be recorded whatever it names or fails at."""
    try:
        text = str(error)
    except Exception:
        return ""
    return text.encode(errors="backslashreplace").decode()


class UsageError(HoldfastError):
    """An argument, option, rule or name that cannot be used as given."""

    kind = "usage"
    exit_code = 2


class NotFoundError(HoldfastError):
    """A repository, run, checkpoint, tag or tensor that is not there."""

    kind = "not-found"
    exit_code = 3


class DamagedError(HoldfastError):
    """Bytes that do not match their digest or do not parse, or that are missing.

    Attributes
    ----------
    proven : bool
        Whether two reads saw the damage. What is merely missing may come back.
    """

    kind = "damaged"
    exit_code = 4
    proven = True


class MismatchError(HoldfastError):
    """A checkpoint that does not fit the live training state.

    Attributes
    ----------
    missing, unexpected, mismatched : tuple[str, ...]
        Every entry the live state wants and the checkpoint lacks, the reverse, and
        those present in both that differ in kind, dtype or shape.
    """

    kind = "mismatch"
    exit_code = 5

    def __init__(
        self,
        what: str,
        *,
        do: str | None = None,
        missing: tuple[str, ...] = (),
        unexpected: tuple[str, ...] = (),
        mismatched: tuple[str, ...] = (),
    ) -> None:
        super().__init__(what, do=do)
        self.missing = missing
        self.unexpected = unexpected
        self.mismatched = mismatched


class ChangedError(HoldfastError):
    """Values the script gives (``lr``, ``config`` ...) differ from those recorded."""

    kind = "changed"
    exit_code = 5


class BusyError(HoldfastError):
    """A run or repository that another live process holds."""

    kind = "busy"
    exit_code = 6


class StorageError(HoldfastError):
    """The storage refused or failed: no space, I/O error, read-only, permission, gone.

    Attributes
    ----------
    errno : int or None
        The operating system's error number where there is one.
    """

    kind = "storage"
    exit_code = 7

    def __init__(self, what: str, *, do: str | None = None, errno: int | None = None) -> None:
        super().__init__(what, do=do)
        self.errno = errno


class UnsupportedError(HoldfastError):
    """A value or setting that Holdfast cannot keep exactly, refused by name."""

    kind = "unsupported"
    exit_code = 8


class FormatError(HoldfastError):
    """A repository written by a newer Holdfast than this one."""

    kind = "format"
    exit_code = 9


class PoisonedError(HoldfastError):
    """A load failed half way: the live state is neither old nor new until a full restore."""

    kind = "poisoned"
    exit_code = 10


class SupersededError(HoldfastError):
    """A newer attempt of the same run has taken over: this process must stop."""

    kind = "superseded"
    exit_code = 11


class UnhealthyError(HoldfastError):
    """A training that is not well, by a rule that lets it go back to an earlier recovery point."""

    kind = "unhealthy"
    exit_code = 15


class RankError(HoldfastError):
    """Another rank of the same training that has died, has left, is late, or is elsewhere in it."""

    kind = "rank"
    exit_code = 16


class SealedError(HoldfastError):
    """A sealed repository for which no key was given, or none that opens it: no damage is known."""

    kind = "sealed"
    exit_code = 12


class SignatureError(HoldfastError):
    """A checkpoint that is not signed by a key that is trusted here."""

    kind = "unsigned"
    exit_code = 13


class RolledBackError(HoldfastError):
    """A repository that is older than what this client has seen of it."""

    kind = "rolled-back"
    exit_code = 14
