"""Tokens for machines."""

import click

from gateway.edges.cli import client, output


@click.group()
def token() -> None:
    """Make, list and revoke tokens for machines: SIEM readers, SCIM clients, chat bots."""


@token.command()
@click.argument("name")
@click.option("--scope", "scopes", multiple=True, required=True, help="audit:read, access:read, scim:write; repeat it.")
@click.option("--expires", required=True, help="For how long, for example 90d.")
@click.option("--provider", default="", help="Whose people it provisions (with scim:write).")
@output.json_option
def create(name: str, scopes: tuple[str, ...], expires: str, provider: str, as_json: bool) -> None:
    """Make a token, shown once. It can do what its scopes say and nothing else; you must be allowed to, yourself.

    The secret alone is on standard output: gw token create siem --scope audit:read --expires 90d > siem.token
    """
    body = {"name": name, "scopes": list(scopes), "expires": expires, "provider": provider}
    made = client.api().post("/api/tokens", body)
    if as_json:
        output.print_json(made)
        return
    output.say(f"Valid until {output.moment(made['token']['expires_at'])}; it is not shown again:", err=True)
    output.say(output.safe(made["secret"]))


@token.command("list")
@output.json_option
def show_all(as_json: bool) -> None:
    """List tokens: yours, and everybody's if you administer or audit."""
    tokens = client.api().get("/api/tokens")
    if as_json:
        output.print_json(tokens)
        return
    output.table(
        ("name", "scopes", "provider", "made by", "expires", "last used", "from", "revoked"),
        (
            (
                each["name"],
                " ".join(each["scopes"]),
                each["provider"],
                each["created_by"],
                output.moment(each["expires_at"]),
                output.moment(each["last_used_at"]) or "never",
                each["last_used_from"],
                output.moment(each["revoked_at"]),
            )
            for each in tokens
        ),
        empty="No tokens.",
    )


@token.command()
@click.argument("name")
@output.json_option
def revoke(name: str, as_json: bool) -> None:
    """End a token now."""
    gone = client.api().post(f"/api/tokens/{client.segment(name)}/revoke")
    if as_json:
        output.print_json(gone)
    else:
        output.say(f"{output.safe(gone['name'])} is revoked.")
