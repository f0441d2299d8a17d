"""Sign people in: the web login at the identity provider, bearer credentials, signing out, disabling.

The device flow of the CLI is in `device_flow`. Secrets are stored as SHA-256 only. The three values of a login
in flight (state, nonce, PKCE verifier) are derived from one secret in the browser's cookie, so the store holds
none of them and a login can only be finished by the browser that began it (RFC 9700 §4.7, ASVS 10.2.1).
"""

import hmac
from base64 import urlsafe_b64encode
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from hashlib import sha256

from gateway.app import attempts, journal
from gateway.app.authorise import authorise
from gateway.app.context import Context
from gateway.app.credentials import digest_of
from gateway.app.identity import IdentityProvider, NotSignedIn, disabled, person_of, remember
from gateway.app.ports import Credential, UnitOfWork
from gateway.core.decision import Action, Facts
from gateway.core.errors import Conflict, Denied, NotFound, Refusal
from gateway.core.grant import Grant, revoke
from gateway.core.principal import User

CLI_PREFIX = "gwc_"  # lets secret scanners find a leaked one
WEB_PREFIX = "gww_"
LOGIN_LIFETIME = timedelta(minutes=10)
WEB_IDLE = timedelta(hours=1)
_TOUCH_EVERY = timedelta(minutes=5)
_LONGEST_SECRET = 256
_STARTS_PER_WINDOW = 300  # of one client address; many people may share one
_WAIT = ("Wait ten minutes and try again.",)
_PURPOSES_OF_A_PERSON = ("cli", "web", "ticket", "device")

_SIGN_IN = ("Run gw login",)
_NOT_SIGNED_IN = Refusal("not-signed-in", "You are not signed in, or the sign-in is over.", ("a sign-in",), _SIGN_IN)


@dataclass(frozen=True, slots=True)
class LoginStart:
    """`secret` belongs in the browser's cookie, `url` is where to send the browser."""

    secret: str = field(repr=False)
    url: str
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class SignedIn:
    """`secret` is the credential, shown once; `next` a local path to go on to."""

    user: User
    secret: str = field(repr=False)
    expires_at: datetime
    next: str = "/"


# ---------------------------------------------------------------- web login


def begin_web_login(ctx: Context, provider: IdentityProvider, client: str, next_path: str = "/") -> LoginStart:
    """Start a login at the provider for a browser at `client` (address). Unavailable when the provider is down."""
    secret = ctx.ids.secret()
    url = provider.authorization_url(
        state=derived(secret, "state"),
        nonce=derived(secret, "nonce"),
        challenge=_b64(sha256(derived(secret, "verifier").encode()).digest()),
    )
    at = ctx.clock.now()
    login = Credential(
        digest_of(secret), "login", "", at, at + LOGIN_LIFETIME, single_use=True, data={"next": local_path(next_path)}
    )
    with ctx.store.begin() as uow:
        if attempts.count(uow, f"login:{client}", at) > _STARTS_PER_WINDOW:
            raise Denied(Refusal("too-many-attempts", "Too many sign-ins were begun from your address.", (), _WAIT))
        uow.credentials.add(login)
    return LoginStart(secret, url, login.expires_at)


def complete_web_login(
    ctx: Context, provider: IdentityProvider, *, secret: str, state: str, code: str, issuer: str = ""
) -> SignedIn:
    """Finish a login with what the provider sent back. The person is whoever the provider says, nobody else.

    `issuer` is the `iss` parameter of RFC 9207, "" when the provider sends none. Raises Denied or Unavailable.
    """
    login = _claim_login(ctx, secret, state)
    if issuer and issuer != provider.issuer:
        raise _failed(ctx, Refusal("issuer-mismatch", "The answer came from another identity provider."))
    try:
        claims = provider.redeem(code=code, verifier=derived(secret, "verifier"), nonce=derived(secret, "nonce"))
    except Denied as no:
        raise _failed(ctx, no.refusal) from no
    person = person_of(claims, provider.names)
    if isinstance(person, Refusal):
        raise _failed(ctx, person)
    at = ctx.clock.now()
    with ctx.store.begin() as uow:
        user = remember(uow, person)
        if isinstance(user, User):
            signed_in = _new_web_session(ctx, uow, user, at, (login.data or {}).get("next", "/"))
            journal.append(ctx, uow, "login:succeeded", principal=user.name, data={"via": "web", "issuer": user.issuer})
            return signed_in
    raise _failed(ctx, user, principal=person.name)


def _claim_login(ctx: Context, secret: str, state: str) -> Credential:
    """The login in flight, used up; NotSignedIn when it is not this browser's, too old or used."""
    at = ctx.clock.now()
    stale = Refusal(
        "login-stale", "This sign-in is not one that you began here, or it is too old.", next_steps=("Sign in again.",)
    )
    is_ours = 0 < len(secret) <= _LONGEST_SECRET
    if not is_ours or not hmac.compare_digest(state.encode(), derived(secret, "state").encode()):
        raise NotSignedIn(stale)  # no event: a stranger could fill the log with these
    digest = digest_of(secret)
    with ctx.store.begin() as uow:
        login = uow.credentials.find(digest, "login")
        claimed = login is not None and at < login.expires_at and uow.credentials.claim(digest, "login", at)
    if login is None or not claimed:
        raise _failed(ctx, stale)
    return login


def _new_web_session(ctx: Context, uow: UnitOfWork, user: User, at: datetime, next_path: str) -> SignedIn:
    secret = WEB_PREFIX + ctx.ids.secret()  # a new one at each login: nothing to fixate (ASVS 7.2.4)
    expires_at = at + ctx.limits.web_session_lifetime
    session = Credential(digest_of(secret), "web", user.id, at, expires_at, data={"seen_at": at.isoformat()})
    uow.credentials.add(session)
    return SignedIn(user, secret, expires_at, next_path)


def _failed(ctx: Context, refusal: Refusal, principal: str = "") -> Denied:
    no = journal.refuse(ctx, "login:failed", refusal, principal=principal)
    return NotSignedIn(no.refusal)


def derived(secret: str, label: str) -> str:
    """A value bound to a secret, one per label: HMAC-SHA256, base64url (43 characters, fit for RFC 7636 §4.1)."""
    return _b64(hmac.digest(secret.encode(), label.encode(), "sha256"))


def _b64(raw: bytes) -> str:
    return urlsafe_b64encode(raw).rstrip(b"=").decode()


def local_path(text: str) -> str:
    """A path of this site, or "/": never another host or scheme, nor what a browser takes for one."""
    # Browsers read a backslash as a slash and drop tabs and line breaks (URL Standard, oauth2-proxy CVE-2021-21291).
    is_local = text.startswith("/") and not text.startswith("//") and "\\" not in text
    return text if is_local and text.isprintable() and len(text) <= 512 else "/"


# ---------------------------------------------------------------- who is calling


def authenticate(ctx: Context, bearer: str) -> User:
    """The person behind an API bearer token; NotSignedIn otherwise."""
    _, user = _bearer_of(ctx, bearer, "cli")
    return user


def authenticate_web(ctx: Context, secret: str) -> User:
    """The person behind a browser session; NotSignedIn when it is over, idle for too long or its user disabled."""
    session, user = _bearer_of(ctx, secret, "web")
    at = ctx.clock.now()
    seen_at = datetime.fromisoformat((session.data or {}).get("seen_at", session.issued_at.isoformat()))
    if at - seen_at > WEB_IDLE:
        raise NotSignedIn(_NOT_SIGNED_IN)
    if at - seen_at > _TOUCH_EVERY:
        with ctx.store.begin() as uow:
            if uow.credentials.find(session.digest, "web") is not None:  # not one that signed out meanwhile
                uow.credentials.save(replace(session, data={**(session.data or {}), "seen_at": at.isoformat()}))
    return user


def _bearer_of(ctx: Context, secret: str, purpose: str) -> tuple[Credential, User]:
    if not secret or len(secret) > _LONGEST_SECRET:
        raise NotSignedIn(_NOT_SIGNED_IN)
    with ctx.store.read() as uow:
        credential = uow.credentials.find(digest_of(secret), purpose)
        user = uow.users.get(credential.subject) if credential else None
    if credential is None or user is None or credential.used_at or ctx.clock.now() >= credential.expires_at:
        raise NotSignedIn(_NOT_SIGNED_IN)
    if not user.is_enabled():
        raise NotSignedIn(disabled(user))
    return credential, user


def sign_out(ctx: Context, secret: str) -> None:
    """End one credential, of the CLI or a browser; unknown ones are fine. Tickets and sessions live on grants."""
    purpose = "web" if secret.startswith(WEB_PREFIX) else "cli"
    try:
        credential, user = _bearer_of(ctx, secret, purpose)
    except NotSignedIn:
        return
    at = ctx.clock.now()
    with ctx.store.begin() as uow:
        uow.credentials.save(replace(credential, used_at=at, expires_at=at))
        journal.append(ctx, uow, "login:ended", principal=user.name, data={"via": purpose})


# ---------------------------------------------------------------- who may come in at all


def disable_user(ctx: Context, user: User, name: str, reason: str = "") -> User:
    """Shut a person out: credentials gone now, live sessions ended by the supervisor within a second."""
    at = ctx.clock.now()
    authorise(ctx, user, Action.ADMINISTER, None, Facts(at))
    with ctx.store.begin() as uow:
        found = _by_name(uow, name)
        if not found.is_enabled():
            raise Conflict(Refusal("user-disabled-already", f"{found.name} is disabled already."))
        gone = replace(found, disabled_at=at)
        uow.users.upsert(gone)
        revoked = _revoke_grants(uow, found, user, at)
        removed = sum(uow.credentials.remove_for(found.id, purpose) for purpose in _PURPOSES_OF_A_PERSON)
        data = {
            "user": found.name,
            "reason": reason.strip()[:500],
            "credentials_removed": removed,
            "grants_revoked": revoked,
        }
        noted = journal.append(ctx, uow, "user:disabled", principal=user.name, data=data)
    ctx.wake()
    journal.confirm_logged(ctx, noted)
    return gone


def _revoke_grants(uow: UnitOfWork, gone: User, by: User, at: datetime) -> int:
    """Who comes back asks anew."""
    ended = [revoke(grant, at, by.id, "account disabled") for grant in uow.grants.list(holder=gone.id, active_at=at)]
    return sum(uow.grants.save(grant) for grant in ended if isinstance(grant, Grant))


def enable_user(ctx: Context, user: User, name: str) -> User:
    """Let a person sign in again. Nothing that was removed comes back."""
    authorise(ctx, user, Action.ADMINISTER, None, Facts(ctx.clock.now()))
    with ctx.store.begin() as uow:
        found = _by_name(uow, name)
        if found.is_enabled():
            raise Conflict(Refusal("user-enabled-already", f"{found.name} is enabled already."))
        back = replace(found, disabled_at=None)
        uow.users.upsert(back)
        noted = journal.append(ctx, uow, "user:enabled", principal=user.name, data={"user": found.name})
    journal.confirm_logged(ctx, noted)
    return back


def _by_name(uow: UnitOfWork, name: str) -> User:
    found = uow.users.by_name(name)
    if found is None:
        raise NotFound(Refusal("unknown-user", f"Nobody called {name[:60]!r} has ever signed in here."))
    return found
