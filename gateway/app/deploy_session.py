"""A step of a run as the session that its recording is of, so that what replays sessions replays deploys."""

from gateway.core.rollout import Run, Step
from gateway.core.session import EndReason, Protocol, Session


def session_of(run: Run, step: Step, protocol: Protocol = Protocol.SSH) -> Session:
    """A step as the session that its recording is of. It has no grant of its own unless it is an override."""
    return Session(
        id=step.session,
        grant=run.grant or run.id,
        holder=run.principal,
        holder_name=run.principal_name,
        target=step.target,
        level=f"verb:{run.verb}",
        protocol=protocol,
        client=run.client,
        gateway=run.gateway,
        started_at=step.started_at or run.started_at,
        deadline=run.deadline,
        ended_at=step.ended_at,
        end_reason=EndReason.TARGET_CLOSED if step.ended_at else None,
        recording_digest=step.recording_digest,
    )
