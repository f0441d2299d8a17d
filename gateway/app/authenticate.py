"""Who is calling: the person behind a bearer secret of the CLI or of a browser; and the end of one.

A browser cannot prove its key with every page that it opens, so it proves it with each form, and every five minutes
to get a new cookie: a copy of the cookie opens pages until then, and sends no form.
"""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta

from gateway.app import journal
from gateway.app.context import Context
from gateway.app.credentials import digest_of
from gateway.app.demand_proof import kept_proof
from gateway.app.identity import NotSignedIn, disabled
from gateway.app.ports import Credential
from gateway.app.possession import KEY, SeenProofs, demand_possession
from gateway.app.rotate_sign_in import REUSED, ROTATE_AFTER, claim_renewed, end_reused, is_current, rotate_when_due
from gateway.app.sign_in import LONGEST_SECRET, WEB_PREFIX, SignedIn
from gateway.app.sign_ins import end_credentials, login_id
from gateway.core.device_proof import DeviceProof
from gateway.core.errors import GatewayError, Refusal
from gateway.core.principal import User

WEB_IDLE = timedelta(hours=1)
BIND_WITHIN = timedelta(minutes=10)  # of a sign-in
_TOUCH_EVERY = timedelta(minutes=5)
_SIGN_IN = ("Run gw login",)
_PROVE = Refusal(
    "browser-unproven",
    "This browser must show that it is the one that signed in.",
    ("a proof by the browser's key",),
    ("Open the page again, with scripts allowed for this site.",),
)
_TOO_LATE = Refusal(
    "browser-unbound",
    "This sign-in was never bound to a browser, or is from before browsers were bound.",
    ("a sign-in of this browser",),
    ("Sign in again, with scripts allowed for this site.",),
)
_NOT_SIGNED_IN = Refusal("not-signed-in", "You are not signed in, or the sign-in is over.", ("a sign-in",), _SIGN_IN)


def authenticate(ctx: Context, bearer: str) -> User:
    """The person behind an API bearer token; NotSignedIn otherwise. Of the device nothing is asked."""
    credential, user = bearer_of(ctx, bearer, "cli")
    _touch(ctx, credential)
    return user


def authenticate_device(
    ctx: Context, bearer: str, read: Callable[[], DeviceProof | Refusal], seen: SeenProofs, client: str
) -> User:
    """As `authenticate`, for a request that must come from the device that signed in: see `possession`.

    `read` verifies the request's proof; it is asked only about a credential that is known.
    """
    credential, user = bearer_of(ctx, bearer, "cli")
    demand_possession(ctx, credential, user, read(), seen, client)
    _touch(ctx, credential)
    return user


def authenticate_web(ctx: Context, secret: str) -> User:
    """The person behind a browser session; NotSignedIn when it is over, idle for too long or its user disabled."""
    return _web_session(ctx, secret)[1]


class NotProven(GatewayError):
    """A browser's secret that is not bound to a key yet, or old enough to be renewed: the page's script does both."""


def authenticate_page(ctx: Context, secret: str) -> User:
    """As `authenticate_web`, for a page that is opened; NotProven when the browser must prove its key first."""
    session, user = _web_session(ctx, secret)
    if KEY not in (session.data or {}) or ctx.clock.now() - session.issued_at >= ROTATE_AFTER:
        raise NotProven(_PROVE)
    return user


def authenticate_form(ctx: Context, secret: str, proof: DeviceProof | Refusal, seen: SeenProofs, client: str) -> User:
    """As `authenticate_web`, for what changes something: it must come from the browser that signed in."""
    session, user = _web_session(ctx, secret)
    demand_possession(ctx, session, user, proof, seen, client)
    return user


def prove_browser(
    ctx: Context, secret: str, proof: DeviceProof | Refusal, seen: SeenProofs, client: str
) -> SignedIn | None:
    """A new secret for a browser that proves its key, None when it has one or gets one in another tab.

    The first proof after a sign-in binds it to that key; it is too late for that after `BIND_WITHIN`.
    """
    session, user = _web_session(ctx, secret)
    key = (session.data or {}).get(KEY, "")
    if not key:
        if ctx.clock.now() - session.issued_at >= BIND_WITHIN:
            raise NotSignedIn(_TOO_LATE)
        key = proof.key if isinstance(proof, DeviceProof) else "none"
    bound = replace(session, data={**(session.data or {}), KEY: key})
    demand_possession(ctx, bound, user, proof, seen, client)
    return rotate_when_due(ctx, session, user, key)


def _web_session(ctx: Context, secret: str) -> tuple[Credential, User]:
    session, user = bearer_of(ctx, secret, "web")
    if ctx.clock.now() - _seen_at(session) > WEB_IDLE:
        raise NotSignedIn(_NOT_SIGNED_IN)
    _touch(ctx, session)
    return session, user


def _seen_at(credential: Credential) -> datetime:
    return datetime.fromisoformat((credential.data or {}).get("seen_at", credential.issued_at.isoformat()))


def _touch(ctx: Context, credential: Credential) -> None:
    at = ctx.clock.now()
    if at - _seen_at(credential) <= _TOUCH_EVERY:
        return
    with ctx.store.begin() as uow:
        fresh = uow.credentials.find(credential.digest, credential.purpose)
        if fresh is not None:  # not one that signed out meanwhile
            uow.credentials.save(replace(fresh, data={**(fresh.data or {}), "seen_at": at.isoformat()}))


def provider_session_of(ctx: Context, secret: str) -> str:
    """The session at the provider that carries a browser's session, "" for none."""
    session, _ = bearer_of(ctx, secret, "web")
    return (session.data or {}).get("provider_session", "")


def bearer_of(ctx: Context, secret: str, purpose: str) -> tuple[Credential, User]:
    """The credential behind a secret, and its person; NotSignedIn otherwise."""
    if not secret or len(secret) > LONGEST_SECRET:
        raise NotSignedIn(_NOT_SIGNED_IN)
    with ctx.store.read() as uow:
        credential = uow.credentials.find(digest_of(secret), purpose)
        user = uow.users.get(credential.subject) if credential else None
        at = ctx.clock.now()
        is_ours = credential is None or is_current(uow, credential, at)
    if credential is None or user is None or at >= credential.expires_at:
        raise NotSignedIn(_NOT_SIGNED_IN)
    if not is_ours:
        end_reused(ctx, credential, user)
        raise NotSignedIn(REUSED)
    if not user.is_enabled():
        raise NotSignedIn(disabled(user))
    claim_renewed(ctx, credential)
    return credential, replace(user, proof=kept_proof(credential))


def sign_out(ctx: Context, secret: str) -> None:
    """End one credential, of the CLI or a browser; unknown ones are fine. Tickets and sessions live on grants."""
    purpose = "web" if secret.startswith(WEB_PREFIX) else "cli"
    try:
        credential, user = bearer_of(ctx, secret, purpose)
    except NotSignedIn:
        return
    with ctx.store.begin() as uow:
        end_credentials(uow, user.id, "login", [login_id(credential)])  # with what was renewed of it
        journal.append(ctx, uow, "login:ended", principal=user.name, data={"via": purpose})
