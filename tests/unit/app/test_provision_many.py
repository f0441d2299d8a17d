"""A group of thousands: the one writer of the database is held for a moment, not for seconds."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import event

from gateway.app.identity import ClaimNames, user_id_of
from gateway.app.people_ports import ProvisionedUser
from gateway.app.provision import GroupTold, change_group, create_group, delete_group
from gateway.core.errors import Conflict
from gateway.core.principal import Machine, User
from tests.unit.edges.stage import Stage, make_stage
from tests.unit.edges.trusting_provider import TrustingProvider

MEMBERS, GROUPS = 2500, 10
MACHINE = Machine("tok_1", "token:entra", frozenset({"scim:write"}), "oidc")
MOST = 40  # statements: a few, and one for each five hundred people


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    made = make_stage(tmp_path)
    yield made
    made.store.close()


@contextmanager
def counted(stage: Stage) -> Iterator[list[str]]:
    asked: list[str] = []

    def note(*about: object) -> None:
        asked.append(str(about[2]))

    engines = (stage.store._reading, stage.store._writing)
    for engine in engines:
        event.listen(engine, "before_cursor_execute", note)
    yield asked
    for engine in engines:
        event.remove(engine, "before_cursor_execute", note)


def arrange_people(stage: Stage, provider: TrustingProvider) -> list[str]:
    at = stage.clock.now()
    with stage.store.begin() as uow:
        for n in range(MEMBERS):
            uow.provisioning.save_user(ProvisionedUser(f"scu_{n}", "oidc", f"s{n}", f"u{n}", True, {}, at, at))
            if n % 2:  # the others have never signed in
                known = user_id_of(provider.issuer, f"s{n}")
                uow.users.upsert(User(known, provider.issuer, f"s{n}", f"p{n}", "", frozenset()))
    return [f"scu_{n}" for n in range(MEMBERS)]


def told(name: str, *members: str) -> GroupTold:
    return GroupTold(name, "", frozenset(members), {})


def test_a_large_group_needs_few_statements(stage: Stage) -> None:
    provider = TrustingProvider(names=ClaimNames(provisioned=True, from_scim=True))
    ids = arrange_people(stage, provider)
    groups = [create_group(stage.ctx, MACHINE, provider, told(f"g{n}", *ids)) for n in range(GROUPS - 1)]
    with counted(stage) as asked:
        create_group(stage.ctx, MACHINE, provider, told("last", *ids))
        change_group(stage.ctx, MACHINE, provider, groups[0].id, lambda _: told("renamed", *ids[1:]))
        delete_group(stage.ctx, MACHINE, provider, groups[1].id)
    assert 0 < len(asked) < 3 * MOST
    with stage.store.read() as uow:
        first, second = uow.users.several([user_id_of(provider.issuer, f"s{n}") for n in (1, 3)])
    assert first.groups == second.groups == {"last", "renamed", *(f"g{n}" for n in range(2, GROUPS - 1))}
    assert stage.events().count(("user:groups-changed", "ok")) == (GROUPS + 2) * MEMBERS // 2
    with pytest.raises(Conflict) as no:
        create_group(stage.ctx, MACHINE, provider, told("other", *ids, "scu_unknown"))
    assert no.value.refusal.code == "no-such-member"
