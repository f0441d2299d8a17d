"""Clients and targets at the database door that mean harm, or are merely broken."""

import asyncio
import ssl
import struct
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest

from gateway.app.target_ports import DatabaseLogin
from gateway.core.bind_parameters import BindParameters
from gateway.core.session import EndReason
from gateway.core.target import Kind, Level, Target
from gateway.demo.ports import free_port
from gateway.edges.proxy.listener import MAX_STRANGERS
from gateway.edges.proxy.postgres_cancel import Backend, CancelKeys
from gateway.wire import postgres_messages as pg
from tests.e2e.postgres_stage import WITHIN, Stage, database, door_tls, leased, running_door
from tests.e2e.postgres_wire import encrypted, plain, rest_of, signed_in
from tests.servers import PostgresServer

LOGIN = DatabaseLogin("gw_oncall_fake", "planted-role-password")


def fake_target(port: int) -> Target:
    return Target(
        "orders-db", Kind.POSTGRES, "orders", "production", "127.0.0.1", port, {"read": Level("read", "readers", 0)},
        database="orders", tls="disable",
    )  # fmt: skip


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    """A door whose target is not there."""
    context, ca = door_tls(tmp_path / "tls")
    with running_door(Stage(fake_target(free_port()), LOGIN, ca), context, handshake_s=2.0) as running:
        yield running


@pytest.fixture(scope="module")
def target(postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    with database(postgres_server, tmp_path_factory.mktemp("target")) as made:
        yield made


@pytest.fixture
def real(target: Target, tmp_path: Path) -> Iterator[Stage]:
    context, ca = door_tls(tmp_path / "tls")
    with leased(target, "gw_hostile") as login, running_door(Stage(target, login, ca), context) as running:
        yield running


def test_bytes_behind_the_request_for_tls(stage: Stage) -> None:
    with plain(stage) as client:
        client.sendall(pg.ssl_request() + pg.startup({"user": "oncall", "database": "orders-db"}))
        said = rest_of(client)
    assert said.startswith(b"E")
    assert b"received unencrypted data after SSL request" in said


def test_plaintext_startup_gets_no_password_prompt(stage: Stage) -> None:
    with plain(stage) as client:
        client.sendall(pg.startup({"user": "oncall", "database": "orders-db"}))
        said = rest_of(client)
    assert said.startswith(b"E")
    assert b"sslmode=verify-full" in said


@pytest.mark.parametrize(
    "sent", [b"\0\0\0\3", b"\x7f\xff\xff\xff", b"\xff\xff\xff\xff", b"GET / HTTP/1.1\r\n\r\n", b"\0\0\x27\x11"]
)
def test_impossible_first_packets(stage: Stage, sent: bytes) -> None:
    for dial in (plain, encrypted):
        with dial(stage) as client:
            client.sendall(sent)
            assert b"08P01" in rest_of(client)


@pytest.mark.parametrize(
    "sent", [pg.message(b"Q", b"SELECT 1\0"), b"p\x7f\xff\xff\xff", b"p\0\0\0\3", pg.authentication_ok()]
)
def test_anything_but_a_password_before_authentication(stage: Stage, sent: bytes) -> None:
    with encrypted(stage) as client:
        client.sendall(pg.startup({"user": "oncall", "database": "orders-db"}))
        client.recv(9)
        client.sendall(sent)
        assert b"08P01" in rest_of(client)
    assert stage.opened == []


def test_direct_tls_without_the_protocols_name(stage: Stage) -> None:
    context = ssl.create_default_context(cafile=stage.ca_file)
    with context.wrap_socket(plain(stage), server_hostname="127.0.0.1") as client:
        client.sendall(pg.startup({"user": "oncall", "database": "orders-db"}))
        assert rest_of(client) == b""


def test_a_withheld_handshake_is_cut_off(stage: Stage) -> None:
    with plain(stage) as silent, plain(stage) as half, encrypted(stage) as unnamed:
        half.sendall(pg.ssl_request())
        assert half.recv(1) == b"S"
        for client in (silent, half, unnamed):
            assert rest_of(client) == b""


def test_strangers_are_bounded(tmp_path: Path) -> None:
    context, ca = door_tls(tmp_path / "tls")
    options = {"handshake_s": 60.0, "max_strangers": 3}
    with running_door(Stage(fake_target(free_port()), LOGIN, ca), context, **options) as stage:
        waiting = [encrypted(stage) for _ in range(3)]
        with encrypted(stage):
            assert rest_of(waiting[0]) == b""
            for client in waiting[1:]:
                client.sendall(pg.startup({"user": "oncall", "database": "orders-db"}))
                assert client.recv(9) == pg.authentication_cleartext()
        for client in waiting:
            client.close()


def test_silent_connections_do_not_close_the_door(real: Stage) -> None:
    silent = [plain(real) for _ in range(MAX_STRANGERS + 20)]
    with real.connect() as session:
        assert session.execute("SELECT 1").fetchone() == (1,)
    for client in silent:
        client.close()


def test_a_target_that_is_not_there(stage: Stage) -> None:
    with pytest.raises(psycopg.OperationalError, match="orders-db cannot be reached: nothing listens there"):
        stage.connect()
    assert stage.end_of() is EndReason.TARGET_UNREACHABLE


@pytest.mark.parametrize("kind", b"RZTKvGN1")
def test_server_messages_from_the_client_end_the_session(real: Stage, kind: int) -> None:
    with signed_in(real) as client:
        client.sendall(pg.message(b"Q", b"SELECT 1\0") + pg.message(bytes([kind]), b"I"))
        assert b"08P01" in rest_of(client)
    assert real.end_of() is EndReason.PROTOCOL_VIOLATION


def test_what_breaks_the_protocol_is_neither_sent_on_nor_recorded_where_values_are_hidden(real: Stage) -> None:
    level = replace(real.target.levels["read"], bind_parameters=BindParameters.MASKED)
    real.target = replace(real.target, levels={"read": level})
    with signed_in(real) as client:
        client.sendall(pg.message(b"Q", b"SELECT 1\0") + pg.message(b"Z", b"needle"))
        assert b"08P01" in rest_of(client)
    assert real.end_of() is EndReason.PROTOCOL_VIOLATION
    kinds = [kind for kind, _, _ in real.recording().records]
    assert kinds == ["startup", "statement", "result"]
    assert real.recording().of("result")[0]["state"] == "unknown"


@pytest.mark.parametrize("length", [b"\x7f\xff\xff\xff", b"\0\0\0\3", b"\xff\xff\xff\xff", b"\x40\0\0\0"])
def test_impossible_lengths_end_the_session(real: Stage, length: bytes) -> None:
    with signed_in(real) as client:
        client.sendall(b"Q" + length + b"SELECT 1\0")
        assert b"08P01" in rest_of(client)
    assert real.end_of() is EndReason.PROTOCOL_VIOLATION


def test_another_sessions_key_cancels_nothing(real: Stage) -> None:
    with real.connect() as victim:
        result: list[object] = []
        sleeping = threading.Thread(target=lambda: result.append(victim.execute("SELECT pg_sleep(1)").fetchone()))
        sleeping.start()
        recording = real.recording()
        recording.wait(lambda: len(recording.of("statement")) == 1)
        backend = victim.info.backend_pid
        for secret in (b"\0\0\0\0", b"\xff\xff\xff\xff", bytes(32)):
            with plain(real) as client:
                client.sendall(pg.cancel_request(backend, secret))
                assert rest_of(client) == b""
        sleeping.join(WITHIN)
    assert result != []
    assert real.recording().of("result")[0]["sqlstate"] == ""


def test_the_targets_number_is_told_and_its_key_is_not(real: Stage, target: Target) -> None:
    """Clients look for themselves in pg_stat_activity by the number; cancelling takes the key, and the door's is its own."""
    with real.connect() as session:
        row = session.execute("SELECT pg_backend_pid()").fetchone()
        assert row is not None
        assert row[0] == session.info.backend_pid
    keys = CancelKeys()
    backend = Backend(target, 7, b"the target's")
    first, second = keys.issue(backend, 0), keys.issue(replace(backend, secret=b"another's"), 2)
    assert (first.pid, second.pid, len(first.secret), len(second.secret)) == (7, 7, 4, 32)
    assert keys.find(pg.CancelRequest(7, first.secret)) is backend
    assert keys.find(pg.CancelRequest(7, b"the target's")) is None
    keys.forget(first)
    assert keys.find(pg.CancelRequest(7, first.secret)) is None
    assert keys.find(pg.CancelRequest(7, second.secret)) is not None


def test_fifty_thousand_tiny_messages_in_one_go(target: Target, tmp_path: Path) -> None:
    context, ca = door_tls(tmp_path / "tls")
    count = 50_000
    with (
        leased(target, "gw_tiny") as login,
        running_door(Stage(target, login, ca), context, allow_plaintext=True) as stage,
    ):
        with signed_in(stage, plain) as client:  # in the clear, for an SSLSocket is not for two threads
            sender = threading.Thread(target=client.sendall, args=(pg.message(b"S") * count + pg.message(b"X"),))
            sender.start()
            assert rest_of(client).count(b"Z\0\0\0\5I") == count
            sender.join(WITHIN)
        assert stage.end_of() is EndReason.CLIENT_CLOSED


def test_a_client_that_never_reads_slows_its_target_down(real: Stage, postgres_server: PostgresServer) -> None:
    with signed_in(real) as client:
        client.sendall(pg.message(b"Q", b"SELECT repeat('x', 1000000) FROM generate_series(1, 100)\0"))
        recording = real.recording()
        recording.wait(lambda: len(recording.of("statement")) == 1)
        wait_until_stuck(postgres_server, real.login.role)
        real.live.terminate("ses_0", EndReason.GRANT_REVOKED, "")
        assert real.end_of() is EndReason.GRANT_REVOKED
    (result,) = recording.of("result")
    assert result["state"] == "unknown"
    assert result["bytes"] < 30_000_000  # what the sockets and the gateway's 1 MiB take, of 100 MB


def wait_until_stuck(server: PostgresServer, role: str) -> None:
    """The backend has been waiting for its reader for a while."""
    waits = "SELECT count(*) FROM pg_stat_activity WHERE usename = %s AND wait_event = 'ClientWrite'"
    pause, stuck = threading.Event(), 0
    with psycopg.connect(server.url(), autocommit=True) as admin:
        for _ in range(200):
            stuck = stuck + 1 if admin.execute(waits, (role,)).fetchone() == (1,) else 0
            if stuck == 10:
                return
            pause.wait(0.05)
    pytest.fail("the target was never held back")


def test_a_refused_session_leaks_no_secret_of_the_role(tmp_path: Path) -> None:
    said = pg.message(b"E", b"SFATAL\0C28P01\0Mno: " + LOGIN.password.encode() + b"\0\0")
    with behind(tmp_path, lambda _: said) as stage:
        with pytest.raises(psycopg.OperationalError) as caught:
            stage.connect()
        assert "did not accept the gateway's own role" in str(caught.value)
        assert LOGIN.password not in str(caught.value)


SASL = pg.message(b"R", struct.pack(">I", 10) + b"SCRAM-SHA-256\0\0")


def scram_first(initial: bytes, nonce: str = "srv", iterations: str = "4096") -> bytes:
    ours = initial.rpartition(b"r=")[2].decode()
    return pg.message(b"R", struct.pack(">I", 11) + f"r={ours}{nonce},s=eA==,i={iterations}".encode())


@pytest.mark.parametrize(
    "answers",
    [
        lambda got: SASL if got[:1] == b"\0" else scram_first(got, iterations="2147483648"),
        lambda got: SASL if got[:1] == b"\0" else scram_first(got, nonce="n" * 4000),
        lambda got: pg.message(b"E", b"Mno code\0\0"),
        lambda got: pg.authentication_cleartext(),
        lambda got: pg.message(b"R", struct.pack(">I", 5) + b"salt"),
        lambda got: pg.authentication_ok() + pg.message(b"Z", b"I"),
        lambda got: b"R\x7f\xff\xff\xff",
        lambda got: b"",
        lambda got: b"HTTP/1.1 400 Bad Request\r\n\r\n",
    ],
)
def test_a_hostile_target_ends_one_session_only(tmp_path: Path, answers: Callable[[bytes], bytes]) -> None:
    with behind(tmp_path, answers) as stage:
        for _ in range(2):
            with pytest.raises(psycopg.OperationalError, match="orders-db"):
                stage.connect()
        assert stage.end_of() is EndReason.TARGET_UNREACHABLE
        assert LOGIN.password.encode() not in stage.heard  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("answer", "why"), [(b"N", "does not speak TLS"), (b"SE\0\0\0\4", "something else"), (b"E", "something else")]
)
def test_a_target_that_will_not_encrypt(tmp_path: Path, answer: bytes, why: str) -> None:
    hostile = behind(tmp_path, lambda _: answer, tls="verify-full")
    with hostile as stage, pytest.raises(psycopg.OperationalError, match=why):
        stage.connect()


@pytest.mark.parametrize(
    ("tls", "host", "trusted", "refusal"),
    [
        ("verify-full", "localhost", True, ""),
        ("verify-full", "127.0.0.1", True, ""),
        ("require", "localhost", None, ""),
        ("verify-ca", "localhost", True, ""),
        ("verify-full", "localhost", False, "certificate is not trusted"),
        ("require", "localhost", False, "certificate is not trusted"),
        ("prefer", "localhost", True, "TLS settings"),
    ],
)
def test_tls_to_the_target(
    target: Target, tmp_path: Path, tls: str, host: str, trusted: bool | None, refusal: str
) -> None:
    own, ca = door_tls(tmp_path / "target")
    context, door_ca = door_tls(tmp_path / "tls")
    ca_file = "" if trusted is None else str(ca if trusted else door_ca)
    with leased(target, "gw_tls") as login, encrypting(target, own) as port:
        over_tls = replace(target, host=host, port=port, tls=tls, ca_file=ca_file)
        with running_door(Stage(over_tls, login, door_ca), context) as stage:
            if refusal:
                with pytest.raises(psycopg.OperationalError, match=refusal):
                    stage.connect()
                return
            with stage.connect() as session:
                assert session.execute("SELECT 1").fetchone() == (1,)
                threading.Timer(0.3, lambda: session.cancel_safe(timeout=WITHIN)).start()
                with pytest.raises(psycopg.errors.QueryCanceled):
                    session.execute("SELECT pg_sleep(30)")


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while got := await reader.read(65536):
            writer.write(got)
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.close()


@contextmanager
def encrypting(target: Target, context: ssl.SSLContext) -> Iterator[int]:
    """TLS in front of a server that has none; the port it listens on."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await reader.readexactly(8) == pg.ssl_request()
        writer.write(b"S")
        try:
            await writer.start_tls(context)
        except (ConnectionError, ssl.SSLError):
            writer.close()
            return
        inner_reader, inner_writer = await asyncio.open_connection(target.host, target.port)
        await asyncio.gather(_pump(reader, inner_writer), _pump(inner_reader, writer))

    with serving(serve) as port:
        yield port


@contextmanager
def behind(folder: Path, answers: Callable[[bytes], bytes], tls: str = "disable") -> Iterator[Stage]:
    """A door in front of a target that says `answers(what it got)`, nothing meaning that it hangs up."""
    heard = bytearray()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while got := await reader.read(65536):
            heard.extend(got)
            said = answers(got)
            if not said:
                break
            writer.write(said)
        writer.close()

    context, ca = door_tls(folder / "tls")
    with serving(talk) as port:
        target = replace(fake_target(port), tls=tls)
        with running_door(Stage(target, LOGIN, ca), context) as stage:
            stage.heard = heard  # type: ignore[attr-defined]
            yield stage


@contextmanager
def serving(serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]]) -> Iterator[int]:
    """An asyncio server in a thread of its own; its port."""
    ready: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event, int]] = Future()

    async def run() -> None:
        stop = asyncio.Event()
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        ready.set_result((asyncio.get_running_loop(), stop, server.sockets[0].getsockname()[1]))
        await stop.wait()
        server.close()

    thread = threading.Thread(target=lambda: asyncio.run(run()), name="target")
    thread.start()
    loop, stop, port = ready.result(WITHIN)
    try:
        yield port
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(WITHIN)
        assert not thread.is_alive()


def test_a_statement_behind_a_long_comment_is_recorded(real: Stage) -> None:
    text = f"/*{'x' * 70_000}*/ SELECT 'hidden'"
    with real.connect() as session:
        assert session.execute(text.encode()).fetchall() == [("hidden",)]
    recording = real.recording()
    assert recording.of("statement")[0]["sql"] + recording.of("statement-more")[0]["sql"] == text


def test_a_statement_too_long_to_be_recorded_is_refused(real: Stage) -> None:
    with real.connect() as session, pytest.raises(psycopg.errors.ProgramLimitExceeded, match="at most 1,048,576 bytes"):
        session.execute(f"SELECT 1 /*{'x' * (1 << 20)}*/".encode())
    assert real.end_of() is EndReason.PROTOCOL_VIOLATION
    assert real.statements() == []
