"""Spans to a collector, in OpenTelemetry's protocol over HTTP, as JSON."""

from __future__ import annotations

import itertools
import json
import urllib.parse
from collections.abc import Callable, Sequence
from typing import Any

from holdfast.node.delivery import Delivery
from holdfast.observe.following import Record
from holdfast.observe.posting import PATIENCE_SECONDS, Send
from holdfast.observe.tracing import Span, Tracing
from holdfast.version import __version__

HEADERS_VARIABLE = "OTEL_EXPORTER_OTLP_HEADERS"
_INTERNAL, _ERROR = 1, 2  # kinds of spans and states, by the protocol's numbers


class SpanSender:
    """Sends the spans that lines of the log make, from a thread of its own.

    Parameters
    ----------
    send : callable
        Takes a request as JSON.
    say : callable
        Takes a line for people.
    """

    def __init__(self, send: Send, say: Callable[[str], None]) -> None:
        self._send = send
        self._tracing = Tracing()
        self._delivery = Delivery("the address for traces", lambda e: not isinstance(e, OSError), say)

    def take(self, record: Record) -> None:
        """Take one line of the log."""
        if spans := self._tracing.take(record):
            data = json.dumps(request(spans)).encode()
            self._delivery.put(lambda: self._send(data))

    def close(self) -> None:
        self._delivery.close(PATIENCE_SECONDS)


def request(spans: Sequence[Span]) -> dict[str, Any]:
    """What a collector is asked to take: spans by the process that they come from."""

    def process(span: Span) -> str:
        return span.process

    grouped = itertools.groupby(sorted(spans, key=process), key=process)
    return {"resourceSpans": [_resource(name, list(own)) for name, own in grouped]}


def headers_given(text: str) -> dict[str, str]:
    """What `HEADERS_VARIABLE` says: ``name=value,name=value``, values percent-encoded."""
    pairs = (pair.partition("=") for pair in text.split(","))
    return {name.strip(): urllib.parse.unquote(value.strip()) for name, mark, value in pairs if mark}


def _resource(process: str, spans: Sequence[Span]) -> dict[str, Any]:
    known = {"service.name": f"holdfast-{process}", "service.version": __version__}
    scope = {"scope": {"name": "holdfast", "version": __version__}, "spans": [_span(span) for span in spans]}
    return {"resource": {"attributes": _attributes(known)}, "scopeSpans": [scope]}


def _span(span: Span) -> dict[str, Any]:
    told = {
        "traceId": span.trace,
        "spanId": span.id,
        "parentSpanId": span.parent,
        "name": span.name,
        "kind": _INTERNAL,
        "startTimeUnixNano": str(int(span.began_seconds * 1e9)),
        "endTimeUnixNano": str(int(span.ended_seconds * 1e9)),
        "attributes": _attributes({f"holdfast.{name}": value for name, value in span.attributes.items()}),
    }
    return told | ({"status": {"code": _ERROR}} if span.failed else {})


def _attributes(values: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"key": name, "value": _value(value)} for name, value in values.items()]


def _value(value: Any) -> dict[str, Any]:
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, int):
        return {"intValue": str(value)}
    return {"doubleValue": value} if isinstance(value, float) else {"stringValue": str(value)}
