"""Who is calling: the person behind a bearer secret of the CLI or of a browser; and the end of one."""

from dataclasses import replace
from datetime import datetime, timedelta

from gateway.app import journal
from gateway.app.context import Context
from gateway.app.credentials import digest_of
from gateway.app.demand_proof import kept_proof
from gateway.app.identity import NotSignedIn, disabled
from gateway.app.ports import Credential
from gateway.app.sign_in import LONGEST_SECRET, WEB_PREFIX
from gateway.core.errors import Refusal
from gateway.core.principal import User

WEB_IDLE = timedelta(hours=1)
_TOUCH_EVERY = timedelta(minutes=5)
_SIGN_IN = ("Run gw login",)
_NOT_SIGNED_IN = Refusal("not-signed-in", "You are not signed in, or the sign-in is over.", ("a sign-in",), _SIGN_IN)


def authenticate(ctx: Context, bearer: str) -> User:
    """The person behind an API bearer token; NotSignedIn otherwise."""
    _, user = bearer_of(ctx, bearer, "cli")
    return user


def authenticate_web(ctx: Context, secret: str) -> User:
    """The person behind a browser session; NotSignedIn when it is over, idle for too long or its user disabled."""
    session, user = bearer_of(ctx, secret, "web")
    at = ctx.clock.now()
    seen_at = datetime.fromisoformat((session.data or {}).get("seen_at", session.issued_at.isoformat()))
    if at - seen_at > WEB_IDLE:
        raise NotSignedIn(_NOT_SIGNED_IN)
    if at - seen_at > _TOUCH_EVERY:
        with ctx.store.begin() as uow:
            if uow.credentials.find(session.digest, "web") is not None:  # not one that signed out meanwhile
                uow.credentials.save(replace(session, data={**(session.data or {}), "seen_at": at.isoformat()}))
    return user


def provider_session_of(ctx: Context, secret: str) -> str:
    """The session at the provider that carries a browser's session, "" for none."""
    session, _ = bearer_of(ctx, secret, "web")
    return (session.data or {}).get("provider_session", "")


def bearer_of(ctx: Context, secret: str, purpose: str) -> tuple[Credential, User]:
    if not secret or len(secret) > LONGEST_SECRET:
        raise NotSignedIn(_NOT_SIGNED_IN)
    with ctx.store.read() as uow:
        credential = uow.credentials.find(digest_of(secret), purpose)
        user = uow.users.get(credential.subject) if credential else None
    if credential is None or user is None or credential.used_at or ctx.clock.now() >= credential.expires_at:
        raise NotSignedIn(_NOT_SIGNED_IN)
    if not user.is_enabled():
        raise NotSignedIn(disabled(user))
    return credential, replace(user, proof=kept_proof(credential))


def sign_out(ctx: Context, secret: str) -> None:
    """End one credential, of the CLI or a browser; unknown ones are fine. Tickets and sessions live on grants."""
    purpose = "web" if secret.startswith(WEB_PREFIX) else "cli"
    try:
        credential, user = bearer_of(ctx, secret, purpose)
    except NotSignedIn:
        return
    at = ctx.clock.now()
    with ctx.store.begin() as uow:
        uow.credentials.save(replace(credential, used_at=at, expires_at=at))
        journal.append(ctx, uow, "login:ended", principal=user.name, data={"via": purpose})
