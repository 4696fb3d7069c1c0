"""Names as data: runs, tags, attempts, checkpoints, and the addresses people type."""

from __future__ import annotations

import re
import secrets

import msgspec

from holdfast.errors import UsageError

RESERVED_SEGMENTS = frozenset(
    {"attempts", "checkpoints", "tags", "rejected", "condemned", "staging", "leases", "requests", "hints"}
)
COMPUTED_TAGS = frozenset({"best", "latest"})
_SEGMENT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+=-]{0,99}")
_CHECKPOINT = re.compile(
    r"([0-9]{12,18})-([0-9]{6,9})-([0-9a-f]{8})-([0-9]{6,9})-(full|thin)-([0-9a-f]{64})(?:\.manifest)?"
)
_ATTEMPT = re.compile(r"([0-9]{6,9})-([0-9a-f]{8})")
_STEP = re.compile(r"[0-9]{1,18}")


def validate_run(name: object) -> str:
    """Return ``name`` if it can name a run.

    Raises
    ------
    UsageError
        Not made of segments of letters, digits and ``_.+=-`` joined by ``/``.
    """
    if not isinstance(name, str) or not _names_run(name):
        raise UsageError(
            f"{name!r} cannot name a run.",
            do="Use letters, digits and _ . + = - in segments joined by '/', such as 'sweep/lr3'"
            f" (not one of: {', '.join(sorted(RESERVED_SEGMENTS))}).",
        )
    return name


def _names_run(name: str) -> bool:
    segments = name.split("/")
    return len(name) <= 200 and all(_SEGMENT.fullmatch(s) and s not in RESERVED_SEGMENTS for s in segments)


def validate_tag(name: object) -> str:
    """Return ``name`` if it can name a tag.

    Raises
    ------
    UsageError
        Malformed, reserved (``best``, ``latest``), or a number, which addresses a step.
    """
    if not isinstance(name, str) or not _names_tag(name):
        raise UsageError(
            f"{name!r} cannot be a tag.",
            do="Use letters, digits and _ . + = -; 'best' and 'latest' are computed, numbers are steps.",
        )
    return name


def _names_tag(name: str) -> bool:
    return bool(_SEGMENT.fullmatch(name)) and name not in COMPUTED_TAGS and not name.isdigit()


class AttemptId(msgspec.Struct, frozen=True, order=True):
    """One launch, or in-process restore, of a run: a number and a nonce."""

    number: int
    nonce: str

    @classmethod
    def new(cls, number: int) -> AttemptId:
        return cls(number, secrets.token_hex(4))

    @classmethod
    def parse(cls, text: str) -> AttemptId | None:
        """Read ``000003-9be1c2d4``; None if it is not one."""
        match = _ATTEMPT.fullmatch(text)
        parsed = cls(int(match[1]), match[2]) if match else None
        return parsed if str(parsed) == text else None  # one spelling only: it names files

    def __str__(self) -> str:
        return f"{self.number:06d}-{self.nonce}"


class CheckpointId(msgspec.Struct, frozen=True):
    """Identity of a checkpoint, all of it in its file name.

    Attributes
    ----------
    step : int
        Steps counted when its state was captured.
    attempt : AttemptId
        Who wrote it.
    sequence : int
        Its number among the saves of that attempt: the order of commits.
    kind : str
        ``full``, or ``thin`` (model only).
    digest : str
        BLAKE3 of the manifest's bytes, 64 hexadecimal digits.
    """

    step: int
    attempt: AttemptId
    sequence: int
    kind: str
    digest: str

    @classmethod
    def parse(cls, name: str) -> CheckpointId | None:
        """Read a manifest's file name, with or without ``.manifest``; None if it is not one."""
        match = _CHECKPOINT.fullmatch(name)
        if match is None:
            return None
        step, number, nonce, sequence, kind, digest = match.groups()
        parsed = cls(int(step), AttemptId(int(number), nonce), int(sequence), kind, digest)
        return parsed if str(parsed) == name.removesuffix(".manifest") else None

    def __str__(self) -> str:
        return f"{self.step:012d}-{self.attempt}-{self.sequence:06d}-{self.kind}-{self.digest}"

    @property
    def identity(self) -> tuple[AttemptId, int, int, str]:
        """What names the same checkpoint in every repository: the digest is also of the repository's id."""
        return (self.attempt, self.sequence, self.step, self.kind)

    @property
    def order(self) -> tuple[int, int, str]:
        """Sorts checkpoints of a run by attempt, then by commit; a thin one behind what it was made of."""
        return (self.attempt.number, self.sequence, f"{self.kind}-{self.digest}")


class Address(msgspec.Struct, frozen=True):
    """What people type: ``RUN[@STEP|@TAG|@best|@latest]``."""

    run: str
    at: int | str = "latest"

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read an address.

        Raises
        ------
        UsageError
            The run or the part after ``@`` is malformed.
        """
        run, mark, at = text.partition("@")
        validate_run(run)
        if not mark:
            return cls(run)
        return cls(run, parse_at(at))

    def __str__(self) -> str:
        return f"{self.run}@{self.at}"


def parse_at(at: int | str) -> int | str:
    """A step as int, else ``best``, ``latest``, a checkpoint's full name or a valid tag."""
    if isinstance(at, int):
        return at
    if isinstance(at, str) and _STEP.fullmatch(at):
        return int(at)
    is_name = at in COMPUTED_TAGS or (isinstance(at, str) and CheckpointId.parse(at) is not None)
    return at if is_name else validate_tag(at)
