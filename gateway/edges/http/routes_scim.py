"""SCIM 2.0 (RFC 7644): an identity provider's own client provisions its people and groups here, and takes them away."""

from collections.abc import Callable, Coroutine, Sequence
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import ValidationError
from scim2_models import Context as ScimContext
from scim2_models import Group as GroupResource
from scim2_models import ListResponse, SCIMException, SearchRequest
from scim2_models.path import Comparison
from starlette.responses import Response

from gateway.app.api_tokens import WRITE_SCIM, authenticate_machine
from gateway.app.identity import IdentityProvider
from gateway.app.people_ports import ProvisionedUser
from gateway.app.provision import (
    change_group,
    change_user,
    create_group,
    create_user,
    delete_group,
    delete_user,
)
from gateway.core.errors import Denied, GatewayError, NotFound, Refusal
from gateway.core.principal import Machine
from gateway.edges.http import scim_resources as resources
from gateway.edges.http.deps import Credentials, Ctx, Wired, client_address, context, wiring
from gateway.edges.http.problems import status_of
from gateway.edges.http.scim_answers import ScimAnswer, scim_error, scim_flaws, scim_problem
from gateway.edges.http.scim_patches import demand_short


class ScimRoute(APIRoute):
    """Renders every "no" in SCIM's own shape."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """As FastAPI's, with our errors."""
        answer = super().get_route_handler()

        async def answer_in_scim(request: Request) -> Response:
            try:
                return await answer(request)
            except GatewayError as no:
                return scim_problem(status_of(no), no.refusal)
            except SCIMException as no:
                return scim_error(no.to_error())
            except (RequestValidationError, ValidationError) as flaw:
                return scim_flaws(flaw.errors())

        return answer_in_scim


router = APIRouter(prefix="/scim/v2", include_in_schema=False, route_class=ScimRoute)


def scim_client(request: Request, credentials: Credentials) -> Machine:
    """Whoever holds a token with `scim:write`."""
    secret = credentials.credentials if credentials else ""
    return authenticate_machine(context(request), secret, WRITE_SCIM, client_address(request))


def scim_provider(request: Request, machine: Annotated[Machine, Depends(scim_client)]) -> IdentityProvider:
    """Whose people this client provisions; Denied when that provider does not provision here."""
    provider = wiring(request).providers.named(machine.provider)
    if not provider.names.provisioned:
        off = Refusal("scim-off", f"{provider.label} does not provision here.", ("scim",), ("Set its scim setting.",))
        raise Denied(off)
    return provider


ScimClient = Annotated[Machine, Depends(scim_client)]
Whose = Annotated[IdentityProvider, Depends(scim_provider)]
Resource = Annotated[dict[str, Any], Body()]


def _base(wired: Wired) -> str:
    return f"{wired.public_url}/scim/v2"


def _one(resource: Any, status: HTTPStatus = HTTPStatus.OK) -> ScimAnswer:
    location = str(resource.meta.location)
    headers = {"location": location} if status == HTTPStatus.CREATED else {}
    return ScimAnswer(resource.model_dump(scim_ctx=ScimContext.RESOURCE_QUERY_RESPONSE), status, headers)


def _chosen(resource: Any, asked: Any) -> ScimAnswer:
    return ScimAnswer(resource.model_dump(scim_ctx=ScimContext.RESOURCE_QUERY_RESPONSE, response_parameters=asked))


def _page(kind: type[Any], asked: Any, found: Sequence[Any]) -> ScimAnswer:
    """One page (RFC 7644 §3.4.2.4): 1-based, a count of 0 asks for the total only."""
    start = max(1, asked.start_index or 1)
    count = min(asked.count if asked.count is not None else resources.MOST_RESULTS, resources.MOST_RESULTS)
    shown = list(found[start - 1 : start - 1 + max(0, count)])
    listed = ListResponse.__class_getitem__(kind)(
        total_results=len(found), start_index=start, items_per_page=len(shown), resources=shown
    )  # fmt: skip
    return ScimAnswer(listed.model_dump(scim_ctx=ScimContext.RESOURCE_QUERY_RESPONSE, response_parameters=asked))


def _equal(asked: Any, name: str) -> str:
    """The value of a filter `name eq "…"`, which an index answers; "" for any other."""
    node = asked.filter.ast if asked.filter else None
    if not isinstance(node, Comparison) or str(node.op).lower() != "eq" or str(node.attr_path).lower() != name:
        return ""
    return node.value if isinstance(node.value, str) else ""


# ---------------------------------------------------------------- users


@router.get("/Users")
def list_users(ctx: Ctx, wired: Wired, request: Request, provider: Whose) -> Response:
    """Those that a filter matches, page by page."""
    demand_short(request.query_params)
    asked = SearchRequest[resources.PersonResource].model_validate(dict(request.query_params))
    name, external_id = _equal(asked, "username"), _equal(asked, "externalid")
    with ctx.store.read() as uow:
        if name or external_id:
            row = uow.provisioning.user_by(provider.name, user_name=name, external_id=external_id)
            rows: Sequence[ProvisionedUser] = [row] if row else []
        else:
            rows = uow.provisioning.users(provider.name)
    found = [resources.user_resource(row, _base(wired)) for row in rows]
    if asked.filter and not name and not external_id:
        found = [each for each in found if asked.filter.match(each)]
    return _page(resources.PersonResource, asked, found)


@router.post("/Users")
def add_user(ctx: Ctx, wired: Wired, machine: ScimClient, provider: Whose, body: Resource) -> Response:
    """A new person."""
    row = create_user(ctx, machine, provider, resources.user_told(body, is_new=True))
    return _one(resources.user_resource(row, _base(wired)), HTTPStatus.CREATED)


@router.get("/Users/{id}")
def show_user(ctx: Ctx, wired: Wired, request: Request, provider: Whose, id: str) -> Response:
    """One person; `attributes` and `excludedAttributes` choose what of them."""
    demand_short(request.query_params)
    asked = SearchRequest[resources.PersonResource].model_validate(dict(request.query_params))
    with ctx.store.read() as uow:
        row = uow.provisioning.user(provider.name, id)
    if row is None:
        raise _no_such()
    return _chosen(resources.user_resource(row, _base(wired)), asked)


@router.put("/Users/{id}")
def replace_user(ctx: Ctx, wired: Wired, machine: ScimClient, provider: Whose, id: str, body: Resource) -> Response:
    """All of a person anew."""
    told = resources.user_told(body, is_new=False)
    row = change_user(ctx, machine, provider, id, lambda _: told)
    return _one(resources.user_resource(row, _base(wired)))


@router.patch("/Users/{id}")
def patch_user(ctx: Ctx, wired: Wired, machine: ScimClient, provider: Whose, id: str, body: Resource) -> Response:
    """Parts of a person; `active` false shuts them out."""
    row = change_user(ctx, machine, provider, id, lambda row: resources.user_patched(row, body))
    return _one(resources.user_resource(row, _base(wired)))


@router.delete("/Users/{id}")
def remove_user(ctx: Ctx, machine: ScimClient, provider: Whose, id: str) -> Response:
    """Out, and forgotten."""
    delete_user(ctx, machine, provider, id)
    return Response(status_code=HTTPStatus.NO_CONTENT)


# ---------------------------------------------------------------- groups


@router.get("/Groups")
def list_groups(ctx: Ctx, wired: Wired, request: Request, provider: Whose) -> Response:
    """Those that a filter matches, page by page."""
    demand_short(request.query_params)
    asked = SearchRequest[GroupResource].model_validate(dict(request.query_params))
    with ctx.store.read() as uow:
        rows = uow.provisioning.groups(provider.name)
    found = [resources.group_resource(row, _base(wired)) for row in rows]
    if asked.filter:
        found = [each for each in found if asked.filter.match(each)]
    return _page(GroupResource, asked, found)


@router.post("/Groups")
def add_group(ctx: Ctx, wired: Wired, machine: ScimClient, provider: Whose, body: Resource) -> Response:
    """A new group."""
    row = create_group(ctx, machine, provider, resources.group_told(body, is_new=True))
    return _one(resources.group_resource(row, _base(wired)), HTTPStatus.CREATED)


@router.get("/Groups/{id}")
def show_group(ctx: Ctx, wired: Wired, request: Request, provider: Whose, id: str) -> Response:
    """One group; `excludedAttributes=members` leaves them out."""
    demand_short(request.query_params)
    asked = SearchRequest[GroupResource].model_validate(dict(request.query_params))
    with ctx.store.read() as uow:
        row = uow.provisioning.group(provider.name, id)
    if row is None:
        raise _no_such()
    return _chosen(resources.group_resource(row, _base(wired)), asked)


@router.put("/Groups/{id}")
def replace_group(ctx: Ctx, wired: Wired, machine: ScimClient, provider: Whose, id: str, body: Resource) -> Response:
    """All of a group anew."""
    told = resources.group_told(body, is_new=False)
    row = change_group(ctx, machine, provider, id, lambda _: told)
    return _one(resources.group_resource(row, _base(wired)))


@router.patch("/Groups/{id}")
def patch_group(ctx: Ctx, wired: Wired, machine: ScimClient, provider: Whose, id: str, body: Resource) -> Response:
    """Members come and go."""
    row = change_group(ctx, machine, provider, id, lambda row: resources.group_patched(row, body))
    return _one(resources.group_resource(row, _base(wired)))


@router.delete("/Groups/{id}")
def remove_group(ctx: Ctx, machine: ScimClient, provider: Whose, id: str) -> Response:
    """Forgotten; nobody is in it any more."""
    delete_group(ctx, machine, provider, id)
    return Response(status_code=HTTPStatus.NO_CONTENT)


# ---------------------------------------------------------------- what the service can do (RFC 7644 §4)


@router.get("/ServiceProviderConfig")
def config(_: ScimClient) -> Response:
    """What is supported."""
    return ScimAnswer(resources.CONFIG.model_dump(scim_ctx=ScimContext.RESOURCE_QUERY_RESPONSE))


@router.get("/Schemas")
def schemas(_: ScimClient) -> Response:
    """All schemas."""
    return _all(resources.SERVICE.schemas)


@router.get("/Schemas/{id}")
def schema(_: ScimClient, id: str) -> Response:
    """One schema."""
    return _named(resources.SERVICE.schemas, id)


@router.get("/ResourceTypes")
def resource_types(_: ScimClient) -> Response:
    """Users and groups."""
    return _all(resources.SERVICE.resource_types)


@router.get("/ResourceTypes/{id}")
def resource_type(_: ScimClient, id: str) -> Response:
    """One of the two."""
    return _named(resources.SERVICE.resource_types, id)


def _all(found: Sequence[Any]) -> ScimAnswer:
    dumped = [each.model_dump(scim_ctx=ScimContext.RESOURCE_QUERY_RESPONSE) for each in found]
    return ScimAnswer(
        {
            "schemas": ["urn:ietf:params:scim:api:messages:2.0:ListResponse"],
            "totalResults": len(dumped),
            "startIndex": 1,
            "itemsPerPage": len(dumped),
            "Resources": dumped,
        }
    )


def _named(found: Sequence[Any], name: str) -> ScimAnswer:
    for each in found:
        if name in (str(each.id), str(each.name)):
            return ScimAnswer(each.model_dump(scim_ctx=ScimContext.RESOURCE_QUERY_RESPONSE))
    raise _no_such()


def _no_such() -> NotFound:
    return NotFound(Refusal("not-found", "There is no such resource of this provider."))
