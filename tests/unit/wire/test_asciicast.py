import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from gateway.wire.asciicast import LOOK_AHEAD, Record, to_asciicast

BEGAN = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)


def fact(kind: str, after: float = 0.0, **fields: object) -> Record:
    return kind, BEGAN + timedelta(seconds=after), json.dumps(fields).encode()


def octets(kind: str, channel: int, data: bytes, after: float) -> Record:
    return kind, BEGAN + timedelta(seconds=after), channel.to_bytes(4, "big") + data


SHELL = fact("channel", channel=0, type="shell", command="", term="xterm-256color", columns=132, rows=40)


def cast(*records: Record, channel: int | None = None) -> list:
    return [json.loads(line) for line in to_asciicast(records, channel)]


def test_a_terminal_session() -> None:
    lines = cast(
        SHELL,
        octets("out", 0, b"$ ", 0.5),
        fact("typed", 0.7, channel=0, octets=3),
        octets("out", 0, b"ls\r\n", 1.25),
        fact("resize", 2.0, channel=0, columns=100, rows=50),
        fact("note", 3.0, channel=0, text="Your grant ends in 5 minutes."),
        octets("err", 0, b"gone\r\n", 3.5),
        fact("exit", 4.0, channel=0, status=0),
    )
    assert lines[0] == {
        "version": 2, "width": 132, "height": 40, "timestamp": int(BEGAN.timestamp()), "env": {"TERM": "xterm-256color"},
    }  # fmt: skip
    assert lines[1:] == [
        [0.5, "o", "$ "],
        [1.25, "o", "ls\r\n"],
        [2.0, "r", "100x50"],
        [3.0, "m", "Your grant ends in 5 minutes."],
        [3.5, "o", "gone\r\n"],
    ]


def test_the_terminal_is_taken_before_other_channels() -> None:
    command = fact("channel", channel=4, type="exec", command="true")
    assert cast(command, SHELL, octets("out", 4, b"no", 1), octets("out", 0, b"yes", 1))[1:] == [[1.0, "o", "yes"]]


def test_a_channel_can_be_chosen() -> None:
    command = fact("channel", channel=4, type="exec", command="true")
    assert cast(command, SHELL, octets("out", 4, b"a", 1), octets("out", 0, b"b", 1), channel=4)[1:] == [
        [1.0, "o", "a"]
    ]


def test_a_command_without_a_terminal_gets_carriage_returns() -> None:
    lines = cast(fact("channel", channel=0, type="exec", command="uptime"), octets("out", 0, b"a\nb\n", 1))
    assert lines[0] == {
        "version": 2,
        "width": 80,
        "height": 24,
        "timestamp": int(BEGAN.timestamp()),
        "command": "uptime",
    }
    assert lines[1:] == [[1.0, "o", "a\r\nb\r\n"]]


def test_a_character_cut_in_two_is_whole_again() -> None:
    euro = "€".encode()
    assert cast(SHELL, octets("out", 0, euro[:1], 1), octets("out", 0, euro[1:], 2))[1:] == [[2.0, "o", "€"]]


def test_a_window_of_no_size_gets_the_usual_one() -> None:
    lines = cast(fact("channel", channel=0, type="exec", command="x", term="dumb", columns=0, rows=0))
    assert (lines[0]["width"], lines[0]["height"]) == (80, 24)


def test_time_never_runs_backwards_past_the_start() -> None:
    assert cast(SHELL, octets("out", 0, b"x", -5))[1] == [0.0, "o", "x"]


def test_nothing_recorded_gives_nothing() -> None:
    assert cast() == []
    assert cast(octets("out", 0, b"x", 1)) == []
    assert cast(SHELL, channel=9) == []


@given(
    st.lists(
        st.tuples(st.sampled_from(["channel", "out", "err", "resize", "note", "exit", "gap"]), st.binary(max_size=40))
    )
)
def test_any_bytes_give_readable_lines(records: list[tuple[str, bytes]]) -> None:
    for line in to_asciicast([SHELL, *((kind, BEGAN, data) for kind, data in records)]):
        assert "\n" not in line
        json.loads(line)


@given(st.text(), st.data())
def test_output_survives_any_cutting(text: str, data: st.DataObject) -> None:
    encoded = text.encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(encoded)), max_size=5)))
    pieces = [encoded[a:b] for a, b in zip([0, *cuts], [*cuts, len(encoded)], strict=True)]
    lines = cast(SHELL, *(octets("out", 0, piece, 1) for piece in pieces))
    assert "".join(event[2] for event in lines[1:]) == text


def test_version_3_has_intervals_input_files_and_the_exit() -> None:
    records = [
        SHELL,
        octets("out", 0, b"$ ", 0.5),
        octets("out", 0, b"ls\r\n", 1.25),
        fact("input", 1.25, channel=0, text="ls"),
        fact("resize", 2.0, channel=0, columns=100, rows=50),
        fact("file", 2.5, channel=0, op="transfer", path="/a\udcff"),
        fact("exit", 4.0, channel=0, status=3),
    ]
    lines = [json.loads(line) for line in to_asciicast(records, version=3)]
    assert lines == [
        {
            "version": 3,
            "term": {"cols": 132, "rows": 40, "type": "xterm-256color"},
            "timestamp": int(BEGAN.timestamp()),
        },
        [0.5, "o", "$ "],
        [0.75, "o", "ls\r\n"],
        [0.0, "i", "ls\r"],
        [0.75, "r", "100x50"],
        [0.5, "m", "transfer /a\udcff"],
        [1.5, "x", "3"],
    ]


def test_it_streams() -> None:
    taken = 0

    def endless() -> Iterator[Record]:
        nonlocal taken
        yield fact("channel", channel=0, type="exec", command="tail -f x")
        while True:
            taken += 1
            yield octets("out", 0, b"x" * 100, 1.0)

    lines = to_asciicast(endless())
    for _ in range(10):
        next(lines)
    assert taken <= LOOK_AHEAD + 10


def test_a_terminal_that_begins_later_is_found_within_bounds() -> None:
    command = fact("channel", channel=0, type="exec", command="true")
    shell = fact("channel", channel=1, type="shell", command="", term="xterm")
    assert cast(command, octets("out", 0, b"x", 0.1), shell)[0]["env"] == {"TERM": "xterm"}
    filler = [fact("typed", channel=0, octets=1)] * LOOK_AHEAD
    assert cast(command, *filler, shell)[0]["command"] == "true"
    assert cast(*filler, shell)[0]["env"] == {"TERM": "xterm"}
