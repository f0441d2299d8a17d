import itertools
import struct
from base64 import b64decode, b64encode
from hashlib import pbkdf2_hmac, sha256
from hmac import digest

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.wire import postgres_messages as pg
from gateway.wire.buffer import Buffer, ProtocolViolation
from gateway.wire.postgres_machine import (
    MAX_PASSWORD,
    ClientGreeting,
    Password,
    SaslInitial,
    SaslResponse,
    TargetLogin,
    TargetRefused,
)
from gateway.wire.postgres_parameters import ParameterRefused, relayed, replicates
from gateway.wire.postgres_scram import MOST_KNOWN, ScramClient, _known, verifier

PASSWORD = "pencil"
NONCE = "rOprNGfwEbeRWgbNEkqO"
SALT = b"0123456789abcdef"
STARTUP = pg.startup({"user": "oncall", "database": "orders-db", "application_name": "psql"})


def greeted(*parts: bytes) -> ClientGreeting:
    machine = ClientGreeting()
    for part in parts:
        machine.feed(part)
    return machine


def test_startup_then_password() -> None:
    machine = greeted(STARTUP)
    first = machine.step()
    assert isinstance(first, pg.Startup)
    assert dict(first.parameters) == {"user": "oncall", "database": "orders-db", "application_name": "psql"}
    assert not first.needs_negotiation()
    assert machine.step() is None
    machine.feed(pg.message(b"p", b"secret\0") + b"rest")
    password = machine.step()
    assert isinstance(password, Password)
    assert password.text == "secret"
    assert "secret" not in repr(password)
    assert machine.rest() == b"rest"
    with pytest.raises(RuntimeError):
        machine.step()


def test_encryption_requests_and_cancel() -> None:
    assert isinstance(greeted(pg.ssl_request()).step(), pg.SslRequest)
    assert isinstance(greeted(pg.untyped(80877104)).step(), pg.GssEncRequest)
    cancel = greeted(pg.cancel_request(7, b"k" * 32)).step()
    assert cancel == pg.CancelRequest(7, b"k" * 32)
    assert "kkk" not in repr(cancel)


def test_bytes_behind_a_request_for_tls_are_seen() -> None:
    machine = greeted(pg.ssl_request(), b"x")
    machine.step()
    assert not machine.is_drained()


@pytest.mark.parametrize("length", [0, 3, 4, 7, 10_001, 0x7FFFFFFF, 0xFFFFFFFF])
def test_startup_packets_of_impossible_length(length: int) -> None:
    with pytest.raises(ProtocolViolation):
        greeted(struct.pack(">I", length)).step()


@pytest.mark.parametrize(
    "packet",
    [
        pg.untyped(80877103, b"x"),
        pg.untyped(80877102, b"\0\0\0\1abc"),
        pg.untyped(80877102, b"\0\0\0\1" + b"x" * 257),
        pg.untyped(2 << 16, b"\0"),
        pg.untyped(4 << 16, b"\0"),
        pg.untyped(3 << 16, b"user\0oncall\0"),
        pg.untyped(3 << 16, b"user\0\0"),
        pg.untyped(3 << 16, b"user\0a\0user\0b\0\0"),
        pg.untyped(3 << 16, b"user\0\xff\0\0"),
        pg.untyped(3 << 16, b"\0x\0\0"),
        pg.untyped(3 << 16, b"user\0oncall\0\0trailing"),
        pg.untyped(3 << 16),
        b"GET / HTTP/1.1\r\n\r\n",
    ],
)
def test_startup_packets_that_make_no_sense(packet: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        greeted(packet).step()


@pytest.mark.parametrize(
    "sent",
    [
        pg.message(b"Q", b"SELECT 1\0"),
        pg.message(b"p", b"x" * MAX_PASSWORD + b"\0"),
        b"p\xff\xff\xff\xff",
        b"p\0\0\0\3",
        pg.message(b"p", b"no terminator"),
        pg.message(b"p", b"two\0ends\0"),
        pg.authentication_ok(),
    ],
)
def test_only_a_password_before_authentication(sent: bytes) -> None:
    machine = greeted(STARTUP)
    machine.step()
    with pytest.raises(ProtocolViolation):  # noqa: PT012 - too much is refused when fed, nonsense when read
        machine.feed(sent)
        machine.step()


def test_a_client_that_is_asked_for_scram() -> None:
    machine = greeted(STARTUP)
    machine.step()
    machine.expect_sasl()
    machine.feed(pg.sasl_initial_response("SCRAM-SHA-256", b"n,,n=,r=abc") + pg.sasl_response(b"c=biws") + b"Q...")
    assert machine.step() == SaslInitial("SCRAM-SHA-256", b"n,,n=,r=abc")
    assert machine.step() == SaslResponse(b"c=biws")
    assert machine.rest() == b"Q..."
    with pytest.raises(RuntimeError):
        machine.step()
    with pytest.raises(RuntimeError):
        machine.expect_sasl()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"SCRAM-SHA-256",
        b"SCRAM-SHA-256\0",
        b"SCRAM-SHA-256\0\xff\xff\xff\xff",
        b"S\0\0\0\0\4abc",
        b"S\0\0\0\0\2abc",
    ],
)
def test_sasl_responses_that_make_no_sense(body: bytes) -> None:
    machine = greeted(STARTUP)
    machine.step()
    machine.expect_sasl()
    machine.feed(pg.message(b"p", body))
    with pytest.raises(ProtocolViolation):
        machine.step()


def test_what_waits_is_bounded() -> None:
    with pytest.raises(ProtocolViolation):
        greeted(b"\0\0\x27\x10" + bytes(20_000))
    with pytest.raises(ProtocolViolation):
        Buffer(3).feed(b"four")


def test_versions_and_options_that_are_not_known_are_negotiated() -> None:
    first = greeted(pg.untyped((3 << 16) | 9999, b"user\0a\0_pq_.grease\0x\0\0")).step()
    assert isinstance(first, pg.Startup)
    assert first.needs_negotiation()
    assert dict(first.parameters) == {"user": "a"}
    assert pg.negotiate_protocol_version(first)[5:] == struct.pack(">II", (3 << 16) | 2, 1) + b"_pq_.grease\0"


@given(st.binary(max_size=400), st.lists(st.integers(0, 400)))
def test_random_bytes_are_refused_the_same_however_cut(blob: bytes, cuts: list[int]) -> None:
    def outcome(parts: list[bytes]) -> list[object]:
        machine, seen = ClientGreeting(), []
        try:
            for part in parts:
                machine.feed(part)
            while machine.state.name != "DONE" and (found := machine.step()) is not None:
                seen.append(found)
        except ProtocolViolation as why:
            seen.append(str(why))
        return seen

    places = sorted({0, len(blob), *(min(cut, len(blob)) for cut in cuts)})
    assert outcome([blob[a:b] for a, b in itertools.pairwise(places)]) == outcome([blob])


def authentication(code: int, body: bytes = b"") -> bytes:
    return pg.message(b"R", struct.pack(">I", code) + body)


SASL = authentication(10, b"SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0")


class FakeServer:
    """A server's half of SCRAM, which can be told to misbehave."""

    def __init__(self, password: str = PASSWORD, iterations: str = "4096", nonce: str = "server") -> None:
        self.password, self.iterations, self.nonce = password, iterations, nonce
        self.auth = ""

    def first(self, initial: bytes) -> bytes:
        bare = initial.partition(b"n,,")[2].decode()
        self.auth = f"{bare},r={bare.partition('r=')[2]}{self.nonce},s={b64encode(SALT).decode()},i={self.iterations}"
        return authentication(11, self.auth.removeprefix(bare + ",").encode())

    def final(self, response: bytes) -> bytes:
        text = response[5:].decode()
        salted = pbkdf2_hmac("sha256", self.password.encode(), SALT, 4096)
        auth = f"{self.auth},{text.rpartition(',p=')[0]}".encode()
        client_key = digest(salted, b"Client Key", "sha256")
        signature = digest(sha256(client_key).digest(), auth, "sha256")
        proof = b64decode(text.rpartition(",p=")[2])
        assert bytes(a ^ b for a, b in zip(proof, signature, strict=True)) == client_key
        return authentication(12, b"v=" + b64encode(digest(digest(salted, b"Server Key", "sha256"), auth, "sha256")))


def login() -> TargetLogin:
    return TargetLogin("gw_oncall_1", PASSWORD, {"database": "orders"}, NONCE)


def test_a_whole_login() -> None:
    machine, server = login(), FakeServer()
    assert machine.hello() == pg.startup({"user": "gw_oncall_1", "database": "orders"})
    final = server.final(machine.feed(server.first(machine.feed(SASL))))
    status = pg.message(b"S", b"server_version\x0018\0")
    ready = pg.message(b"Z", b"I")
    key = pg.backend_key_data(99, b"real")
    blob = final + authentication(0) + status + key + ready + b"rest"
    for place in range(len(blob)):
        assert machine.feed(blob[place : place + 1]) == b""
    assert machine.is_ready
    assert (machine.pid, machine.secret) == (99, b"real")
    assert machine.settled() == status + ready
    assert machine.rest() == b"rest"


def test_a_login_is_bound_to_the_targets_certificate_where_it_can_be() -> None:
    machine = TargetLogin("gw_oncall_1", PASSWORD, {}, NONCE, b"hash")
    assert machine.feed(SASL).endswith(b"p=tls-server-end-point,,n=,r=" + NONCE.encode())
    machine = TargetLogin("gw_oncall_1", PASSWORD, {}, NONCE, b"hash")
    assert machine.feed(authentication(10, b"SCRAM-SHA-256\0\0")).endswith(b"y,,n=,r=" + NONCE.encode())


def test_only_what_was_hashed_before_is_no_long_work() -> None:
    """The loop feeds it then. A target that asks for other hashes, however it sends that, does not hold the loop up."""

    def asked(password: str, iterations: str = "4096") -> tuple[TargetLogin, bytes]:
        machine = TargetLogin("gw_oncall_1", password, {}, NONCE)
        assert not machine.may_hash(SASL)
        return machine, FakeServer(password, iterations).first(machine.feed(SASL))

    machine, first = asked("known to nobody yet")
    assert machine.may_hash(first)
    machine.feed(first)
    assert not machine.may_hash(b"anything")
    assert not TargetLogin("x", "known to nobody yet", {}, NONCE).may_hash(first), "not asked for yet"
    machine, first = asked("known to nobody yet")
    assert not machine.may_hash(first)
    assert machine.may_hash(first + b"N")
    assert machine.may_hash(first[:-1])
    machine.feed(first[:5])
    assert machine.may_hash(first), "behind what waits it is something else"
    machine, first = asked("known to nobody yet", "4097")
    assert machine.may_hash(first)
    assert asked("another")[0].may_hash(first)


def test_what_is_kept_of_passwords_is_bounded() -> None:
    for number in range(MOST_KNOWN + 2):
        verifier(f"one of many {number}", SALT, 1)
        scram = ScramClient(f"one of many {number}", "n")
        assert scram.knows(b"r=nx,s=" + b64encode(SALT) + b",i=4096") is False  # it was hashed once only
    assert len(_known) == MOST_KNOWN


@pytest.mark.parametrize(
    "asked",
    [
        authentication(0),  # let in without any check
        authentication(3),  # cleartext
        authentication(5, b"salt"),  # MD5
        authentication(11, b"r=x,s=eA==,i=4096"),
        authentication(12, b"v=eA=="),
        authentication(10, b"SCRAM-SHA-256-PLUS\0\0"),
        authentication(10, b"OAUTHBEARER\0\0"),
        pg.message(b"R", b"x"),
        pg.message(b"Z", b"I"),
        pg.message(b"D", b"row"),
        b"R\0\0\0\3",
        b"R\x7f\xff\xff\xff",
        b"R\xff\xff\xff\xff",
    ],
)
def test_a_target_that_asks_for_anything_but_scram(asked: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        login().feed(asked)


@pytest.mark.parametrize(
    "iterations", ["2147483648", "4294967296", "1000001", "1", "4095", "-1", "", "x", "9" * 400, "٤٠٩٦"]
)
def test_iteration_counts_that_are_refused(iterations: str) -> None:
    machine = login()
    initial = machine.feed(SASL)
    with pytest.raises(ProtocolViolation):
        machine.feed(FakeServer(iterations=iterations).first(initial))


@pytest.mark.parametrize(
    "message",
    [
        f"r={NONCE}{'x' * 300},s=eA==,i=4096",
        f"r={NONCE},s=eA==,i=4096",
        "r=other,s=eA==,i=4096",
        f"r={NONCE}x,s=!,i=4096",
        f"r={NONCE}x,s=,i=4096",
        f"r={NONCE}x,s={'eHh4' * 100},i=4096",
        f"r={NONCE}x",
        f"m=ext,r={NONCE}x,s=eA==,i=4096",
        "x" * 5000,
        "é",
    ],
)
def test_first_messages_that_are_refused(message: str) -> None:
    with pytest.raises(ProtocolViolation):
        ScramClient(PASSWORD, NONCE).final(message.encode())


def test_a_server_that_does_not_know_the_verifier() -> None:
    machine, server = login(), FakeServer()
    machine.feed(server.first(machine.feed(SASL)))
    with pytest.raises(ProtocolViolation):
        machine.feed(authentication(12, b"v=" + b64encode(bytes(32))))
    for said in (b"e=invalid-proof", b"", b"v=!"):
        with pytest.raises(ProtocolViolation):
            ScramClient(PASSWORD, NONCE).verify(said)


def test_success_without_the_servers_proof_is_refused() -> None:
    machine, server = login(), FakeServer()
    machine.feed(server.first(machine.feed(SASL)))
    with pytest.raises(ProtocolViolation):
        machine.feed(authentication(0))


def test_an_error_without_its_fields() -> None:
    with pytest.raises(TargetRefused) as caught:
        login().feed(pg.message(b"E", b"\0"))
    assert caught.value.fields == {}


@pytest.mark.parametrize(
    ("fields", "is_of_role"),
    [
        (b"C28P01\0Rauth_failed\0", True),
        (b"C28000\0RInitializeSessionUserId\0", True),
        (b"C28000\0RClientAuthentication\0", False),
        (b"C53300\0", False),
    ],
)
def test_a_refusal_that_another_role_would_hear_too(fields: bytes, is_of_role: bool) -> None:
    with pytest.raises(TargetRefused) as caught:
        login().feed(pg.message(b"E", fields + b"\0"))
    assert caught.value.is_of_role == is_of_role


def test_a_greeting_without_end() -> None:
    machine, server = login(), FakeServer()
    machine.feed(server.final(machine.feed(server.first(machine.feed(SASL)))) + authentication(0))
    endless = pg.message(b"S", bytes(60_000))
    for _ in range(17):
        machine.feed(endless)
    with pytest.raises(ProtocolViolation):
        machine.feed(endless)
    with pytest.raises(ProtocolViolation):
        machine.feed(pg.message(b"K", b"\0\0\0\1" + b"k" * 300))


def test_the_shape_of_a_verifier() -> None:
    made = verifier(PASSWORD, SALT)
    assert made.startswith(f"SCRAM-SHA-256$4096:{b64encode(SALT).decode()}$")
    stored, server_key = made.rpartition("$")[2].split(":")
    assert len(b64decode(stored)) == len(b64decode(server_key)) == 32


@pytest.mark.parametrize(
    "parameters",
    [
        {"role": "postgres"},
        {"ROLE": "postgres"},
        {"session_authorization": "x"},
        {"session-authorization": "x"},
        {"options": "-c role=x"},
        {"options": "-c  Role=x"},
        {"options": "-crole=x"},
        {"options": "--role=x"},
        {"options": "-c r\\ole=x"},
        {"options": "-c\trole=x"},
        {"options": "-c work_mem=1 -c session-authorization=x"},
        {"options": "-d 5"},
        {"options": "-c"},
        {"options": "-c role"},
        {"options": "x"},
        {"options": "-c a=" + "x" * 5000},
        {"Options": "-c role=x"},
    ],
)
def test_parameters_that_are_refused(parameters: dict[str, str]) -> None:
    assert isinstance(relayed({"user": "u", "database": "d", **parameters}), ParameterRefused)


def test_parameters_that_go_on() -> None:
    kept = {
        "application_name": "psql", "client_encoding": "UTF8", "DateStyle": "ISO", "search_path": "a, b",
        "options": "-c work_mem=1MB --geqo=off -cfoo.bar=a\\ role=x\\\\",
    }  # fmt: skip
    assert relayed({"user": "u", "database": "d", "replication": "off", **kept}) == kept
    assert not replicates(kept)
    for value in ("true", "1", "database"):  # the level says whether it may
        asked = {"Replication": value}
        assert relayed(asked) == asked
        assert replicates(asked)


def test_reports_cannot_steer_a_terminal() -> None:
    body = pg.error_response(pg.Report("FATAL", "28000", "no\x1b[2J", "d", "h"))[5:]
    assert pg.parse_fields(body) == {"S": "FATAL", "V": "FATAL", "C": "28000", "M": "no [2J", "D": "d", "H": "h"}
    with pytest.raises(ProtocolViolation):
        pg.startup({"user": "a\0b"})
