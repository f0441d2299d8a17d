"""The gateway's files for the stage: written anew at each start, readable as an example of a whole set."""

import json
import os
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from gateway.adapters.credentials.ssh_ca import SshAuthorities
from gateway.demo import pipeline
from gateway.demo.idp import CLIENT_ID
from gateway.demo.owners import root_account, shell_account
from gateway.demo.postgres import Database, write_secret
from gateway.demo.sshd import Server

STORE_URL_FILE = "GW_DEMO_DATABASE_URL_FILE"  # not GATEWAY_…: that may name the store of a gateway in production
# What stands in for a server's own deploy program. The version is a word of its own ($1), never part of the script.
_PLACE = 'echo "placing $1"; [ "$1" != broken ] || exit 7; printf "%s" "$1" > "$HOME/$0.version"; echo "$0 runs $1"'


@dataclass(frozen=True, slots=True)
class Parts:
    """What is there to be configured. `servers` is empty when there is no sshd."""

    database: Database
    servers: dict[str, Server]
    issuer: str
    ports: dict[str, int]
    ci: str


def write(state: Path, parts: Parts) -> None:
    """Settings, catalogue, rota, incidents and the files that they point to."""
    write_secret(state / "secrets" / "webhook.url", f"http://127.0.0.1:{parts.ports['pager']}/\n")
    (state / "catalogue.yaml").write_text(_catalogue(parts))
    (state / "rota.yaml").write_text(_rota(datetime.now(UTC)))
    (state / "incidents.yaml").write_text(_incidents(datetime.now(UTC)))
    api = f"http://localhost:{parts.ports['api']}"
    pipeline.write_policies(state, parts.ci, api, list(parts.servers))
    (state / "gateway.toml").write_text(_settings(state, parts))


def target_ca_file(state: Path) -> Path:
    """The public key of the gateway's authority for targets, as sshd wants it; made if this is the first start."""
    gateway = state / "gateway"
    gateway.mkdir(mode=0o700, exist_ok=True)
    path = state / "target_ca.pub"
    path.write_text(SshAuthorities(gateway / "ssh").target_ca_public + "\n")
    return path


def environment() -> dict[str, str]:
    """The caller's, without settings of another gateway: the stage is configured by its own files."""
    # These are not the stage's business.
    kept = ("GATEWAY_WORKERS", "GATEWAY_POSTGRES__AUTHENTICATION", "GATEWAY_POSTGRES__CLIENT_CERTIFICATES")
    return {n: value for n, value in os.environ.items() if n in kept or not n.startswith(("GATEWAY_", "PG"))}


def _settings(state: Path, parts: Parts) -> str:
    text = json.dumps  # a JSON string is a TOML string
    return f"""\
# Written by gw demo at each start. docs/configure.md describes every setting.
state_dir = {text(str(state / "gateway"))}
name = "demo"
{_store()}log_origin = "gw.demo/audit"
catalogue_file = {text(str(state / "catalogue.yaml"))}
policy_dir = {text(str(state / "policies"))}
incidents_file = {text(str(state / "incidents.yaml"))}

[api]
port = {parts.ports["api"]}
public_url = "http://localhost:{parts.ports["api"]}"  # a name: browsers make no passkeys for an address of digits

[ssh]
port = {parts.ports["ssh"]}

[postgres]
port = {parts.ports["postgres"]}

[oidc]
issuer = {text(parts.issuer)}
client_id = {text(CLIENT_ID)}
client_secret_file = {text(str(write_secret(state / "secrets" / "oidc.secret", "demo")))}

[rota]
files = [{text(str(state / "rota.yaml"))}]
refresh_seconds = 5

[notify]
webhook_url_files = {{ default = {text(str(state / "secrets" / "webhook.url"))} }}
"""


def _store() -> str:
    """SQLite in the state directory, unless somebody wants to see the stage on a PostgreSQL of theirs."""
    file = os.environ.get(STORE_URL_FILE)
    return f"database_url_file = {json.dumps(file)}\n" if file else ""


def _catalogue(parts: Parts) -> str:
    database = parts.database
    return f"""\
# Written by gw demo at each start; a change is read within seconds.
version: 1
services:
  orders:
    owners: [lead]
    description: The shop's orders
  staging:
    owners: [lead]
    description: Where releases are tried
targets:
  orders-db:
    kind: postgres
    service: orders
    environment: production
    description: Orders, customers and products of the shop
    host: {database.host}
    port: {database.port}
    database: orders
    admin_dsn_file: {json.dumps(str(database.broker_dsn_file))}
    tls: disable  # loopback; this PostgreSQL was built without TLS
    levels:
      read:
        account: orders_read
        description: SELECT on everything
        statement_timeout: 5m
        connection_limit: 20
      write:
        account: orders_write
        description: SELECT, INSERT, UPDATE, DELETE
        statement_timeout: 5m
        connection_limit: 20
      admin:
        account: orders_admin
        description: Owns the tables, so may change the schema
        connection_limit: 20
    verbs:
      migrate:
        account: orders_migrate
        owner: orders_admin
        description: SQL of a pipeline, by a role that may make tables and reads none
  staging-db:
    kind: postgres
    service: staging
    environment: staging
    description: Invented orders
    host: {database.host}
    port: {database.port}
    database: staging
    admin_dsn_file: {json.dumps(str(database.staging_dsn_file))}
    tls: disable
    levels:
      read:
        account: staging_read
        description: SELECT on everything
{"".join(_server(name, server) for name, server in parts.servers.items())}{_groups(parts)}"""


def _groups(parts: Parts) -> str:
    return f"groups:\n  web: {{targets: [{', '.join(parts.servers)}]}}\n" if parts.servers else ""


def _server(name: str, server: Server) -> str:
    return f"""\
  {name}:
    kind: ssh
    service: orders
    environment: production
    description: Web server of the shop
    host: {server.host}
    port: {server.port}
    host_keys: [{json.dumps(server.host_key)}]
    levels:
      shell:
        account: {shell_account()}
        description: An ordinary shell
      root:
        account: {root_account()}
        description: {_root_description()}
    verbs:
      deploy:
        argv: [/bin/sh, -c, {json.dumps(_PLACE)}, {name}, "{{version}}"]
        account: {shell_account()}
        parameters: {{version: {{type: version}}}}
        version: version
        rollback: rollback
        timeout: 1m
      rollback:
        argv: [/bin/sh, -c, {json.dumps(_PLACE)}, {name}, "{{version}}"]
        account: {shell_account()}
        parameters: {{version: {{type: version}}}}
        version: version
        timeout: 1m
      restart:
        argv: [/bin/echo, {name}, restarted]
        account: {shell_account()}
"""


def _root_description() -> str:
    return "Everything" if os.geteuid() == 0 else "On this stage the same login as shell, because it runs without root"


def _rota(now: datetime) -> str:
    return f"""\
# Written by gw demo at each start. Edit it and watch `gw targets` change; docs/configure.md has the format.
version: 1
services:
  orders:
    schedules:
      primary:
        escalation: 1
        time_zone: Europe/Berlin
        rotation:
          people: [oncall]  # add names, and they take turns
          starts: {(now - timedelta(days=7)).date()}
          handover: "09:00"
          length: 1w
      secondary:
        escalation: 2
        time_zone: Europe/Berlin
        rotation:
          people: [lead]
          starts: {(now - timedelta(days=7)).date()}
          handover: "09:00"
          length: 1w
"""


def _incidents(now: datetime) -> str:
    return f"""\
# Written by gw demo at each start. Give an incident a closed_at, and access under it ends.
version: 1
incidents:
  - id: INC-1042
    service: orders
    title: Customer search takes 8 s at the 99th percentile
    opened_at: {(now - timedelta(minutes=40)).isoformat(timespec="seconds")}
"""
