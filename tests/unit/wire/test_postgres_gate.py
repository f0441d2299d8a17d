"""The gate: what passes, what stands in, what a cut keeps back; the same for every way of cutting the stream."""

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.wire import postgres_portals
from gateway.wire.buffer import ProtocolViolation
from gateway.wire.postgres_gate import MOST_PENDING, Allowance, ClientGate, PortalRule, Refusals, TargetGate
from gateway.wire.postgres_messages import HEADER, Report, error_response, message, parse_fields

NONCE = "abcdefghij0123456789"
NO = Report("ERROR", "42501", "no")
NO_CALLS = Report("ERROR", "42501", "no calls")
ANY = Allowance()
CUT = Report("ERROR", "53400", "cut")
SYNC, READY, IN_BLOCK = message(b"S"), message(b"Z", b"I"), message(b"Z", b"T")
ROW, DONE, NOTICE = message(b"D", b"x" * 10), message(b"C", b"SELECT 1\0"), message(b"N", b"\0")


def query(sql: bytes) -> bytes:
    return message(b"Q", sql + b"\0")


def parse(sql: bytes, name: bytes = b"") -> bytes:
    return message(b"P", name + b"\0" + sql + b"\0\0\1\0\0\0\x17")


def bind(portal: bytes = b"", source: bytes = b"", value: bytes = b"") -> bytes:
    return message(b"B", portal + b"\0" + source + bytes(7) + value)


def execute(portal: bytes = b"", most: int = 0) -> bytes:
    return message(b"E", portal + b"\0" + most.to_bytes(4, "big"))


def messages(stream: bytes) -> list[tuple[str, bytes]]:
    """Asserts that the stream is made of whole messages."""
    found = []
    while stream:
        kind, length = HEADER.unpack_from(stream)
        assert len(stream) >= length + 1
        found.append((chr(kind), stream[5 : length + 1]))
        stream = stream[length + 1 :]
    return found


def kinds(stream: bytes) -> str:
    return "".join(kind for kind, _ in messages(stream))


def client_gate(refusals: Refusals | None = None) -> ClientGate:
    return ClientGate(lambda sql: NO if b"bad" in sql else None, NO_CALLS, refusals or Refusals(NONCE))


def target_gate(statement: Allowance = ANY, session: Allowance = ANY, refusals: Refusals | None = None) -> TargetGate:
    return TargetGate(refusals or Refusals(NONCE), statement, session, lambda _: CUT)


def fed(gate: TargetGate, *chunks: bytes) -> tuple[bytes, bytes]:
    told, shown = zip(*(gate.feed(chunk) for chunk in chunks), strict=True)
    return b"".join(told), b"".join(shown)


def pieces(stream: bytes, cuts: Sequence[int]) -> list[bytes]:
    places = sorted({min(cut, len(stream)) for cut in cuts} | {0, len(stream)})
    return [stream[a:b] for a, b in pairwise(places)]


def syntax_error(text: bytes) -> bytes:
    return error_response(Report("ERROR", "42601", f'syntax error at or near "{text.decode()}"'))


# ------------------------------------------------------------ from the client


def test_what_is_refused_never_goes_on_and_all_else_is_untouched() -> None:
    gate = client_gate()
    stream = query(b"good") + parse(b"good", b"a") + message(b"B", b"bad" * 9) + message(b"d", b"bad") + SYNC
    assert gate.feed(stream) == stream
    out = gate.feed(query(b"bad 1") + parse(b"bad 2", b"name") + SYNC + message(b"F", b"bad"))
    (first, second, third, fourth) = messages(out)
    assert first == ("Q", b"gw_refused_%b_1\0" % NONCE.encode())
    assert second == ("P", b"name\0gw_refused_%b_2\0\0\0" % NONCE.encode())
    assert third == ("S", b"")
    assert fourth == ("Q", b"gw_refused_%b_3\0" % NONCE.encode())
    assert b"bad" not in out


_ASKS = st.lists(
    st.sampled_from(
        [query(b"good"), query(b"bad"), parse(b"bad", b"n"), parse(b"good"), message(b"F", b"y" * 30), SYNC, message(b"d", b"z" * 50), query(b"")]
    ),
    max_size=8,
)  # fmt: skip
_CUTS = st.lists(st.integers(0, 400), max_size=30)


@settings(max_examples=300)
@given(_ASKS, _CUTS)
def test_chunks_change_nothing_for_the_server(asks: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(asks)
    gate = client_gate()
    parts = [gate.feed(piece) for piece in pieces(stream, cuts)]
    assert b"".join(parts) == client_gate().feed(stream)
    assert b"bad" not in b"".join(parts)
    expected = ["Q" if kind == "F" else kind for kind, _ in messages(stream)]
    assert [kind for kind, _ in messages(b"".join(parts))] == expected


def test_a_long_statement_in_single_bytes_is_put_together_once() -> None:
    gate, stream = client_gate(), query(b"bad" + b"x" * 300_000)
    assert b"".join(gate.feed(stream[i : i + 1]) for i in range(len(stream)))[5:].startswith(b"gw_refused_")


# ------------------------------------------------------------ from the server


@settings(max_examples=200)
@given(st.lists(st.sampled_from([ROW, DONE, READY, IN_BLOCK, NOTICE, syntax_error(b"x")]), max_size=12), _CUTS)
def test_without_a_reason_everything_is_shown_as_it_came(answers: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(answers)
    told, shown = fed(target_gate(), *(pieces(stream, cuts) or [b""]))
    assert told == shown == stream


def test_what_is_untouched_is_not_even_copied() -> None:
    told, shown = target_gate(Allowance(rows=10)).feed(ROW + DONE + READY)
    assert told is shown


@settings(max_examples=200)
@given(st.lists(st.booleans(), min_size=1, max_size=6), _CUTS)
def test_the_servers_word_for_a_stand_in_is_exchanged(bad: list[bool], cuts: list[int]) -> None:
    refusals = Refusals(NONCE)
    client, target = client_gate(refusals), target_gate(refusals=refusals)
    sent = client.feed(b"".join(query(b"bad" if each else b"good") for each in bad))
    answers = b"".join(
        (syntax_error(body[:-1]) if body.startswith(b"gw_") else ROW + DONE) + READY for _, body in messages(sent)
    )
    told, shown = fed(target, *pieces(answers, cuts))
    assert told == shown
    assert b"gw_refused" not in shown
    errors = [parse_fields(body) for kind, body in messages(shown) if kind == "E"]
    assert [each["C"] for each in errors] == ["42501"] * sum(bad)
    assert kinds(shown) == "".join("EZ" if each else "DCZ" for each in bad)


def test_errors_of_others_and_guesses_stay_what_they_are() -> None:
    refusals = Refusals(NONCE)
    refusals.stand_in(NO)
    gate = target_gate(refusals=refusals)
    for text in (b"gw_refused_guess_1", b"gw_refused_%b_" % NONCE.encode(), b"gw_refused_%b_99" % NONCE.encode()):
        stream = syntax_error(text) + READY
        assert gate.feed(stream) == (stream, stream)


def test_refusals_that_the_server_skips_are_forgotten() -> None:
    refusals = Refusals(NONCE)
    words = [refusals.stand_in(NO) for _ in range(MOST_PENDING + 50)]
    assert len(refusals._reports) == MOST_PENDING
    assert refusals.known({"M": words[-1].decode()}) is NO
    assert refusals._reports == {}


ANSWER = ROW * 8 + DONE + READY


@settings(max_examples=300)
@given(st.integers(0, 10), _CUTS)
def test_a_cut_shows_what_fits_then_says_so_then_nothing_up_to_ready(room: int, cuts: list[int]) -> None:
    gate = target_gate(Allowance(rows=room))
    told, shown = fed(gate, *pieces(ANSWER + ANSWER, cuts))
    assert told == ANSWER + ANSWER, "the account hears all of it"
    one = "D" * 8 + "CZ" if room >= 8 else "D" * room + "EZ"
    assert kinds(shown) == one * 2, "and the next statement has all of its budget again"


@settings(max_examples=200)
@given(st.integers(0, 100), _CUTS)
def test_bytes_are_a_budget_too(room: int, cuts: list[int]) -> None:
    _, shown = fed(target_gate(Allowance(bytes=room)), *pieces(ANSWER, cuts))
    rows = room // 10
    assert kinds(shown) == ("D" * 8 + "CZ" if rows >= 8 else "D" * rows + "EZ")


def test_the_servers_own_word_for_the_cancel_is_kept_back_and_told_as_ours() -> None:
    gate = target_gate(Allowance(rows=1))
    cancelled = error_response(Report("ERROR", "57014", "canceling statement due to user request"))
    told, shown = gate.feed(ROW * 3 + NOTICE + cancelled + READY)
    assert kinds(shown) == "DEZ", "nor does a notice tell what a row may not"
    assert kinds(told) == "DDDNEZ"
    assert [parse_fields(b)["C"] for k, b in messages(told) if k == "E"] == ["53400"]
    assert gate.over_statement == "rows"


def test_copy_out_counts_as_rows() -> None:
    _, shown = target_gate(Allowance(rows=2)).feed(
        message(b"H", b"\0\0\0") + message(b"d", b"1\n") * 5 + message(b"c") + DONE + READY
    )
    assert kinds(shown) == "HddEZ"


@pytest.mark.parametrize("other", [NOTICE, message(b"V", b"\0\0\0\1x")])
def test_what_else_may_hold_data_counts_as_rows(other: bytes) -> None:
    gate = target_gate(Allowance(rows=2))
    told, shown = gate.feed(other * 5 + DONE + READY)
    assert kinds(shown) == kinds(other * 2) + "EZ"
    assert (told, gate.over_statement) == (other * 5 + DONE + READY, "rows")


def test_an_error_that_quotes_more_than_may_be_taken_is_told_as_a_cut() -> None:
    wrong = error_response(Report("ERROR", "22P02", "x" * 100))
    told, shown = target_gate(Allowance(bytes=50)).feed(wrong + READY)
    assert told == shown == error_response(CUT) + READY
    told, shown = target_gate(Allowance(bytes=500)).feed(wrong + READY)
    assert told == shown == wrong + READY
    gate = target_gate(session=Allowance(bytes=50))
    told, shown = gate.feed(wrong + READY)
    assert (told, kinds(shown), gate.over_session) == (wrong + READY, "", "bytes")


@pytest.mark.parametrize(
    ("room", "more"), [(Allowance(rows=3), b"A"), (Allowance(bytes=3), b"A"), (Allowance(bytes=3), b"S")]
)
def test_more_beside_statements_than_one_may_take_ends_the_session(room: Allowance, more: bytes) -> None:
    one = message(more, b"x")
    for gate in (target_gate(room), target_gate(session=room)):
        _, shown = gate.feed(one * 3)
        assert (kinds(shown), gate.over_session) == (kinds(one * 3), "")
        _, shown = gate.feed(one * 2)
        assert (shown, bool(gate.over_session)) == (b"", True)
    gate = target_gate(room)
    for _ in range(5):
        gate.feed(one * 3 + READY)
    assert not gate.over_session, "they count from one statement to the next"


def test_a_portal_that_is_fetched_in_parts_is_one_statement() -> None:
    gate = target_gate(Allowance(rows=5))
    part = ROW * 3 + message(b"s") + IN_BLOCK
    _, first = gate.feed(part)
    _, second = gate.feed(part)
    assert (kinds(first), kinds(second)) == ("DDDsZ", "DDEZ")
    _, after = gate.feed(DONE + READY + ROW * 5 + DONE + READY)
    assert kinds(after) == "CZDDDDDCZ"


def test_a_session_is_counted_over_all_of_its_statements() -> None:
    gate = target_gate(session=Allowance(rows=10))
    _, shown = gate.feed(ANSWER)
    assert (kinds(shown), gate.over_session) == ("D" * 8 + "CZ", "")
    _, shown = gate.feed(ANSWER)
    assert (kinds(shown), gate.over_session) == ("DD", "rows"), "the edge's last words come here"


@given(st.integers(0, len(ROW)))
def test_a_cut_from_outside_waits_for_the_end_of_a_message(at: int) -> None:
    gate = target_gate()
    _, before = gate.feed(ROW + ROW[:at])
    words = gate.cut("time")
    assert gate.cut("time") == b"", "once"
    _, after = gate.feed(ROW[at:] + ROW + DONE + READY)
    assert kinds(before + words + after) in ("DEZ", "DDEZ")
    assert not gate.is_cutting


@settings(max_examples=300)
@given(st.binary(max_size=300), _CUTS)
def test_any_bytes_from_a_target_are_told_or_end_it(stream: bytes, cuts: list[int]) -> None:
    gate = target_gate(Allowance(rows=1))
    told: bytes = b""
    try:
        for piece in pieces(stream, cuts):
            told += gate.feed(piece)[0]
    except ProtocolViolation:
        return
    assert stream.startswith(told)
    assert len(stream) - len(told) <= 1 << 20


@pytest.mark.parametrize("kind", [b"E", b"Z"])
def test_a_message_that_is_read_here_may_not_be_endless(kind: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        target_gate().feed(HEADER.pack(kind[0], 1 << 30))


# ------------------------------------------------------------ portals, where there are masks


def portal_gate() -> ClientGate:
    refusals = Refusals(NONCE)
    rule = PortalRule(postgres_portals.Portals(), lambda sql: sql.startswith(b"FETCH"), NO)
    return ClientGate(lambda sql: NO if b"bad" in sql else None, NO_CALLS, refusals, rule)


FETCH, SELECT = parse(b"FETCH 9 FROM c"), parse(b"SELECT 1")
LONG = b"n" * 63
RUNS = [
    # what is sent, and the kinds that arrive: P in place of B or E is a refusal
    (FETCH + bind() + execute() + SYNC, "PBES"), (FETCH + bind() + execute(b"", 1) + SYNC, "PBPS"), (FETCH + bind(b"p") + SYNC, "PPS"),
    (FETCH + SYNC + bind(b"p") + SYNC, "PSPS"), (FETCH + bind() + SYNC + execute(b"", 5) + SYNC, "PBSPS"), (SELECT + bind(b"p") + execute(b"p", 5) + SYNC, "PBES"),
    (FETCH + bind() + execute() + SYNC + SELECT + bind(b"p") + execute(b"p", 5) + SYNC, "PBESPBES"), (SELECT + bind() + execute(b"", 5) + execute(b"", 5), "PBEE"),
    # the SELECT may have been skipped by the server, so what was unnamed before may be there still
    (FETCH + SYNC + SELECT + SYNC + bind(b"p") + SYNC, "PSPSPS"), (FETCH + bind() + SYNC + SELECT + bind() + SYNC + execute(b"", 1), "PBSPBSP"),
    (parse(b"FETCH 1 FROM c", b"s") + bind(b"p", b"s"), "PP"), (parse(b"FETCH 1 FROM c", b"s") + parse(b"SELECT 1", b"s") + bind(b"p", b"s"), "PPP"),
    (parse(b"FETCH 1 FROM c", b"s") + bind(b"p", b"t") + execute(b"p", 1), "PBE"), (parse(b"FETCH 1 FROM c", LONG + b"a") + bind(b"p", LONG + b"b"), "PP"),
    (parse(b"bad", b"s") + bind(b"p", b"s"), "PB"), (FETCH + bind(b"p", value=b"\0" * 500) + SYNC, "PPS"), (FETCH + bind(value=b"\0" * 500) + SYNC, "PBS"),
]  # fmt: skip


@settings(max_examples=30)
@given(st.lists(st.integers(0, 700), max_size=20))
def test_indirect_statements_run_whole_and_in_the_unnamed_portal(cuts: list[int]) -> None:
    for sent, kinds in RUNS:
        gate = portal_gate()
        arrived = b"".join(gate.feed(piece) for piece in pieces(sent, cuts))
        assert "".join(kind for kind, _ in messages(arrived)) == kinds, sent
        if arrived.count(NONCE.encode()) == 0:
            assert arrived == sent
    gate = portal_gate()
    assert b"".join(gate.feed(bytes([byte])) for byte in RUNS[-2][0]).count(NONCE.encode()) == 1


def test_too_many_indirect_statements_make_all_named_ones_suspect(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres_portals, "MOST_NAMES", 2)
    gate = portal_gate()
    assert gate.feed(bind(b"p", b"t")) == bind(b"p", b"t")
    for name in (b"1", b"2", b"3"):
        gate.feed(parse(b"FETCH 1 FROM c", name))
    assert gate.feed(bind(b"p", b"t"))[:1] == b"P"
    assert gate.feed(bind(b"", b"t")) == bind(b"", b"t")
