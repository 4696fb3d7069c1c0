"""How ranks are started, and how many a command starts."""

from __future__ import annotations

import sys

import pytest

from holdfast.errors import UsageError
from holdfast.supervisor.launchers import Launcher, checked_count, launched, ranks_of

TRAIN = ("/usr/bin/python3", "train.py", "--lr", "1")


def test_torchrun_starts_any_command_and_never_again() -> None:
    words = launched(TRAIN, 2, Launcher.TORCH, {})
    torchrun = ("/usr/bin/python3", "-m", "torch.distributed.run", "--standalone")
    assert words == (*torchrun, "--nproc-per-node", "2", "--max-restarts", "0", "--no-python", *TRAIN)
    assert launched(("./train",), 2, Launcher.TORCH, {})[0] == sys.executable
    given = launched(TRAIN, 2, Launcher.TORCH, {"master-port": "29501"})
    assert "--standalone" not in given
    assert given[given.index("--master-port") + 1] == "29501"


def test_paddles_launcher_takes_the_script() -> None:
    words = launched(TRAIN, 2, Launcher.PADDLE, {})
    assert words[:3] == ("/usr/bin/python3", "-m", "paddle.distributed.launch")
    assert words[3:] == ("--nproc_per_node", "2", "--max_restart", "0", *TRAIN[1:])


@pytest.mark.parametrize(
    ("words", "ranks"),
    [
        (TRAIN, 1),
        (("torchrun", "--standalone", "--nproc-per-node", "4", "train.py"), 4),
        (("/opt/bin/torchrun", "--nproc_per_node=3", "train.py"), 3),
        (("python", "-m", "paddle.distributed.launch", "--nproc_per_node", "2", "train.py"), 2),
        (("torchrun", "--nproc-per-node", "gpu", "train.py"), 1),
        (("python", "train.py", "--nproc-per-node", "4"), 1),
        (launched(TRAIN, 5, Launcher.TORCH, {}), 5),
    ],
)
def test_ranks_of_a_command(words: tuple[str, ...], ranks: int) -> None:
    assert ranks_of(words) == ranks


@pytest.mark.parametrize("text", ["0", "-1", "many", "", "1.5", "100000"])
def test_what_is_no_number_of_ranks(text: str) -> None:
    with pytest.raises(UsageError, match="no number of processes"):
        checked_count(text)
