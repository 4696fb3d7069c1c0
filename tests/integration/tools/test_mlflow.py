"""A real MLflow server on loopback: one MLflow run for all launches of a run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file
from tests.integration.training.launching import wait_until

import holdfast
from mlflow_server import free_port, serving

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from mlflow.tracking import MlflowClient

from holdfast.errors import UsageError
from holdfast.integrations.mlflow import Tracking, register_model

PATIENCE_SECONDS = 90.0
pytestmark = [pytest.mark.timeout(400), pytest.mark.filterwarnings("ignore:::mlflow")]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving(tmp_path_factory.mktemp("mlflow"), free_port()) as url:
        yield url


def train(place: Path, url: str, until: int, *, die_at: int | None = None, **options: Any) -> None:
    state: dict[str, Any] = {"w": np.zeros(3)}
    options = {"config": {"lr": 0.1, "net": {"width": 3}}, "save": "every 3 steps", "keep": "all"} | options
    follow = [Tracking(url, experiment=str(place), patience_seconds=PATIENCE_SECONDS)]
    with holdfast.Checkpointer(place, state, run="digits", listeners=follow, **options) as ckpt:
        for t in ckpt.steps(until):
            state["w"] += t
            n = ckpt.step(loss=1 / (t + 1))
            ckpt.report(score=n / 2)
            if t == die_at:
                _sent(follow[0])
                os.kill(os.getpid(), signal.SIGKILL)


def _sent(tracking: Tracking) -> None:
    assert tracking._delivery is not None
    wait_until(lambda: not tracking._delivery._tasks, PATIENCE_SECONDS)  # type: ignore[union-attr]


def killed(place: Path, url: str, die_at: int) -> None:
    script = (
        "from pathlib import Path; from tests.integration.tools.test_mlflow import train;"
        f"train(Path({str(place)!r}), {url!r}, 100, die_at={die_at})"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run([sys.executable, "-c", script], env=environment, check=False).returncode == -9


def runs_in(url: str, place: Path) -> list[Any]:
    client = MlflowClient(url)
    experiment = client.get_experiment_by_name(str(place))
    return list(client.search_runs([experiment.experiment_id])) if experiment is not None else []


def points(url: str, run: Any, name: str) -> list[tuple[int, float]]:
    return sorted((p.step, p.value) for p in MlflowClient(url).get_metric_history(run.info.run_id, name))


def test_a_killed_run_continues_its_mlflow_run_with_no_point_twice(server: str, tmp_path: Path) -> None:
    place = tmp_path / "here"
    killed(place, server, 4)
    (before,) = runs_in(server, place)
    train(place, server, 9)
    (run,) = runs_in(server, place)
    assert run.info.run_id == before.info.run_id
    assert (before.info.status, run.info.status) == ("RUNNING", "FINISHED")
    assert run.data.params == {"lr": "0.1", "net.width": "3"}
    assert points(server, run, "score") == [(n, n / 2) for n in range(1, 10)]
    assert [step for step, _ in points(server, run, "loss")] == [3, 6, 9]
    assert run.data.tags["holdfast.latest"] == "digits@9"


def test_each_recovery_point_is_a_reference_that_finds_it(server: str, tmp_path: Path) -> None:
    place = tmp_path / "here"
    train(place, server, 6)
    (run,) = runs_in(server, place)
    client = MlflowClient(server)
    files = [f.path for f in client.list_artifacts(run.info.run_id, "holdfast")]
    checkpoints = list(holdfast.open(place)["digits"])
    assert files == [f"holdfast/{c.id}.json" for c in checkpoints]
    told = json.loads(Path(client.download_artifacts(run.info.run_id, files[0], str(tmp_path))).read_text())
    assert told["digest"] == checkpoints[0].id[-64:]
    assert (told["address"], told["step"], told["metrics"]["loss"]) == ("digits@3", 3, 1 / 3)
    assert holdfast.open(told["location"])[told["run"]][told["step"]].id == told["checkpoint"]
    assert checkpoints[0].summary.repository == told["repository"]


def test_a_fresh_start_and_a_fork_are_mlflow_runs_of_their_own(server: str, tmp_path: Path) -> None:
    place = tmp_path / "here"
    train(place, server, 3)
    holdfast.open(place)["digits"].latest.fork("branch")
    state: dict[str, Any] = {"w": np.zeros(3)}
    follow = [Tracking(server, experiment=str(place), patience_seconds=PATIENCE_SECONDS)]
    with holdfast.Checkpointer(place, state, run="branch", changed="keep", listeners=follow) as ckpt:
        for _ in ckpt.steps(5):
            ckpt.step()
    assert len({run.info.run_id for run in runs_in(server, place)}) == 2


def test_a_parameter_that_has_changed_is_a_tag(server: str, tmp_path: Path) -> None:
    place = tmp_path / "here"
    train(place, server, 3)
    train(place, server, 6, config={"lr": 0.2, "net": {"width": 3}}, changed="apply")
    (run,) = runs_in(server, place)
    assert run.data.params["lr"] == "0.1"
    assert run.data.tags["holdfast.changed.lr"] == "0.2"


def test_how_a_run_ended_is_told(server: str, tmp_path: Path) -> None:
    place = tmp_path / "here"
    follow = [Tracking(server, experiment=str(place), patience_seconds=PATIENCE_SECONDS)]
    with pytest.raises(ZeroDivisionError), holdfast.Checkpointer(place, {"w": 1}, listeners=follow):
        _ = 1 / 0
    (run,) = runs_in(server, place)
    assert run.info.status == "KILLED"
    assert "ZeroDivisionError" in run.data.tags["holdfast.end"]


def test_a_model_is_registered_from_a_checkpoint(server: str, tmp_path: Path) -> None:
    import torch

    place = tmp_path / "here"
    model = torch.nn.Linear(2, 3)
    follow = [Tracking(server, experiment=str(place), patience_seconds=PATIENCE_SECONDS)]
    with holdfast.Checkpointer(place, {"model": model, "n": 1}, listeners=follow) as ckpt:
        for _ in ckpt.steps(2):
            ckpt.step()
    checkpoint = holdfast.open(place)["main"].latest
    name = f"net-{tmp_path.name}"
    for number in ("1", "2"):
        version = register_model(checkpoint, name, tracking_uri=server, experiment=str(place))
        assert str(version.version) == number
    (run,) = runs_in(server, place)
    assert version.run_id == run.info.run_id
    assert version.tags["holdfast.checkpoint"] == checkpoint.id
    client = MlflowClient(server)
    path = client.get_model_version_download_uri(name, "1").removeprefix(run.info.artifact_uri).strip("/")
    folder = Path(client.download_artifacts(run.info.run_id, path, str(tmp_path)))
    weights = load_file(folder / "model.safetensors")
    assert np.array_equal(weights["weight"], model.weight.detach().numpy())
    assert json.loads((folder / "holdfast.json").read_text())["checkpoint"] == checkpoint.id


def test_a_checkpoint_without_a_model_is_not_registered(tmp_path: Path) -> None:
    holdfast.save(tmp_path / "here", {"w": np.zeros(3)}, step=1)
    checkpoint = holdfast.open(tmp_path / "here")["main"].latest
    with pytest.raises(UsageError, match="holds no model"):
        register_model(checkpoint, "net", tracking_uri="http://127.0.0.1:9")


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")


@pytest.mark.usefixtures("hasty")
def test_a_server_that_is_down_never_stops_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "here"
    follow = [Tracking(f"http://127.0.0.1:{free_port()}", patience_seconds=1.0)]
    with holdfast.Checkpointer(place, {"w": 1}, listeners=follow) as ckpt:
        for _ in ckpt.steps(5):
            ckpt.step()
            ckpt.report(score=1.0)
    assert holdfast.open(place)["main"].latest.step == 5
    said = capsys.readouterr().err
    assert said.count("does not take what it is sent; training goes on.") == 1
    assert "messages to MLflow at http://127.0.0.1" in said


@pytest.mark.usefixtures("hasty")
def test_a_server_that_comes_late_gets_everything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place, port = tmp_path / "here", free_port()
    url = f"http://127.0.0.1:{port}"
    follow = [Tracking(url, experiment=str(place), patience_seconds=PATIENCE_SECONDS)]
    with holdfast.Checkpointer(place, {"w": 1}, listeners=follow) as ckpt:
        for n in ckpt.steps(3):
            ckpt.report(score=float(n))
            ckpt.step()
        heard: list[str] = []
        assert wait_until(lambda: "training goes on" in _heard(capsys, heard), PATIENCE_SECONDS)
        server = serving(tmp_path, port)
        server.__enter__()
    try:
        (run,) = runs_in(url, place)
        assert [value for _, value in points(url, run, "score")] == [0.0, 1.0, 2.0]
        assert run.info.status == "FINISHED"
        assert "works again" in _heard(capsys, heard)
    finally:
        server.__exit__(None, None, None)


def _heard(capsys: pytest.CaptureFixture[str], heard: list[str]) -> str:
    heard.append(capsys.readouterr().err)
    return "".join(heard)
