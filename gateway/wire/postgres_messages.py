"""PostgreSQL messages of the frontend/backend protocol 3.x, as bytes.

PostgreSQL documentation, chapter "Frontend/Backend Protocol", section "Message Formats". Parsers take a body
without its header and raise ProtocolViolation unless it is used up to the last byte.
"""

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from gateway.wire.buffer import ProtocolViolation

HEADER = struct.Struct(">BI")  # type byte, length that counts itself but not the type
MAX_STARTUP = 10_000  # MAX_STARTUP_PACKET_LENGTH in pqcomm.h
NEWEST_MINOR = 2
OLD_KEY_BYTES = 4
LONG_KEY_BYTES = 32
MAX_KEY_BYTES = 256  # protocol 3.2, BackendKeyData
EXTENSION = "_pq_."

_CANCEL = 80877102
_SSL = 80877103
_GSSENC = 80877104
_MAJOR = 3


@dataclass(frozen=True, slots=True)
class SslRequest:
    """The client asks for TLS."""


@dataclass(frozen=True, slots=True)
class GssEncRequest:
    """The client asks for GSSAPI encryption, which this door does not speak."""


@dataclass(frozen=True, slots=True)
class CancelRequest:
    """Stop what the session with this key is doing."""

    pid: int
    secret: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Startup:
    """What the client wants to be. `parameters` in the order given, without the protocol's own `_pq_.` options."""

    minor: int
    parameters: Mapping[str, str]
    extensions: tuple[str, ...] = ()

    def spoken_minor(self) -> int:
        """The minor version that both sides know."""
        return min(self.minor, NEWEST_MINOR)

    def needs_negotiation(self) -> bool:
        """True when the client asked for more than is known here (NegotiateProtocolVersion is due)."""
        return self.minor > NEWEST_MINOR or bool(self.extensions)


First = SslRequest | GssEncRequest | CancelRequest | Startup


@dataclass(frozen=True, slots=True)
class Report:
    """What an ErrorResponse or NoticeResponse says. `severity` is ERROR, FATAL, WARNING, NOTICE…"""

    severity: str
    sqlstate: str
    message: str
    detail: str = ""
    hint: str = ""


def parse_first(body: bytes) -> First:
    """The first packet of a connection, without its length word."""
    if len(body) < 4:
        raise ProtocolViolation("startup packet too short")
    (code,) = struct.unpack_from(">I", body)
    if code in (_SSL, _GSSENC):
        if len(body) != 4:
            raise ProtocolViolation("encryption request of the wrong length")
        return SslRequest() if code == _SSL else GssEncRequest()
    if code == _CANCEL:
        return _parse_cancel(body)
    if code >> 16 != _MAJOR:
        raise ProtocolViolation(f"protocol {code >> 16}.{code & 0xFFFF} is not spoken here")
    return _parse_startup(code & 0xFFFF, body[4:])


def _parse_cancel(body: bytes) -> CancelRequest:
    if not 8 + OLD_KEY_BYTES <= len(body) <= 8 + MAX_KEY_BYTES:
        raise ProtocolViolation("cancel request of the wrong length")
    (pid,) = struct.unpack_from(">I", body, 4)
    return CancelRequest(pid, body[8:])


def _parse_startup(minor: int, body: bytes) -> Startup:
    # Name and value strings in turn, then one more zero byte, and nothing behind it.
    if body[-1:] != b"\0" or (len(body) > 1 and body[-2:] != b"\0\0"):
        raise ProtocolViolation("startup packet without its terminator")
    words = body[:-2].split(b"\0") if len(body) > 1 else []
    if len(words) % 2:
        raise ProtocolViolation("startup parameter without a value")
    parameters: dict[str, str] = {}
    extensions = []
    for raw_name, raw_value in zip(words[::2], words[1::2], strict=True):
        name, value = _text(raw_name), _text(raw_value)
        if not name:
            raise ProtocolViolation("startup parameter without a name")
        if name in parameters:
            raise ProtocolViolation("startup parameter given twice")
        if name.startswith(EXTENSION):
            extensions.append(name)
        else:
            parameters[name] = value
    return Startup(minor, parameters, tuple(extensions))


def _text(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise ProtocolViolation("startup parameter is not UTF-8") from None


def parse_password(body: bytes) -> str:
    """The text of a PasswordMessage."""
    if body[-1:] != b"\0" or body.count(b"\0") != 1:
        raise ProtocolViolation("password message without its terminator")
    return _text(body[:-1])


def parse_sasl_initial(body: bytes) -> tuple[str, bytes]:
    """Mechanism and first message of a SASLInitialResponse."""
    name, found, rest = body.partition(b"\0")
    if not found or len(rest) < 4:
        raise ProtocolViolation("SASL response too short")
    (length,) = struct.unpack_from(">i", rest)
    if length != len(rest) - 4:  # -1, no first message, is not for SCRAM, where the client begins
        raise ProtocolViolation("SASL response of the wrong length")
    return _text(name), rest[4:]


def parse_fields(body: bytes) -> dict[str, str]:
    """The fields of an ErrorResponse or NoticeResponse by their one-letter code; what cannot be read is left out.

    A hostile server may leave out any field, the SQLSTATE too (CVE-2026-6666).
    """
    fields: dict[str, str] = {}
    for raw in body.split(b"\0"):
        if raw:
            fields.setdefault(chr(raw[0]), raw[1:].decode(errors="backslashreplace"))
    return fields


def message(kind: bytes, body: bytes = b"") -> bytes:
    """A typed message."""
    return HEADER.pack(kind[0], len(body) + 4) + body


def untyped(code: int, body: bytes = b"") -> bytes:
    """A message of the time before types: length, code, body."""
    return struct.pack(">II", len(body) + 8, code) + body


def ssl_request() -> bytes:
    return untyped(_SSL)


def cancel_request(pid: int, secret: bytes) -> bytes:
    return untyped(_CANCEL, struct.pack(">I", pid) + secret)


def startup(parameters: Mapping[str, str]) -> bytes:
    """A StartupMessage of protocol 3.0, which every server knows; 3.2 differs in nothing but longer cancel keys."""
    words = b"".join(_cstring(name) + _cstring(value) for name, value in parameters.items())
    return untyped(_MAJOR << 16, words + b"\0")


def _cstring(text: str) -> bytes:
    raw = text.encode()
    if b"\0" in raw:
        raise ProtocolViolation("zero byte inside a string")
    return raw + b"\0"


def error_response(report: Report) -> bytes:
    return message(b"E", _report_body(report))


def notice_response(report: Report) -> bytes:
    return message(b"N", _report_body(report))


def _report_body(report: Report) -> bytes:
    fields: Iterable[tuple[bytes, str]] = (
        (b"S", report.severity),
        (b"V", report.severity),
        (b"C", report.sqlstate),
        (b"M", report.message),
        (b"D", report.detail),
        (b"H", report.hint),
    )
    return b"".join(code + _printable(text) + b"\0" for code, text in fields if text) + b"\0"


def _printable(text: str) -> bytes:
    # Text from elsewhere must not steer a terminal: control characters but newline become a space.
    return "".join(c if c.isprintable() or c == "\n" else " " for c in text).encode(errors="replace")


def authentication_cleartext() -> bytes:
    return message(b"R", struct.pack(">I", 3))


def authentication_sasl(mechanisms: Iterable[str]) -> bytes:
    """AuthenticationSASL: what may be chosen from."""
    return message(b"R", struct.pack(">I", 10) + b"".join(_cstring(each) for each in mechanisms) + b"\0")


def authentication_sasl_continue(data: bytes) -> bytes:
    return message(b"R", struct.pack(">I", 11) + data)


def authentication_sasl_final(data: bytes) -> bytes:
    return message(b"R", struct.pack(">I", 12) + data)


def authentication_ok() -> bytes:
    return message(b"R", struct.pack(">I", 0))


def backend_key_data(pid: int, secret: bytes) -> bytes:
    return message(b"K", struct.pack(">I", pid) + secret)


def negotiate_protocol_version(startup: Startup) -> bytes:
    """The newest minor version spoken here, and the options that are not known (protocol 3.0, "v")."""
    options = b"".join(_cstring(name) for name in startup.extensions)
    version = (_MAJOR << 16) | startup.spoken_minor()
    return message(b"v", struct.pack(">II", version, len(startup.extensions)) + options)


def sasl_initial_response(mechanism: str, response: bytes) -> bytes:
    return message(b"p", _cstring(mechanism) + struct.pack(">I", len(response)) + response)


def sasl_response(response: bytes) -> bytes:
    return message(b"p", response)
