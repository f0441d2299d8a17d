"""The credential of somebody who came in by passkey: short, of a purpose of its own, good for breaking the glass."""

from dataclasses import replace
from datetime import datetime

from gateway.app import journal
from gateway.app.context import Context
from gateway.app.credentials import digest_of
from gateway.app.demand_proof import kept_proof
from gateway.app.identity import NotSignedIn, disabled
from gateway.app.people_ports import Credential
from gateway.app.ports import UnitOfWork
from gateway.app.possession import KEY
from gateway.app.sign_in import LONGEST_SECRET, SignedIn
from gateway.core.emergency import BreakGlassOnly
from gateway.core.errors import Refusal
from gateway.core.principal import User

EMERGENCY_PREFIX = "gwe_"  # lets secret scanners find a leaked one
EMERGENCY = "emergency"  # the purpose of the credential, and of the challenge before it
_OVER = Refusal("not-signed-in", "Your emergency sign-in is over.", ("a sign-in",), ("Run gw login",))


def redeem_emergency(ctx: Context, uow: UnitOfWork, device: Credential, user: User, at: datetime) -> SignedIn:
    """The credential that a terminal gets whose code was confirmed by passkey."""
    secret = EMERGENCY_PREFIX + ctx.ids.secret()
    expires_at = at + ctx.limits.emergency_lifetime
    kept = {key: value for key, value in (device.data or {}).items() if key in ("passkey_at", "passkey", "proof", KEY)}
    uow.credentials.add(Credential(digest_of(secret), EMERGENCY, user.id, at, expires_at, data=kept))
    data = {"via": "passkey", "client": (device.data or {}).get("client", ""), "only": "break-glass"}
    journal.append(ctx, uow, "login:succeeded", principal=user.name, data=data)
    return SignedIn(user, secret, expires_at)


def authenticate_emergency(ctx: Context, bearer: str) -> BreakGlassOnly:
    """The person behind an emergency credential; NotSignedIn otherwise."""
    return emergency_of(ctx, bearer)[1]


def emergency_of(ctx: Context, bearer: str) -> tuple[Credential, BreakGlassOnly]:
    """The credential, and its person; NotSignedIn otherwise."""
    if not 0 < len(bearer) <= LONGEST_SECRET:
        raise NotSignedIn(_OVER)
    with ctx.store.read() as uow:
        held = uow.credentials.find(digest_of(bearer), EMERGENCY)
        user = uow.users.get(held.subject) if held else None
    if held is None or user is None or held.used_at or ctx.clock.now() >= held.expires_at:
        raise NotSignedIn(_OVER)
    if not user.is_enabled():
        raise NotSignedIn(disabled(user))
    return held, BreakGlassOnly(replace(user, proof=kept_proof(held)))


def end_emergency(ctx: Context, bearer: str) -> None:
    """Sign out."""
    person = authenticate_emergency(ctx, bearer)
    at = ctx.clock.now()
    with ctx.store.begin() as uow:
        held = uow.credentials.find(digest_of(bearer), EMERGENCY)
        if held is not None:
            uow.credentials.save(replace(held, used_at=at, expires_at=at))
        journal.append(ctx, uow, "login:ended", principal=person.user.name, data={"via": EMERGENCY})
