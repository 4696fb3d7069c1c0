"""Processes are found by what they were started with, whatever group they are in."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid

from holdfast.node import groups


def test_processes_are_found_by_their_environment() -> None:
    value = uuid.uuid4().hex
    command = [sys.executable, "-c", "input()"]
    child = subprocess.Popen(
        command, env=os.environ | {"GIVEN": value}, stdin=subprocess.PIPE, start_new_session=True
    )
    assert groups.given("GIVEN", value) == [child.pid]
    assert groups.given("GIVEN", value[:-1]) == []
    assert groups.was_told(child.pid, ["OTHER", "GIVEN"])
    assert not groups.was_told(child.pid, ["GIVE"])
    child.communicate(b"\n")
    assert groups.given("GIVEN", value) == []
