"""The API's shapes for deploys."""

from base64 import b64decode
from binascii import Error as Base64Error
from datetime import datetime
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, StringConstraints, field_validator

from gateway.app.ask_deploy import DeployAsk
from gateway.app.show_deploys import TargetView, VerbView
from gateway.core.freeze import Freeze
from gateway.core.rollout import Run, Step
from gateway.core.verb import takes
from gateway.edges.http.schemas import Name, Schema, Sentence

Value = Annotated[str, StringConstraints(max_length=1000)]
LONGEST_INPUT = 1_400_000  # of base64: a MiB


class DeployIn(Schema):
    """What is to be run. `input` is base64: a migration's SQL, or what a command reads."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"verb": "deploy", "targets": ["web"], "parameters": {"version": "1.4.2"}}]}
    )

    verb: Name
    targets: Annotated[list[Name], Field(min_length=1, max_length=64)]
    parameters: Annotated[dict[Name, Value], Field(max_length=32)] = Field(default_factory=dict)
    to: Literal["", "previous"] = ""
    key: Annotated[str, StringConstraints(max_length=200)] = ""
    override: bool = False
    incident: Annotated[str, StringConstraints(max_length=128)] = ""
    reason: Sentence = ""
    input: Annotated[str, StringConstraints(max_length=LONGEST_INPUT)] = ""

    @field_validator("input")
    @classmethod
    def _is_base64(cls, text: str) -> str:
        try:
            b64decode(text, validate=True)
        except Base64Error:
            raise ValueError("is not base64") from None
        return text

    @field_validator("reason")
    @classmethod
    def _is_printable(cls, text: str) -> str:
        if not text.isprintable():
            raise ValueError("must be one line of plain text")
        return text

    def ask(self, client: str) -> DeployAsk:
        """The same, as the use case knows it."""
        return DeployAsk(
            verb=self.verb,
            names=tuple(self.targets),
            parameters=self.parameters,
            to=self.to,
            key=self.key,
            override=self.override,
            incident=self.incident,
            reason=self.reason,
            input=b64decode(self.input),
            client=client,
        )


class StepOut(Schema):
    """One target's part of a run."""

    target: str
    state: str
    session: str
    started_at: datetime | None
    ended_at: datetime | None
    exit_status: int | None
    detail: str

    @classmethod
    def of(cls, step: Step) -> "StepOut":
        """From the core's value."""
        return cls(
            target=step.target,
            state=step.state.value,
            session=step.session,
            started_at=step.started_at,
            ended_at=step.ended_at,
            exit_status=step.exit_status,
            detail=step.detail,
        )


class RunOut(Schema):
    """One run; `steps` only where one run was asked for."""

    run: str
    verb: str
    targets: list[str]
    parameters: dict[str, str]
    version: str
    is_rollback: bool
    by: str
    by_kind: str
    pipeline: dict[str, str]
    state: str
    exit_status: int | None
    detail: str
    started_at: datetime
    ended_at: datetime | None
    deadline: datetime
    grant: str
    incident: str
    reason: str
    steps: list[StepOut] = Field(default_factory=list)

    @classmethod
    def of(cls, run: Run, steps: "tuple[Step, ...] | list[Step]" = ()) -> "RunOut":
        """From the core's values."""
        return cls(
            run=run.id,
            verb=run.verb,
            targets=list(run.targets),
            parameters=dict(run.parameters),
            version=run.version,
            is_rollback=run.is_rollback,
            by=run.principal_name,
            by_kind=run.principal_kind,
            pipeline=dict(run.pipeline),
            state=run.state.value,
            exit_status=run.exit_status,
            detail=run.detail,
            started_at=run.started_at,
            ended_at=run.ended_at,
            deadline=run.deadline,
            grant=run.grant,
            incident=run.incident,
            reason=run.reason,
            steps=[StepOut.of(step) for step in steps],
        )


class ParameterOut(Schema):
    """What a parameter takes."""

    type: str
    takes: str
    default: str | None
    description: str


class FreezeOut(Schema):
    """A freeze that is in force."""

    name: str
    until: datetime
    by: str
    reason: str

    @classmethod
    def of(cls, freeze: Freeze) -> "FreezeOut":
        """From the core's value."""
        return cls(name=freeze.name, until=freeze.window.not_after, by=freeze.by, reason=freeze.reason)


class VerbOut(Schema):
    """One verb of one target."""

    target: str
    groups: list[str]
    verb: str
    description: str
    parameters: dict[str, ParameterOut]
    account: str
    timeout_s: int
    rollback: str
    takes_input: bool
    freezes: list[FreezeOut]

    @classmethod
    def of(cls, view: VerbView) -> "VerbOut":
        """From the use case's view."""
        verb = view.verb
        return cls(
            target=view.target.name,
            groups=list(view.groups),
            verb=verb.name,
            description=verb.description,
            parameters={
                name: ParameterOut(type=p.type.value, takes=takes(p), default=p.default, description=p.description)
                for name, p in verb.parameters.items()
            },
            account=verb.account,
            timeout_s=int(verb.timeout.total_seconds()),
            rollback=verb.rollback,
            takes_input=verb.input_limit > 0,
            freezes=[FreezeOut.of(freeze) for freeze in view.freezes],
        )


class LockOut(Schema):
    """Whose run has a target to itself."""

    run: str
    verb: str
    by: str
    since: datetime
    until: datetime


class PlacedOut(Schema):
    """What runs on one target, as far as the gateway has put it there. `certain` false: the last run broke."""

    target: str
    environment: str
    version: str
    certain: bool
    attempted: str
    previous: str
    trail: list[str]
    run: str
    by: str
    at: datetime | None
    lock: LockOut | None
    freezes: list[FreezeOut]

    @classmethod
    def of(cls, view: TargetView) -> "PlacedOut":
        """From the use case's view."""
        placed, lock = view.placement, view.lock
        return cls(
            target=view.target.name,
            environment=view.target.environment,
            version=placed.current() if placed else "",
            certain=placed.is_certain() if placed else False,
            attempted=placed.attempted if placed else "",
            previous=placed.previous() if placed else "",
            trail=list(placed.trail) if placed else [],
            run=placed.run if placed else "",
            by=placed.by if placed else "",
            at=placed.at if placed else None,
            lock=LockOut(run=lock.run, verb=lock.verb, by=lock.holder, since=lock.taken_at, until=lock.until)
            if lock
            else None,
            freezes=[FreezeOut.of(freeze) for freeze in view.freezes],
        )
