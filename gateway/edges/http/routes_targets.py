"""What is done to targets themselves."""

from fastapi import APIRouter

from gateway.app.examine_target import examine_target
from gateway.edges.http.deps import Caller, Ctx
from gateway.edges.http.schemas import problems
from gateway.edges.http.schemas_targets import ExaminationOut

router = APIRouter(prefix="/api/targets", tags=["targets"])


@router.post("/{target}/doctor", responses=problems(403, 404, 409))
def doctor(ctx: Ctx, user: Caller, target: str) -> ExaminationOut:
    """Try on the target all that the gateway needs there, with a role that is gone again afterwards."""
    return ExaminationOut.of(examine_target(ctx, user, target))
