"""safetensors files in repositories of restic and of borg."""

from __future__ import annotations

import os
import subprocess
from abc import abstractmethod
from pathlib import Path

from measure import make_durable
from safetensors.torch import load_file, save_file
from storing_way import LEVEL, Way, emptied

FILE = "checkpoint.safetensors"


class Backup(Way):
    """Writes a safetensors file, always the same one, and backs it up."""

    def save(self, number: int) -> None:
        if number == 1:
            self._create()
        save_file(self.tensors, emptied(self.scratch / "now") / FILE)
        self._back_up(number)
        make_durable(self.folder)

    def restore(self, number: int) -> None:
        back = emptied(self.scratch / "back")
        self._bring_back(number, back)
        self.take(load_file(back / FILE))

    @abstractmethod
    def _create(self) -> None: ...

    @abstractmethod
    def _back_up(self, number: int) -> None: ...

    @abstractmethod
    def _bring_back(self, number: int, folder: Path) -> None: ...

    def _run(self, *command: str | Path, folder: Path | None = None, **environment: str) -> None:
        done = subprocess.run(
            command, cwd=folder, env=os.environ | environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(f"{command[0]} ended with {done.returncode}: {done.stderr.strip()}")


class Restic(Backup):
    """Chunks by content, zstd, encrypted always."""

    def _create(self) -> None:
        self._restic("init")

    def _back_up(self, number: int) -> None:
        self._restic("backup", "--tag", str(number), FILE, folder=self.scratch / "now")

    def _bring_back(self, number: int, folder: Path) -> None:
        self._restic("restore", "latest", "--tag", str(number), "--target", folder)

    def _restic(self, *arguments: str | Path, folder: Path | None = None) -> None:
        cache = ("--cache-dir", self.scratch / "cache")
        self._run("restic", "-r", self.folder, *cache, *arguments, folder=folder, RESTIC_PASSWORD="benchmark")


class Borg(Backup):
    """Chunks by content, zstd -3, without encryption."""

    def _create(self) -> None:
        self._borg("init", "--encryption", "none", self.folder)

    def _back_up(self, number: int) -> None:
        options = ("--compression", f"zstd,{LEVEL}")
        self._borg("create", *options, f"{self.folder}::{number}", FILE, folder=self.scratch / "now")

    def _bring_back(self, number: int, folder: Path) -> None:
        self._borg("extract", f"{self.folder}::{number}", folder=folder)

    def _borg(self, *arguments: str | Path, folder: Path | None = None) -> None:
        own = {
            "BORG_BASE_DIR": str(self.scratch / "borg"),
            "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes",
        }
        self._run("borg", *arguments, folder=folder, **own)
