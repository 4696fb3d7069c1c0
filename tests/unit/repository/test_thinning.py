from __future__ import annotations

from checkpoints import begin, make_repository, make_state, read, save
from holdfast.repository.thinning import make_thin
from holdfast.storage.memory import MemoryStorage


def test_a_thin_checkpoint_descends_from_what_its_full_one_did() -> None:
    run = make_repository(MemoryStorage()).run("digits")
    attempt = begin(run)
    first = save(run, attempt, 1, 100).id
    second = save(run, attempt, 2, 200, parent=first).id
    assert make_thin(run, second, lambda value: value.name == "weight")
    thin = next(c for c in run.checkpoints() if c.kind == "thin")
    assert run.summary(thin).parent == run.summary(second).parent == str(first)
    assert read(run, thin) == {"weight": make_state(200)["weight"]}
    assert not make_thin(run, first, lambda value: False)
