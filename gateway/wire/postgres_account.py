"""The values that the statement account keeps, and how they read as records. Formats: docs/formats/statements.md."""

import json
from dataclasses import dataclass, field
from typing import Generic, TypeVar

KEEP = 65_536  # bytes of a statement's text that are kept
KEEP_REPEATED = 2_048  # of a prepared statement's text once it has been told in full

V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class Entry:
    """One record for the recording: `kind` is statement or result, `data` a JSON object in UTF-8."""

    kind: str
    data: bytes


@dataclass(slots=True)
class Text:
    """The SQL of a Query or Parse: the first KEEP bytes, the length and the SHA-256 (hex) of all of it."""

    sql: bytes
    digest: str
    length: int
    name: str = ""
    told: bool = False


@dataclass(slots=True)
class Run:
    """A statement under way (a Query, a bound portal, a function call) and what has been counted for it."""

    number: int
    returned: int = 0
    affected: int = 0
    bytes_out: int = 0
    bytes_in: int = 0
    tags: list[str] = field(default_factory=list)
    tag_count: int = 0
    sqlstate: str = ""
    returned_before: int = 0  # rows that belong to tags already counted
    is_reported: bool = False


@dataclass(slots=True)
class Step:
    """A client message that the server owes an answer for. `name` is what it makes, `source` what it is made from."""

    kind: int
    at: float
    run: Run | None = None
    text: Text | None = None
    name: bytes = b""
    source: bytes = b""


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


def attempt(run: Run, protocol: str, text: Text | None, **more: object) -> Entry:
    """The record that precedes a statement. `text` None when the wire does not show it (a name made by SQL)."""
    fields: dict[str, object] = {"n": run.number, "sql": "", "sha256": "", "protocol": protocol}
    if text is not None:
        kept = text.sql[:KEEP_REPEATED] if text.told else text.sql
        fields["sql"] = kept.decode(errors="backslashreplace")
        fields["sha256"] = text.digest
        if len(kept) < text.length:
            fields["length"] = text.length
        if text.name:
            fields["name"] = text.name
        text.told = True
    return Entry("statement", _json(fields | more))


def outcome(run: Run, ms: float, state: str) -> Entry:
    """The record that follows a statement. `state`: done, suspended, failed, skipped or unknown."""
    rows = run.affected + run.returned - run.returned_before
    # Written out: this runs once per statement, and the encoder would take several times as long.
    text = (
        f'{{"n":{run.number},"tag":{_encode("; ".join(run.tags))},"rows":{rows},"returned":{run.returned},'
        f'"bytes":{run.bytes_out},"bytes_in":{run.bytes_in},"ms":{ms:.3f},"sqlstate":{_encode(run.sqlstate)},'
        f'"state":"{"failed" if run.sqlstate else state}"}}'
    )
    return Entry("result", text.encode())


def _json(fields: dict[str, object]) -> bytes:
    return _encode(fields).encode()


_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
