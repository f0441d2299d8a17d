"""Who is calling: the person behind a bearer secret of the command line; and the end of one."""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta

from gateway.app import journal
from gateway.app.context import Context
from gateway.app.credentials import digest_of
from gateway.app.demand_proof import kept_proof
from gateway.app.identity import NotSignedIn, disabled
from gateway.app.people_ports import Credential
from gateway.app.ports import UnitOfWork
from gateway.app.possession import SeenProofs, demand_possession
from gateway.app.rotate_sign_in import REUSED, claim_renewed, end_reused, is_current
from gateway.app.sign_in import LONGEST_SECRET
from gateway.app.sign_ins import end_credentials, is_over, login_id
from gateway.core.device_proof import DeviceProof
from gateway.core.errors import Denied, Refusal
from gateway.core.principal import User

_TOUCH_EVERY = timedelta(minutes=5)
_SIGN_IN = ("Run gw login",)
NOT_SIGNED_IN = Refusal("not-signed-in", "You are not signed in, or the sign-in is over.", ("a sign-in",), _SIGN_IN)


def authenticate(ctx: Context, bearer: str) -> User:
    """The person behind an API bearer token; NotSignedIn otherwise. Of the device nothing is asked."""
    credential, user = bearer_of(ctx, bearer)
    touch(ctx, credential)
    return user


def authenticate_device(
    ctx: Context, bearer: str, read: Callable[[], DeviceProof | Refusal], seen: SeenProofs, client: str
) -> User:
    """As `authenticate`, for a request that must come from the device that signed in: see `possession`.

    `read` verifies the request's proof; it is asked only about a credential that is known.
    """
    credential, user = bearer_of(ctx, bearer)
    demand_possession(ctx, credential, user, read(), seen, client)
    touch(ctx, credential)
    return user


def seen_at(credential: Credential) -> datetime:
    """When it was last used, to a few minutes."""
    return datetime.fromisoformat((credential.data or {}).get("seen_at", credential.issued_at.isoformat()))


def touch(ctx: Context, credential: Credential) -> None:
    """It was used now."""
    at = ctx.clock.now()
    if at - seen_at(credential) <= _TOUCH_EVERY:
        return
    with ctx.store.begin() as uow:
        fresh = uow.credentials.find(credential.digest, credential.purpose)
        if fresh is not None:  # not one that signed out meanwhile
            uow.credentials.save(replace(fresh, data={**(fresh.data or {}), "seen_at": at.isoformat()}))


def known(ctx: Context, secret: str, purpose: str) -> tuple[Credential, User]:
    """The credential behind a secret, and its person, enabled now; NotSignedIn otherwise. It may be a replaced one."""
    if not secret or len(secret) > LONGEST_SECRET:
        raise NotSignedIn(NOT_SIGNED_IN)
    with ctx.store.read() as uow:
        credential = uow.credentials.find(digest_of(secret), purpose)
        user = uow.users.get(credential.subject) if credential else None
    if credential is None or user is None or ctx.clock.now() >= credential.expires_at:
        raise NotSignedIn(NOT_SIGNED_IN)
    if not user.is_enabled():
        raise NotSignedIn(disabled(user))
    return credential, replace(user, proof=kept_proof(credential))


def bearer_of(ctx: Context, secret: str) -> tuple[Credential, User]:
    """As `known`, for a secret in use; who comes with one that was replaced a while ago ends the sign-in."""
    credential, user = known(ctx, secret, "cli")
    if credential.used_at is not None:
        with ctx.store.read() as uow:
            is_ours = is_current(uow, credential, ctx.clock.now())
        if not is_ours:
            end_reused(ctx, credential, user)
            raise NotSignedIn(REUSED)
    claim_renewed(ctx, credential)
    return credential, user


def demand_signed_in(uow: UnitOfWork, user: User) -> None:
    """Denied for who was signed out while policy was asked. In the transaction of what they want done."""
    if is_over(uow, user):
        raise Denied(NOT_SIGNED_IN)


def sign_out(ctx: Context, secret: str) -> None:
    """End a sign-in of the command line; an unknown one is fine. Tickets and sessions live on grants."""
    try:
        credential, user = bearer_of(ctx, secret)
    except NotSignedIn:
        return
    with ctx.store.begin() as uow:
        end_credentials(uow, user.id, "login", [login_id(credential)])  # with what was renewed of it
        journal.append(ctx, uow, "login:ended", principal=user.name, data={"via": "cli"})
