"""SCRAM as the server: the RFC's own example, both of our sides against each other, and what no client may say."""

from base64 import b64decode, b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.wire.buffer import ProtocolViolation
from gateway.wire.postgres_scram import MECHANISM, ScramClient
from gateway.wire.postgres_scram_server import PLUS, Proof, ScramServer, Verifier

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
    assert proof.is_of(verifier)
    assert proof.answer(verifier) == b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="
    assert not proof.is_of(Verifier.of("pencils", SALT))


@given(st.binary(min_size=1, max_size=16), st.text("abcXYZ0123_-", min_size=1, max_size=60), st.booleans())
def test_our_two_sides_understand_each_other(salt: bytes, secret: str, right: bool) -> None:
    client, server = ScramClient(secret, "cnonce"), ScramServer(salt, "snonce")
    proof = server.proof(client.final(server.first(MECHANISM, client.first())))
    verifier = Verifier.parse(Verifier.of(secret if right else secret + "x", salt).text())
    assert proof.is_of(verifier) is right
    if right:
        client.verify(proof.answer(verifier))
    else:
        with pytest.raises(ProtocolViolation):
            client.verify(proof.answer(verifier))


def bound(flag: bytes, mechanism: str, sent: bytes, binding: bytes = PINNED) -> Proof:
    server = ScramServer(SALT, "snonce", binding)
    server.first(mechanism, flag + b",,n=,r=abc")
    return server.proof(b"c=" + b64encode(sent) + b",r=abcsnonce,p=" + b64encode(bytes(32)))


def test_what_is_offered() -> None:
    assert ScramServer(SALT, "s", PINNED).mechanisms() == (PLUS, MECHANISM)
    assert ScramServer(SALT, "s").mechanisms() == (MECHANISM,)


def test_a_client_bound_to_this_certificate_or_to_none() -> None:
    bound(b"p=tls-server-end-point", PLUS, b"p=tls-server-end-point,," + PINNED)
    bound(b"n", MECHANISM, b"n,,")
    bound(b"y", MECHANISM, b"y,,", binding=b"")


@pytest.mark.parametrize(
    ("flag", "mechanism", "sent", "binding"),
    [
        (b"p=tls-server-end-point", PLUS, b"p=tls-server-end-point,," + bytes(32), PINNED),  # of somebody in between
        (b"p=tls-server-end-point", PLUS, b"p=tls-server-end-point,,", PINNED),
        (b"p=tls-server-end-point", PLUS, b"n,," + PINNED, PINNED),
        (b"p=tls-server-end-point", MECHANISM, b"p=tls-server-end-point,," + PINNED, PINNED),
        (b"p=tls-unique", PLUS, b"p=tls-unique,," + PINNED, PINNED),
        (b"n", PLUS, b"n,,", PINNED),
        (b"y", MECHANISM, b"y,,", PINNED),  # PLUS was taken out of the offer on its way
        (b"n", MECHANISM, b"n,," + PINNED, PINNED),
        (b"p=tls-server-end-point", PLUS, b"p=tls-server-end-point,,", b""),
        (b"x", MECHANISM, b"x,,", b""),
        (b"n", "SCRAM-SHA-1", b"n,,", b""),
    ],
)
def test_a_binding_that_is_wrong(flag: bytes, mechanism: str, sent: bytes, binding: bytes) -> None:
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
        b"r=abcsnonce,c=biws,p=" + PROOF, b"c=biws,r=abcother,p=" + PROOF, b"c=eSws,r=abcsnonce,p=" + PROOF,
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
