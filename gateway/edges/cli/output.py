"""How commands speak: plain lines or tables for people, one JSON value for scripts, exit codes for both.

Text that came from a server, a target or another person is passed through `safe` before it reaches a terminal,
so that no escape sequence or line break of theirs can draw there (ASVS 16.4.1, uvicorn CVE-2020-7694).
"""

import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NoReturn, TypeVar

import click

EXIT_ERROR = 1
EXIT_USAGE = 2
EXIT_DENIED = 3
EXIT_NOT_FOUND = 4
EXIT_CONFLICT = 5
EXIT_STEP_UP = 6

_JSON = "gateway.json"
_ID = re.compile(r"[a-z]{3}_[0-9a-z]{26}")
_F = TypeVar("_F", bound=Callable[..., Any])


def safe(text: object) -> str:
    """One line with every control and bidirectional character shown as an escape."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in str(text))


def _remember_json(ctx: click.Context, _: click.Parameter, value: bool) -> bool:
    if value:
        ctx.find_root().meta[_JSON] = True
    return value


def json_option(command: _F) -> _F:
    """Add `--json` (parameter `as_json`); errors of the command are then JSON as well."""
    return click.option(
        "--json", "as_json", is_flag=True, is_eager=True, callback=_remember_json, help="Print one JSON value."
    )(command)


def wants_json() -> bool:
    """True when the running command was called with `--json`."""
    ctx = click.get_current_context(silent=True)
    return ctx is not None and bool(ctx.find_root().meta.get(_JSON))


def print_json(value: object) -> None:
    """One JSON value on one line of standard output."""
    click.echo(json.dumps(value, ensure_ascii=True, separators=(", ", ": ")))


def say(text: str = "", *, err: bool = False) -> None:
    """A sentence of our own on standard output (or error). Foreign parts of it are the caller's to make `safe`."""
    click.echo(text, err=err)


def progress(text: str) -> None:
    """A sentence about what is being waited for; standard error, and never in the way of `--json`."""
    if not wants_json():
        click.echo(text, err=True)


class Failure(click.ClickException):
    """A "no" or a failure, rendered once at the top. `problem` is the RFC 9457 object for `--json`."""

    def __init__(self, message: str, exit_code: int = EXIT_ERROR, problem: Mapping[str, object] | None = None) -> None:
        super().__init__(message)
        self.exit_code = exit_code  # type: ignore[misc]  # click types it per class, reads it per instance
        self.as_json = wants_json()  # click's context is gone by the time of `show`
        self.problem = dict(problem or {"code": "error", "detail": message})

    def show(self, file: Any = None) -> None:  # noqa: ARG002  click's signature
        """Say it: JSON on standard output when asked for, otherwise sentences on standard error."""
        if self.as_json:
            print_json(self.problem)
            return
        click.echo(f"gw: {safe(self.message)}", err=True)
        for label, key in (("missing", "missing"), ("next", "next_steps")):
            for item in _strings(self.problem.get(key)):
                click.echo(f"  {label}: {safe(item)}", err=True)


def _strings(value: object) -> list[str]:
    return [str(item) for item in value] if isinstance(value, list | tuple) else []


def fail(message: str, exit_code: int = EXIT_ERROR, *next_steps: str, code: str = "error") -> NoReturn:
    """End the command with a sentence, what to do next, and an exit code."""
    raise Failure(message, exit_code, {"code": code, "detail": message, "next_steps": list(next_steps)})


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, empty: str = "Nothing.") -> None:
    """A table: ruled on a terminal, tab-separated lines with a header elsewhere."""
    lines = [[safe("" if cell is None else cell) for cell in row] for row in rows]
    if not lines:
        say(empty)
    elif sys.stdout.isatty():
        _rich_table(columns, lines)
    else:
        say("\t".join(columns))
        for line in lines:
            say("\t".join(line))


def _rich_table(columns: Sequence[str], lines: Sequence[Sequence[str]]) -> None:
    from rich.console import Console  # noqa: PLC0415  +53 ms, only where a terminal shows it
    from rich.table import Table  # noqa: PLC0415  as above
    from rich.text import Text  # noqa: PLC0415  as above; Text, so that no markup of others is obeyed

    drawn = Table(box=None, header_style="bold", pad_edge=False)
    for place, column in enumerate(columns):
        # An id is copied into the next command, so never in two pieces.
        is_id = any(_ID.fullmatch(line[place]) for line in lines)
        drawn.add_column(column, overflow="fold", no_wrap=is_id)
    for line in lines:
        drawn.add_row(*(Text(cell) for cell in line))
    Console().print(drawn)


def moment(iso: str | None, now: datetime | None = None) -> str:
    """An API instant as local time with the distance: `22:15 (in 59 min)`; "" for none."""
    if not iso:
        return ""
    at = datetime.fromisoformat(iso)
    here = (now or datetime.now(UTC)).astimezone()
    local = at.astimezone()
    clock = local.strftime("%H:%M" if local.date() == here.date() else "%Y-%m-%d %H:%M")
    return f"{clock} ({_distance((at - here).total_seconds())})"


def _distance(seconds: float) -> str:
    size = abs(seconds)
    if size < 90:
        text = f"{size:.0f} s"
    elif size < 5400:
        text = f"{size / 60:.0f} min"
    elif size < 172_800:
        text = f"{size / 3600:.1f} h"
    else:
        text = f"{size / 86400:.0f} days"
    return f"in {text}" if seconds >= 0 else f"{text} ago"
