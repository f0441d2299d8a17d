"""`RelyingParty` by py_webauthn: what an authenticator says is believed only after every check of WebAuthn §7.1, §7.2.

The origin and the rp id come from `api.public_url` and from nowhere else; the user must have been verified (PIN or
fingerprint), so that a stolen key alone proves nothing. Keys are discoverable, so a browser needs no list of them and
a stranger learns nothing. No attestation is asked for: which make of key people use is not the gateway's business.
"""

import ipaddress
import json
from collections.abc import Callable, Sequence
from typing import Any, TypeVar
from urllib.parse import urlsplit

from cryptography.exceptions import UnsupportedAlgorithm
from webauthn import (
    generate_authentication_options,
    generate_registration_options,
    verify_authentication_response,
    verify_registration_response,
)
from webauthn.helpers import base64url_to_bytes, bytes_to_base64url, options_to_json_dict
from webauthn.helpers.cose import COSEAlgorithmIdentifier
from webauthn.helpers.exceptions import WebAuthnException
from webauthn.helpers.structs import (
    AuthenticatorSelectionCriteria,
    AuthenticatorTransport,
    PublicKeyCredentialDescriptor,
    ResidentKeyRequirement,
    UserVerificationRequirement,
)

from gateway.app.passkey_ports import Answer, ForgedAnswerError, NewKey, Passkey
from gateway.core.errors import Refusal, Unavailable
from gateway.core.principal import User

TIMEOUT_MS = 120_000
_ALGORITHMS = [
    COSEAlgorithmIdentifier.ECDSA_SHA_256,
    COSEAlgorithmIdentifier.EDDSA,
    COSEAlgorithmIdentifier.RSASSA_PKCS1_v1_5_SHA_256,
]
_TRANSPORTS = {transport.value: transport for transport in AuthenticatorTransport}
_LONGEST_ID = 1023  # octets; WebAuthn §4, credential id
_T = TypeVar("_T")


class WebAuthnRelyingParty:
    """One gateway address. Thread-safe: holds no state."""

    def __init__(self, public_url: str, name: str = "Production access") -> None:
        parts = urlsplit(public_url)
        self._origin = f"{parts.scheme}://{parts.netloc}"
        self._rp_id = parts.hostname or ""
        self._name = name

    def creation_options(self, user: User, challenge: str, existing: Sequence[Passkey]) -> dict[str, object]:
        """See the port."""
        self._demand_host_name()
        options = generate_registration_options(
            rp_id=self._rp_id,
            rp_name=self._name,
            user_id=user.id.encode(),
            user_name=user.name,
            challenge=base64url_to_bytes(challenge),
            timeout=TIMEOUT_MS,
            authenticator_selection=AuthenticatorSelectionCriteria(
                resident_key=ResidentKeyRequirement.REQUIRED, user_verification=UserVerificationRequirement.REQUIRED
            ),
            exclude_credentials=[_descriptor(passkey) for passkey in existing],
            supported_pub_key_algs=_ALGORITHMS,
        )
        return options_to_json_dict(options)

    def request_options(self, challenge: str) -> dict[str, object]:
        """See the port."""
        self._demand_host_name()
        options = generate_authentication_options(
            rp_id=self._rp_id,
            challenge=base64url_to_bytes(challenge),
            timeout=TIMEOUT_MS,
            user_verification=UserVerificationRequirement.REQUIRED,
        )
        return options_to_json_dict(options)

    def unverified_challenge(self, answer: Answer) -> str:
        """See the port."""

        def read() -> str:
            response: Any = answer["response"]
            client = json.loads(base64url_to_bytes(response["clientDataJSON"]))
            if client.get("crossOrigin", False) is not False:
                raise ValueError("made in another site's frame")  # no page of ours is ever in one
            return bytes_to_base64url(base64url_to_bytes(client["challenge"]))

        return _believed(read, "it names no challenge")

    def verify_creation(self, answer: Answer, challenge: str) -> NewKey:
        """See the port."""
        made = _believed(
            lambda: verify_registration_response(
                credential=dict(answer),
                expected_challenge=base64url_to_bytes(challenge),
                expected_rp_id=self._rp_id,
                expected_origin=self._origin,
                require_user_verification=True,
                supported_pub_key_algs=_ALGORITHMS,
            )
        )
        if not 0 < len(made.credential_id) <= _LONGEST_ID:
            raise ForgedAnswerError("its credential id is too long")
        return NewKey(
            bytes_to_base64url(made.credential_id),
            bytes_to_base64url(made.credential_public_key),
            made.sign_count,
            _transports(answer),
        )

    def verify_assertion(self, answer: Answer, challenge: str, passkey: Passkey) -> int:
        """See the port. The count is judged by the caller, who knows that the signature was good."""
        verified = _believed(
            lambda: verify_authentication_response(
                credential=dict(answer),
                expected_challenge=base64url_to_bytes(challenge),
                expected_rp_id=self._rp_id,
                expected_origin=self._origin,
                credential_public_key=base64url_to_bytes(passkey.public_key),
                credential_current_sign_count=0,
                require_user_verification=True,
            )
        )
        response: Any = answer["response"]
        handle = response.get("userHandle")
        if handle is not None and handle != bytes_to_base64url(passkey.user.encode()):
            raise ForgedAnswerError("it was made for somebody else")
        return verified.new_sign_count

    def has_host_name(self) -> bool:
        """False at an address of digits: browsers make no passkeys for it (WebAuthn §5.1.3: the rp id is a domain)."""
        try:
            ipaddress.ip_address(self._rp_id)
        except ValueError:
            return bool(self._rp_id)
        return False

    def _demand_host_name(self) -> None:
        if self.has_host_name():
            return
        raise Unavailable(
            Refusal(
                "passkeys-need-a-name",
                "Passkeys need a gateway with a host name, and this one is reached by an address of digits.",
                next_steps=("Its operators set api.public_url, for example https://gw.example.org.",),
            )
        )


def _believed(check: Callable[[], _T], otherwise: str = "") -> _T:
    """What a check of foreign bytes gives; every way in which it can fail is ForgedAnswerError, without the bytes."""
    try:
        return check()
    except WebAuthnException as why:
        raise ForgedAnswerError(otherwise or _told(why)) from why
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError, UnsupportedAlgorithm) as why:
        raise ForgedAnswerError(otherwise or "it does not read") from why


# py_webauthn's sentences repeat parts of the answer; these do not.
_RULES = {
    "origin": "it was made for another address",
    "RP ID": "it was made for another site",
    "hallenge": "it answers another question",
    "User verification": "the person was not verified by the key",
    "not present": "the person did not touch the key",
    "signature": "its signature does not fit the key",
    "client data type": "it answers another kind of question",
}


def _told(why: Exception) -> str:
    text = str(why)
    return next((rule for word, rule in _RULES.items() if word in text), "it does not read")


def _transports(answer: Answer) -> tuple[str, ...]:
    response: Any = answer["response"]
    claimed = response.get("transports") or []
    return tuple(sorted(_TRANSPORTS.keys() & {t for t in claimed if isinstance(t, str)}))


def _descriptor(passkey: Passkey) -> PublicKeyCredentialDescriptor:
    transports = [_TRANSPORTS[name] for name in passkey.transports if name in _TRANSPORTS]
    return PublicKeyCredentialDescriptor(id=base64url_to_bytes(passkey.id), transports=transports or None)
