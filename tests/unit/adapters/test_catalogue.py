import contextlib
import re
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.adapters.catalogue import CatalogueFile, read_catalogue
from gateway.adapters.yaml_source import MAX_BYTES, SourceError
from gateway.core.bind_parameters import BindParameters
from gateway.core.budget import Budget, Room
from gateway.core.dry_run import Confirm, DryRun
from gateway.core.masking import ColumnName, Mask
from gateway.core.statement_rules import StatementRules
from gateway.core.target import Kind

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJqGfWkC1kpqDSBq8ZUQ0i4vbJ1rOnH6kJX0vUb3rQ9k"
GOOD = f"""\
version: 1
services:
  orders:
    owners: [lead]
    description: The shop's orders
targets:
  orders-db:
    kind: postgres
    service: orders
    environment: production
    host: 10.0.0.5
    port: 5432
    database: orders
    admin_dsn_file: secrets/orders.dsn
    levels:
      read: {{account: orders_read, statement_timeout: 5m, connection_limit: 3}}
      admin: {{account: orders_admin}}
  web-1:
    kind: ssh
    service: orders
    environment: production
    host: web-1.internal
    port: 22
    owners: [ops]
    labels: [web]
    host_keys: ["{KEY}"]
    levels:
      shell: {{account: deploy}}
"""


def read(text: str):
    return read_catalogue(text.encode(), Path("/etc/gw/catalogue.yaml"))


def test_a_whole_catalogue():
    catalogue = read(GOOD)
    db, web = catalogue.targets["orders-db"], catalogue.targets["web-1"]
    assert (db.kind, db.host, db.port, db.database, db.tls) == (
        Kind.POSTGRES,
        "10.0.0.5",
        5432,
        "orders",
        "verify-full",
    )
    assert db.admin_dsn_file == "/etc/gw/secrets/orders.dsn"
    assert db.owners == ("lead",)
    assert [(x.name, x.account, x.rank) for x in db.levels.values()] == [
        ("read", "orders_read", 0),
        ("admin", "orders_admin", 1),
    ]
    assert db.levels["read"].statement_timeout == timedelta(minutes=5)
    assert db.levels["read"].connection_limit == 3
    assert web.host_keys == (KEY,)
    assert web.owners == ("ops",)
    assert web.labels == {"web"}
    assert len(catalogue.version) == 64


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("version: 1", "version: 2", "catalogue.yaml:1: version: must be a number from 1 to 1"),
        ("version: 1\n", "", "catalogue.yaml:1: version is missing"),
        ("kind: postgres", "kind: mysql", "catalogue.yaml:8: targets.orders-db.kind: must be postgres or ssh"),
        ("service: orders\n    environment: production\n    host: 10", "service: x\n    environment: production\n    host: 10",
         "catalogue.yaml:9: targets.orders-db.service: must be orders, not 'x'"),
        ("port: 5432", "port: 0", "catalogue.yaml:12: targets.orders-db.port: must be a number"),
        ("port: 5432", "port: '5432'", "catalogue.yaml:12: targets.orders-db.port: must be a number"),
        ("host: 10.0.0.5", "host: -oProxyCommand=x", "catalogue.yaml:11: targets.orders-db.host: .* not a host name"),
        ("host: 10.0.0.5", "host: ''", "not a host name"),
        ("account: orders_admin", "acount: orders_admin", "catalogue.yaml:17: targets.orders-db.levels.admin.acount: unknown key"),
        ("{account: orders_admin}", "{}", "catalogue.yaml:17: targets.orders-db.levels.admin: account is missing"),
        ("account: deploy", "account: ''", "targets.web-1.levels.shell.account: '' is not the name of a login"),
        ("account: deploy", "account: 'a,root'", "is not the name of a login"),
        ("account: deploy", "account:", "must be text"),
        (f'host_keys: ["{KEY}"]', "host_keys: []", "targets.web-1.host_keys: must not be empty"),
        (f'    host_keys: ["{KEY}"]\n', "", "targets.web-1: host_keys is missing"),
        (KEY, "ssh-ed25519 AAAA", r"targets.web-1.host_keys\[0\]: is not an OpenSSH public key"),
        ("  web-1:", "  orders-db:", "catalogue.yaml:18: targets.orders-db: appears twice"),
        ("  web-1:", "  'web 1':", "is not a name"),
        ("  web-1:", "  Web-1:", "lower case"),
        ("labels: [web]", "labels: &a [web]", "aliases and anchors"),
        ("labels: [web]", "labels: *a", "aliases and anchors"),
        ("labels: [web]", "labels: !!python/name:os.system []", "tags are not used"),
        ("labels: [web]", "labels: [", "catalogue.yaml:"),
        ("database: orders\n", "database: orders\n    tls: disable\n", "disable is for loopback addresses only"),
        ("connection_limit: 3", "force_command: ls", "unknown key"),
        ("environment: production\n    host: 10", "environment: prod\n    host: 10", "must be development or staging or production"),
    ],
)  # fmt: skip
def test_a_fault_is_told_with_file_line_and_key(old: str, new: str, said: str):
    assert old in GOOD
    with pytest.raises(SourceError, match=said):
        read(GOOD.replace(old, new, 1))


def test_bombs_are_refused():
    bomb = "a: &a [x,x]\n" + "".join(f"{b}: &{b} [*{a},*{a}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True))
    for text in (bomb, "[" * 100_000, "{a: " * 5000, "- " * 5000 + "x", "", "---\na: 1\n---\nb: 2\n", "\x00", "\t- a"):
        with pytest.raises(SourceError, match=r"catalogue\.yaml"):
            read(text)


def test_a_large_file_is_refused(tmp_path: Path):
    path = tmp_path / "catalogue.yaml"
    path.write_bytes(b"#" * (MAX_BYTES + 1))
    with pytest.raises(SourceError, match="larger than"):
        CatalogueFile(path)


def test_a_broken_reload_keeps_the_old(tmp_path: Path):
    path = tmp_path / "catalogue.yaml"
    path.write_text(GOOD)
    source = CatalogueFile(path)
    before = source.current()
    path.write_text(GOOD.replace("kind: ssh", "kind: telnet"))
    why = source.reload()
    assert why is not None
    assert "catalogue.yaml:19: targets.web-1.kind" in why
    path.unlink()
    assert source.reload() is not None
    assert source.current() is before
    path.write_text(GOOD.replace("port: 22", "port: 2222"))
    assert source.reload() is None
    assert source.current().targets["web-1"].port == 2222
    now = source.current()
    assert source.reload() is None
    assert source.current() is now


@settings(max_examples=300)
@given(st.integers(0, len(GOOD)), st.integers(0, 30), st.text(max_size=8))
def test_mangled_text_never_raises_anything_else(start: int, length: int, junk: str):
    text = GOOD[:start] + junk + GOOD[start + length :]
    with contextlib.suppress(SourceError):
        read_catalogue(text.encode("utf-8", "surrogatepass"), Path("/etc/gw/catalogue.yaml"))


@given(st.binary(max_size=200))
def test_any_bytes_never_raise_anything_else(content: bytes):
    with contextlib.suppress(SourceError):
        read_catalogue(content, Path("/etc/gw/catalogue.yaml"))


GUARDED = """
version: 1
services: {orders: {}}
targets:
  orders-db:
    kind: postgres
    service: orders
    environment: production
    host: db-1.internal
    port: 5432
    database: orders
    admin_dsn_file: orders.dsn
    levels:
      write:
        account: orders_write
        budget: {statement: {rows: 1000, bytes: 1000000, time: 30s}, session: {rows: 5000}}
        rules: {require_where: true, deny_functions: ["pg_read_*"], unparsed: forward}
        bind_parameters: masked
"""


def test_budgets_and_statement_rules(tmp_path: Path) -> None:
    read = read_catalogue(GUARDED.encode(), tmp_path / "catalogue.yaml")
    level = read.targets["orders-db"].levels["write"]
    assert level.budget == Budget(Room(1000, 1_000_000, timedelta(seconds=30)), Room(5000))
    assert level.bind_parameters is BindParameters.MASKED
    assert level.rules == StatementRules(require_where=True, deny_functions=("pg_read_*",), forward_unparsed=True)


@pytest.mark.parametrize(
    ("good", "bad", "why"),
    [
        ("budget: {statement", "budget: {everything", "everything"),
        ("rows: 1000,", "rows: -1,", "rows"),
        ("time: 30s", "time: soon", "time"),
        ("session: {rows: 5000}", "session: {}", "must limit something"),
        ("require_where: true", "require_where: maybe", "require_where"),
        ("pg_read_*", "pg_catalog.pg_read_file", "without its schema"),
        ("unparsed: forward", "unparsed: perhaps", "unparsed"),
        ("bind_parameters: masked", "bind_parameters: some", "must be full or masked or none"),
        ('require_where: true, deny_functions: ["pg_read_*"], unparsed: forward', "unparsed: deny", "has no rule"),
        ('require_where: true, deny_functions: ["pg_read_*"], unparsed: forward', "", "has no rule"),
    ],
)
def test_budgets_and_rules_that_make_no_sense(tmp_path: Path, good: str, bad: str, why: str) -> None:
    assert good in GUARDED
    with pytest.raises(SourceError, match=re.escape(why)):
        read_catalogue(GUARDED.replace(good, bad).encode(), tmp_path / "catalogue.yaml")


MASKED = GUARDED.replace(
    '        rules: {require_where: true, deny_functions: ["pg_read_*"], unparsed: forward}\n',
    "        rules: {require_where: true, unparsed: deny}\n"
    "        masks: {public.customers.email: last4, public.customers.note: null, sales.Größe$1.x: hash, public.customers.phone: full}\n",
)


def test_masks(tmp_path: Path) -> None:
    level = read_catalogue(MASKED.encode(), tmp_path / "catalogue.yaml").targets["orders-db"].levels["write"]
    assert level.masks == {
        ColumnName("public", "customers", "email"): Mask.LAST4,
        ColumnName("public", "customers", "note"): Mask.NULL,
        ColumnName("public", "customers", "phone"): Mask.FULL,
        ColumnName("sales", "Größe$1", "x"): Mask.HASH,
    }


@pytest.mark.parametrize(
    ("good", "bad", "why"),
    [
        ("email: last4", "email: last5", "full or last4 or hash or null"),
        ("public.customers.email", "customers.email", "schema.table.column"),
        ("public.customers.email", "db.public.customers.email", "schema.table.column"),
        ("public.customers.email", "public.customers.e-mail", "schema.table.column"),
        ("public.customers.email", "public.customers." + "x" * 64, "schema.table.column"),
        ("public.customers.email", "pg_catalog.pg_class.relname", "PostgreSQL's own"),
        ("public.customers.email", "public.customers.phone", "appears twice"),
        ("unparsed: deny", "unparsed: forward", "leave out unparsed: forward"),
        ("{public.customers.email: last4, public.customers.note: null, sales.Größe$1.x: hash, public.customers.phone: full}", "{}", "must mask a column"),
        ("kind: postgres", "kind: ssh", "unknown key"),
    ],
)  # fmt: skip
def test_masks_that_make_no_sense(tmp_path: Path, good: str, bad: str, why: str) -> None:
    assert good in MASKED
    with pytest.raises(SourceError, match=re.escape(why)):
        read_catalogue(MASKED.replace(good, bad).encode(), tmp_path / "catalogue.yaml")


def test_replication_goes_with_nothing_that_it_would_pass_by(tmp_path: Path) -> None:
    for key in ("budget", "rules"):
        text = re.sub(rf"(?m)^( *)(?!{key})(budget|rules): .*$", r"\1replication: true", GUARDED)
        with pytest.raises(SourceError, match=f"a level with {key} cannot let replication pass"):
            read_catalogue(text.encode(), tmp_path / "catalogue.yaml")
    for told in ("true", "false"):
        text = re.sub(r"(?m)^ *budget: .*\n", "", GUARDED)
        text = re.sub(r"(?m)^( *)rules: .*$", rf"\1replication: {told}", text)
        (level,) = read_catalogue(text.encode(), tmp_path / "catalogue.yaml").targets["orders-db"].levels.values()
        assert level.replication is (told == "true")


DRY = GUARDED.replace("unparsed: forward}\n", "unparsed: forward}\n        dry_run: approver\n")


@pytest.mark.parametrize(
    ("told", "meant"),
    [
        ("self", DryRun(Confirm.SELF)),
        ("approver", DryRun(Confirm.APPROVER)),
        ("{confirm: self}", DryRun(Confirm.SELF)),
        ('{confirm: approver, functions: ["app_*", pay]}', DryRun(Confirm.APPROVER, ("app_*", "pay"))),
    ],
)
def test_a_dry_run(tmp_path: Path, told: str, meant: DryRun) -> None:
    text = DRY.replace("dry_run: approver", f"dry_run: {told}")
    level = read_catalogue(text.encode(), tmp_path / "catalogue.yaml").targets["orders-db"].levels["write"]
    assert level.dry_run == meant


@pytest.mark.parametrize(
    ("told", "why"),
    [
        ("me", "must be self or approver"),
        ("{}", "confirm is missing"),
        ("{functions: [x]}", "confirm is missing"),
        ("{confirm: nobody}", "must be self or approver"),
        ("{confirm: self, functions: [a.b]}", "without its schema"),
        ("{confirm: self, after: 1}", "unknown key"),
        ("[self]", "must be text"),
        ("", "must be text"),
    ],
)
def test_dry_runs_that_make_no_sense(tmp_path: Path, told: str, why: str) -> None:
    with pytest.raises(SourceError, match=re.escape(why)):
        read_catalogue(DRY.replace("dry_run: approver", f"dry_run: {told}").encode(), tmp_path / "catalogue.yaml")


@pytest.mark.parametrize(("written", "octets"), [("64k", 65_536), ("64M", 64 * 1024 * 1024)])
def test_how_much_of_a_commands_streams_is_recorded(written: str, octets: int) -> None:
    changed = read(GOOD.replace("{account: deploy}", f"{{account: deploy, output_limit: {written}}}"))
    assert changed.targets["web-1"].levels["shell"].ssh.output_limit == octets
    assert read(GOOD).targets["web-1"].levels["shell"].ssh.output_limit == 1024 * 1024


@pytest.mark.parametrize(
    ("written", "why"), [("65M", "at most 64M"), ("0k", "is not a size"), ("all", "is not a size")]
)
def test_limits_of_recorded_output_that_make_no_sense(written: str, why: str) -> None:
    with pytest.raises(SourceError, match=why):
        read(GOOD.replace("{account: deploy}", f"{{account: deploy, output_limit: {written}}}"))


FULL = "account: orders_read, statement_timeout: 5m, connection_limit: 3"
OTHERWISE = [
    "account: orders_write, statement_timeout: 5m, connection_limit: 3",
    "account: orders_read, connection_limit: 3",
    f"{FULL}0",
    f"{FULL}, budget: {{statement: {{rows: 5}}}}",
    f"{FULL}, budget: {{session: {{rows: 5}}}}",
    f"{FULL}, rules: {{deny_ddl: true}}",
    f"{FULL}, rules: {{deny_functions: [lo_export]}}",
    f"{FULL}, masks: {{public.customers.email: last4}}",
    f"{FULL}, masks: {{public.customers.email: hash}}",
    f"{FULL}, masks: {{public.customers.email: last4, public.customers.card: hash}}",
    f"{FULL}, bind_parameters: none",
    f"{FULL}, dry_run: self",
    f"{FULL}, dry_run: {{confirm: self, functions: [cleanup, app_x]}}",
]


def test_a_level_has_another_digest_for_all_that_it_may_allow_otherwise():
    found = [read(GOOD.replace(FULL, said)).targets["orders-db"].levels["read"].terms for said in [FULL, *OTHERWISE]]
    assert len(set(found)) == len(found)
    assert all(re.fullmatch("[0-9a-f]{32}", terms) for terms in found)


@pytest.mark.parametrize(
    "rules",
    [
        "shell: false", "commands: [uptime]", 'forwards: ["127.0.0.1:80"]', 'remote_forwards: ["127.0.0.1:80"]',
        "agent_forwarding: true", "x11_forwarding: true", "force_command: uptime",
        "files: [{path: /tmp}]", "env: [LANG]", "output_limit: 2M",
    ],
)  # fmt: skip
def test_one_of_ssh_too(rules: str):
    plain = read(GOOD).targets["web-1"].levels["shell"].terms
    text = GOOD.replace("shell: {account: deploy}", f"shell: {{account: deploy, {rules}}}")
    assert read(text).targets["web-1"].levels["shell"].terms != plain


def test_an_idle_timeout_is_followed_by_live_sessions_and_so_changes_no_digest():
    plain = read(GOOD).targets["web-1"].levels["shell"].terms
    text = GOOD.replace("shell: {account: deploy}", "shell: {account: deploy, idle_timeout: 5m}")
    assert read(text).targets["web-1"].levels["shell"].terms == plain


def test_words_order_and_defaults_that_are_written_out_change_no_digest():
    same = [
        read(GOOD.replace(FULL, said)).targets["orders-db"].levels["read"].terms
        for said in (
            FULL,
            f"{FULL}, description: for a look",
            f"{FULL}, rank: 9",
            f"{FULL}, bind_parameters: full",
            "connection_limit: 3, statement_timeout: 300s, account: orders_read",
        )
    ]
    assert len(set(same)) == 1
