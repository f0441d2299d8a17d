"""Migrations by a pipeline on a real PostgreSQL: the schema changes, the data stays unseen."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from tests.e2e.deploy_stage import DeployStage, deploy_stage
from tests.e2e.stage import wait_for
from tests.servers import PostgresServer

pytestmark = pytest.mark.servers
SECRET = "ada@example.org"


@dataclass
class Migrations:
    stage: DeployStage
    server: PostgresServer
    database: str
    migrate: str
    owner: str
    broker: str

    def run(self, sql: str, *, verb: str = "migrate", status: int | None = 0, run: str = "1.1") -> str:
        token = self.stage.job(targets=("orders-db",), verbs=("migrate", "index", "alter"), run=run)
        done = self.stage.gw(token, "deploy", verb, "orders-db", "--file", "-", stdin=sql, status=status)
        return done.stdout + done.stderr

    def ask(self, query: str) -> list[tuple[object, ...]]:
        with psycopg.connect(self.server.url(self.database), autocommit=True) as connection:
            return connection.execute(query.encode()).fetchall()

    def do(self, statements: str) -> None:
        self.server.execute(statements, self.database)

    def owner_of(self, table: str) -> str:
        return str(self.ask(f"SELECT tableowner FROM pg_tables WHERE tablename = '{table}'")[0][0])

    def roles_left(self) -> list[str]:
        return [str(name) for (name,) in self.ask("SELECT rolname FROM pg_roles WHERE rolname LIKE 'gw\\_migrate%'")]


@pytest.fixture
def db(tmp_path: Path, postgres_server: PostgresServer) -> Iterator[Migrations]:
    """A database with a broker that is no superuser, an owner, and a group for migrations."""
    database = postgres_server.create_database()
    migrate, owner, broker = f"{database}_migrate", f"{database}_owner", f"{database}_broker"
    postgres_server.execute(f"CREATE ROLE {owner}; CREATE ROLE {migrate}")
    postgres_server.execute(f"CREATE ROLE {broker} LOGIN CREATEROLE PASSWORD 'broker'")
    # The broker hands out these roles and has none of their rights itself, as docs/deploy.md asks for.
    postgres_server.execute(f"GRANT {owner}, {migrate} TO {broker} WITH ADMIN TRUE, INHERIT FALSE, SET TRUE")
    postgres_server.execute(
        f"GRANT pg_signal_backend TO {broker}; ALTER ROLE {broker} SET createrole_self_grant = 'set, inherit'"
    )
    postgres_server.execute(
        f"GRANT USAGE, CREATE ON SCHEMA public TO {migrate}, {owner};"
        f"CREATE TABLE customers (id int PRIMARY KEY, email text); ALTER TABLE customers OWNER TO {owner};"
        f"INSERT INTO customers VALUES (1, '{SECRET}')",
        database,
    )
    dsn = tmp_path / "orders.dsn"
    dsn.write_text(postgres_server.url(database, broker, "broker"))
    dsn.chmod(0o600)
    extra = f"""\
  orders-db:
    kind: postgres
    service: orders
    environment: production
    host: {postgres_server.host}
    port: {postgres_server.port}
    database: {database}
    admin_dsn_file: {dsn}
    tls: disable
    levels: {{admin: {{account: {owner}}}}}
    verbs:
      migrate: {{account: {migrate}, owner: {owner}, timeout: 20s}}
      alter: {{account: {owner}, owner: {owner}, timeout: 20s}}
      index: {{account: {migrate}, owner: {owner}, timeout: 20s, in_transaction: false}}
"""
    with deploy_stage(tmp_path, extra=extra) as stage:
        yield Migrations(stage, postgres_server, database, migrate, owner, broker)
    postgres_server.drop_database(database)
    for role in (broker, migrate, owner):
        postgres_server.execute(f"DROP OWNED BY {role} CASCADE; DROP ROLE {role}")


def test_a_migration_makes_tables_and_leaves_them_to_their_owner(db: Migrations) -> None:
    said = db.run("CREATE TABLE refunds (id int PRIMARY KEY); CREATE INDEX ON refunds (id); CREATE SEQUENCE s")
    assert "[orders-db] CREATE TABLE" in said
    assert "[orders-db] COMMIT" in said
    assert db.owner_of("refunds") == db.owner
    assert db.roles_left() == []
    # Filled meanwhile, it is as closed to the next migration as everything else.
    db.ask("INSERT INTO refunds VALUES (7) RETURNING id")
    assert "permission denied" in db.run("SELECT * FROM refunds", run="2.1", status=3)
    handed = db.stage.events("deploy:handed-over")[0]["data"]
    assert "public.refunds" in handed["objects"]
    started = db.stage.events("deploy:started")[-1]["data"]
    assert len(started["input_sha256"]) == 64
    assert db.stage.events("session:started")[-1]["data"]["protocol"] == "postgres"


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT email FROM customers",
        "COPY customers TO STDOUT",
        "CREATE TABLE loot AS SELECT * FROM customers",
        "CREATE VIEW v AS SELECT * FROM customers; SELECT * FROM v",
        "DO $$ DECLARE e text; BEGIN SELECT email INTO e FROM customers; RAISE NOTICE '%', e; END $$",
        "ALTER TABLE customers ADD COLUMN x text DEFAULT 'y'",
        "CREATE INDEX ON customers ((email))",
        "DELETE FROM customers",
        "GRANT SELECT ON customers TO PUBLIC",
        "RESET ROLE; SELECT email FROM customers",
        "CREATE FUNCTION f() RETURNS text LANGUAGE sql SECURITY DEFINER AS 'SELECT email FROM customers'; SELECT f()",
        "CREATE ROLE me LOGIN SUPERUSER",
    ],
)
def test_what_it_may_not(db: Migrations, sql: str) -> None:
    said = db.run(sql, status=3)
    assert SECRET not in said
    assert db.ask("SELECT count(*) FROM customers") == [(1,)]
    assert db.roles_left() == []
    assert not db.ask("SELECT 1 FROM pg_tables WHERE tablename = 'loot'")


def test_an_owner_that_may_not_read_alters_what_is_there(db: Migrations) -> None:
    """The limits of this are told in docs/deploy.md: it can give itself the right to read, in so many words."""
    assert "may read public.customers" in db.run("ALTER TABLE customers ADD COLUMN x int", verb="alter", status=1)
    db.do(f"REVOKE SELECT ON ALL TABLES IN SCHEMA public FROM {db.owner}")
    db.run("ALTER TABLE customers ADD COLUMN x int; CREATE TABLE more (id int)", verb="alter", run="2.1")
    for number, sql in enumerate(
        ("SELECT email FROM customers", "UPDATE customers SET x = 1 WHERE email > 'a'", "TABLE more")
    ):
        said = db.run(sql, verb="alter", run=f"{number}.2", status=3)
        assert "permission denied" in said
    assert db.owner_of("more") == db.owner


def test_rows_reach_nobody_even_where_they_are_readable(db: Migrations) -> None:
    said = db.run("CREATE TABLE notes (text text); INSERT INTO notes VALUES ('for my eyes'); SELECT * FROM notes")
    assert "for my eyes" not in said
    assert "(1 rows, not shown)" in said


def test_a_role_that_may_read_is_refused_before_anything_runs(db: Migrations) -> None:
    db.do(f"GRANT SELECT (id) ON customers TO {db.migrate}")
    said = db.run("CREATE TABLE t (id int)", status=1)
    assert f"{db.migrate} may read public.customers" in said
    assert not db.ask("SELECT 1 FROM pg_tables WHERE tablename = 't'")
    db.do(f"REVOKE SELECT (id) ON customers FROM {db.migrate}; GRANT SELECT ON customers TO PUBLIC")
    assert "may read public.customers" in db.run("CREATE TABLE t (id int)", status=1, run="2.1")


def test_a_script_that_fails_leaves_nothing(db: Migrations) -> None:
    said = db.run("CREATE TABLE half (id int); SELECT 1/0", status=3)
    assert "division by zero (SQLSTATE 22012)" in said
    assert not db.ask("SELECT 1 FROM pg_tables WHERE tablename = 'half'")
    shown = db.stage.json("oncall", "deploy", "show", db.stage.json("oncall", "deploy", "history")[0]["run"])
    assert shown["state"] == "failed"
    replayed = db.stage.gw("lead", "session", "replay", "--statements", shown["steps"][0]["session"]).stdout
    assert "CREATE TABLE half" in replayed


def test_a_statement_outside_of_a_transaction(db: Migrations) -> None:
    db.run("VACUUM", status=3)
    db.run("CREATE TABLE big (id int)", run="2.1")
    assert "cannot run inside a transaction" in db.run("CREATE INDEX CONCURRENTLY ON big (id)", run="3.1", status=3)
    said = db.run("VACUUM", verb="index", run="4.1")
    assert "[orders-db] VACUUM" in said


def test_a_cancelled_migration_ends_and_its_role_goes(db: Migrations) -> None:
    token = db.stage.job(targets=("orders-db",), verbs=("migrate",))
    script = db.stage.directory / "long.sql"
    script.write_text("SELECT pg_sleep(60)")
    caller = db.stage.begin(token, "deploy", "migrate", "orders-db", "--file", str(script))
    wait_for("the script to run", lambda: db.ask("SELECT 1 FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%'"))
    run = db.stage.json("oncall", "deploy", "history")[0]
    db.stage.gw("lead", "deploy", "cancel", run["run"])
    caller.communicate(timeout=30)
    assert caller.returncode != 0
    assert db.stage.json("oncall", "deploy", "show", run["run"])["state"] == "cancelled"
    assert db.roles_left() == []


def test_input_is_needed_and_bounded(db: Migrations) -> None:
    db.run("", status=3)
    db.run("-- " + "x" * 300_000, status=3)


# ---------------------------------------------------------------- ends and bounds

UNENDING = (
    "SET statement_timeout = 0; DO $$ BEGIN LOOP BEGIN PERFORM pg_sleep(3600); "
    "EXCEPTION WHEN query_canceled THEN NULL; END; END LOOP; END $$"
)


def test_a_script_that_catches_its_cancelling_is_terminated(db: Migrations) -> None:
    token = db.stage.job(targets=("orders-db",), verbs=("migrate",))
    script = db.stage.directory / "unending.sql"
    script.write_text(UNENDING)
    caller = db.stage.begin(token, "deploy", "migrate", "orders-db", "--file", str(script))
    mine = "SELECT 1 FROM pg_stat_activity WHERE usename LIKE 'gw\\_migrate%' AND wait_event = 'PgSleep'"
    wait_for("the script to run", lambda: db.ask(mine))
    run = db.stage.json("oncall", "deploy", "history")[0]
    db.stage.gw("lead", "deploy", "cancel", run["run"])
    caller.communicate(timeout=40)
    shown = db.stage.json("oncall", "deploy", "show", run["run"])
    assert shown["state"] == "cancelled"
    assert not db.ask(mine)
    assert db.roles_left() == []
    assert "CREATE TABLE" in db.run("CREATE TABLE t (id int)", run="2.1")  # the lock is free


def test_rows_are_not_kept_in_memory(db: Migrations) -> None:
    """A quarter of a gigabyte of rows passes through; the gateway's highest use of memory stays where it was."""
    db.run("SELECT 1")
    assert db.stage.process is not None
    before = _peak_mib(db.stage.process.pid)
    said = db.run("SELECT repeat('x', 1000000) FROM generate_series(1, 250)", run="2.1")
    assert "(250 rows, not shown)" in said
    assert _peak_mib(db.stage.process.pid) - before < 60


def _peak_mib(pid: int) -> int:
    """The highest of the process and its children."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    status = [Path(f"/proc/{each}/status").read_text() for each in (str(pid), *children)]
    return sum(int(text.partition("VmHWM:")[2].split()[0]) for text in status) // 1024


def test_copy_gives_and_takes_nothing_and_notices_are_bounded(db: Migrations) -> None:
    said = db.run("CREATE TABLE n (t text); INSERT INTO n VALUES ('for my eyes'); COPY n TO STDOUT")
    assert "COPY 1 (1 rows, not shown)" in said
    assert "for my eyes" not in said
    assert "brings no data" in db.run("CREATE TABLE m (t text); COPY m FROM STDIN", run="2.1", status=3)
    said = db.run("DO $$ BEGIN FOR i IN 1..10050 LOOP RAISE NOTICE 'n'; END LOOP; END $$", run="3.1")
    assert said.count("NOTICE: n") == 10_000
    assert "the rest is left out" in said
    assert len(db.run("DO $$ BEGIN RAISE NOTICE '%', repeat('x', 50000); END $$", run="4.1")) < 6000


# ---------------------------------------------------------------- what one migration leaves for the next

PEEK = (
    "CREATE FUNCTION public.peek() RETURNS text LANGUAGE plpgsql SECURITY DEFINER AS "
    "'BEGIN DELETE FROM public.customers WHERE false; RETURN (SELECT string_agg(email, chr(44)) FROM public.customers); END'"
)
SAY = "CREATE FUNCTION public.say(t text) RETURNS void LANGUAGE plpgsql AS 'BEGIN RAISE NOTICE ''%'', t; END'"
RULED = (
    f"CREATE TABLE public.tick (n int); {SAY}; CREATE RULE r AS ON INSERT TO public.tick "
    "DO ALSO SELECT public.say(email) FROM public.customers; GRANT INSERT ON public.tick TO PUBLIC"
)


def test_a_definer_routine_does_not_run_as_the_owner(db: Migrations) -> None:
    said = db.run(PEEK)
    assert "peek() is SECURITY INVOKER now" in said
    assert db.ask("SELECT prosecdef, pg_get_userbyid(proowner) FROM pg_proc WHERE proname = 'peek'") == [
        (False, db.owner)
    ]
    said = db.run("DO $$ BEGIN RAISE NOTICE '%', public.peek(); END $$", run="2.1", status=3)
    assert "permission denied" in said
    assert SECRET not in said
    handed = db.stage.events("deploy:handed-over")
    assert [each["outcome"] for each in handed] == ["ok", "attempt"]  # newest first
    assert handed[0]["data"]["changed"] == ["public.peek() is SECURITY INVOKER now"]


def test_a_table_with_a_rule_is_not_handed_over(db: Migrations) -> None:
    said = db.run(RULED, status=1)
    assert "not handed over: public.tick (it has a rewrite rule)" in said
    assert db.owner_of("tick") == db.migrate
    said = db.run("INSERT INTO public.tick VALUES (1)", run="2.1", status=1)
    assert "may read public.tick" in said
    assert SECRET not in said
    assert db.stage.events("deploy:handed-over")[0]["data"]["kept"] == ["public.tick (it has a rewrite rule)"]


def test_a_view_works_for_who_may_and_lends_nobody_its_owners_rights(db: Migrations) -> None:
    db.run(
        "CREATE VIEW public.v AS SELECT * FROM public.customers; GRANT DELETE, SELECT ON public.v TO PUBLIC;"
        "GRANT SELECT (email) ON public.v TO PUBLIC"
    )
    assert db.ask("SELECT email FROM public.v") == [(SECRET,)]
    for number, sql in enumerate(("DELETE FROM public.v", "SELECT email FROM public.v"), 2):
        assert "permission denied" in db.run(sql, run=f"{number}.1", status=3)
    db.do(f"GRANT DELETE ON v TO {db.migrate}")
    assert "INSERT, UPDATE or DELETE on public.v" in db.run("DELETE FROM public.v", run="5.1", status=1)
    assert db.ask("SELECT count(*) FROM customers") == [(1,)]


def test_what_a_migration_grants_to_everybody_is_taken_back_and_to_others_stays(db: Migrations) -> None:
    db.do(f"CREATE ROLE {db.database}_app")
    try:
        db.run(
            f"CREATE TABLE public.t (id int); GRANT ALL ON public.t TO PUBLIC; GRANT INSERT ON public.t TO {db.database}_app;"
            "ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO PUBLIC; CREATE TABLE public.u (id int)"
        )
        allowed = "SELECT has_table_privilege('{}', '{}', 'INSERT')"
        assert db.ask(allowed.format(f"{db.database}_app", "public.t")) == [(True,)]
        for table in ("public.t", "public.u"):
            assert db.ask(allowed.format(db.migrate, table)) == [(False,)]
    finally:
        db.do(f"DROP OWNED BY {db.database}_app; DROP ROLE {db.database}_app")


@pytest.mark.parametrize(
    "tie",
    [
        "CREATE INDEX ON public.w (public.f(n))",
        "CREATE INDEX ON public.w (n) WHERE public.f(n) > 0",
        "CREATE STATISTICS public.st ON (public.f(n)), n FROM public.w",
        "CREATE DOMAIN public.d AS int CHECK (public.f(VALUE) > 0); CREATE INDEX ON public.w ((n::public.d))",
        "CREATE OPERATOR public.!! (RIGHTARG = int, FUNCTION = public.f); CREATE INDEX ON public.w ((!! n))",
    ],
)
def test_analyze_runs_nothing_of_a_migration_as_the_owner(db: Migrations, tie: str) -> None:
    """Autovacuum would, on its own."""
    f = (
        "CREATE FUNCTION public.f(n int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS 'BEGIN IF current_user = "
        f"''{db.owner}'' THEN RAISE EXCEPTION ''as the owner''; END IF; RETURN n; END'; CREATE TABLE public.w (n int); "
        "INSERT INTO public.w SELECT generate_series(1, 100); "
    )
    said = db.run(f + tie, status=1)
    assert "not handed over: public.w (ANALYZE" in said
    db.do("ANALYZE public.w")


def test_an_index_with_built_in_functions_is_handed_over(db: Migrations) -> None:
    db.run("CREATE TABLE x (n text, g text GENERATED ALWAYS AS (lower(n)) STORED); CREATE INDEX ON x (lower(n))")
    assert db.owner_of("x") == db.owner


def test_a_range_with_a_function_of_its_own_bars_the_hand_over(db: Migrations) -> None:
    said = db.run(
        "CREATE FUNCTION public.df(a int, b int) RETURNS float8 IMMUTABLE LANGUAGE sql AS 'SELECT 1.0::float8';"
        "CREATE TYPE public.r AS RANGE (SUBTYPE = int, SUBTYPE_DIFF = public.df); CREATE TABLE public.z (a public.r)",
        status=1,
    )
    assert "not handed over: public.r (ANALYZE" in said
    assert db.owner_of("z") == db.migrate


@pytest.mark.parametrize(
    ("planted", "named"),
    [
        (f"{PEEK}; ALTER FUNCTION peek() OWNER TO {{owner}}", "the SECURITY DEFINER function public.peek()"),
        (f"{RULED}; ALTER TABLE tick OWNER TO {{owner}}", "INSERT, UPDATE or DELETE on public.tick"),
        ("GRANT TRIGGER ON customers TO {migrate}", "TRIGGER, REFERENCES or MAINTAIN on public.customers"),
        ("GRANT REFERENCES (id) ON customers TO PUBLIC", "TRIGGER, REFERENCES or MAINTAIN on public.customers"),
        ("CREATE ROLE {migrate}_x; GRANT {migrate}_x TO {migrate} WITH INHERIT FALSE", "the rights of {migrate}_x"),
    ],
)
def test_what_was_planted_earlier_is_named_before_anything_runs(db: Migrations, planted: str, named: str) -> None:
    db.do(planted.format(owner=db.owner, migrate=db.migrate))
    try:
        said = db.run("CREATE TABLE t (id int)", status=1)
        assert named.format(migrate=db.migrate) in said
        assert not db.ask("SELECT 1 FROM pg_tables WHERE tablename = 't'")
    finally:
        db.do(f"DROP ROLE IF EXISTS {db.migrate}_x")
