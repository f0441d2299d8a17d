"""Questions about what policy would say, and the answers."""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, StringConstraints, model_validator

from gateway.core.decision import Decision
from gateway.edges.http.schemas import DecisionOut, Name, ObligationsOut, Schema


class QuestionIn(Schema):
    """`as` "" is yourself; `on_call` null takes the rota's word, else supposes it. Either `level` or `verb`."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"as": "oncall", "target": "orders-db", "level": "read", "on_call": True}]}
    )

    as_name: Annotated[str, Field(alias="as", max_length=128)] = ""
    target: Name
    level: Name | Literal[""] = ""
    verb: Name | Literal[""] = ""
    incident: Annotated[str, StringConstraints(max_length=128)] = ""
    on_call: bool | None = None
    break_glass: bool = False
    override: bool = False
    to_previous: bool = False
    pipeline: bool = False

    @model_validator(mode="after")
    def _one_kind(self) -> "QuestionIn":
        if bool(self.level) is bool(self.verb):
            raise ValueError("a question is about a level or about a verb")
        return self


class AnswerOut(Schema):
    """What policy would say: `decision` is permit or deny."""

    decision: str
    policies: list[str]
    policy_set: str
    facts: dict[str, Any]
    obligations: ObligationsOut | None
    code: str
    message: str
    missing: list[str]
    next_steps: list[str]

    @classmethod
    def of(cls, decision: Decision) -> "AnswerOut":
        """Rendered."""
        told = DecisionOut.of(decision)
        return cls(
            decision="permit" if told.permitted else "deny",
            policies=told.policies,
            policy_set=told.policy_set,
            facts=told.facts,
            obligations=told.obligations,
            code=told.code,
            message=told.detail,
            missing=told.missing,
            next_steps=told.next_steps,
        )
