"""SCIM resources (RFC 7643) by `scim2-models`: from JSON to what the use cases know, and back.

What Entra ID and Okta really send is read: `op` in any case, "False" as text, paths of members to remove in `value`, a
filter that matches nothing yet, an `id` in a replace, attributes that nobody here knows.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from email_validator import SPECIAL_USE_DOMAIN_NAMES
from scim2_models import (
    AuthenticationScheme,
    Bulk,
    ChangePassword,
    EnterpriseUser,
    ETag,
    Filter,
    Group,
    GroupMember,
    Meta,
    Patch,
    PatchOp,
    ResourceType,
    ScimPolicy,
    ScimProvider,
    ServiceProviderConfig,
    Sort,
    User,
)
from scim2_models import Context as ScimContext

from gateway.app.people_ports import ProvisionedGroup, ProvisionedUser
from gateway.app.provision import GroupTold, UserTold
from gateway.edges.http.scim_patches import demand_bounded, runs, with_members

# Companies do have addresses at corp.local; whoever refused one could not take its owner's access away either. No
# address is ever matched or written to here.
SPECIAL_USE_DOMAIN_NAMES.clear()
MOST_RESULTS = 200
PersonResource = User[EnterpriseUser]
POLICY = ScimPolicy(
    unknown=ScimPolicy.Unknown.ignore,
    remove_value_as_filter=ScimPolicy.RemoveValue.apply,
    unmatched_path_filter=ScimPolicy.UnmatchedPathFilter.create,
)
_NOT_STORED = ("id", "meta", "groups", "schemas")
_MANAGER = "urn:ietf:params:scim:schemas:extension:enterprise:2.0:user:manager"


def user_told(body: Mapping[str, Any], *, is_new: bool) -> UserTold:
    """A whole user (POST, PUT)."""
    context = ScimContext.RESOURCE_CREATION_REQUEST if is_new else ScimContext.RESOURCE_REPLACEMENT_REQUEST
    return _user_told(PersonResource.model_validate(dict(body), scim_ctx=context, scim_policy=POLICY))


def user_patched(row: ProvisionedUser, body: Mapping[str, Any]) -> UserTold:
    """A user after a PATCH (RFC 7644 §3.5.2)."""
    meant = _as_entra_means(body)
    if isinstance(operations := meant.get("Operations"), list):
        demand_bounded(operations, operations, row.resource)
    resource = PersonResource.model_validate({**row.resource, "schemas": _schemas(row.resource)}, scim_policy=POLICY)
    resource.active = row.active
    patch = PatchOp[PersonResource].model_validate(
        meant, scim_ctx=ScimContext.RESOURCE_PATCH_REQUEST, scim_policy=POLICY
    )
    patch.patch(resource, scim_policy=POLICY)
    return _user_told(resource)


def _user_told(resource: Any) -> UserTold:
    dumped = resource.model_dump(scim_ctx=ScimContext.RESOURCE_QUERY_RESPONSE)  # without a password
    kept = {key: value for key, value in dumped.items() if key not in _NOT_STORED}
    return UserTold(resource.user_name or "", resource.external_id or "", resource.active, kept)


def user_resource(row: ProvisionedUser, base: str) -> Any:
    """The resource as others see it."""
    made = PersonResource.model_validate({**row.resource, "schemas": _schemas(row.resource)}, scim_policy=POLICY)
    made.id, made.external_id, made.user_name, made.active = row.id, row.external_id or None, row.user_name, row.active
    made.meta = _meta("User", f"{base}/Users/{row.id}", row)
    return made


def group_told(body: Mapping[str, Any], *, is_new: bool) -> GroupTold:
    """A whole group (POST, PUT)."""
    context = ScimContext.RESOURCE_CREATION_REQUEST if is_new else ScimContext.RESOURCE_REPLACEMENT_REQUEST
    return _group_told(Group.model_validate(dict(body), scim_ctx=context, scim_policy=POLICY))


def group_patched(row: ProvisionedGroup, body: Mapping[str, Any]) -> GroupTold:
    """A group after a PATCH; members that come or go one by one cost no more than they are."""
    meant = _as_entra_means(body)
    operations = meant.get("Operations")
    if not isinstance(operations, list) or not operations:
        return _by_library(row, meant)
    cut = list(runs(operations))
    others = [each for is_simple, run in cut if not is_simple for each in run]
    if others:
        demand_bounded(others, operations, [{} for _ in row.members])  # some come before another is applied
    _read_patch({**meant, "Operations": others or operations[:1]})  # all of it, before any of it is applied
    for is_simple, run in cut:
        if is_simple:
            row = replace(row, members=with_members(row.members, run))
            continue
        told = _by_library(row, {**meant, "Operations": run})
        row = replace(row, display_name=told.display_name, external_id=told.external_id, members=told.members)
    return GroupTold(row.display_name, row.external_id, row.members, {})


def _by_library(row: ProvisionedGroup, body: Mapping[str, Any]) -> GroupTold:
    resource = group_resource(row, "")
    _read_patch(body).patch(resource, scim_policy=POLICY)
    return _group_told(resource)


def _read_patch(body: Mapping[str, Any]) -> PatchOp[Group]:
    return PatchOp[Group].model_validate(body, scim_ctx=ScimContext.RESOURCE_PATCH_REQUEST, scim_policy=POLICY)


def _group_told(resource: Group) -> GroupTold:
    members = frozenset(member.value for member in resource.members or () if member.value)
    return GroupTold(resource.display_name or "", resource.external_id or "", members, {})


def group_resource(row: ProvisionedGroup, base: str) -> Group:
    """The resource as others see it."""
    return Group(
        id=row.id,
        external_id=row.external_id or None,
        display_name=row.display_name,
        members=[GroupMember.model_validate({"value": member, "type": "User"}) for member in sorted(row.members)],
        meta=_meta("Group", f"{base}/Groups/{row.id}", row),
    )


def _schemas(resource: Mapping[str, object]) -> list[str]:
    return [str(User.__schema__), *(key for key in resource if key.startswith("urn:"))]


def _meta(kind: str, location: str, row: ProvisionedUser | ProvisionedGroup) -> Meta:
    return Meta(resource_type=kind, created=row.created_at, last_modified=row.updated_at, location=location)


def _as_entra_means(body: Mapping[str, Any]) -> dict[str, Any]:
    """Under one name, too: the library takes it in any case (RFC 7643 §2.1), and nothing may pass by the bounds."""
    meant = {"Operations" if key.lower() == "operations" else key: each for key, each in body.items()}
    operations = meant.get("Operations")
    return {**meant, "Operations": [_meant(each) for each in operations]} if isinstance(operations, list) else meant


def _meant(operation: Any) -> Any:
    if not isinstance(operation, dict):
        return operation
    value, path = operation.get("value"), operation.get("path")
    if path is None and isinstance(value, dict):  # Okta repeats what cannot change
        return {**operation, "value": {key: each for key, each in value.items() if key not in ("id", "schemas")}}
    if isinstance(path, str) and path.lower() == _MANAGER and isinstance(value, str):  # Entra ID sends the bare id
        return {**operation, "value": {"value": value}}
    return operation


CONFIG = ServiceProviderConfig(
    patch=Patch(supported=True),
    bulk=Bulk(supported=False, max_operations=0, max_payload_size=0),
    filter=Filter(supported=True, max_results=MOST_RESULTS),
    change_password=ChangePassword(supported=False),
    sort=Sort(supported=False),
    etag=ETag(supported=False),
    authentication_schemes=[
        AuthenticationScheme(
            type=AuthenticationScheme.Type.oauthbearertoken,
            name="Token of a machine",
            description="A token with the scope scim:write, made by gw token create.",
            primary=True,
        )
    ],
)
SERVICE = ScimProvider(
    models=[User, EnterpriseUser, Group],
    resource_types=[ResourceType.from_resource(PersonResource), ResourceType.from_resource(Group)],
    config=CONFIG,
    policy=POLICY,
)
