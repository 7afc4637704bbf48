"""Tests of writing files whole or not at all: property."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from types import SimpleNamespace

import pytest

from medcontrast import files
from medcontrast.errors import OutputError
from medcontrast.files import make_folder, require_free, staged, write_atomically, write_text


@pytest.fixture
def mask():
    before = os.umask(0o027)
    yield
    os.umask(before)


def test_text_is_utf_8_and_replaces_what_was_there(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "old, and longer")
    write_text(path, "µ\n")
    assert path.read_bytes() == "µ\n".encode()
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.txt"]


def test_a_file_gets_the_mode_that_the_umask_asks_for(tmp_path, mask):
    write_text(tmp_path / "a.txt", "x")
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == 0o640


def test_an_existing_file_is_replaced_where_that_was_asked_for(tmp_path):
    paths = [tmp_path / name for name in ("new", "a.txt", "b.txt", "c.txt")]
    for path in paths[1:]:
        write_text(path, "old")
    require_free(*paths, overwrite=True)
    require_free(paths[0], overwrite=False)
    for some, more in ((paths, r" \(and 2 more\)"), (paths[:3], r" \(and 1 more\)"), (paths[:2], "")):
        sentence = rf"{paths[1]}: exists already{more}; add --overwrite, or name another output\.$"
        with pytest.raises(OutputError, match=sentence):
            require_free(*some, overwrite=False)
    with pytest.raises(OutputError, match=r"a\.txt: exists already; add --overwrite, or name another output\.$"):
        write_text(paths[1], "new", overwrite=False)
    assert paths[1].read_text() == "old"
    write_text(paths[0], "new", overwrite=False)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a.txt", "b.txt", "c.txt", "new"]


def test_a_place_that_cannot_be_written(tmp_path):
    file, folder = tmp_path / "file", tmp_path / "folder"
    file.write_text("old")
    folder.mkdir()
    long = tmp_path / ("x" * 300)
    for ask in (lambda path: require_free(path, overwrite=True), lambda path: write_text(path, "x")):
        for path in (file / "a.txt", file / "deeper" / "a.txt"):
            with pytest.raises(OutputError, match=rf"a\.txt: cannot be written \({file} is no folder\); name another"):
                ask(path)
        for path in (folder, Path(), Path("..")):
            with pytest.raises(OutputError, match=rf"{path}: is a folder, but a file would be written there; name"):
                ask(path)
        with pytest.raises(OutputError, match=r"x: cannot be written \(File name too long\)\.$"):
            ask(long)
    with pytest.raises(OutputError, match=r"file/deeper: cannot be written \(Not a directory\)\.$"):
        make_folder(file / "deeper")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["file", "folder"]


def test_a_folder_that_one_may_not_write_to(tmp_path, monkeypatch):
    asked = []

    def no(path, mode):
        asked.append((path, mode))
        return False

    monkeypatch.setattr(os, "access", no)  # root may write everywhere
    sentence = rf"a\.txt: cannot be written \({tmp_path} is not writable\); name another output\.$"
    for path in (tmp_path / "a.txt", tmp_path / "new" / "deeper" / "a.txt"):
        with pytest.raises(OutputError, match=sentence):
            require_free(path, overwrite=False)
        with pytest.raises(OutputError, match=sentence):
            write_text(path, "x")
    assert asked == [(tmp_path, os.W_OK | os.X_OK)] * 4
    assert list(tmp_path.iterdir()) == []


def test_asking_changes_nothing_and_writing_makes_the_folder(tmp_path):
    require_free(tmp_path / "new" / "deeper" / "a.txt", overwrite=False)
    assert list(tmp_path.iterdir()) == []
    write_text(tmp_path / "new" / "deeper" / "a.txt", "x")
    assert (tmp_path / "new" / "deeper" / "a.txt").read_text() == "x"


def test_what_fails_midway_leaves_what_was_there(tmp_path):
    path = tmp_path / "a.bin"
    write_text(path, "old")

    def half(file):
        file.write(b"ne")
        raise OSError(28, "No space left on device")

    with pytest.raises(OutputError, match=r"a\.bin: cannot be written \(.*No space left on device"):
        write_atomically(path, half)
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.bin"]


def test_a_file_is_on_the_disk_whole_before_it_takes_the_old_one_s_place(tmp_path, monkeypatch):
    path, seen = tmp_path / "a.txt", []
    write_text(path, "old")

    def synced(number):
        (temporary,) = (entry for entry in tmp_path.iterdir() if entry != path)
        seen.append((path.read_text(), temporary.read_text(), os.fstat(number).st_ino == temporary.stat().st_ino))

    monkeypatch.setattr(os, "fsync", synced)
    write_text(path, "new")
    assert seen == [("old", "new", True)]
    assert path.read_text() == "new"


@pytest.mark.parametrize("failure", [KeyboardInterrupt, ValueError])
def test_nothing_temporary_stays_whatever_stops_a_write(tmp_path, failure):
    def stop(file):
        file.write(b"half")
        assert len(list(tmp_path.iterdir())) == 1
        raise failure("stopped")

    with pytest.raises(failure, match="stopped"):
        write_atomically(tmp_path / "a.bin", stop)
    assert list(tmp_path.iterdir()) == []


def test_staged_files_appear_together_and_the_rest_is_lost(tmp_path):
    folder = tmp_path / "new" / "model"
    with staged(folder, "a.txt", "b.txt") as stage:
        for name in ("a.txt", "b.txt", "scrap.txt"):
            write_text(stage / name, name)
        assert [path for path in folder.iterdir() if path.is_file()] == []
    assert {path.name: path.read_text() for path in folder.iterdir()} == {"a.txt": "a.txt", "b.txt": "b.txt"}
    mode = stat.S_IMODE((folder / "a.txt").stat().st_mode)
    write_text(tmp_path / "plain.txt", "x")
    assert mode == stat.S_IMODE((tmp_path / "plain.txt").stat().st_mode)


@pytest.mark.parametrize("failure", [KeyboardInterrupt, ValueError, OSError])
def test_staged_files_stay_away_where_the_block_fails(tmp_path, failure):
    write_text(tmp_path / "a.txt", "old")
    with pytest.raises(failure, match="stopped"), staged(tmp_path, "a.txt") as stage:
        write_text(stage / "a.txt", "new")
        raise failure("stopped")
    assert (tmp_path / "a.txt").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_a_folder_that_cannot_hold_staged_files(tmp_path):
    write_text(tmp_path / "file", "old")
    with pytest.raises(OutputError, match=r"file: cannot be written \(File exists\)\.$"), staged(tmp_path / "file"):
        pass
    (tmp_path / "a.txt").mkdir()
    with (
        pytest.raises(
            OutputError, match=r"a\.txt: is a folder, but a file would be written there; name another output\.$"
        ),
        staged(tmp_path, "a.txt") as stage,
    ):
        write_text(stage / "a.txt", "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt", "file"]


@pytest.mark.parametrize("links", [True, False])
def test_what_comes_there_while_a_file_is_written_is_not_replaced(tmp_path, monkeypatch, links):
    if not links:  # as on file systems that know none
        monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(PermissionError(1, "Operation not permitted")))
    path = tmp_path / "a.txt"

    def write(file):
        file.write(b"ours")
        path.write_text("theirs")

    with pytest.raises(OutputError, match=r"a\.txt: exists already; add --overwrite, or name another output\.$"):
        write_atomically(path, write, overwrite=False)
    assert path.read_text() == "theirs"
    write_atomically(tmp_path / "b.txt", lambda file: file.write(b"ours"), overwrite=False)
    assert {found.name for found in tmp_path.iterdir()} == {"a.txt", "b.txt"}


def test_staged_files_all_stay_away_where_one_cannot_go_to_its_place(tmp_path):
    (tmp_path / "b.txt").mkdir()
    with pytest.raises(OutputError, match=r"b\.txt: is a folder"), staged(tmp_path, "a.txt", "b.txt") as stage:
        for name in ("a.txt", "b.txt"):
            write_text(stage / name, "new")
    assert [path.name for path in tmp_path.iterdir()] == ["b.txt"]


@pytest.mark.parametrize(("free", "words"), [(1000, "No space left on device"), (10**9, "unexpected pos 7 vs 5")])
def test_a_full_disk_is_said_in_plain_words_whoever_writes(tmp_path, monkeypatch, free, words):
    """torch.save raises a RuntimeError of its own there."""

    def fails(file):
        raise RuntimeError("unexpected pos 7 vs 5")

    monkeypatch.setattr(files.shutil, "disk_usage", lambda folder: SimpleNamespace(free=free))
    with pytest.raises(OutputError, match=rf"a\.bin: cannot be written \({words}\)\.$"):
        files.write_atomically(tmp_path / "a.bin", fails)
    assert list(tmp_path.iterdir()) == []
