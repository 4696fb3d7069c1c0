"""A resumed run is held against what it was: its first losses, and a probe of the script's own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from tests.integration.training.launching import run_of

import holdfast
from holdfast.domain import tree
from holdfast.domain.events import Found
from holdfast.node.pulse import PLACE_VARIABLE, Page
from holdfast.training.restoring import Restorer

CALM = [1.0 + n % 5 / 100 for n in range(40)]


@pytest.fixture
def supervised(monkeypatch: pytest.MonkeyPatch) -> Iterator[Page]:
    page = Page()
    monkeypatch.setenv(PLACE_VARIABLE, page.place)
    yield page
    page.close()


def train(
    place: Path, losses: list[float], state: dict[str, Any] | None = None, **options: Any
) -> list[Found]:
    heard: list[Any] = []
    state = {"a": 1} if state is None else state
    options = {"save": None, "background": False, "changed": "apply", "listeners": [heard.append]} | options
    with holdfast.Checkpointer(place, state, **options) as ckpt:
        for loss in losses:
            ckpt.step(loss=loss)
    return [event for event in heard if isinstance(event, Found)]


def training_of(place: Path) -> dict[str, Any]:
    run = run_of(place)
    latest = run.latest()
    assert latest is not None
    kept: dict[str, Any] = tree.decode(run.manifest(latest).details.training)
    return kept


def test_a_checkpoint_records_its_last_losses_whatever_was_resumed(tmp_path: Path) -> None:
    losses = [float(n) for n in range(100, 0, -1)]
    train(tmp_path / "whole", losses)
    for part in (losses[:50], losses[50:70], losses[70:]):
        train(tmp_path / "parts", part)
    assert training_of(tmp_path / "whole")["losses"] == losses[-32:]
    assert training_of(tmp_path / "parts")["losses"] == losses[-32:]


def test_losses_that_go_on_as_they_were_join(tmp_path: Path) -> None:
    train(tmp_path, CALM)
    assert train(tmp_path, CALM) == []


def test_losses_that_do_not_join_are_told_of_as_such(tmp_path: Path) -> None:
    train(tmp_path, CALM)
    (event,) = train(tmp_path, [2.5] * 10)
    assert (event.kind, event.step, event.action) == ("seam", 43, "warn")
    assert "the resumed training does not join what it was: the loss is 2.5" in str(event)


def test_losses_that_rise_as_they_did_join_and_a_break_does_not(tmp_path: Path) -> None:
    rising = [1 + max(0, n - 20) / 100 for n in range(60)]
    train(tmp_path, rising[:40])
    assert train(tmp_path, rising[40:]) == []
    assert [event.kind for event in train(tmp_path, [2.5] * 10)] == ["seam"]


def test_a_rise_long_after_the_restore_is_another_thing(tmp_path: Path) -> None:
    train(tmp_path, CALM)
    assert [event.kind for event in train(tmp_path, CALM + [2.5] * 3)] == ["spike"]


def test_a_few_losses_before_are_not_enough_to_judge_by(tmp_path: Path) -> None:
    train(tmp_path, CALM[:20])
    assert train(tmp_path, [2.5] * 3) == []


@pytest.mark.usefixtures("supervised")
def test_below_a_supervisor_it_goes_back(tmp_path: Path) -> None:
    train(tmp_path, CALM)
    with pytest.raises(holdfast.UnhealthyError, match="does not join what it was"):
        train(tmp_path, [2.5] * 10)


@pytest.mark.usefixtures("supervised")
def test_but_not_if_the_script_says_otherwise_or_has_changed(tmp_path: Path) -> None:
    train(tmp_path, CALM)
    assert [event.action for event in train(tmp_path, [2.5] * 10, on_finding="warn")] == ["warn"]
    train(tmp_path, CALM * 3, config={"lr": 1})
    assert [event.action for event in train(tmp_path, [4.5] * 10, config={"lr": 2})] == ["warn"]


# -- probes ----------------------------------------------------------------------------


class Net:
    """A model, and a scale that the state forgets."""

    def __init__(self, scale: float = 1.0) -> None:
        torch.manual_seed(5)
        self.model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Dropout(0.5), torch.nn.Linear(8, 1))
        self.scale = scale
        self.state = {"model": self.model}

    def probe(self) -> torch.Tensor:
        return self.model(torch.ones(4, 8)).square().mean().detach() * self.scale


def test_a_probe_of_the_restored_state_gives_the_same_bits(tmp_path: Path) -> None:
    first = Net()
    train(tmp_path, CALM, first.state, probe=first.probe)
    second = Net()
    with torch.no_grad():
        second.model[0].weight.zero_()
    assert train(tmp_path, CALM, second.state, probe=second.probe) == []
    assert isinstance(training_of(tmp_path)["probe"], float)


def test_a_probe_that_gives_another_number_is_told_before_training_goes_on(tmp_path: Path) -> None:
    first, second = Net(), Net(scale=1.5)
    train(tmp_path, CALM, first.state, probe=first.probe)
    (event,) = train(tmp_path, [], second.state, probe=second.probe)
    assert (event.kind, event.step, event.action) == ("probe", 40, "warn")


def test_below_a_supervisor_a_wrong_probe_ends_the_launch_before_its_attempt_counts(
    tmp_path: Path, supervised: Page
) -> None:
    first, second = Net(), Net(scale=1.5)
    train(tmp_path, CALM, first.state, probe=first.probe)
    before = run_of(tmp_path).head()
    with pytest.raises(holdfast.UnhealthyError, match="the probe gives"):
        train(tmp_path, CALM, second.state, probe=second.probe)
    assert run_of(tmp_path).head() == before
    story = supervised.story()
    assert (story.run, story.resumed) == ("main", 40)  # so that the supervisor can find what was before
    assert story.ending is not None
    assert story.ending.kind == "unhealthy"


def test_a_probe_draws_no_randomness_that_training_would_have_had(tmp_path: Path) -> None:
    def draws(place: Path, probe: Any) -> list[float]:
        net = Net()
        found = []
        options = {"save": "every 1 step", "background": False}
        with holdfast.Checkpointer(place, net.state, probe=probe and net.probe, **options) as ckpt:
            for _ in ckpt.steps(3):
                found.append(torch.rand(()).item())
        return found

    assert draws(tmp_path / "with", True) == draws(tmp_path / "without", None)


def test_on_another_device_or_version_nearly_is_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Net()
    train(tmp_path, CALM, first.state, probe=first.probe)
    one = Restorer.one

    def elsewhere(*arguments: Any, **options: Any) -> Any:
        return msgspec.structs.replace(one(*arguments, **options), inexact=True)

    monkeypatch.setattr(Restorer, "one", elsewhere)
    nearly, wrong = Net(scale=1.0001), Net(scale=1.1)
    (event,) = train(tmp_path, [], wrong.state, probe=wrong.probe)
    assert "more than 0.1% apart" in event.detail
    assert train(tmp_path, [], nearly.state, probe=nearly.probe) == []


def test_a_probe_that_fails_costs_no_save(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(tmp_path, CALM, probe=lambda: 1 / 0, save="every 10 steps")
    assert capsys.readouterr().err.count("the probe failed, and is not asked again: ZeroDivisionError") == 1
    assert "probe" not in training_of(tmp_path)
    train(tmp_path, CALM, probe=lambda: "no number")
    assert "UsageError: The metric probe is a str, not a number" in capsys.readouterr().err


def test_what_cannot_be_called_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(holdfast.UsageError, match=r"probe=3 cannot be called. Give a function without arg"):
        holdfast.Checkpointer(tmp_path / "new", {"a": 1}, probe=3)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []
