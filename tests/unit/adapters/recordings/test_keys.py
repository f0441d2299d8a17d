import base64
import gzip
import io
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from gateway.adapters.recordings import FileRecorder, Keyring
from gateway.adapters.recordings.chunks import CHUNK, Decrypted, encrypted
from gateway.adapters.recordings.keys import TAG, WRAPPED
from gateway.app.replay_session import RecordingLocked
from gateway.audit.recording import MalformedRecordingError, verify_chain
from gateway.core.obligation import Record
from tests.unit.adapters.recordings.stage import AT, PATIENCE, eventually, is_sealed, keyring, nothing, session

SECRET = b"select secret from customers"
CIPHER = AESGCM(bytes(32))


def recorded(directory: Path, keys: Keyring, name: str = "ses_1", *, sealed: bool = True) -> FileRecorder:
    recorder = FileRecorder(directory, "gw1", keys)
    recording = recorder.open(session(name), Record.REQUIRE, nothing)
    recording.wait_durable(recording.append("statement", AT, SECRET * 20), PATIENCE)
    if sealed:
        recording.seal()
        eventually(is_sealed(recorder, name))
    return recorder


@pytest.mark.parametrize("sealed", [True, False])
def test_nothing_readable_lies_on_the_disk(tmp_path: Path, sealed: bool):
    recorder = recorded(tmp_path, keyring(tmp_path), sealed=sealed)
    stored = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert SECRET not in stored
    assert b"oncall" not in stored
    assert b"\x1f\x8b\x08" not in stored, "nothing that is only packed"
    assert [f.payload for f in recorder.read("ses_1")][1] == SECRET * 20
    recorder.close()


def test_an_old_key_reads_and_the_newest_writes(tmp_path: Path):
    path = tmp_path / "recordings.key"
    recorded(tmp_path, Keyring(path), "ses_1").close()
    with path.open("a") as file:
        file.write(base64.b64encode(b"n" * 32).decode() + "\n")
    recorder = recorded(tmp_path, Keyring(path), "ses_2")
    assert [f.seq for f in recorder.read("ses_1")] == [0, 1]
    ids = [(tmp_path / "keys" / f"ses_{n}.key").read_bytes()[:8] for n in (1, 2)]
    assert ids[0] != ids[1]
    recorder.close()
    path.write_text(base64.b64encode(b"n" * 32).decode() + "\n")
    without = FileRecorder(tmp_path, "gw1", Keyring(path))
    assert [f.seq for f in without.read("ses_2")] == [0, 1]
    with pytest.raises(RecordingLocked, match=ids[0].hex()):
        list(without.read("ses_1"))


def test_a_destroyed_key_makes_one_recording_unreadable(tmp_path: Path):
    keys = keyring(tmp_path)
    recorded(tmp_path, keys, "ses_1").close()
    recorder = recorded(tmp_path, keys, "ses_2")
    (tmp_path / "keys" / "ses_1.key").unlink()
    with pytest.raises(RecordingLocked, match="its key is not there"):
        list(recorder.read("ses_1"))
    assert recorder.sealed_digest("ses_1") is None
    assert [f.seq for f in recorder.read("ses_2")] == [0, 1]
    recorder.close()


def test_the_key_of_another_session_opens_nothing(tmp_path: Path):
    keys = keyring(tmp_path)
    one, other = keys.fresh("ses_1"), keys.fresh("ses_2")
    for bad in (other.wrapped, one.wrapped[:-1], one.wrapped + b"x", one.wrapped[:-1] + b"\0", bytes(WRAPPED)[:8]):
        with pytest.raises(MalformedRecordingError):
            keys.unwrapped("ses_1", bad)
    assert keys.unwrapped("ses_1", one.wrapped).wrapped == one.wrapped
    assert "object at" in repr(one), "no secret"


def test_a_key_file_that_is_wrong_says_where(tmp_path: Path):
    path = tmp_path / "recordings.key"
    for content, said in (("", "backup"), ("c2hvcnQ=\n", ":1:"), (base64.b64encode(bytes(32)).decode() + "\n!", ":2:")):
        path.write_text(content)
        path.chmod(0o600)
        with pytest.raises(ValueError, match=said):
            Keyring(path)
    path.chmod(0o640)
    with pytest.raises(PermissionError, match="chmod 600"):
        Keyring(path)


# ---------------------------------------------------------------- chunks


def opened(content: bytes) -> bytes:
    reader = Decrypted(CIPHER, io.BytesIO(content))
    return b"".join(iter(lambda: reader.read(10_000), b""))


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK])
def test_chunks_come_back(size: int):
    plain = bytes(range(251)) * (size // 251 + 1)
    plain = plain[:size]
    parts = [plain[at : at + 1000] for at in range(0, size, 1000)]
    assert opened(b"".join(encrypted(CIPHER, parts))) == plain


@given(st.data())
def test_no_chunk_can_be_changed_moved_or_cut(data: st.DataObject):
    chunks = list(encrypted(CIPHER, [b"x" * (2 * CHUNK + 100)]))
    whole = b"".join(chunks)
    at = data.draw(st.integers(0, len(whole) - 1))
    flipped = whole[:at] + bytes([whole[at] ^ data.draw(st.integers(1, 255))]) + whole[at + 1 :]
    with pytest.raises(MalformedRecordingError, match=f"chunk {at // (CHUNK + TAG)} "):
        opened(flipped)
    for bad in (
        whole[:at],
        b"".join(chunks[:2]),
        chunks[1] + chunks[0] + chunks[2],
        whole + b"x",
        b"".join(chunks[1:]),
    ):
        with pytest.raises(MalformedRecordingError):
            opened(bad)


def test_a_sealed_file_without_its_encryption_is_version_one(tmp_path: Path):
    keys = keyring(tmp_path)
    recorder = recorded(tmp_path, keys)
    path = recorder.sealed.find("ses_1")
    assert path is not None
    content = path.read_bytes()
    key = keys.unwrapped("ses_1", (tmp_path / "keys" / "ses_1.key").read_bytes())
    start = 8 + 1 + len("ses_1")
    reader = Decrypted(key.for_file(content[start : start + 16]), io.BytesIO(content[start + 16 :]))
    assert gzip.decompress(b"".join(iter(reader.read, b""))).startswith(b"GWREC\x00\x01\n\x05ses_1")
    recorder.close()


def test_an_exported_recording_is_verified_without_a_key(tmp_path: Path):
    recorder = recorded(tmp_path, keyring(tmp_path))
    frames = list(recorder.read("ses_1"))
    known = recorder.sealed_digest("ses_1")
    assert known is not None
    recorder.close()
    verify_chain("ses_1", frames, *known)
