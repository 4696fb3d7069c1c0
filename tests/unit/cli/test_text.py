from __future__ import annotations

import pytest

from holdfast.cli import table, text


@pytest.mark.parametrize(
    ("size_bytes", "shown"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1536, "1.5 KiB"), (200 * 1024, "200 KiB"), (None, "?"),
     (5 << 50, "5.0 PiB"), (5 << 60, "5120 PiB")],
)  # fmt: skip
def test_sizes(size_bytes, shown):
    assert text.size(size_bytes) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(-3, "0 s"), (119, "119 s"), (120, "2 min"), (7200, "2 h"), (172800, "2 days")],
)
def test_durations(seconds, shown):
    assert text.duration(seconds) == shown


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), 1e300, -1e300])
def test_forged_times_are_no_error(seconds):
    text.age(seconds)
    assert isinstance(text.moment(seconds), str)


def test_clean_shows_what_would_steer_a_terminal():
    assert text.clean("a\x1b[31mb\nc\x07é") == "a\\x1b[31mb\nc\\x07é"


def test_a_table_fits_its_room_and_loses_no_text(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    words = [f"word{i}" for i in range(20)]
    table.print_table(
        ("n>", "long", "empty"), [("1", " ".join(words), ""), ("200", "漢字" * 30, "")], folding=("long",)
    )
    lines = capsys.readouterr().out.splitlines()
    assert all(table._width(line) <= 40 for line in lines)
    joined = " ".join(lines)
    assert all(word in joined for word in words)
    assert joined.count("漢") == 30
    assert "empty" not in joined
    assert lines[0].split() == ["n", "long"]


def test_a_table_in_a_pipe_is_not_folded(capsys, monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    table.print_table(("a", "b"), [("x", "y" * 500)], folding=("b",))
    assert len(capsys.readouterr().out.splitlines()) == 2
