"""The HTTP API and the few browser pages, as one ASGI application."""

from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.staticfiles import StaticFiles

from gateway.app.context import Context
from gateway.app.passkey_ports import RelyingParty
from gateway.app.providers import Providers
from gateway.app.search_statements import StatementSearch
from gateway.core.errors import GatewayError
from gateway.edges.http import (
    problems,
    routes_access,
    routes_audit,
    routes_deploy,
    routes_login,
    routes_logins,
    routes_oauth,
    routes_passkeys,
    routes_policy,
    routes_scim,
    routes_sessions,
    routes_ssh,
    routes_step_up,
    routes_targets,
    routes_tokens,
    routes_trust,
)
from gateway.edges.http.deps import DoorFacts, Wired, Wiring, presented
from gateway.edges.http.guard import Guard
from gateway.edges.http.schemas import DoorOut, PostgresDoorOut, ProblemOut, SshDoorOut
from gateway.edges.http.scim_answers import scim_problem
from gateway.edges.web.views import STATIC

__all__ = ["DoorFacts", "create_app"]
_ROUTES = (  # FastAPI tries them in this order: what pipelines call often stands first
    routes_oauth,
    routes_deploy,
    routes_login,
    routes_logins,
    routes_access,
    routes_sessions,
    routes_audit,
    routes_policy,
    routes_ssh,
    routes_tokens,
    routes_trust,
    routes_passkeys,
    routes_step_up,
    routes_scim,
    routes_targets,
)


def create_app(
    ctx: Context,
    providers: Providers,
    doors: DoorFacts,
    *,
    public_url: str,
    statements: StatementSearch | None = None,
    passkeys: RelyingParty | None = None,
) -> FastAPI:
    """The application. `public_url` is what browsers and clients type; `statements` the index over recordings."""
    app = FastAPI(
        title="Production access gateway",
        summary="Time-limited, recorded, provable access to production, decided by who is on call.",
        version="1",
        docs_url=None,  # their pages load scripts from elsewhere
        redoc_url=None,
        openapi_url="/api/openapi.json",
        redirect_slashes=False,
        responses={503: {"model": ProblemOut, "description": "Something that the gateway depends on failed."}},
    )
    app.state.wiring = Wiring(ctx, providers, doors, public_url.rstrip("/"), statements, passkeys=passkeys)
    problems.install(app)
    for routes in _ROUTES:
        app.include_router(routes.router)
    app.include_router(routes_sessions.pages)
    app.get("/healthz", tags=["public"])(healthz)
    app.get("/api/door", tags=["public"])(door)
    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    app.add_middleware(Guard, https=public_url.startswith("https://"), judge=may_send_much)
    return app


async def may_send_much(request: Request) -> Response | None:
    """None for whoever may send a large body to the route; else the answer, given before the body is read."""
    is_scim = request.url.path.startswith(routes_scim.router.prefix)
    judge = routes_scim.scim_client if is_scim else routes_deploy.deploy_caller
    try:
        await run_in_threadpool(judge, request, await presented(request))
    except GatewayError as no:
        answer = scim_problem if is_scim else problems.problem
        return answer(problems.status_of(no), no.refusal)
    return None


async def healthz() -> dict[str, str]:
    """The process answers, also when all of its threads are busy."""
    return {"status": "ok"}


def door(wired: Wired) -> DoorOut:
    """Public facts that a client needs: where the doors are and which keys prove them."""
    facts = wired.doors
    ssh = SshDoorOut(host=facts.ssh_host, port=facts.ssh_port, host_key=facts.ssh_host_key)
    postgres = PostgresDoorOut(
        host=facts.postgres_host, port=facts.postgres_port, ca_pem=facts.postgres_ca_pem, binds=facts.postgres_binds,
        certificates=facts.postgres_knows_certificates,
    )  # fmt: skip
    return DoorOut(
        ssh=ssh if facts.ssh_port else None,
        postgres=postgres if facts.postgres_port else None,
        audit_key=facts.audit_key,
    )
