"""Where a person is signed in, and the end of one of those."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from gateway.app import journal
from gateway.app.context import Context
from gateway.app.people_ports import Credential
from gateway.app.sign_ins import PREFIXES, end_credentials, login_id
from gateway.core.errors import NotFound, Refusal
from gateway.core.principal import User


@dataclass(frozen=True, slots=True)
class SignInView:
    """One sign-in. `kind` is `cli` or `web`; `client` and `agent` are as they were at its beginning."""

    id: str
    kind: str
    since: datetime
    seen_at: datetime
    expires_at: datetime
    client: str
    agent: str


def list_sign_ins(ctx: Context, user: User) -> Sequence[SignInView]:
    """One's own, the newest first."""
    at = ctx.clock.now()
    with ctx.store.read() as uow:
        held = [each for purpose in PREFIXES for each in uow.credentials.of_subject(user.id, purpose)]
    views = [_view(each) for each in held if each.used_at is None and at < each.expires_at]
    return sorted(views, key=lambda view: view.since, reverse=True)


def revoke_sign_in(ctx: Context, user: User, sign_in_id: str) -> None:
    """End one of one's own; NotFound for anybody else's."""
    with ctx.store.begin() as uow:
        ended = end_credentials(uow, user.id, "login", [sign_in_id])
        if ended:
            noted = journal.append(ctx, uow, "login:revoked", principal=user.name, data={"login": sign_in_id})
    if not ended:
        raise NotFound(Refusal("unknown-sign-in", "You have no such sign-in.", next_steps=("gw logins lists them.",)))
    journal.confirm_logged(ctx, noted)


def _view(credential: Credential) -> SignInView:
    data = credential.data or {}
    since = data.get("since", credential.issued_at.isoformat())
    return SignInView(
        id=login_id(credential),
        kind=credential.purpose,
        since=datetime.fromisoformat(since),
        seen_at=datetime.fromisoformat(data.get("seen_at", since)),
        expires_at=credential.expires_at,
        client=data.get("client", ""),
        agent=data.get("agent", ""),
    )
