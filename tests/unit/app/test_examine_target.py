"""The doctor on a real server: what is wrong is found, the SQL that it names mends it, and nothing is left behind."""

import secrets
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from gateway.adapters.credentials.postgres_doctor import PostgresDoctor
from gateway.app.context import Context
from gateway.app.doctor_ports import Finding
from gateway.app.examine_target import TRIAL_PREFIX, Examination, examine_due, examine_target
from gateway.app.lease_role import reap_leases
from gateway.app.open_session import open_session
from gateway.app.request_access import request_access
from gateway.app.revoke_grant import revoke_grant
from gateway.core.dry_run import Confirm, DryRun
from gateway.core.errors import Conflict, Denied, NotFound
from gateway.core.masking import ColumnName, Mask
from gateway.core.target import Target
from gateway.edges.proxy.postgres_trial import PostgresTrial, reach
from tests.servers import PostgresServer
from tests.unit.app.house import LOST, FixedCatalogue, House
from tests.unit.app.test_main_job import READ


def ident(name: str) -> str:
    return sql.Identifier(name).as_string()


@dataclass
class Clinic:
    house: House
    ctx: Context
    server: PostgresServer
    admin: str

    @property
    def target(self) -> Target:
        return self.ctx.catalogue.current().targets["orders-db"]

    @property
    def group(self) -> str:
        return self.target.levels["read"].account

    def examine(self) -> Examination:
        return examine_target(self.ctx, self.house.people["lead"], "orders-db")

    def wrong(self) -> list[Finding]:
        return [finding for finding in self.examine().findings if not finding.ok]

    def mend(self, findings: list[Finding]) -> None:
        """Do exactly what is said."""
        for finding in findings:
            for line in finding.remedy:
                if not line.startswith("--"):
                    self.server.execute(line)

    def trials(self) -> list[str]:
        with psycopg.connect(self.server.url()) as check:
            query = "SELECT rolname FROM pg_roles WHERE starts_with(rolname, %s)"
            return [name for (name,) in check.execute(query, (TRIAL_PREFIX,))]

    def declare(self, target: Target) -> None:
        assert isinstance(self.ctx.catalogue, FixedCatalogue)
        known = self.ctx.catalogue.catalogue
        self.ctx.catalogue.catalogue = replace(known, targets={**known.targets, target.name: target})


@pytest.fixture(params=["superuser", "createrole"])
def clinic(request: pytest.FixtureRequest, house: House, postgres_server: PostgresServer) -> Iterator[Clinic]:
    doctor = PostgresDoctor(house.roles.real, reach, PostgresTrial)
    ctx = replace(house.ctx, doctor=doctor)
    made = Clinic(house, ctx, postgres_server, postgres_server.superuser)
    made.declare(replace(made.target, levels={"read": made.target.levels["read"]}))
    if request.param == "createrole":
        made.admin, password = f"admin_{secrets.token_hex(6)}", secrets.token_hex(8)
        postgres_server.execute(f"CREATE ROLE {made.admin} LOGIN CREATEROLE PASSWORD '{password}'")
        postgres_server.execute(f"GRANT {ident(made.group)} TO {made.admin} WITH ADMIN TRUE, INHERIT FALSE")
        Path(made.target.admin_dsn_file).write_text(postgres_server.url("postgres", made.admin, password))
    yield made
    Path(made.target.admin_dsn_file).write_text(postgres_server.url())
    if request.param == "createrole":
        postgres_server.execute(f"DROP OWNED BY {made.admin}; DROP ROLE {made.admin}")


MENDED_BY_SQL = ("createrole", "group", "connect", "database")
only_createrole = pytest.mark.parametrize("clinic", ["createrole"], indirect=True)


def test_a_sound_target_is_tried_in_full_and_left_as_it_was(clinic: Clinic) -> None:
    examination = clinic.examine()
    assert [f for f in examination.findings if not f.ok] == []
    assert examination.is_sound
    tried = [f.what for f in examination.findings]
    assert tried[-4:] == ["create", "use", "terminate", "revoke"]
    assert {"administrator", "version", "createrole", "group", "connect", "database", "reach"} <= set(tried)
    assert clinic.trials() == []
    told = clinic.house.events("target:examined")
    assert [(e.outcome, e.principal) for e in told] == [("attempt", "lead"), ("ok", "lead")]
    with psycopg.connect(clinic.server.url(clinic.target.database)) as check:
        assert check.execute("SELECT count(*) FROM pg_default_acl").fetchone() == (0,)


@only_createrole
@pytest.mark.parametrize(
    ("harm", "what"),
    [
        ("ALTER ROLE {admin} NOCREATEROLE", "createrole"),
        ("REVOKE {group} FROM {admin}", "group"),
        ("REVOKE ADMIN OPTION FOR {group} FROM {admin}", "group"),
        ("REVOKE CONNECT ON DATABASE {database} FROM PUBLIC", "connect"),
        (
            "REVOKE CONNECT ON DATABASE {database} FROM PUBLIC; GRANT CONNECT ON DATABASE {database} TO {group}",
            "database",
        ),
    ],
)
def test_what_is_missing_is_found_and_the_sql_that_is_named_mends_it(clinic: Clinic, harm: str, what: str) -> None:
    names = {"admin": clinic.admin, "group": clinic.group, "database": clinic.target.database}
    clinic.server.execute(harm.format(**names))
    wrong = clinic.wrong()
    assert what in [finding.what for finding in wrong]
    assert all(finding.problem for finding in wrong)
    for _ in range(2):  # a level that gets into a database shows that the administrator does not
        clinic.mend([finding for finding in clinic.wrong() if finding.what in MENDED_BY_SQL])
    assert clinic.wrong() == []
    assert clinic.trials() == []


@only_createrole
def test_the_admin_option_is_enough_and_what_a_role_owned_still_goes_to_its_group(clinic: Clinic) -> None:
    clinic.server.execute(f"REVOKE SET OPTION FOR {clinic.group} FROM {clinic.admin}")
    assert clinic.wrong() == []
    roles, level = clinic.house.roles.real, clinic.target.levels["read"]
    login = roles.create(clinic.target, level, "gw_owner_1", clinic.house.clock.now() + timedelta(hours=1))
    with psycopg.connect(clinic.server.url(clinic.target.database, login.role, login.password)) as session:
        session.execute("SET ROLE NONE")
        session.execute("SELECT lo_create(4711)")
    roles.revoke(clinic.target, login.role)
    with psycopg.connect(clinic.server.url(clinic.target.database)) as check:
        owner = check.execute("SELECT lomowner::regrole::text FROM pg_largeobject_metadata WHERE oid = 4711").fetchone()
    assert owner == (clinic.group,)


@only_createrole
def test_a_database_where_no_level_gets_in_is_left_alone(clinic: Clinic) -> None:
    other = clinic.server.create_database()
    try:
        clinic.server.execute(f"REVOKE CONNECT ON DATABASE {other} FROM PUBLIC")
        assert other not in [finding.of for finding in clinic.examine().findings]
    finally:
        clinic.server.drop_database(other)


@only_createrole
def test_a_group_that_is_not_there_is_made_by_what_is_said(clinic: Clinic) -> None:
    read = clinic.target.levels["read"]
    absent = f"absent_{secrets.token_hex(4)}"
    clinic.declare(replace(clinic.target, levels={"read": replace(read, account=absent)}))
    wrong = clinic.wrong()
    assert [f.what for f in wrong] == ["group", "create"]
    clinic.mend(wrong[:1])
    try:
        assert clinic.wrong() == []
    finally:
        clinic.server.execute(f"DROP OWNED BY {absent}; DROP ROLE {absent}")


@only_createrole
def test_a_target_that_does_not_answer_and_one_whose_tls_is_wrong(clinic: Clinic) -> None:
    clinic.declare(replace(clinic.target, tls="verify-full"))
    (wrong_tls, *rest) = clinic.wrong()
    assert (wrong_tls.what, [f.what for f in rest]) == ("reach", ["use"])
    assert "TLS" in wrong_tls.problem
    clinic.declare(replace(clinic.target, tls="disable"))
    Path(clinic.target.admin_dsn_file).write_text("postgresql://nobody:hidden@127.0.0.1:1/none")
    wrong = clinic.wrong()
    assert [f.what for f in wrong] == ["administrator"]
    assert "hidden" not in repr(wrong)
    assert clinic.trials() == []


@only_createrole
def test_what_an_examination_left_behind_goes_with_the_next(clinic: Clinic) -> None:
    clinic.house.roles.faults = ["", "refuse"]  # created, and then not revoked
    ctx = replace(clinic.ctx, roles=clinic.house.roles)
    examination = examine_target(ctx, clinic.house.people["lead"], "orders-db")
    assert [f.what for f in examination.findings if not f.ok] == ["terminate", "revoke"]
    (left,) = clinic.trials()
    clinic.examine()
    assert clinic.trials() == [left]  # it may be somebody's who examines right now
    clinic.house.clock.advance(timedelta(minutes=6))
    assert "leftover" in [f.what for f in clinic.examine().findings]
    assert clinic.trials() == []


@only_createrole
def test_a_role_that_does_not_go_is_warned_of_until_it_does(clinic: Clinic) -> None:
    house = clinic.house
    grant = request_access(house.ctx, house.people["oncall"], READ).grant
    assert grant is not None
    login = open_session(house.ctx, house.people["oncall"], grant, "127.0.0.1:5000").login
    assert login is not None
    revoke_grant(house.ctx, house.people["oncall"], grant.id)
    house.roles.faults = ["refuse"]
    assert reap_leases(house.ctx, house.clock.now()) == 1
    (warning,) = [found for found in clinic.examine().warnings if found.what == "zombie"]
    assert (warning.of, warning.problem) == (login.role, LOST.refusal.message)
    assert reap_leases(house.ctx, house.later(timedelta(minutes=10))) == 0
    assert not [found for found in clinic.examine().warnings if found.what == "zombie"]


def test_who_may(clinic: Clinic) -> None:
    with pytest.raises(Denied):
        examine_target(clinic.ctx, clinic.house.people["developer"], "orders-db")
    assert clinic.house.events("target:examined") == []
    assert examine_target(clinic.ctx, clinic.house.people["oncall"], "orders-db").is_sound
    with pytest.raises(NotFound):
        examine_target(clinic.ctx, clinic.house.people["lead"], "nowhere")
    with pytest.raises(Conflict):
        examine_target(clinic.ctx, clinic.house.people["lead"], "web-1")


@only_createrole
def test_the_daily_round(clinic: Clinic) -> None:
    assert examine_due(clinic.ctx) == 1
    _settle(clinic)
    assert examine_due(clinic.ctx) == 0
    clinic.house.clock.advance(timedelta(hours=25))
    assert examine_due(clinic.ctx) == 1
    _settle(clinic)
    read = clinic.target.levels["read"]
    clinic.declare(replace(clinic.target, levels={"read": replace(read, account="nobodys")}))  # changed: at once
    assert examine_due(clinic.ctx) == 1
    ((channel, title, fields),) = clinic.house.notes.sent
    assert (channel, fields["next"]) == ("default", "gw target doctor orders-db")
    assert "orders-db" in title
    _settle(clinic)
    assert examine_due(clinic.ctx) == 0
    clinic.house.clock.advance(timedelta(hours=2))  # a failure is looked at again sooner
    assert examine_due(clinic.ctx) == 1


def _settle(clinic: Clinic) -> None:
    """Everything that was recorded can be found."""
    last = clinic.house.events("target:examined")[-1]
    assert clinic.ctx.log.wait_included([last.id], timedelta(seconds=10))


def test_masks_that_the_database_cannot_keep_are_found_before_somebody_stands_at_the_door(clinic: Clinic) -> None:
    with psycopg.connect(clinic.server.url(clinic.target.database), autocommit=True) as there:
        there.execute("CREATE TABLE masked_people (id int, email text)")
    try:
        for column, problem in (("email", ""), ("mail", "which the database does not have")):
            masks = {ColumnName("public", "masked_people", column): Mask.LAST4}
            read = replace(clinic.target.levels["read"], masks=masks)
            clinic.declare(replace(clinic.target, levels={"read": read}))
            assert examine_due(clinic.ctx) == 1  # another mask makes what was found before worthless
            (found,) = [finding for finding in clinic.examine().findings if finding.what == "masks"]
            assert (found.of, found.ok) == ("read", not problem)
            assert problem in found.problem
        assert clinic.trials() == []
    finally:
        with psycopg.connect(clinic.server.url(clinic.target.database), autocommit=True) as there:
            there.execute("DROP TABLE masked_people")


def test_a_role_that_may_not_read_settings_is_found_before_a_dry_run_needs_them(clinic: Clinic) -> None:
    read = replace(clinic.target.levels["read"], dry_run=DryRun(Confirm.SELF))
    clinic.declare(replace(clinic.target, levels={"read": read}))
    assert clinic.wrong() == []
    with psycopg.connect(clinic.server.url(clinic.target.database), autocommit=True) as there:
        there.execute("REVOKE SELECT ON pg_catalog.pg_settings FROM PUBLIC")
    (found,) = clinic.wrong()
    assert (found.what, found.of) == ("use", "read")
    assert "permission denied for view pg_settings" in found.problem
