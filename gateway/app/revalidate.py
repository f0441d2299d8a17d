"""Ask the identity provider again and again whether those who signed in are still welcome, and in which groups.

Three answers. Yes: the refresh token is replaced, groups follow. No (`invalid_grant`): that session is over. None (the
provider is down, or its answer makes no sense): nothing changes, and it is asked again; an outage signs nobody out.
A yes that tells of nobody, or of somebody else, replaces the token and changes nothing else: the old one may be spent.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Event

from gateway.app import journal
from gateway.app.context import Context
from gateway.app.end_provider_session import close_provider_session, end_by_provider
from gateway.app.identity import IdentityProvider, Refreshed, groups_of, user_id_of
from gateway.app.people_ports import ProviderSession
from gateway.app.ports import UnitOfWork
from gateway.app.sign_ins import CHECK_EVERY, PREFIXES
from gateway.core.errors import Denied, Refusal, Unavailable

_AT_ONCE = 2  # of a provider's few places; the others are for people who sign in
_BATCH = 500


class Revalidation:
    """The checks at one provider; one per process. Several processes share the work by claiming it."""

    def __init__(self, ctx: Context, provider: IdentityProvider) -> None:
        self._ctx = ctx
        self._provider = provider
        self._is_down = False  # as last told in an event
        self._unclear: set[str] = set()  # sessions of which it told something unusable, as told in events
        self._gives_up = Event()  # for this round: the first that finds it down spares the others the wait

    def step(self) -> bool:
        """Ask about everybody who is due; True when somebody's groups changed or somebody is out."""
        at = self._ctx.clock.now()
        with self._ctx.store.read() as uow:
            if not uow.provider_sessions.has_due(self._provider.name, at):
                return False
        with self._ctx.store.begin() as uow:
            due = uow.provider_sessions.claim_due(self._provider.name, at, at + CHECK_EVERY, _BATCH)
        self._gives_up.clear()
        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix=f"revalidate-{self._provider.name}") as pool:
            return any(list(pool.map(self._revalidate, due)))

    def _revalidate(self, session: ProviderSession) -> bool:
        if self._gives_up.is_set() or self._is_unused(session):
            return False
        try:
            token = self._ctx.sealer.unseal(session.sealed_token, session.id)
            refreshed = self._provider.refresh(token)
        except Unavailable as why:
            self._gives_up.set()
            self._tell_down(why.refusal)
            with self._ctx.store.begin() as uow:
                uow.provider_sessions.save(replace(session, failures=session.failures + 1))
            return False
        except Denied as no:
            return end_by_provider(self._ctx, session, no.refusal.message)
        except ValueError:
            return end_by_provider(self._ctx, session, "the key that opens its refresh token is gone")
        self._tell_up()
        return self._keep(session, refreshed)

    def _is_unused(self, session: ProviderSession) -> bool:
        """True when every sign-in that it carried is over: then nobody depends on it, and nothing is concluded."""
        at = self._ctx.clock.now()
        with self._ctx.store.begin() as uow:
            for purpose in PREFIXES:
                for each in uow.credentials.of_subject(session.user, purpose):
                    is_carried = (each.data or {}).get("provider_session") == session.id
                    if is_carried and each.used_at is None and at < each.expires_at:
                        return False
            close_provider_session(uow, session, at)
        return True

    def _keep(self, session: ProviderSession, refreshed: Refreshed) -> bool:
        at = self._ctx.clock.now()
        sealed = session.sealed_token
        if refreshed.refresh_token:
            sealed = self._ctx.sealer.seal(refreshed.refresh_token, session.id)
        flaw = refreshed.flaw or self._mismatch(session, refreshed)
        failures = session.failures + 1 if flaw else 0
        checked = replace(
            session, sealed_token=sealed, checked_at=at, next_check_at=at + CHECK_EVERY, failures=failures
        )
        with self._ctx.store.begin() as uow:
            if not uow.provider_sessions.save(checked):
                return False  # it was ended meanwhile
            if flaw:
                self._tell_unclear(uow, session, flaw)
                return False
            self._unclear.discard(session.id)
            return self._follow_groups(uow, session, refreshed)

    def _mismatch(self, session: ProviderSession, refreshed: Refreshed) -> str:
        """Why what was told is not about this person (Core §12.2: the same `sub`), "" when nothing says so."""
        subject = refreshed.claims.get("sub")
        is_other = isinstance(subject, str) and user_id_of(self._provider.issuer, subject) != session.user
        return "it told of somebody else than who signed in" if is_other else ""

    def _follow_groups(self, uow: UnitOfWork, session: ProviderSession, refreshed: Refreshed) -> bool:
        user = uow.users.get(session.user)
        is_told = refreshed.tells_groups and isinstance(refreshed.claims.get("sub"), str)
        groups = groups_of(refreshed.claims, self._provider.names) if is_told else None
        if groups is not None or self._provider.names.from_scim:
            uow.users.confirm(session.user, self._ctx.clock.now())
        if user is None or groups is None or self._provider.names.from_scim or groups == user.groups:
            return False
        uow.users.upsert(replace(user, groups=groups))
        data = {"provider": session.provider, "was": sorted(user.groups), "is": sorted(groups)}
        journal.append(self._ctx, uow, "user:groups-changed", principal=user.name, data=data)
        return True

    def _tell_unclear(self, uow: UnitOfWork, session: ProviderSession, flaw: str) -> None:
        if session.id not in self._unclear:
            self._unclear.add(session.id)
            user = uow.users.get(session.user)
            data = {"provider": session.provider, "message": flaw}
            name = user.name if user else ""
            journal.append(self._ctx, uow, "provider:unclear", "failed", principal=name, data=data)

    def _tell_down(self, why: Refusal) -> None:
        if not self._is_down:
            self._is_down = True
            journal.record(
                self._ctx, "provider:unreachable", "failed", {"provider": self._provider.name, "message": why.message}
            )

    def _tell_up(self) -> None:
        if self._is_down:
            self._is_down = False
            journal.record(self._ctx, "provider:reachable", data={"provider": self._provider.name})
