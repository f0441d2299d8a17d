"""A recorded SSH session as an asciicast file, version 2 or 3, for players
(https://docs.asciinema.org/manual/asciicast/v2/, …/v3/).

Reads the records that docs/formats/ssh-recording.md describes. What cannot be read is skipped, never guessed: a
recording is evidence in its own format, the asciicast is only a way to look at it.
"""

import codecs
import json
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from itertools import chain

# Kind, instant, content: one record of a recording.
Record = tuple[str, datetime, bytes]

DEFAULT_COLUMNS, DEFAULT_ROWS = 80, 24
LARGEST_SIZE = 1000
LOOK_AHEAD, LOOK_AHEAD_OCTETS = 1_000, 1024 * 1024


def to_asciicast(records: Iterable[Record], channel: int | None = None, version: int = 2) -> Iterator[str]:
    """The lines of the file, without line ends: a header, then one event each. Nothing when there is no such channel.

    `version` is 2 or 3. `channel` None takes the first channel with a terminal if one begins among the first
    `LOOK_AHEAD` records (`LOOK_AHEAD_OCTETS` at most), else the first channel of all; no more than these are held.
    Times are seconds since the channel began, in version 3 since the event before. Output of a command without a
    terminal gets the carriage returns that a terminal would have added.
    """
    if channel is None:
        channel, records = _chosen(iter(records))
    rest = iter(records)
    start = next((r for r in rest if r[0] == "channel" and _fields(r).get("channel") == channel), None)
    if channel is None or start is None:
        return
    fields = _fields(start)
    yield json.dumps(_header_3(fields, start[1]) if version == 3 else _header_2(fields, start[1]))
    last = 0.0
    for after, code, text in _events(rest, channel, start[1], terminal="term" in fields):
        if version == 3:
            yield json.dumps([round(max(after - last, 0.0), 6), code, text])
            last = max(after, last)
        elif code != "x":  # version 2 knows no exit
            yield json.dumps([after, code, text])


def _chosen(records: Iterator[Record]) -> tuple[int | None, Iterator[Record]]:
    """The channel to show, and all records again."""
    held: list[Record] = []
    octets, first = 0, None
    for record in records:
        held.append(record)
        octets += len(record[2])
        if record[0] == "channel":
            fields = _fields(record)
            number = fields.get("channel")
            if isinstance(number, int):
                first = number if first is None else first
                if "term" in fields:
                    return number, chain(held, records)
        if len(held) >= LOOK_AHEAD or octets >= LOOK_AHEAD_OCTETS:
            break
    if first is None:  # nothing began yet: whatever begins first
        later = next((r for r in records if r[0] == "channel" and isinstance(_fields(r).get("channel"), int)), None)
        if later is not None:
            return int(str(_fields(later)["channel"])), chain([later], records)
    return first, chain(held, records)


def _header_2(fields: Mapping[str, object], began: datetime) -> dict[str, object]:
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
    return header


def _header_3(fields: Mapping[str, object], began: datetime) -> dict[str, object]:
    columns, rows = _size(fields.get("columns"), DEFAULT_COLUMNS), _size(fields.get("rows"), DEFAULT_ROWS)
    terminal: dict[str, object] = {"cols": columns, "rows": rows}
    if isinstance(term := fields.get("term"), str):
        terminal["type"] = term
    header: dict[str, object] = {"version": 3, "term": terminal, "timestamp": int(began.timestamp())}
    if isinstance(command := fields.get("command"), str) and command:
        header["command"] = command
    return header


def _events(
    records: Iterable[Record], channel: int, began: datetime, *, terminal: bool
) -> Iterator[tuple[float, str, str]]:
    """(seconds since the channel began, code, text)."""
    # A character may be cut in two by the end of a record: each stream keeps the beginning for the next one.
    decoders = {kind: codecs.getincrementaldecoder("utf-8")("replace") for kind in ("out", "err")}
    for kind, at, content in records:
        after = round(max((at - began).total_seconds(), 0.0), 6)
        if kind in decoders and content[:4] == channel.to_bytes(4, "big"):
            text = decoders[kind].decode(content[4:])
            if text:
                yield after, "o", text if terminal else text.replace("\n", "\r\n")
        elif kind in ("resize", "note", "input", "exit", "file"):
            event = _side_event(kind, _fields((kind, at, content)), channel)
            if event is not None:
                yield after, *event
        elif kind == "gap":  # of the whole session (docs/formats/recording.md)
            yield after, "m", f"NOT RECORDED: {_fields((kind, at, content)).get('records')} records"


def _side_event(kind: str, fields: Mapping[str, object], channel: int) -> tuple[str, str] | None:
    if fields.get("channel") != channel:
        return None
    if kind == "resize":
        columns, rows = _size(fields.get("columns"), DEFAULT_COLUMNS), _size(fields.get("rows"), DEFAULT_ROWS)
        return "r", f"{columns}x{rows}"
    if kind == "exit":
        return "x", str(fields.get("status", fields.get("signal")))
    if kind == "file":
        return "m", f"{fields.get('op')} {fields.get('path')}"
    text = fields.get("text")
    if not isinstance(text, str):
        return None
    return ("i", f"{text}\r") if kind == "input" else ("m", text)


def _size(value: object, otherwise: int) -> int:
    """A number of columns or rows that a player can show; clients without a window say 0."""
    return value if isinstance(value, int) and 0 < value <= LARGEST_SIZE else otherwise


def _fields(record: Record) -> Mapping[str, object]:
    try:
        fields = json.loads(record[2])
    except (ValueError, RecursionError):
        return {}
    return fields if isinstance(fields, dict) else {}
