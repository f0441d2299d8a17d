"""A session at a level with a dry-run, between two legs that only keep what they are given."""

import asyncio

from gateway.adapters.postgres_parser import PostgresParser
from gateway.app.commit_ports import Asking, Told
from gateway.core.dry_run import Confirm, DryRun
from gateway.core.session import EndReason
from gateway.core.target import Level
from gateway.edges.proxy.postgres_books import Backlog
from gateway.edges.proxy.postgres_dry_run import Commits, DryRunSession, shown_values
from gateway.edges.proxy.postgres_leg import Leg, Pause
from gateway.wire.postgres_messages import message
from tests.unit.edges.proxy.test_postgres_relay import AT, StalledSpool, on_a_loop

READY, OPEN = message(b"Z", b"I"), message(b"Z", b"T")
LEVEL = Level("write", "orders_write", 0, dry_run=DryRun(Confirm.SELF))


class Kept(Leg):
    def __init__(self) -> None:
        super().__init__(memoryview(bytearray(1)))
        self.written = b""

    def write(self, data: bytes) -> None:
        self.written += data

    def taken(self) -> bytes:
        data, self.written = self.written, b""
        return data


def query(sql: bytes) -> bytes:
    return message(b"Q", sql + b"\0")


def done(tag: bytes, ready: bytes) -> bytes:
    return message(b"C", tag + b"\0") + ready


def told_settings(value: bytes) -> bytes:
    row = message(b"D", b"\0\1" + len(value).to_bytes(4, "big") + value)
    return b"".join(message(each) for each in (b"3", b"1", b"2")) + row + done(b"SELECT 1", message(b"3") * 2 + OPEN)


class Session:
    def __init__(self) -> None:
        self.client, self.target = Kept(), Kept()
        self.asked: list[Asking] = []
        self.ended: list[tuple[int, str]] = []
        self.questions: list[bytes] = []
        self.settings = told_settings(b'{"search_path": "public"}')
        self.answer: asyncio.Future[Told] = asyncio.get_running_loop().create_future()
        self.held = DryRunSession(
            self.client, StalledSpool(), lambda: AT, Backlog(), LEVEL, PostgresParser(), lambda *_: None,
            Commits("ses_1", self._ask, lambda tx, outcome: self.ended.append((tx, outcome))), is_strict=False,
        )  # fmt: skip
        self.held.start(self.target, b"", b"", b"")

    async def _ask(self, asking: Asking) -> Told:
        self.asked.append(asking)
        return await asyncio.shield(self.answer)

    def says(self, *texts: bytes) -> bytes:
        """What goes to the target at once."""
        self.held._from_client(b"".join(query(text) for text in texts))
        return self.target.taken()

    def hears(self, answer: bytes) -> bytes:
        self.held._from_target(answer)
        if b"pg_settings" in self.target.written:
            self.questions.append(self.target.taken())
            if self.settings:
                self.held._from_target(self.settings)
        return self.client.taken()


async def turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


@on_a_loop
async def test_what_comes_behind_a_cancelled_statement_waits_for_the_cancel_request() -> None:
    session, through = Session(), asyncio.Event()
    session.held.cancel_request = through.wait  # type: ignore[assignment]
    assert session.says(b"SELECT pg_sleep(9)", b"COMMIT") == query(b"SELECT pg_sleep(9)")
    session.held._cancel_statement_of("lead", 0)
    session.hears(message(b"E", b"SERROR\0C57014\0\0") + READY)
    assert session.target.written == b""
    through.set()
    await turns()
    assert session.target.taken() == query(b"COMMIT")


@on_a_loop
async def test_a_commit_waits_for_the_answer_and_the_client_is_not_read_meanwhile() -> None:
    session = Session()
    session.says(b"BEGIN")
    session.hears(done(b"BEGIN", OPEN))
    session.says(b"DELETE FROM t WHERE id = 1")
    session.hears(done(b"DELETE 1", OPEN))
    assert session.says(b"COMMIT", b"SELECT 1") == b""
    assert session.client.is_paused(Pause.TURN)
    await turns()
    assert [(each.tx, each.statements, each.rows) for each in session.asked] == [(1, 1, 1)]
    session.answer.set_result(Told(True, by="oncall"))
    await turns()
    assert session.target.taken() == query(b"COMMIT")
    session.hears(done(b"COMMIT", READY))
    assert session.ended == [(1, "committed")]
    assert session.target.taken() == query(b"SELECT 1")
    assert not session.client.is_paused(Pause.TURN)


@on_a_loop
async def test_an_answer_that_never_comes_sends_nothing_and_the_end_says_lost() -> None:
    session = Session()
    session.says(b"BEGIN; DELETE FROM t WHERE id = 1")
    session.hears(message(b"C", b"BEGIN\0") + done(b"DELETE 1", OPEN))
    assert session.says(b"COMMIT") == b""
    await turns()
    session.held._client_lost()
    await turns()
    assert session.target.written == b""
    assert session.ended == [(1, "lost")]


@on_a_loop
async def test_a_yes_is_asked_for_what_was_written_under_which_settings() -> None:
    session = Session()
    session.held.know(["app.tenant", "TimeZone"])
    session.says(b"BEGIN; SET app.who = 7; DELETE FROM t WHERE id = 1")
    session.hears(message(b"C", b"BEGIN\0") + message(b"C", b"SET\0") + done(b"DELETE 1", OPEN))
    assert b"ARRAY['app.tenant', 'app.who']" in session.questions[0]
    session.settings = told_settings(b'{"search_path": "other"}')
    session.says(b"SET search_path = other")
    session.hears(done(b"SET", OPEN))
    session.says(b"COMMIT")
    await turns()
    (asking,) = session.asked
    assert [(each.first, dict(each.settings)["search_path"]) for each in asking.under] == [(1, "public"), (2, "other")]
    assert asking.changes == 2


@on_a_loop
async def test_a_target_that_does_not_say_its_settings_ends_the_session() -> None:
    for answer in (told_settings(b"[]"), told_settings(b"{"), told_settings(b"{}")):
        session = Session()
        session.settings = answer
        session.says(b"BEGIN; DELETE FROM t WHERE id = 1")
        session.hears(message(b"C", b"BEGIN\0") + done(b"DELETE 1", OPEN))
        assert (await session.held.over)[0] is EndReason.TARGET_CLOSED
    session = Session()
    session.settings = b""
    session.says(b"BEGIN; DELETE FROM t WHERE id = 1")
    session.hears(message(b"C", b"BEGIN\0") + done(b"DELETE 1", OPEN))
    assert session.held._answer_timer is not None
    session.held._unanswered()
    assert "settings" in (await session.held.over)[1]


@on_a_loop
async def test_the_question_waits_for_a_cancel_request_that_is_on_its_way() -> None:
    session, through = Session(), asyncio.Event()
    session.held.cancel_request = through.wait  # type: ignore[assignment]
    session.says(b"BEGIN; DELETE FROM t WHERE id = 1")
    session.held._cancel_statement_of("lead", 0)
    session.hears(message(b"C", b"BEGIN\0") + done(b"DELETE 1", OPEN))
    assert session.questions == []
    through.set()
    await turns()
    assert b"pg_settings" in session.target.taken()


def test_values_are_written_for_people() -> None:
    told = b"".join((
        b',"params":["a",null,{"length":2,"sha256":"ff","hex":"0102"},{"length":9,"sha256":"ff","hex":"01"},',
        b'{"length":3,"keyed":"ee"}],"params_left_out":2',
    ))  # fmt: skip
    assert shown_values(told) == (
        '$1 = "a", $2 = null, $3 = \\x0102, $4 = 9 bytes (sha256 ff), $5 = 3 bytes (keyed ee), 2 values that are not shown'
    )
    assert shown_values(b"") == ""
    assert len(shown_values(b',"params":["%b"]' % (b"x" * 4000))) < 1100
