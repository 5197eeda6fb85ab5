"""Names on disk: folders whose names are flushed, and what the file system is."""

import os
from pathlib import Path

import pytest

from dicom_io import files

pytestmark = pytest.mark.unit


def test_every_new_folder_is_flushed_into_the_one_above_before_anything_is_made_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, str]] = []
    mkdir, sync = Path.mkdir, files.sync_folder
    monkeypatch.setattr(Path, "mkdir", lambda p, **more: (calls.append(("make", p.name)), mkdir(p, **more))[1])
    monkeypatch.setattr(files, "sync_folder", lambda p: (calls.append(("flush", p.name)), sync(p))[1])
    files.make_folders(tmp_path / "a" / "b" / "c", tmp_path / "a" / "b" / "d")
    assert (tmp_path / "a" / "b" / "c").is_dir()
    assert (tmp_path / "a" / "b" / "d").is_dir()
    top = tmp_path.name
    assert calls[-7:] == [
        ("make", "a"), ("flush", top), ("make", "b"), ("flush", "a"), ("make", "c"), ("make", "d"), ("flush", "b"),
    ]  # fmt: skip
    calls.clear()
    files.make_folders(tmp_path / "a" / "b" / "c")
    assert ("flush", "b") in calls, "whoever made it may have died before"


def test_a_folder_above_that_may_not_be_read_is_passed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(_path: Path) -> None:
        raise PermissionError

    monkeypatch.setattr(files, "sync_folder", denied)
    files.make_folders(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()


def test_the_file_system_is_named(tmp_path: Path) -> None:
    assert files.mounted_as(Path("/proc"))[0] == "proc"
    assert files.mounted_as(Path("/proc/self/fd"))[0] == "proc"
    kind, options = files.mounted_as(tmp_path)
    assert kind not in ("", "proc")
    assert {"rw", "ro"} & set(options)


def test_flushing_is_tried_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert files.try_flushing(tmp_path) >= 0.0
    assert not list(tmp_path.iterdir())

    def broken(_descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError, match="Input/output"):
        files.try_flushing(tmp_path)
    assert not list(tmp_path.iterdir())
