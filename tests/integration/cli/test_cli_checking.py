from __future__ import annotations

import errno
import json
import re

import numpy as np
import pytest

from holdfast.errors import StorageError
from holdfast.repository.layout import CONFIG
from holdfast.storage.local import LocalStorage


def flip(path, at):
    data = bytearray(path.read_bytes())
    data[at] ^= 0xFF
    path.write_bytes(data)


def pack_of(place, name, checkpoint):
    (pack,) = place.run(name).hints(checkpoint)
    return place.path / "packs" / pack[:2] / f"{pack}.pack"


def test_verify_names_tensor_and_pack_and_rejects(place, digits, holdfast):
    assert "All intact: 4 checkpoints" in holdfast("verify").out
    pack = pack_of(place, "digits", digits[300])
    flip(pack, 5000)
    result = holdfast("verify", "--json")
    assert result.code == 4
    bad = [c for c in result.json["checkpoints"] if not c["ok"]]
    assert [c["step"] for c in bad] == [300]
    assert pack.stem in bad[0]["tensors"]["model/w"]
    assert bad[0]["rejected_now"]
    assert place.run("digits").rejected() == {str(digits[300])}
    again = holdfast("verify", "digits@300")
    assert again.code == 4
    assert "model/w" in again.out


def test_verify_dry_run_changes_nothing(place, digits, holdfast):
    flip(pack_of(place, "digits", digits[300]), 5000)
    before = sorted(p for p in place.path.rglob("*") if p.is_file())
    assert holdfast("verify", "--dry-run").code == 4
    assert sorted(p for p in place.path.rglob("*") if p.is_file()) == before


def test_verify_does_not_reject_for_a_missing_pack(place, digits, holdfast):
    pack_of(place, "digits", digits[300]).unlink()
    result = holdfast("verify", "digits", "--json")
    assert result.code == 4
    assert result.json["damaged"] == 1
    assert place.run("digits").rejected() == set()


@pytest.fixture
def bad_sector(place, monkeypatch):
    """A checkpoint of three tensors, of which the disk cannot read the one in the middle."""
    arrays = {"good": np.arange(5000), "bad": np.arange(5000, 10_000), "fine": np.ones(5000)}
    place.save("digits", place.attempt("digits"), 1, arrays)
    get, read_into, sector = LocalStorage.get, LocalStorage.read_into, 60_000

    def refuse(key, start, stop):
        if key.endswith(".pack") and start <= sector < stop:
            raise StorageError("Reading failed: the device reported an I/O error.", errno=errno.EIO)

    def getting(self, key, start=0, stop=None):
        if stop is not None and stop - start <= arrays["bad"].nbytes:  # the index is read with more
            refuse(key, start, stop)
        return get(self, key, start, stop)

    def reading(self, key, start, buffer):
        refuse(key, start, start + len(buffer))
        return read_into(self, key, start, buffer)

    monkeypatch.setattr(LocalStorage, "get", getting)
    monkeypatch.setattr(LocalStorage, "read_into", reading)


def test_verify_tells_what_the_disk_cannot_read_and_rejects_nothing(place, bad_sector, holdfast):
    result = holdfast("verify", "digits", "--json")
    assert result.code == 4
    (told,) = result.json["checkpoints"]
    assert list(told["tensors"]) == ["model/bad"]
    assert "it cannot be read: Reading failed" in told["tensors"]["model/bad"]
    assert not told["rejected_now"]
    assert place.run("digits").rejected() == set()
    assert not list((place.path / "damaged").rglob("*.json"))


def test_verify_names_a_damaged_manifest(place, digits, holdfast):
    flip(place.manifest_path("digits", digits[400]), -1)
    result = holdfast("verify", "digits", "--json")
    assert result.code == 4
    assert "digest" in result.json["checkpoints"][-1]["manifest"]
    assert place.run("digits").latest() == digits[300]


def test_verify_mends_from_another_repository(place, digits, holdfast, tmp_path):
    copy = str(tmp_path / "copy")
    assert holdfast("sync", str(place.path), copy).code == 0
    before = holdfast("ls", "--json").json
    flip(pack_of(place, "digits", digits[300]), 5000)
    flip(place.manifest_path("digits", digits[400]), -1)
    result = holdfast("verify", "--repair-from", copy)
    assert result.code == 0
    assert "2 of 4 checkpoints" in result.out
    assert re.search(r"digits@300: whole again; [1-9]\S* \S+ came from ", result.out)
    assert f"digits@400: whole again; 0 B came from {copy}." in result.out
    assert holdfast("ls", "--json").json == before
    assert "All intact: 4 checkpoints" in holdfast("verify").out
    assert "Nothing to mend" in holdfast("repair").out


def test_packs_that_are_cut_short_are_mended_as_repair_says(place, digits, holdfast, tmp_path):
    copy = str(tmp_path / "copy")
    assert holdfast("sync", str(place.path), copy).code == 0
    for step in (300, 400):
        pack = pack_of(place, "digits", digits[step])
        pack.write_bytes(pack.read_bytes()[:60])
    damaged = r"no readable pack holds it \(Pack \w+ is damaged: it is truncated, and others are\)\n"
    assert re.search(damaged, holdfast("verify").out)
    told = holdfast("repair").out
    assert re.search(r"it is truncated\. Without it checkpoints lack \d chunks\.\n", told)
    assert "None is intact in it; 'holdfast verify --repair-from PLACE' brings them from a copy." in told
    assert holdfast("verify", "--repair-from", copy).code == 0
    assert "Without it checkpoints lack nothing." in holdfast("repair").out
    assert holdfast("repair", "--apply").code == 0
    assert "All intact: 4 checkpoints" in holdfast("verify").out


def test_verify_says_what_another_repository_cannot_mend(place, digits, holdfast, tmp_path):
    copy = str(tmp_path / "copy")
    assert holdfast("sync", "--latest", str(place.path), copy, "digits").code == 0
    flip(pack_of(place, "digits", digits[300]), 5000)
    flip(pack_of(place, "digits", digits[400]), 5000)
    result = holdfast("verify", "digits", "--repair-from", copy, "--json")
    assert result.code == 4
    assert {c["step"]: c["mended"] for c in result.json["checkpoints"] if not c["ok"]} == {
        300: False,
        400: True,
    }
    assert result.json["moved_bytes"] > 0
    again = holdfast("verify", "digits", "--repair-from", copy)
    assert again.code == 4
    assert "digits@300: still damaged: " in again.out
    assert "was found damaged before" in again.out
    assert holdfast("verify", "--dry-run", "--repair-from", copy).code == 2
    nowhere = holdfast("verify", "--repair-from", str(tmp_path / "nowhere"))
    assert nowhere.code == 3
    assert "There is no repository" in nowhere.err


@pytest.mark.parametrize("damage", ["lost", "flipped"])
def test_repair_rebuilds_the_configuration(place, digits, holdfast, damage):
    path = place.path / CONFIG
    before = path.read_bytes()
    path.unlink() if damage == "lost" else path.write_bytes(before[:-9])
    assert holdfast("ls").code in (3, 4)
    assert "repair" in holdfast("ls").err
    assert holdfast("repair").code == 4
    assert not path.exists() or path.read_bytes() != before
    assert holdfast("repair", str(place.path), "--apply").code == 0
    assert path.read_bytes() == before
    assert "Nothing to mend" in holdfast("repair").out


def test_repair_without_any_manifest_guesses_nothing(place, holdfast):
    place.attempt("digits")
    (place.path / CONFIG).unlink()
    result = holdfast("repair", "--apply")
    assert result.code == 4
    assert "backup" in result.out
    assert not (place.path / CONFIG).exists()


def test_repair_rewrites_a_lost_base(place, digits, holdfast):
    path = place.path / place.run("digits").layout.base(digits[300].attempt)
    before = path.read_bytes()
    path.unlink()
    assert place.run("digits").latest() == digits[200]
    assert holdfast("repair", "--apply").code == 0
    assert path.read_bytes() == before
    assert place.run("digits").latest() == digits[400]


def test_repair_rewrites_a_base_from_the_first_checkpoint(place, digits, holdfast):
    attempt = digits[300].attempt
    path = place.path / place.run("digits").layout.base(attempt)
    before = path.read_bytes()
    path.write_bytes(b"garbage")
    assert "step 200" in holdfast("repair").out
    assert path.read_bytes() == b"garbage"
    assert holdfast("repair", "--apply").code == 0
    assert path.read_bytes() == before
    assert (place.path / "aside" / path.relative_to(place.path)).read_bytes() == b"garbage"
    assert place.run("digits").latest() == digits[400]


def test_repair_sets_the_base_of_an_empty_attempt_aside(place, digits, holdfast):
    attempt = place.attempt("digits", digits[400])
    (place.path / place.run("digits").layout.base(attempt)).write_bytes(b"")
    assert holdfast("repair", "--apply").code == 0
    assert place.run("digits").latest() == digits[400]


def test_repair_sets_an_unreadable_tag_aside_so_that_pruning_works(place, digits, holdfast):
    path = place.path / place.run("digits").layout.tag("paper")
    path.write_bytes(b"{")
    assert holdfast("prune", "digits", "--keep", "last 1", "--yes").code == 4
    assert holdfast("repair", "--apply").code == 0
    assert holdfast("prune", "digits", "--keep", "last 1", "--yes").code == 0


def test_repair_copies_chunks_out_of_a_pack_without_index(place, holdfast):
    rng = np.random.default_rng(0)
    attempt = place.attempt("digits")
    arrays = {f"w{i}": rng.standard_normal(n).astype(np.float32) for i, n in enumerate((5000, 17, 900, 17))}
    checkpoint = place.save("digits", attempt, 1, arrays)
    pack = pack_of(place, "digits", checkpoint)
    flip(pack, -1)
    assert holdfast("verify").code == 4
    assert place.run("digits").latest() is None
    assert "intact" in holdfast("repair").out
    assert holdfast("repair", "--apply").code == 0
    assert holdfast("repair", "--apply").code == 0
    assert holdfast("verify").code == 0
    assert place.run("digits").latest() == checkpoint
    assert not pack.exists()


def test_repair_finds_what_lies_behind_a_damaged_chunk(place, holdfast):
    attempt = place.attempt("digits")
    arrays = {f"w{i}": np.full(3000, i, np.float32) + np.arange(3000) for i in range(3)}
    checkpoint = place.save("digits", attempt, 1, {k: v.astype(np.float32) for k, v in arrays.items()})
    pack = pack_of(place, "digits", checkpoint)
    flip(pack, -1)
    flip(pack, 8 + 12_000 + 10)
    holdfast("repair", "--apply")
    result = holdfast("verify", "--json")
    assert set(result.json["checkpoints"][0]["tensors"]) == {"model/w1"}


def test_repair_withdraws_records_of_damage_that_is_gone(place, digits, holdfast):
    pack = pack_of(place, "digits", digits[400])
    sound = pack.read_bytes()
    flip(pack, 5000)
    assert holdfast("verify").code == 4
    assert place.run("digits").latest() == digits[300]
    pack.write_bytes(sound)
    assert holdfast("repair", "--apply").code == 0
    assert holdfast("repair", "--apply").code == 0
    assert holdfast("verify").code == 0
    assert place.run("digits").latest() == digits[400]


def test_what_was_found_damaged_stays_until_it_is_removed(place, digits, holdfast):
    pack = pack_of(place, "digits", digits[300])
    flip(pack, 5000)
    assert holdfast("verify").code == 4
    assert "Beyond mending, rejected as damaged: digits@300." in holdfast("repair").out
    assert holdfast("prune", "--yes").code == 0
    flip(pack, 5000)  # the disk was in order: it was the memory that read it
    assert holdfast("repair", "--apply").code == 0
    assert holdfast("repair", "--apply").code == 0
    assert "All intact: 4 checkpoints" in holdfast("verify").out
    flip(pack, 5000)
    assert holdfast("verify").code == 4
    assert holdfast("rm", "digits@300", "--yes").code == 0
    assert not pack.exists()


def test_repair_unblocks_pruning_after_a_manifest_was_lost_to_damage(place, digits, holdfast):
    run = place.run("digits")
    flip(place.manifest_path("digits", digits[300]), -1)
    (place.path / run.layout.hint(digits[300])).unlink()
    packs = place.packs()
    assert holdfast("prune", "--yes").code == 4
    assert holdfast("repair", "--apply").code == 0
    assert holdfast("prune", "--yes").code == 0
    assert place.packs() == packs
    assert holdfast("rm", "digits@300", "--yes").code == 0
    assert len(place.packs()) == len(packs) - 1


def test_repair_keeps_a_pack_that_an_unreadable_checkpoint_may_need(place, digits, holdfast):
    manifest, pack = place.manifest_path("digits", digits[300]), pack_of(place, "digits", digits[300])
    whole = manifest.read_bytes()
    flip(manifest, -1)
    flip(pack, -1)
    result = holdfast("repair", "--apply")
    assert result.code == 4
    assert "digits@300, whose manifest cannot be read, may need it" in " ".join(result.out.split())
    manifest.write_bytes(whole)  # from a backup
    assert holdfast("repair", "--apply").code == 0
    assert holdfast("repair", "--apply").code == 0
    assert holdfast("verify").code == 0


def test_rm_of_a_checkpoint_of_which_nothing_can_be_read(place, digits, holdfast):
    run = place.run("digits")
    flip(place.manifest_path("digits", digits[300]), -1)
    (place.path / run.layout.hint(digits[300])).unlink()
    assert holdfast("rm", "digits@300", "--yes").code == 0
    assert {c.step for c in run.checkpoints()} == {100, 200, 400}
    assert holdfast("verify").code == 0


def test_salvage_writes_intact_tensors(place, holdfast, tmp_path):
    attempt = place.attempt("digits")
    rng = np.random.default_rng(0)
    arrays = {
        "w": rng.standard_normal((30, 40)),
        "../evil": np.arange(9000),
        "half": np.arange(8, dtype=np.uint16),
    }
    place.save("digits", attempt, 1, arrays, dtypes={"half": "bfloat16"}, values={"lr": 0.1})
    (pack,) = place.packs()
    flip(pack, 30 * 40 * 8 + 30_000)
    folder = tmp_path / "rescued"
    result = holdfast("repair", "digits@1", "--salvage", str(folder), "--json")
    assert result.json["lost"].keys() == {"model/../evil"}
    assert not folder.exists()
    assert holdfast("repair", "digits@1", "--salvage", str(folder), "--apply").code == 0
    index = json.loads((folder / "tensors.json").read_text())
    np.testing.assert_array_equal(np.load(folder / index["tensors"]["model/w"]["file"]), arrays["w"])
    assert index["tensors"]["model/half"]["dtype"] == "bfloat16"
    assert index["lost"].keys() == {"model/../evil"}
    assert index["values"]["state"]["lr"] == 0.1
    assert sorted(p.name for p in folder.iterdir()) == ["000001.npy", "000003.npy", "tensors.json"]
    assert holdfast("repair", "digits@1", "--salvage", str(folder), "--apply").code == 2


def test_repair_of_one_checkpoint_needs_a_folder(digits, holdfast):
    assert "--salvage" in holdfast("repair", "digits@300").err
    assert holdfast("repair", "--salvage", "x").code == 2


def test_diff_measures_changed_tensors(place, holdfast):
    attempt = place.attempt("digits")
    base = np.array([3.0, 4.0, 0.0, 0.0], np.float32)
    place.save(
        "digits", attempt, 1, {"w": base, "same": base, "gone": base, "shape": base}, values={"lr": 0.1}
    )
    changed = base.copy()
    changed[3] = 5.0
    arrays = {"w": changed, "same": base, "new": base, "shape": base[:2]}
    place.save("digits", attempt, 2, arrays, values={"lr": 0.2})
    told = holdfast("diff", "digits@1", "digits@2", "--json").json
    tensors = {t["name"]: t for t in told["tensors"]}
    assert not told["equal"]
    assert tensors["model/w"]["max_abs"] == 5.0
    assert tensors["model/w"]["relative_l2"] == 1.0
    assert tensors["model/w"]["bit_equal"] == 0.75
    assert {n: t["status"] for n, t in tensors.items()} == {
        "model/w": "changed",
        "model/same": "equal",
        "model/gone": "only a",
        "model/new": "only b",
        "model/shape": "reshaped",
    }
    assert told["state"] == [{"name": "lr", "a": 0.1, "b": 0.2}]
    assert holdfast("diff", "digits@1", "digits@2", "--exit-code").code == 1
    same = holdfast("diff", "digits@1", "digits@1", "--exit-code")
    assert same.code == 0
    assert "same state" in same.out


def test_diff_shows_a_few_of_a_long_list_and_json_has_all(place, holdfast):
    attempt = place.attempt("digits")
    arrays = {"w": np.zeros(1)}
    place.save("digits", attempt, 1, arrays, values={"history": list(range(100)), "lr": 1})
    place.save("digits", attempt, 2, arrays, values={"history": list(range(1, 101)), "lr": 2})
    rows = [line.split() for line in holdfast("diff", "digits@1", "digits@2").out.splitlines()]
    assert ["history/2", "2", "3"] in rows
    assert ["history/...", "and", "97", "more"] in rows
    assert ["lr", "1", "2"] in rows
    assert len(rows) < 10
    assert len(holdfast("diff", "digits@1", "digits@2", "--json").json["state"]) == 101


def test_diff_tells_nan_and_negative_zero_by_their_bits(place, holdfast):
    attempt = place.attempt("digits")
    place.save("digits", attempt, 1, {"w": np.array([0.0, np.nan, 1.0])})
    place.save("digits", attempt, 2, {"w": np.array([-0.0, np.nan, np.inf])})
    (tensor,) = holdfast("diff", "digits@1", "digits@2", "--json").json["tensors"]
    assert tensor["bit_equal"] == pytest.approx(1 / 3)
    assert tensor["max_abs"] == 0.0
    assert tensor["not_finite"] == 1


def test_repair_names_a_folder_that_may_be_a_run_and_deletes_no_pack_beside_it(place, digits, holdfast):
    renamed = (place.path / "runs/digits").rename(place.path / "runs/digits (old)")
    pack = place.packs()[0]
    whole = pack.read_bytes()
    pack.write_bytes(whole[:-100] + bytes(100))
    found = holdfast("repair", "--apply", "--json")
    assert found.code == 4
    assert {f["kind"] for f in found.json["findings"]} == {"folder", "pack"}
    assert found.json["applied"] == 0
    assert holdfast("prune").code == 4
    pack.write_bytes(whole)
    renamed.rename(place.path / "runs/digits")
    assert holdfast("repair").code == 0
    assert holdfast("verify").code == 0


def test_salvage_leaves_out_what_the_disk_cannot_read(bad_sector, holdfast, tmp_path):
    result = holdfast("repair", "digits@1", "--salvage", str(tmp_path / "rescued"), "--apply", "--json")
    assert result.code == 0
    assert result.json["intact"] == ["model/good", "model/fine"]
    assert "I/O error" in result.json["lost"]["model/bad"]


def test_doctor_looks_into_a_repository_given_by_a_url(place, digits, holdfast):
    url = f"file://{place.path}"
    found = {c["subject"]: c["finding"] for c in holdfast("doctor", url, "--json").json["checks"]}
    assert found["repository"] == "1 run (0 live), 4 checkpoints"
    (place.path / "holdfast.json").write_text("{}")
    assert holdfast("doctor", url).code == 1
    above = holdfast("doctor", f"{url}-of-tomorrow").out
    assert f"looking at {place.path.parent}." in above


def test_doctor_counts_only_rejected_checkpoints_that_are_there(place, digits, holdfast):
    place.run("digits").reject(digits[200], "test")
    assert "1 checkpoint rejected" in holdfast("doctor").out
    assert holdfast("rm", "digits@200", "--yes").code == 0
    assert "rejected as damaged" not in holdfast("doctor").out


def test_doctor_finds_a_disk_on_which_no_launch_could_save(place, digits, holdfast, monkeypatch):
    spare_bytes = 16 << 20
    for free_bytes, code, told in (
        (spare_bytes + 12_500, 0, "- free space:    16.0 MiB\n"),
        (spare_bytes + 11_000, 1, "! free space:    16.0 MiB, too little for a checkpoint of 11.7 KiB and"),
        (spare_bytes - 1, 1, "that are kept free: make room."),
    ):
        monkeypatch.setattr(LocalStorage, "free_bytes", lambda _, found=free_bytes: found)
        result = holdfast("doctor")
        assert result.code == code
        assert told in result.out
    empty = holdfast("doctor", str(place.path.parent / "tomorrow")).out
    assert "16.0 MiB, too little for the 16.0 MiB that are kept free" in empty
