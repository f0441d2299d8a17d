"""People and groups as a provider's SCIM client tells of them (RFC 7644), and what that means for who may be here.

A provisioned user is tied to an identity by the provider's issuer and `externalId`, which must equal one claim of the
sign-in (`sub`, or `oid` for Entra ID). Never by user name or e-mail address: both can be given to somebody else.
"""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from gateway.app import journal
from gateway.app.api_tokens import WRITE_SCIM, demand_scope
from gateway.app.context import Context
from gateway.app.identity import IdentityProvider, SignedClaims, user_id_of
from gateway.app.people_ports import ProvisionedGroup, ProvisionedUser
from gateway.app.ports import UnitOfWork
from gateway.app.shut_out import put_out
from gateway.core.errors import Conflict, NotFound, Refusal
from gateway.core.principal import Machine, User

_GROUP = re.compile(r"[\x21-\x7e][\x20-\x7e]{0,127}")
_WHY = "no longer provisioned"
_LONGEST = 255
MOST_MEMBERS = 10_000
# INVARIANT: what a client's body means is worked out before anything is locked: in a large group that takes seconds,
# in which nobody could be revoked or let in. Whoever changed the resource meanwhile has it worked out anew.
_TRIES = 5
_CHANGED = Refusal("changed-meanwhile", "Others change this at the same time.", next_steps=("Try again.",))


@dataclass(frozen=True, slots=True)
class UserTold:
    """A user resource. `active` None leaves it as it is, or active when new."""

    user_name: str
    external_id: str
    active: bool | None
    resource: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class GroupTold:
    """A group resource; `members` are ids of provisioned users."""

    display_name: str
    external_id: str
    members: frozenset[str]
    resource: Mapping[str, object]


class UnusableValue(Conflict):
    """A value that this gateway cannot keep."""


# ---------------------------------------------------------------- users


def create_user(ctx: Context, machine: Machine, provider: IdentityProvider, told: UserTold) -> ProvisionedUser:
    """A new person. Conflict when the provider has one of that name or external id already."""
    at = _begin(ctx, machine, told.user_name, told.external_id)
    made = ProvisionedUser(
        id=ctx.ids.new("scu"),
        provider=provider.name,
        external_id=told.external_id,
        user_name=told.user_name,
        active=told.active is not False,
        resource=told.resource,
        created_at=at,
        updated_at=at,
    )
    with ctx.store.begin() as uow:
        kept = _follow(ctx, uow, machine, provider, None, made, at)
    ctx.wake()
    return kept


def change_user(
    ctx: Context,
    machine: Machine,
    provider: IdentityProvider,
    id: str,
    change: Callable[[ProvisionedUser], UserTold],
) -> ProvisionedUser:
    """Replace or patch one. Who is not active any more has lost credentials, grants and sessions when this returns."""
    demand_scope(machine, WRITE_SCIM)
    for _ in range(_TRIES):
        with ctx.store.read() as uow:
            before = _known(uow.provisioning.user(provider.name, id))
        told = change(before)
        at = _begin(ctx, machine, told.user_name, told.external_id)
        after = replace(
            before,
            external_id=told.external_id,
            user_name=told.user_name,
            active=before.active if told.active is None else told.active,
            resource=told.resource,
            updated_at=at,
        )
        with ctx.store.begin() as uow:
            is_as_read = uow.provisioning.user(provider.name, id) == before
            kept = _follow(ctx, uow, machine, provider, before, after, at) if is_as_read else None
        if kept is not None:
            ctx.wake()
            ctx.rejudge()
            return kept
    raise Conflict(_CHANGED)


def delete_user(ctx: Context, machine: Machine, provider: IdentityProvider, id: str) -> None:
    """Forget a person, who is out when this returns. Without a row nobody of the provider signs in."""
    demand_scope(machine, WRITE_SCIM)
    at = ctx.clock.now()
    with ctx.store.begin() as uow:
        before = _known(uow.provisioning.user(provider.name, id))
        user = _user_of(uow, provider, before)
        if user is not None:
            _shut_out(ctx, uow, machine, user, at)
            _let_in(uow, user, before)  # the missing row keeps them out; one that comes back lets them in
        for group in uow.provisioning.groups(provider.name):
            if id in group.members:
                uow.provisioning.save_group(replace(group, members=group.members - {id}, updated_at=at))
        uow.provisioning.remove_user(provider.name, id)
        journal.append(ctx, uow, "user:unprovisioned", principal=machine.name, data=_about(before, user))
    ctx.wake()


def _follow(
    ctx: Context,
    uow: UnitOfWork,
    machine: Machine,
    provider: IdentityProvider,
    before: ProvisionedUser | None,
    after: ProvisionedUser,
    at: datetime,
) -> ProvisionedUser:
    """Store the row and make the person behind it be what it says."""
    if before is not None and before.external_id != after.external_id:
        former = _user_of(uow, provider, before)
        if former is not None:  # the row is about somebody else now
            _shut_out(ctx, uow, machine, former, at)
        after = replace(after, user="", disabled_at=None)
    user = _user_of(uow, provider, after)
    after = replace(after, user=user.id if user else "")
    if user is not None and not after.active and user.is_enabled():
        uow.users.upsert(replace(user, disabled_at=at))
        _shut_out(ctx, uow, machine, user, at)
        after = replace(after, disabled_at=at)
    if user is not None and after.active and _let_in(uow, user, after):
        after = replace(after, disabled_at=None)
    uow.provisioning.save_user(after)
    _follow_groups(ctx, uow, machine, provider, [after])
    journal.append(ctx, uow, "user:provisioned", principal=machine.name, data=_about(after, user))
    return after


def _user_of(uow: UnitOfWork, provider: IdentityProvider, row: ProvisionedUser) -> User | None:
    return uow.users.get(_user_id_of(provider, row))


def _user_id_of(provider: IdentityProvider, row: ProvisionedUser) -> str:
    if row.user:
        return row.user
    if provider.names.external_id == "sub" and row.external_id:
        return user_id_of(provider.issuer, row.external_id)
    return ""  # known at their next sign-in


def _shut_out(ctx: Context, uow: UnitOfWork, machine: Machine, user: User, at: datetime) -> None:
    removed = put_out(uow, user, machine.name, at, _WHY)
    uow.users.confirm(user.id, None)  # nor does a passkey let them in while the provider is down
    data = {"user": user.name, "reason": _WHY, **removed}
    journal.append(ctx, uow, "user:deprovisioned", principal=machine.name, data=data)


def _let_in(uow: UnitOfWork, user: User, row: ProvisionedUser) -> bool:
    """Undo what SCIM did, and only that: whom an operator disabled stays disabled."""
    is_ours = user.disabled_at is not None and user.disabled_at == row.disabled_at
    if is_ours:
        uow.users.upsert(replace(user, disabled_at=None))
    return is_ours


# ---------------------------------------------------------------- groups


def create_group(ctx: Context, machine: Machine, provider: IdentityProvider, told: GroupTold) -> ProvisionedGroup:
    """A new group. Conflict when the provider has one of that name."""
    at = _begin(ctx, machine, told.display_name, told.external_id)
    made = ProvisionedGroup(
        ctx.ids.new("scg"), provider.name, told.external_id, told.display_name, told.members, told.resource, at, at
    )  # fmt: skip
    with ctx.store.begin() as uow:
        _keep_group(ctx, uow, machine, provider, None, made)
    ctx.rejudge()
    return made


def change_group(
    ctx: Context,
    machine: Machine,
    provider: IdentityProvider,
    id: str,
    change: Callable[[ProvisionedGroup], GroupTold],
) -> ProvisionedGroup:
    """Replace or patch one; live sessions are judged anew."""
    demand_scope(machine, WRITE_SCIM)
    for _ in range(_TRIES):
        with ctx.store.read() as uow:
            before = uow.provisioning.group(provider.name, id)
        if before is None:
            raise _no_such()
        told = change(before)
        at = _begin(ctx, machine, told.display_name, told.external_id)
        after = replace(
            before,
            external_id=told.external_id,
            display_name=told.display_name,
            members=told.members,
            resource=told.resource,
            updated_at=at,
        )
        with ctx.store.begin() as uow:
            is_as_read = uow.provisioning.group(provider.name, id) == before
            if is_as_read:
                _keep_group(ctx, uow, machine, provider, before, after)
        if is_as_read:
            ctx.rejudge()
            return after
    raise Conflict(_CHANGED)


def delete_group(ctx: Context, machine: Machine, provider: IdentityProvider, id: str) -> None:
    """Forget a group; its members are not in it any more."""
    demand_scope(machine, WRITE_SCIM)
    with ctx.store.begin() as uow:
        before = uow.provisioning.group(provider.name, id)
        if before is None or not uow.provisioning.remove_group(provider.name, id):
            raise _no_such()
        _follow_groups(ctx, uow, machine, provider, uow.provisioning.several(provider.name, before.members))
        data = {"group": before.display_name, "provider": provider.name, "members": len(before.members)}
        journal.append(ctx, uow, "group:unprovisioned", principal=machine.name, data=data)
    ctx.rejudge()


def _keep_group(
    ctx: Context,
    uow: UnitOfWork,
    machine: Machine,
    provider: IdentityProvider,
    before: ProvisionedGroup | None,
    after: ProvisionedGroup,
) -> None:
    if not _GROUP.fullmatch(after.display_name):
        raise UnusableValue(Refusal("group-unusable", "displayName must be printable ASCII of up to 128 characters."))
    if len(after.members) > MOST_MEMBERS:
        raise UnusableValue(Refusal("group-too-large", f"A group has at most {MOST_MEMBERS} members."))
    were = before.members if before else frozenset()
    joined = after.members - were
    if len(uow.provisioning.several(provider.name, joined)) < len(joined):
        raise UnusableValue(Refusal("no-such-member", "A member of the group is not a user of this provider."))
    uow.provisioning.save_group(after)
    is_renamed = before is not None and before.display_name != after.display_name
    concerned = were | after.members if is_renamed else were ^ after.members
    _follow_groups(ctx, uow, machine, provider, uow.provisioning.several(provider.name, concerned))
    data = {
        "group": after.display_name,
        "provider": provider.name,
        "joined": len(joined),
        "left": len(were - after.members),
    }
    journal.append(ctx, uow, "group:provisioned", principal=machine.name, data=data)


def _follow_groups(
    ctx: Context, uow: UnitOfWork, machine: Machine, provider: IdentityProvider, rows: Sequence[ProvisionedUser]
) -> None:
    """Everybody at once: meanwhile nobody else writes."""
    if not provider.names.from_scim:
        return
    groups = groups_by_row(uow, provider, {row.id for row in rows})
    held_by = {_user_id_of(provider, row): groups[row.id] for row in rows}
    users = uow.users.several(held_by)
    now = [(user, held_by[user.id]) for user in users if user.groups != held_by[user.id]]
    uow.users.regroup([replace(user, groups=held) for user, held in now])
    told = [{"user": user.name, "was": sorted(user.groups), "is": sorted(held)} for user, held in now]
    journal.append_each(ctx, uow, "user:groups-changed", told, principal=machine.name)


def groups_by_row(uow: UnitOfWork, provider: IdentityProvider, ids: Collection[str]) -> Mapping[str, frozenset[str]]:
    """The groups of provisioned users, as they are called here."""
    held: dict[str, set[str]] = {row: set() for row in ids}
    for group in uow.provisioning.groups(provider.name):
        for row in held.keys() & group.members:
            held[row].add(provider.names.group_prefix + group.display_name)
    return {row: frozenset(names) for row, names in held.items()}


# ---------------------------------------------------------------- at sign-in


def admit(uow: UnitOfWork, provider: IdentityProvider, claims: SignedClaims, person: User) -> User | Refusal:
    """The person as provisioned, where the provider provisions at all; a Refusal for who is not, or not any more."""
    if not provider.names.provisioned:
        return person
    external_id = claims.get(provider.names.external_id)
    row = None
    if isinstance(external_id, str) and external_id:
        row = uow.provisioning.user_by(provider.name, external_id=external_id)
    if row is None or not row.active or (row.user and row.user != person.id):
        return _not_provisioned(provider, person)
    if row.user != person.id:
        uow.provisioning.save_user(replace(row, user=person.id))
    return (
        replace(person, groups=groups_by_row(uow, provider, [row.id])[row.id]) if provider.names.from_scim else person
    )


def not_provisioned(uow: UnitOfWork, provider: IdentityProvider, user: User) -> Refusal | None:
    """As `admit`, for somebody known of whom the provider, being down, tells nothing now; None for who may come."""
    if not provider.names.provisioned:
        return None
    row = uow.provisioning.user_by(provider.name, user=user.id)
    if row is None and provider.names.external_id == "sub":
        row = uow.provisioning.user_by(provider.name, external_id=user.subject)
    is_theirs = row is not None and row.active and row.user in ("", user.id)
    return None if is_theirs else _not_provisioned(provider, user)


def _not_provisioned(provider: IdentityProvider, person: User) -> Refusal:
    return Refusal(
        "not-provisioned",
        f"{person.name} is not among the people whom {provider.label} has given access to this gateway.",
        ("provisioning (SCIM)",),
        (f"Ask those who run {provider.label} to assign you to this application.",),
    )


# ---------------------------------------------------------------- small things


def _begin(ctx: Context, machine: Machine, name: str, external_id: str) -> datetime:
    demand_scope(machine, WRITE_SCIM)
    if not 0 < len(name) <= _LONGEST or not name.isprintable():
        raise UnusableValue(Refusal("name-unusable", "A name is one line of up to 255 characters."))
    if len(external_id) > _LONGEST or not external_id.isprintable():
        raise UnusableValue(Refusal("external-id-unusable", "externalId is one line of up to 255 characters."))
    return ctx.clock.now()


def _known(row: ProvisionedUser | None) -> ProvisionedUser:
    if row is None:
        raise _no_such()
    return row


def _no_such() -> NotFound:
    return NotFound(Refusal("not-provisioned", "There is no such resource of this provider."))


def _about(row: ProvisionedUser, user: User | None) -> dict[str, object]:
    return {
        "user": user.name if user else "",
        "user_name": row.user_name,
        "external_id": row.external_id,
        "provider": row.provider,
        "active": row.active,
    }
