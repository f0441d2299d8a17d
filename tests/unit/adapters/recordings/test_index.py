import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.adapters.postgres_parser import PostgresParser
from gateway.adapters.recordings import FileRecorder, StatementIndex, index
from gateway.adapters.recordings.late_index import LateIndex
from gateway.app.search_statements import StatementQuery
from gateway.audit.recording import BATCH, MAX_PAYLOAD, batch_of, encode, frame_of, unix_ns
from gateway.core.obligation import Record
from tests.unit.adapters.recordings.stage import AT, eventually, is_sealed, keyring, nothing, session


@pytest.fixture
def statements(tmp_path: Path) -> Iterator[StatementIndex]:
    made = StatementIndex(tmp_path / "statements.sqlite")
    yield made
    made.close()


def record(kind: str, after: float = 0, **fields: object) -> tuple[str, str, bytes]:
    at_ns = unix_ns(AT + timedelta(seconds=after))
    return "ses_1", kind, encode(0, at_ns, kind, json.dumps(fields).encode())


def told(found: StatementIndex, **query: object) -> list[str]:
    return [s.sql for s in found.search(StatementQuery(**query))]  # type: ignore[arg-type]


def test_statements_are_found_with_what_they_did(statements: StatementIndex):
    statements.feed(
        [
            record("session", target="orders-db", holder_name="oncall"),
            record("statement", n=1, sql="SELECT * FROM orders WHERE note LIKE '%\"x_%'"),
            record("result", n=1, tag="SELECT 3", rows=3, bytes=120, ms=4.5),
            record("out", n=7, sql="not a statement"),
            record("statement", 5, n=2, sql="DROP TABLE orders"),
            record("result", 5, n=2, sqlstate="42501", ms=1),
            record("statement", 6, n=3, sql="SELECT pg_sleep(1)"),
        ]
    )
    [found] = statements.search(StatementQuery(text="like '%\"x_%"))
    assert (found.session, found.n, found.at, found.target, found.principal) == ("ses_1", 1, AT, "orders-db", "oncall")
    assert (found.tag, found.rows, found.bytes, found.ms, found.sqlstate) == ("SELECT 3", 3, 120, 4.5, None)
    assert told(statements) == ["SELECT pg_sleep(1)", "DROP TABLE orders", found.sql], "newest first"
    assert told(statements, text="drop table") == ["DROP TABLE orders"]
    assert statements.search(StatementQuery(text="DROP"))[0].sqlstate == "42501"
    assert told(statements, text="(1)") == told(statements, since=AT + timedelta(seconds=6)) == ["SELECT pg_sleep(1)"]
    assert told(statements, text="xyzzy") == told(statements, target="web-1") == told(statements, principal="x") == []
    assert told(statements, text="d", limit=1) == ["DROP TABLE orders"]
    assert told(statements, session="ses_2") == []


def test_records_of_a_batch_are_found_like_others(statements: StatementIndex):
    told_of = [record("statement", n, n=n, sql=f"select {n}") for n in range(1, 4)]
    told_of += [record("cancel", 4, n=2, by="lead"), record("result", 5, n=2, tag="SELECT 1")]
    frames = [frame_of(encoded) for _, _, encoded in told_of]
    payload = batch_of((f.kind, f.at_ns, f.payload) for f in frames)
    statements.feed([("ses_1", BATCH, encode(1, frames[0].at_ns, BATCH, payload))])
    found = statements.search(StatementQuery())
    assert [(s.sql, s.tag) for s in found] == [("select 3", None), ("select 2", "SELECT 1"), ("select 1", None)]


@settings(max_examples=60)
@given(text=st.text(st.characters(min_codepoint=1, max_codepoint=126), min_size=1, max_size=8))
def test_any_text_is_only_text(tmp_path_factory: pytest.TempPathFactory, text: str):
    made = StatementIndex(tmp_path_factory.mktemp("index") / "statements.sqlite")
    sql = f"select {text} from t"
    made.feed([record("statement", n=1, sql=sql), record("statement", n=2, sql="")])
    assert told(made, text=text) == [sql]
    made.close()


def test_records_that_make_no_sense_are_left_out(statements: StatementIndex):
    bad = encode(0, 0, "statement", b"not json")
    statements.feed([("ses_1", "statement", bad), record("statement", sql="no number"), record("result", n=9)])
    assert told(statements) == []


def test_a_session_too_busy_is_indexed_when_it_is_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(index, "FEED_BYTES", 600)
    made = StatementIndex(tmp_path / "statements.sqlite")
    recorder = FileRecorder(tmp_path, "gw1", keyring(tmp_path), index=made, evidence_every=timedelta(hours=1))
    recording = recorder.open(session(), Record.REQUIRE, nothing)
    for n in range(50):
        recording.append("statement", AT, json.dumps({"n": n, "sql": f"select {n}"}).encode())
    large = json.dumps({"n": 50, "sql": "select 'large' " + "x" * MAX_PAYLOAD}).encode()
    recording.wait_durable(recording.append("statement", AT, large), timedelta(seconds=20))
    assert made.behind() == {"ses_1"}
    assert len(made.search(StatementQuery())) < 50
    recording.seal()
    eventually(lambda: made.behind() == frozenset())
    assert len(made.search(StatementQuery())) == 51
    assert len(made.search(StatementQuery(text="'large'"))) == 1
    recorder.close()
    made.close()


def test_what_was_not_indexed_before_a_restart_is_told_and_indexed_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(index, "FEED_BYTES", 600)
    path = tmp_path / "statements.sqlite"
    with monkeypatch.context() as dies:
        dies.setattr(LateIndex, "add", lambda *_: None)  # the process ends before its turn comes
        made = StatementIndex(path)
        recorder = FileRecorder(tmp_path, "gw1", keyring(tmp_path), index=made, evidence_every=timedelta(hours=1))
        recording = recorder.open(session(), Record.REQUIRE, nothing)
        for n in range(50):
            recording.append("statement", AT, json.dumps({"n": n, "sql": f"select {n}"}).encode())
        recording.seal()
        eventually(is_sealed(recorder, "ses_1"))
        recorder.close()
        made.close()
    monkeypatch.setattr(index, "FEED_BYTES", 1 << 20)
    reborn = StatementIndex(path)
    assert len(reborn.search(StatementQuery())) < 50
    assert reborn.behind() == {"ses_1"}
    recorder = FileRecorder(tmp_path, "gw1", keyring(tmp_path), index=reborn, evidence_every=timedelta(hours=1))
    recorder.open(session("ses_2"), Record.REQUIRE, nothing).seal()
    eventually(lambda: "ses_1" not in reborn.behind())
    assert len(reborn.search(StatementQuery(session="ses_1"))) == 50
    recorder.close()
    assert reborn.left_behind() == []
    reborn.close()


def test_a_session_that_ends_is_noted_until_it_is_stored(statements: StatementIndex, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(index, "FEED_SECONDS", 0)
    monkeypatch.setattr(index, "FEED_CHUNK", 1)
    statements.note_ending(["ses_0"])  # nothing waits
    assert statements.left_behind() == []
    statements.feed([record("statement", n=n, sql="select") for n in (1, 2)])
    statements.note_ending(["ses_1"])
    statements.feed([record("statement", n=3, sql="select")])
    left = []
    for _ in range(3):
        left.append(statements.left_behind())
        statements.store_fed()
    assert left == [["ses_1"], ["ses_1"], []]


def test_of_what_could_not_be_stored_the_note_stays(statements: StatementIndex):
    statements.feed([record("statement", n=1, sql="\ud800")])
    statements.note_ending(["ses_1", "ses_2"])
    statements.store_fed()
    assert statements.left_behind() == ["ses_1"]


def test_what_another_process_has_indexed_meanwhile_is_not_behind(tmp_path: Path):
    path = tmp_path / "statements.sqlite"
    with closing(StatementIndex(path)) as one, closing(StatementIndex(path)) as other:
        one.feed([record("statement", n=1, sql="select 1")])
        one.note_ending(["ses_1"])
        assert told(other) == []
        one.store_fed()
        assert other.behind() == {"ses_1"}
        assert other.left_behind() == []
        assert other.behind() == frozenset()


def test_what_was_not_indexed_when_the_gateway_stopped_is_indexed_after_its_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(index, "FEED_SECONDS", 0)
    monkeypatch.setattr(index, "FEED_CHUNK", 1)
    for session_id in ("ses_1", "ses_2"):
        with closing(StatementIndex(tmp_path / "statements.sqlite")) as made:
            recorder = FileRecorder(tmp_path, "gw1", keyring(tmp_path), index=made)
            recording = recorder.open(session(session_id), Record.REQUIRE, nothing)
            for n in range(20):
                recording.append("statement", AT, b'{"n": %d, "sql": "select %d"}' % (n, n))
            recording.seal()
            if session_id == "ses_2":
                eventually(lambda made=made: len(told(made, session="ses_1")) == 20)  # type: ignore[misc]
            eventually(is_sealed(recorder, session_id))
            recorder.close()


def test_a_target_hides_no_session_behind_a_number(statements: StatementIndex):
    """What it says that it did may be any number: its command tag is text."""
    statements.feed([record("statement", n=1, sql="drop table t"), record("result", n=1, tag="DROP", rows=10**19)])
    [found] = statements.search(StatementQuery(text="drop"))
    assert (found.tag, found.rows) == ("DROP", None)
    assert statements.behind() == frozenset()


def test_what_no_database_can_hold_costs_only_the_index(statements: StatementIndex):
    statements.feed([record("statement", n=1, sql="\ud800"), record("statement", n=1 << 70, sql="x")])
    statements.store_fed()
    assert statements.behind() == {"ses_1"}


def test_a_broken_index_does_not_stop_a_recording(tmp_path: Path):
    path = tmp_path / "statements.sqlite"
    path.write_bytes(b"this is no database" * 1000)
    made = StatementIndex(path)
    recorder = FileRecorder(tmp_path, "gw1", keyring(tmp_path), index=made, evidence_every=timedelta(milliseconds=5))
    recording = recorder.open(session(), Record.REQUIRE, nothing)
    recording.append("statement", AT, b'{"n": 1, "sql": "select 1"}')
    recording.seal()
    eventually(is_sealed(recorder, "ses_1"))
    recorder.close()
    made.close()


def test_an_index_that_has_no_place_does_not_stop_a_recording(tmp_path: Path):
    (tmp_path / "index").write_text("in the way")
    told: list[str] = []
    made = StatementIndex(tmp_path / "index" / "statements.sqlite")
    recorder = FileRecorder(
        tmp_path, "gw1", keyring(tmp_path), index=made, evidence=lambda session_id, *_: told.append(session_id),
        evidence_every=timedelta(milliseconds=5),
    )  # fmt: skip
    recording = recorder.open(session(), Record.REQUIRE, nothing)
    recording.append("statement", AT, b'{"n": 1, "sql": "select 1"}')
    eventually(lambda: bool(told) and made.behind() == {"ses_1"})
    recording.seal()
    eventually(is_sealed(recorder, "ses_1"))
    recorder.close()


def test_what_texts_do_can_be_asked_for(tmp_path: Path):
    made = StatementIndex(tmp_path / "statements.sqlite", PostgresParser())
    sqls = [
        "SELECT * FROM t WHERE a = 1",
        "select * from t where a=2",
        "delete from t",
        "drop table t",
        "oops",
        "begin",
    ]
    made.feed([record("statement", n, n=n, sql=sql) for n, sql in enumerate(sqls)])
    found = {s.sql: s for s in made.search(StatementQuery())}
    assert [found[sql].kind for sql in sqls] == ["read", "read", "write", "ddl", "unknown", "session"]
    assert told(made, kind="write") == ["delete from t"]
    assert told(made, fingerprint=found[sqls[0]].fingerprint) == [sqls[1], sqls[0]]
    assert found["oops"].fingerprint == ""
    made.close()


def test_statements_know_how_their_transaction_ended(statements: StatementIndex):
    statements.feed(
        [
            record("statement", n=1, sql="begin"),
            record("result", n=1, tag="BEGIN", tx=1),
            record("statement", 1, n=2, sql="commit"),
            record("result", 1, n=2, tag="COMMIT", tx=1),
            record("transaction", n=2, tx=1, outcome="committed"),
            record("transaction", n=2, tx="x", outcome="committed"),
            record("statement", 2, n=3, sql="begin"),
            record("result", 2, n=3, tag="BEGIN", tx=2),
            record("statement", 3, n=4, sql="select"),
        ]
    )
    found = statements.search(StatementQuery())
    assert [(s.n, s.tx, s.outcome) for s in found] == [(4, 0, ""), (3, 2, ""), (2, 1, "committed"), (1, 1, "committed")]
    statements.rebuild_session("ses_1", ())
    assert statements.search(StatementQuery()) == []


def test_what_is_told_late_or_again_is_put_together(statements: StatementIndex):
    statements.feed([record("statement", n=1, sql="begin"), record("result", n=1, tag="BEGIN", rows=0, tx=1)])
    statements.feed([record("statement", 1, n=2, sql="execute a"), record("statement", 2, n=2, sql="delete from t")])
    statements.store_fed()
    statements.feed(
        [record("result", 3, n=2, tag="DELETE 1", rows=1), record("result", 3, n=2, tag="DELETE 2", rows=2)]
    )
    statements.store_fed()
    statements.feed([record("statement", 4, n=1, sql="start transaction")])
    found = statements.search(StatementQuery())
    assert [(s.n, s.sql, s.tag, s.rows, s.tx) for s in found] == [
        (2, "delete from t", "DELETE 2", 2, 0),
        (1, "start transaction", "BEGIN", 0, 1),
    ]
    assert found[0].at == AT + timedelta(seconds=1), "when it was told first"


def test_texts_of_a_transaction_that_failed_are_not_taken_for_known(statements: StatementIndex):
    statements.feed([record("statement", n=1, sql="select 1"), record("statement", n=1 << 70, sql="x")])
    statements.store_fed()
    other = ("ses_2", *record("statement", n=1, sql="select 1")[1:])
    statements.feed([other])
    assert [s.session for s in statements.search(StatementQuery(text="select"))] == ["ses_2"]


def test_an_index_from_before_is_brought_up_to_date(tmp_path: Path):
    path = tmp_path / "statements.sqlite"
    made = StatementIndex(path)
    made.feed([record("statement", n, n=n, sql=f"delete from t{n}") for n in range(500)])
    made.store_fed()
    made.close()
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("DROP INDEX texts_unread")
        database.execute("DROP INDEX texts_fingerprint")
        database.execute("DROP TABLE transactions")
        database.execute("ALTER TABLE statements DROP COLUMN tx")
        database.execute("ALTER TABLE texts DROP COLUMN kind")
        database.execute("ALTER TABLE texts DROP COLUMN fingerprint")
    made = StatementIndex(path, PostgresParser())
    assert told(made, kind="write") == []
    for _ in range(5):
        made.store_fed()
    assert len(told(made, kind="write", limit=1000)) == 500
    made.close()
