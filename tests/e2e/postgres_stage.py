"""A database door on a real server, with use cases simple enough to see through."""

import asyncio
import json
import os
import ssl
import subprocess
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
import uvloop
from psycopg import sql

from gateway.adapters.credentials.postgres import PostgresRoles
from gateway.adapters.door_tls import ensure_door_certificate
from gateway.app.end_session import Sealed
from gateway.app.live import End, LiveSessions
from gateway.app.open_session import Admitted, Opened
from gateway.app.recording_ports import Recording, RecordingFailed
from gateway.app.target_ports import DatabaseLogin
from gateway.app.ticket_proof import salt_of
from gateway.core.errors import Denied, GatewayError, Refusal
from gateway.core.grant import Grant
from gateway.core.obligation import Obligations, Record
from gateway.core.principal import User
from gateway.core.request import RequestKind
from gateway.core.session import EndReason, Protocol, Session
from gateway.core.target import Kind, Level, Target
from gateway.core.window import Window
from gateway.edges.proxy.postgres import PostgresDoor
from gateway.edges.proxy.postgres_keeper import Doorkeeper
from gateway.wire.postgres_scram_server import Misbound, Proof, Verifier
from tests.servers import PostgresServer

WITHIN = 15
TICKET = "ticket-for-tests"
ONCALL = User("usr_1", "https://idp.test", "1", "oncall")


class MemoryRecording:
    """Keeps records in memory; can be told to fail, or to leave records undurable until released."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.records: list[tuple[str, datetime, bytes]] = []
        self.fails = False
        self.is_slow = False
        self.waiting: list[tuple[int, Callable[[bool], None]]] = []

    def append(self, kind: str, at: datetime, data: bytes) -> int:
        if self.fails:
            raise RecordingFailed("disk full")
        with self.changed:
            self.records.append((kind, at, data))
            self.changed.notify_all()
            return len(self.records) - 1

    def append_all(self, records: Sequence[tuple[str, int, bytes]]) -> int:
        return max(
            (self.append(kind, datetime.fromtimestamp(at_ns / 1e9, UTC), data) for kind, at_ns, data in records),
            default=-1,
        )

    def wait_durable(self, seq: int, timeout: timedelta) -> None:
        return

    def on_durable(self, seq: int, callback: Callable[[bool], None]) -> None:
        with self.changed:
            if self.is_slow:
                self.waiting.append((seq, callback))
                self.changed.notify_all()
                return
        threading.Thread(target=callback, args=(True,)).start()

    def digest(self) -> tuple[int, str]:
        return len(self.records), "00"

    def seal(self) -> tuple[int, str]:
        return self.digest()

    def of(self, kind: str) -> list[dict[str, Any]]:
        with self.changed:
            return [json.loads(data) for each, _, data in self.records if each == kind]

    def wait(self, condition: Callable[[], bool]) -> None:
        with self.changed:
            assert self.changed.wait_for(condition, WITHIN), self.records[-5:]


@dataclass
class Stage:
    """`opened` are the sessions so far, `ends` why they ended; both grow under `changed`."""

    target: Target
    login: DatabaseLogin
    ca_file: Path
    record: Record = Record.SPOOL
    refusal: Refusal | None = None
    changed: threading.Condition = field(default_factory=threading.Condition)
    opened: list[Opened] = field(default_factory=list)
    ends: list[tuple[str, EndReason, str]] = field(default_factory=list)
    denied: list[tuple[str, str]] = field(default_factory=list)  # whose ticket was good, and the code
    live: LiveSessions = field(default_factory=LiveSessions)
    recording_fails: bool = False
    is_slow: bool = False
    door: PostgresDoor = field(init=False)
    loop: asyncio.AbstractEventLoop = field(init=False)

    @property
    def port(self) -> int:
        return self.door.port

    def keeper(self) -> Doorkeeper:
        return Doorkeeper(
            self._authenticate,
            self._open,
            self._seal,
            self._end,
            self.live,
            lambda: datetime.now(UTC),
            prove=self._prove,
            deny=self._deny,
            end_backend=lambda _, *backend: PostgresRoles().end_backend(*backend, lambda: None) and None,
        )

    def _deny(self, who: Admitted, refusal: Refusal, client: str) -> GatewayError:
        assert client
        self.denied.append((who.user.name, refusal.code))
        return Denied(refusal)

    def url(self, **parameters: str) -> str:
        asked = {"sslmode": "verify-full", "sslrootcert": str(self.ca_file), "connect_timeout": "10", **parameters}
        query = "&".join(f"{name}={quote(value, safe='')}" for name, value in asked.items())
        return f"postgresql://oncall:{TICKET}@127.0.0.1:{self.port}/{self.target.name}?{query}"

    def connect(self, *, autocommit: bool = True, **parameters: str) -> psycopg.Connection[tuple[Any, ...]]:
        return psycopg.connect(self.url(**parameters), autocommit=autocommit)

    def psql(self, *args: str, stdin: str | None = None, **parameters: str) -> subprocess.CompletedProcess[str]:
        command = ["/usr/bin/env", "psql", "-X", "-A", "-t", "-v", "ON_ERROR_STOP=1", self.url(**parameters), *args]
        environment = {**os.environ, "PGCONNECT_TIMEOUT": "10"}
        return subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=60, env=environment)

    def recording(self, index: int = -1) -> MemoryRecording:
        with self.changed:
            assert self.changed.wait_for(lambda: bool(self.opened), WITHIN)
            found: Recording = self.opened[index].recording
        asyncio.run_coroutine_threadsafe(self._settled(), self.loop).result(WITHIN)
        assert isinstance(found, MemoryRecording)
        return found

    async def _settled(self) -> None:
        self.door.settle()

    def statements(self, index: int = -1) -> list[str]:
        return [each["sql"] for each in self.recording(index).of("statement")]

    def end_of(self, index: int = -1) -> EndReason:
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.ends) == len(self.opened), WITHIN), self.ends
            session = self.opened[index].session.id
            (reason,) = [reason for each, reason, _ in self.ends if each == session]
            return reason

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(WITHIN)

    def _authenticate(self, user: str, ticket: str, target: str, client: str) -> Admitted:
        del client
        if (user, ticket, target) != (ONCALL.name, TICKET, self.target.name):
            raise Denied(Refusal("ticket-invalid", "This ticket is not valid.", (), ("gw connect prints a new one.",)))
        return Admitted(ONCALL, self._grant())

    def _prove(self, user: str, proof: Proof | Misbound, target: str, client: str) -> tuple[Admitted, bytes]:
        if isinstance(proof, Misbound):
            raise Denied(Refusal("door-impersonated", "Somebody is in between."))
        verifier = Verifier.of(TICKET, salt_of(user, target))
        who = self._authenticate(user, TICKET if proof.is_of(verifier) else "", target, client)
        return who, proof.answer(verifier)

    def _grant(self) -> Grant:
        at = datetime.now(UTC)
        return Grant(
            id="grt_1", request="req_1", holder=ONCALL.id, holder_name=ONCALL.name, target=self.target.name,
            level="read", window=Window(at, at + timedelta(hours=1)), kind=RequestKind.STANDARD,
            obligations=Obligations(record=self.record),
        )  # fmt: skip

    def _open(self, who: Admitted, client: str) -> Opened:
        user, grant = who.user, who.grant
        if self.refusal is not None:
            raise Denied(self.refusal)
        recording = MemoryRecording()
        recording.is_slow = self.is_slow
        recording.fails = self.recording_fails
        with self.changed:
            session = Session(
                f"ses_{len(self.opened)}", grant.id, user.id, user.name, self.target.name, grant.level,
                Protocol.POSTGRES, client, "gw-1", datetime.now(UTC), grant.window.not_after,
            )  # fmt: skip
            opened = Opened(
                session, grant, self.target, self.target.levels["read"], recording, grant.obligations.record, self.login
            )
            self.opened.append(opened)
            self.changed.notify_all()
        return opened

    def _seal(self, session: Session, recording: Recording, reason: EndReason, detail: str) -> Sealed:
        return Sealed(session, End(reason, detail, *recording.digest()))

    def _end(self, ended: Sequence[Sealed]) -> None:
        with self.changed:
            self.ends += [(each.session.id, each.end.reason, each.end.detail) for each in ended]
            self.changed.notify_all()


@contextmanager
def running_door(stage: Stage, tls: ssl.SSLContext, **options: Any) -> Iterator[Stage]:
    """The door on an event loop of its own, in a thread."""
    ready: Future[asyncio.Event] = Future()

    async def serve() -> None:
        stage.loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        tls.set_alpn_protocols(["postgresql"])
        stage.door = PostgresDoor(stage.keeper(), tls, **options)
        await stage.door.start("127.0.0.1", 0)
        ready.set_result(stop)
        await stop.wait()
        await stage.door.close()

    thread = threading.Thread(target=lambda: uvloop.run(serve()), name="door")
    thread.start()
    try:
        stop = ready.result(WITHIN)
        yield stage
        stage.loop.call_soon_threadsafe(stop.set)
    finally:
        if ready.done() and not stage.loop.is_closed():
            stage.loop.call_soon_threadsafe(ready.result().set)
        thread.join(WITHIN)
        assert not thread.is_alive()


@contextmanager
def database(server: PostgresServer, folder: Path) -> Iterator[Target]:
    """A fresh database with one group role, as a target."""
    name = server.create_database()
    group = f"{name}_read"
    server.execute(sql.SQL("CREATE ROLE {}").format(sql.Identifier(group)).as_string())
    server.execute(
        f"GRANT CREATE, USAGE ON SCHEMA public TO \"{group}\"; CREATE TABLE orders AS SELECT g AS id, repeat('x', 100) AS note"
        f' FROM generate_series(1, 2000) g; GRANT ALL ON orders TO "{group}"',
        name,
    )
    admin = folder / "admin.dsn"
    admin.write_text(server.url(name))
    level = Level("read", group, 0, connection_limit=50)
    try:
        yield Target(
            "orders-db", Kind.POSTGRES, "orders", "production", server.host, server.port, {"read": level},
            database=name, admin_dsn_file=str(admin), tls="disable",
        )  # fmt: skip
    finally:
        server.drop_database(name)
        server.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(group)).as_string())


@contextmanager
def leased(target: Target, role: str = "gw_oncall_test") -> Iterator[DatabaseLogin]:
    """An ephemeral role on the target, made and dropped by the real adapter."""
    roles = PostgresRoles()
    try:
        yield roles.create(target, target.levels["read"], role, datetime.now(UTC) + timedelta(hours=1))
    finally:
        roles.revoke(target, role)


def door_tls(folder: Path) -> tuple[ssl.SSLContext, Path]:
    """A server context with a certificate for 127.0.0.1, and the CA file for clients."""
    cert, key, ca = ensure_door_certificate(folder, ("127.0.0.1", "localhost"), datetime.now(UTC))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    return context, ca
