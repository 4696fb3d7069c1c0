"""A collector gets the spans of a killed training: each save and each recovery one trace."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import pytest
from tests.integration.supervisor.supervised import Supervised
from tests.webhook import Webhook

from holdfast.cli import app


def received(hook: Webhook) -> dict[str, dict[str, tuple[str, Any]]]:
    """By trace: spans by name, each with its service."""
    traces: dict[str, dict[str, tuple[str, Any]]] = defaultdict(dict)
    for request in hook.received:
        for resource in request["resourceSpans"]:
            service = resource["resource"]["attributes"][0]["value"]["stringValue"]
            for span in resource["scopeSpans"][0]["spans"]:
                traces[span["traceId"]][span["name"]] = (service, span)
    return traces


def test_saves_and_a_recovery(supervise: Callable[..., Supervised]) -> None:
    with Webhook() as hook:
        flags = ("--traces-url", hook.url.replace("/hook", "/v1/traces"))
        run = supervise("kill@25", flags=flags, HOLDFAST_BACKGROUND="1", TRAINEE_STEP_SECONDS="0.02")
        assert run.wait() == 0
    traces = received(hook)
    saves = [trace for trace in traces.values() if {"save", "persist"} <= set(trace)]
    (recovery,) = [trace for trace in traces.values() if "recovery" in trace]
    assert saves  # how many depends on how busy the disk is: some give way
    for trace in saves:
        assert {service for service, _ in trace.values()} == {"holdfast-trainer", "holdfast-agent"}
    assert set(recovery) == {"recovery", "wait", "start", "restore", "first step"}
    assert {service for service, _ in recovery.values()} == {"holdfast-trainer", "holdfast-supervisor"}
    for trace in (*saves, recovery):
        ids = {span["spanId"] for _, span in trace.values()}
        for _, span in trace.values():
            assert span["parentSpanId"] in ids | {""}
            assert int(span["startTimeUnixNano"]) <= int(span["endTimeUnixNano"])


def test_a_collector_that_is_down_costs_nothing_else(supervise: Callable[..., Supervised]) -> None:
    with Webhook(400) as hook:
        run = supervise(flags=("--traces-url", hook.url))
        assert run.wait() == 0
    assert "the address for traces refuses something: it answers 400" in run.said


def test_what_is_no_address_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["run", "--traces-url", "ftp://x", "--", "false"]) == 2
    assert "The address for traces is none." in capsys.readouterr().err
