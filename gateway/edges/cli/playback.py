"""Recordings on a terminal: a shell as it looked, a database session as a transcript.

What is played was written by whoever held the session, so the terminal is not theirs to command: titles, clipboard,
device queries and other control strings are taken out (a query would make the terminal type its answer into the
viewer's shell); drawing, colours and cursor movement stay.
"""

import json
import os
import stat
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from datetime import tzinfo
from typing import Any

from gateway.audit.recording import Frame, joined, unpacked
from gateway.edges.cli.output import safe
from gateway.wire.asciicast import to_asciicast

LONGEST_PAUSE_S = 2.0
LONGEST_SEQUENCE = 256  # a longer one is no drawing
# Main screen, no mouse or focus reports, no bracketed paste; a soft reset (keys, insertion, character sets), plain
# colours, a cursor.
RESTORE = (
    "\x1b[?1049l\x1b[?9l\x1b[?1000l\x1b[?1001l\x1b[?1002l\x1b[?1003l\x1b[?1004l\x1b[?2004l\x1b[!p\x1b[0m\x1b[?25h\r\n"
)
_OCTETS = ("out", "err", "in")  # kinds of records that hold what passed, behind the number of its channel
_STRINGS = frozenset("]P^_X")  # OSC, DCS, PM, APC, SOS (ECMA-48 §5.6): they end with ST, or BEL
_DRAWS = frozenset("ABCDEFGHIJKLMPSTXZ@`abdefghlmrs")  # final bytes of CSI sequences that only draw or set modes
# With <, = or > in front they are private ones of a terminal's, which say what keys send (xterm's modifyOtherKeys).
_PLAIN = frozenset("78DEHMc=>")  # two-character sequences that only draw


class TerminalFilter:
    """Lets text and drawing through. Keeps its place in a sequence that is cut in two."""

    def __init__(self) -> None:
        self._sequence = ""
        self._in_string = False

    def clean(self, text: str) -> str:
        """What may be shown of the next piece."""
        return "".join(self._step(c) for c in text)

    def _step(self, c: str) -> str:
        if self._in_string:
            self._in_string = not (c == "\a" or (c == "\\" and self._sequence == "\x1b"))
            self._sequence = c if self._in_string else ""
            return ""
        if not self._sequence:
            return self._first(c)
        self._sequence += c
        if len(self._sequence) == 2:
            return self._second(c)
        if len(self._sequence) > LONGEST_SEQUENCE or c < " ":
            self._sequence = ""
        elif self._sequence[1] in "()":
            return self._done()
        elif "@" <= c <= "~":
            is_drawing = c in _DRAWS or self._sequence == "\x1b[u"
            return self._done() if is_drawing and self._sequence[2] not in "<=>" else self._dropped()
        return ""

    def _first(self, c: str) -> str:
        if c == "\x1b":
            self._sequence = c
            return ""
        # C1 controls do the same as ESC and a letter (ECMA-48 §5.3), some terminals obey them.
        return c if c in "\t\n\r\b" or (c >= " " and not "\x7f" <= c <= "\x9f") else ""

    def _second(self, c: str) -> str:
        if c in _STRINGS:
            self._in_string, self._sequence = True, ""
        elif c not in "[()":
            return self._done() if c in _PLAIN else self._dropped()
        return ""

    def _done(self) -> str:
        whole, self._sequence = self._sequence, ""
        return whole

    def _dropped(self) -> str:
        self._sequence = ""
        return ""


def harmless(text: str) -> str:
    """Lines of text with every control character shown as an escape."""
    return "\n".join(safe(line.removesuffix("\r")) for line in text.split("\n"))


def cast_lines(frames: Iterable[Frame], version: int = 2) -> Iterator[str]:
    """The frames of an SSH session as an asciicast file of version 2 or 3."""
    return to_asciicast(((frame.kind, frame.at(), frame.payload) for frame in joined(frames)), version=version)


def play(frames: Iterable[Frame], speed: float, sleep: Callable[[float], None] = time.sleep) -> bool:
    """Show a terminal session in its own time (at once and harmless elsewhere). False when it has no terminal."""
    lines = cast_lines(frames)
    header = next(lines, None)
    if header is None or "env" not in json.loads(header):
        return False
    is_drawn = sys.stdout.isatty()
    shown, last = TerminalFilter(), 0.0
    try:
        for line in lines:
            at, kind, text = json.loads(line)
            if kind != "o":
                continue
            if sys.stdout.isatty():
                sleep(min(max(at - last, 0.0), LONGEST_PAUSE_S) / speed)
            last = at
            sys.stdout.write(shown.clean(text) if is_drawn else harmless(text))
            sys.stdout.flush()
    finally:
        if is_drawn:
            sys.stdout.write(RESTORE)
    return True


def left_out(frames: Iterable[Frame]) -> str:
    """What the picture of an SSH session does not show, in words; "" when nothing.

    It is of one channel. Whoever works in another beside it must not be overlooked.
    """
    seen = Counter(frame.kind for frame in unpacked(frames))
    kinds = (("more channel(s)", seen["channel"] - 1), ("forward(s)", seen["forward"]))
    return " and ".join(f"{count} {kind}" for kind, count in kinds if count > 0)


# ---------------------------------------------------------------- one line per record


def transcript(frames: Iterable[Frame], zone: tzinfo | None = None) -> Iterator[str]:
    """A readable line or more per record: statements with what they did, commands, facts; octets as text.

    `zone` None is that of this machine.
    """
    for frame in joined(frames):
        clock = f"{frame.at().astimezone(zone):%H:%M:%S}"
        fields = _content(frame)
        if isinstance(fields, dict):
            yield f"{clock}  {safe(_sentence(frame.kind, fields))}"
        elif frame.kind in _OCTETS:
            yield from (f"{clock}  {frame.kind:>4} | {line}" for line in _text_lines(frame.payload[4:]))
        else:
            yield f"{clock}  {safe(frame.kind)}: {len(frame.payload)} bytes"


def _content(frame: Frame) -> Any:
    """What the JSON of a record says; None for octets, which are what they are even where they look like JSON."""
    try:
        return None if frame.kind in _OCTETS else json.loads(frame.payload)
    except (ValueError, RecursionError):
        return None


def _text_lines(octets: bytes) -> list[str]:
    return harmless(octets.decode(errors="backslashreplace")).splitlines()


def _sentence(kind: str, fields: dict[str, Any]) -> str:
    match kind:
        case "session":
            who, target, level = (fields.get(key) for key in ("holder_name", "target", "level"))
            return f"{who} on {target} as {level} ({fields.get('protocol')})"
        case "channel":
            size = f" on a terminal of {fields['columns']}x{fields['rows']}" if fields.get("term") else ""
            runs = f" (runs {fields['runs']})" if fields.get("runs") else ""
            return f"[{fields.get('channel')}] {fields.get('type')} {fields.get('command') or ''}{runs}{size}"
        case "exit":
            ended = "status" if fields.get("status") is not None else "signal"
            return f"[{fields.get('channel')}]   -> exit {ended} {fields.get(ended)}"
        case "statement":
            values = f"  with {json.dumps(fields['params'], ensure_ascii=False)}" if fields.get("params") else ""
            return f"[{fields.get('n')}] {fields.get('sql') or '(text not on the wire)'}{values}"
        case "statement-more":
            return f"[{fields.get('n')}] (part {fields.get('part')}) {fields.get('sql')}"
        case "result":
            went = f"ERROR {fields['sqlstate']}" if fields.get("sqlstate") else fields.get("tag") or fields.get("state")
            did = f"{fields.get('rows')} rows, {fields.get('bytes')} bytes, {fields.get('ms')} ms"
            within = f", transaction {fields['tx']}" if fields.get("tx") else ""
            return f"[{fields.get('n')}]   -> {went}, {did}{within}"
        case "transaction":
            return f"transaction {fields.get('tx')}: {fields.get('outcome')}"
        case "gap":
            lost = f"{fields.get('records')} records, {fields.get('bytes')} bytes"
            return f"NOT RECORDED: {lost}, from {fields.get('since')} to {fields.get('until')}: {fields.get('why')}"
        case "file" | "file-refused":
            what = " ".join(str(fields[key]) for key in ("via", "op", "direction", "path", "to") if fields.get(key))
            digest = f", sha256 {fields['sha256']}" if fields.get("sha256") else ""
            went = f"{fields.get('outcome')}, {fields.get('bytes')} bytes, {fields.get('ms')} ms{digest}"
            return f"{what} -> {went if kind == 'file' else 'REFUSED: ' + str(fields.get('why'))}"
        case _:
            return f"{kind}: " + ", ".join(f"{key}={value}" for key, value in fields.items())


def as_object(frame: Frame) -> dict[str, object]:
    """A record for `--json`: its payload as JSON where it is JSON, else as text."""
    payload = _content(frame)
    if payload is None:
        payload = frame.payload.decode(errors="backslashreplace")
    return {"seq": frame.seq, "at": frame.at().isoformat(), "kind": frame.kind, "payload": payload}


def opens_privately(path: str, flags: int) -> int:
    """For `open(opener=…)`: a recording is as sensitive as the session."""
    return os.open(path, flags, stat.S_IRUSR | stat.S_IWUSR)
