"""The doctor on a real server: what a level can do beyond its group's privileges is named, and what is said closes it."""

import secrets
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import timedelta

import pytest

from gateway.adapters.credentials.postgres_doctor import PostgresDoctor
from gateway.adapters.credentials.postgres_elevation import MOST
from gateway.app.context import Context
from gateway.app.doctor_ports import Finding
from gateway.app.examine_target import examine_due, examine_target
from gateway.core.target import Target
from gateway.edges.proxy.postgres_trial import PostgresTrial, reach
from tests.servers import PostgresServer
from tests.unit.app.house import House

DEFINER = "CREATE FUNCTION {} RETURNS int LANGUAGE sql SECURITY DEFINER AS 'SELECT 1'"


@dataclass
class Ward:
    house: House
    ctx: Context
    server: PostgresServer

    @property
    def target(self) -> Target:
        return self.ctx.catalogue.current().targets["orders-db"]

    def run(self, *statements: str) -> None:
        for statement in statements:
            self.server.execute(statement, self.target.database)

    def found(self, level: str = "read") -> Finding:
        examination = examine_target(self.ctx, self.house.people["lead"], "orders-db")
        assert examination.is_sound
        (finding,) = [each for each in examination.findings if (each.what, each.of) == ("elevation", level)]
        assert finding.is_warning == bool(finding.remedy)
        return finding

    def remedies(self, level: str = "read") -> list[str]:
        return [line for line in self.found(level).remedy if not line.startswith("--")]


@pytest.fixture
def group(ward: Ward) -> str:
    return ward.target.levels["read"].account


@pytest.fixture
def ward(house: House, postgres_server: PostgresServer) -> Iterator[Ward]:
    """A database of its own: what other tests made is not there."""
    ctx = replace(house.ctx, doctor=PostgresDoctor(house.roles.real, reach, PostgresTrial))
    made = Ward(house, ctx, postgres_server)
    database = made.target.database
    yield made
    postgres_server.execute("DROP SCHEMA IF EXISTS apart CASCADE", database)


@pytest.fixture
def outsider(ward: Ward) -> Iterator[str]:
    name = f"outsider_{secrets.token_hex(4)}"
    ward.server.execute(f"CREATE ROLE {name}")
    yield name
    ward.run(f"DROP OWNED BY {name} CASCADE")
    ward.server.execute(f"DROP ROLE {name}")


@pytest.fixture
def apart(ward: Ward, group: str) -> str:
    ward.run("CREATE SCHEMA apart", f"GRANT USAGE ON SCHEMA apart TO {group}")
    return "apart"


def test_a_definers_routine_is_named_and_the_sql_that_is_said_closes_it(ward: Ward, apart: str, group: str) -> None:
    assert ward.found() == Finding("elevation", "read", ok=True)
    ward.run(DEFINER.format('apart."re, fund"(a int, b text[])'))
    found = ward.found()
    assert f'apart."re, fund"(integer,text[]) of {ward.server.superuser}' in found.problem
    assert found.problem.startswith(f"{group} may use")
    for line in ward.remedies():
        assert line == 'REVOKE EXECUTE ON ROUTINE apart."re, fund"(integer,text[]) FROM PUBLIC;'
        ward.run(line)
    assert not ward.found().is_warning


def test_a_grant_to_the_group_or_to_a_role_that_it_is_a_member_of_counts(
    ward: Ward, apart: str, group: str, outsider: str
) -> None:
    ward.run(
        "CREATE PROCEDURE apart.purge() LANGUAGE sql SECURITY DEFINER AS ''",
        "REVOKE EXECUTE ON ROUTINE apart.purge() FROM PUBLIC",
    )
    assert not ward.found().is_warning
    ward.run(f"GRANT EXECUTE ON ROUTINE apart.purge() TO {group}, {outsider}")
    assert ward.remedies() == [f"REVOKE EXECUTE ON ROUTINE apart.purge() FROM {group};"]
    ward.run(*ward.remedies(), f"GRANT {outsider} TO {group}")
    assert ward.remedies() == [f"REVOKE EXECUTE ON ROUTINE apart.purge() FROM {outsider};"]


@pytest.mark.parametrize(
    "instead",
    [
        "REVOKE USAGE ON SCHEMA apart FROM {group}",
        "ALTER FUNCTION apart.refund() SECURITY INVOKER",
        "ALTER FUNCTION apart.refund() OWNER TO {group}",
        "ALTER FUNCTION apart.refund() OWNER TO {outsider}; GRANT {outsider} TO {group}",
    ],
)
def test_what_gives_the_group_nothing_is_not_named(
    ward: Ward, apart: str, group: str, outsider: str, instead: str
) -> None:
    ward.run(DEFINER.format("apart.refund()"))
    assert ward.found().is_warning
    ward.run(instead.format(group=group, outsider=outsider))
    assert not ward.found().is_warning


def test_an_extensions_own_is_named_once_somebody_has_granted_it(ward: Ward, apart: str, group: str) -> None:
    """Put into one by hand: none that comes with PostgreSQL brings such a routine."""
    ward.run(
        DEFINER.format("apart.refund()"),
        "REVOKE EXECUTE ON FUNCTION apart.refund() FROM PUBLIC",
        "ALTER EXTENSION plpgsql ADD FUNCTION apart.refund()",
    )
    try:
        assert not ward.found().is_warning
        ward.run(f"GRANT EXECUTE ON FUNCTION apart.refund() TO {group}")
        assert ward.remedies() == [f"REVOKE EXECUTE ON ROUTINE apart.refund() FROM {group};"]
    finally:
        ward.run("ALTER EXTENSION plpgsql DROP FUNCTION apart.refund()")


@pytest.mark.parametrize(
    ("view", "privilege"),
    [
        ("VIEW apart.seen AS SELECT id, salary FROM apart.pay", "SELECT"),
        ("VIEW apart.seen AS SELECT count(*) FROM apart.bonus", "SELECT"),
        ("MATERIALIZED VIEW apart.seen AS SELECT salary FROM apart.pay", "SELECT"),
        ("VIEW apart.seen AS SELECT id FROM apart.pay", "UPDATE"),
        ("VIEW apart.seen AS SELECT id FROM apart.pay", "INSERT"),
        ("VIEW apart.seen AS SELECT id FROM apart.pay", "DELETE"),
        ("VIEW apart.seen AS SELECT id FROM apart.pay", "INSERT (id)"),
    ],
)
def test_a_view_is_named_that_opens_what_the_group_may_not_use_itself(
    ward: Ward, apart: str, group: str, view: str, privilege: str
) -> None:
    ward.run(
        "CREATE TABLE apart.pay (id int, salary int); CREATE TABLE apart.bonus (id int)",
        f"GRANT SELECT (id) ON apart.pay TO {group}",
        f"CREATE {view}",
    )
    assert not ward.found().is_warning
    ward.run(f"GRANT {privilege} ON apart.seen TO {group}")
    assert ward.remedies() == [f"REVOKE ALL ON TABLE apart.seen FROM {group};"]
    ward.run(*ward.remedies())
    assert not ward.found().is_warning


def test_a_view_that_opens_nothing_is_not_named(ward: Ward, apart: str, group: str) -> None:
    ward.run(
        "CREATE TABLE apart.pay (id int, salary int)",
        f"GRANT SELECT (id) ON apart.pay TO {group}",
        "CREATE VIEW apart.seen AS SELECT id FROM apart.pay",
        "CREATE VIEW apart.asked WITH (security_invoker = yes) AS SELECT salary FROM apart.pay",
        f"GRANT SELECT ON apart.seen, apart.asked TO {group}",
    )
    assert not ward.found().is_warning


def test_of_many_the_first_are_named_and_no_name_fills_the_event(ward: Ward, apart: str) -> None:
    names = [f"apart.f{n:02}({', '.join(['pg_catalog.pg_stat_user_functions'] * 90)})" for n in range(MOST + 5)]
    ward.run(*(DEFINER.format(name) for name in names))
    found = ward.found()
    assert len(found.remedy) == MOST + 1
    assert found.problem.endswith("….")
    assert len(found.problem) < 600 * MOST


def test_a_new_warning_of_the_daily_round_is_told_once(ward: Ward, apart: str) -> None:
    told = []
    for change in (DEFINER.format("apart.refund()"), "SELECT 1", DEFINER.format("apart.again()")):
        ward.run(change)
        assert examine_due(ward.ctx) == 1
        told.append(len(ward.house.notes.sent))
        last = ward.house.events("target:examined")[-1]
        assert "apart.refund() of" in repr(last.data["warnings"])
        assert ward.ctx.log.wait_included([last.id], timedelta(seconds=10))
        ward.house.clock.advance(timedelta(hours=25))
    assert told == [1, 1, 2]


def test_a_database_that_cannot_be_looked_at_is_said(ward: Ward) -> None:
    ward.ctx.catalogue.catalogue = replace(  # type: ignore[attr-defined]
        ward.ctx.catalogue.current(),
        targets={"orders-db": replace(ward.target, database="absent")},
    )
    examination = examine_target(ward.ctx, ward.house.people["lead"], "orders-db")
    (found,) = [each for each in examination.findings if each.what == "elevation"]
    assert (found.of, found.is_warning) == ("absent", True)
    assert found.problem.startswith("Nobody knows what runs there")
