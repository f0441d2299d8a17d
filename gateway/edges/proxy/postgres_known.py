"""What a session at a level with masks is told about its database before it begins: `Known`, by one query."""

from collections.abc import Iterator
from functools import lru_cache

import msgspec

from gateway.core.mask_lists import SAFE_FUNCTIONS
from gateway.core.masking import ColumnName, Known, Mask, Masks, Relation
from gateway.edges.proxy.postgres_ask import AskFailed, ask
from gateway.edges.proxy.postgres_leg import Leg
from gateway.wire.postgres_messages import HEADER

MOST_KNOWN = 1 << 24  # bytes of the answer: about 50,000 tables
_KEPT = 4  # answers, each for all sessions that get the same
# search_path is the person's, and so could a function in it be. Names are checked where the catalogue is read, and
# hold neither quotes nor backslashes.
_QUESTION = """
BEGIN; SET LOCAL search_path TO pg_catalog, pg_temp; SET LOCAL statement_timeout TO 10000;
WITH RECURSIVE asked(s, r) AS (VALUES {asked}),
unsafe AS (
    SELECT p.oid, p.proname, p.proargtypes FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang
    WHERE CASE WHEN p.oid < 16384 THEN NOT (p.provolatile = 'i' OR p.proname IN ({safe}))
        ELSE NOT (l.lanname IN ('internal', 'c') AND p.provolatile = 'i') END
),
odd AS (
    SELECT oid, proname, proargtypes FROM unsafe WHERE oid >= 16384
    UNION SELECT p.oid, p.proname, p.proargtypes FROM pg_proc p JOIN pg_aggregate a ON a.aggfnoid = p.oid
    WHERE p.oid >= 16384 AND EXISTS (SELECT FROM unsafe WHERE oid IN (a.aggtransfn, a.aggfinalfn, a.aggcombinefn,
        a.aggserialfn, a.aggdeserialfn, a.aggmtransfn, a.aggminvtransfn, a.aggmfinalfn))
),
odd_operators AS (
    SELECT o.oid, o.oprname FROM pg_operator o JOIN unsafe ON unsafe.oid = o.oprcode WHERE o.oid >= 16384
),
callable AS (
    SELECT p.proname,
        bool_and(p.oid < 16384 AND (p.provolatile = 'i' OR p.proname IN ({safe}))
            OR p.oid >= 16384 AND odd.oid IS NULL) AS anywhere,
        bool_and(p.provolatile = 'i' OR p.proname IN ({safe})) FILTER (WHERE p.oid < 16384) AS builtin
    FROM pg_proc p LEFT JOIN odd ON odd.oid = p.oid GROUP BY p.proname
),
rules AS (SELECT r.oid, r.ev_class, r.ev_action FROM pg_rewrite r WHERE r.ev_class >= 16384),
needs AS (
    SELECT r.ev_class, d.refclassid, d.refobjid FROM rules r
    JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid
),
statistics AS (
    SELECT c.oid FROM pg_class c WHERE c.relnamespace = 'pg_catalog'::regnamespace AND c.relname IN (
        'pg_statistic', 'pg_stats', 'pg_stats_ext', 'pg_stats_ext_exprs', 'pg_statistic_ext_data', 'pg_largeobject',
        'pg_stat_activity')
),
seeds(oid) AS (
    SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    JOIN asked ON n.nspname = asked.s AND c.relname = asked.r
    UNION SELECT oid FROM pg_class WHERE relkind = 'f'
    UNION SELECT ev_class FROM needs WHERE refclassid = 'pg_proc'::regclass AND refobjid IN (SELECT oid FROM odd)
    UNION SELECT ev_class FROM needs
    WHERE refclassid = 'pg_operator'::regclass AND refobjid IN (SELECT oid FROM odd_operators)
    UNION SELECT r.ev_class FROM rules r, LATERAL (SELECT r.ev_action::text AS tree OFFSET 0) t
    WHERE EXISTS (SELECT FROM statistics s WHERE strpos(t.tree, ':relid ' || s.oid || ' ') > 0)
),
edges(source, reader) AS (
    SELECT refobjid, ev_class FROM needs WHERE refclassid = 'pg_class'::regclass AND refobjid <> ev_class
    UNION SELECT inhparent, inhrelid FROM pg_inherits UNION SELECT inhrelid, inhparent FROM pg_inherits
),
blocked(oid) AS (
    SELECT oid FROM seeds UNION SELECT e.reader FROM edges e JOIN blocked b ON b.oid = e.source
)
SELECT json_build_object(
    'relations', (SELECT json_agg(json_build_array(c.oid::int8, n.nspname, c.relname, b.oid IS NOT NULL,
        (SELECT coalesce(json_object_agg(a.attname, a.attnum), '{{}}') FROM pg_attribute a
         WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped)))
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace LEFT JOIN blocked b ON b.oid = c.oid
        WHERE c.oid >= 16384 AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND n.nspname !~ '^pg_'),
    'functions', (SELECT json_agg(proname) FROM callable WHERE anywhere),
    'builtins', (SELECT json_agg(proname) FROM callable WHERE builtin AND NOT anywhere),
    'odd_functions', (SELECT json_agg(DISTINCT odd.proname) FROM odd, unnest(odd.proargtypes) arg
        JOIN pg_type t ON t.oid = arg WHERE t.typtype IN ('c', 'd', 'p')),
    'odd_operators', (SELECT json_agg(DISTINCT oprname) FROM odd_operators));
ROLLBACK
"""


class MasksUnsure(Exception):
    """What is masked cannot be found in the database. The text is for the person."""


class _Answer(msgspec.Struct):
    relations: list[tuple[int, str, str, bool, dict[str, int]]] | None
    functions: list[str]
    builtins: list[str] | None
    odd_functions: list[str] | None
    odd_operators: list[str] | None


async def learn(leg: Leg, masks: Masks) -> Known:
    """Ask on a fresh session; MasksUnsure when there is no answer, or a masked column is not there."""
    try:
        answer = await ask(leg, question(masks), MOST_KNOWN)
    except AskFailed as why:
        raise MasksUnsure(f"The database does not say what its tables are made of: {why}.") from why
    return known_of(_only_row(answer), tuple(sorted(masks.items())))


def question(masks: Masks) -> str:
    """The SQL, for the tables of these columns."""
    asked = sorted({(name.schema, name.table) for name in masks})
    safe = ", ".join(f"'{name}'" for name in sorted(SAFE_FUNCTIONS))
    return _QUESTION.format(asked=", ".join(f"('{schema}', '{table}')" for schema, table in asked), safe=safe)


@lru_cache(maxsize=_KEPT)
def known_of(row: bytes, masks: tuple[tuple[ColumnName, Mask], ...]) -> Known:
    """What the answer says; MasksUnsure."""
    try:
        answer = msgspec.json.decode(row, type=_Answer)
    except msgspec.DecodeError as why:
        raise MasksUnsure("The database does not say what its tables are made of.") from why
    relations = tuple(_relation(each, dict(masks)) for each in answer.relations or ())
    there = {ColumnName(r.schema, r.name, column) for r in relations for column in r.columns}
    for name, _ in masks:
        if name not in there:
            raise MasksUnsure(f"The catalogue masks {'.'.join(name)}, which the database does not have.")
    return Known(
        relations,
        frozenset(answer.functions),
        frozenset(answer.builtins or ()),
        frozenset(answer.odd_functions or ()),
        frozenset(answer.odd_operators or ()),
    )


def _relation(told: tuple[int, str, str, bool, dict[str, int]], masks: Masks) -> Relation:
    oid, schema, name, is_blocked, columns = told
    own = {each.column: mask for each, mask in masks.items() if (each.schema, each.table) == (schema, name)}
    return Relation(oid, schema, name, columns, own, is_blocked=is_blocked and not own)


def _only_row(answer: bytes) -> bytes:
    """The value in the only column of the only row."""
    for kind, body in _messages(answer):
        if kind == ord("D"):
            return body[6:]
    raise MasksUnsure("The database does not say what its tables are made of.")


def _messages(stream: bytes) -> Iterator[tuple[int, bytes]]:
    pos = 0
    while pos < len(stream):
        kind, length = HEADER.unpack_from(stream, pos)
        yield kind, stream[pos + 5 : pos + 1 + length]
        pos += 1 + length
