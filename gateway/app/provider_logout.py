"""The identity provider says that somebody signed out there (OpenID Connect Back-Channel Logout 1.0)."""

from datetime import timedelta

from gateway.app import attempts, journal
from gateway.app.context import Context
from gateway.app.credentials import digest_of
from gateway.app.end_provider_session import BY, close_provider_session
from gateway.app.identity import IdentityProvider, SignedLogout, user_id_of
from gateway.app.logged_out import remember_logout
from gateway.app.people_ports import Credential, ProviderSession
from gateway.app.place import origin_of
from gateway.app.ports import UnitOfWork
from gateway.app.refuse_stranger import refuse_stranger
from gateway.app.shut_out import put_out
from gateway.core.errors import Denied, GatewayError, Refusal
from gateway.core.principal import User

_REMEMBERED = timedelta(hours=1)  # longer than a logout token may be old
_TRIES_PER_WINDOW = 600  # of one address; a provider that ends many sessions at once is one
_WHY = "signed out at the identity provider"


def provider_logout(ctx: Context, provider: IdentityProvider, token: str, client: str) -> int:
    """End what a logout token names; how many people that concerned. Denied when it does not verify or was used."""
    at = ctx.clock.now()
    with ctx.store.begin() as uow:
        if attempts.count(uow, f"logout:{origin_of(client)}", at) > _TRIES_PER_WINDOW:
            raise Denied(Refusal("too-many-attempts", "Too many logout tokens came from your address."))
    try:
        logout = provider.verify_logout(token)
    except Denied as no:
        raise _denied(ctx, client, provider, no.refusal) from no
    with ctx.store.begin() as uow:
        digest = digest_of(f"{provider.issuer}\n{logout.jti}")
        is_used = uow.credentials.find(digest, "logout") is not None
        if not is_used:
            uow.credentials.add(Credential(digest, "logout", "", at, at + _REMEMBERED, single_use=True))
            remember_logout(uow, provider.issuer, logout, at)
            noted = [_end(ctx, uow, provider, user, logout) for user in _people(uow, provider, logout)]
    if is_used:
        replayed = Refusal("logout-replayed", "This logout token was used already.")
        raise _denied(ctx, client, provider, replayed)
    ctx.wake()
    journal.confirm_logged(ctx, *noted)
    return len(noted)


def _denied(ctx: Context, client: str, provider: IdentityProvider, refusal: Refusal) -> GatewayError:
    return refuse_stranger(ctx, client, "logout:denied", refusal, data={"provider": provider.name})


def _people(uow: UnitOfWork, provider: IdentityProvider, logout: SignedLogout) -> list[User]:
    """Whom it concerns. With `sid` and `sub` both, only a session that is that person's."""
    named = user_id_of(provider.issuer, logout.subject) if logout.subject else ""
    ids = {named}
    if logout.sid:
        held = {each.user for each in uow.provider_sessions.alive(provider=provider.name, sid=logout.sid)}
        ids = held & {named} if named else held
    return [user for user in map(uow.users.get, sorted(ids)) if user is not None]


def _sessions(uow: UnitOfWork, provider: IdentityProvider, user: User, sid: str) -> list[ProviderSession]:
    return list(uow.provider_sessions.alive(user=user.id, provider=provider.name, sid=sid))


def _end(ctx: Context, uow: UnitOfWork, provider: IdentityProvider, user: User, logout: SignedLogout) -> str:
    at = ctx.clock.now()
    ended = sum(close_provider_session(uow, each, at) for each in _sessions(uow, provider, user, logout.sid))
    stays_elsewhere = bool(logout.sid and uow.provider_sessions.alive(user=user.id))
    removed = put_out(uow, user, BY, at, _WHY, sign_ins=not stays_elsewhere)
    data = {"provider": provider.name, "why": _WHY, "sign_ins": ended, **removed}
    return journal.append(ctx, uow, "login:ended-by-provider", principal=user.name, data=data)
