"""The roles adapter on a real server, with a superuser and with a CREATEROLE administrator."""

import secrets
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from gateway.adapters.credentials.postgres import PostgresRoles
from gateway.core.errors import Unavailable
from gateway.core.target import Kind, Level, Target
from tests.servers import PostgresServer

ROLE = "gw_oncall_0123456789ab"
UNTIL = datetime(2099, 1, 1, tzinfo=UTC)


def ident(name: str) -> str:
    return sql.Identifier(name).as_string()


@pytest.fixture(params=["superuser", "createrole"])
def target(request: pytest.FixtureRequest, postgres_server: PostgresServer, tmp_path: Path) -> Iterator[Target]:
    name = postgres_server.create_database()
    group, admin = f'{name} "read"', f"{name}_admin"  # a name that must be quoted
    postgres_server.execute(f"CREATE ROLE {ident(group)}")
    postgres_server.execute(f"GRANT CREATE ON SCHEMA public TO {ident(group)}", name)
    url = postgres_server.url(name)
    if request.param == "createrole":
        password = secrets.token_hex(8)
        postgres_server.execute(f"CREATE ROLE {admin} LOGIN CREATEROLE PASSWORD '{password}'")
        postgres_server.execute(f"GRANT {ident(group)} TO {admin} WITH ADMIN TRUE, INHERIT TRUE, SET TRUE")
        url = postgres_server.url(name, admin, password)
    dsn = tmp_path / "admin.dsn"
    dsn.write_text(url + "\n")
    level = Level("read", group, 0, "", timedelta(seconds=30), timedelta(minutes=1), 3)
    yield Target(
        "orders-db", Kind.POSTGRES, "orders", "production", postgres_server.host, postgres_server.port,
        {"read": level}, database=name, admin_dsn_file=str(dsn), tls="disable",
    )  # fmt: skip
    postgres_server.drop_database(name)
    if request.param == "createrole":
        postgres_server.execute(f"DROP ROLE {admin}")
    postgres_server.execute(f"DROP ROLE {ident(group)}")


@pytest.fixture
def roles(target: Target) -> Iterator[PostgresRoles]:
    made = PostgresRoles()
    yield made
    made.revoke(target, ROLE)


def log_in(server: PostgresServer, target: Target, password: str) -> psycopg.Connection[tuple[object, ...]]:
    return psycopg.connect(server.url(target.database, ROLE, password), autocommit=True)


def row(connection: psycopg.Connection[tuple[object, ...]], query: str) -> tuple[object, ...] | None:
    return connection.execute(query.encode()).fetchone()


def test_a_role_is_member_of_the_group_and_nothing_more(
    roles: PostgresRoles, target: Target, postgres_server: PostgresServer
) -> None:
    login = roles.create(target, target.levels["read"], ROLE, UNTIL)
    assert login.role == ROLE
    assert login.password not in repr(roles)
    with log_in(postgres_server, target, login.password) as session:
        assert row(session, "SELECT session_user::text, current_user::text") == (ROLE, target.levels["read"].account)
        assert row(session, "SHOW statement_timeout") == ("30s",)
        assert row(session, "SHOW idle_in_transaction_session_timeout") == ("1min",)
        flags = "rolsuper, rolcreatedb, rolcreaterole, rolreplication, rolbypassrls, rolconnlimit, rolvaliduntil"
        assert row(session, f"SELECT {flags} FROM pg_roles WHERE rolname = '{ROLE}'") == (
            False, False, False, False, False, 3, UNTIL,
        )  # fmt: skip
        groups = "SELECT array_agg(roleid::regrole::text) FROM pg_auth_members WHERE member = session_user::regrole"
        assert row(session, groups) == ([ident(target.levels["read"].account)],)
        admin = "SELECT bool_or(admin_option) FROM pg_auth_members WHERE member = session_user::regrole"
        assert row(session, admin) == (False,)


def test_only_a_role_of_a_level_with_replication_may_replicate(
    roles: PostgresRoles, target: Target, postgres_server: PostgresServer
) -> None:
    level = replace(target.levels["read"], replication=True)
    with psycopg.connect(Path(target.admin_dsn_file).read_text().strip()) as admin:
        if row(admin, "SHOW is_superuser") == ("off",):  # who has it not cannot give it
            with pytest.raises(Unavailable, match="permission denied to create role"):
                roles.create(target, level, ROLE, UNTIL)
            postgres_server.execute(f"ALTER ROLE {ident(admin.info.user)} REPLICATION")
    login = roles.create(target, level, ROLE, UNTIL)
    with log_in(postgres_server, target, login.password) as session:
        flags = "rolsuper, rolcreatedb, rolcreaterole, rolreplication, rolbypassrls"
        query = f"SELECT {flags} FROM pg_roles WHERE rolname = session_user"
        assert row(session, query) == (False, False, False, True, False)


def test_the_password_never_reaches_the_server(
    roles: PostgresRoles, target: Target, postgres_server: PostgresServer
) -> None:
    postgres_server.execute("ALTER SYSTEM SET log_statement = 'all'")
    postgres_server.execute("SELECT pg_reload_conf()")
    login = roles.create(target, target.levels["read"], ROLE, UNTIL)
    with log_in(postgres_server, target, login.password) as session:
        assert row(session, "SELECT 1") == (1,)
    postgres_server.execute("ALTER SYSTEM RESET log_statement")
    postgres_server.execute("SELECT pg_reload_conf()")
    log = postgres_server.log.read_text()
    assert f'CREATE ROLE "{ROLE}"' in log
    assert login.password not in log


def test_revoking_ends_sessions_and_leaves_nothing(
    roles: PostgresRoles, target: Target, postgres_server: PostgresServer
) -> None:
    login = roles.create(target, target.levels["read"], ROLE, UNTIL)
    session = log_in(postgres_server, target, login.password)
    session.execute("CREATE TABLE by_group (x int)")
    session.execute("RESET ROLE")
    session.execute("SET ROLE NONE")
    session.execute("CREATE TABLE by_itself (x int)")
    session.execute("ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO PUBLIC")
    roles.revoke(target, ROLE)
    with pytest.raises(psycopg.OperationalError):
        session.execute("SELECT 1")
    session.close()
    assert roles.roles_of(target, "gw_oncall_") == []
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        log_in(postgres_server, target, login.password)
    with psycopg.connect(postgres_server.url(target.database)) as check:
        owners = row(check, "SELECT array_agg(DISTINCT tableowner::text) FROM pg_tables WHERE tablename LIKE 'by_%'")
        assert owners == ([target.levels["read"].account],)
    roles.revoke(target, ROLE)  # idempotent


@pytest.mark.parametrize("end", [PostgresRoles.revoke, PostgresRoles.shut_out])
def test_a_role_that_holds_itself_locked_is_revoked_all_the_same(
    roles: PostgresRoles,
    target: Target,
    postgres_server: PostgresServer,
    end: Callable[[PostgresRoles, Target, str], None],
) -> None:
    """A change of its own password that is not committed keeps everybody else from changing the role."""
    login = roles.create(target, target.levels["read"], ROLE, UNTIL)
    session, other = (log_in(postgres_server, target, login.password) for _ in range(2))
    session.execute("SET ROLE NONE")
    session.execute("BEGIN")
    session.execute(f"ALTER ROLE {ROLE} PASSWORD 'mine'".encode())
    end(roles, target, ROLE)
    for each in (session, other):
        with pytest.raises(psycopg.OperationalError):
            each.execute("SELECT 1")
        each.close()
    for password in (login.password, "mine"):
        with pytest.raises(psycopg.OperationalError, match=r"password authentication failed|not permitted to log in"):
            log_in(postgres_server, target, password)


@pytest.mark.parametrize("prepares_as", ["itself", "its group"])
@pytest.mark.parametrize("end", [PostgresRoles.revoke, PostgresRoles.shut_out])
def test_what_a_role_prepared_does_not_keep_it(
    roles: PostgresRoles,
    target: Target,
    postgres_server: PostgresServer,
    end: Callable[[PostgresRoles, Target, str], None],
    prepares_as: str,
) -> None:
    """PREPARE TRANSACTION outlives its session, and what it changed stays locked until somebody ends it."""
    other, group = postgres_server.create_database(), target.levels["read"].account
    prepared = f"SELECT gid FROM pg_prepared_xacts WHERE database IN ('{other}', '{target.database}') ORDER BY gid"
    try:
        login = roles.create(target, target.levels["read"], ROLE, UNTIL)
        for database in (target.database, other):
            with psycopg.connect(postgres_server.url(database, ROLE, login.password), autocommit=True) as session:
                session.execute("BEGIN")
                session.execute("SET ROLE NONE")
                if database == other:
                    session.execute(f"ALTER ROLE {ROLE} PASSWORD 'mine'".encode())
                if prepares_as == "its group":
                    session.execute(f"SET ROLE {ident(group)}".encode())
                session.execute(f"PREPARE TRANSACTION 'it''s in {database}'".encode())
        told: list[str] = []
        if end is PostgresRoles.revoke:
            roles.revoke(target, ROLE, told.extend)
            assert f"it's in {other} in {other}" in told
        else:
            end(roles, target, ROLE)
        with psycopg.connect(postgres_server.url(target.database)) as check:
            # One of the group that changes no role is perhaps a program's, and stays for it.
            left = [] if prepares_as == "itself" else [(f"it's in {target.database}",)]
            assert check.execute(prepared.encode()).fetchall() == left
        for password in (login.password, "mine"):
            with pytest.raises(psycopg.OperationalError, match=r"password authentication|not permitted to log in"):
                log_in(postgres_server, target, password)
        roles.revoke(target, ROLE)
        assert roles.roles_of(target, ROLE) == []
    finally:
        if prepares_as == "its group":
            gid = sql.Literal(f"it's in {target.database}").as_string()
            postgres_server.execute(f"ROLLBACK PREPARED {gid}", target.database)
        postgres_server.drop_database(other)


@pytest.mark.parametrize(
    "lock", [f"ALTER ROLE {ROLE} SET work_mem TO '1MB'", "CREATE TABLE mine ()", "LOCK TABLE owned IN ROW SHARE MODE"]
)
def test_a_prepared_transaction_that_only_locks_a_role_does_not_keep_it(
    roles: PostgresRoles, target: Target, postgres_server: PostgresServer, lock: str
) -> None:
    """DROP ROLE waits for whoever has given the role a setting or made something that it owns, REASSIGN OWNED for whoever
    has locked a table of the role.
    """
    level = target.levels["read"]
    postgres_server.execute(f"GRANT CREATE ON SCHEMA public TO {ident(level.account)}", target.database)
    login = roles.create(target, level, ROLE, UNTIL)
    with psycopg.connect(postgres_server.url(target.database, ROLE, login.password), autocommit=True) as session:
        for statement in (
            "SET ROLE NONE", "CREATE TABLE owned ()",
            "BEGIN", lock, f"SET ROLE {ident(level.account)}", "PREPARE TRANSACTION 'lock'",
        ):  # fmt: skip
            session.execute(statement.encode())
    try:
        roles.revoke(target, ROLE)
        assert roles.roles_of(target, ROLE) == []
    finally:
        with suppress(psycopg.errors.UndefinedObject):
            postgres_server.execute("ROLLBACK PREPARED 'lock'", target.database)


def test_what_a_role_owns_in_another_database_goes_to_its_group(
    roles: PostgresRoles, target: Target, postgres_server: PostgresServer
) -> None:
    other = postgres_server.create_database()
    try:
        postgres_server.execute("GRANT CREATE ON SCHEMA public TO PUBLIC", other)
        login = roles.create(target, target.levels["read"], ROLE, UNTIL)
        with psycopg.connect(postgres_server.url(other, ROLE, login.password), autocommit=True) as session:
            session.execute("SET ROLE NONE")
            session.execute("CREATE TABLE left_behind (x int)")
        roles.revoke(target, ROLE)
        assert roles.roles_of(target, ROLE) == []
        with psycopg.connect(postgres_server.url(other)) as check:
            owner = row(check, "SELECT tableowner::text FROM pg_tables WHERE tablename = 'left_behind'")
            assert owner == (target.levels["read"].account,)
    finally:
        postgres_server.drop_database(other)


def test_a_role_cannot_choose_who_inherits(
    roles: PostgresRoles, target: Target, postgres_server: PostgresServer
) -> None:
    login = roles.create(target, target.levels["read"], ROLE, UNTIL)
    with psycopg.connect(Path(target.admin_dsn_file).read_text().strip()) as admin:
        powerful = admin.info.user
    with log_in(postgres_server, target, login.password) as session:
        session.execute("SET ROLE NONE")
        session.execute('CREATE FUNCTION public."own %s it"(x int) RETURNS text SECURITY DEFINER LANGUAGE sql AS '
                        "'SELECT current_user::text'")  # fmt: skip
        session.execute(f"ALTER ROLE {ROLE} SET role TO {ident(powerful)}".encode())
    roles.revoke(target, ROLE)
    assert roles.roles_of(target, ROLE) == []
    with psycopg.connect(postgres_server.url(target.database)) as check:
        owned = row(check, "SELECT proowner::regrole::text, prosecdef FROM pg_proc WHERE proname LIKE 'own %'")
        assert owned == (ident(target.levels["read"].account), False)


def test_the_administrator_runs_nothing_that_a_role_left_in_its_way(
    roles: PostgresRoles, target: Target, postgres_server: PostgresServer
) -> None:
    login = roles.create(target, target.levels["read"], ROLE, UNTIL)
    with log_in(postgres_server, target, login.password) as session:
        for trap in ("unnest(text[])", "starts_with(name, text)"):
            session.execute(
                f"CREATE FUNCTION public.{trap} RETURNS bool LANGUAGE plpgsql AS "
                "'BEGIN RAISE EXCEPTION ''ran as %'', current_user; END'".encode()
            )
    assert roles.roles_of(target, ROLE) == [ROLE]
    roles.revoke(target, ROLE)
    assert roles.roles_of(target, ROLE) == []


def test_what_has_no_heir_is_left_to_nobody(
    roles: PostgresRoles, target: Target, postgres_server: PostgresServer
) -> None:
    login = roles.create(target, target.levels["read"], ROLE, UNTIL)
    group = ident(target.levels["read"].account)
    with log_in(postgres_server, target, login.password) as session:
        session.execute("SET ROLE NONE")
        session.execute("CREATE TABLE mine (x int)")
    with psycopg.connect(Path(target.admin_dsn_file).read_text().strip(), autocommit=True) as admin:
        admin.execute(f"REVOKE {group} FROM {ROLE}".encode())
    with pytest.raises(Unavailable, match="no group"):
        roles.revoke(target, ROLE)
    postgres_server.execute("DROP TABLE mine", target.database)


UNENDING = """SET statement_timeout = 0; DO $$ BEGIN LOOP BEGIN PERFORM pg_sleep(3600);
EXCEPTION WHEN query_canceled THEN NULL; END; END LOOP; END $$"""


def test_one_session_is_ended_whatever_its_code_catches_and_no_other(
    roles: PostgresRoles, target: Target, postgres_server: PostgresServer
) -> None:
    login = roles.create(target, target.levels["read"], ROLE, UNTIL)
    with (
        log_in(postgres_server, target, login.password) as session,
        log_in(postgres_server, target, login.password) as other,
        ThreadPoolExecutor(1) as beside,
    ):
        pid = session.info.backend_pid
        unending = beside.submit(session.execute, UNENDING.encode())
        attempts: list[int] = []
        attempt = partial(attempts.append, pid)
        assert not roles.end_backend(target, "gw_another", pid, attempt)
        with pytest.raises(TimeoutError):
            unending.result(0.5)
        assert roles.end_backend(target, ROLE, pid, attempt)
        with pytest.raises(psycopg.errors.AdminShutdown):
            unending.result(10)
        assert not roles.end_backend(target, ROLE, pid, attempt)
        assert attempts == [pid]
        assert row(other, "SELECT 1") == (1,)


def test_a_role_is_made_whole_or_not_at_all(roles: PostgresRoles, target: Target) -> None:
    nowhere = replace(target.levels["read"], account="no_such_group")
    with pytest.raises(Unavailable, match="no_such_group"):
        roles.create(target, nowhere, ROLE, UNTIL)
    assert roles.roles_of(target, ROLE) == []


def test_names_are_never_sql(target: Target) -> None:
    for name in ('gw_x"; DROP ROLE postgres; --', "postgres", "gw_", "gw_" + "x" * 61):
        with pytest.raises(ValueError, match="not a role name"):
            PostgresRoles().revoke(target, name)


def test_an_unreachable_or_misconfigured_target_is_unavailable(target: Target, tmp_path: Path) -> None:
    secret = tmp_path / "secret.dsn"
    secret.write_text("postgresql://postgres:planted-secret@127.0.0.1:1/postgres")
    for file in (str(secret), str(tmp_path / "missing"), ""):
        with pytest.raises(Unavailable) as caught:
            PostgresRoles().create(replace(target, admin_dsn_file=file), target.levels["read"], ROLE, UNTIL)
        assert "planted-secret" not in caught.value.refusal.sentence()
