"""Every command of the tutorial, run in order in one shell, ends as the page says."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MARK = "ends with:"
WAIT = "until ls checkpoints/runs/{}/checkpoints/*.manifest >/dev/null 2>&1; do sleep 0.1; done"


def commands() -> list[tuple[str, int]]:
    text = (ROOT / "docs/tutorial.md").read_text()
    blocks = re.findall(r"^```console\n(.*?)^```", text, re.M | re.S)
    lines = [line[2:] for block in blocks for line in block.splitlines() if line.startswith("$ ")]
    endings = [re.search(r"# ends with (\d+)$", line) for line in lines]
    return [(line, int(end[1]) if end else 0) for line, end in zip(lines, endings, strict=True)]


def at_once(lines: list[str]) -> list[str]:
    """Instead of waiting for some seconds, wait for the first checkpoint of the run just started."""
    runs = [found[1] if (found := re.search(r"--run (\w+)", line)) else "digits" for line in lines]
    return [line.replace("sleep 7", WAIT.format(runs[i - 1])) for i, line in enumerate(lines)]


@pytest.mark.timeout(300)
def test_every_command_of_the_tutorial_ends_as_it_says(tmp_path):
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    wanted = commands()
    assert len(wanted) > 15
    script = "\n".join(f"{line}\necho '{MARK}' $?" for line in at_once([line for line, _ in wanted]))
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    ran = subprocess.run(
        ["bash"],
        input=script,
        cwd=tmp_path,
        env=os.environ | {"HOLDFAST_BACKGROUND": "", "PATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    codes = [int(code) for code in re.findall(rf"{MARK} (\d+)$", ran.stdout, re.M)]
    assert codes == [code for _, code in wanted], ran.stdout
    for said in (
        "run digits resumes after step",
        "run digits ends at step 282: finished",
        "is durable and tagged before-lunch",
        "\n143\n",
        "cannot be used (quarantined); going back to an older one",
        "optimizer.lr: 0.002 → 0.01",
        "run digits ends at step 47: finished",
    ):
        assert said in ran.stdout, ran.stdout
