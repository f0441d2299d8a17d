"""End live sessions when the right to them ends: revoked, over, killed, disabled, or no longer allowed by policy."""

from collections.abc import Iterable
from datetime import datetime, timedelta

from gateway.app import journal
from gateway.app.context import Context
from gateway.app.decide_connection import decide_grant
from gateway.app.ports import LiveView
from gateway.core.decision import Deny
from gateway.core.grant import due_warning
from gateway.core.session import EndReason, verdict


class Reevaluation:
    """Remembers which warnings were given; one per process."""

    def __init__(self) -> None:
        self._warned: dict[str, frozenset[timedelta]] = {}

    def tick(self, ctx: Context, *, ask_policy: bool) -> None:
        """Judge every live session of this gateway. Cheap: one read; policy only when facts may have changed."""
        held = ctx.live.ids()
        if not held:
            self._warned.clear()
            return
        with ctx.store.read() as uow:
            views = [v for v in uow.sessions.live_views(ctx.gateway) if v.session.id in held]
        at = ctx.clock.now()
        alive = [view for view in views if not self._is_ended(ctx, view, at)]
        for view in alive:
            self._warn(ctx, view, at)
        if ask_policy:
            end_no_longer_allowed(ctx, alive)

    def _is_ended(self, ctx: Context, view: LiveView, at: datetime) -> bool:
        killed_by = view.session.kill_requested_by
        reason = verdict(view.grant, at, user_enabled=view.holder.is_enabled(), killed_by=killed_by)
        if reason is None:
            return False
        detail = f"by {killed_by}" if killed_by else view.grant.revoke_reason
        ctx.live.terminate(view.session.id, reason, detail)
        return True

    def _warn(self, ctx: Context, view: LiveView, at: datetime) -> None:
        given = self._warned.get(view.session.id, frozenset())
        warning = due_warning(view.session.deadline, at, given)
        if warning is None:
            return
        self._warned[view.session.id] = given | {w for w in (warning, timedelta(minutes=5)) if w >= warning}
        left = max(1, round((view.session.deadline - at).total_seconds()))
        told = f"{round(left / 60)} min" if left > 90 else f"{left} s"
        ctx.live.warn(view.session.id, f"gateway: this session ends in {told}, with its grant. gw request asks anew.")


def end_no_longer_allowed(ctx: Context, views: Iterable[LiveView]) -> None:
    """Ask policy once per grant, with fresh facts; its sessions end when it says no."""
    by_grant: dict[str, list[LiveView]] = {}
    for view in views:
        by_grant.setdefault(view.grant.id, []).append(view)
    for held in by_grant.values():
        grant = held[0].grant
        target = ctx.catalogue.current().targets.get(grant.target)
        decision = decide_grant(ctx, grant, target) if target else None
        if decision is not None and not isinstance(decision, Deny):
            continue
        why = decision.refusal.message if decision else f"{grant.target} is no longer in the catalogue."
        journal.record(ctx, "session:no-longer-allowed", "denied", **journal.about_grant(grant), data={"message": why})
        for view in held:
            ctx.live.terminate(view.session.id, EndReason.POLICY_CHANGED, why)
