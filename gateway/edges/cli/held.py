"""`gw session commit`: what a session wants to commit at a level with a dry-run, and the answer to it."""

import re
from itertools import groupby
from typing import Any

import click

from gateway.core.exact_text import escaped_spaces, exact_lines, quoted
from gateway.core.session_settings import OTHERS
from gateway.edges.cli import client, output
from gateway.edges.cli.output import moment, safe, say

_SEVERAL = re.compile(r"(?<=[^ ] ) +(?=[^ ])")  # spaces inside a line: nobody can count them where a terminal folds it


@click.command()
@click.argument("session_id")
@click.option("--mark", default="", help="Answer at once, to just what this stands for; --json shows it.")
@click.option("--refuse", is_flag=True, help="Say no: only ROLLBACK is left.")
@click.option("--reason", default="", help="For the log, and for whoever waits.")
@output.json_option
def commit(session_id: str, mark: str, refuse: bool, reason: str, as_json: bool) -> None:
    """Look at what a session has written and wants to commit, and say yes to it, or no."""
    path = f"/api/sessions/{client.segment(session_id)}/commit"
    if not mark:
        held = client.api().get(path)
        if as_json:
            output.print_json(held)
            return
        _show_held(held)
        _demand_waiting(held)
        if not click.confirm("Refuse it?" if refuse else "Let it be committed?", err=True):
            output.fail("Nothing was answered.")
        mark = held["mark"]
    verdict = "refuse" if refuse else "confirm"
    answered = client.api().post(path, {"mark": mark, "verdict": verdict, "reason": reason})
    if as_json:
        output.print_json(answered)
    else:
        say("Refused: only ROLLBACK is left." if refuse else f"Confirmed: {_what_follows(answered)}")


def _what_follows(held: Any) -> str:
    """Nobody else carries it out, and one that was heard lately may be gone all the same."""
    ago = held["heard_seconds_ago"]
    if ago is None:
        return "the next COMMIT in the session goes through."
    return f"it waits for gateway {safe(held['gateway'])}, last heard {ago:.0f} s ago; COMMIT goes through there."


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _show_held(held: Any) -> None:
    who = "whoever wrote it" if held["confirm"] == "self" else "somebody else who may approve"
    written = f"{_counted(held['statements'], 'statement')}, {_counted(held['rows'], 'row')}"
    for label, value in (
        ("session", f"{held['session']}, {held['holder']} on {held['target']} ({held['level']})"),
        ("held", f"transaction {held['tx']}, {moment(held['at'])}: {written}"),
        ("needs", f"the yes of {who}"),
        ("state", held["state"] + (f" by {held['decided_by']}: {held['reason']}" if held["decided_by"] else "")),
    ):
        say(f"{label:>10}  {safe(value)}")
    _show_settings(held)
    output.table(
        ("did", "statement"), [row for write in held["writes"] for row in _rows(write)], empty="No statement is known."
    )
    left = held["statements"] - len(held["writes"])
    if left > 0:
        say(f"… and {left} more, which are in the recording.")


def _show_settings(held: Any) -> None:
    """They decide what the names in the statements mean. Of later ones only what is another."""
    rows: list[tuple[str, str, str]] = []
    before: dict[str, str] = {}
    for under in held["under"]:
        now, first = under["settings"], under["first"]
        since = f"{first:,}" if first <= held["statements"] else "COMMIT"
        names = sorted(name for name in {*before, *now} if before.get(name) != now.get(name))
        rows += [(since, name, _value(name, now.get(name))) for name in names]
        before = now
    output.table(("from", "setting", "value"), rows, empty="No setting is known.")
    left = held["settings_changes"] - len(held["under"])
    if left > 0:
        say(f"… and they changed {_counted(left, 'more time')}, which is in the recording.")


def _value(name: str, value: str | None) -> str:
    """A value is quoted; words of our own are not."""
    if value is None:
        return "unset"
    return value if name == OTHERS else _countable(quoted(value))


def _countable(line: str) -> str:
    return _SEVERAL.sub(escaped_spaces, line)


def _rows(write: Any) -> list[tuple[str, str]]:
    """Each line of SQL stays one: where a comment ends decides what was written. Those behind the first are marked, so
    that no long one that a terminal folds can look like two. Many empty ones take one row: they would push what is
    before them out of sight.
    """
    first, *others = (_countable(line) for line in exact_lines(write["sql"].strip(" \t\r\n")))
    rows = [(write["tag"] or "?", first)]
    for is_empty, lines in groupby(others, lambda line: not line):
        alike = list(lines)
        rows += [(f"| {len(alike)} times", "")] if is_empty and len(alike) > 1 else [("|", line) for line in alike]
    return rows


def _demand_waiting(held: Any) -> None:
    if held["state"] == "refused":
        output.fail(f"{safe(held['decided_by'])} has refused it already; only ROLLBACK is left.")
