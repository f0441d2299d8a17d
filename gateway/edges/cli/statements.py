"""What was said to databases, across all sessions."""

from datetime import UTC, datetime

import click

from gateway.core.obligation import BadObligationError, parse_duration
from gateway.edges.cli import client, output
from gateway.edges.cli.output import moment

MOST_NAMED = 10  # of the sessions that cannot be searched yet
KINDS = ("read", "write", "ddl", "privilege", "session", "unknown")


@click.command()
@click.argument("text", default="")
@click.option("--target", default="", help="On which database.")
@click.option("--user", "principal", default="", help="By whom.")
@click.option("--session", default="", help="In which session.")
@click.option(
    "--kind", default="", type=click.Choice(["", *KINDS]), metavar="KIND", help=f"What it does: {', '.join(KINDS)}."
)
@click.option("--fingerprint", default="", help="Only texts that differ from one another in constants alone.")
@click.option("--since", default="", help="How far back: 90s, 1h, 7d.")
@click.option("--limit", default=100, show_default=True, type=click.IntRange(1, 1000), help="How many at most.")
@output.json_option
def statements(text: str, since: str, as_json: bool, **query: object) -> None:
    """Search statements that hold TEXT, newest first, with rows, bytes, duration and error code."""
    found = client.api().get("/api/statements", text=text, since=_instant(since), **query)
    if as_json:
        output.print_json(found)
        return
    rows = [
        (
            moment(s["at"]),
            s["principal"],
            s["target"],
            s["rows"],
            s["bytes"],
            s["ms"],
            s["sqlstate"],
            s["kind"],
            f"{s['tx']} {s['outcome'] or 'open'}" if s["tx"] else "",
            s["sql"],
        )
        for s in found["statements"]
    ]
    heads = ("AT", "WHO", "TARGET", "ROWS", "BYTES", "MS", "ERROR", "KIND", "TRANSACTION", "STATEMENT")
    output.table(heads, rows, empty="No statement matches.")
    named = found["incomplete"][:MOST_NAMED]
    for session in named:
        output.say(f"Not all of {output.safe(session)} can be searched yet.", err=True)
    if (others := found.get("incomplete_count", len(named)) - len(named)) > 0:  # an older gateway does not tell
        output.say(f"Nor can {others} more sessions: a new index is made from the recordings.", err=True)


def _instant(span: str) -> str:
    if not span:
        return ""
    try:
        return (datetime.now(UTC) - parse_duration(span)).isoformat()
    except BadObligationError as error:
        raise output.Failure(str(error), output.EXIT_USAGE) from error
