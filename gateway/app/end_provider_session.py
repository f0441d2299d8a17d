"""What the identity provider ends: it said that a session there is over, or that a person is not to come in any more.

A person who is put out by the provider loses all sign-ins, tickets and grants: a grant, or a certificate of the SSH
door, would open new sessions without a sign-in. Who comes back asks anew.
"""

from dataclasses import replace
from datetime import datetime

from gateway.app import journal
from gateway.app.context import Context
from gateway.app.people_ports import ProviderSession
from gateway.app.ports import UnitOfWork
from gateway.app.shut_out import put_out
from gateway.app.sign_ins import end_credentials

BY = "identity provider"


def close_provider_session(uow: UnitOfWork, session: ProviderSession, at: datetime) -> int:
    """End it here, with the sign-ins that it carries; how many those were. Its refresh token is forgotten."""
    uow.provider_sessions.save(replace(session, ended_at=at, sealed_token="", next_check_at=None))
    return end_credentials(uow, session.user, "provider_session", [session.id])


def end_by_provider(ctx: Context, session: ProviderSession, why: str) -> bool:
    """A session at the provider is over: so are its sign-ins, and with the last one all that the person has open.

    True when the person is out.
    """
    at = ctx.clock.now()
    with ctx.store.begin() as uow:
        ended = close_provider_session(uow, session, at)
        others = uow.provider_sessions.alive(user=session.user)
        user = uow.users.get(session.user)
        if user is None:
            return False
        removed = {} if others else put_out(uow, user, BY, at, why)
        if not others:
            uow.users.confirm(user.id, None)  # its last word was no: nor does a passkey let them in while it is down
        data = {"provider": session.provider, "why": why, "sign_ins": ended, **removed}
        noted = journal.append(ctx, uow, "login:ended-by-provider", principal=user.name, data=data)
    ctx.wake()
    journal.confirm_logged(ctx, noted)
    return not others
