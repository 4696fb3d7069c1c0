"""MLflow: a run's parameters, metrics and checkpoints, in one MLflow run over all restarts."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.domain.events import Ended, Event, Launched, Reported, Saved
from holdfast.errors import UsageError
from holdfast.frameworks import registry
from holdfast.integrations.mlflow_runs import FollowedRun, Identity, found, is_hopeless, make_client
from holdfast.node.delivery import Delivery
from holdfast.training import console
from holdfast.training.views import Checkpoint

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.tracking import MlflowClient

PATIENCE_SECONDS = 20.0
"""How long the end of training waits for what MLflow has not got yet."""


class Tracking:
    """Tells an MLflow server what becomes of a run; give it to a Checkpointer as a listener.

    ``config`` becomes parameters, what `report` is given and what is attached to checkpoints become metrics,
    each recovery point becomes a reference: an artifact that says repository, run, step and digest. A run
    that is restarted continues its MLflow run, and what that has already is not sent again. The server may
    be down: training never waits for it, and is told.

    Parameters
    ----------
    tracking_uri : str, optional
        By default MLflow's own choice: ``$MLFLOW_TRACKING_URI``.
    experiment : str
        Created if there is none.
    patience_seconds : float
        How long the end of training waits for what is left.

    Raises
    ------
    UsageError
        MLflow is not installed.
    """

    def __init__(
        self,
        tracking_uri: str | None = None,
        *,
        experiment: str = "holdfast",
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> None:
        self._client = make_client(tracking_uri)
        self._experiment = experiment
        self._patience_seconds = patience_seconds
        self._delivery: Delivery | None = None
        self._run: FollowedRun | None = None

    def __call__(self, event: Event) -> None:
        if isinstance(event, Launched):
            self._begin(event)
        elif isinstance(event, Reported):
            metrics = {name: registry.scalar(value, name) for name, value in event.metrics.items()}
            self._put(lambda run: run.add_metrics(metrics, event.step))
        elif isinstance(event, Saved):
            self._put(lambda run: run.add_metrics(event.metrics, event.step))
            self._put(lambda run: run.add_reference(event))
        elif isinstance(event, Ended):
            self._put(lambda run: run.end(event.cause, done=event.done))
            self._close()

    def _begin(self, event: Launched) -> None:
        identity = Identity(event.repository, event.location, event.run, event.first_attempt)
        self._run = FollowedRun(self._client, self._experiment, identity)
        self._delivery = Delivery(f"MLflow at {self._client.tracking_uri}", is_hopeless, console.say)
        self._put(lambda run: run.begin(event.attempt, event.step))
        self._put(lambda run: run.add_parameters(event.config))

    def _put(self, task: Any) -> None:
        run = self._run
        if run is not None and self._delivery is not None:
            self._delivery.put(lambda: task(run))

    def _close(self) -> None:
        if self._delivery is not None:
            self._delivery.close(self._patience_seconds)
        self._delivery = self._run = None


def register_model(
    checkpoint: Checkpoint, name: str, *, tracking_uri: str | None = None, experiment: str = "holdfast"
) -> ModelVersion:
    """Register a checkpoint's models as a version of a model in MLflow's registry.

    The artifacts, ``model.safetensors`` and ``holdfast.json``, are those of the MLflow run that has followed
    the training; without one, of a run that is made for it.

    Parameters
    ----------
    checkpoint : Checkpoint
        Such as ``holdfast.open("checkpoints")["digits"]["best"]``.
    name : str
        Of the registered model; created if there is none.

    Raises
    ------
    UsageError
        MLflow is not installed, or the checkpoint holds no model.
    """
    client = make_client(tracking_uri)
    identity = Identity.of(checkpoint)
    with tempfile.TemporaryDirectory() as place:
        _export(checkpoint, Path(place), identity)
        run = FollowedRun(client, experiment, identity)
        run.find_or_make()
        folder = f"holdfast/models/{checkpoint.step:012d}"
        client.log_artifacts(run.id, place, folder)
    if not run.is_continued:
        run.end("made to register a model", done=True)
    _make_registered(client, name)
    source = f"{client.get_run(run.id).info.artifact_uri}/{folder}"
    tags = identity.tags | {"holdfast.step": str(checkpoint.step), "holdfast.checkpoint": checkpoint.id}
    return client.create_model_version(name, source, run_id=run.id, tags=tags)


def _make_registered(client: MlflowClient, name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _export(checkpoint: Checkpoint, folder: Path, identity: Identity) -> None:
    from holdfast.formats.publishing import models_in

    models = models_in(*found(checkpoint))
    if not models:
        raise UsageError(f"{checkpoint!r} holds no model.", do="Register a checkpoint that does.")
    checkpoint.export(folder / "model.safetensors", only=models)
    reference = identity.reference(checkpoint.step, checkpoint.id, checkpoint.metrics)
    (folder / "holdfast.json").write_text(json.dumps(reference, indent=2))
