"""Every query of the dashboard is answered by a real Prometheus that holds every metric."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.prometheus_servers import ROOT, Prometheus, prometheus

from holdfast.domain.event_lines import Writer, line
from holdfast.domain.events import (
    Event,
    Found,
    LaunchBegan,
    Launched,
    LaunchEnded,
    Recovered,
    Rejected,
    Reported,
    Restored,
    Saved,
    SaveFailed,
    Uploaded,
)
from holdfast.domain.progress import Progress
from holdfast.node.pulse import Seen
from holdfast.observe.metrics import FAMILIES, Metrics
from holdfast.observe.serving import Server

DASHBOARD = json.loads((ROOT / "grafana/dashboards/holdfast.json").read_text())

WRITER = Writer("trainer", "here", 1, "t")


class Life:
    """A run that does something of everything, again and again."""

    def __init__(self, place: Path) -> None:
        self._metrics = Metrics()
        self._place = str(place)
        self._step = 0

    def text(self) -> str:
        self._step += 10
        for event in self._events(self._step):
            self._metrics.take(
                json.loads(line(event, Writer("trainer", "here", 1, "t"), None, 100.0 + self._step))
            )
        self._metrics.look(Seen(pid=7, step=self._step, loss=1 / self._step))
        return self._metrics.text()

    def _events(self, step: int) -> Iterator[Event]:
        yield LaunchBegan("", 1, ("python",))
        yield Launched("digits", self._place, "id", "1-a", "1-a", step, {})
        yield Recovered("digits", 2, step, 1.5)
        yield Restored("digits", step, Progress(step=step), 0.3)
        yield Rejected("digits", step, "bad", recorded=True)
        yield Reported("digits", step, {"grad_norm": 2.0})
        yield Found("digits", step, "spike", "the loss is high", "warn", 1)
        yield SaveFailed("digits", step, "full", 1)
        yield Saved("digits", step, "r", 0.5, 100, 60, burden_seconds=0.1)
        yield Uploaded("digits", "s3://b", 1, 0, 4.0)
        yield LaunchEnded("digits", 1, "crash", "", -9, 1.0, 0, step, step, 3, 1.5, True, 0.0, "")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    folder = tmp_path_factory.mktemp("prometheus")
    life, lock = Life(folder), threading.Lock()

    def text() -> str:
        with lock:
            return life.text()

    serving = Server("127.0.0.1", 0, text)
    try:
        with prometheus(folder, serving.url.removeprefix("http://").removesuffix("/metrics")) as running:
            running.until("holdfast_step > 50")  # so that there are rates
            yield running
    finally:
        serving.close()


def queries() -> list[tuple[str, str]]:
    shown = [(panel["title"], target["expr"]) for panel in DASHBOARD["panels"] for target in panel["targets"]]
    return shown + [(note["name"], note["expr"]) for note in DASHBOARD["annotations"]["list"]]


@pytest.mark.parametrize(("title", "expression"), queries())
def test_a_query_gives_series(server: Prometheus, title: str, expression: str) -> None:
    asked = expression.replace("$run", ".*").replace("$__rate_interval", "1m")
    found = server.query(asked)
    assert {one["metric"]["run"] for one in found} == {"digits"}, title
    assert all(one["value"][1] != "NaN" for one in found), title


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_a_real_server_takes_every_metric_and_it_is_shown(server: Prometheus, family: Any) -> None:
    name = f"holdfast_{family.name}" + ("_count" if family.kind == "histogram" else "")
    assert server.query(name)
    assert any(f"holdfast_{family.name}" in expression for _, expression in queries())


def test_runs_can_be_chosen(server: Prometheus) -> None:
    (run,) = [one for one in DASHBOARD["templating"]["list"] if one["name"] == "run"]
    found = re.fullmatch(r"label_values\((\w+), run\)", run["query"]["query"])
    assert found is not None
    assert server.query(found[1])


def test_panels_do_not_cover_one_another() -> None:
    covered = [
        (x, y)
        for panel in DASHBOARD["panels"]
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(covered) == len(set(covered))
    assert max(x for x, _ in covered) < 24
