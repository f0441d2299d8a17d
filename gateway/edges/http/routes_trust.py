"""What people do about pipelines' tokens."""

from http import HTTPStatus

from fastapi import APIRouter

from gateway.app.verify_deploy_token import take_back
from gateway.edges.http.deps import Caller, Ctx
from gateway.edges.http.schemas import Name, ReasonIn, problems

router = APIRouter(tags=["pipelines"])


@router.post(
    "/api/deploy-tokens/{token_id}/revoke",
    status_code=HTTPStatus.NO_CONTENT,
    responses=problems(403, 409, 422),
)
def revoke(ctx: Ctx, user: Caller, token_id: Name, body: ReasonIn) -> None:
    """Make a deploy token worthless now, with everything that was derived from it."""
    take_back(ctx, user, token_id, body.reason)
