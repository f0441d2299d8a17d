"""Questions to policy, without effect."""

from typing import Annotated

from fastapi import APIRouter, Query

from gateway.app.simulate_policy import why
from gateway.edges.http.deps import Caller, Ctx
from gateway.edges.http.schemas import DecisionOut, problems

router = APIRouter(prefix="/api/policy", tags=["policy"])
Text = Annotated[str, Query(max_length=128)]


@router.get("/why", responses=problems(403, 404, 422))
def ask_why(
    ctx: Ctx,
    user: Caller,
    target: Text,
    level: Text,
    as_name: Annotated[str, Query(alias="as", max_length=128, description='Whose answer; "" is your own.')] = "",
    incident: Text = "",
    on_call: Annotated[bool | None, Query(description="Suppose that the person is (not) on call.")] = None,
    break_glass: Annotated[bool, Query()] = False,
) -> DecisionOut:
    """The decision on access as if that person asked now: by which policies, on which facts, and why not."""
    return DecisionOut.of(why(ctx, user, as_name, target, level, incident, on_call, break_glass))
