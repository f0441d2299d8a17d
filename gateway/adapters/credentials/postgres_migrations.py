"""Migrations on PostgreSQL: what a role may read, a script run as an ephemeral role, and what it made handed over.

Rows that a script returns are counted and thrown away: they reach neither the caller nor the recording.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from gateway.adapters.credentials.postgres import Connection, PostgresRoles
from gateway.app.deploy_ports import Ended, Job
from gateway.core.errors import Refusal, Unavailable
from gateway.core.target import Target

FAILED = 3  # as psql with ON_ERROR_STOP
_CONNECT_S = 10
_MOST_NAMED = 20
_READABLE = """
    SELECT c.oid::pg_catalog.regclass::pg_catalog.text FROM pg_catalog.pg_class c
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND n.nspname NOT IN ('pg_catalog', 'information_schema')
      AND NOT pg_catalog.starts_with(n.nspname, 'pg_')
      AND (pg_catalog.has_table_privilege(%(role)s, c.oid, 'SELECT')
           OR pg_catalog.has_any_column_privilege(%(role)s, c.oid, 'SELECT'))
    ORDER BY 1 LIMIT 20
"""
_OWNED = """
    SELECT o.what FROM (
      SELECT c.oid::pg_catalog.regclass::pg_catalog.text AS what, c.relowner AS owner FROM pg_catalog.pg_class c
        WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
      UNION ALL SELECT p.oid::pg_catalog.regprocedure::pg_catalog.text, p.proowner FROM pg_catalog.pg_proc p
      UNION ALL SELECT n.nspname::pg_catalog.text, n.nspowner FROM pg_catalog.pg_namespace n
      UNION ALL SELECT t.oid::pg_catalog.regtype::pg_catalog.text, t.typowner FROM pg_catalog.pg_type t
        WHERE t.typtype IN ('e', 'd')
    ) o JOIN pg_catalog.pg_roles r ON r.oid = o.owner WHERE r.rolname = %(role)s ORDER BY 1
"""


class PostgresMigrations(PostgresRoles):
    """Implements `Runner` for SQL, and `SqlAccess`."""

    def readable(self, target: Target, account: str) -> Sequence[str]:
        """See `SqlAccess`. Counts what PUBLIC and memberships give, too."""
        with self.administrator(target, target.database) as admin:
            return _names(admin, _READABLE, account)

    def hand_over(self, target: Target, account: str, owner: str) -> Sequence[str]:
        """See `SqlAccess`. Where the account itself is the owner it loses the right to read what it made."""
        with self.administrator(target, target.database) as admin:
            made = _names(admin, _READABLE if account == owner else _OWNED, account)
            if made:
                with _holding(admin, account, owner):
                    _hand_over(admin, sql.Identifier(account), sql.Identifier(owner), made)
            return made[:_MOST_NAMED]

    def run(
        self, job: Job, output: Callable[[str, bytes], None], on_start: Callable[[Callable[[], None]], None]
    ) -> Ended:
        """See `Runner`. One transaction, unless the verb says otherwise: then the script is one statement."""
        try:
            connection = psycopg.connect(_conninfo(job), autocommit=not job.in_transaction)
        except psycopg.Error as why:
            message = f"{job.target.name} does not let the migration's role in ({why.sqlstate or 'no answer'})."
            raise Unavailable(Refusal("target-unreachable", message, (job.target.name,))) from None
        with connection:
            connection.add_notice_handler(lambda notice: output("err", _said(notice)))
            on_start(connection.cancel)
            return _run(connection, job, output)


@contextmanager
def _holding(admin: Connection, *roles: str) -> Iterator[None]:
    """Who is no superuser must hold a role's privileges to give away what it owns: from PostgreSQL 16 on being a
    member is not enough. Given back at the end.
    """
    if admin.info.parameter_status("is_superuser") == "on" or admin.info.server_version < 160_000:
        yield
        return
    names = sql.SQL(", ").join(sql.Identifier(role) for role in dict.fromkeys(roles))
    admin.execute(sql.SQL("GRANT {} TO CURRENT_USER WITH INHERIT TRUE, SET TRUE").format(names))
    try:
        yield
    finally:
        admin.execute(sql.SQL("REVOKE {} FROM CURRENT_USER GRANTED BY CURRENT_USER").format(names))


def _hand_over(admin: Connection, account: sql.Identifier, owner: sql.Identifier, made: Sequence[str]) -> None:
    if account != owner:
        admin.execute(sql.SQL("REASSIGN OWNED BY {} TO {}").format(account, owner))
        return
    for name in made:  # quoted by the server
        admin.execute(b"REVOKE SELECT ON " + name.encode() + b" FROM " + account.as_bytes(admin))


def _run(connection: Connection, job: Job, output: Callable[[str, bytes], None]) -> Ended:
    try:
        for line in _results(connection.execute(job.stdin)):
            output("out", f"{line}\n".encode())
        if job.in_transaction:
            connection.commit()
            output("out", b"COMMIT\n")
    except psycopg.Error as why:
        detail = f"{why.diag.message_primary or 'the connection broke'} (SQLSTATE {why.sqlstate or 'none'})"
        output("err", f"ERROR: {detail}\n".encode())
        if not connection.closed:
            connection.rollback()
        return Ended(FAILED, detail)
    return Ended(0)


def _results(cursor: "psycopg.Cursor[tuple[object, ...]]") -> Iterator[str]:
    """What the server says of each statement; rows are counted, never read."""
    while True:
        rows = f" ({cursor.rowcount} rows, not shown)" if cursor.description else ""
        yield f"{cursor.statusmessage or ''}{rows}"
        if not cursor.nextset():
            return


def _said(notice: psycopg.errors.Diagnostic) -> bytes:
    return f"{notice.severity}: {notice.message_primary}\n".encode()


def _conninfo(job: Job) -> str:
    target = job.target
    files = {"sslrootcert": target.ca_file} if target.ca_file else {}
    return make_conninfo(
        host=target.host,
        port=target.port,
        dbname=target.database,
        user=job.account,
        password=job.password,
        sslmode=target.tls,
        connect_timeout=_CONNECT_S,
        application_name="gateway-migration",
        **files,
    )


def _names(admin: Connection, query: str, role: str) -> list[str]:
    return [str(name) for (name,) in admin.execute(query.encode(), {"role": role})]
