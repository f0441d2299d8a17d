"""Column types that keep what `core` has: instants with microseconds in UTC, exact spans, and text that both
databases can hold.
"""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import JSON, BigInteger, DateTime, Dialect, Text
from sqlalchemy.types import TypeDecorator

_MICROSECOND = timedelta(microseconds=1)


class UtcDateTime(TypeDecorator[datetime]):
    """An instant. PostgreSQL keeps `timestamptz`; SQLite text in UTC, which sorts as it should."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """To UTC; ValueError for an instant without a zone."""
        if value is None:
            return None
        if value.utcoffset() is None:
            raise ValueError("an instant without a time zone cannot be stored")
        utc = value.astimezone(UTC)
        return utc.replace(tzinfo=None) if dialect.name == "sqlite" else utc

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002 - the interface
        """Timezone-aware UTC, always."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Microseconds(TypeDecorator[timedelta]):
    """A span as a whole number of microseconds."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: timedelta | None, dialect: Dialect) -> int | None:  # noqa: ARG002 - the interface
        """Exact: a timedelta has no finer part."""
        return None if value is None else value // _MICROSECOND

    def process_result_value(self, value: int | None, dialect: Dialect) -> timedelta | None:  # noqa: ARG002 - the interface
        """The span again."""
        return None if value is None else value * _MICROSECOND


class CleanText(TypeDecorator[str]):
    """Text as it is, but for what PostgreSQL or UTF-8 cannot hold, so that no peer's text makes a write fail."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:  # noqa: ARG002 - the interface
        """In values and in comparisons alike."""
        return None if value is None else clean_text(value)


class CleanJson(TypeDecorator[Any]):
    """JSON whose strings are clean: a NUL inside would fail every later `->>` over the column, not the write."""

    impl = JSON(none_as_null=True)
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> Any:  # noqa: ARG002 - the interface
        """Keys and values, at any depth."""
        return _clean_json(value)


def clean_text(text: str) -> str:
    """NUL and lone surrogates become U+FFFD."""
    if text.isascii() and "\0" not in text:
        return text
    return text.encode("utf-8", "surrogatepass").decode("utf-8", "replace").replace("\0", "\N{REPLACEMENT CHARACTER}")


def _clean_json(value: Any) -> Any:
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, Mapping):
        return {clean_text(key): _clean_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_clean_json(item) for item in value]
    return value
