"""Tests of writing files whole or not at all: property."""

from __future__ import annotations

import os
import stat

import pytest

from medcontrast.errors import OutputError
from medcontrast.files import write_atomically, write_text


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


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("old")
    with pytest.raises(OutputError, match=r"file/a\.txt: cannot be written \("):
        write_text(tmp_path / "file" / "a.txt", "x")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError, match=r"folder: cannot be written \("):
        write_text(tmp_path / "folder", "x")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["file", "folder"]


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
