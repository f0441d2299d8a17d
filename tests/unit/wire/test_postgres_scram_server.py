"""SCRAM as the server: the RFC's own example, both of our sides against each other, and what no client may say."""

from base64 import b64decode, b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.wire import postgres_messages as pg
from gateway.wire.buffer import ProtocolViolation
from gateway.wire.postgres_machine import ClientGreeting, SaslInitial, SaslResponse
from gateway.wire.postgres_scram import MECHANISM, ScramClient
from gateway.wire.postgres_scram_server import PLUS, Misbound, Proof, ScramServer, Verifier

SALT = b64decode("W22ZaJ0SNY7soEsUEjb6gQ==")
PINNED = b"\x07" * 32
FIRST = b"n,,n=,r=abc"


def test_the_example_of_rfc_7677() -> None:
    """Section 3: user `user`, password `pencil`."""
    server = ScramServer(SALT, "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0")
    first = server.first(MECHANISM, b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO")
    assert first == b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
    proof = server.proof(
        b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
    )
    verifier = Verifier.of("pencil", SALT)
    assert isinstance(proof, Proof)
    assert proof.is_of(verifier)
    assert proof.answer(verifier) == b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="
    assert not proof.is_of(Verifier.of("pencils", SALT))


@given(st.binary(min_size=1, max_size=16), st.text("abcXYZ0123_-", min_size=1, max_size=60), st.booleans())
def test_our_two_sides_understand_each_other(salt: bytes, secret: str, right: bool) -> None:
    client, server = ScramClient(secret, "cnonce"), ScramServer(salt, "snonce")
    proof = server.proof(client.final(server.first(MECHANISM, client.first())))
    assert isinstance(proof, Proof)
    verifier = Verifier.parse(Verifier.of(secret if right else secret + "x", salt).text())
    assert proof.is_of(verifier) is right
    if right:
        client.verify(proof.answer(verifier))
    else:
        with pytest.raises(ProtocolViolation):
            client.verify(proof.answer(verifier))


@pytest.mark.parametrize(
    ("ours", "theirs", "seen", "is_met"),
    [
        (PINNED, PINNED, (PLUS, MECHANISM), True),
        (PINNED, b"", (MECHANISM,), True),  # TLS ends in front of a server that has none
        (b"", PINNED, (PLUS, MECHANISM), True),  # no TLS, or a certificate to which nothing can be bound
        (b"of another", PINNED, (PLUS, MECHANISM), False),  # somebody opens TLS on the way
        (PINNED, PINNED, (MECHANISM,), False),  # and takes PLUS out of what the server offers
    ],
)
def test_our_client_is_bound_where_both_can(ours: bytes, theirs: bytes, seen: tuple[str, ...], is_met: bool) -> None:
    client, server = ScramClient("secret", "cnonce", ours), ScramServer(SALT, "snonce", theirs)
    mechanism = client.choose([name.encode() for name in seen])
    assert mechanism == (PLUS if ours and PLUS in seen else MECHANISM)
    found = server.proof(client.final(server.first(mechanism, client.first())))
    assert isinstance(found, Proof) is is_met
    if isinstance(found, Proof):
        client.verify(found.answer(Verifier.of("secret", SALT)))


def bound(flag: bytes, mechanism: str, sent: bytes, binding: bytes = PINNED) -> Proof | Misbound:
    server = ScramServer(SALT, "snonce", binding)
    server.first(mechanism, flag + b",,n=,r=abc")
    return server.proof(b"c=" + b64encode(sent) + b",r=abcsnonce,p=" + b64encode(bytes(32)))


def test_what_is_offered() -> None:
    assert ScramServer(SALT, "s", PINNED).mechanisms() == (PLUS, MECHANISM)
    assert ScramServer(SALT, "s").mechanisms() == (MECHANISM,)


def test_a_client_bound_to_this_certificate_or_to_none() -> None:
    assert isinstance(bound(b"p=tls-server-end-point", PLUS, b"p=tls-server-end-point,," + PINNED), Proof)
    assert isinstance(bound(b"n", MECHANISM, b"n,,"), Proof)
    assert isinstance(bound(b"y", MECHANISM, b"y,,", binding=b""), Proof)


@pytest.mark.parametrize(
    ("flag", "mechanism", "sent"),
    [
        (b"p=tls-server-end-point", PLUS, b"p=tls-server-end-point,," + bytes(32)),  # the certificate of somebody else
        (b"p=tls-server-end-point", PLUS, b"p=tls-server-end-point,,"),
        (b"p=tls-server-end-point", PLUS, b"p=tls-server-end-point,," + PINNED + b"x"),
        (b"p=tls-server-end-point", PLUS, b"n,," + PINNED),
        (b"y", MECHANISM, b"y,,"),  # PLUS was taken out of the offer on its way
        (b"n", MECHANISM, b"y,,"),  # and the client's own word for that exchanged
        (b"n", MECHANISM, b"p=tls-server-end-point,," + PINNED),
        (b"n", MECHANISM, b"n,," + PINNED),
        (b"n", MECHANISM, b""),
    ],
)
def test_somebody_in_between(flag: bytes, mechanism: str, sent: bytes) -> None:
    assert bound(flag, mechanism, sent) == Misbound()


@pytest.mark.parametrize(
    ("flag", "mechanism", "sent", "binding"),
    [
        (b"p=tls-server-end-point", MECHANISM, b"p=tls-server-end-point,," + PINNED, PINNED),
        (b"p=tls-unique", PLUS, b"p=tls-unique,," + PINNED, PINNED),
        (b"n", PLUS, b"n,,", PINNED),
        (b"p=tls-server-end-point", PLUS, b"p=tls-server-end-point,,", b""),
        (b"x", MECHANISM, b"x,,", b""),
        (b"n", "SCRAM-SHA-1", b"n,,", b""),
    ],
)
def test_a_binding_that_makes_no_sense(flag: bytes, mechanism: str, sent: bytes, binding: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        bound(flag, mechanism, sent, binding)


@pytest.mark.parametrize(
    "sent",
    [
        b"", b"n", b"n,,", b"n,,n=", b"n,,n=,r=", b"n,,r=abc,n=", b"n,,m=1,n=,r=abc", b"n,a=root,n=,r=abc",
        b"n,,n=,r=a b", b"n,,n=,r=\xc3\xa9", b"n,,n=,r=" + b"x" * 257, b"n,,n=,r=abc,x=" + b"y" * 2048, b"\xff",
    ],
)  # fmt: skip
def test_first_messages_that_make_no_sense(sent: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        ScramServer(SALT, "snonce").first(MECHANISM, sent)


PROOF = b64encode(bytes(32))


@pytest.mark.parametrize(
    "sent",
    [
        b"", b"c=biws", b"c=biws,r=abcsnonce", b"c=biws,r=abcsnonce,p=", b"c=biws,r=abcsnonce,p=AAAA", b"c=biws,p=" + PROOF,
        b"r=abcsnonce,c=biws,p=" + PROOF, b"c=biws,r=abcother,p=" + PROOF, b"c=biws,r=abc,p=" + PROOF,
        b"c=biws,r=abcsnonc\xc3\xa9,p=" + PROOF, b"c=\xc3\xa9,r=abcsnonce,p=" + PROOF, b"c=biws,r=abcsnonce,p=\xc3\xa9",
        b"c=biws,r=abcsnonce,p=" + PROOF[:-2] + b"B=", b"c=biws====,r=abcsnonce,p=" + PROOF,
        b"c=biws,r=abcsnonce,p=" + b64encode(bytes(33)), b"c=biws,r=abcsnonce,x=" + b"y" * 2048 + b",p=" + PROOF,
        b"c=!,r=abcsnonce,p=" + PROOF, b"c=biws,r=abcsnonce,p=" + PROOF + b",x=1", b"c=biws,r=,p=" + PROOF,
    ],
)  # fmt: skip
def test_final_messages_that_make_no_sense(sent: bytes) -> None:
    server = ScramServer(SALT, "snonce")
    server.first(MECHANISM, FIRST)
    with pytest.raises(ProtocolViolation):
        server.proof(sent)


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_any_bytes_are_a_proof_or_refused(one: bytes, other: bytes) -> None:
    server = ScramServer(SALT, "snonce", PINNED)
    for step in (lambda: server.first(MECHANISM, one), lambda: server.proof(other)):
        try:
            step()
        except ProtocolViolation:
            continue


PIECES = st.one_of(
    st.sampled_from(
        ["n", "y", "p=tls-server-end-point", "n=", "r=abc", "r=abcsnonce", "c=biws", "c=eSws", "m=", "p=", ""]
    ),
    st.builds(lambda key, value: f"{key}={value}", st.sampled_from("acmnprsx"), st.text(max_size=9)),
    st.binary(min_size=31, max_size=33).map(lambda raw: "p=" + b64encode(raw).decode()),
)
MESSAGES = st.lists(PIECES, max_size=7).map(lambda pieces: ",".join(pieces).encode("utf-8", "surrogateescape"))


@given(st.sampled_from([MECHANISM, PLUS]), MESSAGES, MESSAGES, st.sampled_from([b"", PINNED]))
def test_attributes_in_any_order_are_a_proof_or_refused(
    mechanism: str, one: bytes, other: bytes, binding: bytes
) -> None:
    """What passes has the grammar of RFC 5802 section 7, this exchange's nonce, and a binding that holds."""
    server = ScramServer(SALT, "snonce", binding)
    try:
        first = server.first(mechanism, one)
        shown = server.proof(other)
    except ProtocolViolation:
        return
    header, _, bare = one.partition(b",,")
    nonce = bare.split(b",")[1][2:]
    assert first.startswith(b"r=" + nonce + b"snonce,s=")
    assert other.split(b",")[1] == b"r=" + nonce + b"snonce"
    bound_to = header + b",," + (binding if header[:1] == b"p" else b"")
    is_bound = other.startswith(b"c=" + b64encode(bound_to) + b",") and not (header == b"y" and binding)
    assert isinstance(shown, Proof) is is_bound
    if isinstance(shown, Proof):
        assert shown.auth_message == bare + b"," + first + b"," + other.rpartition(b",p=")[0]


@given(st.data())
def test_a_message_changed_on_its_way_proves_nothing(data: st.DataObject) -> None:
    """One byte of any of the three messages that the proof is made of."""
    client, server = ScramClient("secret", "cnonce"), ScramServer(SALT, "snonce")
    which = data.draw(st.integers(0, 2))

    def sent(step: int, message: bytes) -> bytes:
        if step != which:
            return message
        at = data.draw(st.integers(0, len(message) - 1))
        other = data.draw(st.integers(0, 255).filter(lambda byte: byte != message[at]))
        return message[:at] + bytes([other]) + message[at + 1 :]

    try:
        first = sent(1, server.first(MECHANISM, sent(0, client.first())))
        shown = server.proof(sent(2, client.final(first)))
    except ProtocolViolation:
        return
    assert not (isinstance(shown, Proof) and shown.is_of(SECRET))


SECRET = Verifier.of("secret", SALT)


@given(st.lists(st.integers(1, 40), min_size=1), st.sampled_from([b"", b"Q\0\0\0\4"]))
def test_the_exchange_in_pieces_of_any_size(sizes: list[int], behind: bytes) -> None:
    """The machine and the exchange together: how the bytes arrive changes nothing, and nothing behind them is lost."""
    client, server, machine = ScramClient("secret", "cnonce"), ScramServer(SALT, "snonce"), ClientGreeting()
    first = client.first()
    final = client.final(b"r=cnoncesnonce,s=" + b64encode(SALT) + b",i=4096")
    sent = pg.startup({"user": "oncall", "database": "db"}) + pg.sasl_initial_response(MECHANISM, first)
    sent += pg.sasl_response(final) + behind
    shown: Proof | Misbound | None = None
    while sent:
        size = sizes.pop() if sizes else len(sent)
        machine.feed(sent[:size])
        sent = sent[size:]
        while shown is None and (found := machine.step()) is not None:
            if isinstance(found, pg.Startup):
                machine.expect_sasl()
            elif isinstance(found, SaslInitial):
                server.first(found.mechanism, found.data)
            else:
                assert isinstance(found, SaslResponse)
                shown = server.proof(found.data)
    assert isinstance(shown, Proof)
    assert shown.is_of(SECRET)
    assert machine.rest() == behind


def test_no_proof_before_the_first_message() -> None:
    with pytest.raises(ProtocolViolation):
        ScramServer(SALT, "snonce").proof(b"c=,r=,p=" + PROOF)


@pytest.mark.parametrize("text", ["", "a", "AAAA:AAAA", "!:!", f"{PROOF.decode()}:{PROOF.decode()}:"])
def test_a_verifier_that_is_none(text: str) -> None:
    with pytest.raises(ValueError, match=r"wrong length|base64|unpack"):
        Verifier.parse(text)


def test_no_secret_is_shown() -> None:
    verifier = Verifier.of("pencil", SALT)
    assert repr(verifier) == "Verifier()"
