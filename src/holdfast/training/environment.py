"""What exactness depends on besides the state: versions, devices, flags, code."""

from __future__ import annotations

import subprocess

from holdfast.frameworks import registry


def environment() -> dict[str, dict[str, str]]:
    """The environment of this process, as checkpoints record it."""
    result: dict[str, dict[str, str]] = {"versions": {}, "devices": {}, "flags": {}}
    for framework in registry.active():
        seen = framework.environment()
        result["versions"] |= seen.versions
        result["devices"] |= seen.devices
        result["flags"] |= seen.flags
    commit = _git_commit()
    if commit is not None:
        result["code"] = {"git commit": commit}
    return result


def _git_commit() -> str | None:
    try:
        done = subprocess.run(  # of the working directory, where scripts are started
            ["git", "rev-parse", "HEAD"],  # wherever the user's git is
            capture_output=True,
            text=True,
            timeout=2,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
