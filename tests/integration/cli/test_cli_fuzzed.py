"""Bytes of a repository changed at random: every verb ends with a sentence, none with a traceback."""

from __future__ import annotations

import random
import shutil

import pytest

from holdfast.domain.tree import Component
from keys import KEY, give

VERBS = (
    ("ls",),
    ("ls", "digits"),
    ("ls", "--sort", "val_loss"),
    ("show", "digits@300", "--tensors"),
    ("show", "digits@best", "--json"),
    ("du",),
    ("du", "digits", "--json"),
    ("status", "digits"),
    ("tag",),
    ("ls", "--graph"),
    ("ls", "digits", "--graph", "--json"),
    ("show", "digits", "--space"),
    ("show", "digits@300", "--space", "--json"),
    ("fork", "digits@300", "branch"),
    ("doctor",),
    ("diff", "digits@100", "digits@300"),
    ("verify", "--dry-run"),
    ("prune", "--keep", "last 1", "--dry-run"),
    ("prune",),
    ("repair",),
    ("verify",),
    ("repair", "--apply"),
    ("repair", "--apply"),
    ("repair", "--apply"),
    ("ls", "--json"),
    ("rm", "digits@300", "--yes", "--force"),
    ("mv", "digits", "moved"),
    ("prune", "--keep", "last 1", "--yes"),
    ("rm", "moved", "--yes", "--force"),
)
SAID = {0, 2, 3, 4, 9}
SEALED = 12


@pytest.fixture
def sealing(request, monkeypatch):
    """Before there is a place: it is created as this says."""
    give(monkeypatch, **({"HOLDFAST_KEY": KEY} if request.param else {}))
    return request.param


def seeds(count):
    """So many, and a few on sealed repositories."""
    cases = [*((False, seed) for seed in range(count)), *((True, seed) for seed in range(100, 104))]
    return pytest.mark.parametrize(("sealing", "seed"), cases, indirect=["sealing"])


def change(path, chance):
    """Flip a bit, cut, empty, grow, or replace by another file's bytes."""
    data = bytearray(path.read_bytes())
    kind = chance.choice(("flip", "flip", "flip", "cut", "empty", "grow", "swap", "remove"))
    if kind == "flip" and data:
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    elif kind == "cut":
        del data[chance.randrange(len(data) + 1) :]
    elif kind == "empty":
        data.clear()
    elif kind == "grow":
        data += chance.randbytes(chance.randrange(1, 5000))
    elif kind == "swap":
        others = sorted(p for p in path.parent.iterdir() if p.is_file())
        data = bytearray(chance.choice(others).read_bytes())
    if kind == "remove":
        path.unlink()
    else:
        path.write_bytes(data)


@seeds(6)
def test_damage_anywhere_is_told_in_sentences(sealing, place, digits, holdfast, seed):
    attempt = place.run("digits").attempts()[-1].id
    values = {"model": Component("torch.module", {"x": 1}), "lr": 0.5}
    place.save("digits", attempt, 500, values=values, metrics={"val_loss": 0.1})
    chance = random.Random(seed)
    files = sorted(p for p in place.path.rglob("*") if p.is_file() and p.suffix != ".lock")
    for path in chance.sample(files, chance.randrange(1, 4)):
        if path.exists():
            change(path, chance)
    for verb in (*VERBS[:-1], ("sync", str(place.path), str(place.path.parent / "copy")), VERBS[-1]):
        result = holdfast(*verb)
        assert "should not" not in result.err, (verb, result.err)
        said = SAID | ({1} if verb[0] == "doctor" else set()) | ({SEALED} if sealing else set())
        assert result.code in said, (verb, result.err)


@seeds(12)
def test_after_a_repair_pruning_works_and_the_rest_is_intact(sealing, place, digits, holdfast, seed):
    chance = random.Random(seed)
    files = sorted(p for p in place.path.rglob("*") if p.is_file() and p.suffix != ".lock")
    path = chance.choice(files)
    change(path, chance)
    for _ in range(3):
        holdfast("repair", "--apply")
    result = holdfast("prune", "--json")
    assert result.code == 0, (path, result.err)
    whole = [c["step"] for c in holdfast("verify", "--json").json["checkpoints"] if c["ok"]]
    assert len(whole) >= 3, path
    assert holdfast("ls").code == 0
    assert place.fresh().run("digits").latest() is not None


@pytest.mark.parametrize("sealing", [False, True], indirect=True)
def test_files_that_do_not_belong_are_passed_over(sealing, place, digits, holdfast, tmp_path):
    for name in ("runs/digits/checkpoints/notes.txt", "packs/ab/zz.pack", "runs/README", "notes/x"):
        path = place.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
    link = place.path / "runs" / "link"
    link.symlink_to(tmp_path)
    for verb in (*VERBS[:15], ("mv", "digits", "other"), ("rm", "other", "--yes", "--force")):
        result = holdfast(*verb)
        assert result.code == 0, (verb, result.err)
    shutil.rmtree(tmp_path / "ckpts")
