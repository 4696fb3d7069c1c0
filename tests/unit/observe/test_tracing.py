"""Lines of the log of several processes become spans that belong together."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import Any

import pytest
from google.protobuf.json_format import ParseDict
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from holdfast.domain.event_lines import Writer, line
from holdfast.domain.events import (
    Event,
    LaunchBegan,
    LaunchEnded,
    Persisted,
    Recovered,
    Restored,
    Saved,
    SaveFailed,
    Uploaded,
)
from holdfast.domain.progress import Progress
from holdfast.observe.otlp import headers_given, request
from holdfast.observe.tracing import Span, Tracing


def record(event: Event, process: str, at: float, trace: str = "t") -> Any:
    return json.loads(line(event, Writer(process, "here", 1, trace), None, at))


def spans(*records: Any) -> dict[str, Span]:
    tracing = Tracing()
    return {span.name: span for one in records for span in tracing.take(one)}


SAVED = record(Saved("digits", 10, "r", 2.0, 100, 60, "10-full", burden_seconds=0.5), "trainer", 50.0)
PERSISTED = record(Persisted("digits", "1-a", 10, "10-full", 1.0, 100, 60), "agent", 49.5)


def over(*, restarts: bool) -> Any:
    ended = LaunchEnded("digits", 1, "crash", "SIGKILL", -9, 9, None, 25, 25, None, None, restarts, 0.0, "")
    return record(ended, "supervisor", 100.0)


RECOVERY = (
    over(restarts=True),
    record(LaunchBegan("", 2, ("python",)), "supervisor", 101.0),
    record(Restored("digits", 20, Progress(step=20), 0.5, "memory", "2-b"), "trainer", 104.0),
    record(Recovered("digits", 2, 21, 4.5), "supervisor", 104.7),
)


def stretch(span: Span) -> tuple[float, float]:
    return span.began_seconds, span.ended_seconds


def test_a_save_across_trainer_and_agent() -> None:
    found = spans(PERSISTED, SAVED)
    assert {name: stretch(span) for name, span in found.items()} == {
        "persist": (48.5, 49.5),
        "save": (48.0, 50.0),
        "stall": (48.0, 48.5),
    }
    assert len({span.trace for span in found.values()}) == 1
    assert found["save"].parent == ""
    assert found["persist"].parent == found["stall"].parent == found["save"].id
    assert (found["persist"].process, found["save"].process) == ("agent", "trainer")
    assert found["save"].attributes["step"] == 10


def test_saves_of_other_steps_and_other_supervisors_are_other_traces() -> None:
    another = {**SAVED, "checkpoint": "20-full"}
    elsewhere = {**SAVED, "trace": "u"}
    assert len({spans(one)["save"].trace for one in (SAVED, another, elsewhere)}) == 3


def test_a_recovery_across_supervisor_and_trainer() -> None:
    found = spans(*RECOVERY)
    assert {name: stretch(span) for name, span in found.items()} == {
        "recovery": (100.0, 104.5),
        "wait": (100.0, 101.0),
        "start": (101.0, 103.5),
        "restore": (103.5, 104.0),
        "first step": (104.0, 104.5),
    }
    assert len({span.trace for span in found.values()}) == 1
    assert {span.parent for name, span in found.items() if name != "recovery"} == {found["recovery"].id}
    assert found["restore"].process == "trainer"
    assert found["recovery"].attributes["cause"] == "crash"
    assert found["restore"].attributes["place"] == "memory"


def test_a_recovery_that_began_from_nothing() -> None:
    found = spans(*(one for one in RECOVERY if one["event"] != "restored"))
    assert set(found) == {"recovery", "wait"}


def test_what_was_not_followed_by_a_launch_is_no_recovery() -> None:
    assert spans(over(restarts=False), *RECOVERY[1:]) == {}
    assert spans(RECOVERY[-1]) == {}


def test_a_save_that_failed_and_an_upload() -> None:
    failed = spans(record(SaveFailed("digits", 3, "full", 1), "trainer", 5.0))["save"]
    assert failed.failed
    upload = spans(record(Uploaded("digits", "s3://b", 2, 1, 3.0), "agent", 10.0))["upload"]
    assert stretch(upload) == (7.0, 10.0)


@pytest.mark.parametrize("broken", [{}, {"event": "saved"}, {**SAVED, "seconds": "x"}, {"event": ["saved"]}])
def test_other_lines_make_no_spans(broken: Any) -> None:
    assert Tracing().take(broken) == []


def by_the_protocol(sent: dict[str, Any]) -> ExportTraceServiceRequest:
    """As a collector reads it: ids are hexadecimal there, elsewhere in protobuf's JSON base64."""
    copied = json.loads(json.dumps(sent))
    for resource in copied["resourceSpans"]:
        for span in resource["scopeSpans"][0]["spans"]:
            for key in ("traceId", "spanId", "parentSpanId"):
                span[key] = base64.b64encode(bytes.fromhex(span[key])).decode()
    return ParseDict(copied, ExportTraceServiceRequest())


def test_a_collector_can_read_it() -> None:
    made: Sequence[Span] = list(spans(PERSISTED, SAVED, *RECOVERY).values())
    read = by_the_protocol(request(made))
    found = {
        span.name: (resource.resource.attributes[0].value.string_value, span)
        for resource in read.resource_spans
        for span in resource.scope_spans[0].spans
    }
    assert {name: service for name, (service, _) in found.items()} == {
        **dict.fromkeys(("save", "stall", "start", "restore", "first step"), "holdfast-trainer"),
        **dict.fromkeys(("recovery", "wait"), "holdfast-supervisor"),
        "persist": "holdfast-agent",
    }
    save = found["save"][1]
    assert (len(save.trace_id), len(save.span_id), save.parent_span_id) == (16, 8, b"")
    assert save.end_time_unix_nano - save.start_time_unix_nano == 2_000_000_000
    attributes = {one.key: one.value for one in save.attributes}
    assert attributes["holdfast.step"].int_value == 10
    assert attributes["holdfast.run"].string_value == "digits"


def test_a_failure_is_an_error_by_the_protocol() -> None:
    failed = spans(record(SaveFailed("digits", 3, "full", 1), "trainer", 5.0))["save"]
    (resource,) = by_the_protocol(request([failed])).resource_spans
    assert resource.scope_spans[0].spans[0].status.code == 2


def test_headers() -> None:
    assert headers_given("") == {}
    assert headers_given("Authorization=Bearer%20x, X-Scope = a=b,bad") == {
        "Authorization": "Bearer x",
        "X-Scope": "a=b",
    }
