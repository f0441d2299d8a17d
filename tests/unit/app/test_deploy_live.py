import threading
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.app.deploy_live import MOST_AT_ONCE, MOST_BUFFERED, Feed, LiveRuns
from gateway.app.deploy_ports import Output
from gateway.core.errors import Unavailable

AT = datetime(2026, 3, 1, tzinfo=UTC)


def piece(data: bytes) -> Output:
    return Output("out", AT, "web-1", data)


@given(st.lists(st.one_of(st.integers(1, 60_000), st.none()), max_size=60))
def test_a_reader_gets_every_piece_in_order_or_is_told_how_many_are_gone(moves: list[int | None]) -> None:
    """None is a look of the reader, a number a piece of that size."""
    feed, number, seen, put = Feed(), 0, 0, 0
    for move in [*moves, None]:
        if move is not None:
            feed.put(piece(put.to_bytes(4, "big") + b"x" * move))
            put += 1
            continue
        pieces, after, missed, is_over = feed.since(number)
        assert [int.from_bytes(p.data[:4], "big") for p in pieces] == list(range(number + missed, after))
        seen += len(pieces) + missed
        number = after
        assert not is_over
    assert seen == put


def test_the_buffer_is_bounded_whoever_reads() -> None:
    feed = Feed()
    for _ in range(100):
        feed.put(piece(b"x" * 60_000))
    pieces, after, missed, _ = feed.since(0)
    assert sum(len(p.data) for p in pieces) <= MOST_BUFFERED
    assert (missed + len(pieces), after) == (100, 100)


def test_listeners_are_told_until_they_go_and_the_end_is_seen() -> None:
    feed, told = Feed(), []
    silent = feed.listen(lambda: told.append(1))
    feed.put(piece(b"a"))
    silent()
    feed.put(piece(b"b"))
    assert told == [1]
    assert not feed.wait(2, 0.01)
    feed.close()
    assert feed.wait(2, 5)
    assert feed.since(2) == ([], 2, 0, True)


def test_places_are_bounded_and_given_back_however_a_run_ends() -> None:
    live = LiveRuns()
    for number in range(MOST_AT_ONCE):
        live.reserve(f"run_{number}", AT)
    with pytest.raises(Unavailable):
        live.reserve("run_more", AT)
    ended = threading.Event()

    live.start("run_0", ended.set)
    assert ended.wait(5)
    live.stop_all("over", 5)
    assert "run_0" not in live.ids()
    assert live.reserve("run_more", AT) is not None


def test_the_first_reason_stands_and_a_late_command_is_stopped_at_once() -> None:
    live, stopped = LiveRuns(), []
    live.reserve("run_1", AT + timedelta(minutes=1))
    assert live.overdue(AT) == ()
    assert live.overdue(AT + timedelta(minutes=1)) == ("run_1",)
    live.stop("run_1", "cancelled by lead")
    live.stop("run_1", "its time was up", is_cancelled=False)
    assert live.stopped("run_1") == ("cancelled by lead", True)
    live.on_stop("run_1", lambda: stopped.append("now"))
    assert stopped == ["now"]
    live.stop("run_unknown", "whatever")
    assert live.stopped("run_unknown")[0]
