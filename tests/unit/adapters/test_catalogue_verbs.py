from datetime import timedelta
from pathlib import Path

import pytest

from gateway.adapters.catalogue import read_catalogue
from gateway.adapters.yaml_source import SourceError
from gateway.core.target import Catalogue
from gateway.core.verb import Type, WhenGone

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGKHX1lHWzMRGHHYgjvGyHHJ/SmP3RBmNhV3PMQMGyoV"
HEAD = """\
version: 1
services: {orders: {owners: [lead]}}
"""
WEB = f"""\
    kind: ssh
    service: orders
    environment: production
    host: 127.0.0.1
    port: 22
    host_keys: ["{KEY}"]
    levels: {{shell: {{account: app}}}}
"""
VERBS = """\
    verbs:
      deploy:
        argv: [/opt/deploy, "--to={version}", "{n}", "{why}", "{colour}"]
        account: app-deploy
        version: version
        rollback: rollback
        timeout: 90s
        output_limit: 64k
        when_gone: cancel
        description: Puts a version in place
        parameters:
          version: {type: version, description: what to run}
          n: {type: integer, min: 1, max: 9, default: 2}
          why: {type: text, max_length: 20}
          colour: {type: choice, choices: [blue, green]}
      rollback: {argv: [/opt/deploy, "{version}"], account: app, version: version, parameters: {version: {type: version}}}
"""


def read(text: str) -> Catalogue:
    return read_catalogue(text.encode(), Path("catalogue.yaml"))


def ssh(verbs: str = VERBS, rest: str = "") -> str:
    return f"{HEAD}targets:\n  web-1:\n{WEB}{verbs}{rest}"


def test_a_verb_as_written() -> None:
    deploy = read(ssh()).targets["web-1"].verbs["deploy"]
    assert deploy.argv == ("/opt/deploy", "--to={version}", "{n}", "{why}", "{colour}")
    assert (deploy.account, deploy.version, deploy.rollback) == ("app-deploy", "version", "rollback")
    assert (deploy.timeout, deploy.output_limit, deploy.when_gone) == (timedelta(seconds=90), 65536, WhenGone.CANCEL)
    assert deploy.parameters["n"].default == "2"
    assert (deploy.parameters["n"].least, deploy.parameters["n"].most) == (1, 9)
    assert deploy.parameters["colour"].choices == ("blue", "green")
    assert deploy.parameters["why"].longest == 20
    assert deploy.parameters["version"].type is Type.VERSION


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("[/opt/deploy, ", "[deploy, ", "absolute path"),
        ("--to={version}", "--to={versoin}", "not declared"),
        ("{n}", "2", "not used"),
        ("rollback: rollback\n", "rollback: undo\n", "no verb here"),
        ("        version: version\n", "", "needs `version`"),
        ("type: version, description", "type: semver, description", "must be"),
        ("min: 1, max: 9", "min: 1", "max is missing"),
        ("min: 1, max: 9, default: 2", "min: 1, max: 9, default: 20", "default"),
        ("choices: [blue, green]", "choices: [-x]", "choices"),
        ("max_length: 20", "max_length: 2000", "number from"),
        ("timeout: 90s", "timeout: 7h", "timeout"),
        ("output_limit: 64k", "output_limit: 64", "size"),
        ("when_gone: cancel", "when_gone: maybe", "must be"),
        ("account: app-deploy", "account: 'app deploy'", "login"),
        ("      deploy:\n", "      list:\n", "name of a verb"),
        ("      deploy:\n", "      Deploy:\n", "name of a verb"),
        ("        account: app-deploy\n", "        account: app-deploy\n        shell: true\n", "unknown key"),
        ("        account: app-deploy\n", "        account: app-deploy\n        owner: x\n", "unknown key"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(old: str, new: str, why: str) -> None:
    text = ssh()
    assert old in text
    with pytest.raises(SourceError, match=r"catalogue.yaml:\d+: targets.web-1.verbs") as told:
        read(text.replace(old, new, 1))
    assert why in str(told.value)


def test_a_migration_takes_sql_and_no_argv() -> None:
    database = f"""\
{HEAD}targets:
  orders-db:
    kind: postgres
    service: orders
    environment: production
    host: 127.0.0.1
    port: 5432
    database: orders
    admin_dsn_file: x
    tls: disable
    levels: {{read: {{account: r}}}}
    verbs:
      migrate: {{account: orders_migrate, owner: orders_owner, in_transaction: false}}
"""
    migrate = read(database).targets["orders-db"].verbs["migrate"]
    assert migrate.runs_sql()
    assert (migrate.owner, migrate.in_transaction, migrate.input_limit) == ("orders_owner", False, 256 * 1024)
    with pytest.raises(SourceError, match="unknown key"):
        read(database.replace("owner: orders_owner", "owner: o, argv: [/x]"))
    with pytest.raises(SourceError, match="owner is missing"):
        read(database.replace("owner: orders_owner, ", ""))


def test_a_group_gives_its_targets_verbs_and_an_order() -> None:
    two = f"{HEAD}targets:\n  web-1:\n{WEB}  web-2:\n{WEB}"
    group = "groups:\n  web:\n    targets: [web-2, web-1]\n" + VERBS
    catalogue = read(two + group)
    assert catalogue.groups == {"web": ("web-2", "web-1")}
    assert catalogue.targets["web-1"].verbs == catalogue.targets["web-2"].verbs
    for wrong, why in (
        ("targets: [web-2, web-9]", "no target here"),
        ("targets: [web-2, web-2]", "each once"),
        ("targets: []", "1 to"),
    ):
        with pytest.raises(SourceError, match=why):
            read(two + group.replace("targets: [web-2, web-1]", wrong))
    with pytest.raises(SourceError, match="is the name of a target already"):
        read(two + group.replace("  web:\n", "  web-1:\n"))
    with pytest.raises(SourceError, match="has a verb deploy already"):
        read(f"{HEAD}targets:\n  web-1:\n{WEB}{VERBS}groups:\n  web:\n    targets: [web-1]\n{VERBS}")


FREEZE = """\
freezes:
  sales:
    from: 2026-11-27T00:00:00+01:00
    until: 2026-11-30T06:00:00Z
    by: release managers
    reason: the busiest weekend
    services: [orders]
    environments: [production]
    verbs: [deploy]
"""


def test_a_freeze_is_kept_in_utc_and_names_what_exists() -> None:
    (freeze,) = read(ssh(rest=FREEZE)).freezes
    assert freeze.window.not_before.isoformat() == "2026-11-26T23:00:00+00:00"
    assert (freeze.services, freeze.verbs) == (frozenset({"orders"}), frozenset({"deploy"}))
    for old, new, why in (
        ("services: [orders]", "services: [ordres]", "must name some of: orders"),
        ("environments: [production]", "environments: [prod]", "must name some of"),
        ("until: 2026-11-30T06:00:00Z", "until: 2026-11-26T06:00:00Z", "after from"),
        ("until: 2026-11-30T06:00:00Z", "until: 2026-11-30T06:00:00", "offset"),
        ("    by: release managers\n", "", "by is missing"),
    ):
        with pytest.raises(SourceError, match=why):
            read(ssh(rest=FREEZE.replace(old, new)))
