"""Prepared transactions of a role: no session's end ends them, and what they changed they keep locked.

Rolled back are those that the role owns, and those of its group that changed a role (nothing but a change of one's own
password is that for a role without CREATEROLE), keep this one from being dropped (by a setting, a privilege or an owner
given) or lock a table of its own. Others of the group may be a program's, which will commit them.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import psycopg
from psycopg import sql

# Each transaction holds a lock on its own number; what `virtualtransaction` is without a session differs by version.
_LEFT = """
    SELECT x.gid, x.owner, x.database FROM pg_catalog.pg_prepared_xacts x
    WHERE x.owner = %(role)s OR x.owner = ANY (%(groups)s) AND EXISTS (
      SELECT FROM pg_catalog.pg_locks its JOIN pg_catalog.pg_locks l ON l.virtualtransaction = its.virtualtransaction
      WHERE its.locktype = 'transactionid' AND its.transactionid = x.transaction AND its.pid IS NULL AND l.pid IS NULL
      AND (l.relation = 'pg_catalog.pg_authid'::pg_catalog.regclass AND l.mode = 'RowExclusiveLock'
        OR EXISTS (SELECT FROM pg_catalog.pg_roles r WHERE r.rolname = %(role)s AND (
          l.classid = 'pg_catalog.pg_authid'::pg_catalog.regclass AND l.objid = r.oid
          OR EXISTS (SELECT FROM pg_catalog.pg_shdepend s
            WHERE s.refclassid = 'pg_catalog.pg_authid'::pg_catalog.regclass AND s.refobjid = r.oid AND s.deptype = 'o'
            AND s.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND s.objid = l.relation
            AND s.dbid = l.database)))))
    ORDER BY x.prepared
"""
Connection = psycopg.Connection[Any]


def roll_back(
    admin: Connection,
    role: str,
    groups: list[str],
    enter: Callable[[str], AbstractContextManager[Connection]],
    before: Callable[[Sequence[str]], None],
) -> None:
    """Each in its own database, into which `enter` leads as the administrator; `before` hears their names first."""
    left = admin.execute(_LEFT.encode(), {"role": role, "groups": groups}).fetchall()
    if left:
        before([f"{gid} in {database}" for gid, _, database in left])
    for gid, owner, database in left:
        with enter(str(database)) as there:
            # Whoever prepared it may end it, and a superuser. A member of that role may become it.
            there.execute(sql.SQL("SET ROLE {}").format(sql.Identifier(owner)))
            there.execute(sql.SQL("ROLLBACK PREPARED {}").format(sql.Literal(gid)))
