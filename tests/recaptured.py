"""Whether a remembered capture is what a capture anew is."""

from __future__ import annotations

from typing import Any

import msgspec

from holdfast.domain import tree
from holdfast.frameworks import walk
from holdfast.frameworks.remembering import Memory


def same_as_anew(state: dict[str, Any], memory: Memory) -> bool:
    """Capture with and without the memory; in the end it holds the former."""
    remembered, anew = _told(walk.capture(state, memory)), _told(walk.capture(state))
    return remembered == anew and list(remembered[1]) == list(anew[1])


def _told(captured: walk.Capture) -> tuple[bytes, dict[str, Any], dict[str, bytes]]:
    """Everything of a capture: its tree, and dtypes, shapes and bytes of its tensors."""
    node = msgspec.msgpack.encode(tree.encode(captured.tree))
    specs = {name: source.spec for name, source in captured.tensors.items()}
    return node, specs, {name: source.read().tobytes() for name, source in captured.tensors.items()}
