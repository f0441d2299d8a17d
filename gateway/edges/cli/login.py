"""Signing in and out, who one is, and shutting people out."""

import time
import webbrowser
from datetime import UTC, datetime, timedelta
from typing import Any

import click

from gateway.edges.cli import client, device, output, ssh_files

_GRANT = "urn:ietf:params:oauth:grant-type:device_code"


@click.command()
@click.option("--url", help="The gateway's API, for example https://gw.example.org; remembered.")
@click.option("--provider", default="", help="Which identity provider, where there are several.")
@click.option("--no-browser", is_flag=True, help="Only print the address, open nothing.")
@click.option("--fresh", is_flag=True, help="Be asked anew at the identity provider, for policies that want that.")
@click.option("--passkey", is_flag=True, help="While the identity provider is down: come in to break the glass only.")
@output.json_option
def login(url: str | None, provider: str, no_browser: bool, fresh: bool, passkey: bool, as_json: bool) -> None:
    """Sign in: confirm the code shown here in a browser where you are signed in at your identity provider."""
    key = client.device_key(client.base_url(url)) or device.DeviceKey.new()
    api = client.anonymous(url, key)
    status, start = api.post_form("/api/device/code", {"client_id": "gw", "provider": provider})
    if status != 200:
        raise client.failure(status, start)
    page = str(start["passkey_uri_complete"] if passkey else start["verification_uri_complete"])
    page += "&fresh=yes" if fresh and not passkey else ""
    output.say(f"Open {output.safe(page.partition('?')[0])} and confirm this code:", err=True)
    output.say(f"\n    {output.safe(start['user_code'])}\n", err=True)
    output.say(f"or open {output.safe(page)}", err=True)
    if not no_browser:
        open_browser(page)
    answer = _wait_for_token(api, start)
    where = client.store_token(api.url, str(answer["access_token"]), str(answer["expires_at"]), key)
    ssh_files.forget_certificate()
    if as_json:
        told = {"user": answer["user"], "expires_at": answer["expires_at"], "url": api.url}
        output.print_json({**told, "only": answer.get("only", "")})
        return
    output.say(f"Signed in as {output.safe(answer['user'])} until {output.moment(answer['expires_at'])}.")
    output.say(f"The credential is in {where}.")
    if answer.get("only"):
        output.say(f"It is good for gw {output.safe(answer['only'])} and nothing else: the identity provider is down.")


def open_browser(page: str) -> None:
    """Show a page of the gateway."""
    if page.startswith(("https://", "http://")):  # never a handler of another scheme, whatever the server says
        webbrowser.open(page)


def _wait_for_token(api: client.Api, start: Any) -> Any:
    """Poll as RFC 8628 §3.4 and §3.5 ask."""
    interval = max(1, int(start.get("interval", 5)))
    deadline = datetime.now(UTC) + timedelta(seconds=int(start["expires_in"]))
    output.progress("Waiting for the confirmation …")
    while datetime.now(UTC) < deadline:
        time.sleep(interval)
        status, answer = api.post_form("/api/device/token", {"grant_type": _GRANT, "device_code": start["device_code"]})
        if status == 200:
            return answer
        error = answer.get("error") if isinstance(answer, dict) else None
        if error == "slow_down":
            interval += 5
        elif error == "access_denied":
            output.fail("The sign-in was denied in the browser.", output.EXIT_DENIED, code="access-denied")
        elif error == "expired_token":
            break
        elif error != "authorization_pending":
            raise client.failure(status, answer)
    raise output.Failure("The code has expired; run gw login again.")


@click.command()
@output.json_option
def logout(as_json: bool) -> None:
    """Sign out: the credential is ended at the gateway and forgotten here."""
    url = client.base_url()
    token = client.stored_token(url)
    if token:
        try:
            client.Api(url, token).post("/api/logout")
        except output.Failure as no:
            if no.exit_code != output.EXIT_DENIED:  # already over is what was wanted
                raise
    client.forget_token()
    ssh_files.forget_certificate()
    if as_json:
        output.print_json({"signed_out": True})
    else:
        output.say("Signed out. Sessions that are open end with their grants; gw revoke ends them now.")


@click.command()
@output.json_option
def whoami(as_json: bool) -> None:
    """Say who you are here."""
    me = client.api().get("/api/whoami")
    if as_json:
        output.print_json(me)
        return
    groups = ", ".join(me["groups"]) or "none"
    output.say(f"{output.safe(me['name'])} (groups: {output.safe(groups)})")
    if me.get("only"):
        output.say(f"This sign-in is good for gw {output.safe(me['only'])} only.")


@click.group()
def users() -> None:
    """Shut people out, or let them in again. Needs the right to administer."""


@users.command()
@click.argument("name")
@click.option("--reason", default="", help="Why, for the audit log.")
@output.json_option
def disable(name: str, reason: str, as_json: bool) -> None:
    """Disable a person: credentials are gone and live sessions end within a second."""
    user = client.api().post(f"/api/users/{client.segment(name)}/disable", {"reason": reason})
    if as_json:
        output.print_json(user)
    else:
        output.say(f"{output.safe(user['name'])} is disabled; open sessions are being ended.")


@users.command()
@click.argument("name")
@output.json_option
def enable(name: str, as_json: bool) -> None:
    """Let a disabled person sign in again."""
    user = client.api().post(f"/api/users/{client.segment(name)}/enable")
    if as_json:
        output.print_json(user)
    else:
        output.say(f"{output.safe(user['name'])} may sign in again.")


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print a completion script: `gw completion bash > ~/.local/share/bash-completion/completions/gw`."""
    from click.shell_completion import get_completion_class  # noqa: PLC0415  only here

    made = get_completion_class(shell)
    if made is None:
        output.fail(f"No completion for {shell}.", output.EXIT_USAGE)
    root = click.get_current_context().find_root().command
    output.say(made(root, {}, "gw", "_GW_COMPLETE").source())
