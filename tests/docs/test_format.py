"""docs/format.md is enough to read what Holdfast writes: see the reader beside this file."""

import ast
import importlib.util
import json
import math
import struct
import sys
from pathlib import Path

import numpy as np
import pytest

import holdfast
from checkpoints import begin, draft
from holdfast.repository import compact
from holdfast.repository.commit import commit, encode_details
from holdfast.repository.parts import join_parts, put_part, write_part
from holdfast.repository.repository import Repository
from holdfast.repository.sync_plan import Route
from holdfast.repository.syncing import sync_run
from holdfast.storage.local import LocalStorage
from holdfast.storage.urls import open_storage

HERE = Path(__file__).parent


def _load(name):
    spec = importlib.util.spec_from_file_location(name, HERE / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


format_reader, format_unsealer = _load("format_reader"), _load("format_unsealer")


def _state():
    rng = np.random.default_rng(7)
    return {
        "weights": rng.standard_normal((70, 30)).astype("f4"),
        "large": rng.integers(0, 256, 5_000_000).astype(np.uint8),
        "zeros": np.zeros(12_345),
        "again": np.arange(12, dtype=">i4").reshape(3, 4).T,
        "empty": np.zeros((0, 4)),
        "scalar": np.array(2.5 + 1j),
        "plain": {"n": 2**70, "pair": (1, "two"), 3: {4, 5}, "nan": math.nan, "raw": b"\x00\xff", "c": 1j},
    }


@pytest.fixture
def repository(tmp_path):
    state = _state()
    with holdfast.Checkpointer(tmp_path / "r", state, run="a/b", save="every 2 steps", keep="last 3") as ckpt:
        for step in ckpt.steps(6):
            state["weights"] += 1
            ckpt.step(loss=step)
    return tmp_path / "r", state


def test_reads_every_byte_that_was_written(repository):
    root, state = repository
    reader = format_reader.Reader(root, "a/b")
    latest = reader.latest()
    assert latest.step == 6
    summary, details, table = reader.manifest(latest)
    assert summary["metrics"] == {"loss": 5.0}
    for name in ("weights", "large", "again", "empty", "scalar"):
        little = np.ascontiguousarray(state[name], dtype=state[name].dtype.newbyteorder("<"))
        assert reader.tensor(table, name) == little.tobytes(), name
    tree = format_reader.value(details["tree"])
    assert tree["weights"] == ("tensor", "weights", "numpy", "cpu")
    plain = tree["plain"]
    assert struct.pack("<d", plain.pop("nan")) == struct.pack("<d", math.nan)
    assert plain == {"n": 2**70, "pair": (1, "two"), 3: {4, 5}, "raw": b"\x00\xff", "c": 1j}


def test_a_sealed_repository_is_the_same_inside(tmp_path, monkeypatch):
    monkeypatch.setenv("HOLDFAST_KEY", "holdfast-key-1-" + "5a" * 32)
    state = _state()
    holdfast.save(tmp_path / "sealed", state, step=7, run="a/b")
    format_unsealer.unseal(tmp_path / "sealed", b"\x5a" * 32, tmp_path / "open")
    reader = format_reader.Reader(tmp_path / "open", "a/b")
    _, _, table = reader.manifest(reader.latest())
    assert reader.tensor(table, "large") == state["large"].tobytes()


def test_agrees_on_latest_after_restart_and_rejection(repository):
    root, _ = repository
    repo = holdfast.open(root)
    with holdfast.Checkpointer(root, _state(), run="a/b", resume=4, save=None) as ckpt:
        assert ckpt.progress.step == 4
    reader = format_reader.Reader(root, "a/b")
    assert reader.latest().step == repo["a/b"].latest.step == 4  # step 6 is a dead branch now
    name = reader.latest().path.stem
    rejected = root / "runs/a/b/rejected"
    rejected.mkdir()
    (rejected / f"{name}.json").write_text("")  # the name alone rejects
    assert reader.latest().step == repo["a/b"].latest.step == 2


def test_reads_forks_and_what_a_sync_has_brought(repository, tmp_path):
    root, state = repository
    forked = holdfast.open(root)["a/b"][4].fork("branch")
    source, target = Repository.open(LocalStorage(root)), Repository.create(LocalStorage(tmp_path / "s", create=True))
    for name in ("branch", "a/b"):
        sync_run(Route(source, target), name)
    for place in (root, tmp_path / "s"):
        assert format_reader.Reader(place, "a/b").latest().step == 6
        reader = format_reader.Reader(place, "branch")
        summary, _, table = reader.manifest(reader.latest())
        assert summary["reason"] == "forked from a/b@4"
        little = forked.latest.load()["weights"].astype("<f4")
        assert reader.tensor(table, "weights") == little.tobytes()


def test_reads_chunks_that_are_encoded_by_others(tmp_path):
    rng = np.random.default_rng(3)
    wide = (rng.standard_normal(2000) * 0.02).astype("f4")
    wide[:4] = [1e9, -1e-7, 65519.0, np.nan]
    half = np.zeros(2000, "f2")
    state = {"wide": wide, "half": half, "ids": rng.integers(0, 2**40, 1001), "odd": wide[:7].copy()}
    expected = {}
    Repository.create(LocalStorage(tmp_path / "r", create=True), chunk_bytes=4096)
    for step in (1, 2, 3, 4):
        state["wide"] += (rng.standard_normal(2000) * 1e-6).astype("f4")
        state["ids"] += rng.integers(-3, 4, 1001)
        with np.errstate(all="ignore"):
            state["half"][:] = state["wide"].astype("f2")
        state["half"][3] = np.frombuffer(b"\x00\x7e", "f2")[0]
        holdfast.save(tmp_path / "r", state, run="a", step=step)
        expected[step] = {name: array.tobytes() for name, array in state.items()}
    opened = Repository.open(LocalStorage(tmp_path / "r"))
    compact.apply(compact.plan(opened))
    codecs = {e[4] for pack in tmp_path.glob("r/packs/*/*.pack") for e in format_reader.read_index(pack)}
    assert {"rotated-delta", "narrowed"} <= codecs
    reader = format_reader.Reader(tmp_path / "r", "a")
    for name in reader.names():
        *_, table = reader.manifest(name)
        for tensor, data in expected[name.step].items():
            assert reader.tensor(table, tensor) == data, (name.step, tensor)


def test_reads_what_several_ranks_have_saved_together(tmp_path):
    run = Repository.create(open_storage(str(tmp_path / "r"), create=True)).run("main")
    attempt = begin(run)
    states = [{"model": b"the same" * 9, "own": bytes([rank]) * 50} for rank in (0, 1)]
    zero, one = (draft(attempt, 1, 10, state) for state in states)

    def join(manifest, written, gather):
        first = put_part(run, 0, manifest, list(written.new_packs))
        name = write_part(run, one, encode_details(one), 1, first)
        return join_parts(run, manifest, written, gather, {1: name})

    commit(run, zero, join=join)
    reader = format_reader.Reader(tmp_path / "r", "main")
    _, details, table = reader.manifest(reader.latest())
    assert reader.ranks == [[None, None, None]]
    assert sorted(table[1]) == ["model", "own", "rank 1/own"]
    for rank, state in enumerate(states):
        assert {name: reader.tensor_of_rank(table, rank, name) for name in state} == state


def test_reads_encoded_packs(repository):
    root, state = repository
    opened = Repository.open(LocalStorage(root))
    compact.apply(compact.plan(opened))
    codecs = {e[4] for pack in root.glob("packs/*/*.pack") for e in format_reader.read_index(pack)}
    assert codecs == {"raw", "planes", "constant", "rotated-delta"}
    reader = format_reader.Reader(root, "a/b")
    *_, table = reader.manifest(reader.latest())
    for name in ("weights", "large", "zeros", "again", "empty", "scalar"):
        little = np.ascontiguousarray(state[name], dtype=state[name].dtype.newbyteorder("<"))
        assert reader.tensor(table, name) == little.tobytes(), name


@pytest.mark.parametrize("version", ["v1", "v1-encoded", "v1-deltas", "v1-packed"])
def test_reads_what_earlier_versions_wrote(version):
    place = HERE.parent / "compat" / version
    reader = format_reader.Reader(place / "repository", "old/run")
    latest = reader.latest()
    *_, table = reader.manifest(latest)
    arrays = json.loads((place / "expected.json").read_text())[str(latest.step)]["arrays"]
    for name, (_, _, data) in arrays.items():
        assert reader.tensor(table, name).hex() == data, name


def test_chunks_are_written_once(repository):
    root, _ = repository
    packs = list(root.glob("packs/*/*.pack"))
    stored = sum(entry[2] for pack in packs for entry in format_reader.read_index(pack))
    assert stored < 5_000_000 + 12_345 * 8 + 4 * 70 * 30 * 4 + 1000


def test_the_reader_knows_nothing_of_holdfast():
    tree = ast.parse((HERE / "format_reader.py").read_text())
    names = [a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names]
    names += [n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)]
    known = {*sys.stdlib_module_names, "backports", "compression", "blake3", "msgspec"}
    assert {name.partition(".")[0] for name in names} <= known


def test_the_page_names_every_dtype_folder_and_tag():
    from holdfast.domain import tree
    from holdfast.domain.names import RESERVED_SEGMENTS
    from holdfast.domain.tensors import ITEM_BYTES
    from holdfast.repository import layout

    text = (HERE.parent.parent / "docs/format.md").read_text()
    for name in (*ITEM_BYTES, *RESERVED_SEGMENTS):
        assert name in text, name
    for constant in (layout.REPOSITORY_LOCK, layout.TURN_LOCK, *_folders()):
        assert constant in text, constant
    for tag in tree._DECODERS:
        assert f'["{tag}"' in text, tag
    for kind in _kinds():
        assert f"`{kind}`" in text, kind


def _folders():
    from holdfast.repository import layout

    run = layout.RunLayout("x")
    for value in (*vars(layout).values(), *vars(run).values()):
        if isinstance(value, str) and value.endswith("/"):
            yield value.removeprefix(run.root) or "runs/"


def _kinds():
    source = HERE.parent.parent / "src/holdfast/frameworks"
    for path in source.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            targets = [t.id for t in getattr(node, "targets", []) if isinstance(t, ast.Name)]
            if (
                isinstance(node, ast.Assign)
                and targets in (["kind"], ["KIND"])
                and isinstance(node.value, ast.Constant)
            ):
                yield node.value.value
