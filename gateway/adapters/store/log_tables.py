"""The tables of the log: events as they are appended, and the tree that the sequencer grows over them.

`leaf` holds the bytes that are hashed and is the truth; every other column of `event` is an index into it, so names
are cut there (`column_text`) rather than refused. Entry bundles are not stored: they are the leaves in order.
"""

from datetime import UTC, datetime, timedelta
from typing import Any, Final

from sqlalchemy import BigInteger, Integer, LargeBinary, Text
from sqlmodel import Field, SQLModel

from gateway.audit.leaf import encode_event, format_instant
from gateway.core.event import Event

COLUMN_TEXT: Final = 200  # characters; PostgreSQL refuses index entries beyond 2,704 bytes
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_LONG: Final[Any] = BigInteger().with_variant(Integer, "sqlite")  # only INTEGER keys count up by themselves there
_BLOB: Final[Any] = LargeBinary
_TEXT: Final[Any] = Text


class EventRow(SQLModel, table=True):
    """`ordinal` is the order of appending; `position` the index in the tree, NULL until sequenced."""

    __tablename__ = "event"
    __table_args__ = {"sqlite_autoincrement": True}
    ordinal: int | None = Field(default=None, primary_key=True, sa_type=_LONG)
    id: str = Field(unique=True, sa_type=_TEXT)
    type: str = Field(index=True, sa_type=_TEXT)
    at: int = Field(index=True, sa_type=_LONG)  # unix microseconds
    source: str = Field(sa_type=_TEXT)
    outcome: str = Field(sa_type=_TEXT)
    principal: str = Field(index=True, sa_type=_TEXT)
    target: str = Field(index=True, sa_type=_TEXT)
    request: str = Field(index=True, sa_type=_TEXT)
    grant_id: str = Field(index=True, sa_type=_TEXT)  # "grant" is a reserved word of SQL
    session: str = Field(index=True, sa_type=_TEXT)
    leaf: bytes = Field(sa_type=_BLOB)
    position: int | None = Field(default=None, unique=True, sa_type=_LONG)


class LogTileRow(SQLModel, table=True):
    """One tile of hashes, 32 bytes each, full (256) or still growing: a narrower partial tile is a prefix of it."""

    __tablename__ = "log_tile"
    level: int = Field(primary_key=True)
    number: int = Field(primary_key=True, sa_type=_LONG, sa_column_kwargs={"autoincrement": False})
    hashes: bytes = Field(sa_type=_BLOB)


class LogCheckpointRow(SQLModel, table=True):
    """What was signed, one per tree size. `signed_at` is unix microseconds."""

    __tablename__ = "log_checkpoint"
    size: int = Field(primary_key=True, sa_type=_LONG, sa_column_kwargs={"autoincrement": False})
    root: bytes = Field(sa_type=_BLOB)
    note: str = Field(sa_type=_TEXT)
    signed_at: int = Field(sa_type=_LONG)


class LogHeadRow(SQLModel, table=True):
    """One row (id 1): the lease of the one sequencer. Whoever updates it holds it until the transaction ends."""

    __tablename__ = "log_head"
    id: int = Field(default=1, primary_key=True)
    owner: str = Field(default="", sa_type=_TEXT)
    expires_at: int = Field(default=0, sa_type=_LONG)  # unix microseconds


def event_fields(event: Event) -> dict[str, object]:
    """The event as the fields of the leaf format."""
    return {
        "at": format_instant(event.at),
        "data": dict(event.data),
        "grant": event.grant,
        "id": event.id,
        "outcome": event.outcome,
        "principal": event.principal,
        "request": event.request,
        "session": event.session,
        "source": event.source,
        "target": event.target,
        "type": event.type,
    }


def event_columns(event: Event) -> dict[str, object]:
    """A row to insert, not yet sequenced; ValueError when the event does not fit into a leaf."""
    return {
        "id": event.id,
        "type": column_text(event.type),
        "at": unix_microseconds(event.at),
        "source": column_text(event.source),
        "outcome": column_text(event.outcome),
        "principal": column_text(event.principal),
        "target": column_text(event.target),
        "request": column_text(event.request),
        "grant_id": column_text(event.grant),
        "session": column_text(event.session),
        "leaf": encode_event(event_fields(event)),
    }


def column_text(text: str) -> str:
    """Text as an index column holds it: PostgreSQL knows no NUL, and names that people typed may be of any length."""
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}")[:COLUMN_TEXT]


def unix_microseconds(at: datetime) -> int:
    """An aware instant as unix microseconds, without the rounding of floats."""
    return (at - _EPOCH) // timedelta(microseconds=1)


def instant_of(microseconds: int) -> datetime:
    """The inverse of `unix_microseconds`."""
    return _EPOCH + timedelta(microseconds=microseconds)
