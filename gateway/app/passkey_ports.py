"""What the use cases around passkeys need from outside: where keys are kept, and who verifies what they say."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from gateway.core.principal import User

Answer = Mapping[str, object]  # a PublicKeyCredential as JSON, exactly as a browser sent it: unverified


@dataclass(frozen=True, slots=True)
class Passkey:
    """A public key of a person's authenticator. `id` is its credential id, `public_key` COSE; both base64url.

    `sign_count` is the highest that was seen; 0 for authenticators that do not count.
    """

    id: str
    user: str
    name: str
    public_key: str
    sign_count: int
    transports: tuple[str, ...]
    created_at: datetime
    used_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class NewKey:
    """What a verified registration says."""

    id: str
    public_key: str
    sign_count: int
    transports: tuple[str, ...]


class ForgedAnswerError(Exception):
    """An answer that must not be believed; the text says which rule failed, without its contents."""


class Passkeys(Protocol):
    def add(self, passkey: Passkey) -> None: ...
    def get(self, passkey_id: str) -> Passkey | None: ...
    def of(self, user_id: str) -> Sequence[Passkey]:
        """Oldest first."""
        ...

    def used(self, passkey: Passkey, sign_count: int, at: datetime) -> bool:
        """Note a use; False when it is gone or its count is no longer the one that `passkey` has."""
        ...

    def remove(self, passkey_id: str) -> bool:
        """False when there was none."""
        ...


class RelyingParty(Protocol):
    """The gateway towards authenticators (WebAuthn level 3): one origin, one rp id, user verification always."""

    def creation_options(self, user: User, challenge: str, existing: Sequence[Passkey]) -> dict[str, object]:
        """What a browser gives to `navigator.credentials.create`. Unavailable where the address allows no passkeys."""
        ...

    def request_options(self, challenge: str) -> dict[str, object]:
        """What a browser gives to `navigator.credentials.get`; names no key, so that nothing is told to a stranger."""
        ...

    def unverified_challenge(self, answer: Answer) -> str:
        """The challenge that an answer claims to be about; ForgedAnswerError when there is none."""
        ...

    def verify_creation(self, answer: Answer, challenge: str) -> NewKey:
        """The new key; ForgedAnswerError when anything is wrong."""
        ...

    def verify_assertion(self, answer: Answer, challenge: str, passkey: Passkey) -> int:
        """The sign count that the key says; ForgedAnswerError when anything is wrong."""
        ...
