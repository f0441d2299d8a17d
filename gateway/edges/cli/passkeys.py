"""Proving with a passkey that it is you, and the passkeys that you have."""

import time
from datetime import UTC, datetime, timedelta

import click

from gateway.edges.cli import client, output
from gateway.edges.cli.login import open_browser
from gateway.edges.cli.output import moment, safe, say


@click.command("step-up")
@click.option("--no-browser", is_flag=True, help="Only print the address, open nothing.")
@output.json_option
def step_up(no_browser: bool, as_json: bool) -> None:
    """Prove with a passkey that it is you; policy asks for that before some access (exit code 6 there).

    Prints a link and waits: open it in any browser that reaches your passkey, compare the code, and answer.
    """
    api = client.api()
    start = api.post("/api/step-up")
    say("Open this page, compare the code, and answer with your passkey:", err=True)
    say(f"\n    {safe(start['code'])}   {safe(start['page'])}\n", err=True)
    if not no_browser:
        open_browser(str(start["page"]))
    state = _wait(api, str(start["code"]), int(start["interval"]), int(start["expires_in"]))
    if state == "denied":
        output.fail("It was denied in the browser.", output.EXIT_DENIED, code="step-up-denied")
    if state != "proved":
        output.fail("Nobody has answered in time; run gw step-up again.", output.EXIT_ERROR, code="step-up-expired")
    if as_json:
        output.print_json({"state": state})
    else:
        say("Proved. Run again what asked for it.")


def _wait(api: client.Api, code: str, interval: int, expires_in: int) -> str:
    deadline = datetime.now(UTC) + timedelta(seconds=expires_in)
    output.progress("Waiting for your passkey …")
    while datetime.now(UTC) < deadline:
        time.sleep(max(1, interval))
        state = str(api.get(f"/api/step-up/{client.segment(code)}")["state"])
        if state != "pending":
            return state
    return "expired"


@click.group(invoke_without_command=True)
@output.json_option
@click.pass_context
def passkeys(ctx: click.Context, as_json: bool) -> None:
    """List your passkeys. They are added in a browser, on the page that this prints."""
    if ctx.invoked_subcommand is not None:
        return
    found = client.api().get("/api/passkeys")
    if as_json:
        output.print_json(found)
        return
    rows = [(p["id"], p["name"], moment(p["created_at"]), moment(p["used_at"])) for p in found["passkeys"]]
    output.table(("PASSKEY", "NAME", "ADDED", "LAST USED"), rows, empty="You have no passkeys here.")
    say(f"Add one at {safe(found['page'])}")


@passkeys.command()
@click.argument("passkey")
@output.json_option
def remove(passkey: str, as_json: bool) -> None:
    """Forget one of your passkeys, by id or name; run gw step-up or gw login --fresh first."""
    api = client.api()
    mine = api.get("/api/passkeys")["passkeys"]
    named = [p["id"] for p in mine if p["name"] == passkey]
    gone = api.post(f"/api/passkeys/{client.segment(named[0] if len(named) == 1 else passkey)}/remove")
    if as_json:
        output.print_json(gone)
    else:
        say(f"Removed {safe(gone['name'])}.")
