"""The command line as a process: its start, its ends, its terminal."""

from __future__ import annotations

import json
import os
import pty
import resource
import signal
import subprocess
import sys
import time

import pytest

MAIN = "from holdfast.cli.app import main; main()"


@pytest.fixture
def command(place, monkeypatch):
    monkeypatch.setenv("HOLDFAST_REPOSITORY", str(place.path))
    return lambda *arguments: [sys.executable, "-c", MAIN, *arguments]


def call(arguments, **options):
    return subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=False, **options)


def test_it_starts_at_once_and_imports_no_framework(command, place, digits):
    def processor_seconds(arguments):
        times = []
        for _ in range(3):
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            assert call(arguments).returncode == 0
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        return min(times)  # of a machine that other tests use too

    assert call(command()).stdout == call(command("--help")).stdout != ""
    assert processor_seconds(command()) < 0.4
    assert processor_seconds(command("ls", "digits")) < 1.0
    code = (
        "import sys; from holdfast.cli.app import run\n"
        "for line in ('ls', 'show digits', 'du', 'verify', 'doctor', 'diff digits@100 digits@200'):\n"
        "    assert run(line.split()) == 0, line\n"
        "print([m for m in ('torch', 'paddle', 'jax') if m in sys.modules])"
    )
    result = call([sys.executable, "-c", code])
    assert result.stdout.splitlines()[-1] == "[]", result.stderr


def test_version(command):
    assert call(command("--version")).stdout.startswith("holdfast 0.")
    assert call([sys.executable, "-m", "holdfast", "--version"]).stdout.startswith("holdfast 0.")


def test_errors_are_a_sentence_and_debug_shows_more(command):
    result = call(command("show", "digits"))
    assert result.returncode == 3
    assert result.stdout == ""
    assert result.stderr.count("\n") == 2
    assert "Traceback" not in result.stderr
    assert "Traceback" in call(command("show", "digits", "--debug")).stderr
    told = json.loads(call(command("show", "digits", "--json")).stderr)["error"]
    assert (told["kind"], told["exit_code"]) == ("not-found", 3)
    assert call(command("frobnicate")).returncode == 2
    assert call(command("ls", "--limit", "x")).returncode == 2


@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
def test_any_locale_will_do(command, place, locale):
    attempt = place.attempt("digits")
    place.save("digits", attempt, 1, reason="naïve 漢字 →")
    environment = {**os.environ, "LC_ALL": locale, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    for arguments in (("ls", "digits"), ("show", "digits"), ("show", "digits", "--json")):
        assert call(command(*arguments), env=environment).returncode == 0


@pytest.mark.parametrize("count", [3, 2000])
def test_a_reader_that_leaves_is_met_with_silence(command, build_many, count):
    build_many("many", count)
    line = " ".join(f"'{part}'" for part in command("ls", "many"))
    result = call(["bash", "-c", f"{line} | head -n 1; sleep 0.1"])
    assert result.stderr == ""
    assert result.stdout.count("\n") == 1


def test_ctrl_c_ends_with_130(command, place, digits):
    holder = (
        "import sys, time\n"
        "from holdfast.node import lease\n"
        "from holdfast.storage.local import LocalStorage\n"
        "lease.take(LocalStorage(sys.argv[1]), 'runs/digits/leases/000002-00000000.json')\n"
        "print('live', flush=True)\n"
        "time.sleep(60)\n"
    )
    arguments = [sys.executable, "-c", holder, str(place.path)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as trainer:
        assert trainer.stdout is not None
        trainer.stdout.readline()
        with subprocess.Popen(command("save", "digits", "--wait", "50"), stderr=subprocess.PIPE) as asking:
            requests = place.path / "runs/digits/requests"
            deadline = time.monotonic() + 20
            while not (requests.is_dir() and list(requests.iterdir())) and time.monotonic() < deadline:
                time.sleep(0.02)
            asking.send_signal(signal.SIGINT)
            assert asking.stderr is not None
            told = asking.stderr.read()
            assert asking.wait(20) == 130
        trainer.kill()
    assert b"Traceback" not in told


def in_terminal(arguments, answer=b"", environment=None):
    """Run with a terminal on all three streams; return exit code and what it showed."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execvpe(arguments[0], arguments, {**os.environ, "TERM": "xterm", **(environment or {})})
    os.write(terminal, answer)
    shown = b""
    while True:
        try:
            piece = os.read(terminal, 65536)
        except OSError:  # the other end is closed
            break
        if not piece:
            break
        shown += piece
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), shown.decode()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # fork in a process with threads: it execs at once
def test_a_terminal_is_asked_and_coloured(command, place, digits):
    code, shown = in_terminal(command("rm", "digits@200"), b"n\n")
    assert code == 0
    assert "Nothing was removed" in shown
    code, shown = in_terminal(command("rm", "digits@200"), b"y\n")
    assert "Removed digits@200" in shown
    assert len(place.run("digits").checkpoints()) == 3
    assert "\x1b[1m" in in_terminal(command("ls"))[1]
    assert "\x1b[" not in in_terminal(command("ls"), environment={"NO_COLOR": "1"})[1]


def test_completion_knows_verbs_and_runs(command, place, digits):
    environment = {**os.environ, "_HOLDFAST_COMPLETE": "complete_bash"}
    verbs = call(command(), env={**environment, "COMP_WORDS": "holdfast re", "COMP_CWORD": "1"})
    assert set(verbs.stdout.split()) >= {"repair", "restart"}
    runs = call(command(), env={**environment, "COMP_WORDS": "holdfast show di", "COMP_CWORD": "2"})
    assert runs.stdout.split() == ["digits"]


def test_doctor_says_what_is_wrong(command, place, digits, tmp_path):
    told = json.loads(call(command("doctor", "--json")).stdout)
    assert told["problems"] == 0
    subjects = {c["subject"]: c["finding"] for c in told["checks"]}
    assert "torch" in subjects["packages"]
    assert "4 checkpoints" in subjects["repository"]
    (place.path / "holdfast.json").unlink()
    result = call(command("doctor"))
    assert result.returncode == 1
    assert "lost its holdfast.json" in result.stdout
    assert call(command("doctor", str(tmp_path / "new" / "place"))).returncode == 0
    assert call(command("doctor", "ftp://bucket")).returncode == 1


def test_init_creates_once(command, tmp_path):
    place = tmp_path / "a" / "b"
    made = json.loads(call(command("init", str(place), "--json")).stdout)
    assert made["created"]
    again = json.loads(call(command("init", "-R", str(place), "--json")).stdout)
    assert (again["created"], again["id"]) == (False, made["id"])
    assert call(command("init", str(tmp_path / "c"), "--chunk-size", "1")).returncode == 2
