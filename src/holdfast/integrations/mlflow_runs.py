"""One MLflow run that belongs to a run of Holdfast: found by its tags, or made."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import msgspec

from holdfast.domain.events import Saved
from holdfast.domain.lineage import first_attempt
from holdfast.domain.names import CheckpointId
from holdfast.errors import UsageError
from holdfast.repository.run import Run
from holdfast.training.views import Checkpoint

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

MAX_PARAMETERS = 100
"""In one request; MLflow takes no more."""
MAX_PARAMETER_LENGTH = 6000
_NOT_NOW = 500
_TOO_MANY_REQUESTS = 429


def make_client(tracking_uri: str | None) -> MlflowClient:
    """A client of the tracking server.

    Raises
    ------
    UsageError
        MLflow is not installed.
    """
    try:
        from mlflow.tracking import MlflowClient
    except ImportError as error:
        raise UsageError("MLflow is not installed here.", do="Install it: pip install mlflow.") from error
    return MlflowClient(tracking_uri)


def is_hopeless(error: Exception) -> bool:
    """Whether the server has understood and refuses; what it does not answer may work later."""
    status = getattr(error, "get_http_status_code", lambda: _NOT_NOW)()
    return status < _NOT_NOW and status != _TOO_MANY_REQUESTS


def found(checkpoint: Checkpoint) -> tuple[Run, CheckpointId]:
    """What a checkpoint that is looked at is in the repository."""
    return checkpoint._run, checkpoint._id


class Identity(msgspec.Struct, frozen=True):
    """What of Holdfast an MLflow run belongs to.

    Attributes
    ----------
    repository, location : str
        Its id, which copies have too, and where it is.
    run : str
    line : str
        The attempt that all of the training goes back to: a fresh start is another line.
    """

    repository: str
    location: str
    run: str
    line: str

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> Identity:
        """That of the training which wrote a checkpoint."""
        run, name = found(checkpoint)
        line = first_attempt(run.attempts(), name.attempt)
        return cls(run.repository.id, run.storage.location, run.name, str(line))

    @property
    def tags(self) -> dict[str, str]:
        return {
            "holdfast.repository": self.repository,
            "holdfast.run": self.run,
            "holdfast.line": self.line,
        }

    def reference(self, step: int, checkpoint: str, metrics: dict[str, float]) -> dict[str, Any]:
        """What finds a checkpoint again."""
        return {
            "address": f"{self.run}@{step}",
            "repository": self.repository,
            "location": self.location,
            "run": self.run,
            "step": step,
            "checkpoint": checkpoint,
            "digest": checkpoint.rpartition("-")[2],
            "metrics": metrics,
        }


class FollowedRun:
    """The MLflow run; every method may fail and be called again.

    Attributes
    ----------
    id : str
        Once it is found or made.
    is_continued : bool
        Whether it was there already.
    """

    def __init__(self, client: MlflowClient, experiment: str, identity: Identity) -> None:
        self._client = client
        self._experiment = experiment
        self._identity = identity
        self.is_continued = False
        self._sent: dict[str, set[tuple[int, float]]] = {}
        self.id = ""

    def find_or_make(self) -> None:
        """Find the MLflow run of this line, or make one."""
        experiment = self._client.get_experiment_by_name(self._experiment)
        where = experiment.experiment_id if experiment else self._client.create_experiment(self._experiment)
        wanted = " and ".join(f"tags.`{key}` = '{value}'" for key, value in self._identity.tags.items())
        there = self._client.search_runs([where], wanted, max_results=1)
        self.is_continued = bool(there)
        name = self._identity.run
        made = there[0] if there else self._client.create_run(where, tags=self._identity.tags, run_name=name)
        self.id = made.info.run_id

    def begin(self, attempt: str, step: int) -> None:
        self.find_or_make()
        if self.is_continued:
            self._client.update_run(self.id, status="RUNNING")
        self._client.set_tag(self.id, "holdfast.location", self._identity.location)
        self._client.set_tag(self.id, "holdfast.attempt", f"{attempt} from step {step}")

    def add_parameters(self, config: dict[str, Any]) -> None:
        """Those that it does not have; MLflow's never change, so one that differs becomes a tag."""
        from mlflow.entities import Param

        texts = {name: str(value)[:MAX_PARAMETER_LENGTH] for name, value in config.items()}
        known = self._client.get_run(self.id).data.params
        new = [Param(name, text) for name, text in texts.items() if name not in known]
        for start in range(0, len(new), MAX_PARAMETERS):
            self._client.log_batch(self.id, params=new[start : start + MAX_PARAMETERS])
        for name, text in texts.items():
            if known.get(name, text) != text:
                self._client.set_tag(self.id, f"holdfast.changed.{name}", text)

    def add_metrics(self, metrics: dict[str, float], step: int) -> None:
        """Those that it does not have: steps done again after a restart come with the same values."""
        from mlflow.entities import Metric

        now = time.time_ns() // 1_000_000
        new = [(name, value) for name, value in metrics.items() if (step, value) not in self._known(name)]
        if new:
            self._client.log_batch(self.id, metrics=[Metric(name, value, now, step) for name, value in new])
        for name, value in new:
            self._sent[name].add((step, value))

    def _known(self, name: str) -> set[tuple[int, float]]:
        if name not in self._sent:
            history = self._client.get_metric_history(self.id, name) if self.is_continued else []
            self._sent[name] = {(point.step, point.value) for point in history}
        return self._sent[name]

    def add_reference(self, saved: Saved) -> None:
        """An artifact for the checkpoint, and its address as a tag."""
        reference = self._identity.reference(saved.step, saved.checkpoint, saved.metrics)
        self._client.log_text(self.id, json.dumps(reference, indent=2), f"holdfast/{saved.checkpoint}.json")
        self._client.set_tag(self.id, "holdfast.latest", f"{saved.run}@{saved.step}")

    def end(self, cause: str, *, done: bool) -> None:
        self._client.set_tag(self.id, "holdfast.end", cause)
        self._client.set_terminated(self.id, "FINISHED" if done else "KILLED")
