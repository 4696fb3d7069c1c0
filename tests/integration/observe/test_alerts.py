"""The rules do what they say, by the real promtool, and reach people, by the real servers."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.integration.supervisor.supervised import Supervised
from tests.prometheus_servers import PATIENCE_SECONDS, ROOT, RULES, alertmanager, prometheus, tool
from tests.webhook import Webhook

from holdfast.observe.metrics import FAMILIES, PREFIX

TESTS = ROOT / "prometheus" / "holdfast.rules_test.yml"


def test_files_are_as_the_programs_want_them() -> None:
    subprocess.run([tool("promtool"), "check", "rules", "--lint-fatal", str(RULES)], check=True)
    subprocess.run([tool("promtool"), "check", "config", str(ROOT / "prometheus/prometheus.yml")], check=True)
    subprocess.run([tool("amtool"), "check-config", str(ROOT / "alertmanager/alertmanager.yml")], check=True)


def verdict(folder: Path, rules: str) -> int:
    (folder / RULES.name).write_text(rules)
    shutil.copy(TESTS, folder)
    done = subprocess.run(
        [tool("promtool"), "test", "rules", str(folder / TESTS.name)], check=False, capture_output=True
    )
    return done.returncode


def test_every_rule_fires_when_it_should_and_only_then(tmp_path: Path) -> None:
    assert verdict(tmp_path, RULES.read_text()) == 0


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("> 3600", "> 7200"),
        ("for: 1h", "for: 2h"),
        ("in_a_row >= 2", "in_a_row >= 1"),
        ("without_progress >= 3", "without_progress >= 9"),
        ("> 3 * stddev", "> 20 * stddev"),
        ("> 3 * stddev", "> 0.9 * stddev"),
        ("4 * 3600) < 0", "60) < 0"),
        ("< 3 * holdfast_last", "< 1 * holdfast_last"),
    ],
)
def test_a_wrong_rule_is_found(tmp_path: Path, right: str, wrong: str) -> None:
    assert right in RULES.read_text()
    assert verdict(tmp_path, RULES.read_text().replace(right, wrong)) != 0


def test_every_alert_is_tested_both_ways() -> None:
    alerts = re.findall(r"alert: (\w+)", RULES.read_text())
    quiet, _, firing = TESTS.read_text().partition("no checkpoint for too long")
    assert len(alerts) == len(set(alerts))
    for alert in alerts:
        assert f"alertname: {alert} }}" in quiet
        assert re.search(rf"alertname: {alert}\n\s+exp_alerts", firing)


def test_rules_and_the_guide_name_metrics_that_there_are() -> None:
    known = {f"{PREFIX}_{family.name}" for family in FAMILIES}
    known |= {f"{name}_{end}" for name in set(known) for end in ("sum", "count", "bucket")}
    assert set(re.findall(r"\bholdfast_\w+", RULES.read_text())) <= known
    guide = (ROOT.parent / "docs/guides/observing.md").read_text()
    assert [family.name for family in FAMILIES if f"`{family.name}" not in guide] == []


@pytest.mark.timeout(300)
def test_a_training_that_dies_again_and_again_calls_somebody(
    supervise: Callable[..., Supervised], tmp_path: Path
) -> None:
    flags = ("--metrics-port", "0", "--on", "crash: restart 20, wait 1")
    with Webhook() as hook, alertmanager(tmp_path, hook.url) as alerts:
        run = supervise("kill@12x20", flags=flags)
        run.until("metrics are at")
        target = re.search(r"metrics are at http://([\d.:]+)/metrics", run.said)
        assert target is not None
        with prometheus(tmp_path, target[1], rules=RULES, alerts=alerts) as server:
            server.until('ALERTS{alertname="HoldfastCrashLoop", alertstate="firing"}')
            deadline = time.monotonic() + PATIENCE_SECONDS
            while not hook.received and time.monotonic() < deadline:
                time.sleep(0.1)
            (restarts,) = server.query('holdfast_restarts_total{cause="crash"}')
    told = [alert for message in hook.received for alert in message["alerts"]]
    assert {alert["labels"]["alertname"] for alert in told} == {"HoldfastCrashLoop"}
    assert told[0]["labels"]["run"] == "digits"
    assert told[0]["annotations"]["summary"] == "digits dies again and again"
    assert int(restarts["value"][1]) >= 3
    os.kill(run.process.pid, 15)
    run.wait()
