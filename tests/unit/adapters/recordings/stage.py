import errno
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event
from time import monotonic

from gateway.adapters.recordings import Disk, FileRecorder, Keyring
from gateway.core.session import Protocol, Session

PATIENCE = timedelta(seconds=20)
AT = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)


def session(session_id: str = "ses_1", target: str = "orders-db", holder: str = "oncall") -> Session:
    return Session(
        id=session_id, grant="grt_1", holder="usr_1", holder_name=holder, target=target, level="read",
        protocol=Protocol.POSTGRES, client="127.0.0.1:1", gateway="gw1", started_at=AT, deadline=AT + timedelta(hours=1),
    )  # fmt: skip


def keyring(directory: Path) -> Keyring:
    return Keyring(directory / "recordings.key")


def nothing() -> None:
    pass


def eventually(condition: Callable[[], bool]) -> None:
    until = monotonic() + PATIENCE.total_seconds()
    pause = Event()
    while not condition():
        assert monotonic() < until, "it did not happen"
        pause.wait(0.01)


def sealed_path(directory: Path, session_id: str) -> Path:
    [path] = directory.glob(f"sealed/*/*/{session_id}.gwrec")
    return path


def is_sealed(recorder: FileRecorder, session_id: str) -> Callable[[], bool]:
    return lambda: recorder.sealed.find(session_id) is not None


class FillingDisk(Disk):
    """Takes so many bytes and no more, and writes what still fits, as a full file system does."""

    def __init__(self, room: int = 1 << 40, code: int = errno.ENOSPC) -> None:
        self.room = room
        self.code = code
        self.fails_sync = False

    def write(self, descriptor: int, content: bytes) -> None:
        super().write(descriptor, content[: self.room])
        if len(content) > self.room:
            raise OSError(self.code, "no room in this test")
        self.room -= len(content)
        if self.fails_sync:
            raise OSError(errno.EIO, "bad disk in this test")


class HeldDisk(Disk):
    """Syncs only while it is let go."""

    def __init__(self) -> None:
        self.free = Event()
        self.free.set()
        self.syncs = 0

    def write(self, descriptor: int, content: bytes) -> None:
        super().write(descriptor, content)
        assert self.free.wait(60)
        self.syncs += 1
