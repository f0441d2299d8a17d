"""What to type next: the main job as commands to copy."""

from pathlib import Path

from gateway.demo.stage import Ready

_TEXT = """
The stage is up. The API is {api}; Ctrl-C here stops everything. In another terminal, in this directory:

  1. The engineer who is on call
     . {dir}/oncall.env
     {gw} whoami
     {gw} targets
     {gw} request orders-db --level read --incident INC-1042 --reason "p99 of search 8 s" --for 1h
     {gw} psql orders-db -- -c "EXPLAIN ANALYZE SELECT * FROM customer_search WHERE city = 'Leeds' LIMIT 20"
     {gw} psql orders-db -- -c "CREATE INDEX ON orders (customer_id)"        # refused: level read

  2. More power needs a second person
     {gw} request orders-db --level admin --incident INC-1042 --reason "add the missing index" --for 30m
     (. {dir}/lead.env; {gw} approve REQUEST_ID --note "seen the plan")
     {gw} psql orders-db -- -c "CREATE INDEX ON orders (customer_id)"

  3. A shell{ssh_note}
     {gw} request web-1 --level shell --incident INC-1042 --reason "look at the logs" --for 1h
     {gw} ssh web-1
     {gw} ssh-config > {dir}/ssh_config && ssh -F {dir}/ssh_config web-1.gw

  4. Somebody who is not on call gets a clear no
     (. {dir}/developer.env; {gw} request orders-db --level read --incident INC-1042 --reason "curious" --for 1h)

  5. Ending it
     {gw} grants
     {gw} sessions
     {gw} revoke GRANT_ID
     {gw} step-up        # breaking the glass for everything takes a passkey; while it waits, in another terminal:
     {gw} demo{dir_option} touch CODE --as oncall
     {gw} break-glass orders-db --level admin --incident INC-1042 --reason "database is melting"
     (. {dir}/lead.env; {gw} review)

  6. The pipeline{ssh_note}: a CI job deploys by its own identity, and whoever is on call goes back
     {gw} demo{dir_option} ci deploy web --param version=1.0
     {gw} demo{dir_option} ci deploy web --param version=1.1
     {gw} demo{dir_option} ci deploy web --param version=broken                # exit status 7; web-2 is not touched
     {gw} deploy status web
     {gw} deploy rollback web --to previous
     echo "CREATE TABLE refunds (id int)" > {dir}/refunds.sql
     {gw} demo{dir_option} ci migrate orders-db --file {dir}/refunds.sql

  7. The auditor
     . {dir}/auditor.env
     {gw} audit search --target orders-db --since 1h
     {gw} audit verify --key '{key}'

Signing in as a person would: `env -u GW_TOKEN {gw} login`, then `{gw} demo{dir_option} confirm CODE --as oncall`.
"""


def text(directory: Path, ready: Ready) -> str:
    """The printed journeys, and what is missing if anything is."""
    said = _TEXT.format(
        api=ready.api,
        dir=directory,
        dir_option="" if directory == Path(".gw-demo") else f" --dir {directory}",
        gw=".venv/bin/gw",
        key=ready.audit_key,
        ssh_note="" if not ready.missing else "   (not on this machine yet, see below)",
    )
    return f"{said}\n{ready.missing}\n" if ready.missing else said
