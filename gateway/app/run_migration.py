"""SQL of a pipeline on a database, by a role that lives for this step alone: it may change the schema, not read rows.

What PostgreSQL can hold such a role to, and what not, is in docs/deploy.md. Looked at before anything runs: that the
role reads no row that is there and can act with nobody else's rights; afterwards what it made is disarmed and belongs
to its owner again.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial

from gateway.app import journal
from gateway.app.context import Context
from gateway.app.deploy_ports import Ended, Job, SqlAccess, Stop
from gateway.app.deploy_session import session_of
from gateway.app.lease_role import note_rolled_back, place_of
from gateway.core.errors import Denied, GatewayError, Refusal, Unavailable
from gateway.core.rollout import Run, Step
from gateway.core.session import Protocol
from gateway.core.target import Level, Target
from gateway.core.verb import Verb

Output = Callable[[str, bytes], None]


def run_migration(
    ctx: Context,
    run: Run,
    step: Step,
    target: Target,
    verb: Verb,
    script: bytes,
    *,
    output: Output,
    on_start: Callable[[Stop], None],
) -> Ended:
    """Make the role, run the script, hand over what it made, drop the role. A "no" comes before anything was run."""
    runner, access = ctx.deploys.for_sql()
    _nothing_is_left(ctx, target)
    _sees_nothing(access, target, verb)
    role = f"gw_migrate_{run.id.removeprefix('run_')[-20:]}_{step.place}"
    about: journal.About = {"principal": run.principal_name, "target": target.name, "session": step.session}
    data: dict[str, object] = {"run": run.id, "role": role, "account": verb.account, "place": place_of(target)}
    with ctx.store.begin() as uow:
        uow.deploys.set_role(replace(step, role=role))
        journal.append(ctx, uow, "lease:created", "attempt", data, **about)
    level = Level(f"verb:{verb.name}", verb.account, 0, connection_limit=1, statement_timeout=verb.timeout)
    login = ctx.roles.create(target, level, role, run.deadline)
    journal.record(ctx, "lease:created", "ok", data, **about)
    try:
        job = Job(
            session_of(run, step, Protocol.POSTGRES),
            target,
            login.role,
            "",
            script,
            login.password,
            verb.in_transaction,
        )
        ended = runner.run(job, output, on_start)
    finally:
        is_gone = drop_role(ctx, run, replace(step, role=role))
    if not is_gone:
        return _unfinished(ended, "its role is not dropped yet, so what it made was not handed over", output)
    return _handed_over(ctx, run, step, target, verb, ended, output)


def _nothing_is_left(ctx: Context, target: Target) -> None:
    """No other migration's session may still be at work: its role could not be dropped, so nobody knows."""
    with ctx.store.read() as uow:
        left = [(uow.deploys.get(step.run), step) for step in uow.deploys.steps_with_roles()]
    for run, step in left:
        if step.target == target.name and (run is None or not drop_role(ctx, run, step)):
            message = f"The role of an earlier migration is still on {target.name} and may be at work."
            raise Unavailable(
                Refusal("migration-left", message, (), ("Try again in a minute; it is dropped as soon as that works.",))
            )


def _sees_nothing(access: SqlAccess, target: Target, verb: Verb) -> None:
    seen = access.readable(target, verb.account)
    if seen:
        raise Denied(
            Refusal(
                "migration-reads",
                f"{verb.account} may read {', '.join(seen[:5])} on {target.name}, and a migration may not read data.",
                (f"no SELECT for {verb.account}",),
                ("REVOKE it from the role and from PUBLIC; docs/deploy.md says how.",),
            )
        )
    reached = access.reachable(target, verb.account)
    if reached:
        raise Denied(
            Refusal(
                "migration-reaches",
                f"{verb.account} has {'; '.join(reached[:5])} on {target.name}, "
                "and a migration may not act with others' rights.",
                (f"nothing of others that {verb.account} could act through",),
                ("REVOKE it from the role and from PUBLIC; docs/deploy.md says how.",),
            )
        )


def _handed_over(ctx: Context, run: Run, step: Step, target: Target, verb: Verb, ended: Ended, output: Output) -> Ended:
    """Also after a failure: without a transaction half of a script may have made something.

    The script has run: whatever fails here, what it did is done, and no exception may say otherwise.
    """
    _, access = ctx.deploys.for_sql()
    data: dict[str, object] = {"run": run.id, "from": verb.account, "to": verb.owner}
    about: journal.About = {"target": target.name, "session": step.session}
    try:
        owned = access.owned(target, verb.account, verb.owner)
        if not owned:
            return ended
        journal.record(ctx, "deploy:handed-over", "attempt", {**data, "objects": list(owned)}, **about)
    except GatewayError as why:
        return _unfinished(ended, f"what it made was not handed over: {why.refusal.message}", output)
    try:
        handed = access.hand_over(target, verb.account, verb.owner)
    except GatewayError as why:
        _note_failure(ctx, data, why, about)
        return _unfinished(ended, f"what it made was not handed over: {why.refusal.message}", output)
    for line in handed.changed:
        output("err", f"NOTE: {line}\n".encode())
    told = {**data, "objects": list(handed.made), "kept": list(handed.kept), "changed": list(handed.changed)}
    try:
        journal.record(ctx, "deploy:handed-over", "failed" if handed.kept else "ok", told, **about)
    except GatewayError as why:
        return _unfinished(ended, f"what it made was handed over, and no event says so: {why.refusal.message}", output)
    if handed.kept:
        return _unfinished(ended, f"not handed over: {'; '.join(handed.kept[:5])}", output)
    return ended


def _note_failure(ctx: Context, data: dict[str, object], why: GatewayError, about: journal.About) -> None:
    """The attempt is stored; when the outcome cannot be, the attempt stands alone as witness."""
    with suppress(GatewayError):
        told = {**data, "code": why.refusal.code, "message": why.refusal.message}
        journal.record(ctx, "deploy:handed-over", "failed", told, **about)


def _unfinished(ended: Ended, why: str, output: Output) -> Ended:
    """The script has ended as it has; the step has not succeeded, and says why."""
    output("err", f"WARNING: {why}\n".encode())
    detail = f"{ended.detail}; {why}" if ended.detail else why
    return replace(ended, status=ended.status or 1, detail=detail)


def drop_role(ctx: Context, run: Run, step: Step) -> bool:
    """Drop a migration's role; False when it may still be there. What fails is tried again by `reap_roles`."""
    data: dict[str, object] = {"run": run.id, "role": step.role}
    about: journal.About = {"target": step.target, "session": step.session}
    target = ctx.catalogue.current().targets.get(step.target)
    try:
        if target is None:
            return False
        before = partial(note_rolled_back, ctx, data, about)
        journal.act(ctx, "lease:dropped", lambda: ctx.roles.revoke(target, step.role, before), data, **about)
        with ctx.store.begin() as uow:
            uow.deploys.role_is_gone(step)
    except GatewayError:
        return False
    return True


def reap_roles(ctx: Context) -> int:
    """Drop the roles of steps that are over and whose own drop failed; how many are left."""
    with ctx.store.read() as uow:
        left = [(uow.deploys.get(step.run), step) for step in uow.deploys.steps_with_roles()]
    return sum(run is None or not drop_role(ctx, run, step) for run, step in left)
