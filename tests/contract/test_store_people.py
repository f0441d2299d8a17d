"""People's sessions at their provider, machines' tokens and what SCIM provisions, on both databases."""

from dataclasses import replace
from datetime import timedelta

import pytest

from gateway.adapters.store import SqlStore
from gateway.app.people_ports import (
    ApiToken,
    ApiTokens,
    ProviderSession,
    ProviderSessions,
    ProvisionedGroup,
    ProvisionedUser,
    Provisioning,
)
from gateway.core.errors import Conflict
from tests.contract.store_values import HOUR, LEAD, ONCALL, T0, fill

SESSION = ProviderSession("psn_1", ONCALL.id, "oidc", "sid-1", "sealed", T0, T0, T0 + HOUR, 2)
TOKEN = ApiToken(
    "tok_1", "siem", "d" * 64, frozenset({"audit:read", "scim:write"}), "oidc", LEAD.id, LEAD.name, T0, T0 + HOUR,
    T0, "192.0.2.7",
)  # fmt: skip
USER = ProvisionedUser(
    "scu_1", "oidc", "ext-1", "Alice@corp.example", True, {"displayName": "Alice", "emails": [{"value": "a@b.c"}]},
    T0, T0 + HOUR, ONCALL.id, T0,
)  # fmt: skip
GROUP = ProvisionedGroup("scg_1", "oidc", "g-1", "engineers", frozenset({"scu_1", "scu_2"}), {}, T0, T0)


@pytest.fixture(autouse=True)
def filled(store: SqlStore) -> None:
    fill(store)


def test_the_repositories_are_the_ports(store: SqlStore) -> None:
    with store.read() as uow:
        sessions: ProviderSessions = uow.provider_sessions
        tokens: ApiTokens = uow.api_tokens
        provisioning: Provisioning = uow.provisioning
        assert all((sessions, tokens, provisioning))


def test_every_field_comes_back(store: SqlStore) -> None:
    with store.begin() as uow:
        uow.provider_sessions.add(SESSION)
        uow.api_tokens.add(TOKEN)
        uow.provisioning.save_user(USER)
        uow.provisioning.save_group(GROUP)
    with store.read() as uow:
        assert uow.provider_sessions.get("psn_1") == SESSION
        assert uow.api_tokens.by_digest(TOKEN.digest) == TOKEN
        assert uow.provisioning.user("oidc", "scu_1") == USER
        assert uow.provisioning.group("oidc", "scg_1") == GROUP
        assert uow.provider_sessions.get("psn_none") is None
        assert uow.api_tokens.by_digest("none") is None


def test_a_session_that_has_ended_stays_so(store: SqlStore) -> None:
    with store.begin() as uow:
        uow.provider_sessions.add(SESSION)
        assert uow.provider_sessions.save(replace(SESSION, ended_at=T0, sealed_token="", next_check_at=None))
        assert not uow.provider_sessions.save(replace(SESSION, sealed_token="back"))
    with store.read() as uow:
        assert uow.provider_sessions.get("psn_1").sealed_token == ""
        assert uow.provider_sessions.alive(user=ONCALL.id) == []


def test_sessions_are_found_by_person_and_by_sid(store: SqlStore) -> None:
    other = replace(SESSION, id="psn_2", user=LEAD.id, sid="sid-2")
    elsewhere = replace(SESSION, id="psn_3", provider="partner")
    with store.begin() as uow:
        for each in (SESSION, other, elsewhere):
            uow.provider_sessions.add(each)
    with store.read() as uow:
        find = uow.provider_sessions.alive
        assert {each.id for each in find(user=ONCALL.id)} == {"psn_1", "psn_3"}
        assert [each.id for each in find(provider="oidc", sid="sid-1")] == ["psn_1"]
        assert [each.id for each in find(provider="oidc", user=LEAD.id)] == ["psn_2"]


def test_what_is_due_is_claimed_once(store: SqlStore) -> None:
    with store.begin() as uow:
        for number in range(5):
            at = T0 + number * timedelta(seconds=1)
            uow.provider_sessions.add(replace(SESSION, id=f"psn_{number}", next_check_at=at))
        uow.provider_sessions.add(replace(SESSION, id="psn_never", next_check_at=None))
        uow.provider_sessions.add(replace(SESSION, id="psn_other", provider="partner", next_check_at=T0))
    now, until = T0 + timedelta(seconds=3), T0 + HOUR
    with store.read() as uow:
        assert uow.provider_sessions.has_due("oidc", now)
        assert not uow.provider_sessions.has_due("oidc", T0 - HOUR)
        assert not uow.provider_sessions.has_due("other", now)
    with store.begin() as uow:
        first = uow.provider_sessions.claim_due("oidc", now, until, 3)
        second = uow.provider_sessions.claim_due("oidc", now, until, 3)
        third = uow.provider_sessions.claim_due("oidc", now, until, 3)
    assert [each.id for each in first] == ["psn_0", "psn_1", "psn_2"]
    assert [each.id for each in second] == ["psn_3"]
    assert third == []
    assert first[0].next_check_at == until


def test_what_is_over_is_forgotten_in_time(store: SqlStore) -> None:
    with store.begin() as uow:
        uow.provider_sessions.add(SESSION)
        uow.provider_sessions.add(replace(SESSION, id="psn_2", ended_at=T0 - HOUR))
        assert uow.provider_sessions.purge(T0) == 1
        assert uow.provider_sessions.purge(T0 + HOUR) == 1


def test_a_tokens_name_is_free_again_once_it_is_revoked(store: SqlStore) -> None:
    with store.begin() as uow:
        uow.api_tokens.add(TOKEN)
        assert uow.api_tokens.by_name("siem") == TOKEN
        assert uow.api_tokens.revoke("tok_1", T0)
        assert not uow.api_tokens.revoke("tok_1", T0)
        assert uow.api_tokens.by_name("siem") is None
        uow.api_tokens.add(replace(TOKEN, id="tok_2", digest="e" * 64, created_at=T0 + HOUR))
        uow.api_tokens.used("tok_2", T0 + HOUR, "192.0.2.8")
    with store.read() as uow:
        newest, oldest = uow.api_tokens.all()
        assert (newest.id, newest.last_used_from) == ("tok_2", "192.0.2.8")
        assert oldest.revoked_at == T0


def test_names_and_external_ids_are_had_once_at_each_provider(store: SqlStore) -> None:
    with store.begin() as uow:
        uow.provisioning.save_user(USER)
        for taken in (
            replace(USER, id="scu_2", user_name="ALICE@corp.example", external_id="ext-2"),
            replace(USER, id="scu_2", user_name="bob"),
        ):
            with pytest.raises(Conflict):
                uow.provisioning.save_user(taken)
        uow.provisioning.save_user(replace(USER, id="scu_2", provider="partner"))
        for number in (3, 4):  # without an external id there is nothing to be had twice
            uow.provisioning.save_user(replace(USER, id=f"scu_{number}", user_name=f"u{number}", external_id=""))
        uow.provisioning.save_user(replace(USER, active=False))
    with store.read() as uow:
        assert not uow.provisioning.user_by("oidc", user_name="alice@CORP.example").active
        assert uow.provisioning.user_by("oidc", external_id="ext-1").id == "scu_1"
        assert uow.provisioning.user_by("oidc", user_name="bob") is None
        assert uow.provisioning.user_by("oidc") is None
        assert uow.provisioning.user("partner", "scu_1") is None
        assert [each.id for each in uow.provisioning.users("oidc")] == ["scu_1", "scu_3", "scu_4"]


def test_groups_are_had_once_and_removed(store: SqlStore) -> None:
    with store.begin() as uow:
        uow.provisioning.save_group(GROUP)
        with pytest.raises(Conflict):
            uow.provisioning.save_group(replace(GROUP, id="scg_2"))
        uow.provisioning.save_group(replace(GROUP, members=frozenset()))
        assert [each.members for each in uow.provisioning.groups("oidc")] == [frozenset()]
        assert not uow.provisioning.remove_group("partner", "scg_1")
        assert uow.provisioning.remove_group("oidc", "scg_1")
        uow.provisioning.save_user(USER)
        assert not uow.provisioning.remove_user("partner", "scu_1")
        assert uow.provisioning.remove_user("oidc", "scu_1")


def test_credentials_of_a_person_are_listed_and_removed_one_by_one(store: SqlStore) -> None:
    from tests.contract.store_values import TICKET

    with store.begin() as uow:
        uow.credentials.add(TICKET)
        uow.credentials.add(replace(TICKET, digest="e" * 64, issued_at=T0 + HOUR))
        held = uow.credentials.of_subject(ONCALL.id, "ticket")
        assert [each.digest for each in held] == [TICKET.digest, "e" * 64]
        assert uow.credentials.remove(TICKET.digest, "cli") == 0
        assert uow.credentials.remove(TICKET.digest, "ticket") == 1
        assert len(uow.credentials.of_subject(ONCALL.id, "ticket")) == 1


def test_the_newest_tickets_that_may_still_be_used(store: SqlStore) -> None:
    from tests.contract.store_values import TICKET

    at = TICKET.issued_at + HOUR / 4
    ticket = replace(TICKET, data={"grant": "grt_1", "target": "orders-db", "scram": "verifier"})
    used = replace(ticket, used_at=TICKET.issued_at)
    with store.begin() as uow:
        uow.users.upsert(ONCALL)
        uow.credentials.add(replace(ticket, digest="a" * 64, single_use=False, used_at=TICKET.issued_at))
        uow.credentials.add(replace(ticket, digest="b" * 64, issued_at=TICKET.issued_at + HOUR / 8))
        uow.credentials.add(replace(used, digest="c" * 64, single_use=True))
        uow.credentials.add(replace(ticket, digest="d" * 64, expires_at=at))
        uow.credentials.add(replace(ticket, digest="e" * 64, purpose="cli"))
        uow.credentials.add(replace(ticket, digest="f" * 64, subject="usr_other"))
        uow.credentials.add(replace(ticket, digest="1" * 64, data={"target": "web-1", "scram": "verifier"}))
        uow.credentials.add(replace(ticket, digest="2" * 64, data={"target": "orders-db"}))
        uow.credentials.add(replace(ticket, digest="3" * 64, data=None))
    with store.read() as uow:
        credentials, b, a = uow.credentials, ("b" * 64, "verifier"), ("a" * 64, "verifier")
        assert list(credentials.usable(ONCALL.name, "orders-db", "scram", at, 9)) == [b, a]
        assert list(credentials.usable(ONCALL.name, "orders-db", "scram", at, 1)) == [b]
        assert not credentials.usable(ONCALL.name.upper(), "orders-db", "scram", at, 9)
        assert not credentials.usable("nobody", "orders-db", "scram", at, 9)


def test_many_are_found_and_regrouped_at_once(store: SqlStore) -> None:
    ids = [f"scu_{number:04}" for number in range(510)]
    with store.begin() as uow:
        for number, row in enumerate(ids):
            uow.provisioning.save_user(replace(USER, id=row, user_name=f"u{number}", external_id=f"e{number}"))
        found = uow.provisioning.several("oidc", [*ids, "scu_unknown"])
        assert [each.id for each in found] == ids
        assert uow.provisioning.several("partner", ids) == uow.provisioning.several("oidc", []) == []
        uow.users.regroup([replace(ONCALL, groups=frozenset({"b", "a"}), email="not this")])
        uow.users.regroup([])
    with store.read() as uow:
        known = {user.id: user for user in uow.users.several([ONCALL.id, LEAD.id, "usr_unknown"])}
    assert known == {ONCALL.id: replace(ONCALL, groups=frozenset({"a", "b"})), LEAD.id: LEAD}


def test_who_is_provisioned_is_found_by_user_id(store: SqlStore) -> None:
    with store.begin() as uow:
        uow.provisioning.save_user(USER)
        assert uow.provisioning.user_by("oidc", user=ONCALL.id) == USER
        assert uow.provisioning.user_by("partner", user=ONCALL.id) is None
        assert uow.provisioning.user_by("oidc", user=LEAD.id) is None
