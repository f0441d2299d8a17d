"""`gw`: a group whose commands are named here and imported only when one of them runs (start-up time)."""

import importlib
import os
import sys
import traceback
from collections.abc import Mapping
from typing import Any, NoReturn

import click

from gateway.edges.cli import output

_HERE = "gateway.edges.cli"
# name -> (where, help): the help stands here so that `gw --help` imports nothing.
COMMANDS: Mapping[str, tuple[str, str]] = {
    "login": (f"{_HERE}.login:login", "Sign in through your browser."),
    "logout": (f"{_HERE}.login:logout", "Sign out and forget the credential."),
    "step-up": (f"{_HERE}.passkeys:step_up", "Prove with a passkey that it is you."),
    "passkeys": (f"{_HERE}.passkeys:passkeys", "List your passkeys; say where to add one."),
    "logins": (f"{_HERE}.logins:logins", "List where you are signed in, and end one of those."),
    "whoami": (f"{_HERE}.login:whoami", "Say who you are here."),
    "targets": (f"{_HERE}.access:targets", "List what you could ask for, and why not the rest."),
    "request": (f"{_HERE}.access:request", "Ask for access to a target."),
    "break-glass": (f"{_HERE}.access:break_glass", "Emergency access: at once, loud, reviewed afterwards."),
    "grants": (f"{_HERE}.access:grants", "List your grants."),
    "requests": (f"{_HERE}.access:requests", "List your requests, or those that wait for you."),
    "approve": (f"{_HERE}.access:approve", "Say yes to somebody else's request."),
    "reject": (f"{_HERE}.access:reject", "Say no to somebody else's request."),
    "review": (f"{_HERE}.access:review", "Judge a break-glass grant of somebody else."),
    "extend": (f"{_HERE}.access:extend", "Let your grant last longer."),
    "revoke": (f"{_HERE}.access:revoke", "End a grant and its sessions now."),
    "connect": (f"{_HERE}.connect:connect", "Print how to reach a target with any client."),
    "psql": (f"{_HERE}.connect:psql", "Open psql on a database."),
    "tunnel": (f"{_HERE}.connect:tunnel", "Carry plain connections on this machine to a database in TLS."),
    "ssh": (f"{_HERE}.connect:ssh", "Open a shell or run a command on a server."),
    "ssh-config": (f"{_HERE}.connect:ssh_config", "Print an OpenSSH configuration for every server."),
    "ssh-cert": (f"{_HERE}.connect:ssh_cert", "Fetch the certificate for the SSH door."),
    "deploy": (f"{_HERE}.deploy:deploy", "Run a deploy verb on targets, roll back, see what runs where."),
    "sessions": (f"{_HERE}.session:sessions", "List sessions."),
    "session": (f"{_HERE}.session:session", "Replay, watch, lock, end or shred one session."),
    "statements": (f"{_HERE}.statements:statements", "Search what was said to databases."),
    "target": (f"{_HERE}.target:target", "Examine a target: does it let the gateway do its work?"),
    "audit": (f"{_HERE}.audit:audit", "Search and verify the audit log."),
    "policy": (f"{_HERE}.policy:policy", "Check, test and question the policies."),
    "trust": (f"{_HERE}.trust:trust", "Say which pipelines may deploy what; check and explain it."),
    "users": (f"{_HERE}.login:users", "Shut people out, or let them in again."),
    "token": (f"{_HERE}.token:token", "Make, list and revoke tokens for machines."),
    "completion": (f"{_HERE}.login:completion", "Print a completion script for your shell."),
}
_SERVER_HELP = {
    "serve": "Run the gateway.",
    "demo": "Run a complete stage on this machine, with a database, a server and people.",
}


class LazyGroup(click.Group):
    """Commands by `module:attribute`, loaded on use; every failure ends in a sentence and an exit code."""

    def __init__(self, places: Mapping[str, tuple[str, str]], **attrs: Any) -> None:
        super().__init__(**attrs)
        self._places = dict(places)

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  click's signature
        """In the order of the journey, not of the alphabet."""
        return list(self._places)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002  as above
        """Import the one that runs."""
        place = self._places.get(cmd_name)
        if place is None:
            return None
        module, _, attribute = place[0].partition(":")
        command = getattr(importlib.import_module(module), attribute)
        if not isinstance(command, click.Command):
            raise TypeError(f"{place[0]} is not a command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002  as above
        """Names and one line each, without loading any."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, place[1]) for name, place in self._places.items()])

    def main(self, *args: Any, **extra: Any) -> NoReturn:
        """Run and exit: 0 done, 1 failed, 2 misused, 3 denied, 4 not found, 5 conflict or pending, 6 step-up needed.

        130 is interrupted.
        """
        extra["standalone_mode"] = False
        try:
            code = super().main(*args, **extra)
        except click.ClickException as no:
            no.show()
            sys.exit(no.exit_code)
        except (click.Abort, KeyboardInterrupt):
            output.say("gw: interrupted", err=True)
            sys.exit(130)
        except BrokenPipeError:  # `gw … | head`: the reader has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(output.EXIT_ERROR)
        except Exception as bug:  # noqa: BLE001  the boundary to the person: no traceback unless asked for
            _tell_bug(bug)
            sys.exit(output.EXIT_ERROR)
        sys.exit(code if isinstance(code, int) else 0)


def _tell_bug(bug: Exception) -> None:
    if isinstance(bug, OSError) and bug.filename:
        output.say(f"gw: {output.safe(bug.filename)}: {bug.strerror}", err=True)
    else:
        output.say(f"gw: this is a mistake in gw itself ({type(bug).__name__}); GW_DEBUG=1 shows where.", err=True)
    if os.environ.get("GW_DEBUG"):
        traceback.print_exception(bug)


def make_cli(extra: Mapping[str, str] | None = None) -> LazyGroup:
    """The command line, with server commands (`name -> module:attribute`) that the edges may not import."""
    places = dict(COMMANDS)
    for name, where in (extra or {}).items():
        places[name] = (where, _SERVER_HELP.get(name, ""))
    return LazyGroup(
        places,
        name="gw",
        help=(
            "Time-limited, recorded access to production.\n\n"
            "Start with gw login, then gw targets and gw request. Every command takes --json."
        ),
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    )
