"""Migrations on PostgreSQL: what a role may read, a script run as an ephemeral role, and what it made handed over.

Rows that a script returns are counted and thrown away: they reach neither the caller nor the recording.
"""

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from gateway.adapters.credentials import postgres_handover
from gateway.adapters.credentials.postgres import Connection, PostgresRoles
from gateway.adapters.credentials.postgres_script import LONGEST_NOTICE, bounded_notices, run_script
from gateway.app.deploy_ports import Ended, HandedOver, Job
from gateway.core.errors import Refusal, Unavailable
from gateway.core.target import Target

LOG = logging.getLogger(__name__)
GRACE_S = 5.0  # from cancelling a script to ending its session
FAILED = 3  # as psql with ON_ERROR_STOP
_CONNECT_S = 10
_QUIET_S = 20  # a server that is gone is noticed after about a minute
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


class PostgresMigrations(PostgresRoles):
    """Implements `Runner` for SQL, and `SqlAccess`."""

    def readable(self, target: Target, account: str) -> Sequence[str]:
        """See `SqlAccess`. Counts what PUBLIC and memberships give, too."""
        with self.administrator(target, target.database) as admin:
            return _names(admin, _READABLE, account)

    def reachable(self, target: Target, account: str) -> Sequence[str]:
        """See `SqlAccess`. Definer routines, views and rules of others, and roles that it is a member of."""
        with self.administrator(target, target.database) as admin:
            return postgres_handover.reached(admin, account)

    def owned(self, target: Target, account: str, owner: str) -> Sequence[str]:
        """See `SqlAccess`. Where the account itself is the owner: what it may read."""
        with self.administrator(target, target.database) as admin:
            return _to_hand_over(admin, account, owner)[:_MOST_NAMED]

    def hand_over(self, target: Target, account: str, owner: str) -> HandedOver:
        """See `SqlAccess`. Where the account itself is the owner it loses the right to read what it made."""
        with self.administrator(target, target.database) as admin:
            made = _to_hand_over(admin, account, owner)
            if not made:
                return HandedOver(())
            with _holding(admin, account, owner):
                if account != owner:
                    return _few(postgres_handover.give(admin, account, owner))
                _blind(admin, sql.Identifier(account), made)
            return _few(HandedOver(made))

    def run(
        self, job: Job, output: Callable[[str, bytes], None], on_start: Callable[[Callable[[], None]], None]
    ) -> Ended:
        """See `Runner`. One transaction, unless the verb says otherwise: then the script is one statement."""
        try:
            connection = psycopg.connect(_conninfo(job), autocommit=True)
        except psycopg.Error as why:
            message = f"{job.target.name} does not let the migration's role in ({why.sqlstate or 'no answer'})."
            raise Unavailable(Refusal("target-unreachable", message, (job.target.name,))) from None
        stop = _Stop(connection, lambda: self.shut_out(job.target, job.account))
        try:
            connection.add_notice_handler(bounded_notices(output))
            on_start(stop)
            return _run(connection, job, output)
        finally:
            stop.over.set()
            connection.close()  # what is not committed by now is rolled back


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


def _to_hand_over(admin: Connection, account: str, owner: str) -> list[str]:
    return _names(admin, _READABLE, account) if account == owner else postgres_handover.owned(admin, account)


def _blind(admin: Connection, account: sql.Identifier, made: Sequence[str]) -> None:
    for name in made:  # quoted by the server
        admin.execute(b"REVOKE SELECT ON " + name.encode() + b" FROM " + account.as_bytes(admin))


def _few(handed: HandedOver) -> HandedOver:
    return HandedOver(handed.made[:_MOST_NAMED], handed.kept[:_MOST_NAMED], handed.changed[:_MOST_NAMED])


def _run(connection: Connection, job: Job, output: Callable[[str, bytes], None]) -> Ended:
    try:
        if job.in_transaction:
            connection.execute("BEGIN")
        for line in run_script(connection, job.stdin):
            output("out", f"{line}\n".encode())
        if job.in_transaction:
            connection.commit()
            output("out", b"COMMIT\n")
    except psycopg.Error as why:
        detail = f"{why.diag.message_primary or 'the connection broke'} (SQLSTATE {why.sqlstate or 'none'})"
        detail = detail[:LONGEST_NOTICE]
        output("err", f"ERROR: {detail}\n".encode())
        return Ended(FAILED, detail)
    return Ended(0)


class _Stop:
    """Cancel; a script may catch that, so 5 s later its session is terminated, again and again until it is over."""

    def __init__(self, connection: Connection, terminate: Callable[[], None]) -> None:
        self._connection = connection
        self._terminate = terminate
        self._lock = threading.Lock()
        self._is_stopping = False
        self.over = threading.Event()

    def __call__(self) -> None:
        with self._lock:
            if self._is_stopping or self.over.is_set():
                return
            self._is_stopping = True
        threading.Thread(target=self._end, name="migration-stop", daemon=True).start()

    def _end(self) -> None:
        with suppress(psycopg.Error):
            self._connection.cancel_safe(timeout=_CONNECT_S)
        while not self.over.wait(GRACE_S):
            try:
                self._terminate()
            except Unavailable as why:
                LOG.warning("a migration's session is terminated later: %s", why.refusal.message)


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
        keepalives_idle=_QUIET_S,
        keepalives_interval=_QUIET_S,
        keepalives_count=3,
        tcp_user_timeout=3 * _QUIET_S * 1000,
        application_name="gateway-migration",
        **files,
    )


def _names(admin: Connection, query: str, role: str) -> list[str]:
    return [str(name) for (name,) in admin.execute(query.encode(), {"role": role})]
