"""Asking, approving, reviewing, revoking, and the credentials for the doors. No rule lives here: use cases decide."""

import ssl
from collections.abc import Iterable
from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Query, Response

from gateway.app import list_access
from gateway.app.approve_request import answer, pending_for
from gateway.app.authenticate import bearer_of
from gateway.app.break_glass import break_glass
from gateway.app.context import Context
from gateway.app.database_certificate import database_certificate
from gateway.app.extend_grant import extend_grant
from gateway.app.issue_ticket import issue_ticket
from gateway.app.request_access import Outcome, request_access
from gateway.app.review_grant import open_reviews, sign
from gateway.app.revoke_grant import revoke_grant
from gateway.app.show_access import names_of, show_grant, show_request
from gateway.app.ssh_certificate import ssh_certificate
from gateway.core.grant import Review
from gateway.core.request import Request, Verdict
from gateway.core.target import Kind
from gateway.edges.http.deps import AccessReader, Caller, Ctx, GlassBreaker, Token
from gateway.edges.http.schemas import (
    AskIn,
    CertificateOut,
    DatabaseCertificateOut,
    GrantOut,
    NoteIn,
    OutcomeOut,
    PublicKeyIn,
    ReasonIn,
    RequestOut,
    ReviewOut,
    SpanIn,
    TargetOut,
    TicketIn,
    TicketOut,
    VerdictIn,
    problems,
)

router = APIRouter(prefix="/api", tags=["access"])
_CLIENTS = {Kind.POSTGRES: "psql", Kind.SSH: "ssh"}
Everybody = Annotated[bool, Query(alias="all", description="Also others', where you may watch.")]


@router.get("/targets", responses=problems(403))
def list_targets(ctx: Ctx, user: Caller, incident: Annotated[str, Query(max_length=128)] = "") -> list[TargetOut]:
    """What there is, and for each level what policy would say if you asked now."""
    return [TargetOut.of(view) for view in list_access.targets(ctx, user, incident)]


@router.post("/requests", status_code=201, responses={202: {"model": OutcomeOut}, **problems(403, 404, 422)})
def ask(ctx: Ctx, user: Caller, body: AskIn, response: Response) -> OutcomeOut:
    """Ask for access: 201 with the grant, or 202 while the request waits for approval."""
    return _outcome(ctx, request_access(ctx, user, body.ask()), response)


@router.post("/break-glass", status_code=201, responses={202: {"model": OutcomeOut}, **problems(403, 404, 422)})
def ask_break_glass(ctx: Ctx, who: GlassBreaker, body: AskIn, response: Response) -> OutcomeOut:
    """Emergency access: at once, loud, with a review that somebody else must sign."""
    return _outcome(ctx, break_glass(ctx, who, body.ask()), response)


@router.get("/requests", responses=problems())
def list_requests(ctx: Ctx, user: AccessReader, everybody: Everybody = False) -> list[RequestOut]:
    """Your requests, newest first; to a machine with `access:read`, everybody's."""
    return _requests(ctx, list_access.requests(ctx, user, all=everybody))


@router.get("/requests/pending", responses=problems())
def list_pending(ctx: Ctx, user: Caller) -> list[RequestOut]:
    """Requests of others that wait for an answer you may give."""
    return _requests(ctx, pending_for(ctx, user))


@router.get("/requests/{request_id}", responses=problems(404))
def one_request(ctx: Ctx, user: Caller, request_id: str) -> RequestOut:
    """One request."""
    return _requests(ctx, [show_request(ctx, user, request_id)])[0]


@router.post("/requests/{request_id}/approve", responses=problems(403, 404, 409, 422))
def approve(ctx: Ctx, user: Caller, request_id: str, body: NoteIn) -> OutcomeOut:
    """Say yes to somebody else's request."""
    return _outcome(ctx, answer(ctx, user, request_id, Verdict.APPROVE, body.note))


@router.post("/requests/{request_id}/reject", responses=problems(403, 404, 409, 422))
def reject(ctx: Ctx, user: Caller, request_id: str, body: NoteIn) -> OutcomeOut:
    """Say no to somebody else's request."""
    return _outcome(ctx, answer(ctx, user, request_id, Verdict.REJECT, body.note))


@router.get("/grants", responses=problems())
def list_grants(ctx: Ctx, user: AccessReader, everybody: Everybody = False) -> list[GrantOut]:
    """Your grants, newest first; to a machine with `access:read`, everybody's."""
    at = ctx.clock.now()
    return [GrantOut.of(grant, at) for grant in list_access.grants(ctx, user, all=everybody)]


@router.get("/grants/{grant_id}", responses=problems(404))
def one_grant(ctx: Ctx, user: Caller, grant_id: str) -> GrantOut:
    """One grant."""
    return GrantOut.of(show_grant(ctx, user, grant_id), ctx.clock.now())


@router.post("/grants/{grant_id}/revoke", responses=problems(403, 404, 409, 422))
def revoke(ctx: Ctx, user: Caller, grant_id: str, body: ReasonIn) -> GrantOut:
    """End a grant now; its sessions end within a second."""
    return GrantOut.of(revoke_grant(ctx, user, grant_id, body.reason), ctx.clock.now())


@router.post("/grants/{grant_id}/extend", responses=problems(403, 404, 409, 422))
def extend(ctx: Ctx, user: Caller, grant_id: str, body: SpanIn) -> GrantOut:
    """Let your grant end later, if policy says yes once more; its live sessions go on without a reconnect."""
    return GrantOut.of(extend_grant(ctx, user, grant_id, body.span()), ctx.clock.now())


@router.get("/reviews", responses=problems())
def list_reviews(ctx: Ctx, user: Caller) -> list[ReviewOut]:
    """Reviews of break-glass grants that are still owed, the most urgent first."""
    return _reviews(ctx, open_reviews(ctx, user))


@router.post("/reviews/{review_or_grant_id}", responses=problems(403, 404, 409, 422))
def review(ctx: Ctx, user: Caller, review_or_grant_id: str, body: VerdictIn) -> ReviewOut:
    """Judge a break-glass grant of somebody else."""
    return _reviews(ctx, [sign(ctx, user, review_or_grant_id, body.verdict, body.note)])[0]


@router.post("/targets/{target}/ticket", status_code=201, responses=problems(403, 404, 409, 422))
def ticket(ctx: Ctx, who: GlassBreaker, target: str, body: TicketIn) -> TicketOut:
    """A password for the target's door, tied to one of your active grants."""
    issued = issue_ticket(ctx, who, target, body.level, single_use=body.single_use)
    return TicketOut(
        kind=issued.kind.value,
        user=issued.user_name,
        password=issued.secret,
        target=issued.target,
        level=issued.level,
        grant=issued.grant,
        expires_at=issued.expires_at,
    )


@router.post("/ssh-certificate", status_code=201, responses=problems(403, 422))
def certificate(ctx: Ctx, user: Caller, body: PublicKeyIn) -> CertificateOut:
    """A certificate for the SSH door: proves who comes, gives no right by itself."""
    signed = ssh_certificate(ctx, user, body.public_key)
    return CertificateOut(certificate=signed.certificate, expires_at=signed.expires_at)


@router.post("/database-certificate", status_code=201, responses=problems(403, 422))
def database_client_certificate(ctx: Ctx, user: Caller, token: Token, body: PublicKeyIn) -> DatabaseCertificateOut:
    """A TLS client certificate for the database door: proves who comes, no right by itself; ends with the sign-in."""
    signed = database_certificate(ctx, user, bearer_of(ctx, token)[0], body.public_key)
    pem = ssl.DER_cert_to_PEM_cert(signed.der)
    return DatabaseCertificateOut(certificate=pem, user=signed.user_name, expires_at=signed.expires_at)


def _outcome(ctx: Context, outcome: Outcome, response: Response | None = None) -> OutcomeOut:
    if response is not None and outcome.grant is None:
        response.status_code = HTTPStatus.ACCEPTED
    asked = outcome.request
    return OutcomeOut.of(outcome, _names(ctx, [asked]), ctx.clock.now(), _connect(ctx, asked))


def _connect(ctx: Context, asked: Request) -> str:
    target = ctx.catalogue.current().targets.get(asked.target)
    return f"gw {_CLIENTS[target.kind]} {asked.target} --level {asked.level}" if target else ""


def _requests(ctx: Context, requests: Iterable[Request]) -> list[RequestOut]:
    listed = list(requests)
    names = _names(ctx, listed)
    return [RequestOut.of(request, names) for request in listed]


def _names(ctx: Context, requests: Iterable[Request]) -> dict[str, str]:
    return names_of(ctx, frozenset(a.approver for r in requests for a in r.approvals))


def _reviews(ctx: Context, reviews: Iterable[Review]) -> list[ReviewOut]:
    listed = list(reviews)
    names = names_of(ctx, frozenset(i for r in listed for i in (r.holder, r.reviewer) if i))
    return [ReviewOut.of(each, names) for each in listed]
