"""Searching one's own copy of the log: what is found there was verified, and nobody can hide an event from it."""

from collections import deque
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from gateway.audit.leaf import decode_event, parse_instant

_EQUAL = ("target", "principal", "session", "grant", "request")


class EventsInLog:
    """The newest events that match, to be read along while a log is verified. They match as the API's do."""

    def __init__(self, query: Mapping[str, Any], since: datetime | None, until: datetime | None) -> None:
        """`query` as `gw audit search` takes it; what is "" matches everything."""
        self._equal = {name: query[name] for name in _EQUAL if query[name]}
        self._type = str(query["type"])
        self._text = str(query["text"]).casefold()
        self._since, self._until = since, until
        self._found: deque[dict[str, Any]] = deque(maxlen=int(query["limit"]))

    def take(self, index: int, entry: bytes) -> None:
        """One entry of the log."""
        try:
            event: dict[str, Any] = decode_event(entry)
        except ValueError:
            return  # the verification says so
        if self._matches(event):
            self._found.appendleft({"index": index, **event})

    def newest_first(self) -> list[dict[str, Any]]:
        """What was found, in the API's shape."""
        return list(self._found)

    def _matches(self, event: Mapping[str, Any]) -> bool:
        at = parse_instant(event["at"])
        texts = _texts([event["type"], event["data"]]) if self._text else []
        return (
            all(event[name] == wanted for name, wanted in self._equal.items())
            and (not self._type or event["type"] == self._type or event["type"].startswith(f"{self._type}:"))
            and (self._since is None or at >= self._since)
            and (self._until is None or at < self._until)
            and (not self._text or any(self._text in text.casefold() for text in texts))
        )


def _texts(value: object) -> list[str]:
    match value:
        case dict():
            return [text for key, item in value.items() for text in (str(key), *_texts(item))]
        case list():
            return [text for item in value for text in _texts(item)]
        case _:
            return [str(value)]
