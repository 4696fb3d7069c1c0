"""Processes that die or stand still."""

from __future__ import annotations

import signal

from holdfast.drill.faults.base import Fault, InBackground, Scene, ended, launch_of, signal_all, wait_gone
from holdfast.drill.faults.held import Afterwards, held, hold
from holdfast.node import groups

_LEAVE_SECONDS = 10.0
"""For a training that is asked to end; then it is killed."""


class Kill(Fault):
    """The training dies without a word."""

    name = "kill"
    meaning = "SIGKILL to the training"

    def lacks(self, scene: Scene) -> str:
        return "" if groups.lives(scene.leader) else "nothing runs"

    def strike(self, scene: Scene) -> None:
        scene.kill_launch()


class Stop(Fault):
    """The training stands still for a moment, as when a machine is moved."""

    name = "stop"
    meaning = "the training is stopped for 2 s (SIGSTOP, SIGCONT)"
    lasts_seconds = 2.0

    def __init__(self) -> None:
        self._goes_on: Afterwards | None = None

    def strike(self, scene: Scene) -> None:
        self._goes_on = hold(self.stopped(scene))

    def mend(self, scene: Scene) -> None:
        if self._goes_on is not None:
            self._goes_on.now()

    def stopped(self, scene: Scene) -> list[int]:
        """Who stands still."""
        return [scene.trainer]


class SlowDisk(InBackground, Stop):
    """The process that makes snapshots durable waits for its disk."""

    name = "slow-disk"
    meaning = "the process that saves waits for 5 s, as for a disk that does not answer (SIGSTOP, SIGCONT)"
    lasts_seconds = 5.0

    def stopped(self, scene: Scene) -> list[int]:
        return scene.agents()


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
    copies_only = "nobody here would start the supervisor again"

    def lacks(self, scene: Scene) -> str:
        return ""

    def strike(self, scene: Scene) -> None:
        with held(scene.supervisor):  # it would start the training again
            everybody = [*launch_of(scene), *(agents := scene.agents())]
            self.lose(scene)
            scene.kill_launch()
            signal_all([*agents, scene.supervisor], signal.SIGKILL)
            wait_gone(everybody)

    def lose(self, scene: Scene) -> None:
        """What is lost besides."""


class PowerLoss(Everything):
    """All processes of the machine die at once, and its disk forgets what was not synced."""

    name = "power"
    meaning = "a disk of its own (ext4 in a file; needs root) loses power, and all processes die with it"
    has_own_disk = True

    def strike(self, scene: Scene) -> None:
        super().strike(scene)
        if scene.disk is not None:
            scene.disk.power_up()

    def lose(self, scene: Scene) -> None:
        if scene.disk is not None:
            scene.disk.shut_down()


class SupervisorKilled(Fault):
    """The supervisor dies alone: its training saves and ends, and somebody starts it again."""

    name = "supervisor"
    meaning = "SIGKILL to 'holdfast run', which is started again once its training has saved and ended"
    starts_again = True
    copies_only = "nobody here would start the supervisor again"

    def lacks(self, scene: Scene) -> str:
        return ""

    def strike(self, scene: Scene) -> None:
        launch = launch_of(scene)
        groups.send(scene.supervisor, signal.SIGKILL)
        if not ended(launch, _LEAVE_SECONDS):  # it hangs, say: a service manager would not wait for ever
            scene.kill_launch()
        wait_gone(launch)
