"""Lease an ephemeral database role per grant, and drop it when the grant is over: a verified state machine.

creating → active → revoking → dropped; zombie while a drop keeps failing, retried for ever, never forgotten.
The row is written before the role exists, so that a crash at any point leaves a role with an owner.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial

from gateway.app import journal
from gateway.app.context import Context
from gateway.app.logins import HeldLogin
from gateway.app.target_ports import DatabaseLogin, Lease
from gateway.core.errors import GatewayError, Refusal, Unavailable
from gateway.core.grant import Grant
from gateway.core.session import verdict
from gateway.core.target import Level, Target

ROLE_PREFIX = "gw_"
LONGEST_PAUSE = timedelta(minutes=5)
_MOST_NAMES = 20  # of prepared transactions, in one event
_LONGEST_NAME = 300


def lease_role(ctx: Context, grant: Grant, target: Target, level: Level) -> DatabaseLogin:
    """The login of this process for a grant: made at its first connection, shared by the later ones.

    Raises Unavailable when the database does not let us make it; the reaper then removes what there may be.
    """
    held = _current(ctx, grant, target, level)
    if held is not None:
        return held.login
    with ctx.logins.turn(grant.id, target.name):
        held = _current(ctx, grant, target, level)
        if held is None:
            held = _create(ctx, grant, target, level)
        return held.login


def _current(ctx: Context, grant: Grant, target: Target, level: Level) -> HeldLogin | None:
    """The grant's login, unless the catalogue has moved the target or cut the level since it was made."""
    held = ctx.logins.get(grant.id)
    is_current = held is not None and (held.place, held.account) == (place_of(target), _made_as(level))
    return held if is_current else None


def login_refused(ctx: Context, grant_id: str, login: DatabaseLogin) -> bool:
    """The target does not let the role in. True when it did before: somebody has changed or dropped it under our feet,
    so the next connection makes another, and the reaper drops what there is of this one. One that never was let in is
    kept: a new one would fare no better.
    """
    if not ctx.logins.has_worked(login.role):
        return False
    ctx.logins.forget(grant_id, login.role)
    ctx.wake()
    return True


def place_of(target: Target) -> str:
    """Where a role is: the server and database, whatever name the catalogue has for it."""
    return f"{target.host}:{target.port}/{target.database}"


def _made_as(level: Level) -> str:
    return f"{level.account} replication" if level.replication else level.account


def role_name(grant: Grant, lease_id: str) -> str:
    """`gw_<who>_<chance>`: tells a DBA who it is in pg_stat_activity, within PostgreSQL's 63 bytes."""
    who = re.sub(r"[^a-z0-9]", "", grant.holder_name.lower())[:30]
    return f"{ROLE_PREFIX}{who}_{lease_id[-12:]}"


def reap_leases(ctx: Context, at: datetime) -> int:
    """Drop the roles of grants that are over and of processes that are gone; how many are still to drop."""
    with ctx.store.read() as uow:
        leases = uow.leases.unfinished()
        grants = {lease.grant: uow.grants.get(lease.grant) for lease in leases}
        # Our own heartbeat may be late; that we run is known without it.
        silent = set(uow.gateways.silent_since(at - ctx.limits.gateway_silent_after)) - {ctx.gateway}
    left = 0
    for lease in leases:
        if _is_needed(ctx, lease, grants[lease.grant], silent, at):
            continue
        _tell_first(ctx, grants[lease.grant], at)
        if lease.next_attempt_at is None or lease.next_attempt_at <= at:
            left += not _drop(ctx, lease, at)
        else:
            left += 1
    return left


def _tell_first(ctx: Context, grant: Grant | None, at: datetime) -> None:
    """The door says why, in its own words, before the database says that an administrator did something."""
    reason = verdict(grant, at, user_enabled=True) if grant else None
    if grant is None or reason is None:
        return
    with ctx.store.read() as uow:
        live = uow.sessions.list(live=True, grant=grant.id)
    for session in live:
        ctx.live.terminate(session.id, reason, grant.revoke_reason)


def _is_needed(ctx: Context, lease: Lease, grant: Grant | None, silent: set[str], at: datetime) -> bool:
    if lease.gateway == ctx.gateway and ctx.logins.is_making(lease.name):
        return True  # it may come to be after we have looked; its maker leaves it for the next round
    if grant is None or not grant.is_active(at) or lease.gateway in silent:
        return False
    if lease.state not in ("creating", "active"):
        return False
    # A lease of ours whose password we do not know is left over from before a restart, or has a successor.
    return lease.gateway != ctx.gateway or ctx.logins.holds(grant.id, lease.name)


def _create(ctx: Context, grant: Grant, target: Target, level: Level) -> HeldLogin:
    at = ctx.clock.now()
    lease_id = ctx.ids.new("lse")
    lease = Lease(
        id=lease_id,
        grant=grant.id,
        target=target.name,
        level=level.name,
        name=role_name(grant, lease_id),
        gateway=ctx.gateway,
        state="creating",
        created_at=at,
        expires_at=grant.window.not_after,
        place=place_of(target),
    )
    data: dict[str, object] = {"lease": lease.id, "role": lease.name, "level": level.name, "place": lease.place}
    with ctx.logins.making(lease.name):
        held = HeldLogin(_make(ctx, grant, target, level, lease, data), lease.place, _made_as(level))
        ctx.logins.put(grant.id, held)
        return held


def _make(
    ctx: Context, grant: Grant, target: Target, level: Level, lease: Lease, data: dict[str, object]
) -> DatabaseLogin:
    about = journal.about_grant(grant)
    with ctx.store.begin() as uow:
        uow.leases.add(lease)
        journal.append(ctx, uow, "lease:created", "attempt", **about, data=data)
    try:
        login = ctx.roles.create(target, level, lease.name, grant.window.not_after)
    except Unavailable as why:
        with ctx.store.begin() as uow:
            uow.leases.save(replace(lease, state="revoking", last_error=why.refusal.message))
            failed = {**data, "message": why.refusal.message}
            journal.append(ctx, uow, "lease:created", "failed", **about, data=failed)
        ctx.wake()
        raise
    with ctx.store.begin() as uow:
        uow.leases.save(replace(lease, state="active"))
        journal.append(ctx, uow, "lease:created", **about, data=data)
    return login


def _drop(ctx: Context, lease: Lease, at: datetime) -> bool:
    target = ctx.catalogue.current().targets.get(lease.target)
    about: journal.About = {"target": lease.target, "grant": lease.grant}
    data: dict[str, object] = {"lease": lease.id, "role": lease.name, "attempt": lease.attempts + 1}
    revoking = replace(lease, state="revoking" if lease.state != "zombie" else "zombie", attempts=lease.attempts + 1)
    with ctx.store.begin() as uow:
        uow.leases.save(revoking)
        if lease.state != "zombie":
            journal.append(ctx, uow, "lease:dropped", "attempt", **about, data=data)
    ctx.logins.forget(lease.grant, lease.name)
    try:
        if target is None:
            gone = "The target is no longer in the catalogue; put it back so that its role can be dropped."
            raise Unavailable(Refusal("unknown-target", gone))
        if lease.place and lease.place != place_of(target):
            moved = f"The role was made on {lease.place}; the catalogue now says {place_of(target)}."
            raise Unavailable(Refusal("target-moved", moved, next_steps=("Drop it there by hand, or point back.",)))
        ctx.roles.revoke(target, lease.name, partial(note_rolled_back, ctx, data, about))
    except GatewayError as why:
        _keep_as_zombie(ctx, lease, revoking, why.refusal.message, at)
        return False
    with ctx.store.begin() as uow:
        uow.leases.save(replace(revoking, state="dropped", last_error="", next_attempt_at=None))
        journal.append(ctx, uow, "lease:dropped", **about, data=data)
    return True


def note_rolled_back(ctx: Context, data: journal.Facts, about: journal.About, transactions: Sequence[str]) -> None:
    """What a role prepared is about to be rolled back. How it ends, `lease:dropped` or `lease:zombie` says."""
    told = [name[:_LONGEST_NAME] for name in transactions[:_MOST_NAMES]]
    journal.record(
        ctx, "lease:rolled-back", "attempt", {**data, "transactions": told, "count": len(transactions)}, **about
    )


def _keep_as_zombie(ctx: Context, before: Lease, lease: Lease, why: str, at: datetime) -> None:
    pause = min(timedelta(seconds=2 ** min(lease.attempts, 10)), LONGEST_PAUSE)
    with ctx.store.begin() as uow:
        uow.leases.save(replace(lease, state="zombie", last_error=why, next_attempt_at=at + pause))
        if before.state != "zombie":
            data = {"lease": lease.id, "role": lease.name, "message": why}
            journal.append(ctx, uow, "lease:zombie", "failed", target=lease.target, grant=lease.grant, data=data)
