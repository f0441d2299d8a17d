"""The API's shapes around passkeys."""

from datetime import datetime
from typing import Annotated, Any

from pydantic import Field, StringConstraints

from gateway.app.passkey_ports import Passkey
from gateway.edges.http.schemas import Schema

Code = Annotated[str, StringConstraints(min_length=1, max_length=64)]
Csrf = Annotated[str, StringConstraints(max_length=256)]
Credential = Annotated[
    dict[str, Any], Field(description="What the browser's navigator.credentials gave, as JSON (PublicKeyCredential).")
]
Options = dict[str, Any]


class CsrfIn(Schema):
    """From a page of the gateway, with its browser session's token."""

    csrf: Csrf


class RegistrationIn(Schema):
    """A new passkey's answer, and the name that its person gives it."""

    csrf: Csrf
    name: Annotated[str, StringConstraints(max_length=120)] = ""
    credential: Credential


class UnlockIn(Schema):
    """A passkey's answer for a browser session."""

    csrf: Csrf
    credential: Credential


class CodeIn(Schema):
    """The code that a terminal shows."""

    code: Code


class AnswerIn(Schema):
    """A passkey's answer for a terminal; `elsewhere`: the person knows that it is at another address."""

    code: Code
    elsewhere: bool = False
    credential: Credential


class PasskeyOut(Schema):
    id: str
    name: str
    transports: list[str]
    created_at: datetime
    used_at: datetime | None

    @classmethod
    def of(cls, passkey: Passkey) -> "PasskeyOut":
        """Rendered."""
        return cls(
            id=passkey.id,
            name=passkey.name,
            transports=list(passkey.transports),
            created_at=passkey.created_at,
            used_at=passkey.used_at,
        )


class PasskeysOut(Schema):
    """One's own; `page` is where a browser adds one."""

    passkeys: list[PasskeyOut]
    page: str


class StepUpOut(Schema):
    """What a terminal shows and how it waits."""

    code: str
    page: str
    expires_in: int
    interval: int


class StateOut(Schema):
    """How far it is: `pending`, `proved`, `denied` or `expired`."""

    state: str
