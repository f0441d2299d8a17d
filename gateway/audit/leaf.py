"""The canonical bytes of an event: RFC 8785 JSON (JCS) with a fixed set of fields, at most 65,535 bytes.

An entry of a C2SP tile has a 16-bit length, hence the bound; bulky evidence stays outside and its hash is logged.
There is exactly one encoding of an event, so `decode_event` refuses every other one.
Format: docs/formats/event.md.
"""

import json
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Final

FORMAT: Final = "gw-event/1"
MAX_LEAF: Final = 65_535  # https://c2sp.org/tlog-tiles#log-entries
MAX_DEPTH: Final = 16
TEXT_FIELDS: Final = ("at", "grant", "id", "outcome", "principal", "request", "session", "source", "target", "type")
_FIELDS: Final = frozenset((*TEXT_FIELDS, "data", "format"))
_REQUIRED: Final = ("at", "id", "outcome", "source", "type")
_INSTANT: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}Z")
_text: Final = json.encoder.encode_basestring  # escapes exactly what RFC 8785 §3.2.2.2 names
_SAFE_INTEGER: Final = 2**53 - 1  # RFC 8785 §3.2.2.3: beyond it readers in other languages lose digits


def format_instant(at: datetime) -> str:
    """`2026-01-31T09:30:00.000000Z`; ValueError for an instant without a zone."""
    if at.utcoffset() is None:
        raise ValueError("an event's instant needs a time zone")
    return at.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def parse_instant(text: str) -> datetime:
    """The inverse of `format_instant`; ValueError for anything else."""
    if _INSTANT.fullmatch(text) is None:
        raise ValueError(f"{text[:40]!r} is not an instant such as 2026-01-31T09:30:00.000000Z")
    return datetime.fromisoformat(text)


def encode_event(event: Mapping[str, object]) -> bytes:
    """The leaf of an event given as the fields of the format (`format` itself is added).

    `at` is text as from `format_instant`; `data` a mapping of JSON values. ValueError says what does not fit.
    """
    fields = {**event, "format": FORMAT}
    _require_shape(fields)
    leaf = _json(fields, MAX_DEPTH).encode()
    if len(leaf) > MAX_LEAF:
        raise ValueError(f"an event takes at most {MAX_LEAF} bytes, this one {len(leaf)}: log a hash of what is bulky")
    return leaf


def decode_event(leaf: bytes) -> dict[str, object]:
    """The fields of a leaf; ValueError unless the bytes are the canonical encoding of a well-formed event."""
    if len(leaf) > MAX_LEAF:
        raise ValueError("the entry is longer than an event may be")
    try:
        fields = json.loads(leaf.decode(), parse_int=_integer)
        is_canonical = isinstance(fields, dict) and _json(fields, MAX_DEPTH).encode() == leaf
    except RecursionError as error:
        raise ValueError("the entry is nested too deeply") from error
    if not is_canonical:
        raise ValueError("the entry is not canonical JSON")
    if fields.get("format") != FORMAT:
        raise ValueError("the entry is of another format")
    _require_shape(fields)
    del fields["format"]
    return dict(fields)


def _integer(digits: str) -> int:
    if len(digits) > 17:  # before int(), which takes quadratic time
        raise ValueError("a number is out of bounds")
    return int(digits)


def _require_shape(fields: Mapping[str, object]) -> None:
    if set(fields) != _FIELDS:
        wrong = min(set(fields) ^ _FIELDS)
        raise ValueError(f"an event has the fields {', '.join(sorted(_FIELDS))}; {wrong[:40]!r} is missing or unknown")
    for name in TEXT_FIELDS:
        if not isinstance(fields[name], str):
            raise ValueError(f"the event's {name} is not text")  # noqa: TRY004 - one kind of error for bad events
    for name in _REQUIRED:
        if not fields[name]:
            raise ValueError(f"the event's {name} is empty")
    if not isinstance(fields["data"], Mapping):
        raise ValueError("the event's data is not an object")  # noqa: TRY004 - as above
    parse_instant(str(fields["at"]))


def _json(value: object, depth: int) -> str:
    """RFC 8785 §3.2; ValueError for what JSON cannot hold unchanged."""
    if depth < 0:
        raise ValueError(f"an event nests at most {MAX_DEPTH} deep")
    match value:
        case str():
            return _text(value)
        case None | bool():
            return json.dumps(value)
        case int() if abs(value) <= _SAFE_INTEGER:
            return str(int(value))
        case float() if abs(value) <= _SAFE_INTEGER:  # which NaN and infinity are not
            return _number(value)
        case Mapping():
            return "{" + ",".join([f"{_text(k)}:{_json(value[k], depth - 1)}" for k in _ordered(value)]) + "}"
        case list() | tuple():
            return "[" + ",".join([_json(item, depth - 1) for item in value]) + "]"
        case _:
            raise ValueError(f"an event cannot hold a {type(value).__name__} of this kind")


def _ordered(keys: Iterable[object]) -> list[str]:
    """§3.2.3: sorted by their UTF-16 code units, which in ASCII is as Python sorts."""
    texts = [_key(each) for each in keys]
    return sorted(texts) if all(map(str.isascii, texts)) else sorted(texts, key=lambda each: each.encode("utf-16-be"))


def _key(key: object) -> str:
    if not isinstance(key, str):
        raise ValueError("a key in an event is not text")  # noqa: TRY004 - one kind of error for bad events
    return key


def _number(value: float) -> str:
    """ECMAScript's Number::toString (§3.2.2.3): Python finds the same digits but lays them out differently."""
    if value == 0:
        return "0"
    if value < 0:
        return "-" + _number(-value)
    mantissa, _, exponent = f"{value!r}".partition("e")
    whole, _, fraction = mantissa.partition(".")
    fraction = "" if fraction == "0" else fraction
    digits = (whole + fraction).lstrip("0")
    point = len(whole) + int(exponent or 0) - (len(whole + fraction) - len(digits))
    digits = digits.rstrip("0")
    if point > 0:  # and at most 16, thanks to the bound above
        return digits.ljust(point, "0") if len(digits) <= point else f"{digits[:point]}.{digits[point:]}"
    if -6 < point <= 0:
        return f"0.{'0' * -point}{digits}"
    tail = f".{digits[1:]}" if len(digits) > 1 else ""
    return f"{digits[0]}{tail}e{point - 1:+d}"
