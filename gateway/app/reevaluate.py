"""End live sessions when the right to them ends: revoked, over, killed, disabled, or no longer allowed by policy."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from gateway.app import journal
from gateway.app.context import Context
from gateway.app.decide_connection import decide_grant
from gateway.app.session_ports import LiveView
from gateway.core.decision import Deny
from gateway.core.grant import WARNINGS, Grant, due_warning
from gateway.core.session import EndReason, Session, idle_verdict, verdict


@dataclass(slots=True)
class _Told:
    """What the person in one session knows: until when, which warnings, whether it is locked, that it is idle."""

    deadline: datetime
    warnings: frozenset[timedelta] = frozenset()
    is_locked: bool = False
    of_idleness: bool = False
    cancel: str = ""


class Reevaluation:
    """Remembers what each live session was told; one per process."""

    def __init__(self) -> None:
        self._told: dict[str, _Told] = {}
        self._marks: Mapping[str, object] = {}
        self._views: dict[str, LiveView] = {}  # as of their marks

    def tick(self, ctx: Context, *, ask_policy: bool) -> None:
        """Judge every live session of this gateway. Cheap: one read; policy only when facts may have changed."""
        held = ctx.live.ids()
        if not held:
            self._told, self._marks, self._views = {}, {}, {}
            return
        at = ctx.clock.now()
        overdue = ctx.live.overdue(at)
        for session_id in overdue:  # from memory, before the store is asked: it may be away
            ctx.live.terminate(session_id, EndReason.GRANT_EXPIRED)
        held -= set(overdue)
        views = self._as_stored(ctx, held)
        for session_id in held - {view.session.id for view in views}:
            # Another gateway took this one for dead and closed the books on the session: so be it.
            ctx.live.terminate(session_id, EndReason.INTERRUPTED, "this gateway had lost its database for a while")
        alive = [view for view in views if not self._is_ended(ctx, view, at)]
        told = {view.session.id: self._told.get(view.session.id) or _Told(view.session.deadline) for view in alive}
        self._told = told  # and what is over is forgotten
        for view in alive:
            _tell(ctx, view, told[view.session.id], at)
        if ask_policy:
            end_no_longer_allowed(ctx, alive)

    def _as_stored(self, ctx: Context, held: frozenset[str]) -> list[LiveView]:
        """What is stored about those sessions now; only what has changed is read in full."""
        with ctx.store.read() as uow:
            marks = uow.sessions.live_marks(ctx.gateway)
            changed = [each for each in held & marks.keys() if marks[each] != self._marks.get(each)]
            fresh = uow.sessions.live_views(ctx.gateway, changed) if changed else ()
        for view in fresh:
            ctx.live.expect_end(view.session.id, view.session.deadline)
        known = {**self._views, **{view.session.id: view for view in fresh}}
        self._views = {each: known[each] for each in held & marks.keys() if each in known}
        self._marks = {each: marks[each] for each in self._views}
        return list(self._views.values())

    def _is_ended(self, ctx: Context, view: LiveView, at: datetime) -> bool:
        killed_by = view.session.kill_requested_by
        reason = verdict(view.grant, at, user_enabled=view.holder.is_enabled(), killed_by=killed_by)
        if reason is None:
            return False
        detail = f"by {killed_by}" if killed_by else view.grant.revoke_reason
        ctx.live.terminate(view.session.id, reason, detail)
        return True


def _tell(ctx: Context, view: LiveView, told: _Told, at: datetime) -> None:
    _tell_of_extension(ctx, view.session, told)
    _tell_of_end(ctx, view.session, told, at)
    _tell_of_lock(ctx, view.session, told)
    _cancel(ctx, view.session, told)
    _tell_of_idleness(ctx, view.session, told)


def _tell_of_extension(ctx: Context, session: Session, told: _Told) -> None:
    if session.deadline != told.deadline:
        told.deadline, told.warnings = session.deadline, frozenset()
        until = session.deadline.strftime("%H:%M UTC")
        ctx.live.warn(session.id, f"gateway: your grant was extended; this session now ends at {until}.")


def _tell_of_end(ctx: Context, session: Session, told: _Told, at: datetime) -> None:
    warning = due_warning(session.deadline, at, told.warnings)
    if warning is not None:
        told.warnings |= {w for w in WARNINGS if w >= warning}
        left = _span(session.deadline - at)
        ctx.live.warn(
            session.id,
            f"gateway: this session ends in {left}, with its grant. gw extend {session.grant} --for 1h asks for more.",
        )


def _tell_of_lock(ctx: Context, session: Session, told: _Told) -> None:
    if bool(session.locked_by) == told.is_locked:
        return
    told.is_locked = bool(session.locked_by)
    ctx.live.lock(session.id, locked=told.is_locked)
    locked = f"gateway: {session.locked_by} has locked this session: what you type is dropped until it is unlocked."
    ctx.live.warn(session.id, locked if told.is_locked else "gateway: this session is unlocked; you can type again.")


def _cancel(ctx: Context, session: Session, told: _Told) -> None:
    wish = session.cancel
    if wish is not None and wish.mark != told.cancel:
        told.cancel = wish.mark
        ctx.live.cancel(session.id, wish.by, wish.n)


def _tell_of_idleness(ctx: Context, session: Session, told: _Told) -> None:
    """End it, or say once that it will end, if its level has a limit and nothing comes from the person."""
    limit = _idle_limit(ctx, session)
    if limit is None:
        return
    due = idle_verdict(ctx.live.idle_for(session.id), limit)
    if isinstance(due, EndReason):
        ctx.live.terminate(session.id, due, f"idle for {_span(limit)}")
    elif due is None:
        told.of_idleness = False
    elif not told.of_idleness:
        told.of_idleness = True
        ctx.live.warn(session.id, f"gateway: nothing was typed for a while; this session ends in {_span(due)}.")


def _idle_limit(ctx: Context, session: Session) -> timedelta | None:
    target = ctx.catalogue.current().targets.get(session.target)
    level = target.levels.get(session.level) if target else None
    return level.ssh.idle_timeout if level else None


def _span(span: timedelta) -> str:
    seconds = max(1, round(span.total_seconds()))
    return f"{round(seconds / 60)} min" if seconds > 90 else f"{seconds} s"


def end_no_longer_allowed(ctx: Context, views: Iterable[LiveView]) -> None:
    """Ask policy once per grant, with fresh facts; its sessions end when it says no."""
    by_grant: dict[str, list[LiveView]] = {}
    for view in views:
        by_grant.setdefault(view.grant.id, []).append(view)
    ended: list[tuple[Grant, str]] = []
    for held in by_grant.values():
        grant = held[0].grant
        target = ctx.catalogue.current().targets.get(grant.target)
        decision = decide_grant(ctx, grant, target) if target else None
        if decision is not None and not isinstance(decision, Deny):
            continue
        why = decision.refusal.message if decision else f"{grant.target} is no longer in the catalogue."
        for view in held:
            ctx.live.terminate(view.session.id, EndReason.POLICY_CHANGED, why)
        ended.append((grant, why))
    for grant, why in ended:  # last: no end waits for the store
        journal.record(ctx, "session:no-longer-allowed", "denied", **journal.about_grant(grant), data={"message": why})
