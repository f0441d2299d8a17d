"""Changes by SCIM that come while others write: nothing waits for a long one, and none is lost."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from gateway.app import journal
from gateway.edges.http import scim_resources
from tests.unit.edges.http.test_scim import GROUP, Scim, groups_of, scim

__all__ = ["scim"]
Patch = Callable[[Any, Mapping[str, Any]], Any]


def meanwhile(monkeypatch: pytest.MonkeyPatch, name: str, happens: Callable[[], object], times: int = 1) -> None:
    """While the body of a PATCH is worked out, something else `happens`."""
    real: Patch = getattr(scim_resources, name)
    left = [times]

    def slow(row: Any, body: Mapping[str, Any]) -> Any:
        if left[0]:
            left[0] -= 1
            happens()
        return real(row, body)

    monkeypatch.setattr(scim_resources, name, slow)


def test_nobody_waits_to_write_while_a_large_change_is_worked_out(scim: Scim, monkeypatch: pytest.MonkeyPatch) -> None:
    alice = scim.add()
    group = scim("POST", "/Groups", {"schemas": [GROUP], "displayName": "leads", "members": []}, 201)["id"]
    write = lambda: journal.record(scim.stage.ctx, "grant:revoked")  # noqa: E731  another request's transaction
    meanwhile(monkeypatch, "group_patched", write)
    meanwhile(monkeypatch, "user_patched", write)
    told = {"op": "add", "path": "members", "value": [{"value": alice}]}
    assert scim.patch(f"/Groups/{group}", told)["members"]
    assert scim.patch(f"/Users/{alice}", {"op": "replace", "path": "active", "value": False})["active"] is False


def test_of_changes_at_once_none_is_lost(scim: Scim, monkeypatch: pytest.MonkeyPatch) -> None:
    alice, ben = scim.add(), scim.add(externalId="sub-ben", userName="ben@corp.test")
    assert scim.can_sign_in()
    group = scim("POST", "/Groups", {"schemas": [GROUP], "displayName": "leads", "members": []}, 201)["id"]
    other = lambda: scim.patch(f"/Groups/{group}", {"op": "add", "path": "members", "value": [{"value": ben}]})  # noqa: E731
    meanwhile(monkeypatch, "group_patched", other)
    changed = scim.patch(f"/Groups/{group}", {"op": "add", "path": "members", "value": [{"value": alice}]})
    assert {member["value"] for member in changed["members"]} == {alice, ben}
    assert groups_of(scim, "alice") == {"leads"}


def test_who_was_shut_out_meanwhile_is_not_let_in_by_what_was_read_before(
    scim: Scim, monkeypatch: pytest.MonkeyPatch
) -> None:
    alice = scim.add()
    assert scim.can_sign_in()
    out = lambda: scim.patch(f"/Users/{alice}", {"op": "replace", "path": "active", "value": False})  # noqa: E731
    meanwhile(monkeypatch, "user_patched", out)
    changed = scim.patch(f"/Users/{alice}", {"op": "replace", "path": "displayName", "value": "A"})
    assert (changed["active"], changed["displayName"]) == (False, "A")
    assert not scim.can_sign_in()


def test_whoever_is_always_overtaken_is_told(scim: Scim, monkeypatch: pytest.MonkeyPatch) -> None:
    alice = scim.add()
    names = iter(range(100))

    def other() -> None:
        whole = {"schemas": [GROUP], "displayName": f"leads-{next(names)}", "members": []}
        scim("PUT", f"/Groups/{group}", whole)

    group = scim("POST", "/Groups", {"schemas": [GROUP], "displayName": "leads", "members": []}, 201)["id"]
    meanwhile(monkeypatch, "group_patched", other, times=50)
    scim.patch(f"/Groups/{group}", {"op": "add", "path": "members", "value": [{"value": alice}]}, status=409)
