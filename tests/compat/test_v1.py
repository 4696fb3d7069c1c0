"""What earlier versions wrote stays readable, byte for byte."""

import importlib.util
import json
import random
import shutil
from pathlib import Path

import numpy as np
import pytest

import holdfast
from holdfast.errors import SignatureError
from holdfast.repository import signatures
from holdfast.repository.repository import Repository
from holdfast.repository.sync_plan import Route
from holdfast.repository.syncing import sync_run
from holdfast.storage.local import LocalStorage

HERE = Path(__file__).parent
VERSIONS = ("v1", "v1-encoded", "v1-deltas", "v1-packed", "v2-sealed")
EXPECTED = {v: json.loads((HERE / v / "expected.json").read_text()) for v in VERSIONS}


def _load():
    spec = importlib.util.spec_from_file_location("make_fixture", HERE / "make_fixture.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


make_fixture = _load()


@pytest.fixture(params=VERSIONS)
def version(request):
    return request.param


@pytest.fixture
def repository(tmp_path, version, monkeypatch):
    if version == make_fixture.SEALED:
        monkeypatch.setenv("HOLDFAST_KEY", make_fixture.KEY)
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
        monkeypatch.setenv("HOLDFAST_SIGNING_KEY", make_fixture.SIGNING)
    return shutil.copytree(HERE / version / "repository", tmp_path / "repository")


@pytest.mark.parametrize(("at", "key"), [("latest", "9"), (9, "9"), ("paper", "6")])
def test_every_value_comes_back(repository, version, at, key):
    live = make_fixture.state(version)
    holdfast.load(repository, live, run="old/run", at=at)
    assert json.loads(json.dumps(make_fixture.expectation(live))) == EXPECTED[version][key]


def test_without_live_objects(repository, version):
    state = holdfast.open(repository)["old/run"][9].load()
    assert state["weights"].tobytes().hex() == EXPECTED[version]["9"]["arrays"]["weights"][2]
    assert state["history"] == EXPECTED[version]["9"]["history"]


def test_what_is_there(repository):
    run = holdfast.open(repository)["old/run"]
    assert [c.step for c in run] == [4, 6, 8, 9]
    assert run["paper"].metrics == {"loss": 1 / 6, "val_loss": 0.25}
    assert run.latest.config == {"lr": 0.1}
    for checkpoint in run:
        checkpoint.verify()


def test_training_goes_on_from_it(repository, version):
    before = random.getstate(), np.random.get_state()
    try:
        live = make_fixture.train(repository, 12, version)
        assert live["history"] == list(range(12))
        assert holdfast.open(repository)["old/run"].latest.step == 12
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])


@pytest.mark.parametrize("version", [make_fixture.SEALED], indirect=True)
def test_signatures_of_checkpoints_count_and_those_of_launches_do_from_the_next_one_on(
    repository, version, monkeypatch
):
    """When it was written, what launches start from and what tags mean was not signed."""
    trusted = signatures.public_half(make_fixture.SIGNING)
    monkeypatch.setenv("HOLDFAST_SIGNED_BY", trusted)
    assert holdfast.open(repository)["old/run"][9].load()
    with pytest.raises(SignatureError, match="or launch it once with the signing key and without that"):
        _ = holdfast.open(repository)["old/run"].latest
    monkeypatch.delenv("HOLDFAST_SIGNED_BY")
    test_training_goes_on_from_it(repository, version)
    monkeypatch.setenv("HOLDFAST_SIGNED_BY", trusted)
    assert holdfast.open(repository)["old/run"].latest.step == 12


def test_a_passphrase_opens_a_sealed_one_too(tmp_path, monkeypatch):
    sealed = shutil.copytree(HERE / make_fixture.SEALED / "repository", tmp_path / "repository")
    monkeypatch.setenv("HOLDFAST_KEY", make_fixture.WORDS)
    assert holdfast.open(sealed)["old/run"].latest.step == 9


def test_its_checkpoints_are_forked_and_synced(repository, tmp_path, version):
    run = holdfast.open(repository)["old/run"]
    forked = run[4].fork("branch").latest
    for there in (tmp_path / "copy", tmp_path / "other"):
        storage = LocalStorage(there, create=True)
        identity = Repository.open(LocalStorage(repository)).id if there.name == "copy" else None
        target = Repository.create(storage, chunk_bytes=4096, repository_id=identity)
        done = sync_run(Route(Repository.open(LocalStorage(repository)), target), "old/run")
        assert (done.checkpoints, done.failed) == (4, {})
        again = sync_run(Route(Repository.open(LocalStorage(repository)), target), "old/run")
        assert again.is_nothing
        assert str(holdfast.open(there)["old/run"][4].load()) == str(forked.load())


def test_its_manifests_are_of_the_version_that_it_stands_for(version):
    manifests = (HERE / version / "repository/runs/old/run/checkpoints").glob("*.manifest")
    if version == make_fixture.SEALED:
        assert all(path.read_bytes().startswith(b"HFSEAL\0\1") for path in manifests)
        return
    number = 2 if version == make_fixture.PACKED else 1
    assert {path.read_bytes()[:8] for path in manifests} == {b"HFMANI\0" + bytes([number])}


def test_its_packs_are_encoded(version):
    packs = (HERE / version / "repository/packs").glob("*/*.pack")
    data = b"".join(pack.read_bytes() for pack in packs)
    is_compacted = version in make_fixture.COMPACTED
    assert (b"planes" in data, b"constant" in data) == (is_compacted, is_compacted)
    has_bases = version == make_fixture.DELTAS
    assert (b"delta" in data, b"narrowed" in data, b"HFPACK\0\2" in data) == (has_bases, has_bases, has_bases)
