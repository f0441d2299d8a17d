"""SQL of a pipeline on a database, by a role that lives for this step alone: it may change the schema, not read rows.

What PostgreSQL can hold such a role to, and what not, is in docs/deploy.md. Two things are looked at before anything
runs: that the role reads no row that is there, and afterwards that what it made belongs to its owner again.
"""

from collections.abc import Callable
from dataclasses import replace

from gateway.app import journal
from gateway.app.context import Context
from gateway.app.deploy_ports import Ended, Job, Stop
from gateway.app.deploy_session import session_of
from gateway.app.lease_role import place_of
from gateway.core.errors import Denied, GatewayError, Refusal, Unavailable
from gateway.core.rollout import Run, Step
from gateway.core.session import Protocol
from gateway.core.target import Level, Target
from gateway.core.verb import Verb


def run_migration(
    ctx: Context,
    run: Run,
    step: Step,
    target: Target,
    verb: Verb,
    script: bytes,
    *,
    output: Callable[[str, bytes], None],
    on_start: Callable[[Stop], None],
) -> Ended:
    """Make the role, run the script, hand over what it made, drop the role. A "no" comes before anything was run."""
    runner, access = ctx.deploys.for_sql()
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
        drop_role(ctx, run, replace(step, role=role))
    return _handed_over(ctx, run, step, target, verb, ended)


def _handed_over(ctx: Context, run: Run, step: Step, target: Target, verb: Verb, ended: Ended) -> Ended:
    """Also after a failure: without a transaction half of a script may have made something."""
    _, access = ctx.deploys.for_sql()
    try:
        made = access.hand_over(target, verb.account, verb.owner)
    except Unavailable as why:
        return replace(
            ended, status=ended.status or 1, detail=f"what it made was not handed over: {why.refusal.message}"
        )
    if made:
        data = {"run": run.id, "from": verb.account, "to": verb.owner, "objects": list(made)}
        journal.record(ctx, "deploy:handed-over", "ok", data, target=target.name, session=step.session)
    return ended


def drop_role(ctx: Context, run: Run, step: Step) -> bool:
    """Drop a migration's role; False when it may still be there. What fails is tried again by `reap_roles`."""
    data: dict[str, object] = {"run": run.id, "role": step.role}
    about: journal.About = {"target": step.target, "session": step.session}
    target = ctx.catalogue.current().targets.get(step.target)
    try:
        if target is None:
            return False
        journal.act(ctx, "lease:dropped", lambda: ctx.roles.revoke(target, step.role), data, **about)
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
