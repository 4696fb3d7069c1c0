"""What is to be kept current as a plain file: ``best -> out/best.safetensors``."""

from __future__ import annotations

import msgspec

from holdfast.domain.names import parse_at
from holdfast.errors import UsageError

_ARROW = "->"
_EXAMPLE = "Write for example publish='best -> out/best.safetensors'."


class Publication(msgspec.Struct, frozen=True):
    """One file or folder that follows a run.

    Attributes
    ----------
    at : str
        ``best``, ``latest`` or a tag.
    path : str
        As for an export: its ending decides the format.
    """

    at: str
    path: str

    def __str__(self) -> str:
        return f"{self.at} {_ARROW} {self.path}"


def parse(given: object) -> tuple[Publication, ...]:
    """Read one rule or several.

    Raises
    ------
    UsageError
        It is none, names a step, which never changes, or two name one path.
    """
    texts = [given] if isinstance(given, str) else given if isinstance(given, list | tuple) else []
    found = tuple(_parsed(text) for text in texts)
    if not found and given is not None and given not in ([], ()):
        raise UsageError(f"publish={given!r} is no rule.", do=_EXAMPLE)
    paths = [each.path.rstrip("/") for each in found]
    if twice := next((path for path in paths if paths.count(path) > 1), None):
        raise UsageError(f"publish= names {twice} twice.", do="Give each rule a path of its own.")
    return found


def _parsed(text: object) -> Publication:
    at, arrow, path = (
        (part.strip() for part in text.partition(_ARROW)) if isinstance(text, str) else ("", "", "")
    )
    if not (at and arrow and path):
        raise UsageError(f"publish={text!r} is no rule.", do=_EXAMPLE)
    parsed = parse_at(at)
    if isinstance(parsed, int):
        raise UsageError(
            f"publish={text!r} names a step, which never changes.",
            do="Name best, latest or a tag, or export it.",
        )
    return Publication(parsed, path)
