"""Signals are waited for; none is lost, and none is made up."""

from __future__ import annotations

import os
import signal
import time

from tests.killing import in_child

from holdfast.supervisor.signals import Signals


def test_what_arrives_between_two_looks_is_heard_at_the_next() -> None:
    def wait() -> None:
        with Signals() as signals:
            os.kill(os.getpid(), signal.SIGTERM)
            assert signals.wait(5) is signal.SIGTERM
            assert signals.wait(0) is None

    assert in_child(wait) == 0


def test_a_pause_longer_than_the_wait_is_no_signal() -> None:
    def wait() -> None:
        with Signals() as signals:
            child = os.fork()
            if child == 0:
                time.sleep(0.1)
                os.kill(os.getppid(), signal.SIGSTOP)
                time.sleep(0.6)
                os.kill(os.getppid(), signal.SIGCONT)
                os._exit(0)
            assert signals.wait(0.3) is None

    assert in_child(wait) == 0


def test_afterwards_signals_mean_what_they_meant() -> None:
    def wait() -> None:
        with Signals() as signals:
            os.kill(os.getpid(), signal.SIGHUP)
            signals.wait(5)
            assert signals.terminal_gone
            os.kill(os.getpid(), signal.SIGTERM)  # a second one, obeyed already
        os.kill(os.getpid(), signal.SIGTERM)

    assert in_child(wait) == signal.SIGTERM
