"""Faults at random moments, all in one training: it ends exact, and a flaw is found."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.integration.drill.test_drilling import drilled

FAULTS = "kill,stop,segfault,full-disk,bit-rot,torn-pack,agent,supervisor,machine"


@pytest.mark.timeout(240)
def test_a_training_weathers_a_storm_and_ends_exact(tmp_path: Path) -> None:
    words = ("--faults", FAULTS, "--storm", "15", "--every", "0.8", "--html", "storm.html")
    found, said = drilled(tmp_path, *words, "--", "numpy", "--steps", "180", exits=0)
    assert found["held"], said
    assert len(found["strikes"]) >= 3
    assert found["compared"] >= 100  # a disk that is full skips saves
    assert 0 < found["useful"] <= 1
    assert 0 < found["ideal"] < 1
    page = tmp_path / "storm.html"
    assert page.read_text().count('<line class="strike"') == len(found["strikes"])
    assert list(tmp_path.iterdir()) == [page]


def test_a_flaw_is_found_in_a_storm_too(tmp_path: Path) -> None:
    words = ("--faults", "kill", "--storm", "10", "--every", "0.8")
    found, _ = drilled(tmp_path, *words, "--", "numpy", "forgotten", "--steps", "60", exits=1)
    assert found["difference"]["tensors"] == ["weights"]


def test_what_no_fault_strikes_is_no_storm(tmp_path: Path) -> None:
    words = ("--faults", "kill", "--storm", "1", "--every", "1000")
    found, _ = drilled(tmp_path, *words, "--", "numpy", "--steps", "3", exits=1)
    assert "over before a fault could strike" in found["failure"]
