"""Where one is signed in."""

import click

from gateway.edges.cli import client, output


@click.group(invoke_without_command=True)
@output.json_option
@click.pass_context
def logins(ctx: click.Context, as_json: bool) -> None:
    """List where you are signed in: browsers and terminals, since when, from where. gw logins revoke ID ends one."""
    if ctx.invoked_subcommand is not None:
        return
    found = client.api().get("/api/logins")
    if as_json:
        output.print_json(found)
        return
    output.table(
        ("id", "what", "since", "last used", "until", "from", "agent"),
        (
            (
                each["id"],
                ("browser" if each["kind"] == "web" else "terminal") + (" (this one)" if each["current"] else ""),
                output.moment(each["since"]),
                output.moment(each["seen_at"]),
                output.moment(each["expires_at"]),
                each["client"],
                each["agent"],
            )
            for each in found
        ),
    )


@logins.command()
@click.argument("login")
@output.json_option
def revoke(login: str, as_json: bool) -> None:
    """End one sign-in of yours, wherever it is. Open sessions stay; gw revoke ends those."""
    client.api().post(f"/api/logins/{client.segment(login)}/revoke")
    if as_json:
        output.print_json({"revoked": login})
    else:
        output.say(f"{output.safe(login)} is over.")
