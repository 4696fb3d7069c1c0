"""Signals are waited for; none is lost, and none is made up."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest
from tests.killing import in_child

from holdfast.cli.observing import Wanted, audience
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


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_threads_that_serve_metrics_take_no_signal(number: signal.Signals, tmp_path: Path) -> None:
    """The kernel gives a signal to any thread that does not block it: there it would end the process."""

    def wait() -> None:
        os.environ["HOLDFAST_LOG"] = str(tmp_path / "log")
        wanted = Wanted("127.0.0.1", 0, None, None, None)
        with audience(wanted), Signals() as signals:
            assert threading.active_count() > 1
            os.kill(os.getpid(), number)
            time.sleep(0.1)  # it looks at the training meanwhile
            assert signals.wait(5) is number

    assert in_child(wait) == 0
