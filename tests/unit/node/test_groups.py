"""Processes are found by what they were started with, whatever group they are in."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid

from holdfast.node import groups


def test_processes_are_found_by_their_environment() -> None:
    value = uuid.uuid4().hex
    command = [sys.executable, "-c", "print(flush=True); input()"]
    environment, pipe = os.environ | {"GIVEN": value}, subprocess.PIPE
    child = subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, start_new_session=True)
    assert child.stdout is not None
    assert child.stdout.readline()  # before it runs it has no environment
    assert groups.given("GIVEN", value) == [child.pid]
    assert groups.given("GIVEN", value[:-1]) == []
    assert groups.was_told(child.pid, ["OTHER", "GIVEN"])
    assert not groups.was_told(child.pid, ["GIVE"])
    child.communicate(b"\n")
    assert groups.given("GIVEN", value) == []


def test_whether_a_process_catches_a_signal_is_known() -> None:
    assert groups.catches(os.getpid(), signal.SIGINT)
    assert not groups.catches(os.getpid(), signal.SIGRTMAX)
    assert not groups.catches(2**22 + 1, signal.SIGINT)
