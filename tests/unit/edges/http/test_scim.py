"""SCIM as Entra ID and Okta speak it, and what it means for the people concerned."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NoReturn

import pytest
from fastapi.testclient import TestClient

from gateway.app.api_tokens import READ_AUDIT, WRITE_SCIM, create_api_token
from gateway.app.identity import ClaimNames
from gateway.app.providers import Providers
from gateway.app.request_access import Ask, request_access
from gateway.app.shut_out import disable_user
from gateway.core.errors import Refusal, Unavailable
from gateway.edges.http.app import create_app
from tests.unit.edges.device import DeviceClient
from tests.unit.edges.http.conftest import DOORS
from tests.unit.edges.http.test_login import state_of
from tests.unit.edges.stage import Stage
from tests.unit.edges.trusting_provider import TrustingProvider

USER = "urn:ietf:params:scim:schemas:core:2.0:User"
ENTERPRISE = "urn:ietf:params:scim:schemas:extension:enterprise:2.0:User"
GROUP = "urn:ietf:params:scim:schemas:core:2.0:Group"
PATCH = "urn:ietf:params:scim:api:messages:2.0:PatchOp"
PLANTED = "hunter2-planted"
ENTRA_USER = {
    "schemas": [USER, ENTERPRISE], "externalId": "sub-alice", "userName": "Alice@corp.test", "active": True,
    "displayName": "Alice A", "emails": [{"primary": True, "type": "work", "value": "alice@corp.test"}],
    "meta": {"resourceType": "User"}, "name": {"formatted": "Alice A", "familyName": "A", "givenName": "Alice"},
    "roles": [], "password": PLANTED, ENTERPRISE: {"department": "Ops"}, "vendorThing": {"x": 1},
}  # fmt: skip
OKTA_USER = {
    "schemas": [USER], "userName": "alice@corp.test", "name": {"givenName": "Alice", "familyName": "A"},
    "emails": [{"primary": True, "value": "alice@corp.test", "type": "work"}], "displayName": "Alice A",
    "locale": "en-US", "externalId": "sub-alice", "groups": [], "password": PLANTED, "active": True,
}  # fmt: skip


@dataclass
class Scim:
    client: TestClient
    stage: Stage
    provider: TrustingProvider
    token: str

    def __call__(self, method: str, path: str, body: object = None, status: int = 200, **query: object) -> Any:
        answer = self.client.request(
            method, f"/scim/v2{path}", json=body, params=query or None,
            headers={"authorization": f"Bearer {self.token}", "content-type": "application/scim+json"},
        )  # fmt: skip
        assert answer.status_code == status, answer.text
        if answer.content:
            assert answer.headers["content-type"] == "application/scim+json"
        return answer.json() if answer.content else None

    def patch(self, path: str, *operations: object, status: int = 200) -> Any:
        return self("PATCH", path, {"schemas": [PATCH], "Operations": list(operations)}, status)

    def add(self, body: dict[str, Any] = ENTRA_USER, **more: object) -> str:
        return str(self("POST", "/Users", {**body, **more}, 201)["id"])

    def can_sign_in(self, name: str = "alice") -> bool:
        self.client.cookies.clear()
        sent = self.client.get("/login")
        query = {"state": state_of(sent.headers["location"]), "code": name}
        return self.client.get("/callback", params=query).status_code == 303


@pytest.fixture
def scim(stage: Stage) -> Iterator[Scim]:
    provider = TrustingProvider(names=ClaimNames(provisioned=True, from_scim=True))
    other = TrustingProvider(
        name="partner", issuer="https://partner.example", names=ClaimNames(suffix=".partner", provisioned=True)
    )
    made = create_api_token(stage.ctx, stage.user("lead"), "entra", [WRITE_SCIM], timedelta(days=90), "oidc")
    app = create_app(stage.ctx, Providers([provider, other]), DOORS, public_url="http://testserver")
    with DeviceClient(app, follow_redirects=False, raise_server_exceptions=False) as client:
        login = client.get

        def get(url: str, **more: Any) -> Any:
            return login("/login?provider=oidc" if url == "/login" else url, **more)

        client.get = get  # type: ignore[method-assign]  # two providers: choose the first
        yield Scim(client, stage, provider, made.secret)


@pytest.mark.parametrize("body", [ENTRA_USER, OKTA_USER])
def test_a_user_is_created_read_and_found(scim: Scim, body: dict[str, Any]) -> None:
    made = scim("POST", "/Users", body, 201)
    assert made["id"].startswith("scu_")
    assert made["active"] is True
    assert made["meta"]["location"] == f"http://testserver/scim/v2/Users/{made['id']}"
    assert PLANTED not in scim.stage.dump()
    assert "password" not in made
    assert scim("GET", f"/Users/{made['id']}") == made
    for wanted in ('userName eq "ALICE@corp.test"', 'externalId eq "sub-alice"', 'emails.value eq "alice@corp.test"'):
        found = scim("GET", "/Users", filter=wanted)
        assert (found["totalResults"], found["Resources"][0]["id"]) == (1, made["id"]), wanted
    assert scim("GET", "/Users", filter='userName eq "nobody"')["Resources"] == []
    assert scim("GET", "/Users", filter="userName eq (", status=400)["scimType"] == "invalidFilter"


@pytest.mark.parametrize("where", ["/Users", "/Groups"])
@pytest.mark.parametrize("name", ["filter", "FILTER"])
def test_a_filter_has_few_conditions(scim: Scim, where: str, name: str) -> None:
    """Each of them costs once for everybody there is."""
    few, many = (" or ".join(['externalId eq "x"'] * n) for n in (20, 100))
    assert scim("GET", where, **{name: few})["totalResults"] == 0
    assert scim("GET", where, status=400, **{name: many})["scimType"] == "tooMany"


def test_a_patch_that_is_too_large_is_not_called_a_duplicate(scim: Scim) -> None:
    made = scim("POST", "/Groups", {"schemas": [GROUP], "displayName": "ops"}, 201)
    rename = {"op": "replace", "path": "displayName", "value": "ops"}
    assert scim.patch(f"/Groups/{made['id']}", *[rename] * 1000, status=400)["scimType"] == "tooMany"


def test_pages_are_counted_from_one(scim: Scim) -> None:
    ids = [scim.add(userName=f"u{n}", externalId=f"s{n}") for n in range(5)]
    page = scim("GET", "/Users", startIndex=2, count=2)
    assert (page["totalResults"], page["startIndex"], page["itemsPerPage"]) == (5, 2, 2)
    assert [each["id"] for each in page["Resources"]] == sorted(ids)[1:3]
    assert scim("GET", "/Users", count=0)["Resources"] == []
    assert len(scim("GET", "/Users", startIndex=0, count=1000)["Resources"]) == 5
    assert scim("GET", "/Users", attributes="userName")["Resources"][0].keys() <= {"schemas", "id", "userName"}


def test_a_name_and_an_external_id_are_had_once(scim: Scim) -> None:
    scim.add()
    assert scim("POST", "/Users", {**ENTRA_USER, "externalId": "x"}, 409)["scimType"] == "uniqueness"
    assert scim("POST", "/Users", {**ENTRA_USER, "userName": "x"}, 409)["scimType"] == "uniqueness"


SHUT = [
    pytest.param({"op": "Replace", "path": "active", "value": "False"}, id="entra-text"),
    pytest.param({"op": "Replace", "path": "active", "value": False}, id="entra"),
    pytest.param({"op": "replace", "value": {"active": False}}, id="okta"),
    pytest.param({"op": "replace", "value": {"id": "scu_x", "active": False}}, id="okta-with-id"),
    pytest.param({"op": "Replace", "value": {"active": "False", "name.familyName": "B"}}, id="entra-no-path"),
]


@pytest.mark.parametrize("operation", SHUT)
def test_who_is_deprovisioned_is_out_at_once_and_back_when_told(scim: Scim, operation: dict[str, Any]) -> None:
    user_id = scim.add()
    assert scim.can_sign_in()
    assert "signed in as alice" in scim.client.get("/").text
    with scim.stage.store.read() as uow:
        alice = uow.users.by_name("alice")
    grant = request_access(scim.stage.ctx, alice, Ask("orders-db", "read", timedelta(hours=1), "x", "INC-1042")).grant
    assert scim.patch(f"/Users/{user_id}", operation)["active"] is False
    assert "not signed in" in scim.client.get("/").text
    with scim.stage.store.read() as uow:
        assert not uow.users.get(alice.id).is_enabled()  # what the supervisor reads four times a second
        assert uow.grants.get(grant.id).revoked_at is not None
    assert not scim.can_sign_in()
    assert ("user:deprovisioned", "ok") in scim.stage.events()
    scim.patch(f"/Users/{user_id}", {"op": "Replace", "path": "active", "value": "True"})
    assert scim.can_sign_in()


def test_put_says_the_whole(scim: Scim) -> None:
    user_id = scim.add()
    assert scim.can_sign_in()
    assert scim("PUT", f"/Users/{user_id}", {**OKTA_USER, "active": False})["active"] is False
    assert not scim.can_sign_in()
    without = {key: value for key, value in OKTA_USER.items() if key != "active"}
    assert scim("PUT", f"/Users/{user_id}", without)["active"] is False  # silence lets nobody in


def test_who_is_deleted_is_out_and_may_come_back(scim: Scim) -> None:
    user_id = scim.add()
    assert scim.can_sign_in()
    with scim.stage.store.read() as uow:
        alice = uow.users.by_name("alice")
    scim("DELETE", f"/Users/{user_id}", status=204)
    with scim.stage.store.read() as uow:
        assert uow.users.confirmed_at(alice.id) is None  # nor does a passkey let her in while the provider is down
    assert "not signed in" in scim.client.get("/").text
    assert not scim.can_sign_in()
    scim("GET", f"/Users/{user_id}", status=404)
    scim("DELETE", f"/Users/{user_id}", status=404)
    scim.add()
    assert scim.can_sign_in()


def test_whom_an_operator_shut_out_scim_does_not_let_in(scim: Scim) -> None:
    user_id = scim.add()
    assert scim.can_sign_in()
    disable_user(scim.stage.ctx, scim.stage.user("boss"), "alice")
    for value in (False, True):
        scim.patch(f"/Users/{user_id}", {"op": "replace", "path": "active", "value": value})
    assert not scim.can_sign_in()


def test_nobody_is_matched_by_name_or_address(scim: Scim) -> None:
    scim.add(externalId="somebody-else", userName="mallory")
    scim.provider.claims = {"email": "alice@corp.test", "email_verified": True}
    assert not scim.can_sign_in("mallory")  # the name is the same, the subject is not
    assert scim("GET", "/Users")["Resources"][0]["userName"] == "mallory"


def test_a_row_is_one_identity_for_good(scim: Scim) -> None:
    user_id = scim.add()
    assert scim.can_sign_in()
    scim.patch(f"/Users/{user_id}", {"op": "replace", "path": "externalId", "value": "sub-bob"})
    assert "not signed in" in scim.client.get("/").text  # alice is not provisioned any more
    assert not scim.can_sign_in("alice")
    assert scim.can_sign_in("bob")


def test_another_claim_may_be_the_external_id(scim: Scim) -> None:
    scim.provider.names = ClaimNames(provisioned=True, from_scim=True, external_id="oid")
    scim.provider.claims = {"oid": "00aa-11bb"}
    user_id = scim.add(externalId="00aa-11bb")
    assert scim.can_sign_in("alice")
    assert not scim.can_sign_in("bob")  # the row is alice's since her sign-in, though the claim says otherwise
    assert scim.can_sign_in("alice")
    scim.patch(f"/Users/{user_id}", {"op": "Replace", "path": "active", "value": "False"})
    assert "not signed in" in scim.client.get("/").text
    scim.provider.claims = {}
    assert not scim.can_sign_in("alice")


def groups_of(scim: Scim, name: str) -> frozenset[str]:
    with scim.stage.store.read() as uow:
        return uow.users.by_name(name).groups


def test_groups_are_what_scim_says_and_nothing_else(scim: Scim) -> None:
    alice = scim.add()
    scim.provider.claims = {"groups": ["leads"]}
    made = scim("POST", "/Groups", {"schemas": [GROUP], "displayName": "engineers", "externalId": "g1"}, 201)
    path = f"/Groups/{made['id']}"
    assert scim.can_sign_in()
    assert groups_of(scim, "alice") == frozenset()
    scim.patch(path, {"op": "Add", "path": "members", "value": [{"value": alice}]})
    assert groups_of(scim, "alice") == {"engineers"}
    assert scim.can_sign_in()
    assert groups_of(scim, "alice") == {"engineers"}
    scim.patch(path, {"op": "replace", "value": {"id": made["id"], "displayName": "on-call"}})  # Okta renames
    assert groups_of(scim, "alice") == {"on-call"}
    for away in (
        {"op": "remove", "path": f'members[value eq "{alice}"]'},
        {"op": "Remove", "path": "members", "value": [{"value": alice}]},
        {"op": "remove", "path": "members"},
        {"op": "replace", "path": "members", "value": []},
    ):
        scim.patch(path, {"op": "add", "path": "members", "value": [{"value": alice, "display": "Alice"}]})
        assert groups_of(scim, "alice") == {"on-call"}
        assert scim.patch(path, away).get("members", []) == []
        assert groups_of(scim, "alice") == frozenset(), away
    scim("PUT", path, {"schemas": [GROUP], "displayName": "leads", "members": [{"value": alice}]})
    assert groups_of(scim, "alice") == {"leads"}
    scim("DELETE", path, status=204)
    assert groups_of(scim, "alice") == frozenset()
    assert ("user:groups-changed", "ok") in scim.stage.events()


def test_a_change_of_groups_has_live_sessions_judged_anew(scim: Scim) -> None:
    from dataclasses import replace

    judged: list[str] = []
    wired = scim.client.app.state.wiring  # type: ignore[attr-defined]
    scim.client.app.state.wiring = replace(  # type: ignore[attr-defined]
        wired, ctx=replace(wired.ctx, rejudge=lambda: judged.append("now"))
    )
    made = scim("POST", "/Groups", {"schemas": [GROUP], "displayName": "engineers"}, 201)
    scim.patch(f"/Groups/{made['id']}", {"op": "Add", "path": "members", "value": [{"value": scim.add()}]})
    scim("DELETE", f"/Groups/{made['id']}", status=204)
    assert len(judged) == 3


def test_groups_are_found_and_their_members_may_be_left_out(scim: Scim) -> None:
    body = {"schemas": [GROUP], "displayName": "engineers", "members": [{"value": scim.add()}]}
    user_id = scim("POST", "/Groups", body, 201)["id"]
    found = scim("GET", "/Groups", filter='displayName eq "engineers"', excludedAttributes="members")
    assert [each["id"] for each in found["Resources"]] == [user_id]
    assert "members" not in found["Resources"][0]
    assert "members" not in scim("GET", f"/Groups/{user_id}", excludedAttributes="members")
    assert len(scim("GET", f"/Groups/{user_id}")["members"]) == 1


@pytest.mark.parametrize("name", ["a\nb", "\x1b[31mred", "", "x" * 200, "ä"])
def test_group_names_that_could_lie_are_refused(scim: Scim, name: str) -> None:
    scim("POST", "/Groups", {"schemas": [GROUP], "displayName": name}, 400)


def test_a_member_must_be_a_user_of_the_same_provider(scim: Scim) -> None:
    made = create_api_token(
        scim.stage.ctx, scim.stage.user("boss"), "partner", [WRITE_SCIM], timedelta(days=1), "partner"
    )
    other = Scim(scim.client, scim.stage, scim.provider, made.secret)
    theirs = other.add()
    body = {"schemas": [GROUP], "displayName": "engineers", "members": [{"value": theirs}]}
    assert scim("POST", "/Groups", body, 400)["scimType"] == "invalidValue"
    scim("GET", f"/Users/{theirs}", status=404)
    scim("DELETE", f"/Users/{theirs}", status=404)
    scim.patch(f"/Users/{theirs}", {"op": "replace", "value": {"active": False}}, status=404)
    assert scim("GET", "/Users")["totalResults"] == 0
    scim.add()  # the same name and external id at another provider are another person


def test_only_a_token_for_scim_provisions(scim: Scim) -> None:
    reader = create_api_token(scim.stage.ctx, scim.stage.user("boss"), "siem", [READ_AUDIT], timedelta(days=1))
    person = scim.stage.token(scim.stage.user("nosy"))
    for token, status in ((reader.secret, 403), (person, 401), ("gwa_x", 401), ("", 401)):
        outsider = Scim(scim.client, scim.stage, scim.provider, token)
        for method, path in (("GET", "/Users"), ("POST", "/Users"), ("GET", "/Schemas"), ("DELETE", "/Groups/x")):
            answer = outsider(method, path, ENTRA_USER if method == "POST" else None, status)
            assert answer["schemas"] == ["urn:ietf:params:scim:api:messages:2.0:Error"]
    scim.provider.names = ClaimNames()
    assert "does not provision" in scim("GET", "/Users", status=403)["detail"]


@pytest.mark.parametrize(
    "body",
    [
        {}, {"schemas": [USER]}, {"schemas": [USER], "userName": 7}, {"schemas": [USER], "userName": "a\x1b[2J"},
        {"schemas": [USER], "userName": "x" * 300}, {"schemas": [USER], "userName": "a", "active": "perhaps"},
        {"schemas": [USER], "userName": "a", "externalId": "a\nb"}, [], "x", None,
    ],
)  # fmt: skip
def test_what_is_no_user_is_a_400(scim: Scim, body: object) -> None:
    assert scim("POST", "/Users", body, 400)["status"] == "400"
    assert scim("GET", "/Users")["totalResults"] == 0


@pytest.mark.parametrize(
    "operation",
    [
        {"op": "explode", "path": "active", "value": False}, {"op": "replace", "path": "active", "value": "perhaps"},
        {"op": "replace", "path": "emails[", "value": "x"}, {"op": "remove"}, {"op": "replace"}, "x", 7, {},
        {"op": "replace", "path": "userName", "value": ""}, {"op": "remove", "path": "userName"},
    ],
)  # fmt: skip
def test_what_is_no_patch_changes_nothing(scim: Scim, operation: object) -> None:
    user_id = scim.add()
    before = scim("GET", f"/Users/{user_id}")
    scim.patch(f"/Users/{user_id}", operation, status=400)
    scim.patch(f"/Users/{user_id}", {"op": "replace", "value": {"active": False}}, operation, status=400)
    assert scim("GET", f"/Users/{user_id}") == before


def test_entra_changes_what_is_not_there_yet(scim: Scim) -> None:
    user_id = scim.add()
    scim.patch(
        f"/Users/{user_id}",
        {"op": "Add", "path": 'emails[type eq "home"].value', "value": "home@corp.test"},
        {"op": "Add", "path": f"{ENTERPRISE}:manager", "value": "scu_boss"},
        {"op": "Replace", "path": "unheardOf", "value": "x"},
        {"op": "Replace", "path": "name.familyName", "value": "B"},
    )
    told = scim("GET", f"/Users/{user_id}")
    assert {"value": "home@corp.test", "type": "home"} in told["emails"]
    assert told[ENTERPRISE] == {"department": "Ops", "manager": {"value": "scu_boss"}}
    assert told["name"]["familyName"] == "B"


def test_the_service_describes_itself(scim: Scim) -> None:
    config = scim("GET", "/ServiceProviderConfig")
    assert config["patch"]["supported"] is True
    assert config["bulk"]["supported"] is False
    assert {each["id"] for each in scim("GET", "/Schemas")["Resources"]} == {USER, ENTERPRISE, GROUP}
    assert scim("GET", f"/Schemas/{USER}")["name"] == "User"
    assert {each["name"] for each in scim("GET", "/ResourceTypes")["Resources"]} == {"User", "Group"}
    assert scim("GET", "/ResourceTypes/Group")["endpoint"] == "/Groups"
    scim("GET", "/Schemas/urn:nothing", status=404)


def test_while_the_database_is_away_a_call_can_be_tried_again(scim: Scim, monkeypatch: pytest.MonkeyPatch) -> None:
    away = Unavailable(Refusal("store-unavailable", "The gateway's database cannot be reached."))

    def nothing() -> NoReturn:
        raise away

    monkeypatch.setattr(scim.stage.store, "begin", nothing)
    monkeypatch.setattr(scim.stage.store, "read", nothing)
    assert "database" in scim("POST", "/Users", ENTRA_USER, 503)["detail"]
    monkeypatch.undo()
    scim.add()


def test_bodies_are_bounded_and_of_the_right_type(scim: Scim) -> None:
    head = {"authorization": f"Bearer {scim.token}"}
    big = b'{"schemas": ["' + b"x" * 1_100_000 + b'"]}'
    answer = scim.client.post("/scim/v2/Users", content=big, headers={**head, "content-type": "application/scim+json"})
    assert answer.status_code == 413
    text = scim.client.post("/scim/v2/Users", content=b"{}", headers={**head, "content-type": "text/plain"})
    assert text.status_code == 415
