"""What the gateway's administrator may do on a PostgreSQL target, right by right, and the SQL that mends it."""

from collections.abc import Callable, Iterator, Sequence

import psycopg
from psycopg import sql

from gateway.adapters.credentials.postgres import Connection, PostgresRoles
from gateway.adapters.credentials.postgres_elevation import elevations
from gateway.app.doctor_ports import Finding, TrialSession
from gateway.app.target_ports import DatabaseLogin
from gateway.core.errors import GatewayError
from gateway.core.target import Level, Target

OLDEST = 140_000
OLDEST_WITHOUT_SUPERUSER = 160_000  # there CREATEROLE gives ADMIN on the roles that one makes
MOST_DATABASES = 100


class PostgresDoctor:
    """Implements `TargetDoctor`. `reach` and `open` are the door's own ways to a target."""

    def __init__(
        self,
        roles: PostgresRoles,
        reach: Callable[[Target], Finding],
        open_trial: Callable[[Target, Level, DatabaseLogin], TrialSession],
    ) -> None:
        self._roles = roles
        self._reach = reach
        self._open = open_trial

    def reach(self, target: Target) -> Finding:
        """As a session would."""
        return self._reach(target)

    def open(self, target: Target, level: Level, login: DatabaseLogin) -> TrialSession:
        """As a session would."""
        return self._open(target, level, login)

    def rights(self, target: Target) -> Sequence[Finding]:
        """The first one says whether there is an administrator at all."""
        try:
            with self._roles.administrator(target) as admin:
                found = [Finding("administrator", admin.info.user, ok=True), _version(admin), _createrole(admin)]
                for level in target.levels.values():
                    found += _group(admin, level, target)
                names = _databases(admin, target)
                admin_name = admin.info.user
        except GatewayError as why:
            remedy = (
                f"Does {target.admin_dsn_file} hold a libpq URL that psql can connect with from the gateway's machine?",
            )
            return (Finding("administrator", target.name, ok=False, problem=why.refusal.message, remedy=remedy),)
        entered = [self._enter(target, name, admin_name) for name in names]
        return (*found, *entered, *self._elevations(target))

    def _elevations(self, target: Target) -> Sequence[Finding]:
        """Asked inside the database that sessions work in."""
        try:
            with self._roles.administrator(target, target.database) as there:
                return [elevations(there, level) for level in target.levels.values()]
        except GatewayError as why:
            problem = f"Nobody knows what runs there with the privileges of its owner. {why.refusal.message}"
            return (Finding("elevation", target.database, ok=True, problem=problem),)

    def _enter(self, target: Target, database: str, admin: str) -> Finding:
        """What a role owns is reassigned in every database, from inside."""
        try:
            with self._roles.administrator(target, database):
                return Finding("database", database, ok=True)
        except GatewayError as why:
            remedy = (
                _text("GRANT CONNECT ON DATABASE {} TO {};", database, admin),
                "-- and a line in pg_hba.conf that lets it in from the gateway's address",
            )
            return Finding("database", database, ok=False, problem=why.refusal.message, remedy=remedy)


def _version(admin: Connection) -> Finding:
    number = admin.info.server_version
    named = f"PostgreSQL {number // 10_000}"
    if number < OLDEST:
        return Finding("version", named, ok=False, problem="PostgreSQL 14 is the oldest that is served.")
    if number < OLDEST_WITHOUT_SUPERUSER and not _is_superuser(admin):
        problem = "Before PostgreSQL 16 the administrator must be a superuser."
        return Finding("version", named, False, problem, (_text("ALTER ROLE {} SUPERUSER;", admin.info.user),))
    return Finding("version", named, ok=True)


def _createrole(admin: Connection) -> Finding:
    query = "SELECT rolsuper OR rolcreaterole FROM pg_catalog.pg_roles WHERE rolname = current_user"
    row = admin.execute(query).fetchone()
    if row and row[0]:
        return Finding("createrole", admin.info.user, ok=True)
    remedy = (_text("ALTER ROLE {} CREATEROLE;", admin.info.user),)
    return Finding("createrole", admin.info.user, False, "The administrator may not make roles.", remedy)


def _group(admin: Connection, level: Level, target: Target) -> Iterator[Finding]:
    group, me = level.account, admin.info.user
    if admin.execute("SELECT 1 FROM pg_catalog.pg_roles WHERE rolname = %s", (group,)).fetchone() is None:
        remedy = (_text("CREATE ROLE {} NOLOGIN;", group), _grant(admin, group, me))
        yield Finding("group", level.name, False, f"There is no role {group}, the level's group.", remedy)
        return
    if not _may_give(admin, group):
        problem = f"The administrator has no ADMIN option on {group}."
        yield Finding("group", level.name, False, problem, (_grant(admin, group, me),))
    else:
        yield Finding("group", level.name, ok=True)
    query = "SELECT pg_catalog.has_database_privilege(%s, %s, 'CONNECT')"
    try:
        row = admin.execute(query, (group, target.database)).fetchone()
    except psycopg.errors.InvalidCatalogName:
        problem = f"There is no database {target.database}, which the catalogue names."
        yield Finding("connect", level.name, False, problem, (_text("CREATE DATABASE {};", target.database),))
        return
    let_in = (_text("GRANT CONNECT ON DATABASE {} TO {};", target.database, group),)
    is_let_in = bool(row and row[0])
    problem = "" if is_let_in else f"{group} may not connect to {target.database}."
    yield Finding("connect", level.name, is_let_in, problem, () if is_let_in else let_in)


def _may_give(admin: Connection, group: str) -> bool:
    """ADMIN alone: to take over what a role owned, the administrator becomes a member of the role, and through it of
    the group. It need not hold the group's privileges at any other time.
    """
    query = "SELECT pg_catalog.pg_has_role(%s, 'MEMBER WITH ADMIN OPTION')"
    row = admin.execute(query, (group,)).fetchone()
    return bool(row and row[0])


def _grant(admin: Connection, group: str, to: str) -> str:
    if admin.info.server_version < OLDEST_WITHOUT_SUPERUSER:
        return _text("GRANT {} TO {} WITH ADMIN OPTION;", group, to)
    return _text("GRANT {} TO {} WITH ADMIN TRUE, INHERIT FALSE;", group, to)


def _databases(admin: Connection, target: Target) -> list[str]:
    """Those where a role of some level could make something that is to be cleared up."""
    query = """
        SELECT datname FROM pg_catalog.pg_database d WHERE datallowconn AND NOT datistemplate AND EXISTS (
          SELECT 1 FROM pg_catalog.pg_roles g
          WHERE g.rolname = ANY(%s) AND pg_catalog.has_database_privilege(g.oid, d.oid, 'CONNECT')
        ) ORDER BY datname LIMIT %s
    """
    groups = [level.account for level in target.levels.values()]
    return [str(name) for (name,) in admin.execute(query, (groups, MOST_DATABASES))]


def _is_superuser(admin: Connection) -> bool:
    return admin.info.parameter_status("is_superuser") == "on"


def _text(template: str, *names: str) -> str:
    """SQL to be shown, with its names quoted as the server would."""
    return sql.SQL(template).format(*(sql.Identifier(name) for name in names)).as_string()
