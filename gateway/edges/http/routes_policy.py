"""Questions to policy, without effect."""

from fastapi import APIRouter

from gateway.app.simulate_policy import DeployQuestion, why, why_deploy
from gateway.edges.http.deps import Caller, Ctx
from gateway.edges.http.schemas import problems
from gateway.edges.http.schemas_policy import AnswerOut, QuestionIn

router = APIRouter(prefix="/api/policy", tags=["policy"])


@router.post("/why", responses=problems(403, 404, 422))
def ask_why(ctx: Ctx, user: Caller, body: QuestionIn) -> AnswerOut:
    """The decision as if that person asked now for access, or for a run: by which policies, on which facts, why not."""
    if body.verb:
        asked = DeployQuestion(body.verb, body.override, body.to_previous, body.pipeline)
        return AnswerOut.of(why_deploy(ctx, user, body.as_name, body.target, asked, body.incident, body.on_call))
    return AnswerOut.of(
        why(ctx, user, body.as_name, body.target, body.level, body.incident, body.on_call, body.break_glass)
    )
