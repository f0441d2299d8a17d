"""Deploy verbs: run them, see them, end them. For pipelines with a deploy token and for people who are signed in."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request

from gateway.app import show_deploys
from gateway.app.ask_deploy import ask_deploy
from gateway.app.decide_deploy import Caller
from gateway.app.emergency_credential import EMERGENCY_PREFIX
from gateway.app.identity import NotSignedIn
from gateway.app.run_deploy import start_run
from gateway.app.verify_deploy_token import authenticate_workload
from gateway.app.watch_deploys import cancel_deploy
from gateway.core.deploy_token import PREFIX
from gateway.core.errors import Refusal
from gateway.core.verb import WhenGone
from gateway.edges.http.deploy_stream import NDJSON, RunLines, follow, look
from gateway.edges.http.deps import Client, Credentials, Ctx, client_address, context, glass_breaker, signed_in
from gateway.edges.http.schemas import Name, problems
from gateway.edges.http.schemas_deploy import DeployIn, PlacedOut, RunOut, VerbOut

router = APIRouter(prefix="/api/deploy", tags=["deploys"])
_NOBODY = Refusal(
    "not-signed-in",
    "Nobody is signed in.",
    ("a bearer token",),
    ("In a pipeline gw deploy exchanges the job's token by itself.", "As a person: gw login"),
)


def deploy_caller(request: Request, credentials: Credentials) -> Caller:
    """A pipeline by its deploy token, or a person; NotSignedIn (401) otherwise. Judged once in a request."""
    if not hasattr(request.state, "caller"):
        request.state.caller = _judged(request, credentials)
    caller: Caller = request.state.caller
    return caller


def _judged(request: Request, credentials: Credentials) -> Caller:
    token = credentials.credentials if credentials else ""
    if not token:
        raise NotSignedIn(_NOBODY)
    if token.startswith(PREFIX):
        return Caller.of(authenticate_workload(context(request), token, client_address(request)))
    return Caller.of(signed_in(request, credentials)[1])


def whoever_deploys(request: Request, credentials: Credentials) -> Caller:
    """As `deploy_caller`, also one who came in by passkey while the identity provider was down: to override."""
    if credentials is not None and credentials.credentials.startswith(EMERGENCY_PREFIX):
        return Caller.of(glass_breaker(request, credentials))
    return deploy_caller(request, credentials)


WhoDeploys = Annotated[Caller, Depends(deploy_caller)]
WhoeverDeploys = Annotated[Caller, Depends(whoever_deploys)]


@router.post("", response_model=None, responses={200: {"content": {NDJSON: {}}}, **problems(403, 404, 409, 422)})
def deploy(ctx: Ctx, caller: WhoeverDeploys, client: Client, body: DeployIn) -> RunLines:
    """Run a verb, and say how it goes as JSON lines: `run`, `step`, `output`, `note`, `progress`, and `end` at last.

    The same job (or person with the same `key`) asking for the same again gets the first run's outcome.
    """
    planned = ask_deploy(ctx, caller, body.ask(client))
    feed, run = start_run(ctx, planned), planned.run
    if feed is None:
        return RunLines(look(lambda: show_deploys.show_run(ctx, caller, run.id)))
    is_tied = any(bound.verb.when_gone is WhenGone.CANCEL for bound in planned.bound.values()) and planned.is_new

    def gone() -> None:  # of a run that is over, that is nothing
        if is_tied:
            ctx.deploys.live.stop(run.id, "its caller went away")

    return RunLines(follow(feed), gone)


@router.get("/verbs", responses=problems())
def list_verbs(ctx: Ctx, caller: WhoDeploys) -> list[VerbOut]:
    """What can be run where, with which parameters, and what is frozen; to a pipeline, on its token's targets."""
    return [VerbOut.of(view) for view in show_deploys.verbs(ctx, caller)]


@router.get("/status", responses=problems(404))
def status(ctx: Ctx, caller: WhoDeploys, target: Annotated[list[Name] | None, Query()] = None) -> list[PlacedOut]:
    """What runs where, who put it there, and who has a target to themselves now."""
    return [PlacedOut.of(view) for view in show_deploys.status(ctx, caller, target or ())]


@router.get("/runs", responses=problems())
def list_runs(
    ctx: Ctx, caller: WhoDeploys, target: Name | None = None, limit: Annotated[int, Query(ge=1, le=200)] = 50
) -> list[RunOut]:
    """Runs, newest first; to a pipeline, its own."""
    return [RunOut.of(run) for run in show_deploys.history(ctx, caller, target or "", limit)]


@router.get("/runs/{run_id}", responses=problems(404))
def one_run(ctx: Ctx, caller: WhoDeploys, run_id: str) -> RunOut:
    """One run with its steps."""
    run, steps = show_deploys.show_run(ctx, caller, run_id)
    return RunOut.of(run, list(steps))


@router.post("/runs/{run_id}/cancel", responses=problems(403, 404, 409))
def cancel(ctx: Ctx, caller: WhoDeploys, run_id: str) -> RunOut:
    """End a run: TERM for its command, no further step."""
    return RunOut.of(cancel_deploy(ctx, caller, run_id))
