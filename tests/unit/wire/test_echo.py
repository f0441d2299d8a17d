from hypothesis import given
from hypothesis import strategies as st

from gateway.wire.echo import LONGEST_LINE, EchoedLines


def lines(*steps: tuple[str, bytes]) -> list[bytes]:
    echoed, kept = EchoedLines(), []
    for who, octets in steps:
        kept += echoed.typed(octets) if who == "typed" else echoed.shown(octets)
    return kept


def test_a_line_that_is_echoed_is_kept() -> None:
    assert lines(("typed", b"ls"), ("shown", b"ls"), ("typed", b" -l\r"), ("shown", b" -l\r\nfile\r\n$ ")) == [b"ls -l"]
    assert lines(("typed", b"a"), ("shown", b"\x1b[32ma\x1b[0m"), ("typed", b"\r")) == [b"a"]
    assert lines(("typed", b"\r"), ("shown", b"\r\n$ ")) == []


def test_a_password_is_not() -> None:
    assert lines(("typed", b"hunter2\r"), ("shown", b"\r\nLast login")) == []
    assert lines(("typed", b"h"), ("typed", b"unter2"), ("typed", b"\r"), ("shown", b"\r\n")) == []
    assert lines(("typed", b"secret\r"), ("shown", b"******\r\n")) == []
    assert lines(("typed", b"Last\r"), ("shown", b"Las"), ("shown", b"\r\n")) == []


def test_after_a_password_lines_are_kept_again() -> None:
    assert lines(("typed", b"pw\r"), ("shown", b"\r\n$ "), ("typed", b"id"), ("shown", b"id"), ("typed", b"\r")) == [
        b"id"
    ]


def test_a_line_that_was_edited_is_not_kept() -> None:
    assert lines(("typed", b"lx\x7fs\r"), ("shown", b"lx\b \bs\r\n")) == []
    assert lines(("typed", b"a\r\x03x"), ("shown", b"x"), ("typed", b"\r"), ("typed", b"y"), ("shown", b"y"), ("typed", b"\r")) == [b"y"]  # fmt: skip


def test_a_line_without_end_costs_no_memory() -> None:
    echoed = EchoedLines()
    for _ in range(100):
        assert echoed.typed(b"x" * 1000) == []
    assert len(echoed._typed) <= LONGEST_LINE


@given(st.lists(st.tuples(st.sampled_from(["typed", "shown"]), st.binary(max_size=20)), max_size=20))
def test_whatever_is_kept_was_shown(steps: list[tuple[str, bytes]]) -> None:
    for line in lines(*steps):
        shown = b"".join(octets for who, octets in steps if who == "shown")
        places = iter(shown)
        assert all(octet in places for octet in line)  # in order
