from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.adapters.webauthn import WebAuthnRelyingParty
from gateway.app.passkey_ports import ForgedAnswerError, Passkey
from gateway.core.errors import Unavailable
from gateway.core.principal import User
from gateway.demo.passkey import SoftPasskey, bytes_of, text_of

ORIGIN = "https://gw.example.org:8443"
PARTY = WebAuthnRelyingParty(f"{ORIGIN}/")
CHALLENGE = "c" * 43
ALICE = User("usr_alice", "https://idp.example", "a", "alice")
AT = datetime(2026, 3, 2, tzinfo=UTC)
KEY = SoftPasskey(ORIGIN)
_made = PARTY.verify_creation(KEY.create(PARTY.creation_options(ALICE, CHALLENGE, ())), CHALLENGE)
PASSKEY = Passkey(_made.id, ALICE.id, "key", _made.public_key, 0, (), AT)


def answer() -> dict[str, Any]:
    return KEY.get(PARTY.request_options(CHALLENGE))


@pytest.mark.parametrize(
    ("url", "has_name"),
    [(ORIGIN, True), ("http://localhost:8080", True), ("http://127.0.0.1:8080", False), ("https://[::1]:8443", False)],
)
def test_an_address_of_digits_is_told_from_a_host_name(url: str, has_name: bool) -> None:
    assert WebAuthnRelyingParty(url).has_host_name() is has_name


def test_what_a_browser_is_asked_for() -> None:
    options = PARTY.creation_options(ALICE, CHALLENGE, [PASSKEY])
    assert options["rp"] == {"name": "Production access", "id": "gw.example.org"}
    assert options["authenticatorSelection"]["userVerification"] == "required"  # type: ignore[index]
    assert options["authenticatorSelection"]["residentKey"] == "required"  # type: ignore[index]
    assert [known["id"] for known in options["excludeCredentials"]] == [PASSKEY.id]  # type: ignore[attr-defined]
    asked = PARTY.request_options(CHALLENGE)
    assert (asked["rpId"], asked["userVerification"]) == ("gw.example.org", "required")
    assert not asked.get("allowCredentials")  # a stranger learns no key


def test_a_good_answer_is_believed() -> None:
    said = answer()
    assert PARTY.verify_assertion(said, PARTY.unverified_challenge(said), PASSKEY) == KEY.count


@pytest.mark.parametrize("url", ["http://127.0.0.1:8420", "https://[::1]:8420", "https://10.0.0.1"])
def test_an_address_of_digits_takes_no_passkeys(url: str) -> None:
    party = WebAuthnRelyingParty(url)
    for ask in (lambda: party.creation_options(ALICE, CHALLENGE, ()), lambda: party.request_options(CHALLENGE)):
        with pytest.raises(Unavailable, match="host name"):
            ask()


json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20) | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=12), inner, max_size=3),
    max_leaves=8,
)
PARTS = ("clientDataJSON", "authenticatorData", "signature", "attestationObject", "userHandle", "transports")


def refuses(judge: Callable[[], object]) -> bool:
    try:
        judge()
    except ForgedAnswerError as why:
        return len(str(why)) < 100
    return False


@given(st.dictionaries(st.sampled_from(["id", "rawId", "type", "response", "x"]), json_values, max_size=5))
def test_whatever_comes_is_refused_and_never_crashes(said: dict[str, Any]) -> None:
    assert refuses(lambda: PARTY.unverified_challenge(said))
    assert refuses(lambda: PARTY.verify_assertion(said, CHALLENGE, PASSKEY))
    assert refuses(lambda: PARTY.verify_creation(said, CHALLENGE))


@given(part=st.sampled_from(PARTS[:3]), value=json_values)
def test_a_part_of_another_kind_is_refused(part: str, value: Any) -> None:
    said = answer()
    said["response"][part] = value
    assert refuses(lambda: PARTY.verify_assertion(said, CHALLENGE, PASSKEY))


@given(part=st.sampled_from(PARTS[:3]), place=st.integers(0, 20_000))
def test_a_changed_bit_anywhere_is_refused(part: str, place: int) -> None:
    said = answer()
    raw = bytearray(bytes_of(said["response"][part]))
    raw[place // 8 % len(raw)] ^= 1 << place % 8
    said["response"][part] = text_of(bytes(raw))
    assert refuses(lambda: PARTY.verify_assertion(said, CHALLENGE, PASSKEY))


@given(st.binary(max_size=300))
def test_attestation_objects_of_any_bytes_are_refused(raw: bytes) -> None:
    said = SoftPasskey(ORIGIN).create(PARTY.creation_options(ALICE, CHALLENGE, ()))
    said["response"]["attestationObject"] = text_of(raw)
    assert refuses(lambda: PARTY.verify_creation(said, CHALLENGE))


@given(st.integers(0, 400), st.integers(0, 7))
def test_a_changed_bit_in_a_registration_is_refused_or_changes_nothing_that_is_believed(place: int, bit: int) -> None:
    """No attestation signs a registration, so its key may differ; origin, challenge, site and flags may not."""
    options = PARTY.creation_options(ALICE, CHALLENGE, ())
    key = SoftPasskey(ORIGIN)
    said = key.create(options)
    raw = bytearray(bytes_of(said["response"]["clientDataJSON"]))
    raw[place % len(raw)] ^= 1 << bit
    changed = {**said, "response": {**said["response"], "clientDataJSON": text_of(bytes(raw))}}
    if not refuses(lambda: PARTY.verify_creation(changed, CHALLENGE)):
        import json

        read = json.loads(bytes(raw))
        assert (read["type"], read["challenge"], read["origin"]) == ("webauthn.create", CHALLENGE, ORIGIN)


def test_an_answer_to_the_other_kind_of_question() -> None:
    said = answer()
    assert refuses(lambda: PARTY.verify_creation(said, CHALLENGE))
    other = SoftPasskey(ORIGIN).create(PARTY.creation_options(ALICE, CHALLENGE, ()))
    assert refuses(lambda: PARTY.verify_assertion(other, CHALLENGE, PASSKEY))


def test_deep_cbor_does_not_end_the_process() -> None:
    said = SoftPasskey(ORIGIN).create(PARTY.creation_options(ALICE, CHALLENGE, ()))
    said["response"]["attestationObject"] = text_of(b"\x81" * 30_000)
    assert refuses(lambda: PARTY.verify_creation(said, CHALLENGE))
