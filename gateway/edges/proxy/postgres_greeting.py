"""The client's way to the point where it has shown a ticket: TLS first, then who and where, then the password."""

import asyncio
import secrets
import socket
import ssl
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from gateway.app.database_certificate import digest_of_certificate
from gateway.app.ticket_proof import salt_of
from gateway.edges.proxy import postgres_refusals as refuse
from gateway.edges.proxy.postgres_leg import Leg, LegClosed, tune
from gateway.edges.proxy.postgres_refusals import Turned
from gateway.wire import postgres_messages as pg
from gateway.wire.buffer import ProtocolViolation
from gateway.wire.postgres_machine import ClientGreeting, Password, SaslInitial, SaslResponse, Told
from gateway.wire.postgres_messages import CancelRequest, GssEncRequest, SslRequest, Startup
from gateway.wire.postgres_scram_server import Misbound, Proof, ScramServer

_TLS_RECORD = b"\x16"  # ContentType handshake (RFC 8446 section 5.1)
_TLS_S = 10.0
_MAX_NAME = 200
_PHYSICAL = "replication"  # which pg_basebackup and pg_receivewal say for a database: then the target is in the user


@dataclass(frozen=True, slots=True)
class Shown:
    """The certificate that completed the TLS handshake, by its digest."""

    digest: str


@dataclass(frozen=True, slots=True)
class Visitor:
    """Who knocks, for which target, and with what: a ticket as password, the proof of one, or a certificate.

    `early` are bytes that came behind it.
    """

    user: str
    target: str
    level: str
    minor: int
    parameters: Mapping[str, str]
    secret: str | Proof | Misbound | Shown = field(repr=False)
    tls: str = ""
    early: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class Manners:
    """What the door asks of a client. `binding` is the hash of its TLS certificate, b"" for SCRAM without it."""

    tls: ssl.SSLContext
    uses_scram: bool = False
    binding: bytes = b""
    allow_plaintext: bool = False


async def greet(leg: Leg, sock: socket.socket, manners: Manners) -> Visitor | CancelRequest:
    """Take over `sock`; the caller sets the deadline. Turned, ProtocolViolation, LegClosed, OSError: nothing."""
    is_direct = await _take_over(leg, sock, manners.tls)
    machine = ClientGreeting()
    is_encrypted = is_direct
    while True:
        first = await _first(leg, machine)
        if isinstance(first, SslRequest | GssEncRequest):
            if not machine.is_drained():
                raise Turned(refuse.fatal(refuse.PROTOCOL_VIOLATION, "received unencrypted data after SSL request"))
            if isinstance(first, GssEncRequest) or is_encrypted:
                leg.write(b"N")
                continue
            leg.write(b"S")
            await leg.start_tls(manners.tls, _TLS_S)
            is_encrypted = True
        elif isinstance(first, CancelRequest):
            return first  # libpq before 17 sends it in the clear, whatever its session used
        else:
            if not is_encrypted and not manners.allow_plaintext:
                raise Turned(_plaintext())
            return await _sign_in(leg, machine, first, manners)


async def _take_over(leg: Leg, sock: socket.socket, tls: ssl.SSLContext) -> bool:
    """Make `sock` the leg's; True when the client began with TLS at once (libpq's sslnegotiation=direct)."""
    loop = asyncio.get_running_loop()
    try:
        tune(sock)
        is_direct = await _peek(sock) == _TLS_RECORD
    except BaseException:
        sock.close()
        raise
    if not is_direct:
        await loop.connect_accepted_socket(lambda: leg, sock)
        return False
    await loop.connect_accepted_socket(lambda: leg, sock, ssl=tls, ssl_handshake_timeout=_TLS_S)
    # Without ALPN another protocol's client could be led here (RFC 7301; libpq insists on it too).
    if leg.tls is None or leg.tls.selected_alpn_protocol() != "postgresql":
        raise LegClosed
    return True


async def _peek(sock: socket.socket) -> bytes:
    """The first byte, left in place. Nearly always it is there already: then the loop need not watch for it."""
    with suppress(BlockingIOError):
        return sock.recv(1, socket.MSG_PEEK)
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(sock, readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(sock)
    return sock.recv(1, socket.MSG_PEEK)


async def _first(leg: Leg, machine: ClientGreeting) -> pg.First:
    found = await _next(leg, machine)
    if isinstance(found, Password | SaslInitial | SaslResponse):
        raise ProtocolViolation("a password before the startup packet")
    return found


async def _next(leg: Leg, machine: ClientGreeting) -> Told:
    while (found := machine.step()) is None:
        machine.feed(await leg.read())
    return found


async def _sign_in(leg: Leg, machine: ClientGreeting, startup: Startup, manners: Manners) -> Visitor:
    user, target, level = _names(startup)
    if startup.needs_negotiation():
        leg.write(pg.negotiate_protocol_version(startup))
    secret: str | Proof | Misbound | Shown | None = _certificate(leg)
    if secret is None:
        secret = await (_scram(leg, machine, user, target, manners) if manners.uses_scram else _password(leg, machine))
    return Visitor(
        user,
        target,
        level,
        startup.spoken_minor(),
        startup.parameters,
        secret,
        (leg.tls.version() or "") if leg.tls is not None else "",
        machine.rest(),
    )


def _certificate(leg: Leg) -> Shown | None:
    """What the client showed in this handshake; a resumed session shows what was shown in another one.

    OpenSSL has verified it and that the client has its key; there is none unless the door's context asks for it.
    """
    if leg.tls is None or leg.tls.session_reused:
        return None
    der = leg.tls.getpeercert(binary_form=True)
    return Shown(digest_of_certificate(der)) if der else None


async def _password(leg: Leg, machine: ClientGreeting) -> str:
    leg.write(pg.authentication_cleartext())
    found = await _next(leg, machine)
    assert isinstance(found, Password), "the machine's state"
    return found.text


async def _scram(leg: Leg, machine: ClientGreeting, user: str, target: str, manners: Manners) -> Proof | Misbound:
    """The exchange up to the client's proof; whose it is, and the answer to it, are the use case's."""
    binding = manners.binding if leg.tls is not None else b""
    scram = ScramServer(salt_of(user, target), secrets.token_urlsafe(24), binding)
    machine.expect_sasl()
    leg.write(pg.authentication_sasl(scram.mechanisms()))
    chosen = await _next(leg, machine)
    assert isinstance(chosen, SaslInitial), "the machine's state"
    leg.write(pg.authentication_sasl_continue(scram.first(chosen.mechanism, chosen.data)))
    shown = await _next(leg, machine)
    assert isinstance(shown, SaslResponse), "the machine's state"
    return scram.proof(shown.data)


def _names(startup: Startup) -> tuple[str, str, str]:
    user, database = startup.parameters.get("user", ""), startup.parameters.get("database", "")
    if database == _PHYSICAL and "%" in user:
        user, _, database = user.rpartition("%")
    if not user or not database or len(user) > _MAX_NAME or len(database) > _MAX_NAME:
        raise Turned(
            refuse.fatal(
                refuse.INVALID_AUTHORIZATION,
                "User name and target name are needed.",
                hint="The user is your name, the database is the target's name; gw connect TARGET prints the URL.",
            )
        )
    target, _, level = database.partition("/")
    return user, target, level


def _plaintext() -> pg.Report:
    return refuse.fatal(
        refuse.INVALID_AUTHORIZATION,
        "This door speaks TLS only.",
        "The client asked for an unencrypted session.",
        "Connect with sslmode=verify-full, as in the URL that gw connect prints.",
    )
