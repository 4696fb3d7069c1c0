"""Processes that die or stand still."""

from __future__ import annotations

import signal

from holdfast.drill.faults.base import Fault, InBackground, Scene, signal_all, wait_gone
from holdfast.node import groups


class Kill(Fault):
    """The training dies without a word."""

    name = "kill"
    meaning = "SIGKILL to the training"

    def strike(self, scene: Scene) -> None:
        scene.kill_launch()


class Stop(Fault):
    """The training stands still for a moment, as when a machine is moved."""

    name = "stop"
    meaning = "the training is stopped for 2 s (SIGSTOP, SIGCONT)"
    lasts_seconds = 2.0

    def strike(self, scene: Scene) -> None:
        groups.send(scene.trainer, signal.SIGSTOP)

    def mend(self, scene: Scene) -> None:
        groups.send(scene.trainer, signal.SIGCONT)


class AgentKilled(InBackground):
    """The process that makes snapshots durable dies."""

    name = "agent"
    meaning = "SIGKILL to the process that saves in the background"

    def strike(self, scene: Scene) -> None:
        signal_all(scene.agents(), signal.SIGKILL)


class Everything(Fault):
    """All processes of the machine die at once, and the machine starts again."""

    name = "machine"
    meaning = "SIGKILL to all processes at once, then started again; what was not synced is not dropped"
    starts_again = True

    def strike(self, scene: Scene) -> None:
        groups.send(scene.supervisor, signal.SIGSTOP)  # it would start the training again
        agents = scene.agents()
        scene.kill_launch()
        signal_all([*agents, scene.supervisor], signal.SIGKILL)
        wait_gone(agents)
