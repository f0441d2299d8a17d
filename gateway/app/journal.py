"""The only way to act: attempt event → effect → outcome event. What cannot be stored does not happen."""

from collections.abc import Callable, Iterable, Mapping
from typing import TypedDict, TypeVar, Unpack

from gateway.app import attempts
from gateway.app.context import Context
from gateway.app.ports import UnitOfWork
from gateway.core.errors import Denied, GatewayError, Refusal, Unavailable
from gateway.core.event import Event
from gateway.core.grant import Grant
from gateway.core.principal import User
from gateway.core.session import Session

T = TypeVar("T")
MOST_REFUSALS = 1_000  # of a person who is known, within `attempts.WINDOW`; strangers: `refuse_stranger`
LONGEST_NAME = 200  # of what a stranger typed and an event repeats


class About(TypedDict, total=False):
    """Whom and what an event is about; every field is optional."""

    principal: str
    target: str
    request: str
    grant: str
    session: str


Facts = Mapping[str, object]
NOTHING: Facts = {}


def event(ctx: Context, type: str, outcome: str = "ok", data: Facts = NOTHING, **about: Unpack[About]) -> Event:
    """An event of this gateway, now."""
    return Event(
        id=ctx.ids.new("evt"),
        at=ctx.clock.now(),
        type=type,
        source=f"gateway/{ctx.gateway}",
        outcome=outcome,
        principal=about.get("principal", "")[:LONGEST_NAME],
        target=about.get("target", "")[:LONGEST_NAME],
        request=about.get("request", ""),
        grant=about.get("grant", ""),
        session=about.get("session", ""),
        data=data,
    )


def record(ctx: Context, type: str, outcome: str = "ok", data: Facts = NOTHING, **about: Unpack[About]) -> str:
    """Store one event in a transaction of its own; its id. Raises Unavailable when it cannot be stored."""
    entry = event(ctx, type, outcome, data, **about)
    with ctx.store.begin() as uow:
        uow.events.append(entry)
    return entry.id


def append(
    ctx: Context, uow: UnitOfWork, type: str, outcome: str = "ok", data: Facts = NOTHING, **about: Unpack[About]
) -> str:
    """Store one event with the state that it tells about; its id."""
    entry = event(ctx, type, outcome, data, **about)
    uow.events.append(entry)
    return entry.id


def append_each(
    ctx: Context, uow: UnitOfWork, type: str, told: Iterable[Facts], outcome: str = "ok", **about: Unpack[About]
) -> None:
    """Store an event for each of many facts, in one go: for what changes many people at once."""
    uow.events.append_each([event(ctx, type, outcome, data, **about) for data in told])


def act(ctx: Context, type: str, effect: Callable[[], T], data: Facts = NOTHING, **about: Unpack[About]) -> T:
    """Do something outside the store: the attempt is stored first, the outcome after.

    An expected failure (GatewayError) is recorded and raised again; a crash leaves the attempt as witness.
    """
    record(ctx, type, "attempt", data, **about)
    try:
        result = effect()
    except GatewayError as no:
        record(ctx, type, "failed", {**data, "code": no.refusal.code, "message": no.refusal.message}, **about)
        raise
    record(ctx, type, "ok", data, **about)
    return result


def refuse(
    ctx: Context,
    type: str,
    refusal: Refusal,
    kind: Callable[[Refusal], GatewayError] = Denied,
    data: Facts = NOTHING,
    **about: Unpack[About],
) -> GatewayError:
    """Store a "no" and make the exception that carries it, for the caller to raise.

    The log only grows: of one kind of event a person may cause so many within a window, and the last says so.
    """
    said = {**data, "code": refusal.code, "message": refusal.message}
    with ctx.store.begin() as uow:
        times = attempts.count(uow, f"told:{type}:person:{about.get('principal', '')}", ctx.clock.now())
        if times == MOST_REFUSALS:
            said["is_last_told"] = True
        if times <= MOST_REFUSALS:
            append(ctx, uow, type, "denied", said, **about)
    return kind(refusal)


def confirm_logged(ctx: Context, *event_ids: str) -> None:
    """Wait until events are leaves under a signed checkpoint; Unavailable when the log is too slow."""
    if not ctx.log.wait_included(event_ids, ctx.limits.log_wait):
        raise Unavailable(
            Refusal(
                "log-unavailable",
                "The audit log does not confirm, and nothing is released without it.",
                next_steps=("Try again in a moment; if it stays so, call the gateway's operators.",),
            )
        )


def about_grant(grant: Grant) -> About:
    """The fields that tie an event to a grant."""
    return {"principal": grant.holder_name, "target": grant.target, "request": grant.request, "grant": grant.id}


def about_session(session: Session) -> About:
    """The fields that tie an event to a session."""
    return {
        "principal": session.holder_name,
        "target": session.target,
        "grant": session.grant,
        "session": session.id,
    }


def about_user(user: User) -> About:
    """The field that names a person."""
    return {"principal": user.name}
