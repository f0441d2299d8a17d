from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from gateway.__main__ import SERVER_COMMANDS
from gateway.edges.cli.main import make_cli

PAGE = (Path(__file__).parents[2] / "docs" / "cli.md").read_text()
OFTEN = {"--json", "--help"}  # said once, at the top of the page


def commands() -> Iterator[tuple[str, click.Command]]:
    waiting: list[tuple[str, click.Command]] = [("gw", make_cli(SERVER_COMMANDS))]
    while waiting:
        path, command = waiting.pop()
        yield path, command
        if isinstance(command, click.Group):
            context = click.Context(command)
            for name in command.list_commands(context):
                found = command.get_command(context, name)
                assert found is not None
                waiting.append((f"{path} {name}", found))


EVERY = dict(commands())


@pytest.mark.parametrize("path", sorted(EVERY))
def test_every_command_is_documented(path: str) -> None:
    assert f"`{path}`" in PAGE or f"`{path} " in PAGE


@pytest.mark.parametrize("path", sorted(EVERY))
def test_every_option_is_documented_with_its_command(path: str) -> None:
    lines = [line for line in PAGE.splitlines() if f"`{path}`" in line or f"`{path} " in line]
    for option in EVERY[path].params:
        for name in (*option.opts, *option.secondary_opts) if isinstance(option, click.Option) else ():
            if name.startswith("--") and name not in OFTEN:
                assert any(name in line for line in lines), f"{path} {name}"


@pytest.mark.parametrize("path", sorted(EVERY))
def test_every_command_can_explain_itself_and_speak_json(path: str) -> None:
    command = EVERY[path]
    assert command.help
    exempt = {
        "gw completion",
        "gw psql",
        "gw ssh",
        "gw demo confirm",
        "gw demo ci",
        "gw demo touch",
    }  # their output is not a value
    if not isinstance(command, click.Group) and path not in exempt:
        assert any("--json" in option.opts for option in command.params), path


def test_the_page_names_no_command_that_is_gone() -> None:
    import re

    for found in set(re.findall(r"`(gw(?: [a-z][a-z-]*)+)", PAGE)):
        assert any(found == path or found.startswith(f"{path} ") for path in EVERY if path != "gw"), found
