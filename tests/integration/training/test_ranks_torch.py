"""Two ranks that train with DDP: killed wherever, they go on together, bit for bit."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.integration.training.launching import ended
from tests.integration.training.ranked import EPOCHS, STEPS, Made, Ranks, made, run_of, train, trained
from torch.nn.parallel import DistributedDataParallel

import holdfast
from holdfast.domain.ranks import of_rank
from holdfast.storage.local import LocalStorage

END = STEPS, EPOCHS


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """What an undisturbed training of two ranks makes at every step."""
    place = tmp_path_factory.mktemp("whole")
    ranks = trained(place / "r", save="every 1 step")
    assert ranks.codes == [0, 0], ranks.said
    assert ranks.said[0].splitlines() == [
        f"holdfast: run main starts; checkpoints go to {place / 'r'}",
        f"holdfast: run main ends at step {STEPS}: finished",
    ]
    assert ranks.said[1] == ""  # rank 0 speaks for all
    return made(place / "r")


def assert_goes_on(repository: Path, whole: Made, **options: Any) -> Ranks:
    """Launch again, to the end: every checkpoint is that of a training that was never disturbed."""
    ranks = trained(repository, **options)
    assert ranks.codes == [0, 0], ranks.said
    again = made(repository)
    assert END in again
    assert again == {at: whole[at] for at in again}
    assert not list((repository / "runs/main/parts").glob("*"))
    return ranks


def test_what_is_every_ranks_is_saved_and_held_once(whole: Made, tmp_path: Path) -> None:
    trained(tmp_path / "r", lambda ckpt, rank, step: ckpt.stop() if step == 2 else None)
    run = run_of(tmp_path / "r")
    manifest = run.manifest(run.checkpoints()[-1])
    own = [name for name in manifest.tensors if name.startswith("rank 1/")]
    assert own
    assert all("running" in name for name in own)  # batch norm's; the rest is replicated
    logs = [str(of_rank(manifest, rank).details.tree) for rank in (0, 1)]
    assert logs[0] != logs[1]
    assert {step for step, epoch in whole} == set(range(2, STEPS + 1))


@pytest.mark.parametrize(("rank", "step"), [(0, 5), (1, 8)])
def test_a_rank_killed_while_it_trains(whole: Any, tmp_path: Path, rank: int, step: int) -> None:
    def kill(ckpt: holdfast.Checkpointer, here: int, at: int) -> None:
        if (here, at) == (rank, step):
            os.kill(os.getpid(), signal.SIGKILL)

    assert trained(tmp_path / "r", kill).codes[rank] == -signal.SIGKILL
    ranks = assert_goes_on(tmp_path / "r", whole)
    assert f"resumes after step {(step - 1) // 2 * 2}" in ranks.said[0]


@pytest.mark.parametrize(("rank", "change"), [(0, 9), (0, 11), (0, 14), (1, 0), (1, 5)])
def test_a_rank_killed_at_a_change_of_the_storage(
    whole: Any, tmp_path: Path, rank: int, change: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    kill_at_change(monkeypatch, rank, change)
    assert trained(tmp_path / "r").codes[rank] == -signal.SIGKILL
    monkeypatch.undo()
    assert_goes_on(tmp_path / "r", whole)


def kill_at_change(monkeypatch: pytest.MonkeyPatch, rank: int, change: int) -> None:
    """Let one rank die before, or half way through, its n-th write."""
    left = [change]
    for name in ("put", "put_if_absent"):
        real = getattr(LocalStorage, name)

        def mortal(self: LocalStorage, *arguments: Any, real: Any = real) -> Any:
            if os.environ.get("RANK") == str(rank):
                left[0] -= 1
                if left[0] < 0:
                    os.kill(os.getpid(), signal.SIGKILL)
            return real(self, *arguments)

        monkeypatch.setattr(LocalStorage, name, mortal)


def test_both_killed_at_once(whole: Any, tmp_path: Path) -> None:
    ranks = Ranks(lambda rank, tell: train(tmp_path / "r", rank, lambda ckpt, r, step: tell(str(step))))
    while ranks.processes[0].heard() != "7":
        pass
    for process in ranks.processes:
        process.signal(signal.SIGKILL)
    assert ranks.wait() == [-signal.SIGKILL] * 2
    assert_goes_on(tmp_path / "r", whole)


@pytest.mark.parametrize("told", [(1,), (0, 1)])
def test_sigterm_to_any_rank_saves_and_ends_all(whole: Any, tmp_path: Path, told: tuple[int, ...]) -> None:
    def each(ckpt: holdfast.Checkpointer, rank: int, step: int) -> None:
        if step == 2 and rank in told:
            os.kill(os.getpid(), signal.SIGTERM)

    assert trained(tmp_path / "r", each, save=None).codes == [143, 143]
    run = run_of(tmp_path / "r")
    saved = run.checkpoints()[0]
    assert saved.step in (3, 4)  # one safe point ahead, or two if another rank was told
    assert run.summary(saved).reason == "SIGTERM"
    assert_goes_on(tmp_path / "r", whole)


def test_what_one_rank_cannot_read_no_rank_goes_on_from(whole: Any, tmp_path: Path) -> None:
    trained(tmp_path / "r", lambda ckpt, rank, step: ckpt.stop() if step == 6 else None)
    run = run_of(tmp_path / "r")
    newest = run.checkpoints()[-1]
    manifest = run.manifest(newest)
    own = next(entry for name, entry in manifest.tensors.items() if name.startswith("rank 1/"))
    run.repository.index.load_all()
    digest = own.shards[0].chunks[:32]
    copy = run.repository.index.copies(digest)[0]
    pack = tmp_path / "r" / f"packs/{copy.pack[:2]}/{copy.pack}.pack"
    data = bytearray(pack.read_bytes())
    data[copy.entry.offset] ^= 1
    pack.write_bytes(data)
    ranks = trained(tmp_path / "r", lambda ckpt, rank, step: None)
    assert ranks.codes == [0, 0], ranks.said
    assert "Rank 1" in ranks.said[0]
    assert str(newest) in run.rejected()
    assert made(tmp_path / "r")[END] == whole[END]


def test_a_loss_that_is_not_finite_at_one_rank_is_saved_by_none(tmp_path: Path) -> None:
    def each(ckpt: holdfast.Checkpointer, rank: int, step: int) -> None:
        if rank == 1 and step < 6:
            ckpt.report(loss=float("nan"))

    ranks = trained(tmp_path / "r", each)
    assert ranks.codes == [0, 0], ranks.said
    assert run_of(tmp_path / "r").checkpoints()[0].step == 6
    assert "Step 2 was not saved" in ranks.said[1]
    assert "Rank 1: It has nothing to save" in ranks.said[0]


def test_another_number_of_ranks_is_refused(tmp_path: Path) -> None:
    trained(tmp_path / "r", lambda ckpt, rank, step: ckpt.stop() if step == 2 else None)

    def alone(tell: Any) -> None:
        with holdfast.Checkpointer(tmp_path / "r", {"model": torch.nn.Linear(1, 1)}, config={"a": 1}):
            pass

    code, said = ended(alone)
    assert code == 1
    assert "was saved by 2 ranks, and this training has 1" in said
    assert run_of(tmp_path / "r").rejected() == set()

    def one(tell: Any) -> None:
        with holdfast.Checkpointer(tmp_path / "one", {"a": 1}) as ckpt:
            list(ckpt.steps(2))

    assert ended(one)[0] == 0
    ranks = trained(tmp_path / "one")
    assert ranks.codes == [1, 1]
    assert all("was saved by 1 rank, and this training has 2" in said for said in ranks.said)


def test_a_rank_that_fails_before_it_trains_fails_all(tmp_path: Path) -> None:
    def act(rank: int, tell: Any) -> None:
        state = {"a": object() if rank else 1}
        with holdfast.Checkpointer(tmp_path / "r", state):
            pass

    ranks = Ranks(act)
    assert ranks.wait() == [1, 1]
    assert "state" in ranks.said[1]
    assert "Rank 1 has " in ranks.said[0]


def test_a_save_that_only_another_rank_asks_for(whole: Any, tmp_path: Path) -> None:
    def each(ckpt: holdfast.Checkpointer, rank: int, step: int) -> None:
        if rank == 1 and step == 4:
            ckpt.save()

    assert trained(tmp_path / "r", each, save=None).codes == [0, 0]
    saved = made(tmp_path / "r")
    assert len(saved) == 2
    assert saved == {at: whole[at] for at in saved}


def test_what_is_found_at_one_rank_stops_all(whole: Made, tmp_path: Path) -> None:
    def each(ckpt: holdfast.Checkpointer, rank: int, step: int) -> None:
        if rank == 1 and step == 4:
            ckpt._session._health.stop("not well")

    ranks = trained(tmp_path / "r", each, save=None)
    assert ranks.codes == [0, 0], ranks.said
    saved = made(tmp_path / "r")
    assert {step for step, epoch in saved} in ({5}, {6})
    assert "another rank ends the training" in ranks.said[0]


def test_a_rank_that_is_slow_is_found_by_the_one_that_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("holdfast.training.health.GLANCE_SECONDS", 0.0)

    def act(rank: int, tell: Any) -> None:
        model = DistributedDataParallel(torch.nn.Linear(8, 8))
        model._set_ddp_runtime_logging_sample_rate(1)  # else one step in ten, then in a hundred
        with holdfast.Checkpointer(tmp_path / "r", {"model": model}, save=None) as ckpt:
            for step in ckpt.steps(24):
                time.sleep(0.6 if rank == 1 and step >= 18 else 0.0)
                model(torch.ones(4, 8)).square().mean().backward()
                ckpt.step()

    ranks = Ranks(act)
    assert ranks.wait() == [0, 0], ranks.said
    assert "another rank is slow, or the network" in ranks.said[0]
    assert "another rank is slow" not in ranks.said[1]
