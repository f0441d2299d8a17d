"""`gw trust`: write, check and explain trust policies (without a gateway); take a deploy token back (with one)."""

import click

from gateway.edges.cli import output
from gateway.edges.cli.client import api, segment
from gateway.edges.cli.main import LazyGroup


@click.command()
@click.argument("token_id", metavar="ID")
@click.option("--reason", default="", help="For the audit log.")
@output.json_option
def revoke(token_id: str, reason: str, as_json: bool) -> None:
    """Make a deploy token worthless now. Its id (dtk_…) stands in the events of the exchange."""
    answer = api().post(f"/api/deploy-tokens/{segment(token_id)}/revoke", {"reason": reason})
    if as_json:
        output.print_json(answer)
    else:
        output.say(f"{output.safe(token_id)} is worth nothing any more.")


# The others need adapters, which the edges may not import: they are named, as `gw serve` is.
_FILES = "gateway.trust_files"
trust = LazyGroup(
    {
        "init": (f"{_FILES}:init", "Write a correct trust policy to begin with."),
        "check": (f"{_FILES}:check", "Say what is wrong with trust policies, before any token comes."),
        "explain": (f"{_FILES}:explain", "Say claim by claim why a job's token is trusted, or not."),
        "revoke": (f"{__name__}:revoke", "Make a deploy token worthless now."),
    },
    name="trust",
    help="Which pipelines may deploy what: write, check and explain trust policies.",
)
