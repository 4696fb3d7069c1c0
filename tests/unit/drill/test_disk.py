"""A disk that loses power keeps what was synced, and forgets the rest."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.integration.training.launching import wait_until

from holdfast.drill import disk
from holdfast.drill.faults.registry import chosen
from holdfast.errors import UnsupportedError

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")


def test_without_root_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(UnsupportedError, match="needs a file system of its own"):
        chosen("kill,power")


def is_mounted(folder: Path) -> bool:
    return str(folder) in Path("/proc/mounts").read_text()


@pytest.mark.root
@needs_root
def test_what_was_not_synced_is_gone(tmp_path: Path) -> None:
    made = disk.Disk(tmp_path / "disk")
    try:
        for name in ("synced", "written"):
            with (tmp_path / "disk" / name).open("wb") as file:
                file.write(b"x" * 5000)
                if name == "synced":
                    os.fsync(file.fileno())
        made.shut_down()
        with pytest.raises(OSError, match="Input/output error"):
            (tmp_path / "disk" / "later").write_bytes(b"x")
        made.power_up()
        assert [p.name for p in (tmp_path / "disk").iterdir()] == ["synced"]
    finally:
        made.close()
    assert not is_mounted(tmp_path / "disk")


@pytest.mark.root
@needs_root
def test_nothing_stays_mounted_when_the_drill_is_killed(tmp_path: Path) -> None:
    code = "import sys, time, pathlib\nfrom holdfast.drill.disk import Disk\n"
    code += "disk = Disk(pathlib.Path(sys.argv[1]))\ntime.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "disk")]) as process:
        assert wait_until(lambda: is_mounted(tmp_path / "disk"))
        assert wait_until(lambda: not (tmp_path / "disk" / "lost+found").exists())
        process.kill()
    assert wait_until(lambda: not is_mounted(tmp_path / "disk"))
