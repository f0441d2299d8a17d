"""The leg to the target: dial, TLS, login with the ephemeral role, and cancel requests."""

import asyncio
import secrets
import ssl
from collections.abc import Mapping
from concurrent.futures import Executor
from functools import lru_cache
from pathlib import Path

from cryptography.x509 import InvalidVersion, load_der_x509_certificate

from gateway.app.end_point import end_point_of
from gateway.app.target_ports import DatabaseLogin
from gateway.core.target import Target
from gateway.edges.proxy.postgres_leg import Leg, LegClosed
from gateway.wire import postgres_messages as pg
from gateway.wire.buffer import ProtocolViolation
from gateway.wire.postgres_machine import TargetLogin

DIAL_S = 10.0
CANCEL_S = 5.0


class TargetUnreachable(Exception):
    """No session with the target came about. The text is for the person and holds no secret."""


async def dial(target: Target, scratch: memoryview) -> Leg:
    """A connection to the target, encrypted as the catalogue says."""
    leg = Leg(scratch)
    try:
        async with asyncio.timeout(DIAL_S):
            await asyncio.get_running_loop().create_connection(lambda: leg, target.host, target.port)
            leg.tune()
            if target.tls != "disable":
                await _encrypt(leg, target)
    except ssl.SSLCertVerificationError as why:
        leg.abort()
        raise TargetUnreachable(f"the target's certificate is not trusted: {why.verify_message}") from why
    except TimeoutError as why:
        leg.abort()
        raise TargetUnreachable(f"it did not answer within {DIAL_S:g} s") from why
    except (OSError, LegClosed, ssl.SSLError) as why:
        leg.abort()
        raise TargetUnreachable(_plain(why)) from why
    except (TargetUnreachable, asyncio.CancelledError):
        leg.abort()
        raise
    return leg


async def log_in(
    leg: Leg, target: Target, login: DatabaseLogin, parameters: Mapping[str, str], pool: Executor
) -> TargetLogin:
    """Log in on a fresh leg; the machine holds the cancel key and what the client is to be told.

    TargetUnreachable, or TargetRefused with the target's own words.
    """
    nonce = secrets.token_urlsafe(24)
    parameters = {"database": target.database, **parameters}
    machine = TargetLogin(login.role, login.password, parameters, nonce, _binding(leg))
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(DIAL_S):
            leg.write(machine.hello())
            while not machine.is_ready:
                arrived = await leg.read()
                if machine.may_hash(arrived):  # off the loop: a target may ask for all hashes that SCRAM's bound allows
                    leg.write(await loop.run_in_executor(pool, machine.feed, arrived))
                else:
                    leg.write(machine.feed(arrived))
    except TimeoutError as why:
        raise TargetUnreachable(f"it did not let the gateway in within {DIAL_S:g} s") from why
    except LegClosed as why:
        raise TargetUnreachable("it closed the connection during the login") from why
    except ProtocolViolation as why:
        raise TargetUnreachable(str(why)) from why
    return machine


def _binding(leg: Leg) -> bytes:
    """Of the certificate that the target showed; b"" without TLS."""
    der = leg.tls.getpeercert(binary_form=True) if leg.tls is not None else None
    return _binding_of(der) if der else b""


@lru_cache(maxsize=256)
def _binding_of(der: bytes) -> bytes:
    """One that OpenSSL takes and this does not: nothing to bind to."""
    try:
        return end_point_of(load_der_x509_certificate(der))
    except (ValueError, InvalidVersion):
        return b""


async def cancel(target: Target, pid: int, secret: bytes, scratch: memoryview) -> None:
    """Ask the target to cancel what a backend does; returns when it has taken the request, or could not."""
    try:
        async with asyncio.timeout(CANCEL_S):
            leg = await dial(target, scratch)
            try:
                leg.write(pg.cancel_request(pid, secret))
                while True:
                    await leg.read()  # the server closes once the signal is sent
            finally:
                leg.close()
    except (TargetUnreachable, LegClosed, TimeoutError):
        return


async def _encrypt(leg: Leg, target: Target) -> None:
    leg.write(pg.ssl_request())
    answer = await leg.read()
    if answer == b"N":
        raise TargetUnreachable("it does not speak TLS, which the catalogue demands for it")
    if answer != b"S":  # also when more follows in the clear: CVE-2021-23222
        raise TargetUnreachable("it answered the request for TLS with something else")
    await leg.start_tls(_context(target), DIAL_S, server_hostname=target.host)


def _context(target: Target) -> ssl.SSLContext:
    try:
        changed = Path(target.ca_file).stat().st_mtime_ns if target.ca_file else 0
        return _build_context(target.tls, target.ca_file, changed)
    except (OSError, ValueError) as why:
        raise TargetUnreachable("its TLS settings in the catalogue cannot be used") from why


@lru_cache(maxsize=256)
def _build_context(mode: str, ca_file: str, changed: int) -> ssl.SSLContext:  # noqa: ARG001 - `changed` renews the entry
    """Libpq's meaning of sslmode: `require` checks the chain only where a CA is given."""
    if mode not in ("verify-full", "verify-ca", "require"):
        raise ValueError(mode)
    context = ssl.create_default_context(cafile=ca_file or None)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["postgresql"])
    context.check_hostname = mode == "verify-full"
    if mode == "require" and not ca_file:
        context.verify_mode = ssl.CERT_NONE
    return context


def _plain(why: Exception) -> str:
    if isinstance(why, ConnectionRefusedError):
        return "nothing listens there"
    if isinstance(why, LegClosed):
        return "it closed the connection"
    if isinstance(why, ssl.SSLError):
        return "TLS with it failed"
    return "the network does not reach it"
