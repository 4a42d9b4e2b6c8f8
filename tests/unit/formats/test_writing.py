"""Files that are written in one step, and what cannot be."""

import os
from pathlib import Path

import pytest

from milpq.errors import UsageError
from milpq.formats.writing import check_place, replace_file


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    place = tmp_path / "a b.json"
    place.write_text("a longer text than the next")
    check_place(place)
    replace_file(place, b"new")
    assert place.read_bytes() == b"new"
    assert [path.name for path in tmp_path.iterdir()] == ["a b.json"]


def test_a_link_stays_one(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    (tmp_path / "link").symlink_to("file")
    replace_file(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_bytes() == b"new"


def test_what_is_no_file_is_written_to(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        check_place(pipe)
        replace_file(pipe, b"new")
        assert os.read(reader, 10) == b"new"
    finally:
        os.close(reader)
    assert pipe.is_fifo()


def test_bad_places_are_named_with_their_option(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^--report .*: is a directory"):
        check_place(tmp_path, "--report")
    with pytest.raises(UsageError, match="there is no directory"):
        check_place(tmp_path / "none" / "x.json")
