"""Let one connection in: authenticate, find the grant, decide again, lease, record, store the event, or no session."""

from collections.abc import Callable
from dataclasses import dataclass

from gateway.app import journal
from gateway.app.authorise import find_level, find_target
from gateway.app.context import Context
from gateway.app.credentials import digest_of
from gateway.app.decide_connection import Judged, decide_connection, judge_in
from gateway.app.end_session import end_session as end_session
from gateway.app.end_session import store_end
from gateway.app.lease_role import lease_role
from gateway.app.level_change import is_changed
from gateway.app.people_ports import Credential
from gateway.app.ports import UnitOfWork
from gateway.app.recording_ports import Recording, RecordingFailed
from gateway.app.refuse_stranger import refuse_stranger
from gateway.app.target_ports import DatabaseLogin
from gateway.app.verify_deploy_token import misplaced
from gateway.core.decision import Permit
from gateway.core.errors import GatewayError, Refusal, Unavailable
from gateway.core.grant import Grant
from gateway.core.obligation import Record, merge
from gateway.core.principal import User
from gateway.core.request import RequestKind
from gateway.core.session import EndReason, Protocol, Session, begin
from gateway.core.ssh_rules import certificate_serial
from gateway.core.target import Kind, Level, Target

LONGEST_LEVEL = 63  # of what somebody asked for, in an answer
_BAD_TICKET = Refusal(
    "ticket-invalid",
    "This ticket is not valid: it has expired, was used, or belongs to somebody else.",
    next_steps=("gw connect TARGET prints a new one; gw psql TARGET needs none.",),
)


@dataclass(frozen=True, slots=True)
class Opened:
    """A session that may run. `login` is set for databases (secret), None for SSH."""

    session: Session
    grant: Grant
    target: Target
    level: Level
    recording: Recording
    record: Record  # the strictest of what the grant was given under and what policy says now
    login: DatabaseLogin | None


@dataclass(frozen=True, slots=True)
class Admitted:
    """Who came and under which grant. `judged` is for `open_session` at once, None where that has to ask itself."""

    user: User
    grant: Grant
    judged: Judged | None = None


def user_of_ticket(
    ctx: Context, user_name: str, ticket: str, target: str, door: Kind = Kind.POSTGRES, client: str = ""
) -> tuple[User, Grant]:
    """The person and grant behind a ticket presented at a door; Denied as `admit`."""
    admitted = admit(ctx, user_name, ticket, target, door, client)
    return admitted.user, admitted.grant


def admit(
    ctx: Context, user_name: str, ticket: str, target: str, door: Kind = Kind.POSTGRES, client: str = ""
) -> Admitted:
    """Who presents a ticket at a door; Denied when it is worth nothing there.

    One answer for every flaw, so that nothing can be learned by trying. `client` is the peer's `address:port`.
    """
    if (no := misplaced(ticket)) is not None:
        raise refuse_stranger(ctx, client, "session:denied", no, about={"principal": user_name, "target": target})
    digest = digest_of(ticket)
    return admit_ticket(ctx, lambda uow: uow.credentials.find(digest, "ticket"), user_name, target, door, client)


def admit_ticket(
    ctx: Context,
    find: Callable[[UnitOfWork], Credential | None],
    user_name: str,
    target: str,
    door: Kind = Kind.POSTGRES,
    client: str = "",
) -> Admitted:
    """Who has the ticket that `find` knows; one for a single use is used up by it.

    At the database door, where a ticket opens one session at once, that is judged in the same read: a transaction
    costs more than the questions in it. Not for a single use: using it up may have to wait for other writers.
    """
    about: journal.About = {"principal": user_name, "target": target}
    at = ctx.clock.now()
    known = ctx.catalogue.current().targets.get(target)
    with ctx.store.read() as uow:
        held = find(uow)
        in_use = uow.grants.in_use((held.data or {}).get("grant", "")) if held else None
        is_good = (
            held is not None
            and in_use is not None
            and held.issued_at <= at < held.expires_at
            and in_use.holder.name == user_name
            and in_use.holder.id == held.subject
            and in_use.grant.target == target
            and known is not None
            and known.kind is door  # the other door would not know what to do with it
        )
        judged = None
        if is_good and held and in_use and known and door is Kind.POSTGRES and not held.single_use:
            judged = judge_in(uow, ctx, in_use, known)
    if not is_good or held is None or in_use is None:
        raise refuse_stranger(ctx, client, "session:denied", _BAD_TICKET, about=about)
    grant = in_use.grant
    if held.single_use and not _claimed(ctx, held.digest):
        raise refuse_stranger(ctx, client, "session:denied", _BAD_TICKET, about={**about, "grant": grant.id})
    return Admitted(in_use.holder, grant, judged)


def refuse_level(ctx: Context, who: Admitted, level: str, client: str) -> GatewayError:
    """The "no" to a ticket that is good, but for another level than was asked for."""
    refusal = Refusal(
        "other-level",
        f"This ticket is for level {who.grant.level}, not for {level[:LONGEST_LEVEL]}.",
        ("a ticket for that level",),
        (f"gw connect {who.grant.target} --level {level[:LONGEST_LEVEL]} prints a ticket for that level.",),
    )
    return refuse_admitted(ctx, who, refusal, client)


def refuse_admitted(ctx: Context, who: Admitted, refusal: Refusal, client: str) -> GatewayError:
    """A "no" to somebody whose ticket is good, for a connection that cannot be as it was asked for."""
    about: journal.About = {"principal": who.user.name, "target": who.grant.target, "grant": who.grant.id}
    return journal.refuse(ctx, "session:denied", refusal, data={"client": client}, **about)


def grant_for(ctx: Context, user: User, target: str, level: str = "", kind: RequestKind | None = None) -> Grant:
    """The user's active grant for a target: of that level, else of the highest rank; Denied says how to get one.

    With a `kind`, one of that kind only.
    """
    found = find_target(ctx, user, target, "session:denied")
    if level:
        find_level(ctx, user, found, level, "session:denied")
    at = ctx.clock.now()
    with ctx.store.read() as uow:
        active = uow.grants.list(holder=user.id, target=target, active_at=at)
        mine = [g for g in active if g.level == level or (not level and g.level in found.levels)]
        mine = [g for g in mine if kind is None or g.kind is kind]
        if len(mine) > 1:  # one from before its level was changed is good for nothing, and hides no other
            mine = [g for g in mine if not _is_of_another_level(uow, g, found)] or mine
    if not mine:
        wanted = level or min(found.levels.values(), key=lambda each: each.rank).name
        refusal = Refusal(
            "no-grant",
            f"You have no active grant for {target}" + (f" at level {level}." if level else "."),
            ("an active grant",),
            (f'Ask for one: gw request {target} --level {wanted} --incident INC-… --reason "…" --for 1h',),
        )
        raise journal.refuse(ctx, "session:denied", refusal, principal=user.name, target=target)
    return max(mine, key=lambda g: (found.levels[g.level].rank, g.window.not_after))


def _is_of_another_level(uow: UnitOfWork, grant: Grant, target: Target) -> bool:
    in_use = uow.grants.in_use(grant.id)
    return in_use is not None and is_changed(target, grant.level, in_use.facts)


def open_session(ctx: Context, user: User, grant: Grant, client: str, judged: Judged | None = None) -> Opened:
    """Decide again with fresh facts (or as `judged` a moment ago), lease, open the recording, store `session:started`.

    The caller registers its `LiveSession` with `ctx.live.add(session.id, …)` at once and calls `end_session`
    exactly once afterwards. Raises Denied, NotFound or Unavailable; nothing is left behind then.
    """
    target = find_target(ctx, user, grant.target, "session:denied")
    level = find_level(ctx, user, target, grant.level, "session:denied")
    grant, permit = decide_connection(ctx, grant, target, judged)
    session = _begin(ctx, grant, target, client)
    login = lease_role(ctx, grant, target, level) if target.kind is Kind.POSTGRES else None
    mode = merge((grant.obligations, permit.obligations)).record
    recording = _record(ctx, session, mode)
    try:
        _start(ctx, session, permit)
    except GatewayError:
        recording.seal()
        raise
    ctx.live.expect_end(session.id, session.deadline)
    return Opened(session, grant, target, level, recording, mode, login)


def _begin(ctx: Context, grant: Grant, target: Target, client: str) -> Session:
    begun = begin(
        grant,
        session_id=ctx.ids.new("ses"),
        protocol=Protocol(target.kind.value),
        client=client,
        gateway=ctx.gateway,
        at=ctx.clock.now(),
    )
    if isinstance(begun, Refusal):
        raise journal.refuse(ctx, "session:denied", begun, **journal.about_grant(grant))
    return begun


def _record(ctx: Context, session: Session, mode: Record) -> Recording:
    def failed() -> None:
        ctx.live.terminate(session.id, EndReason.RECORDING_FAILED)

    try:
        return ctx.recorder.open(session, mode, failed)
    except RecordingFailed as why:
        refusal = Refusal(
            "recorder-unavailable",
            "This session cannot be recorded, so it is not opened.",
            next_steps=("Call the gateway's operators: its recording disk is full or failing.",),
        )
        raise journal.refuse(ctx, "session:denied", refusal, Unavailable, **journal.about_session(session)) from why


def _start(ctx: Context, session: Session, permit: Permit) -> None:
    data = {
        "level": session.level,
        "protocol": session.protocol.value,
        "client": session.client,
        "deadline": session.deadline.isoformat(),
        "policies": list(permit.policies),
        "policy_set": permit.policy_set,
        "facts": dict(permit.facts),
    }
    if session.protocol is Protocol.SSH:
        data["serial"] = str(certificate_serial(session.id))  # a number this large is no JSON number everywhere
    with ctx.store.begin() as uow:
        uow.sessions.add(session)
        noted = journal.append(ctx, uow, "session:started", **journal.about_session(session), data=data)
    try:
        journal.confirm_logged(ctx, noted)
    except Unavailable:
        store_end(ctx, session, EndReason.RECORDING_FAILED, "the log did not confirm", 0, "")
        raise


def _claimed(ctx: Context, digest: str) -> bool:
    with ctx.store.begin() as uow:
        return uow.credentials.claim(digest, "ticket", ctx.clock.now())
