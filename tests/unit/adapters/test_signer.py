from errno import ENOSPC
from pathlib import Path

import pytest

from gateway.adapters.signer import Signer, replace_private
from gateway.audit.checkpoint import Checkpoint, open_checkpoint
from gateway.audit.merkle import EMPTY_ROOT

ORIGIN = "gw.test/audit"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys" / "log.key"


def test_the_key_is_made_once_and_private(path: Path):
    key = Signer(path).verifier(ORIGIN)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert Signer(path).verifier(ORIGIN) == key
    assert path.read_bytes().hex() not in repr(vars(Signer(path)))


@pytest.mark.parametrize("what", ["file", "directory"])
def test_looser_permissions_are_refused_with_the_remedy(path: Path, what: str):
    Signer(path)
    loose = path if what == "file" else path.parent
    loose.chmod(0o640 if what == "file" else 0o750)
    with pytest.raises(PermissionError, match="chmod go="):
        Signer(path)


def test_a_damaged_key_is_not_replaced(path: Path):
    Signer(path)
    path.write_bytes(b"short")
    with pytest.raises(ValueError, match="backup"):
        Signer(path)
    assert path.read_bytes() == b"short"


def test_it_remembers_what_it_signed(path: Path):
    signer = Signer(path)
    checkpoint = Checkpoint(ORIGIN, 0, EMPTY_ROOT)
    assert signer.remembered(ORIGIN) is None
    note = signer.sign(checkpoint)
    assert open_checkpoint(note, signer.verifier(ORIGIN))[0] == checkpoint
    signer.remember(note)
    assert Signer(path).remembered(ORIGIN) == checkpoint
    with pytest.raises(ValueError):
        signer.remembered("another.test/log")


def test_its_memory_is_written_in_place_where_it_is_as_long(path: Path):
    signer, memory = Signer(path), path.with_name("log.key.signed")
    signer.remember(signer.sign(Checkpoint(ORIGIN, 8, EMPTY_ROOT)))
    with memory.open("rb") as before:
        signer.remember(signer.sign(Checkpoint(ORIGIN, 9, EMPTY_ROOT)))
        assert before.read().decode() == signer.sign(Checkpoint(ORIGIN, 9, EMPTY_ROOT))
    assert memory.stat().st_mode & 0o777 == 0o600


def test_a_longer_memory_is_another_file(path: Path):
    signer, memory = Signer(path), path.with_name("log.key.signed")
    signer.remember(signer.sign(Checkpoint(ORIGIN, 9, EMPTY_ROOT)))
    with memory.open("rb") as before:
        signer.remember(signer.sign(Checkpoint(ORIGIN, 10, EMPTY_ROOT)))
        assert before.read().decode() == signer.sign(Checkpoint(ORIGIN, 9, EMPTY_ROOT))
    assert signer.remembered(ORIGIN) == Checkpoint(ORIGIN, 10, EMPTY_ROOT)


def test_a_memory_beyond_a_sector_is_another_file_each_time(path: Path):
    origin = "gw.test/" + "a" * 500
    signer, memory = Signer(path), path.with_name("log.key.signed")
    signer.remember(signer.sign(Checkpoint(origin, 8, EMPTY_ROOT)))
    with memory.open("rb") as before:
        signer.remember(signer.sign(Checkpoint(origin, 9, EMPTY_ROOT)))
        assert before.read().decode() == signer.sign(Checkpoint(origin, 8, EMPTY_ROOT))


def test_a_disk_that_is_full_leaves_the_old_file_and_no_draft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "note"
    replace_private(path, b"old")

    def full(*_: object) -> None:
        raise OSError(ENOSPC, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(Path, "replace", full)
        with pytest.raises(OSError, match="No space"):
            replace_private(path, b"new")
    assert [each.name for each in tmp_path.iterdir()] == ["note"]
    assert path.read_bytes() == b"old"
