"""Power loss on real ext4 and XFS, at random moments of saving and pruning: what was reported stays."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from checkpoints import begin, make_repository, make_state, orphans, prune, read, save
from filesystems import FLUSH_ALL, FLUSH_LOG, FLUSH_NOTHING, Image, mounted
from holdfast.domain.names import CheckpointId
from holdfast.errors import DamagedError, HoldfastError, NotFoundError
from holdfast.repository.run import Run
from holdfast.storage.local import LocalStorage

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")]

SIZES_BYTES = {"ext4": 48 << 20, "xfs": 64 << 20}
TURNS = 6


@pytest.fixture(params=["ext4", "xfs"])
def image(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Image]:
    with mounted(request.param, SIZES_BYTES[request.param], tmp_path) as made:
        yield made


def opened(image: Image) -> Run:
    return make_repository(LocalStorage(image.path / "repository", create=True)).run("digits")


class Saving:
    """Saves and prunes until the disk fails, noting what it was told is durable."""

    def __init__(self, run: Run, first_step: int) -> None:
        self.run = run
        self.step = first_step
        self.durable: list[CheckpointId] = []
        self.removed: set[CheckpointId] = set()
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._loop)

    def start(self) -> None:
        self._thread.start()

    def join(self) -> None:
        self._thread.join(timeout=60)
        assert not self._thread.is_alive()

    def _loop(self) -> None:
        try:
            attempt = begin(self.run)
            for sequence in range(1, 10_000):
                made = save(self.run, attempt, sequence, self.step + sequence).id
                self.durable.append(made)
                before = set(self.run.checkpoints())
                self.removed |= before - set(self.run.lineage()[:3])
                prune(self.run, 3, attempt)
        except HoldfastError as error:
            self.error = error


@pytest.mark.parametrize("how", [FLUSH_NOTHING, FLUSH_LOG, FLUSH_ALL])
def test_what_was_reported_durable_survives_power_loss_at_any_moment(image: Image, how: int) -> None:
    moments = random.Random(how)
    told: set[CheckpointId] = set()
    step = 0
    for turn in range(TURNS):
        run = opened(image)
        saving = Saving(run, step)
        saving.start()
        while len(saving.durable) < 1 + turn % 3 and saving.error is None:
            time.sleep(0.001)
        time.sleep(moments.uniform(0, 0.03))
        image.shut_down(how)
        saving.join()
        assert saving.error is not None, "it went on without a disk"
        image.unmount()
        image.mount()
        told = (told | set(saving.durable)) - saving.removed
        step += 100
        check(opened(image), told)
    run = opened(image)
    attempt = begin(run)
    last = save(run, attempt, 1, step).id
    prune(run, 1, attempt, sweep=True)
    assert run.all_checkpoints() == [last]
    assert orphans(run.repository) == set()


def check(run: Run, told: set[CheckpointId]) -> None:
    present = set(run.all_checkpoints())
    assert told <= present, "a checkpoint that was reported durable is gone"
    for checkpoint in present:
        assert read(run, checkpoint) == make_state(checkpoint.step)
    latest = run.latest()
    assert latest is not None
    assert not told or latest.order >= max(c.order for c in told)


def test_a_save_on_a_dead_disk_is_an_error_and_the_rest_is_whole_afterwards(image: Image) -> None:
    run = opened(image)
    attempt = begin(run)
    first = save(run, attempt, 1, 1).id
    image.shut_down(FLUSH_NOTHING)
    for sequence in (2, 3):
        with pytest.raises(HoldfastError) as caught:
            save(run, attempt, sequence, sequence)
        assert not isinstance(caught.value, DamagedError | NotFoundError)
        with pytest.raises(HoldfastError) as caught:
            prune(run, 0, attempt)
        assert not isinstance(caught.value, DamagedError)
    image.unmount()
    image.mount()
    run = opened(image)
    assert run.all_checkpoints() == [first]
    assert read(run, first) == make_state(1)
