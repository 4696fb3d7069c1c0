"""What ranks agree on, with every rank in a thread of its own: all do the same thing, or nobody does."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from holdfast.domain.names import AttemptId, CheckpointId
from holdfast.errors import DamagedError, RankError, StorageError
from holdfast.node import board as boards
from holdfast.node.board import find_board, make_board
from holdfast.training.ranks import following, leading, talking
from holdfast.training.ranks.following import Follower
from holdfast.training.ranks.launch import launch_name, place
from holdfast.training.ranks.leading import Leader
from holdfast.training.ranks.words import Agreed, Kind

ATTEMPT = AttemptId(3, "9be1c2d4")
CHECKPOINTS = [CheckpointId(step, ATTEMPT, step, "full", f"{step:064x}") for step in (1, 2, 3)]
SAVE = Agreed("every 1 step")


class Ranks:
    """A leader and its followers, on memory of their own."""

    def __init__(self, world_size: int) -> None:
        self.warned: list[str] = []
        self.board = make_board("ranks", world_size)
        self.leader = Leader(self.board, self.warned.append)
        found = [find_board("ranks", rank, world_size) for rank in range(1, world_size)]
        self.followers = [Follower(board) for board in found if board is not None]
        assert len(self.followers) == world_size - 1

    def together(self, lead: Callable[[Leader], Any], follow: Callable[[Follower], Any]) -> list[Any]:
        """What each comes to, or the error it meets."""
        results: list[Any] = [None] * (1 + len(self.followers))

        def take(place: int, act: Callable[[], Any]) -> None:
            try:
                results[place] = act()
            except Exception as error:
                results[place] = error

        threads = [threading.Thread(target=take, args=(0, lambda: lead(self.leader)))]
        for number, follower in enumerate(self.followers, 1):
            threads.append(threading.Thread(target=take, args=(number, lambda f=follower: follow(f))))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
            assert not thread.is_alive()
        return results

    def begun(self) -> Ranks:
        self.together(
            lambda one: (one.attempt(lambda: ATTEMPT), one.restore(nothing, never, None), one.begin(nothing)),
            lambda one: (one.attempt(never), one.restore(never, never, None), one.begin(never)),
        )
        return self


def nothing() -> None:
    return None


def never(*arguments: Any) -> Any:
    raise AssertionError(arguments)


@pytest.fixture
def ranks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ranks]:
    monkeypatch.setattr(boards, "_folder", lambda: tmp_path)
    made = Ranks(3)
    yield made
    for role in (*made.followers, made.leader):
        role._board.close()


def arrive(role: Leader | Follower, *, wish: Agreed | None = None, ready: bool = True, at_once: bool = False):
    return role.arrive(lambda: wish, lambda: ready, at_once=at_once)


def test_all_have_the_attempt_that_rank_0_opened(ranks: Ranks) -> None:
    assert (
        ranks.together(lambda one: one.attempt(lambda: ATTEMPT), lambda one: one.attempt(never))
        == [ATTEMPT] * 3
    )


def test_what_keeps_rank_0_from_beginning_keeps_all(ranks: Ranks) -> None:
    def lead(one: Leader) -> None:
        one.close(StorageError("The disk is gone."))

    found = ranks.together(lead, lambda one: one.opened(never))[1:]
    assert [(type(error), str(error)) for error in found] == [(StorageError, "Rank 0: The disk is gone.")] * 2


def test_what_one_rank_finds_damaged_no_rank_goes_on_from(ranks: Ranks) -> None:
    left, rejected = list(reversed(CHECKPOINTS)), []

    def restored(checkpoint: CheckpointId) -> Any:
        return type("Restored", (), {"id": checkpoint})()

    def reject(checkpoint: CheckpointId, error: DamagedError) -> None:
        rejected.append((checkpoint.step, error.proven))
        left.remove(checkpoint)

    def one(follower: Follower) -> Any:
        def read(checkpoint: CheckpointId) -> Any:
            if checkpoint.step == 3 and follower is ranks.followers[1]:
                raise DamagedError("Its tensor is damaged.")
            return restored(checkpoint)

        return follower.restore(never, read, None)

    found = ranks.together(lambda lead: lead.restore(lambda: restored(left[0]), never, reject), one)
    assert [each.id.step for each in found] == [2, 2, 2]
    assert rejected == [(3, True)]


def test_what_no_rank_asks_for_costs_nobody_anything(ranks: Ranks) -> None:
    ranks.begun()
    for _ in range(5):
        assert arrive(ranks.leader) is None
        ranks.leader.announce(None)
        for follower in ranks.followers:  # no thread: nobody waits for anybody
            assert arrive(follower) is None
            follower.announce(None)


def test_a_save_that_is_announced_happens_at_the_next_safe_point_of_all(ranks: Ranks) -> None:
    ranks.begun()

    def lead(one: Leader) -> list[Any]:
        done = []
        for turn in range(1, 7):
            done.append(arrive(one))
            one._has_submitted = True
            one.announce(SAVE if turn in (2, 3) else None)
        return done

    def follow(one: Follower) -> list[Any]:
        done = []
        for _ in range(6):
            done.append(arrive(one))
            one._has_submitted = True
            one.announce(None)
        return done

    assert ranks.together(lead, follow) == [[None, None, SAVE, SAVE, None, None]] * 3


@pytest.mark.parametrize("unready", [0, 1, 2])
def test_where_one_is_not_ready_nobody_saves_until_all_are(ranks: Ranks, unready: int) -> None:
    ranks.begun()
    roles = [ranks.leader, *ranks.followers]

    def go(one: Leader | Follower) -> list[Any]:
        done = []
        for turn in range(1, 6):
            done.append(arrive(one, ready=not (roles.index(one) == unready and turn in (2, 3))))
            one._has_submitted = True
            one.announce(SAVE if turn == 1 and one.leads else None)
        return done

    assert ranks.together(go, go) == [[None, None, None, SAVE, None]] * 3
    assert not ranks.warned


def test_a_signal_to_any_rank_is_a_save_and_the_end_of_all(ranks: Ranks) -> None:
    ranks.begun()
    told = Agreed("SIGTERM", signal.SIGTERM)
    ranks.followers[1].announce(told)
    assert arrive(ranks.leader) is None
    ranks.leader.announce(None)
    for follower in ranks.followers:
        assert arrive(follower) is None
    assert ranks.together(arrive, arrive) == [told] * 3


def test_what_ends_the_training_of_one_rank_ends_that_of_all(ranks: Ranks) -> None:
    ranks.begun()
    ranks.followers[0].announce(Agreed("nan: 3 steps", stop="nan: 3 steps"))
    assert arrive(ranks.leader) is None
    ranks.leader.announce(None)
    for follower in ranks.followers:
        assert arrive(follower) is None
    ended = ranks.together(arrive, arrive)
    assert [each.stop for each in ended] == ["another rank ends the training"] * 3


def test_the_end_of_an_epoch_is_agreed_on_there(ranks: Ranks) -> None:
    ranks.begun()

    def go(one: Leader | Follower) -> list[Any]:
        done = []
        for turn in range(1, 4):
            done.append(arrive(one, wish=SAVE if turn == 2 and one.leads else None, at_once=True))
            one._has_submitted = True
            one.announce(None)
        return [*done, one.arrive_at_end(Agreed("end") if one.leads else None)]

    assert ranks.together(go, go) == [[None, SAVE, None, Agreed("end")]] * 3


def test_a_late_rank_fails_the_save_and_goes_on(ranks: Ranks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(talking, "LATE_SECONDS", 0.3)
    ranks.begun()
    ranks.leader.announce(SAVE)
    late = ranks.followers[1]
    assert ranks.together(arrive, lambda one: None if one is late else arrive(one)) == [None] * 3
    assert "Rank 2: It gave no answer" in ranks.warned[0]
    ranks.leader.announce(None)  # what was put off comes again

    def follow(one: Follower) -> Any:
        return (arrive(one) if one is late else None) or arrive(one)

    assert ranks.together(arrive, follow) == [SAVE] * 3


def test_the_last_save_waits_for_all(ranks: Ranks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(talking, "LATE_SECONDS", 0.1)
    ranks.begun()

    def follow(one: Follower) -> Any:
        time.sleep(0.5)  # it writes a report, say
        return one.arrive_at_end(None)

    end = Agreed("end")
    assert ranks.together(lambda one: one.arrive_at_end(end), follow) == [end] * 3
    assert ranks.warned == []


def test_a_rank_may_take_its_time_to_restore(ranks: Ranks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(talking, "LATE_SECONDS", 0.1)
    restored = type("Restored", (), {"id": CHECKPOINTS[0]})()

    def read(checkpoint: CheckpointId) -> Any:
        time.sleep(0.5)
        return restored

    found = ranks.together(
        lambda one: one.restore(lambda: restored, never, None),
        lambda one: one.restore(never, read, None),
    )
    assert found == [restored] * 3


def test_a_rank_may_take_its_time_to_write(ranks: Ranks, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it writes may be most of a checkpoint, on its way to a slow store."""
    ranks.begun()
    monkeypatch.setattr(leading, "put_part", lambda *arguments: CHECKPOINTS[0])
    monkeypatch.setattr(leading, "join_parts", lambda *arguments: arguments[4])

    def slow(*arguments: Any) -> CheckpointId:
        time.sleep(0.5)
        return CHECKPOINTS[1]

    monkeypatch.setattr(following, "write_part", slow)
    monkeypatch.setattr(talking, "LATE_SECONDS", 0.1)
    written = type("Written", (), {"new_packs": ()})()

    def follow(one: Follower) -> Any:
        post = one._talk.wait(0, (Kind.SAVE,))
        one._talk.answer(one._part(never, never, never, post.name))

    found = ranks.together(lambda one: one.join(never, never, written, never), follow)
    assert found[0] == {1: CHECKPOINTS[1], 2: CHECKPOINTS[1]}


def test_nobody_waits_for_a_rank_that_is_gone(ranks: Ranks) -> None:
    ranks.begun()
    ranks.followers[1]._board.leave()
    ranks.leader.announce(SAVE)
    with pytest.raises(RankError, match="Rank 2 has left the training, so"):
        arrive(ranks.leader)


def test_nobody_waits_for_a_rank_0_that_is_gone(ranks: Ranks) -> None:
    ranks.begun()
    ranks.board.leave()
    assert arrive(ranks.followers[0]) is None  # it had been decided
    with pytest.raises(RankError, match="Rank 0 has left"):
        arrive(ranks.followers[0])


def test_ranks_of_one_launch_find_one_another_and_no_others() -> None:
    names = {
        launch_name(variables, location, run)
        for variables in ({"MASTER_PORT": "1"}, {"MASTER_PORT": "2"}, {"TORCHELASTIC_RESTART_COUNT": "1"})
        for location, run in (("a", "main"), ("b", "main"), ("a", "other"))
    }
    assert len(names) == 9


def test_places() -> None:
    assert place({}).world_size == 1
    assert place({"WORLD_SIZE": "1", "RANK": "0"}).world_size == 1
    assert place({"WORLD_SIZE": "4", "RANK": "2", "LOCAL_WORLD_SIZE": "4"}).rank == 2
    assert place({"PADDLE_TRAINERS_NUM": "2", "PADDLE_TRAINER_ID": "1"}).rank == 1
