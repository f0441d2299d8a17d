"""The two conversations before the relay: the client's with the door, and the gateway's with the target.

Each state lists its legal messages; anything else is a ProtocolViolation. Sizes are bounded before allocation.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, auto

from gateway.wire import postgres_messages as pg
from gateway.wire.buffer import Buffer, ProtocolViolation
from gateway.wire.postgres_scram import ScramClient

MAX_PASSWORD = 8448  # a ticket is short; a deploy token fits, to be told that it is none
_LONGEST = 0x3FFFFFFF  # MaxAllocSize - 1, the server's own bound on one message
_SMALL = 10_000  # PQ_SMALL_MESSAGE_LIMIT

# What a client may send once it is in, with the server's own bounds on the length word (postgres.c, SocketBackend).
CLIENT_MESSAGES: Mapping[int, int] = {
    **dict.fromkeys(b"QFPBdf", _LONGEST),
    **dict.fromkeys(b"CDEHSXc", _SMALL),
}
# What a server may send then. R, K and v belong to the login; W (CopyBoth) to replication connections alone.
SERVER_MESSAGES = frozenset(b"ACDEGHINSTVZcdnst123")
REPLICATION_MESSAGES = SERVER_MESSAGES | frozenset(b"W")


class ClientState(Enum):
    """Where the client's conversation is. Legal: FIRST any untyped packet; later only the answer that was asked for."""

    FIRST = auto()
    PASSWORD = auto()
    SASL_INITIAL = auto()
    SASL_RESPONSE = auto()
    DONE = auto()


@dataclass(frozen=True, slots=True)
class Password:
    """What the client typed. Secret."""

    text: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class SaslInitial:
    """The mechanism that the client chose, and its first message."""

    mechanism: str
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class SaslResponse:
    """The client's last message in a SASL exchange."""

    data: bytes = field(repr=False)


Told = pg.First | Password | SaslInitial | SaslResponse


class ClientGreeting:
    """The client's side until it has shown its secret: as a password, or by SCRAM once `expect_sasl` was called behind
    the Startup. Feed bytes, ask for what they mean.
    """

    def __init__(self) -> None:
        self._buffer = Buffer(pg.MAX_STARTUP + MAX_PASSWORD)
        self.state = ClientState.FIRST

    def feed(self, data: bytes) -> None:
        """Bytes that arrived; ProtocolViolation when they are too many."""
        self._buffer.feed(data)

    def step(self) -> Told | None:
        """The next message, None while it is not whole."""
        if self.state is ClientState.FIRST:
            return self._first()
        if self.state is ClientState.DONE:
            raise RuntimeError("the greeting is over")
        body = self._secret()
        return None if body is None else self._shown(body)

    def expect_sasl(self) -> None:
        """The client is asked for SCRAM, not for its password."""
        if self.state is not ClientState.PASSWORD:
            raise RuntimeError("not the moment to choose")
        self.state = ClientState.SASL_INITIAL

    def is_drained(self) -> bool:
        """True when nothing has come behind the last message. Must hold before TLS begins: bytes sent in the clear
        behind SSLRequest would otherwise pass for encrypted ones (CVE-2021-23214, CVE-2021-3935).
        """
        return not len(self._buffer)

    def rest(self) -> bytes:
        """What came behind the password: the start of the relay."""
        return self._buffer.drain()

    def _first(self) -> pg.First | None:
        head = self._buffer.peek(4)
        if head is None:
            return None
        (length,) = struct.unpack(">I", head)
        if not 8 <= length <= pg.MAX_STARTUP:
            raise ProtocolViolation("startup packet of an impossible length")
        packet = self._buffer.take(length)
        if packet is None:
            return None
        first = pg.parse_first(packet[4:])
        if isinstance(first, pg.Startup):
            self.state = ClientState.PASSWORD
        return first

    def _shown(self, body: bytes) -> Told:
        """The three messages share one type byte: which one it is, only the state tells."""
        if self.state is ClientState.SASL_INITIAL:
            self.state = ClientState.SASL_RESPONSE
            return SaslInitial(*pg.parse_sasl_initial(body))
        was, self.state = self.state, ClientState.DONE
        return SaslResponse(body) if was is ClientState.SASL_RESPONSE else Password(pg.parse_password(body))

    def _secret(self) -> bytes | None:
        head = self._buffer.peek(5)
        if head is None:
            return None
        kind, length = pg.HEADER.unpack(head)
        if kind != ord("p"):
            raise ProtocolViolation("only a password may be sent before authentication")
        if not 5 <= length <= MAX_PASSWORD:
            raise ProtocolViolation("password message of an impossible length")
        packet = self._buffer.take(length + 1)
        return None if packet is None else packet[5:]


class LoginState(Enum):
    """Where the gateway's login at the target is."""

    AUTHENTICATION = auto()
    SASL_CONTINUE = auto()
    SASL_FINAL = auto()
    PROVEN = auto()  # AuthenticationOk is still to come
    SETTLING = auto()
    READY = auto()


_LEGAL_IN_LOGIN = {
    LoginState.AUTHENTICATION: b"REN",
    LoginState.SASL_CONTINUE: b"REN",
    LoginState.SASL_FINAL: b"REN",
    LoginState.PROVEN: b"REN",
    LoginState.SETTLING: b"SKNEZ",
}


class TargetRefused(Exception):
    """The target answered the login with an ErrorResponse. `fields` by one-letter code; texts are the server's."""

    def __init__(self, fields: Mapping[str, str]) -> None:
        super().__init__(f"the target refused the login with SQLSTATE {fields.get('C', 'unknown')}")
        self.fields = fields

    @property
    def is_of_login(self) -> bool:
        """True when it is about who comes (class 28), not about the database."""
        return self.fields.get("C", "").startswith("28")

    @property
    def is_of_role(self) -> bool:
        """True when it is about the role itself. What pg_hba.conf says (the server's ClientAuthentication), for
        replication connections apart, another role would hear, too.
        """
        return self.is_of_login and self.fields.get("R") != "ClientAuthentication"


_MAX_LOGIN_MESSAGE = 65_536
_SASL_CONTINUE = struct.Struct(">cII")  # type, length, which authentication
_MAX_SETTLING = 1 << 20


class TargetLogin:
    """The gateway's login: SCRAM-SHA-256, bound to the target's certificate (`binding`) where both can, and nothing
    weaker, up to the first ReadyForQuery.

    Cleartext and MD5 requests are refused (a hostile target must not be handed the password, nor a hash to replay),
    and so is an AuthenticationOk without a proof of the server (a target that never checked is not our target).
    """

    def __init__(
        self, role: str, password: str, parameters: Mapping[str, str], nonce: str, binding: bytes = b""
    ) -> None:
        self._parameters = {"user": role, **parameters}
        self._scram = ScramClient(password, nonce, binding)
        self._buffer = Buffer(_MAX_SETTLING)
        self._state = LoginState.AUTHENTICATION
        self._settled = bytearray()
        self.pid = 0
        self.secret = b""

    def hello(self) -> bytes:
        """The StartupMessage."""
        return pg.startup(self._parameters)

    @property
    def is_ready(self) -> bool:
        """True from the first ReadyForQuery on."""
        return self._state is LoginState.READY

    def may_hash(self, data: bytes) -> bool:
        """True when to `feed` this may take long: off the event loop with it."""
        if self._state is not LoginState.SASL_CONTINUE:
            return False
        is_whole = not len(self._buffer) and data[:9] == _SASL_CONTINUE.pack(b"R", len(data) - 1, 11)
        return not (is_whole and self._scram.knows(data[9:]))

    def settled(self) -> bytes:
        """What the client must be told: ParameterStatus, notices and ReadyForQuery."""
        return bytes(self._settled)

    def rest(self) -> bytes:
        """What came behind ReadyForQuery: the start of the relay."""
        return self._buffer.drain()

    def feed(self, data: bytes) -> bytes:
        """Take what arrived, return what to send; TargetRefused or ProtocolViolation end it. May hash for long."""
        self._buffer.feed(data)
        replies = bytearray()
        while not self.is_ready and (found := self._next()) is not None:
            replies += self._take(*found)
        return bytes(replies)

    def _next(self) -> tuple[int, bytes] | None:
        head = self._buffer.peek(5)
        if head is None:
            return None
        kind, length = pg.HEADER.unpack(head)
        if kind not in _LEGAL_IN_LOGIN[self._state]:
            raise ProtocolViolation("the target sent a message that has no place in a login")
        if not 4 <= length <= _MAX_LOGIN_MESSAGE:
            raise ProtocolViolation("the target sent a login message of an impossible length")
        packet = self._buffer.take(length + 1)
        return None if packet is None else (kind, packet)

    def _take(self, kind: int, packet: bytes) -> bytes:
        body = packet[5:]
        if kind == ord("E"):
            raise TargetRefused(pg.parse_fields(body))
        if kind == ord("R"):
            return self._authentication(body)
        if kind == ord("K"):
            self._key(body)
        else:  # ParameterStatus, notices, ReadyForQuery: the client's business
            if len(self._settled) + len(packet) > _MAX_SETTLING:
                raise ProtocolViolation("the target does not stop greeting")
            self._settled += packet
            if kind == ord("Z"):
                self._state = LoginState.READY
        return b""

    def _authentication(self, body: bytes) -> bytes:
        if len(body) < 4:
            raise ProtocolViolation("authentication request too short")
        (code,), rest = struct.unpack_from(">I", body), body[4:]
        match code, self._state:
            case 10, LoginState.AUTHENTICATION:
                mechanism = self._scram.choose(rest.split(b"\0"))
                self._state = LoginState.SASL_CONTINUE
                return pg.sasl_initial_response(mechanism, self._scram.first())
            case 11, LoginState.SASL_CONTINUE:
                self._state = LoginState.SASL_FINAL
                return pg.sasl_response(self._scram.final(rest))
            case 12, LoginState.SASL_FINAL:
                self._scram.verify(rest)
                self._state = LoginState.PROVEN
            case 0, LoginState.PROVEN:
                self._state = LoginState.SETTLING
            case _:
                raise ProtocolViolation(f"the target asks for authentication {code}; only SCRAM-SHA-256 is spoken")
        return b""

    def _key(self, body: bytes) -> None:
        if not 4 + pg.OLD_KEY_BYTES <= len(body) <= 4 + pg.MAX_KEY_BYTES:
            raise ProtocolViolation("the target sent a cancel key of an impossible length")
        (self.pid,) = struct.unpack_from(">I", body)
        self.secret = body[4:]
