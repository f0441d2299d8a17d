"""What lets a level of a PostgreSQL target do more than its group's privileges say: code and views of somebody else.

A SECURITY DEFINER routine runs with its owner's privileges, and PUBLIC may execute each new one. A view reads and
writes with its owner's unless it says `security_invoker`; it counts where it opens what the group may not use itself.
Both are often meant so, which is why they are named and are no failure.

Left out: what belongs to a role that the group is a member of, what lies in a schema that the group may not use, what
PostgreSQL brings, and what an extension brings as long as its privileges are those that the extension's script gave.
"""

from gateway.adapters.credentials.postgres import Connection
from gateway.app.doctor_ports import Finding
from gateway.core.target import Level

MOST = 20
_LONGEST = 500  # characters of a name: who may create there chooses it
# Below it is what initdb made (FirstNormalObjectId).
_FIRST_OID = 16384

_QUERY = """
WITH it AS (
  SELECT oid FROM pg_roles WHERE rolname = %(group)s
), usable AS (
  SELECT 'pg_proc'::regclass AS catalog, p.oid, 'EXECUTE ON ROUTINE' AS what, p.oid::regprocedure::text AS name,
    p.proowner AS owner, p.pronamespace AS namespace, p.proacl AS acl, acldefault('f', p.proowner) AS acl_at_first
  FROM pg_proc p, it WHERE p.prosecdef AND has_function_privilege(it.oid, p.oid, 'EXECUTE')
UNION ALL
  SELECT 'pg_class'::regclass, v.oid, 'ALL ON TABLE', v.oid::regclass::text,
    v.relowner, v.relnamespace, v.relacl, acldefault('r', v.relowner)
  FROM pg_class v, it WHERE v.relkind IN ('v', 'm') AND NOT EXISTS (
    SELECT FROM pg_options_to_table(v.reloptions) WHERE option_name = 'security_invoker' AND option_value::bool
  ) AND EXISTS (
    SELECT FROM pg_rewrite w
    JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = w.oid AND d.refclassid = 'pg_class'::regclass
    JOIN pg_class b ON b.oid = d.refobjid AND b.oid <> v.oid AND b.relkind IN ('r', 'p', 'v', 'm', 'f')
    CROSS JOIN (VALUES ('SELECT', 0), ('UPDATE', 4), ('INSERT', 8), ('DELETE', 16)) AS may (privilege, updatable)
    WHERE w.ev_class = v.oid
    AND (updatable = 0 OR updatable & pg_relation_is_updatable(v.oid, false) <> 0)
    AND CASE privilege WHEN 'DELETE' THEN has_table_privilege(it.oid, v.oid, privilege)
      ELSE has_any_column_privilege(it.oid, v.oid, privilege) END
    AND NOT (has_schema_privilege(it.oid, b.relnamespace, 'USAGE') AND CASE
      WHEN privilege = 'DELETE' THEN has_table_privilege(it.oid, b.oid, privilege)
      WHEN privilege = 'SELECT' AND d.refobjsubid <> 0
      THEN has_column_privilege(it.oid, b.oid, d.refobjsubid::smallint, privilege)
      ELSE has_any_column_privilege(it.oid, b.oid, privilege) END)
  )
)
SELECT what, name, owner::regrole::text, (
  SELECT string_agg(DISTINCT CASE grantee WHEN 0 THEN 'PUBLIC' ELSE grantee::regrole::text END, ', ')
  FROM (
    SELECT coalesce(acl, acl_at_first) AS granted
    UNION ALL SELECT attacl FROM pg_attribute WHERE catalog = 'pg_class'::regclass AND attrelid = usable.oid
  ) AS acls, aclexplode(granted)
  WHERE CASE grantee WHEN 0 THEN true ELSE pg_has_role(it.oid, grantee, 'MEMBER') END
) FROM usable, it
WHERE usable.oid >= %(first)s AND NOT pg_has_role(it.oid, owner, 'MEMBER')
AND has_schema_privilege(it.oid, namespace, 'USAGE')
AND NOT (
  EXISTS (SELECT FROM pg_depend e WHERE e.classid = catalog AND e.objid = usable.oid AND e.deptype = 'e')
  AND acl IS NOT DISTINCT FROM (
    SELECT initprivs FROM pg_init_privs i WHERE i.classoid = catalog AND i.objoid = usable.oid AND i.objsubid = 0
  )
)
ORDER BY what, name LIMIT %(limit)s
"""


def elevations(there: Connection, level: Level) -> Finding:
    """What the level's group may use in this database with the privileges of another; a warning when there is any."""
    rows = there.execute(_QUERY, {"group": level.account, "first": _FIRST_OID, "limit": MOST + 1}).fetchall()
    if not rows:
        return Finding("elevation", level.name, ok=True)
    named = [tuple(str(text)[:_LONGEST] for text in row) for row in rows[:MOST]]
    told = ", ".join(f"{name} of {owner}" for _, name, owner, _ in named) + (" …" if len(rows) > MOST else "")
    problem = f"{level.account} may use what runs with the privileges of its owner: {told}."
    revoke = (f"REVOKE {what} {name} FROM {to};" for what, name, _, to in named)
    others = "-- then GRANT it to those who need it. What is meant for this level may stay."
    return Finding("elevation", level.name, ok=True, problem=problem, remedy=(*revoke, others))
