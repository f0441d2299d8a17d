"""Who comes to the SSH door without a certificate: a ticket as password.

The SSH user name is `TARGET`, `LEVEL%TARGET` or `PERSON%TARGET`. It proves nothing: whoever it names must be whom the
ticket was issued to, at the level it was issued for, or the ticket is refused.
"""

from gateway.app.attempts import count
from gateway.app.context import Context
from gateway.app.credentials import digest_of
from gateway.app.open_session import grant_for, user_of_ticket
from gateway.app.place import origin_of
from gateway.app.verify_deploy_token import misplaced
from gateway.core.errors import GatewayError, Refusal
from gateway.core.grant import Grant
from gateway.core.principal import User
from gateway.core.target import Kind

MOST_FAILURES = 20  # from one address within ten minutes
BAD_TICKET = Refusal(
    "ticket-invalid",
    "This ticket is not valid: it has expired, was used, or is for another name or target.",
    next_steps=("gw connect TARGET prints a new one.",),
)
_TOO_MANY = Refusal(
    "too-many-tries",
    "Too many tickets from your address were refused.",
    next_steps=("Wait ten minutes, or use the certificate of gw login.",),
)


def ticket_holder(ctx: Context, login: str, ticket: str, client: str) -> tuple[User, Grant] | Refusal:
    """The person and the grant behind a ticket; one Refusal for every flaw, so that nothing is learned by trying.

    `login` is the SSH user name, `client` the peer's `address:port`.
    """
    tries = f"ssh-ticket {origin_of(client)}"
    with ctx.store.read() as uow:
        if count(uow, tries, ctx.clock.now(), add=0) >= MOST_FAILURES:
            return _TOO_MANY
    left, _, target = login.rpartition("%")
    try:
        user, grant = user_of_ticket(ctx, _person(ctx, left, ticket), ticket, target, Kind.SSH, client)
    except GatewayError:
        with ctx.store.begin() as uow:
            count(uow, tries, ctx.clock.now())
        return misplaced(ticket) or BAD_TICKET
    return user, grant


def grant_asked_for(ctx: Context, user: User, target: str, left: str) -> Grant:
    """The grant that a certificate's holder asks for with `left%target`: a level's name, their own name, or nothing.

    Denied or NotFound otherwise: nobody is somebody else by typing a name.
    """
    known = ctx.catalogue.current().targets.get(target)
    is_level = known is not None and left in known.levels
    return grant_for(ctx, user, target, "" if left == user.name and not is_level else left)


def _person(ctx: Context, left: str, ticket: str) -> str:
    """Whom the user name claims: it may name the ticket's level, or nobody, in place of the person."""
    with ctx.store.read() as uow:
        held = uow.credentials.find(digest_of(ticket), "ticket")
        user = uow.users.get(held.subject) if held else None
        grant = uow.grants.get((held.data or {}).get("grant", "")) if held else None
    if user is None or grant is None:
        return left
    if not user.is_enabled():
        return ""
    return user.name if left in ("", grant.level) else left
