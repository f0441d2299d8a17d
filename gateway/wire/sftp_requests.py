"""What is asked over SFTP, what is open, and what came of either."""

from collections.abc import Callable
from dataclasses import dataclass, field

from gateway.wire.file_digest import FileDigest
from gateway.wire.sftp_packets import OK


@dataclass(frozen=True, slots=True)
class Asked:
    """A request to be judged. `paths` as they came; `reads` and `changes` are what an open asks for."""

    op: str
    paths: tuple[bytes, ...]
    reads: bool = False
    changes: bool = True

    def over(self, since: float, at: float, outcome: str) -> "Done":
        """What came of it, without what was moved."""
        direction = ""
        if self.op == "open":
            direction = "upload" if self.changes else "download"
        return Done(self, direction, since, at, outcome)


@dataclass(slots=True)
class Done:
    """One request or transfer that is over. `at` and `until` are the caller's clock, `outcome` a word."""

    asked: Asked
    direction: str  # download, upload, or "" for what moves no file
    at: float
    until: float
    outcome: str
    digest: FileDigest | None = None


@dataclass(frozen=True, slots=True)
class Denied:
    """A request that was answered here, and why."""

    asked: Asked
    sentence: str


# Says no with a sentence; None is a yes.
Judge = Callable[[Asked], str | None]


@dataclass(slots=True)
class OpenFile:
    """A handle of the server's."""

    asked: Asked
    at: float
    read: FileDigest = field(default_factory=FileDigest)
    written: FileDigest = field(default_factory=FileDigest)
    failed: int = OK

    def over(self, at: float, outcome: str) -> "list[Done]":
        """One for each direction that the file was used in; for the one it was opened for, if in none."""
        asked = self.asked
        if asked.op == "list":
            return [asked.over(self.at, at, outcome)]
        used = [("download", self.read)] if asked.reads and (self.read.octets or not asked.changes) else []
        if asked.changes and (self.written.octets or not used):
            used.append(("upload", self.written))
        return [Done(asked, direction, self.at, at, outcome, digest) for direction, digest in used]


@dataclass(slots=True)
class Pending:
    """A request that the server has not answered yet."""

    type_: int
    at: float = 0.0
    asked: Asked | None = None
    file: OpenFile | None = None
    handle: bytes = b""
    offset: int = 0
    length: int = 0
