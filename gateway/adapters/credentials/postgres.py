"""Ephemeral roles on PostgreSQL: made with membership of one group role only, unmade in a verified order.

Nothing is ever granted to such a role itself: a grant on tables per role fills `pg_class.relacl` until no further
GRANT works. Names go through `psycopg.sql.Identifier`, never through string formatting. PostgreSQL 14 or newer.
"""

import re
import secrets
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from threading import BoundedSemaphore, Lock

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from gateway.adapters.credentials import postgres_prepared
from gateway.app.target_ports import DatabaseLogin
from gateway.core.errors import Refusal, Unavailable
from gateway.core.target import Level, Target
from gateway.wire.postgres_scram import verifier

_CONNECT_S = 5
_STATEMENT_MS = 10_000
_LOCK_MS = 5_000
_TERMINATE_MS = 5_000
_SALT_BYTES = 16
_AT_ONCE = 4  # administrative connections to one target
_TURN_S = 20.0
# Who may create in a schema could have the administrator run a function or operator of theirs: CVE-2018-1058.
_BEGINNING = (
    "SELECT pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', false), "
    "pg_catalog.set_config('statement_timeout', %s, false), pg_catalog.set_config('lock_timeout', %s, false)"
)
_ROLE = re.compile(r"gw_[a-z0-9_]{1,60}")

Connection = psycopg.Connection[tuple[object, ...]]


class PostgresRoles:
    """Implements `DatabaseRoles`. The administrator's URL is read from its file at each use, and kept nowhere."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._turns: dict[str, BoundedSemaphore] = {}

    def create(self, target: Target, level: Level, role: str, until: datetime) -> DatabaseLogin:
        """A fresh login role; the server sees the verifier of its password only, so its log cannot give it away."""
        login = DatabaseLogin(_checked(role), secrets.token_urlsafe(32))
        with ThreadPoolExecutor(1) as beside:  # thousands of hashes, while the server greets
            secret = beside.submit(verifier, login.password, secrets.token_bytes(_SALT_BYTES))
            with self._admin(target) as admin:
                # One message, thus one transaction: a role is there with its limits or not at all.
                admin.execute(sql.SQL("; ").join(_creation(role, level, secret.result(), until)))
        return login

    def extend(self, target: Target, role: str, until: datetime) -> None:
        """Passwords of a role are good until then (open connections do not notice)."""
        name = sql.Identifier(_checked(role))
        with self._admin(target) as admin:
            admin.execute(sql.SQL("ALTER ROLE {} VALID UNTIL {}").format(name, sql.Literal(until.isoformat())))

    def revoke(self, target: Target, role: str, before: Callable[[Sequence[str]], None] = lambda _: None) -> None:
        """From NOLOGIN to gone. After the second step access is over, even when the drop fails and is tried again."""
        name = sql.Identifier(_checked(role))
        with self._admin(target) as admin:
            if not _exists(admin, role):
                return
            self._shut_out(admin, role, target, before)
            groups = _groups(admin, role)
            for database in _databases_touched(admin, role):
                if not groups:
                    raise _unavailable(target, "the role owns something and has no group to leave it to")
                with self.administrator(target, database) as there:
                    _disown(there, role, groups[0])
            for group in groups:
                admin.execute(sql.SQL("REVOKE {} FROM {}").format(sql.Identifier(group), name))
            admin.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(name))
            if _exists(admin, role):
                raise _unavailable(target, "the role is still there after DROP ROLE")

    def shut_out(self, target: Target, role: str) -> None:
        """End the role's sessions for good: no new one either. The role stays."""
        _checked(role)
        with self._admin(target) as admin:
            if _exists(admin, role):
                self._shut_out(admin, role, target, lambda _: None)

    def end_backend(self, target: Target, role: str, pid: int, attempt: Callable[[], None]) -> bool:
        """End one session of the role's, for code may catch a cancel, but not this."""
        name = sql.Identifier(_checked(role))
        of_it = "FROM pg_catalog.pg_stat_activity WHERE pid = %s AND usename = %s"
        with self._admin(target) as admin:
            if admin.execute(f"SELECT 1 {of_it}".encode(), (pid, role)).fetchone() is None:
                return False
            attempt()
            _become_member(admin, name)
            admin.execute(
                f"SELECT pg_catalog.pg_terminate_backend(pid, %s) {of_it}".encode(), (_TERMINATE_MS, pid, role)
            )
            if admin.execute(f"SELECT 1 {of_it}".encode(), (pid, role)).fetchone():
                raise _unavailable(target, "a session of the role does not end")
            return True

    def roles_of(self, target: Target, prefix: str) -> Sequence[str]:
        """Names of existing roles that begin with `prefix`."""
        with self._admin(target) as admin:
            query = "SELECT rolname FROM pg_catalog.pg_roles WHERE pg_catalog.starts_with(rolname, %s) ORDER BY rolname"
            return [str(name) for (name,) in admin.execute(query, (prefix,))]

    def _shut_out(self, admin: Connection, role: str, target: Target, before: Callable[[Sequence[str]], None]) -> None:
        name = sql.Identifier(role)
        no_login = sql.SQL("ALTER ROLE {} NOLOGIN CONNECTION LIMIT 0").format(name)
        try:
            admin.execute(no_login)
        except psycopg.errors.LockNotAvailable:
            # A session of the role has changed it (its password), and does not commit, or prepared that. Nobody waits
            # for its end: whoever logs in again meanwhile stands behind this statement.
            _become_member(admin, name)
            _end_sessions(admin, role, 0)
            self._roll_back(admin, role, target, before)
            admin.execute(no_login)
        _become_member(admin, name)
        _end_sessions(admin, role, _TERMINATE_MS)
        self._roll_back(admin, role, target, before)
        if admin.execute("SELECT 1 FROM pg_catalog.pg_stat_activity WHERE usename = %s", (role,)).fetchone():
            raise _unavailable(target, "a session of the role does not end")

    def _roll_back(self, admin: Connection, role: str, target: Target, before: Callable[[Sequence[str]], None]) -> None:
        enter = partial(self.administrator, target)
        postgres_prepared.roll_back(admin, role, _groups(admin, role), enter, before)

    @contextmanager
    def _admin(self, target: Target) -> Iterator[Connection]:
        turn = self._turn(target.name)
        if not turn.acquire(timeout=_TURN_S):
            raise _unavailable(target, "too many roles are being made and dropped there at once")
        try:
            with self.administrator(target) as connection:
                yield connection
        finally:
            turn.release()

    def _turn(self, target: str) -> BoundedSemaphore:
        with self._lock:
            return self._turns.setdefault(target, BoundedSemaphore(_AT_ONCE))

    @contextmanager
    def administrator(self, target: Target, database: str = "") -> Iterator[Connection]:
        """A connection as the administrator, to the database of its URL or to another; else Unavailable."""
        try:
            with psycopg.connect(_conninfo(target, database), autocommit=True) as connection:
                connection.execute(_BEGINNING, (str(_STATEMENT_MS), str(_LOCK_MS)))
                yield connection
        except psycopg.Error as why:
            raise _unavailable(target, _cause(why)) from None  # its text may quote the administrator's URL


def _conninfo(target: Target, database: str) -> str:
    try:
        text = Path(target.admin_dsn_file).read_text().strip()
        own = {"dbname": database} if database else {}
        return make_conninfo(text, connect_timeout=_CONNECT_S, application_name="gateway", **own)
    except (OSError, UnicodeDecodeError, psycopg.ProgrammingError):
        raise _unavailable(target, "the file with the administrator's URL cannot be used") from None


def _creation(role: str, level: Level, secret: str, until: datetime) -> Iterator[sql.Composed]:
    name, group = sql.Identifier(role), sql.Identifier(level.account)
    yield sql.SQL(
        "CREATE ROLE {} LOGIN INHERIT NOSUPERUSER NOCREATEDB NOCREATEROLE {} NOBYPASSRLS "
        "CONNECTION LIMIT {} PASSWORD {} VALID UNTIL {}"
    ).format(
        name,
        sql.SQL("REPLICATION" if level.replication else "NOREPLICATION"),
        sql.Literal(level.connection_limit),
        sql.Literal(secret),
        sql.Literal(until.isoformat()),
    )
    yield sql.SQL("GRANT {} TO {}").format(group, name)
    # What it makes then belongs to the group, and nothing stands in the way of its DROP.
    yield sql.SQL("ALTER ROLE {} SET role TO {}").format(name, group)
    for setting, limit in (
        ("statement_timeout", level.statement_timeout),
        ("idle_in_transaction_session_timeout", level.idle_in_transaction_timeout),
    ):
        if limit is not None:
            yield sql.SQL("ALTER ROLE {} SET {} TO {}").format(
                name, sql.Identifier(setting), sql.Literal(str(limit // timedelta(milliseconds=1)))
            )
    yield sql.SQL("COMMENT ON ROLE {} IS {}").format(
        name, sql.Literal(f"Made by the access gateway at level {level.name}; it drops this role itself.")
    )


def _become_member(admin: Connection, name: sql.Identifier) -> None:
    """Who is no superuser must hold the role's privileges to end its sessions and to take over what it owns."""
    if admin.info.parameter_status("is_superuser") == "on":
        return
    options = " WITH INHERIT TRUE, SET TRUE" if admin.info.server_version >= 160_000 else ""
    admin.execute(sql.SQL("GRANT {} TO CURRENT_USER" + options).format(name))


def _end_sessions(admin: Connection, role: str, wait_ms: int) -> None:
    """Wait so long for each one's end, or not at all."""
    query = "SELECT pg_catalog.pg_terminate_backend(pid, %s) FROM pg_catalog.pg_stat_activity WHERE usename = %s"
    admin.execute(query, (wait_ms, role))


def _groups(admin: Connection, role: str) -> list[str]:
    """The level's group, by membership: a role may change its own settings (`rolconfig`), but not its groups."""
    query = """
        SELECT g.rolname FROM pg_catalog.pg_auth_members m JOIN pg_catalog.pg_roles g ON g.oid = m.roleid
        JOIN pg_catalog.pg_roles r ON r.oid = m.member WHERE r.rolname = %s ORDER BY g.rolname
    """
    return [str(name) for (name,) in admin.execute(query, (role,))]


def _databases_touched(admin: Connection, role: str) -> list[str]:
    """Every database where something depends on the role; shared objects are dealt with in the administrator's own."""
    query = """
        SELECT DISTINCT coalesce(d.datname, pg_catalog.current_database()) FROM pg_catalog.pg_shdepend s
        JOIN pg_catalog.pg_roles r ON r.oid = s.refobjid LEFT JOIN pg_catalog.pg_database d ON d.oid = s.dbid
        WHERE s.refclassid = 'pg_catalog.pg_authid'::regclass AND r.rolname = %s ORDER BY 1
    """
    return [str(name) for (name,) in admin.execute(query, (role,))]


def _disown(there: Connection, role: str, heir: str) -> None:
    name = sql.Identifier(role)
    for routine in _elevating(there, role):
        there.execute(f"ALTER ROUTINE {routine} SECURITY INVOKER".encode())
    there.execute(sql.SQL("REASSIGN OWNED BY {} TO {}").format(name, sql.Identifier(heir)))
    there.execute(sql.SQL("DROP OWNED BY {}").format(name))


def _elevating(there: Connection, role: str) -> list[str]:
    """SECURITY DEFINER routines of the role, quoted by the server: they must not run as whoever owns them next."""
    query = """
        SELECT p.oid::pg_catalog.regprocedure::pg_catalog.text FROM pg_catalog.pg_proc p
        JOIN pg_catalog.pg_roles r ON r.oid = p.proowner WHERE p.prosecdef AND r.rolname = %s
    """
    return [str(routine) for (routine,) in there.execute(query, (role,))]


def _exists(admin: Connection, role: str) -> bool:
    return admin.execute("SELECT 1 FROM pg_catalog.pg_roles WHERE rolname = %s", (role,)).fetchone() is not None


def _checked(role: str) -> str:
    """Only names of the gateway's own making: a bug elsewhere must not drop somebody's role."""
    if _ROLE.fullmatch(role) is None:
        raise ValueError("not a role name of the gateway")
    return role


def _cause(why: psycopg.Error) -> str:
    if why.sqlstate is None:
        return "it does not answer, or does not let the gateway's administrator in"
    return f"{why.diag.message_primary} (SQLSTATE {why.sqlstate})"


def _unavailable(target: Target, cause: str) -> Unavailable:
    return Unavailable(
        Refusal(
            "target-roles-unavailable",
            f"The gateway cannot manage its roles on {target.name}: {cause}.",
            next_steps=("Try again in a moment; if it stays so, tell the gateway's operators.",),
        )
    )
