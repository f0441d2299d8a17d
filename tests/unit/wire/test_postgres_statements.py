import itertools
import json
from collections.abc import Callable, Iterable
from hashlib import sha256
from typing import Any
from weakref import WeakSet

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from gateway.wire.buffer import ProtocolViolation
from gateway.wire.postgres_account import KEEP, KEEP_REPEATED, MAX_STATEMENT
from gateway.wire.postgres_machine import REPLICATION_MESSAGES
from gateway.wire.postgres_messages import Report, error_response, message
from gateway.wire.postgres_rounds import RoundAccount
from gateway.wire.postgres_statements import MAX_NAMES, MAX_TEXT
from gateway.wire.postgres_values import TELL_ALL, Telling
from gateway.wire.postgres_walk import ClientWalk, ServerWalk, StatementTooLong

SYNC = message(b"S")
READY = message(b"Z", b"I")
PARSED, BOUND, CLOSED = message(b"1"), message(b"2"), message(b"3")
COPY_IN = message(b"G", b"\0\0\0")


def query(sql: str) -> bytes:
    return message(b"Q", sql.encode() + b"\0")


def parse(sql: str, name: str = "") -> bytes:
    return message(b"P", name.encode() + b"\0" + sql.encode() + b"\0\0\0")


def bind(name: str = "", portal: str = "") -> bytes:
    return message(b"B", portal.encode() + b"\0" + name.encode() + b"\0" + bytes(6))


def execute(portal: str = "") -> bytes:
    return message(b"E", portal.encode() + b"\0" + bytes(4))


def close(name: str) -> bytes:
    return message(b"C", b"S" + name.encode() + b"\0")


def tag(text: str) -> bytes:
    return message(b"C", text.encode() + b"\0")


def failure(code: str = "42P01", severity: str = "ERROR") -> bytes:
    return error_response(Report(severity, code, "no"))


ROW = message(b"D", b"x" * 40)


class Session:
    """Both walks over one account, and the records so far."""

    def __init__(self, telling: Telling = TELL_ALL) -> None:
        self.account = RoundAccount(blake3)
        self.client = ClientWalk(self.account, telling)
        self.server = ServerWalk(self.account)

    def ask(self, *messages: bytes, at: float = 0.0) -> "Session":
        self.client.feed(b"".join(messages), at)
        return self

    def answer(self, *messages: bytes, at: float = 1.0) -> "Session":
        self.server.feed(b"".join(messages), at)
        return self

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [json.loads(entry.data) for entry in self.account.entries if entry.kind == kind]

    def results(self) -> dict[int, dict[str, Any]]:
        return {each["n"]: each for each in self.of("result")}


def test_a_simple_query() -> None:
    session = (
        Session()
        .ask(query("SELECT é"), at=2.0)
        .answer(message(b"T", b"\0\0"), ROW, ROW, tag("SELECT 2"), READY, at=2.5)
    )
    assert session.of("statement") == [
        {"n": 1, "sql": "SELECT é", "sha256": sha256("SELECT é".encode()).hexdigest(), "protocol": "simple"}
    ]
    assert session.of("result") == [
        {
            "n": 1, "tag": "SELECT 2", "rows": 2, "returned": 2, "bytes": 80, "bytes_in": 0, "ms": 500.0,
            "sqlstate": "", "state": "done",
        }
    ]  # fmt: skip


def test_several_statements_in_one_query_are_one_record_with_several_tags() -> None:
    session = Session().ask(query("UPDATE a; EXPLAIN b")).answer(tag("UPDATE 7"), ROW, ROW, tag("EXPLAIN"), READY)
    (result,) = session.of("result")
    assert (result["tag"], result["rows"], result["returned"]) == ("UPDATE 7; EXPLAIN", 9, 2)


def test_an_error_in_a_query_is_its_result() -> None:
    session = Session().ask(query("a"), query("b")).answer(failure("22012"), READY, tag("SELECT 0"), READY)
    assert [(r["n"], r["sqlstate"], r["state"]) for r in session.of("result")] == [
        (1, "22012", "failed"),
        (2, "", "done"),
    ]


def test_extended_statements_are_told_at_bind_and_counted_each() -> None:
    session = Session().ask(parse("SELECT $1", "s1"), SYNC).answer(PARSED, READY)
    assert session.of("statement") == []
    session.ask(bind("s1"), execute(), SYNC, bind("s1"), execute(), SYNC)
    session.answer(BOUND, ROW, tag("SELECT 1"), READY, BOUND, ROW, ROW, tag("SELECT 2"), READY)
    assert [(s["n"], s["sql"], s["name"]) for s in session.of("statement")] == [
        (1, "SELECT $1", "s1"),
        (2, "SELECT $1", "s1"),
    ]
    assert [r["rows"] for r in session.of("result")] == [1, 2]


def test_a_portal_fetched_in_parts_has_a_result_for_each() -> None:
    session = Session().ask(parse("s"), bind(portal="c"), execute("c"), SYNC)
    session.answer(PARSED, BOUND, ROW, message(b"s"), message(b"Z", b"T"))
    session.ask(execute("c"), SYNC).answer(ROW, ROW, tag("SELECT 2"), READY)
    assert [(r["n"], r["state"], r["rows"]) for r in session.of("result")] == [(1, "suspended", 1), (1, "done", 2)]


def test_after_an_error_everything_up_to_sync_is_skipped() -> None:
    session = Session().ask(parse("a"), bind(), execute(), parse("b"), bind(), execute(), SYNC, query("c"))
    session.answer(PARSED, BOUND, failure("23505"), READY, tag("SELECT 0"), READY)
    assert {n: (r["sqlstate"], r["state"]) for n, r in session.results().items()} == {
        1: ("23505", "failed"), 2: ("", "skipped"), 3: ("", "done"),
    }  # fmt: skip


def test_what_is_sent_after_an_error_without_sync_is_skipped_too() -> None:
    session = Session().ask(parse("a"), bind(), message(b"H")).answer(failure())
    session.ask(parse("b"), bind(), execute(), query("ignored"), SYNC).answer(READY)
    session.ask(query("c")).answer(tag("SELECT 0"), READY)
    assert [r["state"] for r in session.of("result")] == ["failed", "skipped", "skipped", "done"]


def test_a_parse_that_fails_alone_is_told() -> None:
    session = Session().ask(parse("SELEC", "s"), SYNC).answer(failure("42601"), READY)
    assert [(s["sql"], s["step"]) for s in session.of("statement")] == [("SELEC", "parse")]
    assert [(r["n"], r["sqlstate"]) for r in session.of("result")] == [(1, "42601")]


def test_a_refused_parse_does_not_replace_a_text() -> None:
    session = Session().ask(parse("evil", "s"), SYNC).answer(PARSED, READY)
    session.ask(parse("innocent", "s"), SYNC, bind("s"), execute(), SYNC)
    session.answer(failure("42P05"), READY, BOUND, tag("DELETE 9"), READY)
    told = [s for s in session.of("statement") if s["n"] == 1]
    assert [(s["sql"], s.get("corrected", False)) for s in told] == [("innocent", False), ("evil", True)]
    assert session.results()[1]["tag"] == "DELETE 9"
    session.ask(bind("s"), execute(), SYNC)
    assert session.of("statement")[-1]["sql"] == "evil"


def test_a_refused_bind_does_not_take_over_a_portal() -> None:
    session = Session().ask(parse("evil"), bind(portal="c"), SYNC).answer(PARSED, BOUND, message(b"Z", b"T"))
    session.ask(parse("innocent"), bind(portal="c"), SYNC, execute("c"), SYNC)
    session.answer(PARSED, failure("42P03"), message(b"Z", b"T"), tag("DELETE 9"), READY)
    assert session.results()[1]["tag"] == "DELETE 9"
    assert session.results()[2]["sqlstate"] == "42P03"


def test_names_are_cut_as_the_server_cuts_them() -> None:
    session = Session().ask(parse("text", "n" * 63 + "a"), SYNC).answer(PARSED, READY).ask(bind("n" * 63 + "b"))
    assert session.of("statement")[0]["sql"] == "text"


def test_a_statement_that_sql_prepared_is_told_by_name() -> None:
    session = Session().ask(bind("made_by_sql"), execute("cursor_of_sql"), SYNC)
    assert [(s["sql"], s.get("name"), s.get("portal")) for s in session.of("statement")] == [
        ("", "made_by_sql", None), ("", None, "cursor_of_sql"),
    ]  # fmt: skip


def test_a_closed_name_is_forgotten() -> None:
    session = Session().ask(parse("a", "s"), SYNC, close("s"), SYNC).answer(PARSED, READY, CLOSED, READY)
    assert session.ask(bind("s")).of("statement")[0]["sql"] == ""


@pytest.mark.parametrize("tags", [["DEALLOCATE ALL"], ["DISCARD ALL"], ["DEALLOCATE", "SELECT 1", "PREPARE"]])
def test_a_name_that_sql_may_have_given_away_has_no_text(tags: list[str]) -> None:
    session = Session().ask(parse("innocent", "s"), SYNC).answer(PARSED, READY)
    session.ask(query("..."), bind("s"), SYNC).answer(*map(tag, tags), READY, BOUND, READY).ask(bind("s"))
    told = [(s["n"], s["sql"], s.get("name"), s.get("corrected", False)) for s in session.of("statement")[1:]]
    assert told == [(2, "innocent", "s", False), (2, "", "s", True), (3, "", "s", False)]


@pytest.mark.parametrize("tags", [["DEALLOCATE"], ["PREPARE"]])
def test_drivers_that_deallocate_by_sql_keep_their_texts(tags: list[str]) -> None:
    session = Session().ask(parse("kept", "s"), SYNC).answer(PARSED, READY)
    session.ask(query("...")).answer(*map(tag, tags), READY).ask(bind("s"))
    assert session.of("statement")[-1]["sql"] == "kept"


def test_a_text_parsed_after_all_names_were_freed_counts() -> None:
    session = Session().ask(query("DEALLOCATE ALL"), parse("new", "s"), bind("s"), SYNC)
    session.answer(tag("DEALLOCATE ALL"), READY, PARSED, BOUND, READY).ask(bind("s"))
    assert [s["sql"] for s in session.of("statement")[1:]] == ["new", "new"]


def test_a_query_inside_copy_data_is_data() -> None:
    session = Session().ask(query("COPY t FROM STDIN")).answer(COPY_IN)
    session.ask(message(b"d", query("DROP TABLE t")), message(b"c")).answer(tag("COPY 1"), READY)
    assert len(session.of("statement")) == 1
    (result,) = session.of("result")
    assert (result["tag"], result["bytes_in"]) == ("COPY 1", len(query("DROP TABLE t")))


def test_copy_in_the_extended_protocol_swallows_the_first_sync() -> None:
    session = Session().ask(parse("COPY"), bind(), execute(), SYNC).answer(PARSED, BOUND, COPY_IN)
    session.ask(message(b"d", b"x"), message(b"c"), SYNC, query("next"))
    session.answer(tag("COPY 1"), READY, tag("SELECT 0"), READY)
    assert [(r["n"], r["tag"]) for r in session.of("result")] == [(1, "COPY 1"), (2, "SELECT 0")]


def test_copy_whose_data_is_sent_before_it_is_asked_for() -> None:
    session = Session().ask(query("COPY"), message(b"d", b"x"), message(b"c"), query("next"))
    session.answer(COPY_IN, tag("COPY 1"), READY, tag("SELECT 0"), READY)
    assert [r["tag"] for r in session.of("result")] == ["COPY 1", "SELECT 0"]


@pytest.mark.parametrize(
    "flight",
    [
        (message(b"d", b"ab"), message(b"d", b"c"), message(b"c")),
        (message(b"d", b"ab"), SYNC, message(b"d", b"c"), message(b"c")),
        (message(b"d", b"abc"), message(b"c"), query("next")),
    ],
)
def test_copy_data_is_accounted_for_whenever_it_comes(flight: tuple[bytes, ...]) -> None:
    """Before it was asked for, after, and on both sides of the answer that asks for it."""
    answers = (tag("COPY 1"), READY, tag("SELECT 0"), READY)
    for before in range(len(flight) + 1):
        session = Session().ask(query("COPY t FROM STDIN"), *flight[:before]).answer(COPY_IN)
        result = session.ask(*flight[before:]).answer(*answers).results()[1]
        assert (result["tag"], result["bytes_in"]) == ("COPY 1", 3)
        assert result["blake3_in"] == blake3(b"abc").hexdigest()
        assert "blake3" not in result


def test_a_stream_of_replication_goes_both_ways() -> None:
    """https://www.postgresql.org/docs/18/protocol-replication.html: START_REPLICATION ends with results of its own."""
    session = Session()
    session.server = ServerWalk(session.account, REPLICATION_MESSAGES)
    session.ask(query("START_REPLICATION 0/1")).answer(message(b"W", b"\0\0\0"), message(b"d", b"wal 1"))
    session.ask(message(b"d", b"status")).answer(message(b"d", b"wal 2")).ask(message(b"c"))
    session.answer(message(b"c"), message(b"T", b"\0\0"), ROW, tag("SELECT 1"), tag("START_STREAMING"), READY)
    (result,) = session.of("result")
    assert (result["bytes_in"], result["blake3_in"]) == (6, blake3(b"status").hexdigest())
    assert (result["bytes"], result["blake3"]) == (50, blake3(b"wal 1wal 2").hexdigest())
    assert (result["tag"], result["state"]) == ("SELECT 1; START_STREAMING", "done")
    assert not session.account.owes_answers
    with pytest.raises(ProtocolViolation):
        Session().ask(query("START_REPLICATION 0/1")).answer(message(b"W", b"\0\0\0"))


def test_of_several_copies_in_one_text_the_digests_are_digested() -> None:
    parts = blake3(blake3(b"ab").digest() + blake3(b"").digest() + blake3(b"c").digest()).hexdigest()
    data = [message(b"d", b"ab"), message(b"c"), message(b"c"), message(b"d", b"c"), message(b"c")]
    done = [tag("COPY 1"), COPY_IN, tag("COPY 0"), COPY_IN, tag("COPY 1"), READY]
    session = Session().ask(query("COPY; COPY; COPY"), *data).answer(COPY_IN, *done)
    assert session.of("result")[0]["blake3_in"] == parts
    session = Session().ask(query("COPY; COPY; COPY")).answer(COPY_IN).ask(*data[:2]).answer(*done[:2])
    session.ask(*data[2:]).answer(*done[2:])
    assert (session.of("result")[0]["blake3_in"], session.of("result")[0]["bytes_in"]) == (parts, 3)
    begun, ended = message(b"H", b"\0\0\0"), (message(b"c"), tag("COPY 1"))
    session = Session().ask(query("COPY; COPY; COPY"))
    session.answer(begun, message(b"d", b"a"), message(b"d", b"b"), *ended, begun, *ended, begun, message(b"d", b"c"))
    assert session.answer(*ended, READY).of("result")[0]["blake3"] == parts


def test_data_that_nobody_asked_for_is_nobodys() -> None:
    """The server ignores it, and owes nothing for it."""
    session = Session().ask(query("a"), message(b"d", b"x"), message(b"c")).answer(tag("SELECT 0"), READY)
    assert not session.account.owes_answers
    session.ask(message(b"d", b"x"), query("COPY")).answer(COPY_IN).ask(message(b"d", b"y"), message(b"c"))
    second = session.answer(tag("COPY 1"), READY).results()[2]
    assert (second["bytes_in"], second["blake3_in"]) == (1, blake3(b"y").hexdigest())


@pytest.mark.parametrize("stray", [(query("a"), message(b"d", b"x")), (query("a"), message(b"d", b"x"), SYNC)])
def test_data_that_nobody_asked_for_hides_none_behind_it(stray: tuple[bytes, ...]) -> None:
    session = Session().ask(parse("COPY t FROM STDIN", "s"), SYNC).answer(PARSED, READY)
    session.ask(*stray).answer(tag("SELECT 0"), *[READY] * (len(stray) - 1))
    session.ask(bind("s"), execute(), SYNC).ask(message(b"d", b"data"), message(b"c"), SYNC)
    result = session.answer(BOUND, COPY_IN, tag("COPY 1"), READY).of("result")[1]
    assert (result["bytes_in"], result["blake3_in"]) == (4, blake3(b"data").hexdigest())


def test_copy_data_that_waits_to_be_asked_for_keeps_no_state_of_its_digest() -> None:
    """Which is 2 KB each, where a session may owe twenty thousand answers."""
    alive: WeakSet[object] = WeakSet()

    class Counted:
        def __init__(self) -> None:
            self._of = blake3()
            self.update, self.digest, self.hexdigest = self._of.update, self._of.digest, self._of.hexdigest
            alive.add(self)

    account = RoundAccount(Counted)
    ClientWalk(account).feed(query("slow") + (message(b"d", b"x") + message(b"c")) * 1_000, 0.0)
    assert account.owes_answers
    assert len(alive) <= 1


def test_a_copy_that_fails_under_way() -> None:
    session = Session().ask(query("COPY")).answer(COPY_IN).ask(message(b"d", b"x")).answer(failure("22P02"), READY)
    session.ask(message(b"d", b"x"), message(b"c"), query("next")).answer(tag("SELECT 0"), READY)
    assert [(r["sqlstate"], r["tag"]) for r in session.of("result")] == [("22P02", ""), ("", "SELECT 0")]


@pytest.mark.parametrize("wrong", [query("x"), parse("x"), execute(), message(b"F", bytes(8))])
def test_only_copy_data_while_the_target_reads_it(wrong: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        Session().ask(query("COPY")).answer(COPY_IN).ask(wrong)
    with pytest.raises(ProtocolViolation):
        Session().ask(query("COPY"), wrong).answer(COPY_IN)


def test_copy_out_is_counted() -> None:
    session = Session().ask(query("COPY t TO STDOUT"))
    session.answer(
        message(b"H", b"\0\0\0"), message(b"d", b"12345"), message(b"d", b"123"), message(b"c"), tag("COPY 2"), READY
    )
    (result,) = session.of("result")
    assert (result["bytes"], result["rows"], result["returned"]) == (8, 2, 0)
    assert (result["blake3"], "blake3_in" in result) == (blake3(b"12345123").hexdigest(), False)


def test_a_function_call() -> None:
    session = Session().ask(message(b"F", (1598).to_bytes(4, "big") + bytes(6))).answer(message(b"V", bytes(4)), READY)
    assert (session.of("statement")[0]["oid"], session.of("result")[0]["state"]) == (1598, "done")


def values(given: list[bytes | None], formats: list[int]) -> bytes:
    told = [b"\xff" * 4 if each is None else len(each).to_bytes(4, "big") + each for each in given]
    codes = b"".join(code.to_bytes(2, "big") for code in formats)
    return len(formats).to_bytes(2, "big") + codes + len(given).to_bytes(2, "big") + b"".join(told) + b"\0\1\0\1"


def test_parameters_are_told_in_bounds() -> None:
    given = ["é".encode(), None, b"x" * 257, b"\1" * 40, b""]
    body = b"portal\0s\0" + values(given, [0, 0, 0, 1, 0])
    session = Session().ask(parse("SELECT $1", "s"), message(b"B", body), message(b"B", body))
    told = session.of("statement")
    assert told[0]["params"] == told[1]["params"] == [
        "é", None,
        {"length": 257, "sha256": sha256(b"x" * 257).hexdigest()},
        {"length": 40, "sha256": sha256(b"\1" * 40).hexdigest(), "hex": "01" * 32},
        "",
    ]  # fmt: skip
    assert [each["sql"] for each in told] == ["SELECT $1"] * 2


def test_what_runs_is_known_until_it_is_answered() -> None:
    session = Session()
    assert session.account.running() is None
    session.ask(query("SELECT " + "x" * 2000), at=3.0)
    assert session.account.running() == (1, b"SELECT " + b"x" * 993, 3.0)
    session.answer(tag("SELECT 1"), READY)
    assert session.account.running() is None
    session.ask(parse("a", "s"), bind("s"), execute(), SYNC, at=4.0)
    assert session.account.running() == (2, b"a", 4.0)
    session.answer(PARSED, BOUND)
    assert session.account.running() == (2, b"a", 4.0)
    session.answer(tag("SELECT 1"), READY)
    session.ask(bind("s") + execute() + SYNC, at=5.0)
    assert session.account.running() == (3, b"a", 5.0)
    session.answer(BOUND, tag("SELECT 1"), READY)
    assert session.account.running() is None


MASKED, SILENT = Telling(key=b"k" * 32), Telling(is_silent=True)


@pytest.mark.parametrize("form", [0, 1])
def test_masked_parameters_tell_lengths_and_repetition_alone(form: int) -> None:
    given = [b"4711", None, b"4711", b"4712", b""]
    asked = (parse("SELECT $1", "s"), message(b"B", b"\0s\0" + values(given, [form])))
    (told,) = Session(MASKED).ask(*asked).of("statement")
    first, null, again, other, empty = told["params"]
    assert null is None
    assert first == again == {"length": 4, "keyed": first["keyed"]} != other
    assert empty["length"] == 0
    (elsewhere,) = Session(Telling(key=b"j" * 32)).ask(*asked).of("statement")
    assert elsewhere["params"][0]["keyed"] != first["keyed"]
    assert "4711" not in json.dumps(told)
    assert sha256(b"4711").hexdigest() not in json.dumps(told)


def test_where_no_parameters_are_told_their_number_is() -> None:
    for sent in (
        message(b"B", b"\0\0" + values([b"4711", None], [])),
        message(b"F", bytes(4) + values([b"4", b""], [])),
    ):
        (told,) = Session(SILENT).ask(sent).of("statement")
        assert (told.get("params"), told["params_left_out"]) == (None, 2)


def test_parameters_beyond_the_bound_are_counted() -> None:
    (told,) = Session().ask(message(b"B", b"\0\0" + values([b"x" * 200] * 30, []))).of("statement")
    assert (len(told["params"]), told["params_left_out"]) == (20, 10)


def test_arguments_of_a_function_call_are_told() -> None:
    call = message(b"F", (1598).to_bytes(4, "big") + values([b"\1\2", b"\3"], [1]))
    (told,) = Session().ask(call).of("statement")
    assert (told["oid"], [(each["length"], each["hex"]) for each in told["params"]]) == (1598, [(2, "0102"), (1, "03")])


@given(
    st.lists(st.one_of(st.none(), st.binary(max_size=600), st.just(b"y" * 70_000)), max_size=6), st.integers(0, 1),
    st.lists(st.integers(0, 200_000), max_size=6), st.sampled_from([TELL_ALL, MASKED, SILENT]),
)  # fmt: skip
def test_parameters_are_the_same_in_any_pieces(
    given: list[bytes | None], form: int, cuts: list[int], telling: Telling
) -> None:
    sent = message(b"B", b"\0s\0" + values(given, [form])) + message(b"F", bytes(4) + values(given, [form])) + SYNC
    cut = Session(telling)
    for piece in pieces(sent, cuts):
        cut.ask(piece)
    assert cut.account.entries == Session(telling).ask(sent).account.entries
    kind = "params_left_out" if telling.is_silent else "params"
    counts = [each.get(kind, []) for each in cut.of("statement")]
    assert [each if isinstance(each, int) else len(each) for each in counts] == [len(given)] * 2


def test_an_error_outside_any_statement() -> None:
    session = Session().answer(failure("57P01", "FATAL"))
    assert session.account.heard_fatal
    assert session.of("result")[0]["sqlstate"] == "57P01"


def test_an_error_without_a_code() -> None:
    session = Session().ask(query("x")).answer(message(b"E", b"SERROR\0\0"), READY)
    assert session.of("result")[0]["sqlstate"] == "XX000"


def test_at_the_end_unanswered_statements_are_unknown() -> None:
    session = Session().ask(query("a"), query("b")).answer(tag("SELECT 0"), READY)
    session.account.close(3.0)
    assert [(r["n"], r["state"]) for r in session.of("result")] == [(1, "done"), (2, "unknown")]


def test_a_long_text_is_told_whole_in_parts() -> None:
    text = "/*" + "é" * KEEP + "*/ SELECT hidden"
    whole = Session().ask(query(text))
    (told,) = whole.of("statement")
    more = whole.of("statement-more")
    assert (told["length"], told["sha256"]) == (len(text.encode()), sha256(text.encode()).hexdigest())
    assert told["sql"] + "".join(part["sql"] for part in more) == text
    assert [(part["n"], part["part"]) for part in more] == [(1, 2), (1, 3)]
    assert all(len(each["sql"].encode()) <= KEEP for each in [told, *more])


@given(st.sampled_from([KEEP - 1, KEEP, KEEP + 1, 3 * KEEP]), st.lists(st.integers(1, 4 * KEEP), max_size=4))
def test_a_long_prepared_text_is_told_whole_however_it_comes(length: int, cuts: list[int]) -> None:
    text = "x" * length
    session = Session()
    for piece in pieces(parse(text, "s") + bind("s"), cuts):
        session.ask(piece)
    parts = session.of("statement") + session.of("statement-more")
    assert "".join(part["sql"] for part in parts) == text


@pytest.mark.parametrize("make", [query, parse])
def test_a_statement_that_could_not_be_recorded_whole_is_refused_at_its_header(make: Callable[[str], bytes]) -> None:
    longest = make("x" * (MAX_STATEMENT - (3 if make is parse else 0)))
    Session().ask(longest[:9000]).ask(longest[9000:])
    with pytest.raises(StatementTooLong):
        Session().ask(make("x" * (MAX_STATEMENT + 1))[:5])


def test_a_repeated_long_text_is_told_in_full_once() -> None:
    session = Session().ask(parse("y" * KEEP, "s"), bind("s"), bind("s"))
    assert [len(s["sql"]) for s in session.of("statement")] == [KEEP, KEEP_REPEATED]


def test_remembered_text_is_bounded_and_what_is_let_go_was_told() -> None:
    session = Session()
    count = MAX_TEXT // KEEP + 10
    for number in range(count):
        session.ask(parse(f"{number:08}" + "z" * (KEEP - 8), f"s{number}"))
    assert [s["step"] for s in session.of("statement")] == ["parse"] * 10
    session.answer(PARSED * count).ask(bind(f"s{count - 1}"))
    assert session.of("statement")[-1]["sql"].startswith(f"{count - 1:08}")


def test_the_number_of_names_is_bounded() -> None:
    session = Session()
    for number in range(MAX_NAMES + 3):
        session.ask(parse("q", f"s{number}")).answer(PARSED)
    assert [s["name"] for s in session.of("statement")] == ["s0", "s1", "s2"]


def test_a_crowd_of_unanswered_statements_is_noticed() -> None:
    session = Session().ask(SYNC * 20_001)
    assert session.account.is_crowded
    assert not session.answer(READY * 10).account.is_crowded


def test_goodbye() -> None:
    assert Session().ask(message(b"X")).account.said_goodbye


@pytest.mark.parametrize("kind", [bytes([code]) for code in range(256) if bytes([code]) not in b"QPBEDCSHFXdcf"])
def test_a_message_only_a_server_sends_ends_the_session(kind: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        Session().ask(message(kind, b""))


@pytest.mark.parametrize("length", [0, 3, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0x40000000])
@pytest.mark.parametrize("kind", b"QPBEDCSHFXdcf")
def test_impossible_lengths_from_the_client(kind: int, length: int) -> None:
    with pytest.raises(ProtocolViolation):
        Session().client.feed(bytes([kind]) + length.to_bytes(4, "big"), 0)


@pytest.mark.parametrize("length", [0, 3, 0x80000000, 0xFFFFFFFF])
def test_impossible_lengths_from_the_server(length: int) -> None:
    with pytest.raises(ProtocolViolation):
        Session().server.feed(b"D" + length.to_bytes(4, "big"), 0)


@pytest.mark.parametrize("kind", b"RKWQPBFXfpv\0\xff")
def test_messages_that_a_server_may_not_send_now(kind: int) -> None:
    with pytest.raises(ProtocolViolation):
        Session().answer(message(bytes([kind]), bytes(8)))


@pytest.mark.parametrize(
    "wrong",
    [
        message(b"Q", b"no terminator"),
        message(b"Q", b"two\0ends\0"),
        message(b"Q", b""),
        message(b"P", b"name\0no terminator"),
        message(b"P", b"n" * 9000 + b"\0sql\0\0\0"),
        message(b"B", b"one string\0"),
        message(b"S", b"x"),
        message(b"B", b"\0\0" + bytes(3)),
        message(b"B", b"\0\0" + b"\0\0\0\1\0\0\0\5abcd"),
        message(b"B", b"\0\0" + b"\0\0\0\1\x80\0\0\0"),
        message(b"B", b"\0\0" + b"\0\2\0\0\0\1\0\1" + b"\xff" * 4),
        message(b"F", bytes(3)),
    ],
)
def test_bodies_that_make_no_sense(wrong: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        Session().ask(wrong)
    with pytest.raises(ProtocolViolation):
        Session().ask(wrong[:6]).ask(wrong[6:])


def test_where_a_message_may_be_put_in() -> None:
    walk = Session().server
    assert walk.is_at_boundary()
    walk.feed(ROW[:3], 0)
    assert not walk.is_at_boundary()
    assert walk.boundary_in(ROW[3:4]) is None
    assert walk.boundary_in(ROW[3:] + ROW) == len(ROW) - 3
    walk.feed(ROW[3:20], 0)
    assert walk.boundary_in(ROW[20:30]) is None
    assert walk.boundary_in(ROW[20:]) == len(ROW) - 20


CONVERSATION_OUT = b"".join([
    query("SELECT 1"), parse("a", "s"), bind("s"), execute(), SYNC, parse("bad"), bind(), execute(), SYNC,
    query("COPY t FROM STDIN"), message(b"d", query("x")), message(b"c"), query("z" * 500), message(b"X"),
])  # fmt: skip
CONVERSATION_BACK = b"".join([
    message(b"T", b"\0\0"), ROW, ROW, tag("SELECT 2"), READY, PARSED, BOUND, ROW, tag("SELECT 1"), READY, failure(), READY,
    COPY_IN, tag("COPY 1"), READY, message(b"N", b"SNOTICE\0\0"), message(b"I"), READY,
])  # fmt: skip


def pieces(blob: bytes, cuts: Iterable[int]) -> list[bytes]:
    places = sorted({0, len(blob), *(cut % len(blob) for cut in cuts)})
    return [blob[a:b] for a, b in itertools.pairwise(places)]


@given(st.lists(st.integers(0, 10_000)), st.lists(st.integers(0, 10_000)))
def test_chunking_changes_nothing(out_cuts: list[int], back_cuts: list[int]) -> None:
    whole = Session().ask(CONVERSATION_OUT).answer(CONVERSATION_BACK)
    cut = Session()
    for piece in pieces(CONVERSATION_OUT, out_cuts):
        cut.ask(piece)
    for piece in pieces(CONVERSATION_BACK, back_cuts):
        cut.answer(piece)
    assert cut.account.entries == whole.account.entries
    assert cut.server.is_at_boundary()
    assert len(whole.of("result")) == 5


ROUNDS = st.sampled_from([
    query("q"), query("COPY t FROM STDIN"), parse("a", "s") + SYNC, parse("a") + bind() + execute() + SYNC, SYNC,
    *(bind(name) + described + execute() + SYNC for name in ("", "s") for described in (b"", message(b"D", b"P\0"))),
    bind("s", "p") + execute("p") + SYNC, bind("s") + execute(), execute() + SYNC, message(b"d", b"x"), message(b"c"),
])  # fmt: skip
ENDS = st.sampled_from(
    [tag("SELECT 1"), tag("DISCARD ALL"), tag("BEGIN"), message(b"I"), message(b"s"), failure(), COPY_IN, b""]
)
REPLIES = st.builds(
    lambda *parts: b"".join(parts),
    st.sampled_from([BOUND, PARSED + BOUND, PARSED, b""]), st.sampled_from([message(b"T", b"\0\0"), message(b"n"), b""]),
    st.sampled_from([b"", ROW, 3 * ROW]), ENDS, st.sampled_from([READY, message(b"Z", b"T"), message(b"Z", b"E"), b""]),
)  # fmt: skip


@given(st.lists(st.one_of(ROUNDS.map(lambda m: (True, m)), REPLIES.map(lambda m: (False, m))), max_size=12))
def test_round_trips_at_a_glance_are_those_of_byte_by_byte(chunks: list[tuple[bool, bytes]]) -> None:
    """The rounds of `postgres_quick` against the walk that sees no whole message."""
    quick, slow = Session(), Session()
    for is_asking, chunk in chunks:
        found = []
        for session, size in ((quick, len(chunk) or 1), (slow, 1)):
            try:
                for start in range(0, len(chunk), size):
                    (session.ask if is_asking else session.answer)(chunk[start : start + size])
            except ProtocolViolation as why:
                found.append(str(why))
        assert quick.account.entries == slow.account.entries
        if found:
            assert found == 2 * [found[0]]
            return
    assert quick.account.owes_answers == slow.account.owes_answers
    for session in (quick, slow):
        session.account.close(0.0)
    assert quick.account.entries == slow.account.entries


@given(st.lists(st.tuples(st.booleans(), st.binary(max_size=60))))
def test_random_bytes_are_refused_or_walked(chunks: list[tuple[bool, bytes]]) -> None:
    session = Session()
    try:
        for is_client, chunk in chunks:
            (session.ask if is_client else session.answer)(chunk)
    except ProtocolViolation:
        pass
    session.account.close(0)
    for entry in session.account.entries:
        json.loads(entry.data)


ASKS = st.sampled_from([
    query("q"), parse("a"), parse("b", "s"), parse("c", "s"), bind(), bind("s"), bind("s", "p"), execute(), execute("p"), close("s"),
    SYNC, message(b"H"), message(b"D", b"S\0"), message(b"d", b"x"), message(b"c"), message(b"f", b"\0"), message(b"F", bytes(8)),
])  # fmt: skip
ANSWERS = st.sampled_from([
    PARSED, BOUND, CLOSED, ROW, tag("SELECT 1"), READY, failure(), COPY_IN, message(b"s"), message(b"n"), message(b"I"),
    message(b"T", b"\0\0"), message(b"t", b"\0\0"), message(b"d", b"x"), message(b"A", bytes(8)), message(b"V", bytes(4)),
])  # fmt: skip


@given(st.lists(st.one_of(ASKS.map(lambda m: (True, m)), ANSWERS.map(lambda m: (False, m))), max_size=60))
def test_every_query_and_bind_is_told_whatever_the_server_says(steps: list[tuple[bool, bytes]]) -> None:
    session = Session()
    expected = 0
    try:
        for is_client, each in steps:
            (session.ask if is_client else session.answer)(each)
            expected += is_client and each[:1] in b"QBF"
    except ProtocolViolation:
        return
    session.account.close(9.0)
    numbers = {s["n"] for s in session.of("statement") if "step" not in s and "portal" not in s}
    assert len(numbers) == expected
    assert numbers <= session.results().keys() | {s["n"] for s in session.of("statement")}
