"""What is done about each kind of finding: one table, which a few words change."""

from __future__ import annotations

from collections.abc import Mapping

from holdfast.errors import UsageError

ACTIONS = ("auto", "ignore", "warn", "save", "stop", "back")
MEANINGS: Mapping[str, str] = {
    "not-finite": "the loss, or three gradient norms in a row, are NaN or infinite",
    "spike": "the loss stays beyond three sigma of what it was",
    "gradient": "the gradient norm stays beyond three sigma of what it was",
    "plateau": "the loss has not got better for as long again as it took to get there",
    "slow": "steps take several times what they took",
    "collectives": "collectives take several times what they took: another rank is slow, or the network",
    "gpu": "a GPU has memory errors, is too hot or full, or idles",
    "seam": "right after a restore the loss stays beyond three sigma of what it was before",
    "probe": "after a restore the probe does not give what it gave when the checkpoint was made",
}
_OF_RESUMES = ("seam", "probe")
_EXAMPLE = (
    f'Write one of {", ".join(ACTIONS)} for all, or for example "spike: save, plateau: ignore"; '
    f"there are {', '.join(MEANINGS)}."
)


def parse(text: object) -> dict[str, str]:
    """The action for each kind of finding.

    Raises
    ------
    UsageError
        It names no kind or no action.
    """
    if text in ACTIONS:
        return dict.fromkeys(MEANINGS, str(text))
    if not isinstance(text, str):
        raise UsageError(f"on_finding={text!r} is no rule.", do=_EXAMPLE)
    return dict.fromkeys(MEANINGS, "auto") | dict(_parse_one(part, text) for part in text.split(","))


def settled(rules: Mapping[str, str], *, goes_back: bool) -> dict[str, str]:
    """The rules with what ``auto`` means: to warn, but to go back from a bad resume where that can be."""
    back = _OF_RESUMES if goes_back else ()
    chosen = {kind: "back" if kind in back else "warn" for kind, action in rules.items() if action == "auto"}
    return dict(rules) | chosen


def _parse_one(part: str, whole: str) -> tuple[str, str]:
    kind, colon, action = (word.strip() for word in part.partition(":"))
    if not colon or kind not in MEANINGS or action not in ACTIONS:
        raise UsageError(f"on_finding={whole!r} cannot be understood at {part.strip()!r}.", do=_EXAMPLE)
    return kind, action
