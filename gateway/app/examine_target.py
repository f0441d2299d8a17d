"""Does a target let the gateway do its work? Makes, uses, revokes and drops a role there, and says what is in the way.

The trial role goes through the code that sessions use. It is good for minutes, and belongs to whoever examines next:
its name begins with `gw_trial_`, so that one left behind by a crash or a failed drop is found and dropped then.
"""

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta

from gateway.app import journal
from gateway.app.authorise import authorise, find_target
from gateway.app.context import Context
from gateway.app.doctor_ports import Finding, TrialSession
from gateway.app.facts import Question, gather
from gateway.app.lease_role import place_of
from gateway.app.log_ports import EventFilter
from gateway.core.decision import Action
from gateway.core.errors import Conflict, GatewayError, Refusal
from gateway.core.event import Event
from gateway.core.principal import User
from gateway.core.target import Kind, Level, Target

TRIAL_PREFIX = "gw_trial_"
TRIAL_LIFETIME = timedelta(minutes=5)
AGAIN_AFTER = timedelta(hours=24)
AGAIN_AFTER_FAILURE = timedelta(hours=1)
_MOST_ZOMBIES = 20


@dataclass(frozen=True, slots=True)
class Examination:
    """`findings` in the order in which the gateway would need them."""

    target: str
    at: datetime
    findings: tuple[Finding, ...]

    @property
    def is_sound(self) -> bool:
        """True when nothing is in the way."""
        return all(finding.ok for finding in self.findings)

    @property
    def warnings(self) -> Sequence[Finding]:
        """What is not in the way, and to be looked at."""
        return [finding for finding in self.findings if finding.is_warning]


def examine_target(ctx: Context, user: User, name: str) -> Examination:
    """What somebody asks for. Raises NotFound, Denied, Conflict (no database), Unavailable (examined right now)."""
    target = find_target(ctx, user, name, "target:examined")
    authorise(ctx, user, Action.EXAMINE, target, gather(ctx, Question(user, target, "", ctx.clock.now())))
    if target.kind is not Kind.POSTGRES:
        no = Refusal("not-a-database", f"{target.name} is no database: only databases are examined.")
        raise journal.refuse(ctx, "target:examined", no, Conflict, principal=user.name, target=target.name)
    return _examine(ctx, target, user.name)


def examine_due(ctx: Context) -> int:
    """The daily round: targets not examined for a day, or never as they are now; how many were examined.

    What the log says is shared by all gateways, and so is the work.
    """
    done = 0
    for target in ctx.catalogue.current().targets.values():
        if target.kind is not Kind.POSTGRES:
            continue
        found = ctx.log.search(EventFilter(target=target.name, type="target:examined", limit=20))
        last = next((stored.event for stored in found if stored.event.outcome != "denied"), None)
        if _is_due(ctx, target, last):
            _tell(ctx, target, _examine(ctx, target, ""), last)
            done += 1
    return done


def _is_due(ctx: Context, target: Target, last: Event | None) -> bool:
    if last is None or last.data.get("as") != _as_declared(target):
        return True
    pause = AGAIN_AFTER if last.outcome == "ok" else AGAIN_AFTER_FAILURE
    return last.at + pause <= ctx.clock.now()


def _as_declared(target: Target) -> str:
    """What an examination depends on: a change here makes it worthless."""
    levels = ",".join(f"{level.name}={level.account}{_extras(level)}" for level in target.levels.values())
    return f"{place_of(target)} tls={target.tls} {levels}"


def _extras(level: Level) -> str:
    masks = f" masks {' '.join(sorted('.'.join(name) for name in level.masks))}" if level.masks else ""
    return masks + (" replication" if level.replication else "")


def _tell(ctx: Context, target: Target, examination: Examination, last: Event | None) -> None:
    """Of what is wrong each time; of a warning when the examination before did not say the same."""
    fields = {"target": target.name, "next": f"gw target doctor {target.name}"}
    if not examination.is_sound:
        body = "\n".join(_texts([finding for finding in examination.findings if not finding.ok])[:10])
        ctx.notifier.notify("default", f"{target.name} does not let the gateway do all of its work", body, fields)
    warnings = _texts(examination.warnings)
    if warnings and (last is None or last.data.get("warnings") != warnings):
        body = "\n".join(warnings[:10])
        ctx.notifier.notify("default", f"{target.name} lets levels do more than their groups may", body, fields)


def _texts(findings: Sequence[Finding]) -> list[str]:
    return [f"{finding.what} {finding.of}: {finding.problem}" for finding in findings]


def _examine(ctx: Context, target: Target, by: str) -> Examination:
    about: journal.About = {"principal": by, "target": target.name}
    told: dict[str, object] = {"as": _as_declared(target)}
    with ctx.logins.turn(f"trial of {target.name}", target.name):
        journal.record(ctx, "target:examined", "attempt", told, **about)
        findings = tuple(_findings(ctx, target))
    examination = Examination(target.name, ctx.clock.now(), findings)
    wrong = [asdict(finding) for finding in findings if not finding.ok]
    outcome = "ok" if examination.is_sound else "failed"
    told |= {"findings": len(findings), "wrong": wrong, "warnings": _texts(examination.warnings)}
    journal.record(ctx, "target:examined", outcome, told, **about)
    return examination


def _findings(ctx: Context, target: Target) -> Iterator[Finding]:
    rights = ctx.doctor.rights(target)
    yield from rights
    reached = ctx.doctor.reach(target)
    yield reached
    yield from _zombies(ctx, target)
    if not rights[0].ok:  # without an administrator nothing can be made
        return
    yield from _clear_leftovers(ctx, target)
    for level in target.levels.values():
        yield from _try_level(ctx, target, level)


def _zombies(ctx: Context, target: Target) -> Iterator[Finding]:
    """Roles of grants that are over which do not go. The reaper goes on trying; somebody should know until they do."""
    with ctx.store.read() as uow:
        found = [each for each in uow.leases.unfinished() if (each.state, each.target) == ("zombie", target.name)]
    for lease in found[:_MOST_ZOMBIES]:
        name = f'"{lease.name}"'
        remedy = (
            f"REASSIGN OWNED BY {name} TO …; DROP OWNED BY {name}; DROP ROLE {name};  -- in each database of the server"
        )
        yield Finding("zombie", lease.name, ok=True, problem=lease.last_error, remedy=(remedy,))


def _clear_leftovers(ctx: Context, target: Target) -> Iterator[Finding]:
    """Trial roles of examinations that did not come to their end. One under way elsewhere has a younger name."""
    try:
        names = ctx.roles.roles_of(target, TRIAL_PREFIX)
    except GatewayError:
        return  # the administrator's finding says so
    for name in names:
        if _is_over(name, ctx.clock.now()):
            yield from _revoked(ctx, target, name, "leftover", name)


def _is_over(name: str, at: datetime) -> bool:
    made = name.removeprefix(TRIAL_PREFIX).partition("_")[0]
    return not made.isdigit() or int(made) + TRIAL_LIFETIME.total_seconds() < at.timestamp()


def _try_level(ctx: Context, target: Target, level: Level) -> Sequence[Finding]:
    at = ctx.clock.now()
    role = f"{TRIAL_PREFIX}{int(at.timestamp())}_{ctx.ids.new('lse')[-12:]}"
    try:
        login = ctx.roles.create(target, level, role, at + TRIAL_LIFETIME)
    except GatewayError as why:  # it may be there all the same
        return (_no("create", level.name, why), *_revoked(ctx, target, role, "revoke", level.name))
    made = Finding("create", level.name, ok=True)
    try:
        session = ctx.doctor.open(target, level, login)
    except GatewayError as why:
        return (made, _no("use", level.name, why), *_revoked(ctx, target, role, "revoke", level.name))
    used = Finding("use", level.name, ok=True)
    with closing(session):
        revoked = _revoked(ctx, target, role, "revoke", level.name)
        return (made, used, *_masked(level, session), _terminated(level, is_ended=session.ended()), *revoked)


def _masked(level: Level, session: TrialSession) -> Sequence[Finding]:
    if not level.masks:
        return ()
    problem = session.masks_problem
    remedy = ("Nobody gets in at this level until the catalogue's masks name columns that the database has.",)
    return (Finding("masks", level.name, not problem, problem, remedy if problem else ()),)


def _terminated(level: Level, *, is_ended: bool) -> Finding:
    problem = "" if is_ended else "The session of a revoked role went on."
    remedy = () if is_ended else ("GRANT pg_signal_backend TO …;  -- the gateway's administrator",)
    return Finding("terminate", level.name, is_ended, problem, remedy)


def _revoked(ctx: Context, target: Target, role: str, what: str, of: str) -> Sequence[Finding]:
    try:
        ctx.roles.revoke(target, role)
    except GatewayError as why:
        return (_no(what, of, why, f'DROP OWNED BY "{role}"; DROP ROLE "{role}";  -- if it is still there'),)
    return (Finding(what, of, ok=True),)


def _no(what: str, of: str, why: GatewayError, *remedy: str) -> Finding:
    return Finding(what, of, ok=False, problem=why.refusal.message, remedy=remedy)
