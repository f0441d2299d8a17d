"""A browser's session: a cookie that is good for five minutes, and a key that never leaves the browser.

The first page after a sign-in proves the key, and the session belongs to it from then on. A page that is merely opened
can prove nothing, so a cookie that is older than five minutes opens only one that proves the key and gets a new cookie.
Forms prove it each time. A cookie that was replaced opens nothing and proves nothing by itself: a copy is worthless,
and the browser that has the key gets a new one (an answer can be lost, and a browser that crashed may come back with
an older cookie).
"""

from dataclasses import replace
from datetime import datetime, timedelta

from gateway.app import journal
from gateway.app.authenticate import NOT_SIGNED_IN, known, seen_at, touch
from gateway.app.context import Context
from gateway.app.credentials import digest_of
from gateway.app.identity import NotSignedIn
from gateway.app.people_ports import Credential
from gateway.app.ports import UnitOfWork
from gateway.app.possession import KEY, OTHER_KEY, SeenProofs, demand_possession, refuse_proof
from gateway.app.sign_in import WEB_PREFIX, SignedIn
from gateway.app.sign_ins import end_credentials, login_id
from gateway.core.device_proof import DeviceProof
from gateway.core.errors import GatewayError, Refusal
from gateway.core.principal import User

IDLE = timedelta(hours=1)
PROVE_EVERY = timedelta(minutes=5)
BIND_WITHIN = timedelta(minutes=10)  # of the sign-in
COOKIE_COMES = timedelta(minutes=1)  # of two tabs one gets the new cookie, and the other waits for it
_SUCCESSOR, _REPLACED_AT = "successor", "replaced_at"  # what a replaced secret keeps in its data
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


class NotProven(GatewayError):
    """The browser must prove its key first; the page's script does."""


class _OtherKeyError(Exception):
    """The session was bound meanwhile."""


def authenticate_web(ctx: Context, secret: str) -> User:
    """The person behind a cookie, whatever it may be good for; NotSignedIn when the session is over or idle."""
    return _session(ctx, secret)[1]


def authenticate_page(ctx: Context, secret: str) -> User:
    """Who opens a page. NotSignedIn, or NotProven when the browser must prove its key first."""
    session, user = _session(ctx, secret)
    at = ctx.clock.now()
    if KEY not in (session.data or {}):
        raise NotSignedIn(_TOO_LATE) if _is_too_late(session, at) else NotProven(_PROVE)
    if session.used_at is not None or at - session.issued_at >= PROVE_EVERY:
        raise NotProven(_PROVE)
    touch(ctx, session)
    return user


def authenticate_form(ctx: Context, secret: str, proof: DeviceProof | Refusal, seen: SeenProofs, client: str) -> User:
    """Who sends a form: it must come from the browser that signed in. NotSignedIn, with its event, or NotProven."""
    session, user = _session(ctx, secret)
    if KEY not in (session.data or {}):
        raise NotProven(_PROVE)
    demand_possession(ctx, session, user, proof, seen, client)
    touch(ctx, session)
    return user


def prove_browser(
    ctx: Context, secret: str, proof: DeviceProof | Refusal, seen: SeenProofs, client: str
) -> SignedIn | None:
    """A new secret for a browser that proves its key; None when it has a good one, or gets one in another tab.

    The first proof binds the sign-in to its key, unless `BIND_WITHIN` is over.
    """
    session, user = _session(ctx, secret)
    key = (session.data or {}).get(KEY, "")
    if not key and _is_too_late(session, ctx.clock.now()):
        raise refuse_proof(ctx, user, _TOO_LATE, client, "web")
    key = key or (proof.key if isinstance(proof, DeviceProof) else "none")
    demand_possession(ctx, replace(session, data={**(session.data or {}), KEY: key}), user, proof, seen, client)
    try:
        return _renewed(ctx, session, user, key, client)
    except _OtherKeyError:  # another browser was faster, a moment ago
        raise refuse_proof(ctx, user, OTHER_KEY, client, "web") from None


def provider_session_of(ctx: Context, secret: str) -> str:
    """The session at the provider that carries a browser's session, "" for none."""
    return (_session(ctx, secret)[0].data or {}).get("provider_session", "")


def end_browser_session(ctx: Context, secret: str) -> None:
    """Sign out; one that is over already is fine."""
    try:
        session, user = known(ctx, secret, "web")
    except NotSignedIn:
        return
    with ctx.store.begin() as uow:
        end_credentials(uow, user.id, "login", [login_id(session)])
        journal.append(ctx, uow, "login:ended", principal=user.name, data={"via": "web"})


def _session(ctx: Context, secret: str) -> tuple[Credential, User]:
    session, user = known(ctx, secret, "web")
    if ctx.clock.now() - seen_at(session) > IDLE:
        raise NotSignedIn(NOT_SIGNED_IN)
    return session, user


def _is_too_late(session: Credential, at: datetime) -> bool:
    since = datetime.fromisoformat((session.data or {}).get("since", session.issued_at.isoformat()))
    return at - since >= BIND_WITHIN


def _renewed(ctx: Context, session: Credential, user: User, key: str, client: str) -> SignedIn | None:
    secret, at = WEB_PREFIX + ctx.ids.secret(), ctx.clock.now()
    with ctx.store.begin() as uow:
        current = uow.credentials.find(session.digest, "web")  # as others have left it
        if current is None:
            raise NotSignedIn(NOT_SIGNED_IN)
        data = current.data or {}
        if data.get(KEY, key) != key:
            raise _OtherKeyError
        if not _is_due(current, at):
            return None
        if KEY not in data:
            told = {"via": "web", "login": login_id(current), KEY: key, "client": client[:100]}
            journal.append(ctx, uow, "login:bound", principal=user.name, data=told)
        _replace(uow, replace(current, data={**data, KEY: key}), digest_of(secret), at)
    return SignedIn(user, secret, session.expires_at)


def _is_due(session: Credential, at: datetime) -> bool:
    data = session.data or {}
    if session.used_at is None:
        return KEY not in data or at - session.issued_at >= PROVE_EVERY
    return at - datetime.fromisoformat(data.get(_REPLACED_AT, session.used_at.isoformat())) >= COOKIE_COMES


def _replace(uow: UnitOfWork, current: Credential, digest: str, at: datetime) -> None:
    """One secret of a session is in use at any time: whatever came after `current` is replaced as well."""
    newest = current
    while newest.used_at is not None:
        after = uow.credentials.find((newest.data or {}).get(_SUCCESSOR, ""), "web")
        if after is None:
            break
        newest = after
    told = {_SUCCESSOR: digest, _REPLACED_AT: at.isoformat()}
    for each in {each.digest: each for each in (newest, current)}.values():
        uow.credentials.save(replace(each, used_at=at, data={**(each.data or {}), **told}))
    told_of_it = {KEY: (current.data or {})[KEY], "login": login_id(current), "seen_at": at.isoformat()}
    carried = {name: value for name, value in (newest.data or {}).items() if name not in told}
    uow.credentials.add(replace(newest, digest=digest, issued_at=at, used_at=None, data={**carried, **told_of_it}))
