"""Local storage under injected system-call errors, limits, kills, and a folder that goes away."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest

from holdfast.errors import NotFoundError, StorageError
from holdfast.storage.local import LocalStorage
from holdfast.storage.probe import filesystem_type, probe

NAMED = {"all": "", "named": "unnamed_files=False", "renaming": "unnamed_files=False, hard_links=False"}

PROGRAM = """
import sys
import msgspec
from holdfast.errors import StorageError
from holdfast.storage.local import LocalStorage
from holdfast.storage.probe import probe
root = sys.argv[1]
features = msgspec.structs.replace(probe(root), {without})
storage = LocalStorage(root, features=features)
{body}
"""


def run(
    root: Path, body: str, *, inject: str | None = None, without: str = ""
) -> subprocess.CompletedProcess[str]:
    strace = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"inject={inject}"] if inject else []
    program = PROGRAM.format(body=body, without=without)
    return subprocess.run(
        [*strace, sys.executable, "-c", program, str(root)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


REPORTING = """
try:
    storage.put("packs/new", [b"x" * 5000])
    print("returned")
except StorageError as error:
    print(error.errno, error)
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    storage = LocalStorage(tmp_path / "repository", create=True)
    storage.put("packs/old", [b"old"])
    return tmp_path / "repository"


def left_over(root: Path) -> list[Path]:
    return list(root.rglob(".tmp-*"))


# fsync 1 is the probe's; 2 and 3 make packs/ and staging/ certain; 4 is the file's; 5 its folder's.
FILE_FSYNC, FOLDER_FSYNC = 4, 5


@pytest.mark.parametrize("without", NAMED)
def test_a_failed_fsync_discards_the_file_and_is_not_retried(root: Path, without: str) -> None:
    done = run(root, REPORTING, inject=f"fsync:error=EIO:when={FILE_FSYNC}", without=NAMED[without])
    assert done.stdout.startswith(f"{errno.EIO} Writing packs/new"), done
    assert "I/O error" in done.stdout
    assert list(LocalStorage(root).list("")) == ["packs/old"]
    assert left_over(root) == []


@pytest.mark.parametrize("without", NAMED)
def test_a_failed_folder_fsync_is_an_unknown_outcome_left_alone(root: Path, without: str) -> None:
    done = run(root, REPORTING, inject=f"fsync:error=EIO:when={FOLDER_FSYNC}", without=NAMED[without])
    assert "is durable is unknown" in done.stdout, done
    assert LocalStorage(root).get("packs/new") == b"x" * 5000
    assert left_over(root) == []


@pytest.mark.parametrize("failing", ["pwrite64", "linkat", "renameat"])
@pytest.mark.parametrize("code", ["ENOSPC", "EIO", "EDQUOT"])
def test_a_failing_call_names_itself_and_harms_nothing(root: Path, failing: str, code: str) -> None:
    without = NAMED["named"] if failing == "renameat" else ""
    # The probe comes first: it writes once and links twice, and renames by another call.
    when = {"pwrite64": 2, "linkat": 3, "renameat": 1}[failing]
    call = "/^rename(at)?$" if failing == "renameat" else failing
    done = run(root, REPORTING, inject=f"{call}:error={code}:when={when}", without=without)
    assert done.stdout.startswith(str(getattr(errno, code))), done
    storage = LocalStorage(root)
    assert list(storage.list("")) == ["packs/old"]
    assert storage.get("packs/old") == b"old"
    assert left_over(root) == []
    storage.put("packs/new", [b"works"])


def test_a_write_cut_short_is_continued(root: Path) -> None:
    done = run(root, REPORTING, inject="pwrite64:retval=4096:when=2")
    assert done.stdout.strip() == "returned", done  # the injected call wrote nothing, the rest did
    assert LocalStorage(root).stat("packs/new").size_bytes == 5000  # type: ignore[union-attr]


def test_direct_writes_refused_late_go_through_the_page_cache(root: Path) -> None:
    # whole transfer buffers only, so that one thread writes them all: calls are counted per thread
    body = 'storage.put("packs/new", [bytes(range(256)) * 32_768])\nprint("returned")'
    done = run(root, body, inject="pwrite64:error=EINVAL:when=2")
    assert done.stdout.strip() == "returned", done
    assert LocalStorage(root).get("packs/new") == bytes(range(256)) * 32_768


def test_what_a_killed_probe_leaves_is_swept(root: Path) -> None:
    body = 'LocalStorage(root).put("packs/new", [b"x"])'
    done = run(root, body, inject="linkat:signal=SIGKILL:when=4")  # the second probe's second link
    assert done.returncode == -signal.SIGKILL
    assert left_over(root) != []
    storage = LocalStorage(root)
    assert list(storage.list("")) == ["packs/old"]
    assert storage.sweep_temporaries(older_than_seconds=-60) > 0
    assert left_over(root) == []


@pytest.mark.parametrize("without", NAMED)
def test_a_kill_at_any_link_or_sync_tears_nothing(root: Path, without: str) -> None:
    body = 'storage.put("packs/old", [b"new" * 3000])'
    for call in ("fsync", "/^(link|rename|unlink)at", "pwrite64"):
        ended: set[int] = set()
        for when in (1, 2, 3, 4, 5, 6, 9):
            done = run(root, body, inject=f"{call}:signal=SIGKILL:when={when}", without=NAMED[without])
            ended.add(done.returncode)
            storage = LocalStorage(root)
            assert list(storage.list("")) == ["packs/old"]
            assert storage.get("packs/old") in (b"old", b"new" * 3000)
            storage.sweep_temporaries(older_than_seconds=-60)
            assert list((root / "staging").glob(".tmp-*")) == []
        # It was killed at some, and the sweep went past the last.
        assert ended == {-signal.SIGKILL, 0}, call


def test_the_file_size_limit_is_said(root: Path) -> None:
    body = "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))\n" + REPORTING
    done = run(root, body)
    assert done.stdout.startswith(str(errno.EFBIG)), done
    assert "file-size limit" in done.stdout
    assert list(LocalStorage(root).list("")) == ["packs/old"]


def test_a_vanished_folder_is_not_an_empty_one(root: Path) -> None:
    storage = LocalStorage(root)
    storage.put("packs/more", [b"x"])
    shutil.rmtree(root)
    for use in (
        lambda: storage.put("a", [b"x"]),
        lambda: storage.put_if_absent("packs/more", b"x"),
        lambda: storage.get("packs/more"),
        lambda: storage.stat("packs/more"),
        lambda: storage.delete("packs/more"),
        lambda: list(storage.list("")),
        storage.free_bytes,
        lambda: storage.sweep_temporaries(older_than_seconds=0),
    ):
        with pytest.raises(StorageError, match=r"the folder has vanished\. Mount or restore it") as caught:
            use()
        assert not isinstance(caught.value, NotFoundError)
        assert caught.value.errno == errno.ENOENT
    assert not root.exists()
    with pytest.raises(StorageError):
        LocalStorage(root).put("a", [b"x"])


def test_folders_tidied_away_come_back(root: Path) -> None:
    storage = LocalStorage(root)
    storage.put("packs/3f/a", [b"x"])
    storage.delete("packs/3f/a")
    (root / "packs" / "3f").rmdir()
    storage.put("packs/3f/b", [b"y"])
    assert storage.get("packs/3f/b") == b"y"


def test_symbolic_links_are_not_followed(root: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    (root / "packs" / "link").symlink_to(outside / "secret")
    (root / "runs").symlink_to(outside)
    storage = LocalStorage(root)
    for use in (
        lambda: storage.get("packs/link"),
        lambda: storage.get("runs/secret"),
        lambda: storage.put("runs/new", [b"x"]),
        lambda: storage.delete("runs/secret"),
    ):
        with pytest.raises(StorageError, match="link"):
            use()
    assert list(storage.list("")) == ["packs/old"]
    storage.put("packs/link", [b"mine"])
    assert (outside / "secret").read_bytes() == b"secret"
    assert [path.name for path in outside.iterdir()] == ["secret"]


def test_a_planted_fifo_does_not_hang(root: Path) -> None:
    os.mkfifo(root / "packs" / "fifo")
    storage = LocalStorage(root)
    with pytest.raises(StorageError):
        storage.get("packs/fifo")
    assert storage.stat("packs/fifo") is None
    assert list(storage.list("")) == ["packs/old"]


def test_only_the_owner_may_read(root: Path) -> None:
    storage = LocalStorage(root)
    storage.put("runs/x/y", [b"x"])
    storage.put_if_absent("runs/x/z", b"x")
    for path in root.rglob("*"):
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600), path
    assert root.stat().st_mode & 0o777 == 0o700


HOLDING = """
import os, time
with storage.lock("run", shared=False, wait_seconds=0) as held:
    if {fork} and os.fork() == 0:
        print("held", flush=True)
        time.sleep(60)
        os._exit(0)
    if not {fork}:
        print("held", held, flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("fork", [False, True])
def test_a_killed_holder_lets_go_even_with_an_orphan_behind(root: Path, fork: bool) -> None:
    program = PROGRAM.format(body=HOLDING.format(fork=fork), without="")
    with subprocess.Popen(
        [sys.executable, "-c", program, str(root)], stdout=subprocess.PIPE, start_new_session=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline().startswith(b"held")
        storage = LocalStorage(root)
        try:
            with storage.lock("run", shared=False, wait_seconds=0.05) as held:
                assert held is False
            holder.kill()
            holder.wait()
            started = time.monotonic()
            with storage.lock("run", shared=False, wait_seconds=5) as held:
                assert held is True
            assert time.monotonic() - started < 2
        finally:
            if fork:
                os.killpg(holder.pid, signal.SIGKILL)


def test_descriptors_do_not_leak(root: Path) -> None:
    storage = LocalStorage(root)
    storage.put("packs/big", [b"x" * (5 << 20)])
    before = len(list(Path("/proc/self/fd").iterdir()))
    buffer = np.zeros(2 << 20, np.uint8)
    for number in range(20):
        storage.put(f"a/{number}", [b"x"])
        storage.get(f"a/{number}")
        storage.read_into("packs/big", 5, buffer)
        list(storage.list(""))
        storage.stat("a/none")
        with storage.lock("x", shared=True, wait_seconds=0):
            pass
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_living_writers_temporary_is_not_swept(root: Path) -> None:
    storage = LocalStorage(root, features=msgspec.structs.replace(probe(root), unnamed_files=False))
    (root / "staging" / ".tmp-dead").write_bytes(b"left by a killed writer")
    swept: list[int] = []

    def parts() -> Iterator[bytes]:
        yield b"first"
        swept.append(storage.sweep_temporaries(older_than_seconds=-60))
        yield b"second"

    storage.put("packs/new", parts())
    assert swept == [1]
    assert storage.get("packs/new") == b"firstsecond"
    (root / "staging" / ".tmp-young").write_bytes(b"")
    assert storage.sweep_temporaries(older_than_seconds=3600) == 0
    assert storage.sweep_temporaries(older_than_seconds=-60) == 1


def test_five_thousand_objects_list_fast(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "x" / "checkpoints"
    folder.mkdir(parents=True)
    for number in range(5000):
        (folder / f"{number:012}.manifest").touch()
    storage = LocalStorage(tmp_path)
    started = time.monotonic()
    assert len(list(storage.list("runs/"))) == 5000
    assert time.monotonic() - started < 0.5


def test_memory_file_systems_are_probed_too() -> None:
    assert filesystem_type(Path("/proc/self")) == "proc"
    assert filesystem_type(Path("/no/such/thing")) == filesystem_type(Path("/"))
