"""`gw demo`: the stage for trying everything, on this machine alone."""

import json
from pathlib import Path

import click

from gateway.demo import journeys, keys, pipeline
from gateway.demo.accounts import confirm as confirm_code
from gateway.demo.idp import GROUPS
from gateway.demo.processes import StageError
from gateway.demo.programs import say
from gateway.demo.stage import Stage, Stopped, only_one, run, stop_signals

_directory = click.option(
    "--dir",
    "directory",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(".gw-demo"),
    show_default=True,
    help="Where its data, keys and logs live.",
)


@click.group(invoke_without_command=True)
@_directory
@click.option("--json", "as_json", is_flag=True, help="Print one JSON line when everything is ready.")
@click.option("--port-base", type=click.IntRange(1024, 65000), help="First of nine ports in a row; default any free.")
@click.pass_context
def demo(ctx: click.Context, directory: Path, *, as_json: bool, port_base: int | None) -> None:
    """Run a whole stage: a production database, two servers, an identity provider, four people and the gateway.

    Everything listens on loopback and stops with Ctrl-C or SIGTERM. The second start is quick.
    """
    if ctx.invoked_subcommand is not None:
        ctx.obj = directory
        return
    try:
        with stop_signals(), only_one(directory):
            why = _run(directory, port_base, as_json=as_json)
    except Stopped:
        return
    except StageError as wrong:
        raise click.ClickException(str(wrong)) from wrong
    raise click.ClickException(why)


@demo.command()
@click.argument("user_code")
@click.option("--as", "account", type=click.Choice(list(GROUPS)), required=True, help="Whose sign-in this is.")
@click.pass_obj
def confirm(directory: Path, user_code: str, account: str) -> None:
    """Confirm the code that a waiting `gw login` shows, in place of a person with a browser."""
    try:
        confirm_code(directory, user_code, account)
    except StageError as wrong:
        raise click.ClickException(str(wrong)) from wrong
    click.echo(f"Confirmed as {account}.")


@demo.command()
@click.argument("code")
@click.option("--as", "account", type=click.Choice(list(GROUPS)), required=True, help="Whose passkey this is.")
@click.pass_obj
def touch(directory: Path, code: str, account: str) -> None:
    """Answer a waiting `gw step-up` or `gw login --passkey` with an account's passkey, in place of a person."""
    try:
        keys.answer(directory, code, account)
    except StageError as wrong:
        raise click.ClickException(str(wrong)) from wrong
    click.echo(f"Answered as {account}.")


@demo.command("ci", context_settings={"ignore_unknown_options": True})
@click.argument("words", nargs=-1, required=True, type=click.UNPROCESSED, metavar="VERB TARGET… [OPTIONS]")
@click.pass_obj
def play_job(directory: Path, words: tuple[str, ...]) -> None:
    """Play a CI job that runs docs/ci/gw-deploy.sh with these words, by the identity of a GitHub job on main."""
    try:
        status = pipeline.play(directory, words)
    except StageError as wrong:
        raise click.ClickException(str(wrong)) from wrong
    click.get_current_context().exit(status)


def _run(directory: Path, port_base: int | None, *, as_json: bool) -> str:
    stage = Stage(directory, port_base)
    try:
        ready = stage.start()
        if as_json:
            click.echo(json.dumps(ready.as_json()))
        else:
            click.echo(journeys.text(directory, ready))
        return run(stage)
    finally:
        say("Stopping …")
        stage.stop()
