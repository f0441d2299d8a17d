"""A recorded SSH session as an asciicast v2 file (https://docs.asciinema.org/manual/asciicast/v2/), for players.

Reads the records that docs/formats/ssh-recording.md describes. What cannot be read is skipped, never guessed: a
recording is evidence in its own format, the asciicast is only a way to look at it.
"""

import codecs
import json
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime

# Kind, instant, content: one record of a recording.
Record = tuple[str, datetime, bytes]

DEFAULT_COLUMNS, DEFAULT_ROWS = 80, 24
LARGEST_SIZE = 1000


def to_asciicast(records: Iterable[Record], channel: int | None = None) -> Iterator[str]:
    """The lines of the file, without line ends: a header, then one event each. Nothing when there is no such channel.

    `channel` None takes the first channel with a terminal, else the first channel of all. Times are seconds since the
    channel began; all records are held while it works. Output of a command without a terminal gets the carriage
    returns that a terminal would have added.
    """
    kept = list(records)
    if channel is None:
        channel = _first_channel(kept)
    start = next((r for r in kept if r[0] == "channel" and _fields(r).get("channel") == channel), None)
    if channel is None or start is None:
        return
    fields = _fields(start)
    yield _header(fields, start[1])
    yield from _events(kept[kept.index(start) + 1 :], channel, start[1], terminal="term" in fields)


def _first_channel(records: Iterable[Record]) -> int | None:
    started = [_fields(record) for record in records if record[0] == "channel"]
    chosen = next((f for f in started if "term" in f), started[0] if started else {})
    number = chosen.get("channel")
    return number if isinstance(number, int) else None


def _header(fields: Mapping[str, object], began: datetime) -> str:
    header: dict[str, object] = {
        "version": 2,
        "width": _size(fields.get("columns"), DEFAULT_COLUMNS),
        "height": _size(fields.get("rows"), DEFAULT_ROWS),
        "timestamp": int(began.timestamp()),
    }
    if isinstance(command := fields.get("command"), str) and command:
        header["command"] = command
    if isinstance(term := fields.get("term"), str):
        header["env"] = {"TERM": term}
    return json.dumps(header)


def _events(records: Iterable[Record], channel: int, began: datetime, *, terminal: bool) -> Iterator[str]:
    # A character may be cut in two by the end of a record: each stream keeps the beginning for the next one.
    decoders = {kind: codecs.getincrementaldecoder("utf-8")("replace") for kind in ("out", "err")}
    for kind, at, content in records:
        after = round(max((at - began).total_seconds(), 0.0), 6)
        if kind in decoders and content[:4] == channel.to_bytes(4, "big"):
            text = decoders[kind].decode(content[4:])
            if text:
                yield json.dumps([after, "o", text if terminal else text.replace("\n", "\r\n")])
        elif kind in ("resize", "note"):
            event = _side_event(kind, _fields((kind, at, content)), channel)
            if event is not None:
                yield json.dumps([after, *event])
        elif kind == "gap":  # of the whole session (docs/formats/recording.md)
            yield json.dumps([after, "m", f"NOT RECORDED: {_fields((kind, at, content)).get('records')} records"])


def _side_event(kind: str, fields: Mapping[str, object], channel: int) -> tuple[str, str] | None:
    if fields.get("channel") != channel:
        return None
    if kind == "resize":
        columns, rows = _size(fields.get("columns"), DEFAULT_COLUMNS), _size(fields.get("rows"), DEFAULT_ROWS)
        return "r", f"{columns}x{rows}"
    text = fields.get("text")
    return ("m", text) if isinstance(text, str) else None


def _size(value: object, otherwise: int) -> int:
    """A number of columns or rows that a player can show; clients without a window say 0."""
    return value if isinstance(value, int) and 0 < value <= LARGEST_SIZE else otherwise


def _fields(record: Record) -> Mapping[str, object]:
    try:
        fields = json.loads(record[2])
    except (ValueError, RecursionError):
        return {}
    return fields if isinstance(fields, dict) else {}
