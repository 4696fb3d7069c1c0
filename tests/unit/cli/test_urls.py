from __future__ import annotations

import pytest

from holdfast.errors import NotFoundError, UsageError
from holdfast.storage.urls import open_storage


def test_paths_and_file_urls_are_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "with space").mkdir()
    for place in ("with space", "./with space", tmp_path / "with space", f"file://{tmp_path}/with%20space"):
        assert open_storage(place).location == str(tmp_path / "with space")
    assert open_storage("new/deep", create=True).location == str(tmp_path / "new/deep")


def test_an_absent_folder_is_not_made(tmp_path):
    with pytest.raises(NotFoundError, match="no repository"):
        open_storage(tmp_path / "absent")
    assert not (tmp_path / "absent").exists()


def test_memory_is_shared_by_name():
    open_storage("memory://urls-a").put_if_absent("x", b"1")
    assert open_storage("memory://urls-a").get("x") == b"1"
    assert open_storage("memory://urls-b").stat("x") is None


@pytest.mark.parametrize(
    "place",
    [
        "ftp://bucket/x",
        "s3://",
        "s3://bucket/x?colour=red",
        "http://host/x",
        "file://host/x",
        "file://",
        "memory://",
        "memory://a/b",
        "a\0b",
    ],
)
def test_others_are_refused_in_a_sentence(place):
    with pytest.raises(UsageError) as caught:
        open_storage(place, create=True)
    assert caught.value.do


def test_a_file_is_no_repository(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="is a file"):
        open_storage(tmp_path / "file", create=True)
