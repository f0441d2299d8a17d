"""PATCH with many operations: it means what the library makes of it, and costs no square of them."""

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scim2_models import SCIMException

from gateway.app.people_ports import ProvisionedGroup, ProvisionedUser
from gateway.app.provision import MOST_MEMBERS, GroupTold, UnusableValue
from gateway.edges.http import scim_resources as resources
from gateway.edges.http.scim_patches import MOST_WORK

SCHEMA = "urn:ietf:params:scim:api:messages:2.0:PatchOp"
AT = datetime(2026, 3, 2, tzinfo=UTC)


def group(members: int) -> ProvisionedGroup:
    return ProvisionedGroup("grp", "oidc", "x", "ops", frozenset(f"u{n}" for n in range(members)), {}, AT, AT)


def body(operations: list[Any]) -> dict[str, Any]:
    return {"schemas": [SCHEMA], "Operations": operations}


def add(*names: str) -> dict[str, Any]:
    return {"op": "Add", "path": "members", "value": [{"value": name} for name in names]}


def remove(name: str) -> dict[str, Any]:
    return {"op": "remove", "path": f'members[value eq "{name}"]'}


def patched(row: ProvisionedGroup, operations: list[Any]) -> GroupTold:
    return resources.group_patched(row, body(operations))


NAMES = st.sampled_from(["u0", "u1", "u2", "U1", "new", "u 1", "ü", "u(1)", "u]"])
MEMBER = st.one_of(
    st.builds(lambda name: {"value": name}, NAMES),
    st.builds(lambda name: {"value": name, "display": "D", "type": "User"}, NAMES),
    st.builds(lambda name: {"value": name, "unknown": 1}, NAMES),
    st.sampled_from([{"value": ""}, {"value": 7}, {}, "u1", {"value": "u1", "type": "Group"}, {"value": None}]),
)
OPERATION = st.one_of(
    st.builds(remove, NAMES),
    st.builds(
        lambda op, path, value: {"op": op, "path": path, "value": value},
        st.sampled_from(["add", "Add", "remove", "REMOVE", "replace"]),
        st.sampled_from(["members", "Members"]),
        st.one_of(st.lists(MEMBER, max_size=3), MEMBER),
    ),
    st.sampled_from(
        [
            {"op": "remove", "path": "members"},
            {"op": "remove", "path": 'Members[Value EQ "u1"]'},
            {"op": "remove", "path": 'members[value eq "u1" or value eq "u2"]'},
            {"op": "remove", "path": 'members[value eq "u1"].display'},
            {"op": "remove", "path": 'members[value eq "u1"]', "value": [{"value": "u2"}]},
            {"op": "replace", "path": "displayName", "value": "other"},
            {"op": "add", "value": {"members": [{"value": "u7"}]}},
            {"op": "nonsense", "path": "members", "value": [{"value": "u1"}]},
        ]
    ),
)


def outcome(call: Any, row: ProvisionedGroup, told: Mapping[str, Any]) -> object:
    try:
        found = call(row, told)
    except (SCIMException, ValueError) as no:
        return type(no).__name__
    return (found.display_name, found.external_id, found.members)


@settings(max_examples=300, deadline=None)
@given(st.lists(OPERATION, min_size=1, max_size=6))
def test_it_means_what_the_library_makes_of_it(operations: list[Any]) -> None:
    by_library = outcome(resources._by_library, group(3), resources._as_entra_means(body(operations)))
    assert outcome(resources.group_patched, group(3), body(operations)) == by_library


@pytest.mark.parametrize("told", [{}, {"schemas": [SCHEMA]}, {"Operations": [add("u1")]}, {"Operations": "x"}])
def test_what_stands_beside_the_operations_is_judged_as_ever(told: dict[str, Any]) -> None:
    assert outcome(resources.group_patched, group(3), told) == outcome(resources._by_library, group(3), told)


def test_thousands_of_members_come_and_go_one_by_one() -> None:
    """By the library alone it took a hundred operations on half as many members 14 s of a processor."""
    began = time.process_time()
    operations = [each for n in range(5000) for each in (remove(f"u{n}"), add(f"n{n}"))]
    told = patched(group(MOST_MEMBERS), operations)
    assert len(told.members) == MOST_MEMBERS
    assert time.process_time() - began < 5
    mixed = [*operations[:100], {"op": "replace", "path": "displayName", "value": "ops-2"}, *operations[100:]]
    again = patched(group(1000), mixed)
    assert (again.display_name, again.external_id) == ("ops-2", "x")
    assert len(again.members) == 5000


@pytest.mark.parametrize(
    "operation",
    [
        {"op": "replace", "path": "displayName", "value": "x"},
        {"op": "remove", "path": 'members[value eq "a" or value eq "b"]'},
        {"op": "add", "value": {"members": [{"value": "u7"}]}},
    ],
)
@pytest.mark.parametrize(("members", "times"), [(MOST_MEMBERS, 11), (0, 1000)])
def test_what_would_cost_the_square_is_refused_before_it_costs(operation: object, members: int, times: int) -> None:
    began = time.process_time()
    with pytest.raises(UnusableValue) as no:
        patched(group(members), [operation] * times)
    assert no.value.refusal.code == "patch-too-large"
    assert time.process_time() - began < 1


def test_of_a_person_too() -> None:
    person = ProvisionedUser("usr", "oidc", "x", "ada", True, {"userName": "ada"}, AT, AT)
    mail = [{"op": "add", "path": "emails", "value": [{"value": f"a{n}@example.org"}]} for n in range(1000)]
    with pytest.raises(UnusableValue):
        resources.user_patched(person, body(mail))
    assert resources.user_patched(person, body(mail[:50])).user_name == "ada"
    large = {"userName": "ada", "emails": [{"value": f"a{n}@example.org"} for n in range(MOST_WORK // 10)]}
    with pytest.raises(UnusableValue):
        resources.user_patched(ProvisionedUser("usr", "oidc", "x", "ada", True, large, AT, AT), body(mail[:11]))


RENAME = {"op": "replace", "path": "displayName", "value": "x"}
MANY = [{"value": f"u{n}", "display": "D"} for n in range(2000)]
ONE_OF = " or ".join(f'value eq "u{n}"' for n in range(2000))


@pytest.mark.parametrize(
    "told",
    [
        body([{"op": "remove", "path": "members", "value": MANY}]),
        body([{"OP": "Remove", "Path": "members", "VALUE": MANY}]),
        body([{"op": "remove", "path": f"members[{ONE_OF}]"}]),
        body([{"op": "replace", "PATH": f"members[{ONE_OF}].display", "value": "D"}]),
        {"schemas": [SCHEMA], "operations": [RENAME] * 1000},  # names of attributes are the same in any case
        {"schemas": [SCHEMA], "Operations": [RENAME], "OPERATIONS": [RENAME] * 1000},
    ],
)
def test_nor_does_one_operation_or_another_spelling_get_by(told: dict[str, Any]) -> None:
    """One of the first, on twice as many members, took minutes."""
    began = time.process_time()
    with pytest.raises(UnusableValue) as no:
        resources.group_patched(group(2000), told)
    assert no.value.refusal.code == "patch-too-large"
    assert time.process_time() - began < 1


def test_nor_do_members_that_the_same_patch_brings() -> None:
    operations = [each for n in range(100) for each in (add(*(f"n{n}-{m}" for m in range(100))), RENAME)]
    with pytest.raises(UnusableValue):
        patched(group(0), operations)


def test_a_filter_costs_on_an_empty_group_too() -> None:
    operations = [{"op": "remove", "path": f"members[{' or '.join([ONE_OF] * 4)}]"}]
    with pytest.raises(UnusableValue):
        patched(group(0), operations)


def test_what_a_person_has_is_bounded_in_any_spelling() -> None:
    person = ProvisionedUser("usr", "oidc", "x", "ada", True, {"userName": "ada"}, AT, AT)
    mail = [{"op": "add", "path": "emails", "value": [{"value": f"a{n}@example.org"}]} for n in range(1000)]
    with pytest.raises(UnusableValue):
        resources.user_patched(person, {"schemas": [SCHEMA], "operations": mail})


def test_a_few_are_removed_by_all_that_is_said_of_them() -> None:
    named = [{"value": f"u{n}", "type": "User"} for n in range(50)]
    told = patched(group(1000), [{"op": "remove", "path": "members", "value": named}])
    assert len(told.members) == 950
