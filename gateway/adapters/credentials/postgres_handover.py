"""What a migration made goes to its owner, without a way for the next migration to act with the owner's rights.

A role that may create may leave something behind that runs with the rights of whoever owns it: SECURITY DEFINER
routines, views, rules, expressions that ANALYZE evaluates. So before anything changes hands, in the same transaction:
routines and views are set to run as whoever calls them, PUBLIC and the account lose every privilege, and what cannot
be made harmless stays with the account. docs/deploy.md says what this does not reach.
"""

from collections.abc import Iterator, Sequence

from psycopg import sql

from gateway.adapters.credentials.postgres import Connection
from gateway.app.deploy_ports import HandedOver

_VIEWS_AS_INVOKER = 150_000  # PostgreSQL 15; said in `_TIED`, too

_ROUTINES = """
    SELECT p.oid::pg_catalog.regprocedure::pg_catalog.text FROM pg_catalog.pg_proc p
    WHERE p.prosecdef AND p.proowner = %(role)s::pg_catalog.regrole ORDER BY 1
"""
_VIEWS = """
    SELECT c.oid::pg_catalog.regclass::pg_catalog.text FROM pg_catalog.pg_class c
    WHERE c.relkind = 'v' AND c.relowner = %(role)s::pg_catalog.regrole ORDER BY 1
"""
# What has privileges: ('TABLE', its name quoted by the server).
_GUARDED = """
    SELECT CASE c.relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END, c.oid::pg_catalog.regclass::pg_catalog.text
      FROM pg_catalog.pg_class c WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
      AND c.relowner = %(role)s::pg_catalog.regrole
    UNION ALL SELECT 'SCHEMA', pg_catalog.quote_ident(n.nspname) FROM pg_catalog.pg_namespace n
      WHERE n.nspowner = %(role)s::pg_catalog.regrole
    UNION ALL SELECT 'LARGE OBJECT', l.oid::pg_catalog.text FROM pg_catalog.pg_largeobject_metadata l
      WHERE l.lomowner = %(role)s::pg_catalog.regrole
"""
_MEMBERS = """
    SELECT m.rolname FROM pg_catalog.pg_auth_members a JOIN pg_catalog.pg_roles m ON m.oid = a.member
    WHERE a.roleid = %(role)s::pg_catalog.regrole GROUP BY m.rolname
"""
_OWNED = """
    SELECT c.oid::pg_catalog.regclass::pg_catalog.text FROM pg_catalog.pg_class c
      WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND c.relowner = %(role)s::pg_catalog.regrole
    UNION ALL SELECT p.oid::pg_catalog.regprocedure::pg_catalog.text FROM pg_catalog.pg_proc p
      WHERE p.proowner = %(role)s::pg_catalog.regrole
    UNION ALL SELECT n.nspname::pg_catalog.text FROM pg_catalog.pg_namespace n
      WHERE n.nspowner = %(role)s::pg_catalog.regrole
    UNION ALL SELECT t.oid::pg_catalog.regtype::pg_catalog.text FROM pg_catalog.pg_type t
      WHERE t.typtype IN ('e', 'd', 'r') AND t.typowner = %(role)s::pg_catalog.regrole
    ORDER BY 1
"""
# Relations that act with their owner's rights on somebody else's word: rules always do, views before 15, and
# ANALYZE (autovacuum, too) evaluates the expressions of indexes and statistics as the table's owner.
_TIED = """
    SELECT c.oid::pg_catalog.regclass::pg_catalog.text, c.relkind::pg_catalog.text, 'it has a rewrite rule'
      FROM pg_catalog.pg_class c WHERE c.relowner = %(role)s::pg_catalog.regrole
      AND EXISTS (SELECT FROM pg_catalog.pg_rewrite r WHERE r.ev_class = c.oid AND r.rulename <> '_RETURN')
    UNION SELECT c.oid::pg_catalog.regclass::pg_catalog.text, c.relkind::pg_catalog.text,
      'before PostgreSQL 15 a view reads with its owner''s rights'
      FROM pg_catalog.pg_class c WHERE c.relkind = 'v' AND c.relowner = %(role)s::pg_catalog.regrole
      AND %(version)s < 150000
    UNION SELECT c.oid::pg_catalog.regclass::pg_catalog.text, c.relkind::pg_catalog.text,
      'ANALYZE would run a function in its indexes or statistics as the owner'
      FROM pg_catalog.pg_class c WHERE c.relowner = %(role)s::pg_catalog.regrole AND EXISTS (
        SELECT FROM pg_catalog.pg_depend d
        LEFT JOIN pg_catalog.pg_index i ON d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
          AND i.indexrelid = d.objid AND (i.indexprs IS NOT NULL OR i.indpred IS NOT NULL)
        LEFT JOIN pg_catalog.pg_statistic_ext s ON d.classid = 'pg_catalog.pg_statistic_ext'::pg_catalog.regclass
          AND s.oid = d.objid
        LEFT JOIN pg_catalog.pg_proc p ON d.refclassid = 'pg_catalog.pg_proc'::pg_catalog.regclass
          AND p.oid = d.refobjid
        LEFT JOIN pg_catalog.pg_operator o ON d.refclassid = 'pg_catalog.pg_operator'::pg_catalog.regclass
          AND o.oid = d.refobjid
        LEFT JOIN pg_catalog.pg_type t ON d.refclassid = 'pg_catalog.pg_type'::pg_catalog.regclass
          AND t.oid = d.refobjid
        WHERE c.oid IN (i.indrelid, s.stxrelid) AND NOT EXISTS (SELECT FROM pg_catalog.pg_roles su
          WHERE su.rolsuper AND su.oid = coalesce(p.proowner, o.oprowner, t.typowner))
          AND coalesce(p.oid, o.oid, t.oid) IS NOT NULL)
    ORDER BY 1
"""
# While one of these is there nothing changes hands: whatever else uses it would act as the owner.
_BARS = """
    SELECT t.oid::pg_catalog.regtype::pg_catalog.text, 'ANALYZE would run a range type''s function as the owner'
      FROM pg_catalog.pg_type t JOIN pg_catalog.pg_range r ON r.rngtypid = t.oid
      JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_type'::pg_catalog.regclass AND d.objid = t.oid
        AND d.refclassid = 'pg_catalog.pg_proc'::pg_catalog.regclass
      WHERE t.typowner = %(role)s::pg_catalog.regrole
    UNION SELECT pg_catalog.pg_describe_object(s.classid, s.objid, s.objsubid),
      'things of this kind are not handed over'
      FROM pg_catalog.pg_shdepend s JOIN pg_catalog.pg_database b ON b.oid = s.dbid
      WHERE b.datname = pg_catalog.current_database() AND s.deptype = 'o' AND s.refobjid = %(role)s::pg_catalog.regrole
      AND s.refclassid = 'pg_catalog.pg_authid'::pg_catalog.regclass
      AND s.classid NOT IN ('pg_catalog.pg_class'::pg_catalog.regclass, 'pg_catalog.pg_proc'::pg_catalog.regclass,
        'pg_catalog.pg_namespace'::pg_catalog.regclass, 'pg_catalog.pg_type'::pg_catalog.regclass,
        'pg_catalog.pg_operator'::pg_catalog.regclass, 'pg_catalog.pg_collation'::pg_catalog.regclass,
        'pg_catalog.pg_statistic_ext'::pg_catalog.regclass, 'pg_catalog.pg_extension'::pg_catalog.regclass,
        'pg_catalog.pg_largeobject'::pg_catalog.regclass, 'pg_catalog.pg_largeobject_metadata'::pg_catalog.regclass,
        'pg_catalog.pg_ts_config'::pg_catalog.regclass, 'pg_catalog.pg_ts_dict'::pg_catalog.regclass,
        'pg_catalog.pg_default_acl'::pg_catalog.regclass)
    ORDER BY 1
"""
# What lets the account act with rights that it does not have itself.
_REACHED = """
    SELECT what FROM (
      SELECT 'the SECURITY DEFINER function ' || p.oid::pg_catalog.regprocedure::pg_catalog.text AS what
        FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
        WHERE p.prosecdef AND p.proowner <> %(role)s::pg_catalog.regrole
        AND NOT pg_catalog.starts_with(n.nspname, 'pg_')
        AND n.nspname <> 'information_schema'
        AND pg_catalog.has_function_privilege(%(account)s, p.oid, 'EXECUTE')
        AND pg_catalog.has_schema_privilege(%(account)s, n.oid, 'USAGE')
      UNION ALL SELECT 'INSERT, UPDATE or DELETE on ' || c.oid::pg_catalog.regclass::pg_catalog.text
        || ' (a view, or a table with a rule)'
        FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        WHERE c.relowner <> %(role)s::pg_catalog.regrole AND NOT pg_catalog.starts_with(n.nspname, 'pg_')
        AND n.nspname <> 'information_schema' AND c.relkind IN ('r', 'p', 'v', 'f')
        AND EXISTS (SELECT FROM pg_catalog.pg_rewrite r WHERE r.ev_class = c.oid)
        AND (pg_catalog.has_table_privilege(%(account)s, c.oid, 'INSERT, UPDATE, DELETE')
             OR pg_catalog.has_any_column_privilege(%(account)s, c.oid, 'INSERT, UPDATE'))
      UNION ALL SELECT 'TRIGGER, REFERENCES or MAINTAIN on ' || c.oid::pg_catalog.regclass::pg_catalog.text
        FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        WHERE c.relowner <> %(role)s::pg_catalog.regrole AND NOT pg_catalog.starts_with(n.nspname, 'pg_')
        AND n.nspname <> 'information_schema' AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
        AND (pg_catalog.has_table_privilege(%(account)s, c.oid, %(upkeep)s)
             OR pg_catalog.has_any_column_privilege(%(account)s, c.oid, 'REFERENCES'))
      UNION ALL SELECT 'the rights of ' || r.rolname || ', of which it is a member'
        FROM pg_catalog.pg_auth_members a JOIN pg_catalog.pg_roles r ON r.oid = a.roleid
        WHERE a.member = %(role)s::pg_catalog.regrole
    ) found ORDER BY 1 LIMIT 20
"""


def reached(admin: Connection, account: str) -> list[str]:
    """Ways by which the account would act with others' rights, in words."""
    upkeep = "TRIGGER, REFERENCES" + (", MAINTAIN" if admin.info.server_version >= 170_000 else "")
    return _column(admin, _REACHED, account, upkeep=upkeep)


def owned(admin: Connection, account: str) -> list[str]:
    """What the account owns in this database, by name."""
    return _column(admin, _OWNED, account)


def give(admin: Connection, account: str, owner: str) -> HandedOver:
    """Disarm what the account owns, then reassign it, in one transaction."""
    with admin.transaction():
        made = owned(admin, account)
        bars = _pairs(admin, _BARS, account)
        if bars:
            return HandedOver((), tuple(f"{what} ({why}), and with it all that was made" for what, why in bars))
        changed = list(_disarm(admin, account))
        tied = admin.execute(_TIED.encode(), {**_who(account), "version": admin.info.server_version}).fetchall()
        old, new = sql.Identifier(account), sql.Identifier(owner)
        admin.execute(sql.SQL("REASSIGN OWNED BY {} TO {}").format(old, new))
        for name, kind, _ in tied:
            _execute(admin, f"ALTER {_ALTERED.get(str(kind), 'TABLE')} {name} OWNER TO ", old)
        names = {str(name) for name, _, _ in tied}
        kept = tuple(f"{name} ({why})" for name, _, why in tied)
        return HandedOver(tuple(name for name in made if name not in names), kept, tuple(changed))


_ALTERED = {"v": "VIEW", "m": "MATERIALIZED VIEW", "f": "FOREIGN TABLE"}


def _disarm(admin: Connection, account: str) -> Iterator[str]:
    for routine in _column(admin, _ROUTINES, account):
        _execute(admin, f"ALTER ROUTINE {routine} SECURITY INVOKER")
        yield f"{routine} is SECURITY INVOKER now"
    if admin.info.server_version >= _VIEWS_AS_INVOKER:
        for view in _column(admin, _VIEWS, account):
            _execute(admin, f"ALTER VIEW {view} SET (security_invoker = true)")
            yield f"{view} reads with its caller's rights now"
    members = sql.SQL(", ").join(sql.Identifier(name) for name in _column(admin, _MEMBERS, account))
    for kind, name in _pairs(admin, _GUARDED, account):
        _execute(admin, f"REVOKE ALL PRIVILEGES ON {kind} {name} FROM PUBLIC CASCADE")
        if members.as_string(admin):
            _execute(admin, f"REVOKE ALL PRIVILEGES ON {kind} {name} FROM ", members, " CASCADE")


def _execute(admin: Connection, *parts: "str | sql.Composable") -> None:
    """Names in a `str` were quoted by the server itself."""
    admin.execute(b"".join(part.encode() if isinstance(part, str) else part.as_bytes(admin) for part in parts))


def _who(account: str) -> dict[str, object]:
    return {"account": account, "role": sql.Identifier(account).as_string()}


def _column(admin: Connection, query: str, account: str, **values: object) -> list[str]:
    return [str(value) for (value,) in admin.execute(query.encode(), {**_who(account), **values})]


def _pairs(admin: Connection, query: str, account: str) -> Sequence[tuple[str, str]]:
    return [(str(one), str(other)) for one, other in admin.execute(query.encode(), _who(account))]
