"""Questions to policy, without effect."""

from fastapi import APIRouter

from gateway.app.simulate_policy import why
from gateway.edges.http.deps import Caller, Ctx
from gateway.edges.http.schemas import AnswerOut, QuestionIn, problems

router = APIRouter(prefix="/api/policy", tags=["policy"])


@router.post("/why", responses=problems(403, 404, 422))
def ask_why(ctx: Ctx, user: Caller, body: QuestionIn) -> AnswerOut:
    """The decision on access as if that person asked now: by which policies, on which facts, and why not."""
    return AnswerOut.of(
        why(ctx, user, body.as_name, body.target, body.level, body.incident, body.on_call, body.break_glass)
    )
