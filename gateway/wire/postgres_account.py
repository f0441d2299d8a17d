"""The values that the statement account keeps, and how they read as records. Formats: docs/formats/statements.md."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from json import JSONEncoder
from typing import Generic, NamedTuple, TypeVar

from gateway.wire.postgres_copies import Ahead, Copied, Digest, NewDigest
from gateway.wire.postgres_transactions import Ended, Turn

MAX_STATEMENT = 1 << 20  # bytes of a Query or Parse: what is longer is refused, for it could not be recorded whole
KEEP = 65_536  # bytes of a statement's text in one record
SHOWN = 1_000  # of the text of what runs
KEEP_REPEATED = 2_048  # of a prepared statement's text once it has been told in full

V = TypeVar("V")


class Entry(NamedTuple):
    """One record: `kind` is statement, statement-more, result, transaction or unread, `data` a JSON object in UTF-8."""

    kind: str
    data: bytes


@dataclass(slots=True)
class Text:
    """The SQL of a Query or Parse, until it was told; its length and SHA-256 (hex)."""

    sql: bytes
    digest: str
    length: int
    name: str = ""
    told: bool = False
    again: bytes = b""  # all but the number of the record that tells it once more
    turn: Turn = Turn.UNKNOWN


class Run:
    """A statement under way (a Query, a bound portal, a function call) and what has been counted for it.

    Made once per statement: what keeps its default costs nothing.
    """

    returned = 0
    affected = 0
    bytes_out = 0
    bytes_in = 0
    copied_out: Copied | None = None
    copied_in: Copied | None = None
    tags: tuple[str, ...] = ()
    sqlstate = ""
    returned_before = 0  # rows that belong to tags already counted
    is_reported = False
    turn = Turn.UNKNOWN
    shown = b""  # the head of its text
    tx = 0  # the explicit transaction that it ran in, the last of several

    def __init__(self, number: int) -> None:
        self.number = number

    def reset(self) -> None:
        """What was counted is told: the same portal may be executed again."""
        self.is_reported = True
        self.returned = self.returned_before = self.affected = self.bytes_out = self.bytes_in = 0
        self.tags, self.sqlstate, self.tx = (), "", 0
        if self.copied_out is not None or self.copied_in is not None:
            self.copied_out = self.copied_in = None

    def copies_out(self, new_digest: NewDigest) -> None:
        """The server begins to send COPY data."""
        self.copied_out = _begun(self.copied_out, new_digest(), new_digest)

    def copies_in(self, new_digest: NewDigest, ahead: Ahead | None) -> None:
        """The server begins to read COPY data, with what came `ahead`."""
        self.copied_in = _begun(self.copied_in, ahead.digest if ahead else new_digest(), new_digest)
        self.bytes_in += ahead.bytes if ahead else 0

    def is_fresh(self) -> bool:
        """True while nothing was counted."""
        return not (self.returned or self.bytes_out or self.bytes_in or self.tags or self.sqlstate or self.affected)


class Step:
    """A client message that the server owes an answer for. `name` is what it makes, `source` what it is made from.

    Made several times per statement: what keeps its default costs nothing.
    """

    text: Text | None = None
    name = b""
    source = b""
    is_described = False
    ahead: Ahead | None = None

    def __init__(self, kind: int, at: float, run: Run | None = None) -> None:
        self.kind = kind
        self.at = at
        self.run = run


class Names(Generic[V]):
    """Names as the server will see them: accepted ones, and proposals that it has not answered yet."""

    def __init__(self) -> None:
        self.accepted: dict[bytes, V] = {}
        self._proposed: dict[bytes, V] = {}

    def look(self, name: bytes) -> V | None:
        """The newest proposal, else what was accepted."""
        return self._proposed.get(name) or self.accepted.get(name)

    def propose(self, name: bytes, value: V) -> None:
        self._proposed[name] = value

    def accept(self, name: bytes, value: V) -> None:
        self.accepted.pop(name, None)  # so that dict order stays the order of acceptance
        self.accepted[name] = value
        self.refuse(name, value)

    def refuse(self, name: bytes, value: V) -> None:
        """Take a proposal back."""
        if self._proposed.get(name) is value:
            del self._proposed[name]


def attempt(run: Run, protocol: str, text: Text | None, values: bytes = b"", **more: object) -> Entry:
    """The record that precedes a statement. `text` None when the wire does not show it (a name made by SQL); `values`
    are the members that tell its parameters, with a comma in front.
    """
    if text is None:
        untold = {"n": run.number, "sql": "", "sha256": "", "protocol": protocol}
        return Entry("statement", _with(_encode(untold | more).encode(), values))
    about = text.again if text.again and not more else _about(text, protocol, more)
    text.told = True
    return Entry("statement", _with(b'{"n":%d,%b' % (run.number, about), values))


def plain_attempt(run: Run, sql: bytes) -> Entry:
    """`attempt` of a simple query of at most KEEP bytes, written out for speed."""
    text = _encode(sql.decode(errors="backslashreplace"))
    told = f'{{"n":{run.number},"sql":{text},"sha256":"{sha256(sql).hexdigest()}","protocol":"simple"}}'
    return Entry("statement", told.encode())


def _with(record: bytes, values: bytes) -> bytes:
    return record[:-1] + values + b"}" if values else record


def continued(run: Run, text: Text) -> Iterator[Entry]:
    """The records behind a statement's first one that hold the rest of a long text."""
    start, part = len(_first(text.sql, 0)), 2
    while start < len(text.sql):
        piece = _first(text.sql, start)
        told = {"n": run.number, "part": part, "sql": piece.decode(errors="backslashreplace")}
        yield Entry("statement-more", _encode(told).encode())
        start, part = start + len(piece), part + 1


def _first(sql: bytes, start: int) -> bytes:
    """At most KEEP bytes that do not end within a character of UTF-8."""
    end = start + KEEP
    if end < len(sql):
        end -= next((back for back in range(4) if sql[end - back] & 0xC0 != 0x80), 0)
    return sql[start:end]


def outcome(run: Run, ms: float, state: str) -> Entry:
    """The record that follows a statement. `state`: done, suspended, failed, skipped or unknown."""
    rows = run.affected + run.returned - run.returned_before
    # Written out: this runs once per statement, and the encoder would take several times as long.
    text = (
        f'{{"n":{run.number},"tag":{_quoted("; ".join(run.tags))},"rows":{rows},"returned":{run.returned},'
        f'"bytes":{run.bytes_out},"bytes_in":{run.bytes_in},"ms":{ms:.3f},"sqlstate":{_quoted(run.sqlstate)},'
        f'"state":"{"failed" if run.sqlstate else state}"'
    )
    if run.copied_out is not None:
        text += f',"blake3":"{run.copied_out.told()}"'
    if run.copied_in is not None:
        text += f',"blake3_in":"{run.copied_in.told()}"'
    return Entry("result", (f'{text},"tx":{run.tx}}}' if run.tx else f"{text}}}").encode())


def _begun(copied: Copied | None, digest: Digest, new_digest: NewDigest) -> Copied:
    if copied is None:
        return Copied(new_digest, digest)
    copied.next(digest)
    return copied


def transaction(of: Ended) -> Entry:
    """The record of an explicit transaction's end."""
    return Entry("transaction", _encode(of._asdict()).encode())


def unread(chunk: bytes) -> Entry:
    """The record of bytes that were sent on and could not be read."""
    return Entry("unread", b'{"bytes":%d,"hex":"%b"}' % (len(chunk), chunk.hex().encode()))


@lru_cache(maxsize=256)
def tag_of(body: bytes) -> tuple[str, int | None]:
    """The text of a CommandComplete, and the number that ends it (`SELECT 5`), None where there is none."""
    tag = body.partition(b"\0")[0].decode(errors="backslashreplace")
    number = tag.rpartition(" ")[2]
    return tag, int(number) if number.isascii() and number.isdigit() and len(number) < 20 else None


def _about(text: Text, protocol: str, more: dict[str, object]) -> bytes:
    """Everything behind the number; kept for the next time where a statement is told again and again."""
    kept = text.sql[:KEEP_REPEATED] if text.told else _first(text.sql, 0)
    sql = _encode(kept.decode(errors="backslashreplace"))
    about = f'"sql":{sql},"sha256":"{text.digest}","protocol":"{protocol}"'
    if len(kept) < text.length:
        about += f',"length":{text.length}'
    if text.name:
        about += f',"name":{_encode(text.name)}'
    if more:
        return f"{about},{_encode(more)[1:]}".encode()
    told = f"{about}}}".encode()
    if text.told and len(told) < 2 * len(kept) + 512:  # escapes could take six times the memory that is accounted for
        text.again = told
    return told


_encode = JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_quoted = lru_cache(maxsize=256)(_encode)
