"""Files that get their names together: whole and durable before, or not there at all."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.adapters.recordings import drafts as module
from gateway.adapters.recordings.drafts import CHUNK, Drafts


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def test_files_have_their_names_once_they_are_whole(tmp_path: Path) -> None:
    large = [os.urandom(CHUNK - 1), b"", os.urandom(CHUNK), b"end"]
    new = tmp_path / "2026" / "11"
    with Drafts() as drafts:
        drafts.write(0, new, "a.gwrec", large)
        drafts.write(1, tmp_path, "a.key", [b"key"])
        assert not (new / "a.gwrec").exists()
        assert drafts.name_all() == {}
    assert (new / "a.gwrec").read_bytes() == b"".join(large)
    assert (tmp_path / "a.key").read_bytes() == b"key"
    assert stat.S_IMODE((new / "a.gwrec").stat().st_mode) == 0o600
    assert stat.S_IMODE(new.stat().st_mode) == 0o700
    assert (names(new), names(tmp_path)) == ({"a.gwrec"}, {"a.key", "2026"})


def test_what_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    def broken() -> Iterator[bytes]:
        yield b"half"
        raise OSError("the spool is gone")

    with Drafts() as drafts:
        with pytest.raises(OSError, match="gone"):
            drafts.write(0, tmp_path, "a", broken())
        drafts.write(1, tmp_path, "b", [b"whole"])
        assert drafts.name_all() == {}
    assert names(tmp_path) == {"b"}


def test_one_that_cannot_be_synced_has_no_name_and_the_others_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync = os.fsync

    def failing(descriptor: int) -> None:
        if os.path.samestat(os.fstat(descriptor), (tmp_path / ".b.draft").stat()):
            raise OSError("no space left")
        fsync(descriptor)

    with Drafts() as drafts:
        for number, name in enumerate("abc"):
            drafts.write(number, tmp_path, name, [name.encode()])
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", failing)
            assert list(drafts.name_all()) == [1]
    assert names(tmp_path) == {"a", "c"}


def test_what_lies_in_a_directory_that_cannot_be_synced_has_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(path: Path) -> None:
        if path == tmp_path / "x":
            raise OSError("broken")

    monkeypatch.setattr(module, "sync_directory", failing)
    with Drafts() as drafts:
        drafts.write(0, tmp_path / "x", "a", [b"a"])
        drafts.write(1, tmp_path / "y", "b", [b"b"])
        drafts.write(2, tmp_path / "x", "c", [b"c"])
        assert set(drafts.name_all()) == {0, 2}


def test_what_was_not_named_is_gone(tmp_path: Path) -> None:
    def stopped() -> None:
        with Drafts() as drafts:
            drafts.write(0, tmp_path, "a", [b"a"])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert names(tmp_path) == set()
