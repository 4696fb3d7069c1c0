from __future__ import annotations

import gc
import time

import numpy as np
import pytest

from holdfast.repository.repository import Repository
from holdfast.storage.local import LocalStorage


def test_ls_shows_each_run_with_its_latest(place, digits, holdfast):
    attempt = place.attempt("sweep/lr3")
    place.save("sweep/lr3", attempt, 50, metrics={"val_loss": 0.2})
    place.run("sweep/lr3").record_end(attempt, "finished", 50, done=True)
    result = holdfast("ls", "--json")
    assert result.code == 0
    runs = {r["run"]: r for r in result.json["runs"]}
    assert runs["digits"]["state"] == "killed"
    assert runs["digits"]["latest"]["step"] == 400
    assert runs["digits"]["checkpoints"] == 4
    assert runs["digits"]["attempts"] == 2
    assert runs["sweep/lr3"]["state"] == "finished"
    text = holdfast("ls").out
    assert "digits" in text
    assert "finished" in text
    assert max(len(line) for line in text.splitlines()) <= 80


def test_ls_of_a_run_says_what_is_special(place, digits, holdfast):
    place.run("digits").reject(digits[400], "a test")
    zombie = digits[200].attempt
    place.save("digits", zombie, 250)
    entries = {c["step"]: c for c in holdfast("ls", "digits", "--json").json["checkpoints"]}
    assert entries[300]["latest"]
    assert entries[400]["rejected"]
    assert not entries[250]["on_line"]
    assert entries[100]["tags"] == ["paper"]
    text = holdfast("ls", "digits").out
    assert "dead branch" in text.replace("\n", " ") or "dead" in text


def test_ls_sorts_across_runs_by_a_metric(place, digits, holdfast):
    attempt = place.attempt("sweep/lr3")
    place.save("sweep/lr3", attempt, 50, metrics={"val_loss": 0.2, "acc": float("nan")})
    found = holdfast("ls", "--sort", "val_loss", "--json").json["checkpoints"]
    assert [c["address"] for c in found] == [
        "sweep/lr3@50",
        "digits@300",
        "digits@200",
        "digits@400",
        "digits@100",
    ]
    found = holdfast("ls", "dig*", "--sort", "val_loss", "--desc", "-n", "1", "--json").json["checkpoints"]
    assert [c["step"] for c in found] == [100]
    assert holdfast("ls", "--sort", "nothing").code == 3
    assert holdfast("ls", "sweep/*", "--sort", "acc").code == 3


def test_ls_survives_a_damaged_manifest_and_a_damaged_base(place, digits, holdfast):
    path = place.manifest_path("digits", digits[300])
    data = bytearray(path.read_bytes())
    data[70] ^= 1
    path.write_bytes(data)
    entries = {c["step"]: c for c in holdfast("ls", "digits", "--json").json["checkpoints"]}
    assert "damaged" in entries[300]["damage"]
    attempt = place.attempt("other")
    (place.path / place.run("other").layout.base(attempt)).write_bytes(b"{}")
    runs = {r["run"]: r for r in holdfast("ls", "--json").json["runs"]}
    assert runs["other"]["state"] == "damaged"
    assert runs["digits"]["state"] == "killed"


def test_ls_says_that_there_is_nothing_to_resume_from(place, digits, holdfast):
    path = place.manifest_path("digits", digits[400])
    data = bytearray(path.read_bytes())
    data[70] ^= 1
    path.write_bytes(data)
    assert "the latest is damaged" in holdfast("ls").out
    for checkpoint in digits.values():
        place.run("digits").reject(checkpoint, "a test")
    assert "nothing to resume from" in holdfast("ls").out
    assert holdfast("restart", "digits", "--yes").code == 0
    assert "nothing to resume from" not in holdfast("ls").out


@pytest.mark.parametrize("verb", ["ls", "show", "du", "verify", "status", "tag", "prune", "repair"])
def test_no_repository_is_one_sentence(verb, holdfast, tmp_path):
    arguments = [verb, *(["x"] if verb == "show" else []), "-R", str(tmp_path / "nowhere"), "--json"]
    result = holdfast(*arguments)
    assert result.code == 3
    assert result.error["kind"] == "not-found"
    assert "Traceback" not in result.err


def test_an_unknown_run_and_step_name_what_there_is(digits, holdfast):
    assert holdfast("ls", "nope").code == 3
    result = holdfast("show", "digits@150", "--json")
    assert result.code == 3
    assert "100, 200, 300, 400" in result.error["what"]
    assert holdfast("show", "digits@../x").code == 2
    assert holdfast("show", "../x").code == 2


def test_show_tells_everything(place, holdfast):
    attempt = place.attempt("digits")
    values = {"lr": 0.1, "best": float("inf"), "blob": b"abc", "steps": {3: (1, 2)}}
    given = {"optimizer.lr": 0.1, "config.batch": 32}
    environment = {"versions": {"torch": "2.9"}, "code": {"git": "abc"}}
    arrays = {"w": np.ones((2, 3), np.float16)}
    place.save("digits", attempt, 7, arrays, values=values, given=given, environment=environment)
    told = holdfast("show", "digits", "--json").json
    assert told["tensor_table"] == {"model/w": {"dtype": "float16", "shape": [2, 3], "size_bytes": 12}}
    assert told["given"] == given
    assert told["environment"] == environment
    assert told["state"]["steps"] == {"3": [1, 2]}
    assert told["state"]["blob"] == {"bytes": "616263"}
    text = holdfast("show", "digits@7", "--tensors").out
    assert "float16" in text
    assert "torch = 2.9" in text
    assert "config.batch = 32" in text


def test_names_cannot_steer_the_terminal(place, holdfast):
    attempt = place.attempt("digits")
    place.save("digits", attempt, 1, metrics={"\x1b[31mred": 1.0}, reason="\x1b]0;title\x07")
    for arguments in (("ls",), ("ls", "digits"), ("show", "digits")):
        assert "\x1b" not in holdfast(*arguments).out


def test_du_counts_shared_packs_once(place, holdfast):
    attempt = place.attempt("digits")
    frozen = np.arange(40_000, dtype=np.float32)
    for step in (1, 2):
        arrays = {"frozen": frozen, "w": np.random.default_rng(step).standard_normal(20_000, np.float32)}
        place.save("digits", attempt, step, arrays)
    told = holdfast("du", "digits", "--json").json["checkpoints"]
    assert [c["logical_bytes"] for c in told] == [240_000, 240_000]
    assert told[0]["disk_bytes"] > 240_000
    assert told[0]["unique_bytes"] < 10_000
    assert 80_000 < told[1]["unique_bytes"] < 100_000
    whole = holdfast("du", "--json").json
    on_disk = sum(p.stat().st_size for p in place.packs())
    assert on_disk <= whole["total"]["disk_bytes"] < on_disk + 10_000
    assert whole["orphan_bytes"] == 0
    assert "digits" in holdfast("du").out


def test_five_thousand_checkpoints_list_quickly(build_many, place, holdfast):
    build_many("many", 5000)
    started = time.process_time()
    result = holdfast("ls", "many", "--json")
    assert time.process_time() - started < 2
    assert len(result.json["checkpoints"]) == 5000
    started = time.process_time()
    assert holdfast("ls", "many").out.count("\n") == 5001
    assert time.process_time() - started < 2
    gc.collect()  # what other tests have left is not walked in the middle of this
    started = time.process_time()
    latest = Repository.open(LocalStorage(place.path)).run("many").latest()
    assert time.process_time() - started < 0.5
    assert latest is not None
    assert latest.step == 50_000
