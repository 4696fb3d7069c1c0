"""Every example of the README and the guides runs and prints what the page says."""

import importlib.util
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
RUNNER = Path(__file__).parent / "run_page.py"
ELSEWHERE = {"export-import.md"}  # needs trained models and foreign files: see tests/integration
PAGES = [
    ROOT / "README.md",
    *(p for p in sorted((ROOT / "docs/guides").glob("*.md")) if p.name not in ELSEWHERE),
]
LINKING = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
ENVIRONMENT = {**os.environ, "HOLDFAST_BACKGROUND": "", "HOLDFAST_MEMORY_SECONDS": "60", "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "default"}


def _load():
    spec = importlib.util.spec_from_file_location("run_page", RUNNER)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


run_page = _load()


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_page(page, tmp_path):
    done = subprocess.run(
        [sys.executable, RUNNER, page], cwd=tmp_path, env=ENVIRONMENT, capture_output=True,
        text=True, check=False, timeout=110,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]


def test_every_page_has_examples():
    for page in PAGES:
        assert list(run_page.blocks(page.read_text())), page


def test_a_kill_prints_what_the_readme_says(tmp_path):
    readme = (ROOT / "README.md").read_text()
    script = next(c for language, _, c in run_page.blocks(readme) if language == "python")
    (tmp_path / "train.py").write_text(script)
    command = [sys.executable, "train.py"]
    with (tmp_path / "first").open("w") as log:
        first = subprocess.Popen(command, cwd=tmp_path, env=ENVIRONMENT, stderr=log)
        while not list(tmp_path.glob("checkpoints/runs/*/checkpoints/*.manifest")):
            assert first.poll() is None, "it ended before its first save"
            time.sleep(0.005)
        first.send_signal(signal.SIGKILL)
        assert first.wait() == -signal.SIGKILL
    second = subprocess.run(
        command, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, check=True
    )
    shown = re.search(
        r"```text\n\$ python train.py\n(.*?)Killed\n\$ python train.py\n(.*?)```", readme, re.DOTALL
    )
    assert shown is not None
    printed = run_page.plain((tmp_path / "first").read_text() + second.stderr)
    expected = run_page.plain(shown[1] + shown[2])
    assert _places(printed) == _places(expected)


def _places(text):
    return re.sub(r"/\S*checkpoints", "checkpoints", re.sub(r"\(epoch 0.*?\)", "(epoch 0)", text))


@pytest.mark.parametrize("page", LINKING, ids=lambda p: p.stem)
def test_links_lead_somewhere(page):
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
        if not re.match(r"[a-z]+:", target):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
