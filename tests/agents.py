"""Agents as tests see them: real processes, found by where they listen."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import holdfast
from holdfast.agent.errands import _RUNNER
from holdfast.node.channel import address
from holdfast.repository.repository import Repository
from holdfast.storage.local import LocalStorage


def agents_of(repository: Path, run: str = "main") -> list[int]:
    """Process ids of the agents of a run."""
    return agents_at({address_of(Repository.open(LocalStorage(repository)), run)})


def address_of(repository: Repository, run: str) -> bytes:
    """Where the agent of a run listens, as its command line says it."""
    return address(repository.id, repository.storage.location, run).hex().encode()


def agents_at(addresses: set[bytes]) -> list[int]:
    """Process ids of the agents that listen at any of these."""
    return [pid for pid, words in _processes() if not addresses.isdisjoint(words)]


def errands_below(folder: Path) -> list[int]:
    """Process ids of the errands of agents, and of their commands, that name a place below a folder."""
    place = str(folder).encode() + b"/"
    return [pid for pid, words in _processes() if _is_errand(words) and any(place in word for word in words)]


def _is_errand(words: list[bytes]) -> bool:
    """Not a launch that asks its mirror."""
    return (b"holdfast" in words or _RUNNER.encode() in words) and b"--latest" not in words


def _processes() -> Iterator[tuple[int, list[bytes]]]:
    return ((int(p.name), _words(p)) for p in Path("/proc").iterdir() if p.name.isdigit())


def agents_below(folder: Path) -> list[int]:
    """Process ids of the agents of all runs named ``main`` in repositories below a folder."""
    repositories = [config.parent for config in folder.glob("**/holdfast.json")]
    return [agent for repository in repositories for agent in agents_of(repository)]


def agent_of(ckpt: holdfast.Checkpointer) -> int:
    """Process id of the agent that a Checkpointer talks to."""
    way = ckpt._entered._saver._way
    assert way._is_linked(10.0)  # type: ignore[attr-defined]
    pid: int = way._agent._link._agent_pid  # type: ignore[attr-defined]
    return pid


def stop_agent(ckpt: holdfast.Checkpointer) -> int:
    """Stop it (SIGSTOP) once it has nothing to do, as if the disk took for ever; its process id."""
    ckpt._entered._saver.wait()  # also notices that the one before has died
    agent = agent_of(ckpt)
    os.kill(agent, signal.SIGSTOP)
    return agent


def _words(process: Path) -> list[bytes]:
    try:
        return (process / "cmdline").read_bytes().split(b"\0")
    except (FileNotFoundError, ProcessLookupError):
        return []
