"""What `holdfast run` cannot do it says in a sentence, before anything is started."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from holdfast.cli import app


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ([], 2, "No command is given. Write: holdfast run -- python train.py"),
        (["--"], 2, "No command is given."),
        (["--", "no-such-program"], 2, "The command 'no-such-program' cannot be started"),
        (["--", "/etc"], 2, "The command '/etc' cannot be started"),
        (["--on", "fire: stop", "--", "true"], 2, "The rule 'fire: stop' names none of: crash"),
        (["--on", "hang: soon", "--", "true"], 2, "cannot be understood"),
        (["--max-restarts", "many", "--", "true"], 2, "Invalid value for '--max-restarts'"),
        (["--max-restarts", "-1", "--", "true"], 2, "Invalid value for '--max-restarts'"),
        (["--nproc-per-node", "many", "--", "true"], 2, "'many' is no number of processes"),
        (["--nnodes", "1:4", "--", "true"], 8, "--nnodes 1:4 asks for several machines"),
        (["--notice-url", "ftp://x", "--", "true"], 2, "ftp://x is no address to ask"),
        (["--report", "/no/such/folder/r.json", "--", "true"], 2, "There is no folder /no/such/folder"),
    ],
)
def test_refusals(words: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["run", *words]) == code
    assert said in " ".join(capsys.readouterr().err.split())


def holdfast_run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "holdfast", "run", *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=60)


def test_flags_behind_the_dashes_are_the_commands(tmp_path: Path) -> None:
    code = "import sys; print(sys.argv[1:])"
    done = holdfast_run(tmp_path, "--", sys.executable, "-c", code, "--debug", "--json", "--report", "x")
    assert done.stdout == "['--debug', '--json', '--report', 'x']\n"


def test_a_script_is_given_to_python_as_torchrun_does(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("import sys; sys.exit(len(sys.argv))")
    done = holdfast_run(tmp_path, "train.py", "--lr", "3")
    assert done.returncode == 3


def test_a_command_that_has_nothing_to_do_with_holdfast(tmp_path: Path) -> None:
    assert holdfast_run(tmp_path, "--", "true").returncode == 0
    done = holdfast_run(tmp_path, "--on", "crash: restart 1", "--", "sh", "-c", "kill -SEGV $$")
    assert done.returncode == 139
    assert done.stderr.count("crash before its first step (SIGSEGV)") == 2


def test_a_command_that_is_away_for_a_while_is_tried_again(tmp_path: Path) -> None:
    script = tmp_path / "train.sh"
    script.write_text(
        "#!/bin/sh\n[ -e gone ] && exit 0\ntouch gone; mv train.sh away.sh\n"
        "setsid sh -c 'sleep 0.5; mv away.sh train.sh' & sleep 0.2; kill -9 $$\n"
    )
    script.chmod(0o700)
    done = holdfast_run(tmp_path, "--", "./train.sh")
    assert done.returncode == 0
    assert "The command './train.sh' cannot be started: No such file or directory); starting" in done.stderr
    assert "launches (crash, exception)" in done.stderr


def test_ranks_on_several_machines_are_refused_and_not_tried_again(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(
        "import os, holdfast\nos.environ |= {'WORLD_SIZE': '4', 'RANK': '0', 'LOCAL_WORLD_SIZE': '2'}\n"
        "with holdfast.Checkpointer('r', {'a': 1}): pass\n"
    )
    done = holdfast_run(tmp_path, "--", sys.executable, "train.py")
    assert done.returncode == 1
    assert "configuration" in done.stderr
    assert "4 ranks and 2 of them" in done.stderr


def test_overrides_that_nobody_wrote_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import holdfast

    monkeypatch.setenv("HOLDFAST_OVERRIDES", '{"resum": 3}')
    with pytest.raises(holdfast.UsageError, match="HOLDFAST_OVERRIDES cannot be understood"):
        holdfast.Checkpointer("r", {"a": 1})


def test_the_rules_are_shown_and_nothing_is_started(tmp_path: Path) -> None:
    done = holdfast_run(tmp_path, "--rules", "--on", "hang: restart 7, wait 1.5", "--", "touch", "started")
    assert "restart 7, wait 1.5" in done.stdout
    assert not (tmp_path / "started").exists()
