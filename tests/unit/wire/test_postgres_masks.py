"""Masked answers: no clear value of a masked column, however the stream is cut up, and a stream that stays whole."""

import struct
from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.wire import postgres_masks
from gateway.wire.buffer import ProtocolViolation
from gateway.wire.postgres_masks import Asked, AskToDescribe, CannotMask, Conceal, MaskedAnswers, concealing
from gateway.wire.postgres_messages import HEADER, message

KEY = b"k" * 32
TEXT, BPCHAR, INT, VARCHAR = 25, 1042, 23, 1043
MASKED = 7  # a table with masks: attribute 1 last4, 2 hash, 3 full, 4 null, others none
SECRET = b"TOPSECRET"
SYNC, READY, DONE = message(b"S"), message(b"Z", b"I"), message(b"C", b"SELECT 1\0")
BOUND, PARSED, NO_DATA, NOTICE = message(b"2"), message(b"1"), message(b"n"), message(b"N", b"\0")
ERROR = message(b"E", b"SERROR\0C22000\0Mno\0\0")
_ALL = ("last4", "hash", "full", "null")


def origin(table: int, attribute: int, type_oid: int) -> Conceal | None:
    if table == 666:
        raise CannotMask("unknown table")
    return concealing(_ALL[attribute - 1], type_oid, KEY) if table == MASKED and 1 <= attribute <= 4 else None


def is_free(schema: str, table: str) -> bool:
    return (schema, table) == ("public", "visits")


def description(*columns: tuple[int, int, int]) -> bytes:
    fields = b"".join(b"c\0" + struct.pack(">IhIhih", t, a, o, -1, -1, 0) for t, a, o in columns)
    return message(b"T", struct.pack(">h", len(columns)) + fields)


def row(*values: bytes | None) -> bytes:
    told = b"".join(b"\xff\xff\xff\xff" if v is None else struct.pack(">i", len(v)) + v for v in values)
    return message(b"D", struct.pack(">h", len(values)) + told)


def values_of(body: bytes) -> list[bytes | None]:
    (count,) = struct.unpack_from(">h", body)
    pos, found = 2, []
    for _ in range(count):
        (length,) = struct.unpack_from(">i", body, pos)
        found.append(None if length < 0 else body[pos + 4 : pos + 4 + length])
        pos += 4 + max(length, 0)
    assert pos == len(body)
    return found


def messages(stream: bytes) -> list[tuple[str, bytes]]:
    found = []
    while stream:
        kind, length = HEADER.unpack_from(stream)
        assert len(stream) >= length + 1
        found.append((chr(kind), stream[5 : length + 1]))
        stream = stream[length + 1 :]
    return found


def kinds(stream: bytes) -> str:
    return "".join(kind for kind, _ in messages(stream))


def pieces(stream: bytes, cuts: Sequence[int]) -> list[bytes]:
    places = sorted({min(cut, len(stream)) for cut in cuts} | {0, len(stream)})
    return [stream[a:b] for a, b in pairwise(places)]


def simple() -> MaskedAnswers:
    asked = Asked()
    AskToDescribe(asked).feed(message(b"Q", b"select\0"))
    return MaskedAnswers(asked, origin, is_free)


# ------------------------------------------------------------ values


@pytest.mark.parametrize(
    ("mask", "type_oid", "value", "shown"),
    [
        ("full", TEXT, b"abc", b"****"), ("full", TEXT, b"", b"****"), ("full", INT, b"12", None), ("null", TEXT, b"abc", None),
        ("last4", TEXT, b"12345678", b"****5678"), ("last4", TEXT, b"1234567", b"****"), ("last4", INT, b"12345678", None),
        ("last4", VARCHAR, "áéíóúñüö".encode(), "****úñüö".encode()), ("last4", TEXT, b"\xff" * 20, b"****"),
        ("last4", BPCHAR, b"12345678    ", b"****5678"), ("last4", BPCHAR, b"123         ", b"****"), ("hash", 2950, b"x" * 16, None),
    ],
)  # fmt: skip
def test_each_mask(mask: str, type_oid: int, value: bytes, shown: bytes | None) -> None:
    assert concealing(mask, type_oid, KEY)(value) == shown


def test_a_hash_is_stable_and_keyed_and_knows_no_padding() -> None:
    hashed = concealing("hash", TEXT, KEY)(b"4000")
    assert hashed == concealing("hash", VARCHAR, KEY)(b"4000") == concealing("hash", BPCHAR, KEY)(b"4000   ")
    assert hashed is not None
    assert len(hashed) == 32
    assert hashed != concealing("hash", TEXT, b"another key")(b"4000") != concealing("hash", TEXT, KEY)(b"4001")
    with pytest.raises(ValueError, match="other"):
        concealing("other", TEXT, KEY)


# ------------------------------------------------------------ simple queries

_COLUMN = st.tuples(st.sampled_from([0, MASKED, 8]), st.integers(1, 6), st.sampled_from([TEXT, BPCHAR, INT, VARCHAR]))
_VALUE = st.one_of(st.none(), st.just(b""), st.binary(max_size=40).map(lambda tail: SECRET + tail))
_CUTS = st.lists(st.integers(0, 3000), max_size=40)


@st.composite
def results(draw: st.DrawFn) -> tuple[bytes, list[list[bytes | None]], list[tuple[int, int, int]]]:
    columns = draw(st.lists(_COLUMN, max_size=5))
    rows = draw(st.lists(st.lists(_VALUE, min_size=len(columns), max_size=len(columns)), max_size=6))
    return description(*columns) + b"".join(row(*each) for each in rows) + DONE, rows, columns


@settings(max_examples=400)
@given(st.lists(results(), min_size=1, max_size=3), _CUTS)
def test_however_it_is_cut_masked_values_stay_hidden_and_others_stay(
    many: list[tuple[bytes, list[list[bytes | None]], list[tuple[int, int, int]]]], cuts: list[int]
) -> None:
    stream = b"".join(each for each, _, _ in many) + READY
    answers = simple()
    shown = b"".join(answers.feed(piece) for piece in pieces(stream, cuts))
    assert not answers.trouble
    assert shown == simple().feed(stream)
    assert kinds(shown) == kinds(stream)
    told = [values_of(body) for kind, body in messages(shown) if kind == "D"]
    expected = []
    for _, rows, columns in many:
        for values in rows:
            conceals = [origin(*each) for each in columns]
            expected.append([v if c is None or v is None else c(v) for c, v in zip(conceals, values, strict=True)])
            for conceal, value in zip(conceals, expected[-1], strict=True):
                assert conceal is None or SECRET not in (value or b"")
    assert told == expected


@given(
    st.lists(st.sampled_from([DONE, NOTICE, ERROR, READY, message(b"d", b"x" * 30), message(b"H", b"\0" * 3)])), _CUTS
)
def test_what_is_no_result_passes_as_it_came(answers: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(answers)
    assert b"".join(simple().feed(piece) for piece in [stream]) == stream
    gate = simple()
    assert b"".join(gate.feed(piece) for piece in pieces(stream, cuts)) == stream


def test_what_holds_no_masks_is_not_even_copied_or_held() -> None:
    gate = simple()
    start = description((8, 1, TEXT)) + DONE
    assert gate.feed(start)
    chunk = row(b"x" * 1000) * 3
    assert gate.feed(chunk) is chunk
    assert gate.feed(chunk[:100]) == chunk[:100]
    assert gate.feed(chunk[100:]) == chunk[100:]


@pytest.mark.parametrize(
    "stream",
    [row(SECRET), description((8, 1, TEXT)) + DONE + READY + row(SECRET), NO_DATA + row(SECRET), description((666, 1, TEXT)) + row(SECRET)],
)  # fmt: skip
def test_a_row_that_is_not_described_never_gets_through(stream: bytes) -> None:
    for size in (1, 3, len(stream)):
        gate = simple()
        shown = b"".join(gate.feed(stream[i : i + size]) for i in range(0, len(stream), size))
        assert SECRET not in shown
        assert gate.trouble
        messages(shown)
        assert gate.feed(DONE) == b"", "nothing more comes out"


@pytest.mark.parametrize(
    "stream",
    [
        description((MASKED, 1, TEXT)) + row(SECRET, SECRET), description((MASKED, 1, TEXT)) + message(b"D", b"\0\1\0\0\0\xff" + SECRET),
        description((MASKED, 1, TEXT)) + message(b"D", b"\0\1\0\0"), description((MASKED, 1, TEXT)) + message(b"D", b"\0"),
        description((MASKED, 1, TEXT)) + row(SECRET)[:-3] + b"", message(b"T", b"\0\2c\0"), message(b"T", b"\0\0x"), message(b"T", b""),
        HEADER.pack(ord("T"), 1 << 30), HEADER.pack(ord("n"), 9) + SECRET, HEADER.pack(ord("C"), 3),
        description((MASKED, 1, TEXT)) + message(b"D", b"\0\1\0\0\0\2" + SECRET),
    ],
)  # fmt: skip
def test_what_makes_no_sense_ends_the_session_and_shows_nothing(stream: bytes) -> None:
    gate = simple()
    try:
        assert SECRET not in gate.feed(stream)
    except ProtocolViolation:
        return
    assert SECRET not in gate.feed(b"")
    assert stream.endswith(SECRET[:-3]), "only a row that is not whole is waited for"


def test_a_masked_row_is_held_up_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres_masks, "LONGEST_ROW", 100)
    gate = simple()
    gate.feed(description((MASKED, 3, TEXT), (8, 1, TEXT)))
    assert values_of(gate.feed(row(b"x" * 40, b"y"))[5:]) == [b"****", b"y"]
    assert gate.feed(HEADER.pack(ord("D"), 101)) == b""
    assert "longer" in gate.trouble
    plain = simple()
    plain.feed(description((8, 1, TEXT)))
    assert len(plain.feed(row(b"x" * 500))) > 500


# ------------------------------------------------------------ the extended protocol


def bind(portal: bytes = b"") -> bytes:
    return message(b"B", portal + b"\0\0\0\0\0\0\0\0")


def execute(portal: bytes = b"", most: int = 0) -> bytes:
    return message(b"E", portal + b"\0" + struct.pack(">i", most))


DESCRIBE = message(b"D", b"P\0")
_ASKS = st.lists(
    st.sampled_from([bind(), execute(), execute(b"portal", 5), DESCRIBE, message(b"D", b"Sname\0"), SYNC, message(b"d", b"E" * 40), message(b"P", b"E\0E\0\0\0")]),
    max_size=10,
)  # fmt: skip


@settings(max_examples=300)
@given(_ASKS, _CUTS)
def test_each_execute_is_preceded_by_a_question_about_its_portal(asks: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(asks)
    gate = AskToDescribe(Asked())
    sent = b"".join(gate.feed(piece) for piece in pieces(stream, cuts))
    assert sent == AskToDescribe(Asked()).feed(stream)
    expected = b""
    for each in asks:
        if each[:1] == b"E":
            expected += message(b"D", b"P" + each[5 : each.index(0, 5) + 1])
        expected += each
    assert sent == expected


def server(stream: bytes, columns: tuple[tuple[int, int, int], ...], fails_at: int = -1) -> bytes:
    """What a server answers to what it is sent: each Execute gives a row with secrets, the one of a number an error."""
    out, skips, executed = b"", False, 0
    for kind, body in messages(stream):
        if kind == "S":
            out, skips = out + READY, False
        if skips:
            continue
        if kind == "P":
            out += PARSED
        elif kind == "B":
            out += BOUND
        elif kind == "D":
            out += (message(b"t", b"\0\0") if body[:1] == b"S" else b"") + (
                description(*columns) if columns else NO_DATA
            )
        elif kind == "E":
            if executed == fails_at:
                out, skips = out + ERROR, True
            else:
                out += row(*[SECRET] * len(columns)) + DONE if columns else DONE
            executed += 1
        elif kind == "Q":
            out += (description(*columns) + row(*[SECRET] * len(columns)) if columns else b"") + DONE + READY
    return out


_COLUMNS = st.sampled_from([(), ((MASKED, 1, TEXT), (MASKED, 3, VARCHAR)), ((MASKED, 4, INT),)])
_ROUNDS = st.lists(
    st.sampled_from(
        [bind() + execute() + SYNC, bind() + DESCRIBE + execute() + SYNC, message(b"P", b"\0x\0\0\0") + message(b"D", b"S\0") + SYNC,
         bind() + execute() + bind() + DESCRIBE + execute(), SYNC, bind() + execute() + execute() + SYNC, SYNC + message(b"Q", b"x\0")]
    ),
    min_size=1, max_size=6,
)  # fmt: skip


@settings(max_examples=400)
@given(_ROUNDS, _COLUMNS, st.integers(-1, 4), _CUTS)
def test_the_client_gets_what_it_asked_for_and_no_secret(
    rounds: list[bytes], columns: tuple[tuple[int, int, int], ...], fails_at: int, cuts: list[int]
) -> None:
    stream = b"".join(rounds) + SYNC
    asked = Asked()
    sent = AskToDescribe(asked).feed(stream)
    answers = MaskedAnswers(asked, origin, is_free)
    shown = b"".join(answers.feed(piece) for piece in pieces(server(sent, columns, fails_at), cuts))
    assert not answers.trouble
    assert SECRET not in shown
    assert kinds(shown) == kinds(server(stream, columns, fails_at))


@pytest.mark.parametrize("code", [b"23502", b"44000"])
def test_a_detail_that_may_quote_a_row_that_a_trigger_has_changed_is_left_out(code: bytes) -> None:
    error = b"SERROR\0C" + code + b"\0Mno\0DFailing row contains (" + SECRET + b")."
    asked = Asked()
    shown = MaskedAnswers(asked, origin, is_free).feed(message(b"E", error + b"\0WPL/pgSQL function f()\0\0"))
    assert b"WPL/pgSQL" in shown
    assert SECRET not in shown
    own = message(b"E", error + b"\0spublic\0tvisits\0\0")
    assert MaskedAnswers(asked, origin, is_free).feed(own) == own


def test_an_error_before_the_sync_is_sent_does_not_put_it_out_of_step() -> None:
    asked = Asked()
    client, answers = AskToDescribe(asked), MaskedAnswers(asked, origin, is_free)
    client.feed(bind() + execute())
    assert kinds(answers.feed(ERROR)) == "E"
    client.feed(bind() + execute() + SYNC)  # skipped by the server, up to the Sync
    assert kinds(answers.feed(READY)) == "Z"
    client.feed(bind() + execute() + SYNC)
    assert kinds(answers.feed(BOUND + description((MASKED, 1, TEXT)) + row(SECRET) + DONE + READY)) == "2DCZ"


def test_copy_from_stdin_is_for_simple_queries() -> None:
    asked = Asked()
    AskToDescribe(asked).feed(bind() + execute() + SYNC)
    answers = MaskedAnswers(asked, origin, is_free)
    answers.feed(BOUND + NO_DATA + message(b"G", b"\0\0\0"))
    assert "COPY" in answers.trouble
    gate = simple()
    assert kinds(gate.feed(message(b"G", b"\0\0\0"))) == "G"


def failure(**fields: str) -> bytes:
    return message(b"E", b"".join(f"{code}{text}\0".encode() for code, text in fields.items()) + b"\0")


@given(_CUTS)
def test_a_broken_constraint_of_another_table_is_told_without_its_row(cuts: list[int]) -> None:
    stated = {"S": "ERROR", "C": "23502", "M": "null value", "D": "Failing row contains (1)", "s": "public"}
    for told, is_shown in (
        ({**stated, "t": "visits"}, True),
        ({**stated, "C": "22012", "W": "a function", "t": "customers"}, True),
        ({"S": "ERROR", "C": "23505", "D": "Key (1)"}, True),
        ({**stated, "t": "customers"}, False),
        ({**stated, "t": "visits", "s": "other"}, False),
        ({**stated, "t": "visits", "W": "SQL statement"}, False),
    ):
        gate = simple()
        shown = b"".join(gate.feed(piece) for piece in pieces(failure(**told) + READY, cuts))
        expected = told if is_shown else {code: text for code, text in told.items() if code != "D"}
        assert shown == failure(**expected) + READY


@settings(max_examples=300)
@given(st.binary(max_size=300), _CUTS)
def test_garbage_never_brings_out_a_row(garbage: bytes, cuts: list[int]) -> None:
    gate = simple()
    gate.feed(description((MASKED, 3, TEXT)))
    try:
        shown = b"".join(gate.feed(piece) for piece in pieces(row(SECRET) + garbage, cuts))
    except ProtocolViolation:
        return
    assert SECRET not in shown
