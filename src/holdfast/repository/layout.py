"""Where everything lies in a repository: the only place that spells keys."""

from __future__ import annotations

import secrets

from holdfast.domain.names import AttemptId, CheckpointId

CONFIG = "holdfast.json"
PACKS = "packs/"
RUNS = "runs/"
CONDEMNED_PACKS = "condemned/"
DAMAGED_PACKS = "damaged/"
ASIDE = "aside/"
KEYS = "keys/"
REPOSITORY_LOCK = "repository"
TURN_LOCK = "repository-turn"
"""Whoever wants to prune holds it, so that a stream of savers and readers lets it in."""


def new_pack_id() -> str:
    """A random, never reused name: 32 hexadecimal digits."""
    return secrets.token_hex(16)


def pack(pack_id: str) -> str:
    return f"{PACKS}{pack_id[:2]}/{pack_id}.pack"


def pack_id_of(key: str) -> str | None:
    """The id in a pack's key; None for any other file."""
    name = key.rpartition("/")[2].removesuffix(".pack")
    ok = key.endswith(".pack") and len(name) == 32 and set(name) <= set("0123456789abcdef")
    return name if ok else None


def condemned_pack(pack_id: str) -> str:
    return f"{CONDEMNED_PACKS}{pack_id}.json"


def keys(key_id: str) -> tuple[str, str]:
    """The two files of a key, which say the same."""
    return f"{KEYS}{key_id}.json", f"{KEYS}{key_id}.spare.json"


def damaged_pack(pack_id: str, record: str) -> str:
    return f"{DAMAGED_PACKS}{pack_id}-{record}.json"


class RunLayout:
    """Keys of one run."""

    def __init__(self, name: str) -> None:
        self.root = f"{RUNS}{name}/"
        self.attempts = f"{self.root}attempts/"
        self.checkpoints = f"{self.root}checkpoints/"
        self.tags = f"{self.root}tags/"
        self.rejected = f"{self.root}rejected/"
        self.condemned = f"{self.root}condemned/"
        self.hints = f"{self.root}hints/"
        self.parts = f"{self.root}parts/"
        self.leases = f"{self.root}leases/"
        self.requests = f"{self.root}requests/"
        self.moving = f"{self.root}moving.json"
        self.moved = f"{self.root}moved.json"

    def attempt(self, attempt: AttemptId) -> str:
        return f"{self.attempts}{attempt}.json"

    def base(self, attempt: AttemptId) -> str:
        return f"{self.attempts}{attempt}.base"

    def end(self, attempt: AttemptId) -> str:
        return f"{self.attempts}{attempt}.end"

    def checkpoint(self, checkpoint: CheckpointId) -> str:
        return f"{self.checkpoints}{checkpoint}.manifest"

    def signature(self, checkpoint: CheckpointId) -> str:
        return f"{self.checkpoints}{checkpoint}.signature"

    def tag(self, name: str) -> str:
        return f"{self.tags}{name}.json"

    def reject(self, checkpoint: CheckpointId) -> str:
        return f"{self.rejected}{checkpoint}.json"

    def condemn(self, checkpoint: CheckpointId) -> str:
        return f"{self.condemned}{checkpoint}.json"

    def hint(self, checkpoint: CheckpointId) -> str:
        return f"{self.hints}{checkpoint}.json"

    def part(self, checkpoint: CheckpointId, rank: int) -> str:
        """What a rank has made for a checkpoint to be; ``checkpoint`` is the part's own identity."""
        return f"{self.parts}{checkpoint}.{rank}.part"

    def part_packs(self, checkpoint: CheckpointId, rank: int) -> str:
        return f"{self.parts}{checkpoint}.{rank}.json"

    def lease(self, attempt: AttemptId) -> str:
        return f"{self.leases}{attempt}.json"

    def request(self, nonce: str) -> str:
        return f"{self.requests}{nonce}.json"
